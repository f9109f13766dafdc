//! The daemon's life: opens its parts in order, runs until a signal, stops them in reverse.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use async_trait::async_trait;
use proto::{BrickId, Epoch, Incarnation, VolumeId};
use proto_grpc::peer::{BrickRun, HealRun};
use proto_rules::SetKey;
use tokio::signal::unix::{SignalKind, signal};

use crate::brick::io::Backend;
use crate::brick::manager::Manager;
use crate::config::Config;
use crate::listener;
use crate::metrics::{self, Registry};
use crate::pool::bricks::{BrickSpec, Bricks, HealStatus, Members};
use crate::pool::{Hooks, Pool, announce, brick_driver, promise};
use crate::rpc;

/// Runs the daemon until SIGTERM or SIGINT.
///
/// # Errors
/// What keeps it from starting, with the file or port concerned.
pub async fn run(
    config: Config,
    hooks: impl FnOnce(&Pool) -> anyhow::Result<Hooks>,
) -> anyhow::Result<()> {
    let pool = start(config, hooks).await?;
    let mut term = signal(SignalKind::terminate()).context("signals")?;
    let mut int = signal(SignalKind::interrupt()).context("signals")?;
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    tracing::info!("stopping");
    if let Some(hooks) = pool.hooks() {
        hooks.bricks.stop_all().await;
    }
    pool.shutdown().await;
    Ok(())
}

/// Opens the pool, connects its hooks, and opens the control port.
///
/// # Errors
/// As [`run`].
pub async fn start(
    config: Config,
    hooks: impl FnOnce(&Pool) -> anyhow::Result<Hooks>,
) -> anyhow::Result<Pool> {
    let pool = Pool::open(config).await?;
    demand_no_bricks_on_a_witness(&pool)?;
    tokio::spawn(announce::drive(pool.clone()));
    let hooks = hooks(&pool)?;
    pool.attach(hooks.clone());
    rpc::serve(&pool).await?;
    tokio::spawn(brick_driver::drive(pool.clone(), Arc::clone(&hooks.bricks)));
    Ok(pool)
}

/// A peer that holds bricks is no witness, whatever its configuration says.
fn demand_no_bricks_on_a_witness(pool: &Pool) -> anyhow::Result<()> {
    let (state, config) = (pool.state(), pool.config());
    anyhow::ensure!(
        !config.witness || !state.holds_bricks(pool.id()),
        "this peer holds bricks of the pool and cannot become a witness; take witness = true \
         (--witness) out of its configuration"
    );
    Ok(())
}

/// Hooks of a peer with bricks: opens the data, promise and metrics ports.
///
/// # Errors
/// A port that cannot be used.
pub fn with_bricks(pool: &Pool) -> anyhow::Result<(Hooks, Arc<Manager>)> {
    let config = pool.config();
    let port = |port: u16, what: &str| {
        let address = SocketAddr::new(config.listen, port);
        let open = std::net::TcpListener::bind(address);
        open.with_context(|| port_in_use(what, &address))
    };
    let backend = match std::env::var("BRICKD_IO") {
        Ok(name) => name.parse().map_err(anyhow::Error::msg)?,
        Err(_) => Backend::Auto,
    };
    let registry = Arc::new(Registry::default());
    let manager = Manager::new(pool.clone(), backend, registry.clone());
    listener::spawn(port(config.data_port, "data")?, manager.clone())?;
    promise::spawn(pool.clone(), manager.board().clone())?;
    let metrics = port(config.metrics_port, "metrics")?;
    metrics.set_nonblocking(true)?;
    tokio::spawn(metrics::serve(tokio::net::TcpListener::from_std(metrics)?, registry));
    let hooks = Hooks { bricks: manager.clone(), heal: manager.clone(), members: manager.clone() };
    Ok((hooks, manager))
}

/// Before the system's reason why a port cannot be opened.
pub fn port_in_use(what: &str, address: &SocketAddr) -> String {
    format!(
        "{what} port {address} cannot be opened (is another brickd running? --listen and \
         --{what}-port name another one)"
    )
}

/// Hooks of a peer that has no bricks.
pub fn no_bricks() -> Hooks {
    let none = Arc::new(NoBricks);
    Hooks { bricks: none.clone(), heal: none.clone(), members: none }
}

/// A witness: votes, holds nothing.
struct NoBricks;

#[async_trait]
impl Bricks for NoBricks {
    async fn prepare(&self, _: &BrickSpec, _: bool) -> Result<(), String> {
        Err("this peer is a witness and holds no bricks; name a brick of another peer".into())
    }

    async fn abandon(&self, _: &BrickSpec) {}

    async fn start(&self, _: &BrickSpec) -> Result<(), String> {
        Err("this peer holds no bricks".into())
    }

    async fn stop(&self, _: &BrickSpec) {}

    async fn dropped(&self, _: &BrickSpec) {}

    fn status(&self, _: VolumeId) -> Vec<BrickRun> {
        Vec::new()
    }
}

impl HealStatus for NoBricks {
    fn heal_status(&self, _: VolumeId) -> Vec<HealRun> {
        Vec::new()
    }
}

#[async_trait]
impl Members for NoBricks {
    async fn stop_promising(&self, _: SetKey, _: Epoch, _: BrickId) -> bool {
        false
    }

    async fn agree_join(
        &self,
        _: SetKey,
        _: Epoch,
        _: BrickId,
        _: Incarnation,
    ) -> Result<(), String> {
        Err("this peer holds no bricks".into())
    }

    async fn trust_copies(&self, _: SetKey, _: BrickId) -> Result<usize, String> {
        Err("this peer holds no bricks".into())
    }

    async fn retire(&self, _: SetKey, _: Epoch, _: BrickId, _: Incarnation) -> Result<(), String> {
        Err("this peer holds no bricks".into())
    }
}
