//! Programs that people run on a file system, on the mount; afterwards mount and bricks agree.
//!
//! `BRICK_FULL=1` takes a tree of 10 000 files and 300 MB, otherwise a tenth of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use integration::cluster::{Cluster, Spec};
use integration::material;
use integration::mount::Mount;
use integration::need::Need;
use integration::run;
use integration::sys::shell;
use integration::tree::{self, Xattrs};

/// For one program on a whole tree, on a slow machine.
const LIMIT: Duration = Duration::from_secs(900);

struct Stage {
    mount: Mount,
    cluster: Cluster,
}

impl Stage {
    fn set(label: &'static str) -> Result<Self> {
        let mib = if material::is_full() { 3072 } else { 768 };
        let mut cluster = Cluster::with_volume(Spec { disk_mib: mib, ..Spec::new(label) })?;
        let mount = cluster.mount(0, "gv0", "")?;
        Ok(Self { mount, cluster })
    }

    fn on(&self, name: &str) -> PathBuf {
        self.mount.point().join(name)
    }

    fn beside(&self, name: &str) -> PathBuf {
        self.cluster.path().join(name)
    }

    /// Mount and each brick's own tree agree, and the bricks among themselves to the last xattr.
    fn compare_bricks(&self) -> Result<()> {
        let entries = self.cluster.demand_equal_bricks("gv0")?;
        for brick in self.cluster.brick_dirs("gv0") {
            let seen = tree::same(self.mount.point(), &brick, Xattrs::Visible)?;
            ensure!(seen == entries, "the mount shows {seen} of {entries} entries");
        }
        println!("{entries} entries agree on the mount and on each brick");
        Ok(())
    }

    fn end(mut self) -> Result<()> {
        self.compare_bricks()?;
        // And once more through a new mount, which has nothing in its caches.
        self.mount.unmount()?;
        self.mount.again()?;
        self.compare_bricks()?;
        self.mount.unmount()?;
        self.cluster.passed();
        Ok(())
    }
}

fn test(name: &str, programs: &[&'static str], body: fn() -> Result<()>) {
    let mut needs = vec![Need::Root, Need::Xfs, Need::Fuse];
    needs.extend(programs.iter().map(|p| Need::Program(p)));
    run::test(name, &needs, body);
}

fn timed(what: &str, dir: &Path, script: &str) -> Result<String> {
    let start = Instant::now();
    let out = shell(dir, script, LIMIT)?;
    println!("{what}: {:.1} s", start.elapsed().as_secs_f64());
    Ok(out)
}

#[test]
fn a_source_tree_is_unpacked_copied_and_synced() {
    test("a_source_tree", &["tar", "rsync", "find", "cp"], || {
        let stage = Stage::set("tree")?;
        let source = stage.beside("source");
        let made = material::make(&source)?;
        println!("source tree: {} files, {} MB", made.files, made.bytes >> 20);
        let (beside, mount) = (stage.beside(""), stage.mount.point().to_owned());
        shell(&beside, "tar -cf source.tar --xattrs -C source .", LIMIT)?;
        timed("tar -x", &mount, "mkdir t && tar -xpf ../source.tar --xattrs -C t")?;
        tree::same(&source, &stage.on("t"), Xattrs::All)?;
        let count = timed("find", &mount, "find t -type f | wc -l")?;
        let want = shell(&beside, "find source -type f | wc -l", LIMIT)?;
        ensure!(count == want, "find saw {count} of {want} files");
        timed("cp -a", &mount, "cp -a t c")?;
        tree::same(&source, &stage.on("c"), Xattrs::All)?;
        timed("rsync -aHAX", &mount, "rsync -aHAX ../source/ r/")?;
        tree::same(&source, &stage.on("r"), Xattrs::All)?;
        let left = timed("rsync -c", &mount, "rsync -aHAXnci --delete ../source/ r/")?;
        ensure!(left.trim().is_empty(), "rsync found differences:\n{left}");
        timed("tar -d", &mount, "tar -df ../source.tar -C c")?;
        timed("tar -c", &mount, "tar -cf packed.tar t && tar -df packed.tar && rm packed.tar")?;
        timed("rm -r", &mount, "rm -r c r && ! test -e c")?;
        stage.end()
    });
}

#[test]
fn git_clones_works_and_checks_clean() {
    test("git_clones", &["git"], || {
        let stage = Stage::set("git")?;
        let repository = "git init -q origin && cd origin
            git config user.email a@example.org && git config user.name a
            for n in 1 2 3 4 5; do
                mkdir -p d$n
                for f in $(seq 60); do seq $n $((f * 97)) > d$n/f$f; done
                git add . && git commit -qm \"commit $n\"
            done
            git branch side HEAD~2";
        shell(&stage.beside(""), repository, LIMIT)?;
        let mount = stage.mount.point().to_owned();
        timed("git clone", &mount, "git clone -q --no-hardlinks ../origin work")?;
        let work = stage.on("work");
        timed("git fsck", &work, "git fsck --full --strict && test -z \"$(git status -s)\"")?;
        let change = "git config user.email a@example.org && git config user.name a
            git checkout -q -b side origin/side && echo more >> d1/f1 && git commit -qam more
            git checkout -q - && git merge -q -m merged side && git gc -q
            git fsck --full --strict && test -z \"$(git status -s)\"";
        timed("git merge and gc", &work, change)?;
        fs::remove_dir_all(stage.on("work"))?;
        timed("git init on the mount", &mount, repository)?;
        stage.end()
    });
}

#[test]
fn a_database_stays_whole() {
    test("a_database", &["sqlite3"], || {
        let stage = Stage::set("sqlite")?;
        let mount = stage.mount.point().to_owned();
        for mode in ["delete", "truncate", "wal"] {
            let script = format!(
                "sqlite3 {mode}.db >/dev/null <<'END'
PRAGMA journal_mode={mode};
CREATE TABLE t(id INTEGER PRIMARY KEY, word TEXT, sum INTEGER);
CREATE INDEX by_word ON t(word);
BEGIN;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<20000)
INSERT INTO t SELECT i, hex(randomblob(20)), i*i FROM n;
COMMIT;
UPDATE t SET word = word || 'x' WHERE id % 3 = 0;
DELETE FROM t WHERE id % 5 = 0;
VACUUM;
END
                for n in $(seq 20); do sqlite3 {mode}.db \"INSERT INTO t(word) VALUES('$n')\"; done
                test \"$(sqlite3 {mode}.db 'PRAGMA integrity_check')\" = ok
                test \"$(sqlite3 {mode}.db 'SELECT count(*) FROM t')\" = 16020"
            );
            timed(&format!("sqlite3, journal {mode}"), &mount, &script)?;
        }
        let two = "for w in 1 2 3; do (for n in $(seq 15); do
                sqlite3 -cmd '.timeout 60000' wal.db \"INSERT INTO t(word) VALUES('$w-$n')\"
            done) & done; wait
            test \"$(sqlite3 wal.db 'SELECT count(*) FROM t')\" = 16065
            test \"$(sqlite3 wal.db 'PRAGMA integrity_check')\" = ok";
        timed("three writers", &mount, two)?;
        stage.end()
    });
}
