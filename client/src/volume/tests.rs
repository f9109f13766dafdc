//! The volume over a brick in memory.

mod budget;
mod coherence;
mod data;
mod model;

use std::sync::Arc;

use super::{Config, Volume};
use crate::testing::memory::{MemoryBelow, MemoryBrick};

/// A volume and the session below it.
async fn mount(brick: &Arc<MemoryBrick>) -> (Arc<Volume>, Arc<MemoryBelow>) {
    mount_with(brick, Config::default()).await
}

async fn mount_with(brick: &Arc<MemoryBrick>, config: Config) -> (Arc<Volume>, Arc<MemoryBelow>) {
    let below = brick.session();
    let volume = Volume::start(below.clone(), config).await.expect("the root is there");
    below.take_trips();
    (volume, below)
}
