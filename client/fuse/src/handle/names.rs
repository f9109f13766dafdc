//! Names: finding, making, removing, moving.

use std::time::Duration;

use client::volume::{Found, Looked, NewInode};
use client_fuse_dev::{Delivery, Op, Reply};
use proto::Errno;

use super::{Context, done};
use crate::convert;

pub async fn handle(context: Context, op: Op, reply: Reply) {
    let volume = &context.served.volume;
    let parent = match context.gfid() {
        Ok(gfid) => gfid,
        Err(errno) => return reply.err(errno.0),
    };
    match op {
        Op::Lookup { name } => match volume.lookup(parent, &name).await {
            Ok(Looked::Entry { found, name_ttl }) => entry(&context, Ok((found, name_ttl)), reply),
            Ok(Looked::Absent { name_ttl }) => reply.negative_entry(name_ttl),
            Err(errno) => reply.err(errno.0),
        },
        Op::Symlink { name, target } => {
            let new =
                NewInode { uid: uid(&context), gid: gid(&context), ..NewInode::symlink(&target) };
            entry(&context, volume.create(parent, &name, new).await, reply);
        }
        Op::MkNod { name, mode, rdev, umask } => {
            let new =
                NewInode { rdev: convert::rdev_from_kernel(rdev), ..new(&context, mode, umask) };
            entry(&context, volume.create(parent, &name, new).await, reply);
        }
        Op::MkDir { name, mode, umask } => {
            let new = new(&context, mode & 0o7777 | libc::S_IFDIR, umask);
            entry(&context, volume.create(parent, &name, new).await, reply);
        }
        Op::Unlink { name } => done(volume.unlink(parent, &name).await, reply),
        Op::RmDir { name } => done(volume.rmdir(parent, &name).await, reply),
        Op::Rename { name, new_parent, new_name, flags } => {
            let renamed = match context.served.nodes.gfid(new_parent) {
                Ok(to) => volume.rename((parent, &name), (to, &new_name), flags).await,
                Err(errno) => Err(errno),
            };
            done(renamed, reply);
        }
        Op::Link { inode, new_name } => {
            let linked = match context.served.nodes.gfid(inode) {
                Ok(gfid) => volume.link(gfid, parent, &new_name).await,
                Err(errno) => Err(errno),
            };
            entry(&context, linked, reply);
        }
        _ => reply.err(libc::ENOSYS),
    }
}

fn uid(context: &Context) -> u32 {
    context.header.uid
}

fn gid(context: &Context) -> u32 {
    context.header.gid
}

pub fn new(context: &Context, mode: u32, umask: u32) -> NewInode {
    NewInode { mode, umask, uid: uid(context), gid: gid(context), ..NewInode::default() }
}

/// Answers with an entry, which counts as a lookup if the kernel takes it.
fn entry(context: &Context, made: Result<(Found, Duration), Errno>, reply: Reply) {
    let nodes = &context.served.nodes;
    let remembered = made.and_then(|(found, ttl)| {
        nodes.remember(found.attr.gfid).map(|id| (id, convert::entry(id, &found, ttl)))
    });
    match remembered {
        Ok((id, entry)) => {
            if reply.entry(&entry) == Delivery::Lost {
                nodes.forget(id, 1);
            }
        }
        Err(errno) => reply.err(errno.0),
    }
}
