//! Reads, syncs and block sums that may wait for the disk: planned here, run by the owner on
//! its ring or on another thread, so that a slow disk does not stop the brick's thread.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use bytes::Bytes;
use proto::attr::Kind;
use proto::error::Errno;
use proto::fop::{
    Answer, BLOCK_BYTES, BlockSumList, BlockSums, Fsync, PAYLOAD_BYTES_MAX, ReadAnswer, Return,
};
use proto::ids::Gfid;
use xxhash_rust::xxh3::xxh3_64;

use crate::buffer::Buffer;
use crate::disk::Disk;
use crate::node::Node;
use crate::store::{Store, done};

/// Most blocks in one question: 1 GiB.
const SUMS_MAX: u32 = 8192;

#[allow(clippy::large_enum_variant, reason = "taken apart at once; a box would cost more")]
pub enum ReadPlan {
    /// It was all in the page cache, or beyond the end of the file.
    Done(Return),
    Pending(PendingRead),
}

/// A read that needs the disk: read into `buf.spare()` from `fd` at `offset`, call `advance`.
pub struct PendingRead {
    pub fd: Arc<OwnedFd>,
    /// Where the next byte stands in the file.
    pub offset: u64,
    pub buf: Buffer,
    /// Size of the file when the read was planned.
    size: u64,
    disk: Arc<dyn Disk>,
}

/// Descriptors to fsync (fdatasync when `data_only`), then `Store::finish_fsync`.
pub struct FsyncPlan {
    pub fds: Vec<Arc<OwnedFd>>,
    pub data_only: bool,
}

/// Block sums of a part of a file; runs on any thread.
pub struct SumJob {
    fd: Arc<OwnedFd>,
    first: u64,
    count: u32,
    size: u64,
    disk: Arc<dyn Disk>,
}

fn read_return(payload: Bytes, eof: bool) -> Return {
    Return { answer: Answer::Read(ReadAnswer { eof }), payload, grants: Vec::new() }
}

impl PendingRead {
    /// `n` bytes came; whether more are to be read. 0 is the end of the file.
    pub fn advance(&mut self, n: usize) -> bool {
        self.buf.advance(n);
        self.offset += n as u64;
        n > 0 && !self.buf.spare().is_empty() && self.offset < self.size
    }

    pub fn finish(self) -> Return {
        let eof = self.offset >= self.size;
        read_return(self.buf.freeze(), eof)
    }

    /// Waits for the disk; on any thread.
    ///
    /// # Errors
    /// The read's own.
    pub fn run(mut self) -> Result<Return, Errno> {
        loop {
            let n = self.disk.pread(self.fd.as_fd(), self.buf.spare(), self.offset)?;
            if !self.advance(n) {
                return Ok(self.finish());
            }
        }
    }
}

impl SumJob {
    /// Reads and sums; waits for the disk, on any thread.
    ///
    /// # Errors
    /// The read's own.
    pub fn run(self) -> Result<Return, Errno> {
        let mut sums = Vec::with_capacity(self.count as usize);
        let mut block = vec![0; BLOCK_BYTES as usize];
        let mut data = 0..0;
        for number in self.first..self.first + u64::from(self.count) {
            let start = number * BLOCK_BYTES;
            if start >= self.size {
                break;
            }
            if data.end <= start {
                data = self.next_data(start)?.unwrap_or(self.size..u64::MAX);
            }
            let end = (start + BLOCK_BYTES).min(self.size);
            sums.push(if data.start >= end { 0 } else { self.sum(&mut block, start, end)? });
        }
        let list = BlockSumList { sums, size: self.size };
        Ok(Answer::BlockSumList(list).into())
    }

    /// The next extent at or after `from`.
    fn next_data(&self, from: u64) -> Result<Option<std::ops::Range<u64>>, Errno> {
        match self.disk.seek(self.fd.as_fd(), from, false) {
            Ok(start) => Ok(Some(start..self.disk.seek(self.fd.as_fd(), start, true)?)),
            Err(Errno::ENXIO) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    fn sum(&self, block: &mut [u8], start: u64, end: u64) -> Result<u64, Errno> {
        let want = &mut block[..(end - start) as usize];
        let mut got = 0;
        while got < want.len() {
            match self.disk.pread(self.fd.as_fd(), &mut want[got..], start + got as u64)? {
                0 => break,
                n => got += n,
            }
        }
        Ok(xxh3_64(&want[..got]))
    }
}

impl Store {
    fn file(&mut self, gfid: Gfid) -> Result<Node, Errno> {
        let node = self.node(gfid)?;
        match node.kind {
            Kind::File => Ok(node),
            Kind::Directory => Err(Errno::EISDIR),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Reads what the page cache holds, or says what is to be read from the disk.
    ///
    /// # Errors
    /// ESTALE, EISDIR, EINVAL, or the file system's own.
    pub fn plan_read(&mut self, gfid: Gfid, offset: u64, len: u32) -> Result<ReadPlan, Errno> {
        if self.health.is_failed() {
            return Err(Errno::EIO);
        }
        let node = self.file(gfid)?;
        let size = self.stat(&node)?.size;
        let room = u64::from(len).min(size.saturating_sub(offset)).min(PAYLOAD_BYTES_MAX as u64);
        if room == 0 {
            return Ok(ReadPlan::Done(read_return(Bytes::new(), offset >= size)));
        }
        let buf = self.buffers.take(room as usize);
        let mut read = PendingRead { fd: node.fd, offset, buf, size, disk: self.disk.clone() };
        loop {
            match self.disk.pread_cached(read.fd.as_fd(), read.buf.spare(), read.offset) {
                Ok(n) if read.advance(n) => {}
                Ok(_) => return Ok(ReadPlan::Done(read.finish())),
                Err(Errno::EAGAIN | Errno::EOPNOTSUPP | Errno::EINTR) => {
                    return Ok(ReadPlan::Pending(read));
                }
                Err(errno) => return Err(errno),
            }
        }
    }

    pub(crate) fn read(&mut self, gfid: Gfid, offset: u64, len: u32) -> Result<Return, Errno> {
        match self.plan_read(gfid, offset, len)? {
            ReadPlan::Done(answer) => Ok(answer),
            ReadPlan::Pending(read) => read.run(),
        }
    }

    /// What to sync so that an inode is on stable storage.
    ///
    /// On XFS the inode's own sync suffices also for its name: the log is forced up to the
    /// inode's last change, and the change that made its name, and its parents', stands before.
    ///
    /// # Errors
    /// ESTALE, or the file system's own.
    pub fn plan_fsync(&mut self, gfid: Gfid, data_only: bool) -> Result<FsyncPlan, Errno> {
        if self.health.is_failed() {
            return Err(Errno::EIO);
        }
        let node = self.node(gfid)?;
        // Symlinks and special files have no data, and O_PATH descriptors cannot be synced.
        let syncs = matches!(node.kind, Kind::File | Kind::Directory);
        Ok(FsyncPlan { fds: if syncs { vec![node.fd] } else { Vec::new() }, data_only })
    }

    /// Takes the outcome of a planned sync. A failed one ends the brick's service: the kernel
    /// has dropped the pages' errors with it, so trying again would lie.
    ///
    /// # Errors
    /// The sync's own.
    pub fn finish_fsync(&mut self, result: Result<(), Errno>) -> Result<Return, Errno> {
        result.map(|()| done()).inspect_err(|errno| {
            self.health.poison(format!("fsync: {errno}"));
        })
    }

    pub(crate) fn fsync(&mut self, a: &Fsync) -> Result<Return, Errno> {
        let plan = self.plan_fsync(a.gfid, a.data_only)?;
        let disk = &self.disk;
        let synced = plan.fds.iter().try_for_each(|fd| disk.fsync(fd.as_fd(), plan.data_only));
        self.finish_fsync(synced)
    }

    /// Sums of blocks, to be run where waiting for the disk does no harm.
    ///
    /// # Errors
    /// ESTALE, EISDIR, EINVAL, or the file system's own.
    pub fn plan_block_sums(&mut self, a: &BlockSums) -> Result<SumJob, Errno> {
        if self.health.is_failed() {
            return Err(Errno::EIO);
        }
        let node = self.file(a.gfid)?;
        let size = self.stat(&node)?.size;
        let count = a.count.min(SUMS_MAX);
        let end = a.first.checked_add(count.into()).and_then(|n| n.checked_mul(BLOCK_BYTES));
        if end.is_none() {
            return Err(Errno::EINVAL);
        }
        Ok(SumJob { fd: node.fd, first: a.first, count, size, disk: self.disk.clone() })
    }
}
