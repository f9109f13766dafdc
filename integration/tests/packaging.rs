//! `make install` and the Debian package put everything where the system looks for it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::need::{self, Need};
use integration::node::program;
use integration::scratch::Scratch;
use integration::sys::must_within;

const LIMIT: Duration = Duration::from_secs(120);

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The folder that cargo builds in, seen from the programs under test.
fn target() -> Result<PathBuf> {
    let brick = program("brick")?.canonicalize()?;
    Ok(brick.parent().and_then(Path::parent).context("target folder")?.to_owned())
}

fn demand_files(root: &Path, files: &[(&str, u32)]) -> Result<()> {
    for (name, mode) in files {
        let meta = fs::metadata(root.join(name)).with_context(|| format!("{name} is missing"))?;
        let is = meta.permissions().mode() & 0o777;
        ensure!(is == *mode && meta.len() > 0, "{name}: mode {is:o}, {} bytes", meta.len());
    }
    Ok(())
}

#[test]
fn install_puts_programs_unit_and_completion_in_place() {
    let body = || -> Result<()> {
        let scratch = Scratch::new("install")?;
        let root = scratch.path().join("root");
        let mut make = Command::new("make");
        make.arg("install").arg(format!("DESTDIR={}", root.display())).arg("PREFIX=/usr/local");
        make.current_dir(repository()).env("CARGO_TARGET_DIR", target()?);
        must_within(&mut make, LIMIT)?;
        demand_files(
            &root,
            &[
                ("usr/local/sbin/brickd", 0o755),
                ("usr/local/bin/brick", 0o755),
                // mount(8) looks nowhere else.
                ("sbin/mount.brick", 0o755),
                ("lib/systemd/system/brickd.service", 0o644),
                ("etc/brickwork/brickd.toml", 0o644),
                ("usr/local/share/bash-completion/completions/brick", 0o644),
            ],
        )?;
        let unit = fs::read_to_string(root.join("lib/systemd/system/brickd.service"))?;
        ensure!(unit.contains("ExecStart=/usr/local/sbin/brickd\n"), "{unit}");
        // A configuration that is there is somebody's work.
        fs::write(root.join("etc/brickwork/brickd.toml"), "witness = true\n")?;
        must_within(&mut make, LIMIT)?;
        let kept = fs::read_to_string(root.join("etc/brickwork/brickd.toml"))?;
        ensure!(kept == "witness = true\n", "overwritten: {kept}");
        Ok(())
    };
    body().unwrap_or_else(|error| panic!("{error:#}"));
}

#[test]
fn the_shipped_configuration_is_read_by_the_daemon() {
    let body = || -> Result<()> {
        let scratch = Scratch::new("config")?;
        // Every line with its comment sign taken off: the names and forms are the daemon's own.
        let text = fs::read_to_string(repository().join("server/packaging/brickd.toml"))?;
        let active: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix('#'))
            .filter(|line| line.contains(" = ") && !line.starts_with(' '))
            .collect();
        ensure!(active.len() > 5, "options of the file: {active:?}");
        let config = scratch.path().join("brickd.toml");
        fs::write(&config, active.join("\n"))?;
        let mut brickd = Command::new(program("brickd")?);
        brickd.arg("--config").arg(&config).arg("--join-key").arg(scratch.path().join("key"));
        must_within(brickd.arg("make-join-key"), LIMIT)?;
        let mode = fs::metadata(scratch.path().join("key"))?.permissions().mode() & 0o777;
        ensure!(mode == 0o600, "the join key is a secret, not {mode:o}");
        Ok(())
    };
    body().unwrap_or_else(|error| panic!("{error:#}"));
}

#[test]
fn the_package_holds_the_same() {
    if !need::all("the_package_holds", &[Need::Program("dpkg-deb"), Need::Program("strip")]) {
        return;
    }
    let body = || -> Result<()> {
        let scratch = Scratch::new("deb")?;
        let mut deb = Command::new("sh");
        deb.arg(repository().join("server/packaging/deb.sh"));
        deb.env("CARGO_TARGET_DIR", target()?).env("TARGET", scratch.path());
        let package = must_within(&mut deb, LIMIT)?;
        let root = scratch.path().join("root");
        let mut unpack = Command::new("dpkg-deb");
        must_within(unpack.arg("-x").arg(package.trim()).arg(&root), LIMIT)?;
        demand_files(
            &root,
            &[
                ("usr/sbin/brickd", 0o755),
                ("usr/bin/brick", 0o755),
                ("usr/sbin/mount.brick", 0o755),
                ("usr/lib/systemd/system/brickd.service", 0o644),
            ],
        )?;
        let version =
            must_within(Command::new(root.join("usr/bin/brick")).arg("--version"), LIMIT)?;
        let named = package.contains(&format!("_{}_", env!("CARGO_PKG_VERSION")));
        ensure!(named && version.contains(env!("CARGO_PKG_VERSION")), "{package} {version}");
        Ok(())
    };
    body().unwrap_or_else(|error| panic!("{error:#}"));
}
