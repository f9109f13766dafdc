//! Evictions: who lacks whose promise, who is silent, who goes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use proto::map::SetMap;
use proto::{BrickId, PeerId};
use proto_grpc::peer::PingRequest;
use proto_rules::set::{SetEntry, choose_eviction};
use proto_rules::time::PING_EVERY;
use proto_rules::{SetKey, Tick};

use super::{Ask, LACK_FRESH, Memory, Shared, lock, set_of};
use crate::pool::command::Command;
use crate::pool::state::PoolState;
use crate::pool::{Pool, clock};

/// A peer that is up answers a ping in a millisecond; one that is dead answers a connection
/// attempt at once or never.
const PING_TIMEOUT: Duration = Duration::from_millis(400);

/// Members that lost the same link miss each other's promises within one interval of pings.
const REPORTS_IN: Duration = Duration::from_nanos(PING_EVERY);

type Lacks = BTreeMap<SetKey, BTreeSet<(BrickId, BrickId)>>;

/// Starts work on every set for which members lack promises and nothing is under way.
pub fn consider(pool: &Pool, memory: &Shared) {
    let state = pool.state();
    let mut lacks = Lacks::new();
    {
        let mut memory = lock(memory);
        forget_old(&mut memory, &state);
        for (set, holder, giver) in due(&memory, &state, clock::now()) {
            lacks.entry(set).or_default().insert((holder, giver));
            memory.busy.insert(set);
        }
    }
    if lacks.is_empty() {
        return;
    }
    let (pool, memory) = (pool.clone(), memory.clone());
    tokio::spawn(async move {
        let sets: Vec<SetKey> = lacks.keys().copied().collect();
        let silent = silent(&pool, &state, &lacks).await;
        if silent.is_empty() {
            // All are there, and some do not hear each other: who is to blame shows when
            // everybody has reported.
            tokio::time::sleep(REPORTS_IN).await;
            gather(&memory, &state, &mut lacks);
        }
        evict(&pool, &state, lacks, silent).await;
        lock(&memory).busy.retain(|set| !sets.contains(set));
    });
}

/// Lacks in sets for which nothing is under way. Where the daemon of an in-sync brick has started,
/// its entry comes first: until then its promise is missing whoever goes, it agrees to no
/// eviction, and questions about one would keep the set busy for ever.
fn due(memory: &Memory, state: &PoolState, now: Tick) -> Vec<(SetKey, BrickId, BrickId)> {
    let unnamed = |set: &SetKey| {
        let restart = memory.restarts.get(set).zip(set_of(state, *set));
        restart.is_some_and(|(restart, map)| restart.unnamed_in_sync(now, map))
    };
    let free = |set: &SetKey| !memory.busy.contains(set) && !unnamed(set);
    memory.lacks.keys().filter(|(set, _, _)| free(set)).copied().collect()
}

/// Keeps what was reported lately, in the epochs of `state`.
fn forget_old(memory: &mut Memory, state: &PoolState) {
    let now = clock::now();
    memory.lacks.retain(|(set, _, _), (epoch, at)| {
        now.since(*at) < LACK_FRESH && set_of(state, *set).is_some_and(|m| m.epoch == *epoch)
    });
}

/// Adds what was reported meanwhile, in the pool's present epochs: where one has begun since,
/// what is proposed for the old one is void.
fn gather(memory: &Shared, state: &PoolState, lacks: &mut Lacks) {
    let mut memory = lock(memory);
    forget_old(&mut memory, state);
    for (set, holder, giver) in memory.lacks.keys() {
        if let Some(known) = lacks.get_mut(set) {
            known.insert((*holder, *giver));
        }
    }
}

/// All sets of one event together, so that a dead peer costs one round of questions and one
/// entry in the log.
async fn evict(pool: &Pool, state: &PoolState, lacks: Lacks, silent: BTreeSet<PeerId>) {
    let mut chosen = Vec::new();
    for (key, lacks) in &lacks {
        let Some(map) = set_of(state, *key) else { continue };
        let mute = map.in_sync().filter(|m| silent.contains(&m.peer)).map(|m| m.brick).collect();
        if let Some(victim) = choose_eviction(map, &mute, lacks) {
            chosen.push((*key, map, victim));
        }
    }
    let mute = &silent;
    let agreed = chosen.iter().map(|(key, map, victim)| async move {
        let agreed = one_agrees(pool, state, *key, map, *victim).await;
        agreed.then(|| (*key, entry(map, *victim, mute)))
    });
    let entries: Vec<_> =
        futures_util::future::join_all(agreed).await.into_iter().flatten().collect();
    if entries.is_empty() {
        return;
    }
    tracing::warn!(?entries, "evicting");
    if let Err(error) = pool.propose(Command::Membership(entries)).await {
        tracing::warn!(%error, "eviction not committed");
    }
}

fn entry(map: &SetMap, victim: BrickId, silent: &BTreeSet<PeerId>) -> SetEntry {
    let peer = map.member(victim).map(|m| m.peer).filter(|p| silent.contains(p));
    match peer {
        Some(peer) => SetEntry::EvictPeer {
            epoch: map.epoch,
            peer,
            reason: "its peer does not answer".into(),
        },
        None => SetEntry::Evict {
            epoch: map.epoch,
            brick: victim,
            reason: "it and another member do not hear each other".into(),
        },
    }
}

/// Peers of the sets concerned that do not answer the leader either.
async fn silent(pool: &Pool, state: &PoolState, lacks: &Lacks) -> BTreeSet<PeerId> {
    let peers: BTreeSet<PeerId> = lacks
        .keys()
        .filter_map(|key| set_of(state, *key))
        .flat_map(|map| map.in_sync().map(|m| m.peer))
        .filter(|peer| *peer != pool.id())
        .collect();
    let pings = peers.into_iter().map(|peer| async move {
        let answers = answers(pool, state, peer).await;
        (!answers).then_some(peer)
    });
    futures_util::future::join_all(pings).await.into_iter().flatten().collect()
}

async fn answers(pool: &Pool, state: &PoolState, peer: PeerId) -> bool {
    let Some(mut client) = state.peers.get(&peer).and_then(|p| pool.peer_client(p).ok()) else {
        return false;
    };
    let ping = client.ping(PingRequest {});
    matches!(tokio::time::timeout(PING_TIMEOUT, ping).await, Ok(Ok(_)))
}

/// Whether a remaining in-sync member stopped promising the victim and waited: one is enough,
/// because the victim serves only with the promises of all.
async fn one_agrees(
    pool: &Pool,
    state: &PoolState,
    set: SetKey,
    map: &SetMap,
    victim: BrickId,
) -> bool {
    let ask = &Ask::StopPromising { set, epoch: map.epoch, victim };
    let victims = map.member(victim).map(|m| m.peer);
    let others: BTreeSet<PeerId> =
        map.in_sync().map(|m| m.peer).filter(|p| Some(*p) != victims).collect();
    let mut asks: FuturesUnordered<_> = others
        .iter()
        .filter_map(|id| state.peers.get(id))
        .map(|peer| pool.ask(peer, ask))
        .collect();
    while let Some(answer) = asks.next().await {
        match answer {
            Ok(()) => return true,
            Err(why) => tracing::info!(why, "a member did not agree to an eviction"),
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::pool::command::{NewBrick, unstarted_set};
    use crate::pool::state::VolumeState;
    use proto::map::MemberState;
    use proto::{Epoch, Incarnation, VolumeId};
    use proto_rules::restart::Report;

    #[test]
    fn a_started_brick_is_named_before_anybody_is_evicted() {
        let bricks = [(); 2].map(|()| NewBrick {
            id: BrickId::random(),
            peer: PeerId::random(),
            path: "/b".into(),
        });
        let mut set = unstarted_set(0, &bricks);
        set.epoch = Epoch(5);
        set.members.iter_mut().for_each(|m| m.state = MemberState::InSync);
        let key = SetKey { volume: VolumeId::random(), set: set.id };
        let volume = VolumeState {
            id: key.volume,
            name: "gv0".into(),
            replica: 2,
            stripe: 1,
            stripe_block: 1,
            transport: "tcp".into(),
            started: true,
            ever_started: true,
            created_s: 0,
            version: 5,
            sets: vec![set.clone()],
            slots: Arc::default(),
            options: BTreeMap::new(),
            changes: Vec::new(),
        };
        let mut state = PoolState::default();
        state.volumes.insert(key.volume, Arc::new(volume));
        let (one, other) = (bricks[0].id, bricks[1].id);
        let mut memory = Memory::default();
        memory.lacks.insert((key, one, other), (Epoch(5), Tick(1)));
        assert_eq!(due(&memory, &state, Tick(1)), [(key, one, other)]);
        let mut started = |incarnation| {
            let incarnation = Incarnation(incarnation);
            let report =
                Report { brick: other, incarnation, memory_intact: true, durable: Epoch(5) };
            memory.restarts.entry(key).or_default().on_report(Tick(2), &set, report);
            due(&memory, &state, Tick(3))
        };
        assert_eq!(started(7), [], "nobody could agree");
        assert_eq!(started(0), [(key, one, other)], "its incarnation is the named one");
        started(7);
        let gone_again = Tick(3).after(2_000_000_000);
        assert_eq!(due(&memory, &state, gone_again), [(key, one, other)]);
        memory.busy.insert(key);
        assert_eq!(due(&memory, &state, gone_again), []);
    }
}
