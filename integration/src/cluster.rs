//! Several nodes that form one pool, each on an XFS disk of its own.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::mount::{Mount, Request};
use crate::netns::Network;
use crate::node::{Node, tail};
use crate::scratch::Scratch;
use crate::sys::{Answer, Poll, wait_until};
use crate::xfs::Xfs;

/// All peers see each other within this time of the last probe.
const POOL_MAX: Duration = Duration::from_secs(30);
/// Below the scratch folder: what lets the test's mounts in.
pub const CLIENT_TOKEN: &str = "client.token";

/// What a test wants.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    pub label: &'static str,
    pub nodes: usize,
    pub disk_mib: u64,
    /// Namespaces instead of loopback addresses; one more is made for a client.
    pub namespaces: bool,
    /// So many of the nodes, the last ones, are witnesses: they have no bricks.
    pub witnesses: usize,
}

impl Spec {
    pub fn new(label: &'static str) -> Self {
        Self { label, nodes: 3, disk_mib: 512, namespaces: false, witnesses: 0 }
    }
}

/// Running daemons. Fields are dropped in order: daemons first, then disks, network, folder.
#[derive(Debug)]
pub struct Cluster {
    pub nodes: Vec<Node>,
    pub disks: Vec<Xfs>,
    pub network: Option<Network>,
    scratch: Scratch,
    witnesses: usize,
    mounts: usize,
    passed: bool,
}

impl Cluster {
    /// Starts the daemons; no pool yet.
    ///
    /// # Errors
    /// Any part cannot be made; what was made is removed.
    pub fn start(spec: Spec) -> Result<Self> {
        let scratch = Scratch::new(spec.label)?;
        let network = match spec.namespaces {
            true => Some(Network::new(scratch.tag(), spec.nodes + 1)?),
            false => None,
        };
        let key = scratch.path().join("join.key");
        Node::make_join_key(&key)?;
        let mut cluster = Self {
            nodes: Vec::new(),
            disks: Vec::new(),
            network,
            scratch,
            witnesses: spec.witnesses,
            mounts: 0,
            passed: false,
        };
        for k in 0..spec.nodes {
            let (host, space) = cluster.place(k);
            let dir = cluster.scratch.path().join(format!("node{}", k + 1));
            let node = Node::new(&host, &dir, space, &key)?;
            if k >= spec.nodes - spec.witnesses {
                node.make_witness()?;
            }
            let image = cluster.scratch.images().join(format!("disk{}.img", k + 1));
            cluster.disks.push(Xfs::make(&image, &node.disk(), spec.disk_mib)?);
            cluster.nodes.push(node);
        }
        for node in &mut cluster.nodes {
            node.start()?;
        }
        Ok(cluster)
    }

    /// Nodes and disks that are there already; no daemon runs yet.
    pub fn of_parts(scratch: Scratch, nodes: Vec<Node>, disks: Vec<Xfs>) -> Self {
        Self { nodes, disks, network: None, scratch, witnesses: 0, mounts: 0, passed: false }
    }

    /// How many nodes hold bricks: the first ones.
    pub fn storage(&self) -> usize {
        self.nodes.len() - self.witnesses
    }

    /// Starts all daemons at once: after a stop of all of them none is ready without the others.
    ///
    /// # Errors
    /// A daemon does not start.
    pub fn start_all(&mut self) -> Result<()> {
        self.nodes.iter_mut().try_for_each(Node::spawn)?;
        self.nodes.iter_mut().try_for_each(Node::wait_ready)
    }

    /// The disks of a pool whose daemons have stopped.
    pub fn into_disks(mut self) -> Vec<Xfs> {
        self.passed = true;
        std::mem::take(&mut self.disks)
    }

    /// A pool with a started volume `gv0` that has one brick on each node.
    ///
    /// # Errors
    /// As the single steps.
    pub fn with_volume(spec: Spec) -> Result<Self> {
        let cluster = Self::start(spec)?;
        cluster.form_pool()?;
        cluster.make_volume("gv0")?;
        Ok(cluster)
    }

    /// Loopback addresses are taken from the run's own number: 127.a.b.11 and so on.
    fn place(&self, k: usize) -> (String, Option<String>) {
        if let Some(network) = &self.network {
            let space = network.space(k);
            return (space.address.clone(), Some(space.name.clone()));
        }
        let number = self.scratch.number();
        // 127.0.x.x is left to the demo and to everybody else.
        let (high, low) = ((number >> 8).max(1), number & 0xff);
        (format!("127.{high}.{low}.{}", 11 + k), None)
    }

    pub fn path(&self) -> &std::path::Path {
        self.scratch.path()
    }

    /// Probes all nodes into the first one's pool.
    ///
    /// # Errors
    /// A probe fails, or the peers do not see each other in time.
    pub fn form_pool(&self) -> Result<()> {
        for node in &self.nodes[1..] {
            self.brick(&["peer", "probe", &node.host])?;
        }
        self.wait_connected()
    }

    /// Waits until every node says that all others are connected.
    ///
    /// # Errors
    /// Not in time.
    pub fn wait_connected(&self) -> Result<()> {
        for node in &self.nodes {
            wait_until(
                &format!("all peers connected, as {} sees it", node.host),
                POOL_MAX,
                || {
                    let peers = json(&node.brick(&["--json", "pool", "list"])?)?;
                    let list = peers["peers"].as_array().context("no 'peers' in the answer")?;
                    let up = list.iter().filter(|p| p["connected"] == true || p["local"] == true);
                    let all = up.count() == self.nodes.len();
                    Ok(Poll::of(all, || peers.to_string()))
                },
            )?;
        }
        Ok(())
    }

    /// Creates and starts a volume that replicates over all nodes but the witnesses.
    ///
    /// # Errors
    /// The CLI refuses, or its bricks do not come up.
    pub fn make_volume(&self, name: &str) -> Result<()> {
        let count = self.storage();
        let replica = count.to_string();
        let mut words = vec!["volume", "create", name];
        if count > 1 {
            words.extend(["replica", &replica]);
        }
        let bricks: Vec<String> = (0..count).map(|k| self.brick_name(k, name)).collect();
        for k in 0..count {
            fs::create_dir_all(self.brick_dir(k, name))?;
        }
        words.extend(bricks.iter().map(String::as_str));
        self.brick(&words)?;
        self.brick(&["volume", "start", name])?;
        self.wait_in_sync(name, Duration::from_secs(30))
    }

    /// `host:/path` of a volume's brick on a node.
    pub fn brick_name(&self, k: usize, volume: &str) -> String {
        format!("{}:{}", self.nodes[k].host, self.brick_dir(k, volume).display())
    }

    pub fn brick_dir(&self, k: usize, volume: &str) -> PathBuf {
        self.nodes[k].disk().join(volume)
    }

    pub fn brick_dirs(&self, volume: &str) -> Vec<PathBuf> {
        (0..self.storage()).map(|k| self.brick_dir(k, volume)).collect()
    }

    /// The CLI on any living node; must succeed.
    ///
    /// # Errors
    /// It failed; its words are in the error.
    pub fn brick(&self, words: &[&str]) -> Result<String> {
        let answer = self.any_node()?.brick(words)?;
        if !answer.ok() {
            let said = format!("{} {}", answer.err.trim(), answer.out.trim());
            bail!("brick {} failed ({:?}): {said}", words.join(" "), answer.code);
        }
        Ok(answer.out)
    }

    /// The CLI must refuse with one line that contains `word`, and a code other than 0.
    ///
    /// # Errors
    /// It succeeded, or said something else, or more than a line.
    pub fn brick_refuses(&self, words: &[&str], word: &str) -> Result<String> {
        let answer = self.any_node()?.brick(words)?;
        let shown = format!("brick {}: {answer:?}", words.join(" "));
        if answer.ok() {
            bail!("should have failed: {shown}");
        }
        if answer.code.is_none() || answer.err.contains("panicked") {
            bail!("crashed: {shown}");
        }
        let text = answer.err.trim();
        if text.lines().count() != 1 {
            bail!("an error is one line: {shown}");
        }
        if !text.to_lowercase().contains(&word.to_lowercase()) {
            bail!("expected {word:?} in the error: {shown}");
        }
        Ok(text.to_owned())
    }

    fn any_node(&self) -> Result<&Node> {
        self.nodes.iter().find(|n| n.is_awake()).context("no daemon runs")
    }

    /// # Errors
    /// The CLI failed or printed no JSON.
    pub fn brick_json(&self, words: &[&str]) -> Result<Value> {
        let mut all = vec!["--json"];
        all.extend(words);
        let text = self.brick(&all)?;
        serde_json::from_str(&text).with_context(|| format!("no JSON: {text}"))
    }

    /// Mounts a volume from a node, in the client's namespace where there are namespaces.
    ///
    /// # Errors
    /// The mount fails.
    pub fn mount(&mut self, from: usize, volume: &str, options: &str) -> Result<Mount> {
        Mount::new(self.mount_request(from, volume, options)?)
    }

    /// The same, not mounted yet: for tests of what goes wrong.
    ///
    /// # Errors
    /// The pool makes no token for the client.
    pub fn mount_request(&mut self, from: usize, volume: &str, options: &str) -> Result<Request> {
        self.mounts += 1;
        let count = self.nodes.len();
        let client = self.network.as_ref().map(|n| n.space(count).name.clone());
        let hosts: Vec<&str> =
            (0..count).map(|k| self.nodes[(from + k) % count].host.as_str()).collect();
        Ok(Request {
            source: format!("{}:/{volume}", hosts.join(",")),
            options: options.to_owned(),
            point: self.scratch.path().join(format!("mnt{}", self.mounts)),
            token: Some(self.client_token()?),
            space: client,
        })
    }

    /// One token for all mounts of the test.
    fn client_token(&self) -> Result<PathBuf> {
        let file = self.scratch.path().join(CLIENT_TOKEN);
        if !file.exists() {
            self.brick(&["client", "add", "harness", "--out", &file.to_string_lossy()])?;
        }
        Ok(file)
    }
}

impl Cluster {
    /// The test is over and everything was right: the logs are of no interest.
    pub fn passed(mut self) {
        self.passed = true;
    }

    /// Shows the logs' ends and keeps whole copies in `BRICK_LOGS`, when set.
    fn dump(&self) {
        for (log, name) in self.logs() {
            eprintln!("--- end of {name}\n{}", tail(&log));
        }
        let Some(keep) = std::env::var_os("BRICK_LOGS") else { return };
        let keep = PathBuf::from(keep).join(self.scratch.path().file_name().unwrap_or_default());
        if fs::create_dir_all(&keep).is_ok() {
            for (log, name) in self.logs() {
                let _ = fs::copy(log, keep.join(name));
            }
            eprintln!("whole logs: {}", keep.display());
        }
    }

    fn logs(&self) -> Vec<(PathBuf, String)> {
        let nodes = self.nodes.iter().map(|n| (n.log(), format!("{}.log", n.host)));
        let mounts = (1..=self.mounts).map(|n| format!("mnt{n}.log"));
        nodes.chain(mounts.map(|name| (self.scratch.path().join(&name), name))).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !self.passed {
            self.dump();
        }
    }
}

/// The JSON a successful CLI call printed.
///
/// # Errors
/// The call failed, or this is no JSON.
pub fn json(answer: &Answer) -> Result<Value> {
    if !answer.ok() {
        bail!("{} {}", answer.err.trim(), answer.out.trim());
    }
    serde_json::from_str(&answer.out).with_context(|| format!("no JSON: {}", answer.out))
}
