//! Data: write and fallocate.

use std::os::fd::BorrowedFd;

use proto::attr::Kind;
use proto::error::Errno;
use proto::fop::{Answer, Call, Fallocate, Return, Write};
use proto::ids::Gfid;

use crate::node::Node;
use crate::store::{Ctx, Store};

const CAPABILITY: &[u8] = b"security.capability";
const SET_UID: u32 = 0o4000;
const SET_GID: u32 = 0o2000;
const GROUP_EXEC: u32 = 0o010;

impl Store {
    fn data_file(&mut self, gfid: Gfid) -> Result<Node, Errno> {
        let node = self.node(gfid)?;
        match node.kind {
            Kind::File => Ok(node),
            Kind::Directory => Err(Errno::EISDIR),
            _ => Err(Errno::EINVAL),
        }
    }

    pub(crate) fn write(&mut self, a: &Write, call: &Call, ctx: &Ctx) -> Result<Return, Errno> {
        let mut node = self.data_file(a.gfid)?;
        // Where an append goes is the lead's to say, before it comes here.
        if call.payload.len() as u64 != a.len || a.append {
            return Err(Errno::EINVAL);
        }
        if a.len > 0 {
            self.write_all(node.fd(), &call.payload, a.offset)?;
            if a.kill_privileges {
                self.kill_privileges(&node)?;
            }
            node.rec.modified(call.stamp);
            self.save(&node)?;
        }
        if a.sync && !ctx.defer_sync {
            let synced = self.disk.fsync(node.fd(), true);
            self.finish_fsync(synced)?;
        }
        Ok(Answer::Attr(self.attr(&node)?).into())
    }

    pub(crate) fn write_all(
        &self,
        fd: BorrowedFd<'_>,
        mut data: &[u8],
        mut offset: u64,
    ) -> Result<(), Errno> {
        while !data.is_empty() {
            let n = self.disk.pwrite(fd, data, offset)?;
            // The kernel writes something or says why not; 0 would loop for ever.
            if n == 0 {
                return Err(Errno::EIO);
            }
            data = &data[n..];
            offset += n as u64;
        }
        Ok(())
    }

    /// What Linux does when somebody without the right writes to a privileged program: the
    /// set-user-id bit goes, set-group-id only where it means a program (with group execute).
    pub(crate) fn kill_privileges(&self, node: &Node) -> Result<(), Errno> {
        match self.disk.remove_xattr(node.at(), CAPABILITY) {
            Ok(()) | Err(Errno::ENODATA) => {}
            Err(errno) => return Err(errno),
        }
        let mode = self.stat(node)?.mode;
        let kept = without_privileges(mode);
        if kept != mode && !node.is_dir() {
            self.disk.chmod(node.at(), kept)?;
        }
        Ok(())
    }

    pub(crate) fn fallocate(&mut self, a: &Fallocate, call: &Call) -> Result<Return, Errno> {
        let mut node = self.data_file(a.gfid)?;
        self.disk.fallocate(node.fd(), a.mode, a.offset, a.len)?;
        node.rec.modified(call.stamp);
        self.save(&node)?;
        Ok(Answer::Attr(self.attr(&node)?).into())
    }
}

fn without_privileges(mode: u32) -> u32 {
    let set_gid = if mode & GROUP_EXEC != 0 { SET_GID } else { 0 };
    mode & !(SET_UID | set_gid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_gid_without_group_execute_is_no_privilege() {
        assert_eq!(without_privileges(0o6755), 0o755);
        assert_eq!(without_privileges(0o2644), 0o2644);
    }
}
