//! Network namespaces of our own: one per node and client, on one bridge, cut by nftables.
//!
//! Nothing outside these namespaces is touched: interfaces are made inside them, addresses are
//! 10.77.0.0/24 inside them, and two runs may use the same addresses at once.

use std::ffi::OsStr;
use std::process::Command;

use anyhow::{Result, bail};

use crate::sys;

const PREFIX: &str = "bwit-";

/// A bridge in a namespace of its own, and the namespaces attached to it.
#[derive(Debug)]
pub struct Network {
    hub: String,
    spaces: Vec<Space>,
}

/// One attached namespace.
#[derive(Debug, Clone)]
pub struct Space {
    pub name: String,
    pub address: String,
}

impl Network {
    /// `count` namespaces that all reach each other.
    ///
    /// # Errors
    /// The kernel or `ip` refuses.
    pub fn new(tag: &str, count: usize) -> Result<Self> {
        let hub = format!("{PREFIX}{tag}-hub");
        let mut network = Self { hub: hub.clone(), spaces: Vec::new() };
        ip(&["netns", "add", &hub])?;
        ip(&["-n", &hub, "link", "add", "br0", "type", "bridge"])?;
        ip(&["-n", &hub, "link", "set", "br0", "up"])?;
        for k in 0..count {
            let space = Space {
                name: format!("{PREFIX}{tag}-{k}"),
                address: format!("10.77.0.{}", 11 + k),
            };
            network.attach(&space, k)?;
            network.spaces.push(space);
        }
        Ok(network)
    }

    fn attach(&self, space: &Space, k: usize) -> Result<()> {
        let (hub, name, port) = (self.hub.as_str(), space.name.as_str(), format!("p{k}"));
        ip(&["netns", "add", name])?;
        ip(&[
            "link", "add", "e0", "netns", name, "type", "veth", "peer", "name", &port, "netns", hub,
        ])?;
        ip(&["-n", hub, "link", "set", &port, "master", "br0", "up"])?;
        ip(&["-n", name, "addr", "add", &format!("{}/24", space.address), "dev", "e0"])?;
        ip(&["-n", name, "link", "set", "e0", "up"])?;
        ip(&["-n", name, "link", "set", "lo", "up"])?;
        let table =
            "table inet cut { \n chain in { \n type filter hook input priority 0; \n } \n }";
        nft(name, &[table])
    }

    pub fn space(&self, k: usize) -> &Space {
        &self.spaces[k]
    }

    /// Nothing from `from` arrives at `to` any more; the other way stays open.
    ///
    /// # Errors
    /// nft refuses.
    pub fn cut_one_way(&self, from: usize, to: usize) -> Result<()> {
        let source = &self.spaces[from].address;
        let rule = format!("add rule inet cut in ip saddr {source} drop");
        nft(&self.spaces[to].name, &[&rule])
    }

    /// # Errors
    /// nft refuses.
    pub fn cut(&self, a: usize, b: usize) -> Result<()> {
        self.cut_one_way(a, b)?;
        self.cut_one_way(b, a)
    }

    /// Cuts one namespace off from all others.
    ///
    /// # Errors
    /// nft refuses.
    pub fn isolate(&self, k: usize) -> Result<()> {
        (0..self.spaces.len()).filter(|other| *other != k).try_for_each(|other| self.cut(k, other))
    }

    /// Undoes every cut.
    ///
    /// # Errors
    /// nft refuses.
    pub fn join_all(&self) -> Result<()> {
        self.spaces.iter().try_for_each(|s| nft(&s.name, &["flush chain inet cut in"]))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for name in self.spaces.iter().map(|s| &s.name).chain([&self.hub]) {
            if let Err(error) = ip(&["netns", "del", name]) {
                eprintln!("{error:#}");
            }
        }
    }
}

/// A command that runs in a namespace (or here). `nsenter` and not `ip netns exec`: the latter
/// gives the command mounts of its own, in which a volume would be invisible to the test.
pub fn command(space: Option<&str>, program: &OsStr) -> Command {
    let Some(space) = space else { return Command::new(program) };
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{space}")).arg(program);
    command
}

/// Runs a function on a thread of its own inside a namespace.
///
/// # Errors
/// The namespace cannot be entered, or the function panicked.
pub fn inside<T: Send>(space: &Space, work: impl FnOnce() -> T + Send) -> Result<T> {
    let file = std::fs::File::open(format!("/run/netns/{}", space.name))?;
    let enter = || -> Result<T> {
        let kind = rustix::thread::LinkNameSpaceType::Network;
        rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), Some(kind))?;
        Ok(work())
    };
    std::thread::scope(|scope| match scope.spawn(enter).join() {
        Ok(result) => result,
        Err(_) => bail!("panicked in namespace {}", space.name),
    })
}

/// Removes namespaces whose run is gone.
pub(crate) fn sweep() {
    let Ok(entries) = std::fs::read_dir("/run/netns") else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(rest) = name.strip_prefix(PREFIX) else { continue };
        let Some(Ok(pid)) = rest.split('-').next().map(str::parse::<u32>) else { continue };
        if !std::path::Path::new(&format!("/proc/{pid}")).exists() {
            let _ = ip(&["netns", "del", &name]);
        }
    }
}

fn ip(words: &[&str]) -> Result<()> {
    sys::must("ip", words).map(drop)
}

fn nft(space: &str, words: &[&str]) -> Result<()> {
    let mut command = command(Some(space), OsStr::new("nft"));
    sys::must_within(command.args(words), sys::LIMIT).map(drop)
}
