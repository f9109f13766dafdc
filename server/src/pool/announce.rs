//! Tells the pool when this peer's ports, or that it is a witness, changed in its configuration.

use std::time::Duration;

use super::Pool;
use super::command::Command;

/// Between looks: without a majority a change waits.
const AGAIN: Duration = Duration::from_secs(5);

/// Runs for as long as the daemon does.
pub async fn drive(pool: Pool) {
    let mut state = pool.watch_state();
    loop {
        let differs = {
            let now = state.borrow_and_update().clone();
            now.peers.get(&pool.id()).filter(|_| pool.membership().is_some()).and_then(|known| {
                let own = pool.new_peer(&known.host);
                let ports = (own.control_port, own.data_port, own.promise_port, own.witness);
                let told = (known.control_port, known.data_port, known.promise_port, known.witness);
                (ports != told && !known.lost).then_some(own)
            })
        };
        if let Some(own) = differs {
            let done = pool.propose(Command::UpdatePeer(own)).await;
            match done.map_err(|e| e.to_string()).and_then(|reply| reply.done()) {
                Ok(_) => tracing::info!("the pool knows this peer's new configuration"),
                Err(error) => tracing::warn!(error, "the pool does not know this peer's ports yet"),
            }
            tokio::time::sleep(AGAIN).await;
        }
        if state.changed().await.is_err() {
            return;
        }
    }
}
