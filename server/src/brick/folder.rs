//! The folder of a brick: made, taken back, marked when its brick is no member any more.

use std::path::PathBuf;

use proto::Stamp;
use server_store::{Config, NewBrick, Store};

use crate::pool::bricks::BrickSpec;
use crate::pool::state::PoolState;

/// Makes the folder and marks it as this brick's.
///
/// # Errors
/// One line for people.
pub fn prepare(state: &PoolState, spec: &BrickSpec, force: bool) -> Result<(), String> {
    let path = PathBuf::from(&spec.path);
    match server_store::identity_of(&path) {
        // A reset that keeps its files.
        Ok(Some(found)) if found.brick == spec.brick => return Ok(()),
        // Its daemon was away when it was taken out of its volume.
        Ok(Some(found)) if state.bricks().all(|(_, _, m)| m.brick != found.brick) => {
            if let Some(volume) = state.volumes.get(&found.volume) {
                server_store::note_dropped(&path, found.brick, &volume.name)?;
            }
        }
        _ => {}
    }
    make(spec, force)
}

/// Notes that the brick is no member of its volume any more.
pub fn note_dropped(spec: &BrickSpec) {
    let path = PathBuf::from(&spec.path);
    match server_store::note_dropped(&path, spec.brick, &spec.volume_name) {
        Ok(()) => {
            tracing::info!(volume = spec.volume_name, path = spec.path, "no member any more");
        }
        // Its disk may be gone, and the folder may be another brick's by now.
        Err(error) => tracing::info!(volume = spec.volume_name, error, "no member any more"),
    }
}

/// A folder without anything in it, or none: the brick is made anew, as `volume create` did.
///
/// # Errors
/// One line for people.
pub fn make_if_bare(spec: &BrickSpec) -> Result<(), String> {
    let bare = match std::fs::read_dir(&spec.path) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    };
    if !bare {
        return Ok(());
    }
    tracing::warn!(path = spec.path, "an empty folder: the brick is made anew");
    make(spec, false)
}

fn make(spec: &BrickSpec, force: bool) -> Result<(), String> {
    let path = PathBuf::from(&spec.path);
    if !path.exists() {
        let parent = path.parent().unwrap_or(&path);
        if !parent.is_dir() {
            return Err(format!("there is no folder {}; make it first", parent.display()));
        }
        std::fs::create_dir(&path).map_err(|e| format!("{}: {e}", spec.path))?;
    }
    let new = NewBrick {
        brick: spec.brick,
        volume: spec.volume,
        set: spec.set,
        dir_buckets: proto::options::VolumeOptions::default().dir_buckets,
        stamp: Stamp(spec.created_s.saturating_mul(1_000_000_000)),
    };
    let store = Store::create(&path, &new, force, Config::default()).map_err(|e| e.to_string())?;
    store.close().map_err(|e| format!("{}: {e}", spec.path))
}

/// Takes the mark of exactly this brick away; its files stay. An empty folder goes too.
///
/// # Errors
/// One line for people.
pub fn abandon(spec: &BrickSpec) -> Result<(), String> {
    let path = PathBuf::from(&spec.path);
    // Opening it proves that the mark is this brick's.
    drop(Store::open(&path, spec.brick, Config::default()).map_err(|e| e.to_string())?);
    let said = |e: std::io::Error| format!("{}: {e}", spec.path);
    std::fs::remove_dir_all(path.join(".brickwork")).map_err(said)?;
    rustix::fs::removexattr(&path, server_store::META_XATTR).map_err(|e| said(e.into()))?;
    // Not empty: it holds files of the volume, and they stay.
    let _ = std::fs::remove_dir(&path);
    Ok(())
}
