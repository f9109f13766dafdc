//! Daemons in this process, each on a runtime and a loopback address of its own, with bricks
//! that only pretend. Dropping a daemon's runtime is its kill -9: nothing is said or flushed.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use proto::{BrickId, Epoch, Incarnation, VolumeId};
use proto_grpc::connect::{self, WithPass};
use proto_grpc::control::control_client::ControlClient;
use proto_grpc::peer::{BrickRun, HealRun};
use proto_rules::SetKey;
use proto_rules::restart;
use server::config::Config;
use server::daemon;
use server::pool::bricks::{BrickSpec, Bricks, HealStatus, Members};
use server::pool::membership::Report;
use server::pool::{Hooks, Pool};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;

pub type Control = ControlClient<InterceptedService<Channel, WithPass>>;

/// An address that no other test run of this machine uses at the same time.
pub fn address(test: u8, peer: u8) -> IpAddr {
    let pid = std::process::id();
    IpAddr::V4(Ipv4Addr::new(127, 64 + (pid % 128) as u8, (pid / 128 % 16) as u8 * 16 + test, peer))
}

pub struct Daemon {
    pub config: Config,
    pub bricks: Arc<FakeBricks>,
    pool: Option<Pool>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Daemon {
    pub fn start(config: Config) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let bricks = Arc::new(FakeBricks::default());
        let hooks = {
            let bricks = bricks.clone();
            move |pool: &Pool| {
                *bricks.pool.lock().unwrap() = Some(pool.clone());
                let (heal, members) = (bricks.clone(), bricks.clone());
                Ok(Hooks { bricks, heal, members })
            }
        };
        let pool = runtime.block_on(daemon::start(config.clone(), hooks)).unwrap();
        Self { config, bricks, pool: Some(pool), runtime: Some(runtime) }
    }

    pub fn pool(&self) -> &Pool {
        self.pool.as_ref().expect("running")
    }

    /// Runs `work` on this daemon's runtime.
    pub fn run<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.as_ref().expect("running").block_on(work)
    }

    pub fn control(&self) -> Control {
        let channel = self.run(connect::unix(&self.config.control_socket())).unwrap();
        ControlClient::with_interceptor(channel, WithPass(None))
    }

    pub fn kill(&mut self) {
        self.pool = None;
        self.bricks.crashed();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }

    pub fn restart(&mut self) {
        self.kill();
        // RocksDB's lock goes with the last task that holds the database.
        std::thread::sleep(Duration::from_millis(50));
        *self = Self::start(self.config.clone());
    }
}

pub fn config(dir: &Path, listen: IpAddr) -> Config {
    Config {
        state_dir: dir.join(listen.to_string()),
        listen,
        join_key: dir.join("join.key"),
        ..Config::default()
    }
}

/// `n` daemons with one join key; un-pooled.
pub fn daemons(dir: &Path, test: u8, n: u8) -> Vec<Daemon> {
    server::pool::join::make_key(&dir.join("join.key"), false).unwrap();
    (1..=n).map(|peer| Daemon::start(config(dir, address(test, peer)))).collect()
}

/// Waits until `done` holds; the time it took.
pub fn wait(what: &str, limit: Duration, mut done: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < limit, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
    start.elapsed()
}

/// Bricks without a disk: they report themselves as a real brick manager does.
#[derive(Default)]
pub struct FakeBricks {
    pool: Mutex<Option<Pool>>,
    served: Mutex<BTreeMap<BrickId, (BrickSpec, Incarnation)>>,
    pub prepared: Mutex<BTreeMap<BrickId, BrickSpec>>,
    /// What `prepare` answers for a path.
    pub refuse: Mutex<BTreeMap<String, String>>,
    /// Promises that this peer was asked to stop.
    pub stopped: Mutex<Vec<(SetKey, Epoch, BrickId)>>,
    /// Bricks whose gate was closed for good.
    pub retired: Mutex<Vec<(SetKey, Epoch, BrickId)>>,
    /// Bricks that are no member of their volume any more.
    pub dropped: Mutex<Vec<BrickId>>,
}

impl FakeBricks {
    fn crashed(&self) {
        self.served.lock().unwrap().clear();
        // The pool holds the bricks: each would keep the other, and the state folder.
        *self.pool.lock().unwrap() = None;
    }

    fn is_served(&self, brick: BrickId) -> bool {
        self.served.lock().unwrap().contains_key(&brick)
    }
}

#[async_trait]
impl Bricks for FakeBricks {
    async fn prepare(&self, spec: &BrickSpec, _: bool) -> Result<(), String> {
        if let Some(why) = self.refuse.lock().unwrap().get(&spec.path) {
            return Err(why.clone());
        }
        self.prepared.lock().unwrap().insert(spec.brick, spec.clone());
        Ok(())
    }

    async fn abandon(&self, spec: &BrickSpec) {
        self.prepared.lock().unwrap().remove(&spec.brick);
    }

    async fn start(&self, spec: &BrickSpec) -> Result<(), String> {
        if self.is_served(spec.brick) {
            return Ok(());
        }
        let pool = self.pool.lock().unwrap().clone().ok_or("the daemon has crashed")?;
        let incarnation = Incarnation(uuid::Uuid::new_v4().as_u64_pair().0.max(1));
        self.served.lock().unwrap().insert(spec.brick, (spec.clone(), incarnation));
        let (spec, set) = (spec.clone(), SetKey { volume: spec.volume, set: spec.set });
        tokio::spawn(async move {
            let named = |pool: &Pool| {
                let map = pool.watch_map(spec.volume)?.borrow().clone();
                Some(map.member(spec.brick)?.1.incarnation == incarnation)
            };
            while named(&pool) == Some(false) {
                let report = restart::Report {
                    brick: spec.brick,
                    incarnation,
                    memory_intact: true,
                    durable: Epoch::NONE,
                };
                pool.report(Report::BrickUp { set, report }).await;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
        Ok(())
    }

    async fn stop(&self, spec: &BrickSpec) {
        self.served.lock().unwrap().remove(&spec.brick);
    }

    async fn dropped(&self, spec: &BrickSpec) {
        self.dropped.lock().unwrap().push(spec.brick);
    }

    fn status(&self, volume: VolumeId) -> Vec<BrickRun> {
        let served = self.served.lock().unwrap();
        let of_volume = served.values().filter(|(spec, _)| spec.volume == volume);
        of_volume
            .map(|(spec, incarnation)| BrickRun {
                brick_id: spec.brick.as_bytes().to_vec().into(),
                online: true,
                port: 9611,
                pid: std::process::id(),
                incarnation: incarnation.0,
                noted_epoch: u64::MAX,
                ..BrickRun::default()
            })
            .collect()
    }
}

impl HealStatus for FakeBricks {
    fn heal_status(&self, volume: VolumeId) -> Vec<HealRun> {
        let runs = self.status(volume).into_iter();
        runs.map(|run| HealRun { brick_id: run.brick_id, ..HealRun::default() }).collect()
    }
}

#[async_trait]
impl Members for FakeBricks {
    async fn stop_promising(&self, set: SetKey, epoch: Epoch, victim: BrickId) -> bool {
        self.stopped.lock().unwrap().push((set, epoch, victim));
        true
    }

    async fn agree_join(
        &self,
        _: SetKey,
        _: Epoch,
        _: BrickId,
        _: Incarnation,
    ) -> Result<(), String> {
        Ok(())
    }

    async fn trust_copies(&self, _: SetKey, _: BrickId) -> Result<usize, String> {
        Ok(0)
    }

    async fn retire(
        &self,
        set: SetKey,
        epoch: Epoch,
        brick: BrickId,
        _: Incarnation,
    ) -> Result<(), String> {
        self.retired.lock().unwrap().push((set, epoch, brick));
        Ok(())
    }
}
