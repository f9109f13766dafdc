//! The store itself: opening, the fields all operations share, and the dispatch.

use std::cell::Cell;
use std::collections::HashSet;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use proto::error::Errno;
use proto::fop::{Answer, Call, Fop, Return, Touch};
use proto::ids::{BrickId, Gfid, VolumeId};
use rocksdb::WriteBatch;

use crate::brick::{self, Identity, NewBrick, Refused, Tree};
use crate::buffer::Pool;
use crate::changelog::ChangeLog;
use crate::crawl;
use crate::db::Db;
use crate::dir::Dirs;
use crate::disk::{At, Disk, Health, RealDisk, Watched};
use crate::facts::Facts;
use crate::lru::Lru;
use crate::node::Node;
use crate::record::{META_XATTR, Record};

/// Bounds and the disk of one store.
pub struct Config {
    /// Inodes kept open. The process's own limit (`RLIMIT_NOFILE`) must be well above the sum
    /// over all its bricks; `brickd` raises it at start.
    pub fds_max: usize,
    /// Names kept sorted in memory over all directories, about 100 bytes each.
    pub dir_entries_max: usize,
    /// Entries of the change log; beyond it the older half goes and "compare all" is said.
    pub log_entries_max: usize,
    /// Bytes kept free; 0: 1 % and at least 1 GiB, at most 5 % below 20 GiB.
    pub reserve_bytes: u64,
    /// The brick left its set for an error of its disk: nothing on it is taken for granted.
    pub distrusted: bool,
    pub disk: Box<dyn Disk>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            fds_max: 1024,
            dir_entries_max: 256 * 1024,
            log_entries_max: 1_000_000,
            reserve_bytes: 0,
            distrusted: false,
            disk: Box::new(RealDisk),
        }
    }
}

/// What the rules say about a call beside its arguments.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ctx {
    /// 10-second interval into which changes are logged now.
    pub interval: u64,
    /// The caller syncs a `Write` with `sync` itself, by `plan_fsync`.
    pub defer_sync: bool,
}

/// What was found at the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Opened {
    /// The database was lost or unreadable and has been made anew by a crawl.
    pub fresh_db: bool,
    /// The machine has started since, so unsynced changes may be gone.
    pub boot_changed: bool,
    /// The last daemon closed the store.
    pub clean: bool,
    /// The wall clock stands before the last checkpoint.
    pub clock_behind: bool,
    /// Its disk had failed: what it answered as written may not be there.
    pub distrusted: bool,
}

impl Opened {
    /// Changes of this brick may be missing on its disk or in its log.
    pub fn suspect(&self) -> bool {
        self.distrusted || self.fresh_db || (self.boot_changed && !self.clean)
    }
}

/// One brick.
pub struct Store {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) health: Arc<Health>,
    pub(crate) tree: Tree,
    pub(crate) db: Db,
    pub(crate) facts: Facts,
    pub(crate) identity: Identity,
    pub(crate) opened: Opened,
    pub(crate) nodes: Lru<Gfid, Node>,
    pub(crate) dirs: Dirs,
    pub(crate) changes: ChangeLog,
    pub(crate) stale: HashSet<(Gfid, BrickId)>,
    pub(crate) buffers: Pool,
    pub(crate) dirty: Arc<AtomicBool>,
    pub(crate) reserve_bytes: u64,
    /// Numbers things set aside, so that their names never collide within one run.
    pub(crate) lost_count: Cell<u64>,
}

/// May `path` become a brick of `volume`? (What `volume create` asks each peer first.)
///
/// # Errors
/// The reason against it, with the next step.
pub fn check(path: &Path, volume: Option<VolumeId>, force: bool) -> Result<(), Refused> {
    brick::check(&RealDisk, path, volume, force)
}

/// Which brick a directory is, if it is one.
///
/// # Errors
/// Its `.brickwork` cannot be read, in one line.
pub fn identity_of(path: &Path) -> Result<Option<Identity>, String> {
    brick::identity_of(&RealDisk, path).map_err(|e| e.to_string())
}

/// Notes in a brick's directory that it is no member of `volume` any more.
///
/// # Errors
/// It is another brick, in use, or cannot be written; in one line.
pub fn note_dropped(path: &Path, brick: BrickId, volume: &str) -> Result<(), String> {
    brick::note_dropped(&RealDisk, path, brick, volume).map_err(|e| e.to_string())
}

impl Store {
    /// Makes a new brick of a directory and opens it.
    ///
    /// # Errors
    /// The directory cannot be used.
    pub fn create(
        path: &Path,
        new: &NewBrick,
        force: bool,
        config: Config,
    ) -> Result<Store, Refused> {
        let health = Arc::new(Health::default());
        let disk: Arc<dyn Disk> = Arc::new(Watched::new(config.disk, health.clone()));
        let (tree, identity) = brick::make(&*disk, path, new, force)?;
        let failed = |errno| Refused::Disk { path: path.into(), what: "making the root", errno };
        let root = At::Fd(std::os::fd::AsFd::as_fd(&*tree.root));
        let record = Record::new(Gfid::ROOT, new.dir_buckets, new.stamp);
        disk.chown(root, 0, 0).map_err(failed)?;
        disk.chmod(root, 0o755).map_err(failed)?;
        disk.set_xattr(root, META_XATTR, &record.encode(), 0).map_err(failed)?;
        disk.set_times(root, record.atime, record.mtime).map_err(failed)?;
        let config = Config { disk: Box::new(RealDisk), ..config };
        Self::build(disk, health, tree, identity, true, &config)
    }

    /// Opens the brick in a directory.
    ///
    /// # Errors
    /// There is none, it is another one, or it cannot be used.
    pub fn open(path: &Path, brick: BrickId, config: Config) -> Result<Store, Refused> {
        let health = Arc::new(Health::default());
        let disk: Arc<dyn Disk> = Arc::new(Watched::new(config.disk, health.clone()));
        let (tree, identity) = brick::find(&*disk, path, brick)?;
        let config = Config { disk: Box::new(RealDisk), ..config };
        Self::build(disk, health, tree, identity, false, &config)
    }

    fn build(
        disk: Arc<dyn Disk>,
        health: Arc<Health>,
        tree: Tree,
        identity: Identity,
        new: bool,
        config: &Config,
    ) -> Result<Store, Refused> {
        let path = tree.path.clone();
        let failed =
            |errno| Refused::Disk { path: path.clone(), what: "opening the database", errno };
        let (db, fresh) = crawl::open_db(&*disk, &tree, &health)?;
        let (facts, mut opened) = Facts::open(&db, &*disk, tree.root.as_fd()).map_err(failed)?;
        opened.fresh_db = fresh && !new;
        opened.boot_changed &= !new;
        opened.distrusted = config.distrusted;
        let changes = if new {
            ChangeLog::begin(&db, config.log_entries_max)
        } else {
            ChangeLog::open(&db, config.log_entries_max, opened.suspect() || opened.clock_behind)
        };
        let stale = facts.stale_marks(&db).map_err(failed)?;
        let mut store = Store {
            changes: changes.map_err(failed)?,
            disk,
            health,
            tree,
            db,
            facts,
            identity,
            opened,
            nodes: Lru::new(config.fds_max.max(16)),
            dirs: Dirs::new(config.dir_entries_max),
            stale,
            buffers: Pool::default(),
            dirty: Arc::new(AtomicBool::new(true)),
            reserve_bytes: config.reserve_bytes,
            lost_count: Cell::new(0),
        };
        if store.opened.suspect() {
            store.crawl().map_err(failed)?;
        } else if !new && !store.opened.clean {
            store.set_cut_off_creates_aside().map_err(failed)?;
        }
        store.facts.started(&store.db).map_err(failed)?;
        store.root().map_err(failed)?;
        Ok(store)
    }

    /// A daemon that was killed in the middle of a create left a file without a record under its
    /// name. No operation sees it, but people who read the brick do. The log names every
    /// directory in which it can be.
    fn set_cut_off_creates_aside(&mut self) -> Result<(), Errno> {
        let since = self.last_checkpoint()?.map_or(0, |mark| mark.interval.saturating_sub(1));
        for gfid in self.changes.directories(&self.db, since)? {
            match self.dir(gfid) {
                Ok(dir) if self.set_leftovers_aside(&dir)? => {
                    tracing::info!(%gfid, "a create that was cut off is set aside");
                }
                Ok(_) | Err(Errno::ESTALE | Errno::ENOTDIR | Errno::ENOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// Ends cleanly: everything is on stable storage and the next start knows it.
    ///
    /// # Errors
    /// The last checkpoint failed; the next start treats this as a crash.
    pub fn close(mut self) -> Result<(), Errno> {
        self.nodes.clear();
        self.checkpoint_handle().run(self.changes.current())?;
        self.facts.mark_clean(&self.db)
    }

    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    pub fn opened(&self) -> Opened {
        self.opened
    }

    /// Why the brick took itself out of service; nothing is executed any more.
    pub fn failed(&self) -> Option<String> {
        self.health.failed()
    }

    pub fn health(&self) -> Arc<Health> {
        self.health.clone()
    }

    /// An error that the owner met on a descriptor of this store (on its ring).
    pub fn io_failed(&self, what: &str, errno: Errno) {
        self.health.note(what, errno);
    }

    /// Whether anything changed since the last checkpoint began.
    pub fn dirty(&self) -> bool {
        self.dirty.load(Ordering::Acquire)
    }

    /// Executes one operation.
    ///
    /// # Errors
    /// The operation's outcome; EIO, with `failed()` set, once the disk has broken; ENOSYS for
    /// operations that are not the store's.
    pub fn execute(&mut self, call: &Call, ctx: &Ctx) -> Result<Return, Errno> {
        if self.health.is_failed() {
            return Err(Errno::EIO);
        }
        let mut touches = call.fop.touches();
        // A truncation knows only here how much it cuts, and logs that itself.
        touches.retain(|t| !matches!(t, Touch::Range { end: u64::MAX, .. }));
        if !touches.is_empty() {
            self.dirty.store(true, Ordering::Release);
            self.log(ctx.interval, self.logged_before(&call.fop, &touches))?;
        }
        let result = self.dispatch(call, ctx);
        if self.health.is_failed() { Err(Errno::EIO) } else { result }
    }

    /// The inode of a create is logged together with its handle, in one write.
    #[allow(clippy::unused_self, reason = "reads better beside `log`")]
    fn logged_before<'t>(&self, fop: &Fop, touches: &'t [Touch]) -> &'t [Touch] {
        if matches!(fop, Fop::Create(_)) { &touches[..1] } else { touches }
    }

    fn dispatch(&mut self, call: &Call, ctx: &Ctx) -> Result<Return, Errno> {
        match &call.fop {
            Fop::Lookup(a) => self.lookup(a),
            Fop::Getattr(a) => self.getattr(a.gfid).map(|attr| Answer::Attr(attr).into()),
            Fop::Readlink(a) => self.readlink(a),
            Fop::Readdir(a) => self.readdir(a),
            Fop::Read(a) => self.read(a.gfid, a.offset, a.len),
            Fop::PeerRead(a) => self.read(a.gfid, a.offset, a.len),
            Fop::Getxattr(a) => self.getxattr(a),
            Fop::Listxattr(a) => self.listxattr(a),
            Fop::Statfs(_) => self.statfs().map(|s| Answer::Statfs(s).into()),
            Fop::Seek(a) => self.seek(a),
            Fop::Create(a) => self.create_inode(a, call, ctx),
            Fop::Unlink(a) => self.unlink(a, call, ctx),
            Fop::Rmdir(a) => self.rmdir(a, call),
            Fop::Rename(a) => self.rename(a, call),
            Fop::Link(a) => self.link(a, call),
            Fop::Write(a) => self.write(a, call, ctx),
            Fop::Setattr(a) => self.setattr(a, call, ctx),
            Fop::Setxattr(a) => self.setxattr(a, call),
            Fop::Removexattr(a) => self.removexattr(a, call),
            Fop::Fallocate(a) => self.fallocate(a, call),
            Fop::Fsync(a) => self.fsync(a),
            Fop::Forget(a) => self.forget(a),
            Fop::Changed(a) => self.changed(a, ctx).map(|l| Answer::ChangedList(l).into()),
            Fop::Inspect(a) => self.inspect(a),
            Fop::InspectDir(a) => self.inspect_dir(a),
            Fop::BlockSums(a) => self.plan_block_sums(a)?.run(),
            Fop::Install(a) => self.install(a, &call.payload, ctx),
            Fop::InstallData(a) => self.install_data(a, call, ctx),
            Fop::InstallName(a) => self.install_name(a, ctx),
            Fop::RemoveName(a) => self.remove_name(a, ctx),
            Fop::SweepParked(a) => self.sweep_parked(a),
            Fop::Checkpoint(_) => self.checkpoint_handle().run(ctx.interval).map(|()| done()),
            Fop::MarkStale(a) => self.mark_stale_fop(a),
            _ => Err(Errno::ENOSYS),
        }
    }

    /// Logs touches in an interval; execute does so by itself, this is for a new epoch.
    ///
    /// # Errors
    /// The database failed, and with it the brick.
    pub fn log(&mut self, interval: u64, touches: &[Touch]) -> Result<(), Errno> {
        let mut batch = WriteBatch::default();
        self.changes.add(&self.db, &mut batch, interval, touches)?;
        self.commit(batch)
    }

    pub(crate) fn commit(&mut self, batch: WriteBatch) -> Result<(), Errno> {
        let written = self.db.write(batch, false);
        if written.is_err() {
            self.changes.batch_lost();
        }
        written
    }
}

pub(crate) fn done() -> Return {
    Answer::Done(proto::fop::Done {}).into()
}

/// A store is made on one thread and handed to its brick's; its handles go anywhere.
const _: () = {
    const fn moves<T: Send>() {}
    moves::<Store>();
    moves::<crate::plan::PendingRead>();
    moves::<crate::plan::SumJob>();
    moves::<crate::checkpoint::CheckpointHandle>();
};
