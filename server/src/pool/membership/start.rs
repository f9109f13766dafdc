//! Bricks that start: a volume's first start, a restarted daemon, the loss of all.

use std::collections::{BTreeMap, BTreeSet};

use proto::map::SetMap;
use proto::{BrickId, Epoch, Incarnation, VolumeId};
use proto_grpc::peer::{BrickRun, BrickStatusRequest};
use proto_rules::restart::{Decision, Report};
use proto_rules::set::SetEntry;
use proto_rules::time::{MS, Nanos};
use proto_rules::{SetKey, Tick};

use super::{Shared, lock, set_of};
use crate::pool::command::Command;
use crate::pool::state::{PeerState, PoolState};
use crate::pool::{Pool, clock};

/// How long a first start waits for all bricks. Whoever comes later heals from the others,
/// from nothing.
const FIRST_START_WAIT: Nanos = 10_000 * MS;

/// Reports of a set that has never served.
#[derive(Debug, Default)]
pub struct FirstStart {
    since: Option<Tick>,
    reports: BTreeMap<BrickId, Incarnation>,
}

impl FirstStart {
    pub fn on_report(&mut self, now: Tick, report: &Report) {
        self.since.get_or_insert(now);
        self.reports.insert(report.brick, report.incarnation);
    }

    /// The first entry of the set, when all bricks are there, or enough have waited.
    pub fn decide(&self, now: Tick, map: &SetMap, needed: u16) -> Option<SetEntry> {
        let members: Vec<_> = self
            .reports
            .iter()
            .filter(|(brick, _)| map.member(**brick).is_some())
            .map(|(brick, incarnation)| (*brick, *incarnation))
            .collect();
        let all = members.len() == map.members.len();
        let enough = members.len() >= usize::from(needed.max(1))
            && self.since.is_some_and(|since| now.since(since) >= FIRST_START_WAIT);
        (map.epoch == Epoch::NONE && (all || enough)).then_some(SetEntry::Start { members })
    }
}

/// Starts work on every set with reports for which nothing is under way.
pub fn consider(pool: &Pool, memory: &Shared) {
    let (state, now) = (pool.state(), clock::now());
    let mut first = Vec::new();
    let mut again = Vec::new();
    {
        let mut memory = lock(memory);
        memory.first.retain(|key, _| set_of(&state, *key).is_some_and(|m| m.epoch == Epoch::NONE));
        memory.restarts.retain(|key, _| set_of(&state, *key).is_some());
        for (key, start) in &memory.first {
            let Some((map, needed)) = set_and_needed(&state, *key) else { continue };
            if let Some(entry) = start.decide(now, map, needed) {
                first.push((*key, entry));
            }
        }
        first.retain(|(key, _)| memory.busy.insert(*key));
        let keys: Vec<SetKey> = memory.restarts.keys().copied().collect();
        again.extend(keys.into_iter().filter(|key| memory.busy.insert(*key)));
    }
    if first.is_empty() && again.is_empty() {
        return;
    }
    let (pool, memory) = (pool.clone(), memory.clone());
    tokio::spawn(async move {
        let busy: BTreeSet<SetKey> = first.iter().map(|(k, _)| *k).chain(again.clone()).collect();
        let mut entries = first;
        entries.extend(restarts(&pool, &memory, &state, &again).await);
        if !entries.is_empty() {
            tracing::info!(?entries, "bricks started");
            if let Err(error) = pool.propose(Command::Membership(entries)).await {
                tracing::warn!(%error, "brick starts not committed");
            }
        }
        lock(&memory).busy.retain(|key| !busy.contains(key));
    });
}

fn set_and_needed(state: &PoolState, key: SetKey) -> Option<(&SetMap, u16)> {
    let volume = state.volumes.get(&key.volume)?;
    let map = volume.sets.get(key.set.0 as usize)?;
    let members = u16::try_from(map.members.len()).unwrap_or(u16::MAX);
    Some((map, volume.parsed_options().min_in_sync_of(members)))
}

async fn restarts(
    pool: &Pool,
    memory: &Shared,
    state: &PoolState,
    sets: &[SetKey],
) -> Vec<(SetKey, SetEntry)> {
    let volumes: BTreeSet<VolumeId> = sets.iter().map(|k| k.volume).collect();
    let mut serving = BTreeSet::new();
    for volume in volumes {
        serving.extend(served_incarnations(pool, state, volume).await);
    }
    let (now, mut memory) = (clock::now(), lock(memory));
    let mut entries = Vec::new();
    for key in sets {
        let (Some(map), Some(restart)) = (set_of(state, *key), memory.restarts.get(key)) else {
            continue;
        };
        match restart.decide(now, map, |brick, inc| serving.contains(&(brick, inc))) {
            Decision::Propose(entry) => entries.push((*key, entry)),
            Decision::WaitUntil(_) => {}
            // Everybody is named; the next report starts afresh.
            Decision::Nothing => drop(memory.restarts.remove(key)),
        }
    }
    entries
}

/// Which incarnations of the volume's bricks answer, wherever they run.
async fn served_incarnations(
    pool: &Pool,
    state: &PoolState,
    volume: VolumeId,
) -> Vec<(BrickId, Incarnation)> {
    let Some(known) = state.volumes.get(&volume) else { return Vec::new() };
    let peers: BTreeSet<_> = known.bricks().map(|m| m.peer).collect();
    let asks =
        peers.iter().filter_map(|id| state.peers.get(id)).map(|p| pool.brick_runs(p, volume));
    let runs = futures_util::future::join_all(asks).await;
    runs.into_iter()
        .flatten()
        .flatten()
        .filter(|run| run.online)
        .filter_map(|run| Some((BrickId::from_slice(&run.brick_id)?, Incarnation(run.incarnation))))
        .collect()
}

impl Pool {
    /// What a peer knows of its bricks of a volume; `None` when it does not answer.
    pub async fn brick_runs(&self, peer: &PeerState, volume: VolumeId) -> Option<Vec<BrickRun>> {
        self.brick_runs_with(peer, volume, false).await
    }

    /// The same; with `detail` what their disks say, if they say it soon.
    pub async fn brick_runs_with(
        &self,
        peer: &PeerState,
        volume: VolumeId,
        detail: bool,
    ) -> Option<Vec<BrickRun>> {
        if peer.lost {
            return None;
        }
        if peer.id == self.id() {
            let mut runs = self.hooks().map(|h| h.bricks.status(volume)).unwrap_or_default();
            if detail {
                crate::pool::disk::describe(self, volume, &mut runs).await;
            }
            return Some(runs);
        }
        let volume_id = volume.as_bytes().to_vec().into();
        let mut request = tonic::Request::new(BrickStatusRequest { volume_id, detail });
        let limit_s = if detail { 3 } else { 1 };
        request.set_timeout(std::time::Duration::from_secs(limit_s));
        let reply = self.peer_client(peer).ok()?.brick_status(request).await.ok()?;
        Some(reply.into_inner().bricks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::command::{NewBrick, unstarted_set};
    use proto::PeerId;

    fn map() -> SetMap {
        let brick = |n: u128| NewBrick {
            id: BrickId(uuid::Uuid::from_u128(n)),
            peer: PeerId(uuid::Uuid::from_u128(n)),
            path: "/b".into(),
        };
        unstarted_set(0, &[brick(1), brick(2), brick(3)])
    }

    fn report(start: &mut FirstStart, at: u64, n: u128) {
        let report = Report {
            brick: BrickId(uuid::Uuid::from_u128(n)),
            incarnation: Incarnation(1),
            memory_intact: true,
            durable: Epoch::NONE,
        };
        start.on_report(Tick(at), &report);
    }

    #[test]
    fn a_first_start_waits_for_all_bricks_then_for_enough() {
        let mut start = FirstStart::default();
        report(&mut start, 5, 1);
        assert_eq!(start.decide(Tick(6), &map(), 2), None);
        let late = Tick(5).after(FIRST_START_WAIT);
        assert_eq!(start.decide(late, &map(), 2), None, "one of two needed");
        report(&mut start, 6, 2);
        assert_eq!(start.decide(Tick(7), &map(), 2), None, "the third may come");
        assert!(start.decide(late, &map(), 2).is_some());
        report(&mut start, 8, 3);
        assert!(start.decide(Tick(9), &map(), 2).is_some());
    }

    #[test]
    fn a_set_that_has_served_is_never_started_afresh() {
        let mut start = FirstStart::default();
        (1..=3).for_each(|n| report(&mut start, 0, n));
        let served = SetMap { epoch: Epoch(9), ..map() };
        assert_eq!(start.decide(Tick(1), &served, 2), None);
    }
}
