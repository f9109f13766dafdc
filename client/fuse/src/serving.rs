//! Threads between the kernel and a volume.
//!
//! Each has its own channel to the kernel and a current-thread runtime. A request is tried at
//! once on the thread that read it; only one that must wait becomes a task there.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use client::volume::Volume;
use client_fuse_dev::{
    Channel, InitConfig, InitFlags, InterruptTable, MountOptions, Session, mount,
};
use futures_util::poll;
use proto::Gfid;
use tokio::task::JoinSet;

use crate::forget::Kernel;
use crate::handle::handle;
use crate::handles::Handles;
use crate::nodes::Nodes;

/// How long a worker looks for the next request before it sleeps: waking it costs as much.
const SPIN: Duration = Duration::from_micros(50);

/// What all handlers share.
pub struct Served {
    pub volume: Arc<Volume>,
    pub nodes: Arc<Nodes>,
    pub handles: Handles,
    pub interrupts: InterruptTable,
}

/// A mount that is being served.
pub struct Serving {
    session: Session,
    served: Arc<Served>,
    workers: Vec<JoinHandle<io::Result<()>>>,
}

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Fuse(#[from] client_fuse_dev::Error),
    #[error("starting threads: {0}")]
    Threads(#[from] io::Error),
}

impl Serving {
    /// Mounts `root` of the volume at `path` and serves it with `threads` threads.
    ///
    /// # Errors
    /// The kernel refuses, or no thread can be started.
    pub fn start(
        volume: Arc<Volume>,
        root: Gfid,
        path: &Path,
        options: &MountOptions,
        threads: usize,
    ) -> Result<Serving, ServeError> {
        let mut session = mount(options, path)?;
        // Lookups of ".." would need parents, which an inode does not know.
        let wanted = InitFlags::WANTED.without(InitFlags::EXPORT_SUPPORT);
        session.init(&InitConfig { wanted, ..InitConfig::default() })?;
        let nodes = Arc::new(Nodes::new(root));
        let kernel = Kernel::start(nodes.clone(), &session.notifier()?)?;
        volume.attach_kernel(Arc::new(kernel));
        let served = Arc::new(Served {
            volume,
            nodes,
            handles: Handles::default(),
            interrupts: InterruptTable::new(),
        });
        let mut workers = Vec::new();
        for number in 0..threads.clamp(1, client::transport::shard::WORKERS_MAX) {
            let (channel, served) = (session.clone_channel()?, served.clone());
            let builder = std::thread::Builder::new().name(format!("mount-{number}"));
            workers.push(builder.spawn(move || work(number, channel, &served))?);
        }
        Ok(Serving { session, served, workers })
    }

    /// Waits until the mount has ended: unmounted here or from outside.
    pub fn wait(&mut self) {
        for worker in self.workers.drain(..) {
            match worker.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(%error, "a worker ended early"),
                Err(_) => tracing::error!("a worker panicked"),
            }
        }
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.workers.iter().all(JoinHandle::is_finished)
    }

    /// Unmounts, lazily when files are open.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn unmount(&self) -> Result<(), client_fuse_dev::Error> {
        match self.session.unmount() {
            Err(client_fuse_dev::Error::Busy(_)) => self.session.unmount_lazy(),
            other => other,
        }
    }

    /// After the end: writes back and closes what is still open.
    pub async fn finish(&self) {
        self.served.volume.flush_all().await;
        for file in self.served.handles.drain() {
            self.served.volume.release(&file).await;
        }
    }
}

fn work(number: usize, channel: Channel, served: &Arc<Served>) -> io::Result<()> {
    client::transport::shard::set_worker(number);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut channel = channel.into_async()?;
        let mut waiting = JoinSet::new();
        while let Some(request) = channel.fetch_polling(SPIN).await? {
            let mut handling = Box::pin(handle(served.clone(), request));
            if poll!(handling.as_mut()).is_pending() {
                waiting.spawn(handling);
            }
            while waiting.try_join_next().is_some() {}
        }
        while waiting.join_next().await.is_some() {}
        // Flushes that were begun here would be cut off with this runtime.
        served.volume.flush_all().await;
        Ok(())
    })
}
