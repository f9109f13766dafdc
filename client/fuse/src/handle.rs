//! One request of the kernel.

mod data;
mod dirs;
mod names;
mod rest;
mod root;

use std::sync::Arc;

use client_fuse_dev::{Header, Op, Reply, Request};
use proto::{Errno, Gfid};

use crate::serving::Served;

/// A request's circumstances.
struct Context {
    served: Arc<Served>,
    header: Header,
}

impl Context {
    fn gfid(&self) -> Result<Gfid, Errno> {
        self.served.nodes.gfid(self.header.nodeid)
    }
}

/// Answers a request.
pub async fn handle(served: Arc<Served>, request: Request) {
    let Request { header, op, reply } = request;
    let context = Context { served, header };
    match op {
        Op::Lookup { .. }
        | Op::Symlink { .. }
        | Op::MkNod { .. }
        | Op::MkDir { .. }
        | Op::Unlink { .. }
        | Op::RmDir { .. }
        | Op::Rename { .. }
        | Op::Link { .. } => names::handle(context, op, reply).await,
        Op::Create(create) => data::create(context, create, reply).await,
        Op::Open { .. }
        | Op::Read(_)
        | Op::Write(_)
        | Op::Flush { .. }
        | Op::Release(_)
        | Op::Fsync { .. }
        | Op::Fallocate { .. }
        | Op::Lseek { .. } => data::handle(context, op, reply).await,
        Op::OpenDir { .. }
        | Op::ReadDir(_)
        | Op::ReadDirPlus(_)
        | Op::ReleaseDir(_)
        | Op::FsyncDir { .. } => dirs::handle(context, op, reply).await,
        other => rest::handle(context, other, reply).await,
    }
}

/// Answers "done", or the error.
fn done(result: Result<(), Errno>, reply: Reply) {
    match result {
        Ok(()) => reply.ok(),
        Err(errno) => reply.err(errno.0),
    }
}
