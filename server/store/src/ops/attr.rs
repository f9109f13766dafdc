//! Setattr: owner, mode, size, times.

use proto::attr::Kind;
use proto::error::Errno;
use proto::fop::{Answer, Call, Return, Setattr, Touch};

use crate::node::Node;
use crate::store::{Ctx, Store};

impl Store {
    pub(crate) fn setattr(&mut self, a: &Setattr, call: &Call, ctx: &Ctx) -> Result<Return, Errno> {
        let mut node = self.node(a.gfid)?;
        let set = &a.set;
        if let Some(size) = set.size {
            self.resize(&node, size, ctx)?;
            node.rec.modified(call.stamp);
        }
        if a.kill_privileges {
            self.kill_privileges(&node)?;
        }
        if set.uid.is_some() || set.gid.is_some() || set.mode.is_some() {
            let stat = self.stat(&node)?;
            if set.mode.is_some() && node.kind == Kind::Symlink {
                return Err(Errno::EOPNOTSUPP);
            }
            let mode = set.mode.unwrap_or(stat.mode);
            self.own(&node, set.uid.unwrap_or(stat.uid), set.gid.unwrap_or(stat.gid), mode)?;
        }
        if let Some(atime) = set.atime {
            node.rec.atime = atime;
        }
        if let Some(mtime) = set.mtime {
            node.rec.set_mtime(mtime, call.stamp);
        }
        node.rec.changed(call.stamp);
        self.save(&node)?;
        Ok(Answer::Attr(self.attr(&node)?).into())
    }

    /// Truncates; the bytes between the two sizes are logged as changed, because a joiner that
    /// missed a cut followed by a growth must not keep what stood there.
    fn resize(&mut self, node: &Node, size: u64, ctx: &Ctx) -> Result<(), Errno> {
        match node.kind {
            Kind::File => {}
            Kind::Directory => return Err(Errno::EISDIR),
            _ => return Err(Errno::EINVAL),
        }
        let old = self.stat(node)?.size;
        if old != size {
            let (start, end) = (old.min(size), old.max(size));
            self.log(ctx.interval, &[Touch::Range { gfid: node.rec.gfid, start, end }])?;
        }
        self.disk.truncate(node.fd(), size)
    }
}
