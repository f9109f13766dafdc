//! Open directories.

use client::volume::DirItem;
use client_fuse_dev::{Delivery, DirBuffer, DirEntry, Op, OpenFlags, Read, Reply};
use proto::Errno;

use super::{Context, done};
use crate::convert;
use crate::handles::OpenDir;

/// Positions after `.` and after `..`.
const AFTER_DOT: u64 = 1;
const AFTER_DOT_DOT: u64 = 2;

pub async fn handle(context: Context, op: Op, reply: Reply) {
    let volume = &context.served.volume;
    match op {
        Op::OpenDir { .. } => {
            let scan = match context.gfid() {
                Ok(gfid) => volume.opendir(gfid).await,
                Err(errno) => Err(errno),
            };
            match scan {
                Ok(scan) => {
                    let fh = context.served.handles.add_dir(scan);
                    if reply.open(fh, OpenFlags::EMPTY) == Delivery::Lost {
                        context.served.handles.remove(fh);
                    }
                }
                Err(errno) => reply.err(errno.0),
            }
        }
        Op::ReadDir(read) => list(&context, read, false, reply).await,
        Op::ReadDirPlus(read) => list(&context, read, true, reply).await,
        Op::ReleaseDir(release) => {
            context.served.handles.remove(release.fh);
            reply.ok();
        }
        Op::FsyncDir { data_only, .. } => {
            let synced = match context.gfid() {
                Ok(gfid) => volume.fsync_inode(gfid, data_only).await,
                Err(errno) => Err(errno),
            };
            done(synced, reply);
        }
        _ => reply.err(libc::ENOSYS),
    }
}

async fn list(context: &Context, read: Read, plus: bool, reply: Reply) {
    let mut told = Vec::new();
    let listed = match context.served.handles.dir(read.fh) {
        Ok(dir) => collect(context, &mut *dir.lock().await, &read, plus, &mut told).await,
        Err(errno) => Err(errno),
    };
    let delivered = match listed {
        Ok(buffer) => reply.dir(&buffer),
        Err(errno) => {
            reply.err(errno.0);
            Delivery::Lost
        }
    };
    if delivered == Delivery::Lost {
        told.into_iter().for_each(|id| context.served.nodes.forget(id, 1));
    }
}

async fn collect(
    context: &Context,
    dir: &mut OpenDir,
    read: &Read,
    plus: bool,
    told: &mut Vec<u64>,
) -> Result<DirBuffer, Errno> {
    if read.offset != dir.at {
        dir.at = read.offset;
        dir.scan.seek(read.offset);
    }
    let mut buffer = DirBuffer::new(read.size);
    while dir.at < AFTER_DOT_DOT {
        let name: &[u8] = if dir.at == 0 { b"." } else { b".." };
        let next_offset = dir.at + AFTER_DOT;
        let ino = dir.scan.gfid().ino();
        let entry = DirEntry { ino, next_offset, mode: libc::S_IFDIR, name };
        let fits = if plus { buffer.add_plus(None, &entry) } else { buffer.add(&entry) };
        if !fits {
            return Ok(buffer);
        }
        dir.at = next_offset;
    }
    loop {
        // A page that is at hand is given out before another one is asked for.
        if dir.scan.peek().is_none() {
            if !buffer.is_empty() && dir.at > AFTER_DOT_DOT {
                return Ok(buffer);
            }
            context.served.volume.fill(&mut dir.scan, plus).await?;
        }
        let Some(item) = dir.scan.peek() else { return Ok(buffer) };
        if !add(context, dir, item, plus, &mut buffer, told)? {
            return Ok(buffer);
        }
        let item = dir.scan.take().expect("it was shown just now");
        dir.at = item.cookie;
    }
}

fn add(
    context: &Context,
    dir: &OpenDir,
    item: &DirItem,
    plus: bool,
    buffer: &mut DirBuffer,
    told: &mut Vec<u64>,
) -> Result<bool, Errno> {
    let mode = (item.kind as i32).cast_unsigned() << 12;
    let entry = DirEntry { ino: item.gfid.ino(), next_offset: item.cookie, mode, name: &item.name };
    if !plus {
        return Ok(buffer.add(&entry));
    }
    let nodes = &context.served.nodes;
    let Some((found, name_ttl)) = context.served.volume.tell_item(&dir.scan, item) else {
        return Ok(buffer.add_plus(None, &entry));
    };
    let id = nodes.remember(item.gfid)?;
    let fits = buffer.add_plus(Some(&convert::entry(id, &found, name_ttl)), &entry);
    if fits {
        told.push(id);
    } else {
        nodes.forget(id, 1);
    }
    Ok(fits)
}
