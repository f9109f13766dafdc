//! Space: how much there is, and where a file has it.

use proto::fop::{Fallocate, LeaseKey, Mode, Seek, Statfs, StatfsAnswer};
use proto::{Errno, Gfid};

use super::{File, Volume, answer, want_if_free};

/// Space of a volume or of a directory with a limit.
pub type Space = StatfsAnswer;

impl Volume {
    /// # Errors
    /// What the bricks answer.
    pub async fn statfs(&self, gfid: Gfid) -> Result<Space, Errno> {
        answer!(self.ask(Statfs { gfid }, Vec::new()).await?, Statfs)
    }

    /// As fallocate(2): allocates, punches or zeroes a range.
    ///
    /// # Errors
    /// EOPNOTSUPP for other modes, EFBIG, ENOSPC, and what the bricks answer.
    pub async fn fallocate(
        &self,
        file: &File,
        mode: u32,
        offset: u64,
        len: u64,
    ) -> Result<(), Errno> {
        if !matches!(mode, 0 | 1 | 3 | 16 | 17) {
            return Err(Errno::EOPNOTSUPP);
        }
        let end = offset.checked_add(len).ok_or(Errno::EFBIG)?;
        if end > proto::fop::FILE_BYTES_MAX {
            return Err(Errno::EFBIG);
        }
        let node = &file.node;
        self.flush_node(node).await;
        let before = self.before(self.below.set_of_inode(node.gfid), LeaseKey::Inode(node.gfid));
        let done = self.ask(Fallocate { gfid: node.gfid, mode, offset, len }, Vec::new()).await;
        self.drop_data(&mut node.lock());
        let attr = answer!(done?, Attr)?;
        self.learn_attr_of(node, attr, before.taken(), &[]);
        Ok(())
    }

    /// The next data (or hole) at or after `offset`.
    ///
    /// # Errors
    /// ENXIO when there is none, and what the bricks answer.
    pub async fn seek(&self, file: &File, offset: u64, hole: bool) -> Result<u64, Errno> {
        self.flush_node(&file.node).await;
        let gfid = file.gfid();
        let wish = want_if_free(LeaseKey::Inode(gfid), Mode::Shared);
        let done = self.ask(Seek { gfid, offset, hole }, vec![wish]).await?;
        Ok(answer!(done, Seek)?.offset)
    }
}
