//! POSIX access control lists as the kernel keeps them in xattrs.
//!
//! The kernel checks them; what is ours is that a new inode inherits its directory's default
//! list and that permission bits follow an access list.

use bytes::Bytes;

pub(super) const ACCESS: &[u8] = b"system.posix_acl_access";
pub(super) const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// One line of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Line {
    tag: u16,
    permissions: u16,
    id: u32,
}

/// A list with its three compulsory lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Acl {
    lines: Vec<Line>,
}

impl Acl {
    /// `None` for what is no valid list.
    pub fn parse(value: &[u8]) -> Option<Acl> {
        let (version, rest) = value.split_first_chunk::<4>()?;
        if u32::from_le_bytes(*version) != VERSION || rest.len() % 8 != 0 {
            return None;
        }
        let lines: Vec<Line> = rest.chunks_exact(8).map(Line::parse).collect();
        let has = |tag| lines.iter().filter(|l| l.tag == tag).count();
        let named = has(USER) + has(GROUP) > 0;
        let known =
            has(USER_OBJ) + has(USER) + has(GROUP_OBJ) + has(GROUP) + has(MASK) + has(OTHER);
        let ok = known == lines.len()
            && [USER_OBJ, GROUP_OBJ, OTHER].iter().all(|t| has(*t) == 1)
            && has(MASK) <= 1
            && (!named || has(MASK) == 1)
            && lines.iter().all(|l| l.permissions <= 7);
        ok.then_some(Acl { lines })
    }

    pub fn encode(&self) -> Bytes {
        let mut value = VERSION.to_le_bytes().to_vec();
        for line in &self.lines {
            value.extend_from_slice(&line.tag.to_le_bytes());
            value.extend_from_slice(&line.permissions.to_le_bytes());
            value.extend_from_slice(&line.id.to_le_bytes());
        }
        value.into()
    }

    fn line(&mut self, tag: u16) -> Option<&mut Line> {
        self.lines.iter_mut().find(|l| l.tag == tag)
    }

    /// Whether permission bits say the same.
    fn is_plain(&self) -> bool {
        self.lines.len() == 3
    }

    /// The permission bits that go with the list.
    pub fn permissions(&self) -> u32 {
        let of = |tag| self.lines.iter().find(|l| l.tag == tag).map(|l| u32::from(l.permissions));
        let group = of(MASK).or(of(GROUP_OBJ)).unwrap_or(0);
        of(USER_OBJ).unwrap_or(0) << 6 | group << 3 | of(OTHER).unwrap_or(0)
    }

    /// What an inode created with `mode` in a directory with this default list gets: its
    /// permission bits, and its access list unless the bits say it all.
    pub fn inherited(&self, mode: u32) -> (u32, Option<Bytes>) {
        let mut acl = self.clone();
        let group = if acl.line(MASK).is_some() { MASK } else { GROUP_OBJ };
        for (tag, shift) in [(USER_OBJ, 6), (group, 3), (OTHER, 0)] {
            if let Some(line) = acl.line(tag) {
                line.permissions &= (mode >> shift & 7) as u16;
            }
        }
        let access = (!acl.is_plain()).then(|| acl.encode());
        (acl.permissions(), access)
    }

    /// How an access list is kept: its permission bits, and the list itself unless they say
    /// it all.
    pub fn access(&self) -> (u32, Option<Bytes>) {
        (self.permissions(), (!self.is_plain()).then(|| self.encode()))
    }
}

impl Line {
    fn parse(bytes: &[u8]) -> Line {
        let half = |i| u16::from_le_bytes([bytes[i], bytes[i + 1]]);
        let id = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
        Line { tag: half(0), permissions: half(2), id }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(lines: &[(u16, u16, u32)]) -> Acl {
        let lines = lines.iter().map(|&(tag, permissions, id)| Line { tag, permissions, id });
        Acl { lines: lines.collect() }
    }

    const NOBODY: u32 = u32::MAX;

    #[test]
    fn plain_default_list_replaces_the_umask() {
        let list = acl(&[(USER_OBJ, 7, NOBODY), (GROUP_OBJ, 5, NOBODY), (OTHER, 4, NOBODY)]);
        assert_eq!(list.inherited(0o666), (0o644, None));
        assert_eq!(Acl::parse(&list.encode()), Some(list));
    }

    #[test]
    fn named_entries_are_inherited_with_the_mask_cut_to_the_mode() {
        let list = acl(&[
            (USER_OBJ, 7, NOBODY),
            (USER, 6, 1000),
            (GROUP_OBJ, 5, NOBODY),
            (MASK, 7, NOBODY),
            (OTHER, 0, NOBODY),
        ]);
        let (permissions, access) = list.inherited(0o640);
        assert_eq!(permissions, 0o640);
        let access = Acl::parse(&access.expect("named entries")).expect("valid");
        assert_eq!(access.permissions(), 0o640);
        assert_eq!(access.lines[3].permissions, 4);
    }

    #[test]
    fn malformed_lists_are_refused() {
        let no_mask = acl(&[
            (USER_OBJ, 7, NOBODY),
            (USER, 6, 1000),
            (GROUP_OBJ, 5, NOBODY),
            (OTHER, 0, NOBODY),
        ]);
        let unknown = acl(&[(USER_OBJ, 7, NOBODY), (0x40, 7, 0), (OTHER, 0, NOBODY)]);
        for bad in [&no_mask.encode()[..], &unknown.encode(), b"", b"\x02\0\0\0x", b"\x01\0\0\0"] {
            assert_eq!(Acl::parse(bad), None);
        }
    }
}
