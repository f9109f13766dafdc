//! Keeps this peer's bricks as the pool's state wants them: served while their volume is started.
//!
//! One task per brick, so that a disk that hangs delays no other brick's start.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proto::{BrickId, PeerId};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::Pool;
use super::bricks::{BrickSpec, Bricks};
use super::state::PoolState;
use proto::map::MemberState;
use proto_rules::members::leaves;

/// Starts that failed are tried again, and a brick that stopped by itself is started again.
const AGAIN: Duration = Duration::from_secs(3);

/// Runs for as long as the daemon does.
pub async fn drive(pool: Pool, bricks: Arc<dyn Bricks>) {
    let mut state = pool.watch_state();
    let mut tasks: BTreeMap<BrickId, Task> = BTreeMap::new();
    loop {
        let now = state.borrow_and_update().clone();
        let wanted = wanted(&pool, &now);
        let gone: Vec<BrickId> =
            tasks.keys().copied().filter(|brick| !wanted.contains_key(brick)).collect();
        for task in gone.iter().filter_map(|brick| tasks.remove(brick)) {
            let kept = now.volumes.contains_key(&task.spec.volume);
            tokio::spawn(end(task, kept, bricks.clone()));
        }
        tasks.retain(|brick, task| {
            let started = wanted.get(brick).is_some_and(|(_, started)| *started);
            task.start.send_if_modified(|old| std::mem::replace(old, started) != started);
            !task.work.is_finished()
        });
        for (brick, (spec, started)) in wanted {
            tasks.entry(brick).or_insert_with(|| {
                let (start, receiver) = watch::channel(started);
                let work = tokio::spawn(keep(spec.clone(), bricks.clone(), receiver));
                Task { spec, start, work }
            });
        }
        if state.changed().await.is_err() {
            return;
        }
    }
}

struct Task {
    spec: BrickSpec,
    start: watch::Sender<bool>,
    work: JoinHandle<()>,
}

/// The brick is none of this peer's any more. `kept`: its volume goes on without it.
async fn end(task: Task, kept: bool, bricks: Arc<dyn Bricks>) {
    // A dropped sender ends the task after it has stopped the brick.
    drop(task.start);
    if task.work.await.is_ok() && kept {
        bricks.dropped(&task.spec).await;
    }
}

fn wanted(pool: &Pool, state: &PoolState) -> BTreeMap<BrickId, (BrickSpec, bool)> {
    let started = |spec: &BrickSpec| {
        let Some(volume) = state.volumes.get(&spec.volume) else { return false };
        // One that is to leave serves for as long as it is needed, and never comes back.
        let member = volume.bricks().find(|m| m.brick == spec.brick);
        let in_sync = member.is_some_and(|m| m.state == MemberState::InSync);
        volume.started && (in_sync || !leaves(&volume.changes_of(spec.set), spec.brick))
    };
    let own = own_specs(pool.id(), state).into_iter();
    own.map(|spec| (spec.brick, (spec.clone(), started(&spec)))).collect()
}

/// The bricks of one peer.
pub fn own_specs(peer: PeerId, state: &PoolState) -> Vec<BrickSpec> {
    let own = state.bricks().filter(|(_, _, member)| member.peer == peer);
    own.map(|(volume, set, member)| BrickSpec {
        volume: volume.id,
        volume_name: volume.name.clone(),
        set: set.id,
        brick: member.brick,
        path: member.path.clone(),
        created_s: volume.created_s,
    })
    .collect()
}

async fn keep(spec: BrickSpec, bricks: Arc<dyn Bricks>, mut started: watch::Receiver<bool>) {
    let mut last_error = String::new();
    loop {
        let start = *started.borrow_and_update();
        if start {
            match bricks.start(&spec).await {
                Ok(()) => last_error.clear(),
                Err(error) if error == last_error => {}
                Err(error) => {
                    tracing::error!(
                        volume = spec.volume_name,
                        path = spec.path,
                        error,
                        "brick not started"
                    );
                    last_error = error;
                }
            }
        } else {
            bricks.stop(&spec).await;
        }
        let changed = async {
            match start {
                true => tokio::time::timeout(AGAIN, started.changed()).await.unwrap_or(Ok(())),
                false => started.changed().await,
            }
        };
        if changed.await.is_err() {
            bricks.stop(&spec).await;
            return;
        }
    }
}
