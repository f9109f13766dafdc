//! Chooses a backend and runs a brick's thread on it.

use std::io;

use super::{BrickIo, PlainIo, UringIo};

/// Submission entries of one brick's ring: more than a brick has disk requests in flight.
const RING_ENTRIES: u32 = 512;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Backend {
    /// io_uring where the kernel lets us, else plain.
    #[default]
    Auto,
    Uring,
    Plain,
}

impl std::str::FromStr for Backend {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Backend::Auto),
            "uring" => Ok(Backend::Uring),
            "plain" => Ok(Backend::Plain),
            _ => Err(format!("unknown I/O backend '{text}' (auto, uring or plain)")),
        }
    }
}

impl Backend {
    /// What this host can run: `Auto` becomes `Uring` if a ring can be made here.
    pub fn resolve(self) -> Backend {
        match self {
            Backend::Auto if ring_builder().build(8).is_ok() => Backend::Uring,
            Backend::Auto => Backend::Plain,
            chosen => chosen,
        }
    }
}

/// The body of a brick's thread, for either backend.
pub trait Runner {
    type Output;
    fn run<I: BrickIo>(self, io: I) -> impl Future<Output = Self::Output>;
}

/// Runs `body` on the calling thread until it ends.
///
/// # Errors
/// The runtime or the ring cannot be made.
pub fn run<R: Runner>(backend: Backend, body: R) -> io::Result<R::Output> {
    match backend.resolve() {
        Backend::Uring => {
            let mut builder = tokio_uring::builder();
            builder.entries(RING_ENTRIES).uring_builder(&ring_builder());
            let runtime = tokio_uring::Runtime::new(&builder)?;
            Ok(runtime.block_on(body.run(UringIo)))
        }
        _ => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let local = tokio::task::LocalSet::new();
            Ok(local.block_on(&runtime, body.run(PlainIo)))
        }
    }
}

/// Cooperative task running saves interrupts. Never `defer_taskrun`: the runtime's driver does
/// not enter the kernel to run deferred work, and would hang.
fn ring_builder() -> io_uring::Builder {
    let mut builder = tokio_uring::uring_builder();
    builder.setup_coop_taskrun().setup_single_issuer();
    builder
}
