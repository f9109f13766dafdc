//! Makes the kernel forget, on threads of their own: these messages wait for locks that requests
//! under way hold, and for dirty pages that come back as requests.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use client::layer::Boxed;
use client::volume::KernelCaches;
use client_fuse_dev::Notifier;
use proto::Gfid;
use tokio::sync::oneshot;

use crate::nodes::Nodes;

/// Threads for names and for inodes each: one that waits for a lock holds back few others.
const THREADS: usize = 4;

enum Job {
    Names { parent: u64, names: Vec<Box<[u8]>>, done: oneshot::Sender<()> },
    Inode { id: u64, done: oneshot::Sender<()> },
}

/// The kernel's caches as the volume knows them.
pub struct Kernel {
    nodes: Arc<Nodes>,
    // Apart, so that a directory's lock keeps no pages from being written back. Unbounded, but
    // each job belongs to a lease that is being recalled.
    names: Mutex<Sender<Job>>,
    inodes: Mutex<Sender<Job>>,
}

impl Kernel {
    /// # Errors
    /// A thread cannot be started.
    pub fn start(nodes: Arc<Nodes>, notifier: &Notifier) -> io::Result<Kernel> {
        let names = Mutex::new(workers("forget-names", notifier)?);
        let inodes = Mutex::new(workers("forget-inode", notifier)?);
        Ok(Kernel { nodes, names, inodes })
    }
}

fn workers(name: &str, notifier: &Notifier) -> io::Result<Sender<Job>> {
    let (sender, jobs) = channel();
    let jobs = Arc::new(Mutex::new(jobs));
    for _ in 0..THREADS {
        let (notifier, jobs) = (notifier.clone(), jobs.clone());
        let builder = std::thread::Builder::new().name(name.into());
        builder.spawn(move || work(&notifier, &jobs))?;
    }
    Ok(sender)
}

fn work(notifier: &Notifier, jobs: &Mutex<Receiver<Job>>) {
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let (told, done) = match job {
            Ok(Job::Names { parent, names, done }) => {
                // Nobody waits any more once the kernel's own time for them has run out.
                let mut wanted = names.iter().take_while(|_| !done.is_closed());
                let told = wanted.try_for_each(|name| {
                    // Asked again at the next use, with mounts and open directories below it
                    // left in place: most recalled names have not changed.
                    notifier.expire_entry(parent, name).map(|_| ())
                });
                (told, done)
            }
            Ok(Job::Inode { id, done }) => (notifier.inval_inode(id, 0, 0).map(|_| ()), done),
            Err(_) => return,
        };
        if let Err(error) = told {
            tracing::warn!(%error, "the kernel did not take a message");
        }
        let _ = done.send(());
    }
}

impl KernelCaches for Kernel {
    fn forget_names(&self, dir: Gfid, names: Vec<Box<[u8]>>) -> Boxed<'_, ()> {
        let Some(parent) = self.nodes.known(dir) else { return Box::pin(async {}) };
        let (done, finished) = oneshot::channel();
        send(&self.names, Job::Names { parent, names, done });
        Box::pin(async { finished.await.unwrap_or(()) })
    }

    fn forget_inode(&self, gfid: Gfid) -> Boxed<'_, ()> {
        let Some(id) = self.nodes.known(gfid) else { return Box::pin(async {}) };
        let (done, finished) = oneshot::channel();
        send(&self.inodes, Job::Inode { id, done });
        Box::pin(async { finished.await.unwrap_or(()) })
    }
}

fn send(to: &Mutex<Sender<Job>>, job: Job) {
    // Fails only when the threads have ended, with the mount.
    let _ = to.lock().unwrap_or_else(PoisonError::into_inner).send(job);
}
