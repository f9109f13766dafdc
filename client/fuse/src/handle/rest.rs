//! Attributes, xattrs, locks, and the rest.

use bytes::Bytes;
use client::volume::{LockAsk, LockOwner, Span};
use client_fuse_dev::{FileLock, Lock, LockKind, Op, ROOT_NODE, Reply};
use proto::{Errno, Gfid};

use super::{Context, done, root};
use crate::convert;

pub async fn handle(context: Context, op: Op, reply: Reply) {
    match op {
        Op::Forget { nlookup } => {
            context.served.nodes.forget(context.header.nodeid, nlookup);
            reply.none();
        }
        Op::BatchForget(list) => {
            list.iter().for_each(|f| context.served.nodes.forget(f.nodeid, f.nlookup));
            reply.none();
        }
        Op::Interrupt { unique } => {
            context.served.interrupts.interrupt(unique);
            reply.none();
        }
        Op::Destroy => reply.ok(),
        Op::SyncFs => {
            context.served.volume.flush_all().await;
            reply.ok();
        }
        // An unnamed file would need a name to be placed; programs fall back to a named one.
        Op::TmpFile(_) => reply.err(libc::EOPNOTSUPP),
        // The kernel copies by itself then, and does not ask again.
        Op::CopyFileRange(_) | Op::Statx { .. } | Op::Access { .. } | Op::Unsupported { .. } => {
            reply.err(libc::ENOSYS);
        }
        other => match context.gfid() {
            Ok(gfid) => inode(context, gfid, other, reply).await,
            Err(errno) => reply.err(errno.0),
        },
    }
}

async fn inode(context: Context, gfid: Gfid, op: Op, reply: Reply) {
    let volume = &context.served.volume;
    match op {
        Op::GetAttr { .. } => {
            let found = match context.header.nodeid {
                ROOT_NODE => root::getattr(&context, gfid).await,
                _ => volume.getattr(gfid).await,
            };
            match found {
                Ok(found) => reply.attr(&convert::file_attr(&found.attr), found.attr_ttl),
                Err(errno) => reply.err(errno.0),
            }
        }
        Op::SetAttr(set) => match volume.setattr(gfid, convert::set_attributes(&set)).await {
            Ok(found) => reply.attr(&convert::file_attr(&found.attr), found.attr_ttl),
            Err(errno) => reply.err(errno.0),
        },
        Op::ReadLink => match volume.readlink(gfid).await {
            Ok(target) => reply.data(&[&target]),
            Err(errno) => reply.err(errno.0),
        },
        Op::StatFs => match volume.statfs(gfid).await {
            Ok(space) => reply.statfs(&convert::stat_fs(&space)),
            Err(errno) => reply.err(errno.0),
        },
        Op::GetXattr { name, size } => match volume.getxattr(gfid, &name).await {
            Ok(value) => reply.xattr(size, &value),
            Err(errno) => reply.err(errno.0),
        },
        Op::ListXattr { size } => match volume.listxattr(gfid).await {
            Ok(names) => reply.xattr(size, &joined(&names)),
            Err(errno) => reply.err(errno.0),
        },
        Op::SetXattr(set) => {
            let value = Bytes::from(set.value);
            done(volume.setxattr(gfid, &set.name, value, set.flags).await, reply);
        }
        Op::RemoveXattr { name } => done(volume.removexattr(gfid, &name).await, reply),
        Op::GetLk(lock) => get_lock(&context, gfid, &lock, reply).await,
        Op::SetLk(lock) => done(volume.set_lock(ask(gfid, &lock)).await, reply),
        Op::SetLkW(lock) => {
            let signal = context.served.interrupts.register(reply.unique());
            let locked = volume.wait_lock(ask(gfid, &lock), signal.interrupted()).await;
            done(locked, reply);
        }
        _ => reply.err(libc::ENOSYS),
    }
}

fn joined(names: &[Bytes]) -> Vec<u8> {
    names.iter().flat_map(|name| name.iter().copied().chain([0])).collect()
}

fn ask(gfid: Gfid, lock: &Lock) -> LockAsk {
    let FileLock { start, end, kind, pid } = lock.lock;
    let span = match lock.flock {
        true => Span::ALL,
        // Inclusive in the kernel, and i64::MAX means "to the end".
        false if end >= i64::MAX as u64 => Span { start, end: u64::MAX },
        false => Span { start, end: end + 1 },
    };
    let kind = match kind {
        LockKind::Unlock => 0,
        LockKind::Read => 1,
        LockKind::Write => 2,
    };
    LockAsk { gfid, by: LockOwner { owner: lock.owner, pid }, span, kind, flock: lock.flock }
}

async fn get_lock(context: &Context, gfid: Gfid, lock: &Lock, reply: Reply) {
    let conflict: Result<_, Errno> = context.served.volume.test_lock(ask(gfid, lock)).await;
    match conflict {
        Ok(None) => reply.lock(&FileLock { kind: LockKind::Unlock, ..lock.lock }),
        Ok(Some(held)) => {
            let kind = if held.kind == 2 { LockKind::Write } else { LockKind::Read };
            let end = if held.end == u64::MAX { i64::MAX as u64 } else { held.end - 1 };
            reply.lock(&FileLock { start: held.start, end, kind, pid: held.pid });
        }
        Err(errno) => reply.err(errno.0),
    }
}
