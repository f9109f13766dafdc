//! Small files: one folder a client, `files` files in it.

use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;

use super::{Plan, ensure_dir};
use crate::record::Record;
use crate::rng::Rng;

fn path(plan: &Plan, client: usize, n: u64) -> PathBuf {
    plan.client_dir(client).join(format!("file-{n:07}"))
}

fn data(plan: &Plan, client: usize) -> Vec<u8> {
    let mut bytes = vec![0; plan.file_bytes];
    Rng::new(plan.seed ^ client as u64).fill(&mut bytes);
    bytes
}

/// Makes the files that are missing.
pub fn exist(plan: &Plan, client: usize, record: &mut Record) -> io::Result<()> {
    ensure_dir(&plan.client_dir(client))?;
    let bytes = data(plan, client);
    for n in 0..plan.files {
        let path = path(plan, client, n);
        if !path.exists() {
            record.time(0, || fs::write(&path, &bytes))?;
        }
    }
    Ok(())
}

pub fn create(plan: &Plan, client: usize, record: &mut Record) -> io::Result<()> {
    ensure_dir(&plan.client_dir(client))?;
    let bytes = data(plan, client);
    for n in 0..plan.files {
        let path = path(plan, client, n);
        let _ = record.time(bytes.len() as u64, || {
            let mut file = fs::File::create(&path)?;
            file.write_all(&bytes)
        });
    }
    Ok(())
}

pub fn stat(plan: &Plan, client: usize, record: &mut Record) -> io::Result<()> {
    for n in 0..plan.files {
        let path = path(plan, client, n);
        let _ = record.time(0, || fs::symlink_metadata(&path));
    }
    Ok(())
}

pub fn list(plan: &Plan, client: usize, record: &mut Record) -> io::Result<()> {
    for entry in fs::read_dir(plan.client_dir(client))? {
        let path = entry?.path();
        let _ = record.time(0, || fs::symlink_metadata(&path));
    }
    Ok(())
}

pub fn read(plan: &Plan, client: usize, record: &mut Record) -> io::Result<()> {
    let expected = data(plan, client);
    for n in 0..plan.files {
        let path = path(plan, client, n);
        let found = record.time(expected.len() as u64, || fs::read(&path));
        if found.is_ok_and(|bytes| bytes != expected) {
            record.fail(format!("{}: wrong data", path.display()));
        }
    }
    Ok(())
}

pub fn rename(plan: &Plan, client: usize, record: &mut Record) -> io::Result<()> {
    for n in 0..plan.files {
        let from = path(plan, client, n);
        let to = from.with_extension("renamed");
        let _ = record.time(0, || fs::rename(&from, &to));
    }
    // Untimed: put the names back, so that later workloads find them.
    for n in 0..plan.files {
        let to = path(plan, client, n);
        fs::rename(to.with_extension("renamed"), &to)?;
    }
    Ok(())
}

pub fn delete(plan: &Plan, client: usize, record: &mut Record) -> io::Result<()> {
    for n in 0..plan.files {
        let path = path(plan, client, n);
        let _ = record.time(0, || fs::remove_file(&path));
    }
    Ok(())
}
