//! What a volume may be: pure checks, used before anything changes and again in `apply`.

use std::collections::BTreeSet;

use super::PoolState;
use crate::pool::command::{NewBrick, NewVolume};

/// As long as a directory name may be.
pub const NAME_BYTES_MAX: usize = 255;
/// More bricks than any volume needs; bounds the map's size.
pub const BRICKS_MAX: usize = 1024;
/// Linux's limit for a path given to a system call.
pub const PATH_BYTES_MAX: usize = 4095;
/// Copies beyond this only cost.
pub const REPLICA_MAX: u16 = 16;
/// Sets of a group beyond this make every large request wait for more peers than it gains by.
pub const STRIPE_MAX: u16 = 16;

/// A new volume as a whole.
///
/// # Errors
/// The first thing wrong, as a sentence.
pub fn new_volume(state: &PoolState, volume: &NewVolume) -> Result<(), String> {
    name(&volume.name)?;
    if state.volume_by_name(&volume.name).is_some() {
        return Err(format!("Volume {} already exists", volume.name));
    }
    counts(volume)?;
    let mut seen = BTreeSet::new();
    for brick in &volume.bricks {
        brick_path(&brick.path)?;
        brick_is_free(state, brick)?;
        let overlaps = volume
            .bricks
            .iter()
            .any(|o| o.peer == brick.peer && o.path != brick.path && nested(&o.path, &brick.path));
        if !seen.insert((brick.peer, brick.path.as_str())) {
            return Err(format!("brick {} is named twice", brick.path));
        }
        if overlaps {
            return Err(format!("brick {} lies inside another brick, or holds one", brick.path));
        }
    }
    Ok(())
}

fn counts(volume: &NewVolume) -> Result<(), String> {
    let bricks = volume.bricks.len();
    if volume.replica == 0 || volume.replica > REPLICA_MAX {
        return Err(format!("replica count must be 1 to {REPLICA_MAX}"));
    }
    if volume.stripe == 0 || volume.stripe > STRIPE_MAX {
        return Err(format!("stripe count must be 1 to {STRIPE_MAX}"));
    }
    if volume.transport != "tcp" {
        return Err(format!("transport {} is not supported; use tcp", volume.transport));
    }
    if bricks == 0 || bricks > BRICKS_MAX {
        return Err(format!("a volume has 1 to {BRICKS_MAX} bricks"));
    }
    let group = usize::from(volume.replica) * usize::from(volume.stripe);
    if !bricks.is_multiple_of(group) {
        let what = match (volume.stripe > 1, volume.replica > 1) {
            (true, true) => "stripe x replica count",
            (true, false) => "stripe count",
            _ => "replica count",
        };
        return Err(format!(
            "number of bricks ({bricks}) is not a multiple of the {what} ({group})"
        ));
    }
    Ok(())
}

/// # Errors
/// Not a valid volume or client name.
pub fn name(name: &str) -> Result<(), String> {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(good) {
        let shown: String = name.chars().filter(|c| !c.is_control()).take(40).collect();
        return Err(format!(
            "'{shown}' is not a valid name (1 to {NAME_BYTES_MAX} letters, digits, '-' or '_')"
        ));
    }
    if name.starts_with('-') || name == "all" {
        return Err(format!("'{name}' cannot be used as a name"));
    }
    Ok(())
}

/// # Errors
/// The path is not absolute and plain.
pub fn brick_path(path: &str) -> Result<(), String> {
    if !path.starts_with('/') {
        return Err(format!("brick path {path} is not absolute"));
    }
    let plain = path.len() <= PATH_BYTES_MAX
        && path.len() > 1
        && !path.ends_with('/')
        && path[1..].split('/').all(|part| !matches!(part, "" | "." | ".."))
        && !path.chars().any(char::is_control);
    match plain {
        true => Ok(()),
        false => Err(format!("brick path {path} is not a plain path (no '..', no '//', not '/')")),
    }
}

/// A brick for a volume that is there.
///
/// # Errors
/// The first thing wrong, as a sentence.
pub fn new_brick(state: &PoolState, brick: &NewBrick) -> Result<(), String> {
    brick_path(&brick.path)?;
    brick_is_free(state, brick)
}

/// Neither named twice nor inside one of `others`.
///
/// # Errors
/// Which of both, as a sentence.
pub fn apart(brick: &NewBrick, others: &[NewBrick]) -> Result<(), String> {
    let near = |o: &&NewBrick| o.peer == brick.peer && nested(&o.path, &brick.path);
    match others.iter().find(near) {
        None => Ok(()),
        Some(other) if other.path == brick.path => {
            Err(format!("brick {} is named twice", brick.path))
        }
        Some(_) => Err(format!("brick {} lies inside another brick, or holds one", brick.path)),
    }
}

fn brick_is_free(state: &PoolState, brick: &NewBrick) -> Result<(), String> {
    let peer = state.peers.get(&brick.peer).ok_or("a brick's peer does not belong to the pool")?;
    if peer.witness {
        return Err(format!("{} is a witness and holds no bricks", peer.host));
    }
    let taken =
        state.bricks().find(|(_, _, m)| m.peer == brick.peer && nested(&m.path, &brick.path));
    match taken {
        Some((volume, _, member)) => Err(format!(
            "brick {}:{} is already part of volume {} ({})",
            peer.host, brick.path, volume.name, member.path
        )),
        None => Ok(()),
    }
}

/// One path is the other or lies inside it.
fn nested(a: &str, b: &str) -> bool {
    let inside = |outer: &str, inner: &str| {
        inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    inside(a, b) || inside(b, a)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain() {
        assert!(name("gv0").is_ok() && name("a-b_C9").is_ok());
        for bad in ["", "a/b", "a b", "ä", "-x", "all", &"x".repeat(256)] {
            assert!(name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn brick_paths_are_absolute_and_plain() {
        assert!(brick_path("/bricks/b1").is_ok());
        for bad in ["b1", "/", "/a/../b", "/a//b", "/a/", "/a/./b", "/a\n", ""] {
            assert!(brick_path(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn nesting_is_by_components() {
        assert!(nested("/a", "/a") && nested("/a", "/a/b") && nested("/a/b", "/a"));
        assert!(!nested("/a", "/ab"));
    }
}
