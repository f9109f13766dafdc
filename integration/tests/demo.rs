//! `make demo` and `make demo-stop`, with addresses and a folder of their own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::need::Need;
use integration::node::program;
use integration::run;
use integration::scratch::{self, Scratch};
use integration::sys::{self, Answer};
use integration::tree::{self, Xattrs};

const LIMIT: Duration = Duration::from_secs(180);

struct Demo {
    scratch: Scratch,
    bin: PathBuf,
}

impl Demo {
    fn new(label: &str) -> Result<Self> {
        let bin = program("brickd")?.parent().context("folder of the programs")?.to_owned();
        Ok(Self { scratch: Scratch::new(label)?, bin })
    }

    fn dir(&self) -> PathBuf {
        self.scratch.path().join("demo")
    }

    fn script(&self, name: &str, path: Option<&Path>) -> Result<Answer> {
        let number = self.scratch.number();
        let mut command = Command::new("sh");
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("demo").join(name));
        let net = format!("127.{}.{}.1", (number >> 8).max(1), number & 0xff);
        command.env("BIN", &self.bin).env("BRICK_DEMO_SIZE", "600M");
        command.env("BRICK_DEMO_DIR", self.dir()).env("BRICK_DEMO_NET", net);
        if let Some(path) = path {
            command.env("PATH", path);
        }
        sys::answer(&mut command, LIMIT)
    }

    fn shell(&self, script: &str) -> Result<String> {
        sys::shell(&self.dir(), &format!(". ./env.sh; {script}"), LIMIT)
    }

    fn demand_gone(&self) -> Result<()> {
        ensure!(!self.dir().exists(), "{} is left", self.dir().display());
        let mounts = scratch::mounts_below(&self.dir());
        ensure!(mounts.is_empty(), "still mounted: {mounts:?}");
        Ok(())
    }
}

fn test(name: &str, body: fn() -> Result<()>) {
    run::test(name, &[Need::Root, Need::Xfs, Need::Fuse], body);
}

#[test]
fn the_demo_comes_up_survives_its_own_tour_and_goes() {
    test("the_demo_comes_up", || {
        let demo = Demo::new("demo")?;
        let up = demo.script("up.sh", None)?;
        ensure!(up.ok(), "{}\n{}", up.out, up.err);
        let again = demo.script("up.sh", None)?;
        ensure!(!again.ok() && again.out.contains("demo-stop"), "a second demo: {again:?}");
        demo.shell("brick volume info gv0 | grep -q 'Status: Started'")?;
        demo.shell("node2/stop --kill && cp -a /usr/share/common-licenses mnt/ && node2/start")?;
        sys::wait_until("the heal", Duration::from_secs(60), || {
            let out = demo.shell("brick --json volume heal gv0 info")?;
            let info: serde_json::Value = serde_json::from_str(&out)?;
            Ok(sys::Poll::of(info["complete"] == true, || out))
        })?;
        demo.shell("diff -r -x .brickwork node1/brick/gv0 node2/brick/gv0")?;
        let bricks: Vec<PathBuf> =
            (1..=3).map(|n| demo.dir().join(format!("node{n}/brick/gv0"))).collect();
        tree::all_same(&bricks)?;
        tree::same(&demo.dir().join("mnt"), &bricks[0], Xattrs::Visible)?;
        let pids: Vec<String> = (1..=3)
            .map(|n| Ok(fs::read_to_string(demo.dir().join(format!("node{n}/pid")))?))
            .collect::<Result<_>>()?;
        let down = demo.script("down.sh", None)?;
        ensure!(down.ok(), "{}\n{}", down.out, down.err);
        demo.demand_gone()?;
        for pid in pids {
            let exe = fs::read_link(format!("/proc/{}/exe", pid.trim())).unwrap_or_default();
            ensure!(!exe.ends_with("brickd"), "brickd {} still runs", pid.trim());
        }
        Ok(())
    });
}

#[test]
fn a_demo_that_failed_half_way_is_removed_too() {
    test("a_demo_that_failed", || {
        let demo = Demo::new("half")?;
        // Everything is there but mkfs.xfs: the first node's folder is made, its disk is not.
        let tools = demo.scratch.path().join("tools");
        fs::create_dir_all(&tools)?;
        for folder in ["/usr/sbin", "/usr/bin", "/sbin", "/bin"] {
            for entry in fs::read_dir(folder)? {
                let entry = entry?;
                let to = tools.join(entry.file_name());
                if entry.file_name() != "mkfs.xfs" && !to.exists() {
                    std::os::unix::fs::symlink(entry.path(), to)?;
                }
            }
        }
        let up = demo.script("up.sh", Some(&tools))?;
        ensure!(!up.ok() && up.err.contains("demo-stop"), "expected a failure: {up:?}");
        ensure!(demo.dir().join("node1").is_dir());
        for _ in 0..2 {
            let down = demo.script("down.sh", None)?;
            ensure!(down.ok(), "{}\n{}", down.out, down.err);
            demo.demand_gone()?;
        }
        Ok(())
    });
}
