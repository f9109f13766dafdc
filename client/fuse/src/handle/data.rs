//! Open files and their data.

use std::sync::Arc;

use client::volume::{File, OpenHow, WriteHow};
use client_fuse_dev::{Create, Delivery, Op, OpenFlags, Read, Release, Reply, Write};
use proto::Errno;

use super::{Context, done, names};
use crate::convert;

pub async fn handle(context: Context, op: Op, reply: Reply) {
    match op {
        Op::Open { flags, kill_suidgid } => open(context, flags, kill_suidgid, reply).await,
        Op::Read(read) => self::read(context, read, reply).await,
        Op::Write(write) => self::write(context, write, reply).await,
        Op::Flush { fh, lock_owner } => done(flush(context, fh, lock_owner).await, reply),
        Op::Release(release) => {
            self::release(&context, release).await;
            reply.ok();
        }
        Op::Fsync { fh, data_only } => {
            let synced = match context.served.handles.file(fh) {
                Ok(file) => context.served.volume.fsync(&file, data_only).await,
                Err(errno) => Err(errno),
            };
            done(synced, reply);
        }
        Op::Fallocate { fh, offset, len, mode } => {
            let allocated = match context.served.handles.file(fh) {
                Ok(file) => context.served.volume.fallocate(&file, mode, offset, len).await,
                Err(errno) => Err(errno),
            };
            done(allocated, reply);
        }
        Op::Lseek { fh, offset, whence } => match seek(&context, fh, offset, whence).await {
            Ok(at) => reply.lseek(at),
            Err(errno) => reply.err(errno.0),
        },
        _ => reply.err(libc::ENOSYS),
    }
}

/// How the kernel shall treat the open file. One that is written here bypasses its pages, so
/// that a recall finds all of them written back; one that is only read may keep those of an
/// earlier open when nothing can have changed since.
fn flags(context: &Context, file: &Arc<File>) -> OpenFlags {
    if file.how().write {
        return OpenFlags::DIRECT_IO | OpenFlags::PARALLEL_DIRECT_WRITES;
    }
    match context.served.volume.note_pages(file) {
        true => OpenFlags::KEEP_CACHE,
        false => OpenFlags::EMPTY,
    }
}

fn how(flags: u32, kill_privileges: bool) -> OpenHow {
    OpenHow { kill_privileges, ..OpenHow::from_flags(flags.cast_signed()) }
}

async fn open(context: Context, flags_raw: u32, kill: bool, reply: Reply) {
    let opened = match context.gfid() {
        Ok(gfid) => context.served.volume.open(gfid, how(flags_raw, kill)).await,
        Err(errno) => Err(errno),
    };
    let file = match opened {
        Ok(file) => file,
        Err(errno) => return reply.err(errno.0),
    };
    let flags = flags(&context, &file);
    let fh = context.served.handles.add_file(file);
    if reply.open(fh, flags) == Delivery::Lost {
        close(&context, fh).await;
    }
}

pub async fn create(context: Context, create: Create, reply: Reply) {
    let volume = &context.served.volume;
    let how = how(create.flags, create.kill_suidgid);
    let exclusive = create.flags.cast_signed() & libc::O_EXCL != 0;
    let mode = create.mode & 0o7777 | libc::S_IFREG;
    let new = names::new(&context, mode, create.umask);
    let made = match context.gfid() {
        Ok(parent) => volume.create_open(parent, &create.name, new, how, exclusive).await,
        Err(errno) => Err(errno),
    };
    let (found, name_ttl, file) = match made {
        Ok(made) => made,
        Err(errno) => return reply.err(errno.0),
    };
    let flags = flags(&context, &file);
    let fh = context.served.handles.add_file(file);
    let nodes = &context.served.nodes;
    let id = match nodes.remember(found.attr.gfid) {
        Ok(id) => id,
        Err(errno) => {
            close(&context, fh).await;
            return reply.err(errno.0);
        }
    };
    if reply.create(&convert::entry(id, &found, name_ttl), fh, flags) == Delivery::Lost {
        nodes.forget(id, 1);
        close(&context, fh).await;
    }
}

async fn close(context: &Context, fh: u64) {
    if let Some(file) = context.served.handles.remove(fh) {
        context.served.volume.release(&file).await;
    }
}

async fn read(context: Context, read: Read, reply: Reply) {
    let data = match context.served.handles.file(read.fh) {
        Ok(file) => context.served.volume.read(&file, read.offset, read.size).await,
        Err(errno) => Err(errno),
    };
    match data {
        Ok(parts) => {
            let parts: Vec<&[u8]> = parts.iter().map(|part| &part[..]).collect();
            reply.data(&parts);
        }
        Err(errno) => reply.err(errno.0),
    }
}

async fn write(context: Context, write: Write, reply: Reply) {
    let len = write.data.len() as u32;
    match try_write(&context, write).await {
        Ok(()) => reply.write(len),
        Err(errno) => reply.err(errno.0),
    }
}

async fn try_write(context: &Context, write: Write) -> Result<(), Errno> {
    let volume = &context.served.volume;
    let how = WriteHow {
        from_mapping: write.from_cache,
        kill_privileges: write.kill_suidgid,
        append: write.flags.cast_signed() & libc::O_APPEND != 0,
    };
    match context.served.handles.file(write.fh) {
        Ok(file) => {
            volume.write(&file, write.offset, write.data, how).await?;
        }
        // Mapped pages outlive the open file that they came through.
        Err(_) if write.from_cache => {
            let file = volume.open(context.gfid()?, OpenHow::writing()).await?;
            let written = volume.write(&file, write.offset, write.data, how).await;
            let closed = volume.close(file).await;
            written?;
            closed?;
        }
        Err(errno) => return Err(errno),
    }
    Ok(())
}

async fn flush(context: Context, fh: u64, lock_owner: u64) -> Result<(), Errno> {
    let volume = &context.served.volume;
    let file = context.served.handles.file(fh)?;
    let flushed = volume.flush(&file).await;
    volume.drop_locks(file.gfid(), lock_owner, false).await;
    flushed
}

async fn release(context: &Context, release: Release) {
    let Some(file) = context.served.handles.remove(release.fh) else { return };
    if release.flock_unlock {
        context.served.volume.drop_locks(file.gfid(), release.lock_owner, true).await;
    }
    context.served.volume.release(&file).await;
}

async fn seek(context: &Context, fh: u64, offset: u64, whence: u32) -> Result<u64, Errno> {
    let hole = match whence.cast_signed() {
        libc::SEEK_DATA => false,
        libc::SEEK_HOLE => true,
        _ => return Err(Errno::EINVAL),
    };
    let file = context.served.handles.file(fh)?;
    context.served.volume.seek(&file, offset, hole).await
}
