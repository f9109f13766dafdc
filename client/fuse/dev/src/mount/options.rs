//! Mount options, and how the kernel and the helper want them.

use std::fmt::Write as _;
use std::os::fd::RawFd;

use rustix::mount::MountFlags;

use crate::error::{Error, Result};

/// How to mount. The flags are false for the defaults of mount(8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOptions {
    /// Shown as the mounted device, `n1:/VOL`.
    pub source: String,
    /// Shown as the type, behind `fuse.`.
    pub subtype: String,
    /// Users other than the one who mounts may use it. Without root the host must permit it
    /// (`user_allow_other` in /etc/fuse.conf); the helper's refusal says so.
    pub allow_other: bool,
    /// The kernel checks permissions by mode, owner and ACL.
    pub default_permissions: bool,
    /// No changes.
    pub read_only: bool,
    /// suid and sgid bits have no effect.
    pub nosuid: bool,
    /// Device files cannot be opened.
    pub nodev: bool,
    /// Nothing can be executed.
    pub noexec: bool,
    /// Reading does not change the access time.
    pub noatime: bool,
}

impl MountOptions {
    /// The options of a shared mount: everybody may use it and the kernel checks permissions.
    pub fn new(source: impl Into<String>, subtype: impl Into<String>) -> Self {
        Self {
            source: source.into(),
            subtype: subtype.into(),
            allow_other: true,
            default_permissions: true,
            read_only: false,
            nosuid: false,
            nodev: false,
            noexec: false,
            noatime: false,
        }
    }

    /// Applies one word of a `-o` list; false when it is none of ours. Later words win.
    #[must_use]
    pub fn apply(&mut self, option: &str) -> bool {
        match option.split_once('=').unwrap_or((option, "")) {
            ("ro", "") => self.read_only = true,
            ("rw", "") => self.read_only = false,
            ("nosuid", "") => self.nosuid = true,
            ("suid", "") => self.nosuid = false,
            ("nodev", "") => self.nodev = true,
            ("dev", "") => self.nodev = false,
            ("noexec", "") => self.noexec = true,
            ("exec", "") => self.noexec = false,
            ("noatime", "") => self.noatime = true,
            ("atime" | "relatime", "") => self.noatime = false,
            ("defaults", "") => self.apply_defaults(),
            ("allow_other", "") => self.allow_other = true,
            ("default_permissions", "") => self.default_permissions = true,
            ("fsname", source) if !source.is_empty() => self.source = source.to_owned(),
            ("subtype", subtype) if !subtype.is_empty() => self.subtype = subtype.to_owned(),
            _ => return false,
        }
        true
    }

    fn apply_defaults(&mut self) {
        (self.read_only, self.nosuid, self.nodev, self.noexec) = (false, false, false, false);
    }

    pub(super) fn check(&self) -> Result<()> {
        for text in [&self.source, &self.subtype] {
            if text.is_empty() || text.contains(['\0', '\n']) {
                return Err(Error::Option(text.clone()));
            }
        }
        Ok(())
    }

    /// The words that both the kernel and the helper take.
    fn access_words(&self) -> Vec<&'static str> {
        let words =
            [(self.allow_other, "allow_other"), (self.default_permissions, "default_permissions")];
        words.into_iter().filter_map(|(on, word)| on.then_some(word)).collect()
    }

    /// The data argument of `mount(2)`.
    pub(super) fn kernel_data(&self, fd: RawFd, root_mode: u32, uid: u32, gid: u32) -> String {
        let kind = root_mode & libc::S_IFMT;
        let mut data = format!("fd={fd},rootmode={kind:o},user_id={uid},group_id={gid}");
        for word in self.access_words() {
            write!(data, ",{word}").expect("writing to a string cannot fail");
        }
        data
    }

    pub(super) fn kernel_flags(&self) -> MountFlags {
        let flags = [
            (self.read_only, MountFlags::RDONLY),
            (self.nosuid, MountFlags::NOSUID),
            (self.nodev, MountFlags::NODEV),
            (self.noexec, MountFlags::NOEXEC),
            (self.noatime, MountFlags::NOATIME),
        ];
        flags.into_iter().filter_map(|(on, flag)| on.then_some(flag)).collect()
    }

    /// The `-o` list of the helper, in which a comma inside a value is escaped.
    pub(super) fn helper_options(&self) -> String {
        let escape = |text: &str| text.replace('\\', "\\\\").replace(',', "\\,");
        let mut words = vec![
            format!("fsname={}", escape(&self.source)),
            format!("subtype={}", escape(&self.subtype)),
        ];
        words.extend(self.access_words().into_iter().map(str::to_owned));
        let flags = [
            (self.read_only, "ro"),
            (self.nosuid, "nosuid"),
            (self.nodev, "nodev"),
            (self.noexec, "noexec"),
            (self.noatime, "noatime"),
        ];
        words.extend(flags.into_iter().filter(|(on, _)| *on).map(|(_, word)| word.to_owned()));
        words.join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_fstab_are_understood() {
        let mut options = MountOptions::new("n1:/V", "brick");
        for word in "ro,nosuid,nodev,noexec,noatime,suid,rw".split(',') {
            assert!(options.apply(word), "{word}");
        }
        assert!(!options.apply("log-level=debug") && !options.apply("ro=1"));
        assert!(!options.nosuid && !options.read_only && options.noexec && options.noatime);
        assert_eq!(
            options.kernel_flags(),
            MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::NOATIME
        );
    }

    #[test]
    fn kernel_and_helper_get_their_own_form() {
        let options = MountOptions::new("n1,n2:/V", "brick");
        assert_eq!(
            options.kernel_data(7, 0o40755, 0, 0),
            "fd=7,rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions"
        );
        assert_eq!(
            options.helper_options(),
            "fsname=n1\\,n2:/V,subtype=brick,allow_other,default_permissions"
        );
        assert!(MountOptions::new("a\nb", "brick").check().is_err());
    }
}
