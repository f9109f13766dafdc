//! The words of mount(8): `mount.brick SRC DIR [-nvsf] [-o opt,…]`.

use std::path::PathBuf;

use client_fuse_dev::MountOptions;

/// Words that mean something to mount(8) or systemd only.
const IGNORED: &[&str] = &[
    "_netdev",
    "auto",
    "noauto",
    "nofail",
    "user",
    "nouser",
    "users",
    "owner",
    "group",
    "async",
    "diratime",
    "nodiratime",
    "relatime",
    "norelatime",
    "strictatime",
    "lazytime",
    "nolazytime",
    "mand",
    "nomand",
    "silent",
    "loud",
    "iversion",
    "noiversion",
];
/// Most worker threads: more than any kernel queue feeds.
const THREADS_MAX: usize = 64;

pub const USAGE: &str =
    "usage: mount.brick HOST[,HOST…]:/VOLUME[/DIR] MOUNTPOINT [-nvsf] [-o OPTION,…]
  options: ro, rw, noatime, nosuid, nodev, noexec, allow_other, default_permissions,
    backup-volfile-servers=HOST:HOST…, credential=FILE, socket=PATH, threads=N,
    log-level=error|warn|info|debug|trace, log-file=PATH, fg";

/// What to mount, and how.
#[derive(Clone, Debug)]
pub struct Options {
    pub source: Source,
    pub dir: PathBuf,
    pub mount: MountOptions,
    pub credential: Option<PathBuf>,
    pub socket: Option<PathBuf>,
    /// 0: by the number of processors.
    pub threads: usize,
    pub log_level: String,
    pub log_file: Option<PathBuf>,
    pub foreground: bool,
}

/// `n1,n2:/VOL/some/dir`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    pub servers: Vec<String>,
    pub volume: String,
    /// Path inside the volume without slashes at its ends; empty for all of it.
    pub subdir: String,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadWords {
    #[error("{0}")]
    Usage(&'static str),
    /// Asked for: no mistake.
    #[error("{0}")]
    Help(&'static str),
    #[error("source '{0}' is not of the form HOST[,HOST…]:/VOLUME[/DIR]")]
    Source(String),
    #[error("unknown mount option '{0}'; see mount.brick --help")]
    Unknown(String),
    #[error("mount option {option}: {problem}")]
    Value { option: &'static str, problem: String },
}

impl Source {
    fn parse(text: &str) -> Result<Source, BadWords> {
        let bad = || BadWords::Source(text.to_owned());
        let (servers, path) = text.split_once(":/").ok_or_else(bad)?;
        let servers: Vec<String> = servers.split(',').map(str::to_owned).collect();
        let path = path.trim_matches('/');
        let (volume, subdir) = path.split_once('/').unwrap_or((path, ""));
        let plain = |name: &str| !name.is_empty() && !name.contains(char::is_whitespace);
        if !plain(volume) || !servers.iter().all(|s| plain(s)) {
            return Err(bad());
        }
        let subdir = subdir.trim_matches('/').to_owned();
        Ok(Source { servers, volume: volume.to_owned(), subdir })
    }
}

impl Options {
    /// # Errors
    /// Words that mount.brick does not know; `Usage` for too few or too many.
    pub fn parse(words: impl IntoIterator<Item = String>) -> Result<Options, BadWords> {
        let mut places = Vec::new();
        let mut lists = Vec::new();
        let mut foreground = false;
        let mut verbose = false;
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "-o" => lists.push(words.next().ok_or(BadWords::Usage(USAGE))?),
                "-t" | "-N" => drop(words.next()),
                "-h" | "--help" => return Err(BadWords::Help(USAGE)),
                flags if flags.starts_with('-') && flags.len() > 1 => {
                    for flag in flags[1..].chars() {
                        match flag {
                            'f' => foreground = true,
                            'v' => verbose = true,
                            'n' | 's' => {}
                            _ => return Err(BadWords::Usage(USAGE)),
                        }
                    }
                }
                _ => places.push(word),
            }
        }
        let [source, dir] = places.try_into().map_err(|_| BadWords::Usage(USAGE))?;
        let mut options = Options {
            mount: MountOptions::new(source.clone(), "brick"),
            source: Source::parse(&source)?,
            dir: dir.into(),
            credential: None,
            socket: None,
            threads: 0,
            log_level: if verbose { "debug" } else { "info" }.into(),
            log_file: None,
            foreground,
        };
        for word in lists.iter().flat_map(|list| list.split(',')).filter(|w| !w.is_empty()) {
            options.apply(word)?;
        }
        Ok(options)
    }

    fn apply(&mut self, word: &str) -> Result<(), BadWords> {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        match (name, value) {
            ("fg", "") => self.foreground = true,
            ("backup-volfile-servers" | "backup-volfile-server", servers)
                if !servers.is_empty() =>
            {
                self.source.servers.extend(servers.split(':').map(str::to_owned));
            }
            ("credential", path) if !path.is_empty() => self.credential = Some(path.into()),
            ("socket", path) if !path.is_empty() => self.socket = Some(path.into()),
            ("log-file", path) if !path.is_empty() => self.log_file = Some(path.into()),
            ("log-level", level) => self.log_level = log_level(level)?,
            ("threads", count) => self.threads = threads(count)?,
            ("op-timeout", _) => {
                let problem = "it belongs to the volume; use 'brick volume set VOLUME \
                               client.op-timeout SECONDS'";
                return Err(BadWords::Value { option: "op-timeout", problem: problem.into() });
            }
            _ if IGNORED.contains(&name) || name.starts_with("x-") || name == "comment" => {}
            _ if self.mount.apply(word) => {}
            _ => return Err(BadWords::Unknown(word.to_owned())),
        }
        Ok(())
    }
}

fn log_level(level: &str) -> Result<String, BadWords> {
    let level = level.to_ascii_lowercase();
    match level.as_str() {
        "error" | "warn" | "info" | "debug" | "trace" => Ok(level),
        "warning" => Ok("warn".into()),
        _ => Err(BadWords::Value {
            option: "log-level",
            problem: format!("'{level}' is none of error, warn, info, debug, trace"),
        }),
    }
}

fn threads(count: &str) -> Result<usize, BadWords> {
    match count.parse() {
        Ok(count) if (1..=THREADS_MAX).contains(&count) => Ok(count),
        _ => Err(BadWords::Value {
            option: "threads",
            problem: format!("'{count}' is no number from 1 to {THREADS_MAX}"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, BadWords> {
        Options::parse(line.split(' ').map(str::to_owned))
    }

    #[test]
    fn line_of_mount_8_is_understood() {
        let options = parse(
            "n1,n2:/gv0/a/b/ /mnt -n -o rw,_netdev,noatime,x-systemd.automount,nofail,threads=3,\
             backup-volfile-servers=n3:n4,log-level=WARNING",
        )
        .unwrap();
        assert_eq!(options.source.servers, ["n1", "n2", "n3", "n4"]);
        assert_eq!((&options.source.volume[..], &options.source.subdir[..]), ("gv0", "a/b"));
        assert_eq!((options.threads, &options.log_level[..]), (3, "warn"));
        assert!(options.mount.noatime && !options.mount.read_only && !options.foreground);
        assert_eq!(options.mount.source, "n1,n2:/gv0/a/b/");
        assert!(parse("n1:/v /mnt -o ro,fg").unwrap().mount.read_only);
        assert!(parse("[fd00::1]:/v /mnt -f").unwrap().foreground);
    }

    #[test]
    fn what_is_not_understood_is_named() {
        let unknown = parse("n1:/v /mnt -o ro,volumes=2").unwrap_err();
        assert_eq!(unknown, BadWords::Unknown("volumes=2".into()));
        for bad in ["n1:v /mnt", "/v /mnt", ":/v /mnt", "n1:/ /mnt"] {
            assert!(matches!(parse(bad), Err(BadWords::Source(_))), "{bad}");
        }
        for bad in ["n1:/v", "n1:/v /mnt /more", "n1:/v /mnt -q", "n1:/v /mnt -o"] {
            assert!(matches!(parse(bad), Err(BadWords::Usage(_))), "{bad}");
        }
        assert!(matches!(parse("n1:/v /m -o threads=0"), Err(BadWords::Value { .. })));
        assert!(matches!(parse("n1:/v /m -o op-timeout=3"), Err(BadWords::Value { .. })));
    }
}
