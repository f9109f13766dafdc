//! How many requests a second one worker thread answers, and what each costs in CPU time.
//!
//! Mounts an empty directory whose attributes the kernel may not keep, and asks for them again
//! and again from one or more client threads. Every `stat` is then one request: its cost is
//! that of this crate, the kernel's FUSE code and one wake-up each way.
//!
//! Usage: `getattr_rate [client threads] [worker threads] [seconds] [spin]`, `spin` in microseconds:
//! how long a worker looks for the next request before it sleeps

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use client_fuse_dev::{
    AsyncChannel, Channel, FileAttr, InitConfig, MountOptions, Op, OpenFlags, Request, mount,
};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<usize>());
    let mut next = |default| arguments.next().unwrap_or(Ok(default));
    let (clients, workers, seconds, spin) = (next(1)?, next(1)?, next(3)?, next(0)?);
    let spin = Duration::from_micros(spin as u64);
    let directory = tempfile::tempdir()?;
    let mut options = MountOptions::new("rate", "brick");
    options.allow_other = rustix::process::geteuid().is_root();
    let mut session = mount(&options, directory.path())?;
    println!("{:?}", session.init(&InitConfig::default())?);
    let mut serving = Vec::new();
    for _ in 0..workers {
        let channel = session.clone_channel()?;
        serving.push(std::thread::spawn(move || {
            serve(channel, spin).map_err(|error| error.to_string())
        }));
    }
    load(directory.path(), clients, Duration::from_secs(seconds as u64));
    session.unmount()?;
    for worker in serving {
        let (requests, cpu) = worker.join().map_err(|_| "a worker panicked")??;
        let each = cpu.as_nanos() / u128::from(requests.max(1));
        println!("worker: {requests} requests, {cpu:.2?} CPU, {each} ns CPU a request");
    }
    Ok(())
}

/// Asks for the root's attributes from `clients` threads; prints the rate.
fn load(path: &std::path::Path, clients: usize, time: Duration) {
    let (stop, total) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..clients {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    if std::fs::metadata(path).is_ok() {
                        total.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        std::thread::sleep(time);
        stop.store(true, Ordering::Relaxed);
    });
    let (count, taken) = (total.load(Ordering::Relaxed), started.elapsed());
    let rate = count as f64 / taken.as_secs_f64();
    println!("{clients} clients: {count} stats in {taken:.2?}: {rate:.0}/s");
}

fn serve(channel: Channel, spin: Duration) -> Outcome<(u64, Duration)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut channel: AsyncChannel = channel.into_async()?;
        let mut requests = 0;
        while let Some(request) = channel.fetch_polling(spin).await? {
            requests += 1;
            answer(request);
        }
        let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Ok((requests, Duration::new(cpu.tv_sec.unsigned_abs(), cpu.tv_nsec.try_into()?)))
    })
}

fn answer(request: Request) {
    let attr = FileAttr { ino: 1, mode: libc::S_IFDIR | 0o755, nlink: 1, ..FileAttr::default() };
    match request.op {
        Op::GetAttr { .. } => request.reply.attr(&attr, Duration::ZERO),
        Op::OpenDir { .. } => _ = request.reply.open(0, OpenFlags::EMPTY),
        Op::Forget { .. } | Op::BatchForget(_) | Op::Interrupt { .. } => request.reply.none(),
        _ => request.reply.err(libc::ENOSYS),
    }
}
