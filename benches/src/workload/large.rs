//! One large file a client: sequential, random and synchronous I/O.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use super::{Plan, ensure_dir};
use crate::record::Record;
use crate::rng::Rng;

const MIB: usize = 1 << 20;
const PAGE: usize = 4096;

fn path(plan: &Plan, client: usize) -> PathBuf {
    plan.client_dir(client).join("large")
}

fn block(plan: &Plan, client: usize, bytes: usize) -> Vec<u8> {
    let mut out = vec![0; bytes];
    Rng::new(plan.seed ^ 0x1a46e ^ client as u64).fill(&mut out);
    out
}

pub fn exist(plan: &Plan, client: usize, record: &mut Record) -> io::Result<()> {
    match std::fs::metadata(path(plan, client)) {
        Ok(meta) if meta.len() == plan.large_bytes => Ok(()),
        _ => sequential_write(plan, client, record),
    }
}

pub fn sequential_write(plan: &Plan, client: usize, record: &mut Record) -> io::Result<()> {
    ensure_dir(&plan.client_dir(client))?;
    let bytes = block(plan, client, MIB);
    let mut file = File::create(path(plan, client))?;
    let mut left = plan.large_bytes;
    while left > 0 {
        let len = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        record.time(len as u64, || file.write_all(&bytes[..len]))?;
        left -= len as u64;
    }
    record.time(0, || file.sync_all())
}

pub fn sequential_read(plan: &Plan, client: usize, record: &mut Record) -> io::Result<()> {
    let mut bytes = vec![0; MIB];
    let mut file = File::open(path(plan, client))?;
    let mut left = plan.large_bytes;
    while left > 0 {
        let len = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        record.time(len as u64, || file.read_exact(&mut bytes[..len]))?;
        left -= len as u64;
    }
    Ok(())
}

fn random_offset(plan: &Plan, rng: &mut Rng) -> u64 {
    rng.below((plan.large_bytes / PAGE as u64).max(1)) * PAGE as u64
}

pub fn random_write(plan: &Plan, client: usize, record: &mut Record) -> io::Result<()> {
    let bytes = block(plan, client, PAGE);
    let mut rng = Rng::new(plan.seed ^ client as u64);
    let file = OpenOptions::new().write(true).open(path(plan, client))?;
    for _ in 0..plan.operations {
        let offset = random_offset(plan, &mut rng);
        let _ = record.time(PAGE as u64, || file.write_all_at(&bytes, offset));
    }
    record.time(0, || file.sync_all())
}

pub fn random_read(plan: &Plan, client: usize, record: &mut Record) -> io::Result<()> {
    let mut bytes = vec![0; PAGE];
    let mut rng = Rng::new(plan.seed ^ client as u64);
    let file = File::open(path(plan, client))?;
    for _ in 0..plan.operations {
        let offset = random_offset(plan, &mut rng);
        let _ = record.time(PAGE as u64, || file.read_exact_at(&mut bytes, offset));
    }
    Ok(())
}

pub fn sync_write(plan: &Plan, client: usize, record: &mut Record) -> io::Result<()> {
    ensure_dir(&plan.client_dir(client))?;
    let bytes = block(plan, client, PAGE);
    let mut file = File::create(plan.client_dir(client).join("synced"))?;
    for _ in 0..plan.operations.min(1000) {
        record.time(PAGE as u64, || {
            file.write_all(&bytes)?;
            file.sync_data()
        })?;
    }
    Ok(())
}
