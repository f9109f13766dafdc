//! RocksDB of one brick: what can be rebuilt, the change log, and the stale marks.
//!
//! Column families: `default` (durable facts), `handles` (gfid → file handle and one name),
//! `changelog`, `stale`. Keys and values are laid out in docs/on-disk.md. Writes go to the
//! write-ahead log without a sync: they survive the daemon's death; the 5-second checkpoint
//! makes them survive the machine's.

use std::path::Path;
use std::sync::Arc;

use proto::attr::Kind;
use proto::error::Errno;
use proto::ids::Gfid;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, Options, WriteBatch,
    WriteOptions,
};

use crate::changelog::merge_deltas;
use crate::disk::{FileHandle, Health};

pub const CF_HANDLES: &str = "handles";
pub const CF_LOG: &str = "changelog";
pub const CF_STALE: &str = "stale";

/// One brick's share of memory: small, because a peer may serve dozens of bricks.
const WRITE_BUFFER_BYTES: usize = 16 << 20;
const WAL_BYTES_MAX: u64 = 48 << 20;
const BLOCK_CACHE_BYTES: usize = 8 << 20;
const OPEN_FILES_MAX: i32 = 64;

/// The database and the brick's health, which any error of it ends.
#[derive(Clone)]
pub struct Db {
    db: Arc<DB>,
    health: Arc<Health>,
}

/// Where an inode is found: its handle, and one name to fall back on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    pub kind: Kind,
    pub handle: FileHandle,
    /// NIL when no name is known (an orphan, or the known one of several links went).
    pub parent: Gfid,
    pub name: Vec<u8>,
}

fn options() -> Options {
    let mut o = Options::default();
    o.create_if_missing(true);
    o.create_missing_column_families(true);
    o.set_write_buffer_size(WRITE_BUFFER_BYTES);
    o.set_db_write_buffer_size(2 * WRITE_BUFFER_BYTES);
    o.set_max_total_wal_size(WAL_BYTES_MAX);
    o.set_max_background_jobs(1);
    o.set_max_open_files(OPEN_FILES_MAX);
    o.set_keep_log_file_num(2);
    o.set_log_level(rocksdb::LogLevel::Warn);
    o.set_compression_type(rocksdb::DBCompressionType::None);
    o
}

fn families() -> Vec<ColumnFamilyDescriptor> {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&Cache::new_lru_cache(BLOCK_CACHE_BYTES));
    table.set_bloom_filter(10.0, false);
    let mut handles = options();
    handles.set_block_based_table_factory(&table);
    let mut log = options();
    log.set_merge_operator_associative("changelog", merge_deltas);
    let mut small = options();
    small.set_write_buffer_size(1 << 20);
    vec![
        ColumnFamilyDescriptor::new("default", small.clone()),
        ColumnFamilyDescriptor::new(CF_HANDLES, handles),
        ColumnFamilyDescriptor::new(CF_LOG, log),
        ColumnFamilyDescriptor::new(CF_STALE, small),
    ]
}

impl Db {
    pub fn open(path: &Path, health: Arc<Health>) -> Result<Db, rocksdb::Error> {
        let db = DB::open_cf_descriptors(&options(), path, families())?;
        Ok(Db { db: Arc::new(db), health })
    }

    pub fn family(&self, name: &str) -> &ColumnFamily {
        self.db.cf_handle(name).expect("opened with all its families")
    }

    /// Any database error is a disk error: the brick stops.
    fn fail(&self, what: &str) -> impl Fn(rocksdb::Error) -> Errno {
        let (health, what) = (self.health.clone(), what.to_owned());
        move |error| {
            health.poison(format!("database {what}: {error}"));
            Errno::EIO
        }
    }

    pub fn write(&self, batch: WriteBatch, sync: bool) -> Result<(), Errno> {
        if batch.is_empty() {
            return Ok(());
        }
        let mut how = WriteOptions::default();
        how.set_sync(sync);
        self.db.write_opt(batch, &how).map_err(self.fail("write"))
    }

    /// Everything written so far to stable storage.
    pub fn sync(&self) -> Result<(), Errno> {
        self.db.flush_wal(true).map_err(self.fail("sync"))
    }

    pub fn fact(&self, key: &str) -> Result<Option<Vec<u8>>, Errno> {
        self.db.get(key).map_err(self.fail("read"))
    }

    pub fn put_fact(&self, key: &str, value: &[u8], sync: bool) -> Result<(), Errno> {
        let mut batch = WriteBatch::default();
        batch.put(key, value);
        self.write(batch, sync)
    }

    pub fn place(&self, gfid: Gfid) -> Result<Option<Place>, Errno> {
        let bytes =
            self.db.get_pinned_cf(self.family(CF_HANDLES), gfid.0).map_err(self.fail("read"))?;
        Ok(bytes.and_then(|b| Place::decode(&b)))
    }

    pub fn put_place(&self, batch: &mut WriteBatch, gfid: Gfid, place: &Place) {
        batch.put_cf(self.family(CF_HANDLES), gfid.0, place.encode());
    }

    pub fn delete_place(&self, batch: &mut WriteBatch, gfid: Gfid) {
        batch.delete_cf(self.family(CF_HANDLES), gfid.0);
    }

    pub fn has(&self, family: &str, key: &[u8]) -> Result<bool, Errno> {
        let found = self.db.get_pinned_cf(self.family(family), key).map_err(self.fail("read"))?;
        Ok(found.is_some())
    }

    /// Keys and values from `from` on, in key order, until `visit` says stop.
    pub fn scan(
        &self,
        family: &str,
        from: &[u8],
        mut visit: impl FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), Errno> {
        let mut rows = self.db.raw_iterator_cf(self.family(family));
        rows.seek(from);
        while let Some((key, value)) = rows.item() {
            if !visit(key, value) {
                break;
            }
            rows.next();
        }
        rows.status().map_err(self.fail("scan"))
    }
}

impl Place {
    /// kind u8, handle type i32, handle length u8, handle, parent gfid, name to the end.
    pub fn encode(&self) -> Vec<u8> {
        let len = u8::try_from(self.handle.bytes.len()).expect("at most 128 bytes");
        let mut out = Vec::with_capacity(22 + self.handle.bytes.len() + self.name.len());
        out.push(self.kind as u8);
        out.extend_from_slice(&self.handle.kind.to_le_bytes());
        out.push(len);
        out.extend_from_slice(&self.handle.bytes);
        out.extend_from_slice(&self.parent.0);
        out.extend_from_slice(&self.name);
        out
    }

    pub fn decode(bytes: &[u8]) -> Option<Place> {
        let (head, rest) = bytes.split_at_checked(6)?;
        let (handle, rest) = rest.split_at_checked(usize::from(head[5]))?;
        let (parent, name) = rest.split_at_checked(16)?;
        Some(Place {
            kind: Kind::try_from(i32::from(head[0])).ok()?,
            handle: FileHandle {
                kind: i32::from_le_bytes(head[1..5].try_into().ok()?),
                bytes: handle.to_vec(),
            },
            parent: Gfid(parent.try_into().ok()?),
            name: name.to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_round_trips_and_torn_ones_are_refused() {
        let place = Place {
            kind: Kind::Symlink,
            handle: FileHandle { kind: 0x81, bytes: vec![1, 2, 3, 4, 5, 6, 7, 8] },
            parent: Gfid::ROOT,
            name: b"name".to_vec(),
        };
        let bytes = place.encode();
        assert_eq!(Place::decode(&bytes), Some(place));
        assert_eq!(Place::decode(&bytes[..25]), None);
        assert_eq!(Place::decode(&[]), None);
    }
}
