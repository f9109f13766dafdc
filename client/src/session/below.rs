//! The seam to the caching volume.

use std::sync::Arc;

use proto::fop::{Call, LeaseKey, Mode, Outcome, Want};
use proto::map::VolumeMap;
use proto::placement::slot_of_name;
use proto::{Errno, Gfid, SetId, Stamp};

use super::Session;
use super::perform::{Obtain, errno_of, obtain};
use crate::clock;
use crate::distribute::clamp;
use crate::layer::{Below, Boxed, Held, InUse, Keeper};

impl Below for Session {
    fn call(&self, call: Call, wants: Vec<Want>) -> Boxed<'_, Outcome> {
        Box::pin(async move {
            let outcome = self.perform(call, wants).await;
            outcome.map_err(|failure| errno_of(failure).into())
        })
    }

    fn set_of_name(&self, dir: Gfid, buckets: u32, name: &[u8]) -> SetId {
        self.buckets.learn(dir, buckets);
        self.route(|router| router.name(dir, buckets, name))
    }

    fn set_of_inode(&self, gfid: Gfid) -> SetId {
        self.route(|router| router.inode(gfid))
    }

    fn new_gfid(&self, dir: Gfid, buckets: u32, name: &[u8]) -> Gfid {
        self.buckets.learn(dir, buckets);
        let mut random = [0; 14];
        getrandom::fill(&mut random).expect("the kernel has random numbers once it has booted");
        Gfid::new(slot_of_name(dir, clamp(buckets), name), random)
    }

    fn held(&self, set: SetId, key: LeaseKey) -> Option<Held> {
        self.set(set)?.leases.held(key)
    }

    fn hold(&self, set: SetId, key: LeaseKey, mode: Mode) -> Option<InUse> {
        let hold = self.set(set)?.leases.hold(key, mode)?;
        Some(InUse(Box::new(hold)))
    }

    fn acquire(&self, set: SetId, key: LeaseKey, mode: Mode) -> Boxed<'_, Result<Held, Errno>> {
        Box::pin(async move {
            let held = self.lease_of(set, key, Obtain::waiting(mode)).await?;
            held.ok_or(Errno::EIO)
        })
    }

    fn acquire_to_change(
        &self,
        set: SetId,
        key: LeaseKey,
    ) -> Boxed<'_, Result<Option<Held>, Errno>> {
        let how = Obtain { yields: true, ..Obtain::waiting(Mode::Exclusive) };
        Box::pin(self.lease_of(set, key, how))
    }

    fn set_open(&self, gfid: Gfid, open: bool) {
        if let Some(state) = self.set(self.set_of_inode(gfid)) {
            state.leases.set_open(gfid, open);
        }
    }

    fn take_space(&self, set: SetId, bytes: u64) -> bool {
        self.set(set).is_some_and(|state| state.credit.take(bytes))
    }

    fn wait_for_space(&self, set: SetId, bytes: u64) -> Boxed<'_, Result<(), Errno>> {
        Box::pin(async move { Session::take_space(self, set, bytes, self.deadline()).await })
    }

    fn stamp(&self) -> Stamp {
        self.stamps.next(clock::now())
    }

    fn map(&self) -> Arc<VolumeMap> {
        self.members.map()
    }

    fn set_keeper(&self, keeper: Arc<dyn Keeper>) {
        if self.keeper.set(keeper).is_err() {
            tracing::error!("a session has one keeper; the second is ignored");
        }
    }
}

impl Session {
    /// `None`: the key is contended, and this yields.
    async fn lease_of(
        &self,
        set: SetId,
        key: LeaseKey,
        how: Obtain,
    ) -> Result<Option<Held>, Errno> {
        let state = self.set(set).ok_or(Errno::EIO)?;
        let deadline = self.deadline();
        loop {
            if how.yields && state.leases.are_contended(&[key]) {
                return Ok(None);
            }
            let Some(hold) = obtain(&state, &[key], how, deadline).await? else { return Ok(None) };
            // Not there if it ran out this very moment.
            if let Some(held) = state.leases.held(key) {
                return Ok(Some(held));
            }
            drop(hold);
        }
    }
}
