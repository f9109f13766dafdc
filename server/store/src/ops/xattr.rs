//! Extended attributes of applications; our own are hidden and refused.

use proto::error::Errno;
use proto::fop::{
    Answer, Call, Getxattr, INTERNAL_XATTR_ERRNO, Listxattr, Names, Removexattr, Return, Setxattr,
    Value, XATTR_BYTES_MAX, XattrMsg, is_internal_xattr,
};

use crate::disk::At;
use crate::node::Node;
use crate::store::{Store, done};

/// XFS shows its ACLs to root a second time under these names.
const XFS_ACL: &[u8] = b"trusted.SGI_ACL_";
const ACLS: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];

fn is_hidden(name: &[u8]) -> bool {
    is_internal_xattr(name) || name.starts_with(XFS_ACL)
}

impl Store {
    pub(crate) fn check_xattr_name(name: &[u8]) -> Result<(), Errno> {
        if is_hidden(name) {
            return Err(INTERNAL_XATTR_ERRNO);
        }
        let spaces: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];
        let known = spaces.iter().any(|s| name.len() > s.len() && name.starts_with(s));
        if known || ACLS.contains(&name) { Ok(()) } else { Err(Errno::EOPNOTSUPP) }
    }

    pub(crate) fn getxattr(&mut self, a: &Getxattr) -> Result<Return, Errno> {
        if is_hidden(&a.name) {
            return Err(Errno::ENODATA);
        }
        let node = self.node(a.gfid)?;
        let bytes = self.xattr_value(node.at(), &a.name)?.into();
        Ok(Answer::Value(Value { bytes }).into())
    }

    fn xattr_value(&self, at: At<'_>, name: &[u8]) -> Result<Vec<u8>, Errno> {
        let mut small = [0; 1024];
        match self.disk.get_xattr(at, name, &mut small) {
            Ok(n) => return Ok(small[..n].to_vec()),
            Err(Errno::ERANGE) => {}
            Err(errno) => return Err(errno),
        }
        let mut value = vec![0; XATTR_BYTES_MAX];
        let n = self.disk.get_xattr(at, name, &mut value)?;
        value.truncate(n);
        Ok(value)
    }

    /// Names that applications see, sorted: the file system's order differs between replicas.
    fn xattr_names(&self, at: At<'_>) -> Result<Vec<Vec<u8>>, Errno> {
        let list = self.disk.list_xattr(at)?;
        let names = list.split(|b| *b == 0).filter(|n| !n.is_empty() && !is_hidden(n));
        let mut names: Vec<_> = names.map(<[u8]>::to_vec).collect();
        names.sort_unstable();
        Ok(names)
    }

    pub(crate) fn listxattr(&mut self, a: &Listxattr) -> Result<Return, Errno> {
        let node = self.node(a.gfid)?;
        let names = self.xattr_names(node.at())?.into_iter().map(Into::into).collect();
        Ok(Answer::Names(Names { names }).into())
    }

    /// All of them with values, sorted by name.
    pub(crate) fn xattrs(&self, node: &Node) -> Result<Vec<XattrMsg>, Errno> {
        let mut all = Vec::new();
        for name in self.xattr_names(node.at())? {
            let value = self.xattr_value(node.at(), &name)?.into();
            all.push(XattrMsg { name: name.into(), value });
        }
        Ok(all)
    }

    pub(crate) fn setxattr(&mut self, a: &Setxattr, call: &Call) -> Result<Return, Errno> {
        Self::check_xattr_name(&a.name)?;
        let mut node = self.node(a.gfid)?;
        match self.disk.set_xattr(node.at(), &a.name, &a.value, a.flags) {
            Err(Errno::EEXIST) if call.resend => {
                // XATTR_CREATE sent again: our own work if the value is the same.
                if self.xattr_value(node.at(), &a.name)? != a.value {
                    return Err(Errno::EEXIST);
                }
            }
            set => set?,
        }
        if let Some(mode) = a.mode {
            let now = self.stat(&node)?.mode;
            if (now ^ mode) & 0o7777 != 0 {
                self.disk.chmod(node.at(), mode)?;
            }
        }
        node.rec.changed(call.stamp);
        self.save(&node)?;
        Ok(done())
    }

    pub(crate) fn removexattr(&mut self, a: &Removexattr, call: &Call) -> Result<Return, Errno> {
        Self::check_xattr_name(&a.name)?;
        let mut node = self.node(a.gfid)?;
        match self.disk.remove_xattr(node.at(), &a.name) {
            Err(Errno::ENODATA) if call.resend => {}
            removed => removed?,
        }
        node.rec.changed(call.stamp);
        self.save(&node)?;
        Ok(done())
    }

    /// Makes the xattrs of an inode exactly these.
    pub(crate) fn equal_xattrs(&self, node: &Node, want: &[XattrMsg]) -> Result<(), Errno> {
        let have = self.xattrs(node)?;
        for x in &have {
            if !want.iter().any(|w| w.name == x.name) {
                self.disk.remove_xattr(node.at(), &x.name)?;
            }
        }
        for w in want.iter().filter(|w| !have.contains(w)) {
            Self::check_xattr_name(&w.name)?;
            self.disk.set_xattr(node.at(), &w.name, &w.value, 0)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_applications_name_spaces_are_theirs() {
        for good in ["user.a", "trusted.a", "security.capability", "system.posix_acl_access"] {
            assert_eq!(Store::check_xattr_name(good.as_bytes()), Ok(()), "{good}");
        }
        for ours in ["trusted.brick.meta", "trusted.SGI_ACL_FILE"] {
            assert_eq!(Store::check_xattr_name(ours.as_bytes()), Err(Errno::EPERM), "{ours}");
        }
        for unknown in ["user.", "system.nfs4_acl", "other"] {
            assert_eq!(Store::check_xattr_name(unknown.as_bytes()), Err(Errno::EOPNOTSUPP));
        }
    }
}
