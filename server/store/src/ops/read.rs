//! Lookup, attributes, symlink targets, holes.

use bytes::Bytes;
use proto::attr::{Attr, Kind};
use proto::error::Errno;
use proto::fop::{Answer, Entry, Lookup, Readlink, Return, Seek, SeekAnswer, Value};
use proto::ids::Gfid;

use crate::disk::At;
use crate::node::{Node, Under};
use crate::plan::ReadPlan;
use crate::record::Record;
use crate::store::Store;

impl Store {
    pub(crate) fn lookup(&mut self, a: &Lookup) -> Result<Return, Errno> {
        let dir = self.dir(a.parent)?;
        let Under::Name(rec) = self.under(&dir, &a.name)? else { return Err(Errno::ENOENT) };
        let attr = rec.attr(&self.disk.stat(At::Name(dir.fd(), &a.name))?);
        let payload = self.lookup_data(&dir, a, &rec, &attr)?;
        let with_data = payload.is_some();
        let entry = Entry { attr, parent: None, with_data };
        let payload = payload.unwrap_or_default();
        Ok(Return { answer: Answer::Entry(entry), payload, grants: Vec::new() })
    }

    /// A small file's data, if it is in the page cache: a lookup does not wait for the disk.
    fn lookup_data(
        &mut self,
        dir: &Node,
        a: &Lookup,
        rec: &Record,
        attr: &Attr,
    ) -> Result<Option<Bytes>, Errno> {
        let fits = attr.kind() == Kind::File && attr.size <= a.data_bytes_max.into();
        if a.data_bytes_max == 0 || !fits {
            return Ok(None);
        }
        if attr.size == 0 {
            return Ok(Some(Bytes::new()));
        }
        self.open_under(dir, &a.name, rec)?;
        match self.plan_read(rec.gfid, 0, a.data_bytes_max)? {
            ReadPlan::Done(read) if read.payload.len() as u64 == attr.size => {
                Ok(Some(read.payload))
            }
            _ => Ok(None),
        }
    }

    /// Attributes of an inode.
    ///
    /// # Errors
    /// ESTALE when this brick has no such inode.
    pub fn getattr(&mut self, gfid: Gfid) -> Result<Attr, Errno> {
        let node = self.node(gfid)?;
        self.attr(&node)
    }

    pub(crate) fn readlink(&mut self, a: &Readlink) -> Result<Return, Errno> {
        let node = self.node(a.gfid)?;
        if node.kind != Kind::Symlink {
            return Err(Errno::EINVAL);
        }
        let bytes = self.disk.read_link(node.fd())?.into();
        Ok(Answer::Value(Value { bytes }).into())
    }

    pub(crate) fn seek(&mut self, a: &Seek) -> Result<Return, Errno> {
        let node = self.node(a.gfid)?;
        if node.kind != Kind::File {
            return Err(Errno::EINVAL);
        }
        let offset = self.disk.seek(node.fd(), a.offset, a.hole)?;
        Ok(Answer::Seek(SeekAnswer { offset }).into())
    }
}
