//! Operations that only newer kernels send or few programs use.

use std::time::Duration;

use client_fuse_dev::{Op, Reply, Statx, Timestamp};

use super::MemFs;
use super::memfs::State;

impl MemFs {
    pub(super) fn rarer(&self, state: &mut State, node: u64, uid: u32, op: Op, reply: Reply) {
        let mut seen = self.seen.lock().unwrap();
        match op {
            Op::Statx { .. } => {
                seen.statx += 1;
                let mask = libc::STATX_BASIC_STATS | libc::STATX_BTIME;
                let btime = Timestamp { secs: 1_000_000, nanos: 5 };
                let statx = Statx { attr: state.attr(node), mask, btime, ..Statx::default() };
                reply.statx(&statx, Duration::ZERO);
            }
            Op::TmpFile(create) => {
                seen.tmpfiles += 1;
                let child = state.add_unnamed(uid, libc::S_IFREG | (create.mode & 0o7777));
                reply.create(&state.entry(child), child, state.open_flags);
            }
            Op::Fallocate { offset, len, mode, .. } => {
                seen.fallocates.push((offset, len, mode));
                reply.ok();
            }
            Op::CopyFileRange(copy) => {
                seen.copies.push((copy.offset_in, copy.offset_out, copy.len));
                let from = usize::try_from(copy.offset_in).unwrap();
                let data =
                    state.node(node).data[from..][..usize::try_from(copy.len).unwrap()].to_vec();
                let at = usize::try_from(copy.offset_out).unwrap();
                let target = &mut state.node(copy.nodeid_out).data;
                target.resize(target.len().max(at + data.len()), 0);
                target[at..at + data.len()].copy_from_slice(&data);
                reply.copied(copy.len);
            }
            _ => reply.err(libc::ENOSYS),
        }
    }
}
