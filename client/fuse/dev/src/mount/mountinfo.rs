//! What is mounted where, from `/proc/self/mountinfo`.
//!
//! Asking the file system itself (`stat`) would send it a request, and wait for ever if nobody
//! serves it any more.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

pub(super) fn read() -> io::Result<Vec<u8>> {
    std::fs::read("/proc/self/mountinfo")
}

/// `major:minor` of the mount on top at `path`. Later lines were mounted later.
pub(super) fn topmost(table: &[u8], path: &Path) -> Option<String> {
    let wanted = path.as_os_str().as_bytes();
    let matching = |line: &&[u8]| field(line, 4).is_some_and(|point| unescape(point) == wanted);
    let line = table.split(|byte| *byte == b'\n').rfind(matching)?;
    Some(String::from_utf8_lossy(field(line, 2)?).into_owned())
}

fn field(line: &[u8], index: usize) -> Option<&[u8]> {
    line.split(|byte| *byte == b' ').nth(index)
}

/// Space, tab, line break and backslash are written as three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        match (first, octal(tail)) {
            (b'\\', Some(byte)) => {
                plain.push(byte);
                rest = &tail[3..];
            }
            _ => {
                plain.push(*first);
                rest = tail;
            }
        }
    }
    plain
}

fn octal(digits: &[u8]) -> Option<u8> {
    let text = std::str::from_utf8(digits.get(..3)?).ok()?;
    u8::from_str_radix(text, 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"22 1 8:1 / / rw - xfs /dev/sda1 rw\n\
        40 22 0:51 / /mnt/a\\040b rw - fuse.brick n1:/V rw\n\
        41 22 0:52 / /mnt/c rw - fuse.brick n1:/V rw\n\
        42 41 0:53 / /mnt/c rw - tmpfs x rw\n";

    #[test]
    fn topmost_mount_of_a_path_is_found() {
        assert_eq!(topmost(TABLE, Path::new("/mnt/c")).as_deref(), Some("0:53"));
        assert_eq!(topmost(TABLE, Path::new("/mnt/a b")).as_deref(), Some("0:51"));
        assert_eq!(topmost(TABLE, Path::new("/mnt")), None);
    }

    #[test]
    fn stray_backslashes_stay() {
        assert_eq!(unescape(b"a\\13"), b"a\\13");
        assert_eq!(unescape(b"a\\134b\\999"), b"a\\b\\999");
    }
}
