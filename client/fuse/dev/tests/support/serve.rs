//! Worker threads: a current-thread runtime and a channel each, as the mount program has them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use client_fuse_dev::{Channel, InterruptTable, Request, Session};
use tokio::task::LocalSet;

use super::MemFs;

pub struct Workers {
    threads: Vec<JoinHandle<()>>,
    /// Requests that each worker has fetched.
    pub fetched: Vec<Arc<AtomicU64>>,
}

impl Workers {
    pub fn start(session: &Session, fs: &Arc<MemFs>, count: usize) -> Self {
        let interrupts = InterruptTable::new();
        let (mut threads, mut fetched) = (Vec::new(), Vec::new());
        for index in 0..count {
            let channel = session.clone_channel().unwrap();
            let (fs, interrupts) = (fs.clone(), interrupts.clone());
            let counter = Arc::new(AtomicU64::new(0));
            fetched.push(counter.clone());
            // Every other worker polls a little before it sleeps, so that both ways are tested.
            let spin = Duration::from_micros(if index % 2 == 1 { 50 } else { 0 });
            threads
                .push(std::thread::spawn(move || work(channel, &fs, &interrupts, &counter, spin)));
        }
        Self { threads, fetched }
    }

    /// Waits for the end of all workers: the mount must have ended.
    pub fn join(&mut self) {
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

fn work(
    channel: Channel,
    fs: &Arc<MemFs>,
    interrupts: &InterruptTable,
    fetched: &AtomicU64,
    spin: Duration,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let mut channel = channel.into_async().unwrap();
        while let Some(request) = channel.fetch_polling(spin).await.unwrap() {
            fetched.fetch_add(1, Ordering::Relaxed);
            dispatch(fs, interrupts, request);
        }
    });
}

fn dispatch(fs: &Arc<MemFs>, interrupts: &InterruptTable, request: Request) {
    let Some(waiting) = fs.handle(interrupts, request) else { return };
    // Only a blocked lock waits: it goes on as a task of this thread.
    let (fs, interrupts) = (fs.clone(), interrupts.clone());
    tokio::task::spawn_local(async move { fs.wait_for_lock(&interrupts, waiting).await });
}
