use super::*;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::time::{Duration, SystemTime};

use crate::scratch::Scratch;

/// Two equal small trees with everything in them that a comparison looks at.
fn pair(scratch: &Scratch) -> (PathBuf, PathBuf) {
    let roots = (scratch.path().join("a"), scratch.path().join("b"));
    for root in [&roots.0, &roots.1] {
        fs::create_dir_all(root.join("d/.brickwork")).unwrap();
        fs::create_dir_all(root.join(PRIVATE)).unwrap();
        fs::write(root.join("d/f"), "content").unwrap();
        fs::write(root.join("d/g"), "content").unwrap();
        fs::hard_link(root.join("d/f"), root.join("z")).unwrap();
        symlink("d/f", root.join("s")).unwrap();
        for name in ["d/f", "d/g", "d", ""] {
            set_times(&root.join(name), 1_700_000_000);
        }
        set_times(&root.join("d/.brickwork"), 1_600_000_000);
        let time = rustix::fs::Timestamps {
            last_access: rustix::fs::Timespec { tv_sec: 1, tv_nsec: 0 },
            last_modification: rustix::fs::Timespec { tv_sec: 7, tv_nsec: 0 },
        };
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::utimensat(rustix::fs::CWD, root.join("s"), &time, flags).unwrap();
    }
    fs::write(roots.0.join(PRIVATE).join("log"), "may differ").unwrap();
    roots
}

fn set_times(path: &Path, seconds: u64) {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    File::open(path).unwrap().set_modified(time).unwrap();
}

/// Makes one change to the second tree and demands that it is seen, and how.
fn sees(change: impl FnOnce(&Path), word: &str) {
    let scratch = Scratch::new("tree").unwrap();
    let (a, b) = pair(&scratch);
    same(&a, &b, Xattrs::Visible).unwrap();
    change(&b);
    // Times are put back, so that only the change itself is left to be seen.
    for name in ["d", ""] {
        if word != "mtime_ns" && b.join(name).exists() {
            set_times(&b.join(name), 1_700_000_000);
        }
    }
    let error = same(&a, &b, Xattrs::Visible).unwrap_err().to_string();
    assert!(error.contains(word), "expected {word:?} in {error}");
}

#[test]
fn a_changed_byte_with_the_old_size_and_time_is_seen() {
    sees(
        |b| {
            fs::write(b.join("d/g"), "c0ntent").unwrap();
            set_times(&b.join("d/g"), 1_700_000_000);
        },
        "content",
    );
}

#[test]
fn a_missing_and_an_extra_name_are_seen() {
    sees(|b| fs::remove_file(b.join("d/g")).unwrap(), "only on the left");
    sees(|b| fs::write(b.join("d/h"), "").unwrap(), "only on the right");
}

#[test]
fn attributes_are_seen() {
    sees(
        |b| fs::set_permissions(b.join("d/g"), fs::Permissions::from_mode(0o600)).unwrap(),
        "mode",
    );
    sees(|b| set_times(&b.join("d"), 5), "mtime_ns");
}

#[test]
fn a_broken_hard_link_and_another_target_are_seen() {
    sees(
        |b| {
            fs::remove_file(b.join("z")).unwrap();
            fs::copy(b.join("d/f"), b.join("z")).unwrap();
            set_times(&b.join("z"), 1_700_000_000);
        },
        "links",
    );
    sees(
        |b| {
            fs::remove_file(b.join("s")).unwrap();
            symlink("d/g", b.join("s")).unwrap();
        },
        "target",
    );
}

#[test]
fn a_private_directory_further_down_is_not_private() {
    sees(|b| fs::remove_dir(b.join("d/.brickwork")).unwrap(), ".brickwork");
}
