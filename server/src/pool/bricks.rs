//! What the pool needs from the parts that own bricks, heals and promises.
//!
//! Set once, before the control port opens. Until then, and on a witness, a peer answers that it has no bricks.

use async_trait::async_trait;
use proto::{BrickId, Epoch, Incarnation, SetId, VolumeId};
use proto_grpc::peer::{BrickRun, HealRun};
use proto_rules::SetKey;
use serde::{Deserialize, Serialize};

/// One brick of this peer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BrickSpec {
    pub volume: VolumeId,
    pub volume_name: String,
    pub set: SetId,
    pub brick: BrickId,
    /// Absolute, plain.
    pub path: String,
    /// When the volume was created, seconds since 1970: the same for all its bricks.
    pub created_s: u64,
}

/// The brick manager. Errors are one line for people, without the brick's name.
#[async_trait]
pub trait Bricks: Send + Sync + 'static {
    /// Makes the folder and marks it as this brick. Refuses a missing parent folder, the root
    /// file system without `force`, a brick of another volume, a file system without xattrs.
    async fn prepare(&self, spec: &BrickSpec, force: bool) -> Result<(), String>;

    /// Takes `prepare` back when the volume was not created: removes the mark of exactly this
    /// brick, and what `prepare` made if it is empty. Files stay. A deleted volume's bricks are
    /// not abandoned: they keep their marks, so that nothing of them is overwritten by mistake.
    async fn abandon(&self, spec: &BrickSpec);

    /// Serves the brick. Called again at every chance; does nothing when it is served.
    async fn start(&self, spec: &BrickSpec) -> Result<(), String>;

    /// Stops serving, cleanly. Does nothing when it is not served.
    async fn stop(&self, spec: &BrickSpec);

    /// The brick is no member of its volume any more: its folder says so. Its files stay.
    async fn dropped(&self, spec: &BrickSpec);

    /// Stops everything, for the end of the daemon. Nothing is started any more.
    async fn stop_all(&self) {}

    /// Every brick of the volume that this peer serves now.
    fn status(&self, volume: VolumeId) -> Vec<BrickRun>;
}

/// What heals know; answered from memory at once.
pub trait HealStatus: Send + Sync + 'static {
    fn heal_status(&self, volume: VolumeId) -> Vec<HealRun>;
}

/// This peer's members' part in membership changes: the promise rules behind a seam.
#[async_trait]
pub trait Members: Send + Sync + 'static {
    /// Stops promising `victim` in `epoch`, for ever, and returns when the last promise given
    /// to it has run out. False when this peer has no in-sync member there in that epoch.
    async fn stop_promising(&self, set: SetKey, epoch: Epoch, victim: BrickId) -> bool;

    /// Agrees that this incarnation may join in `epoch`, for all of this peer's members.
    async fn agree_join(
        &self,
        set: SetKey,
        epoch: Epoch,
        joiner: BrickId,
        incarnation: Incarnation,
    ) -> Result<(), String>;

    /// By an administrator's word: `source`'s copies are the good ones where no in-sync member of
    /// the set has a good one. Returns of how many inodes. Asked of the peer of the set's lead.
    async fn trust_copies(&self, set: SetKey, source: BrickId) -> Result<usize, String>;

    /// Closes this incarnation's gate for good, for it is to leave its set in `epoch`: from the
    /// answer on it serves nobody and promises nothing.
    async fn retire(
        &self,
        set: SetKey,
        epoch: Epoch,
        brick: BrickId,
        incarnation: Incarnation,
    ) -> Result<(), String>;
}
