//! `mount.brick`: mounts a volume, as a helper of mount(8) or by itself.

use std::fs::File;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context as _, Result};
use client_fuse::connect::{Connected, connect};
use client_fuse::daemon::{self, Forked, MOUNT_FAILED, Tell};
use client_fuse::options::{BadWords, Options};
use client_fuse::serving::Serving;
use tokio::signal::unix::{SignalKind, signal};

/// Exit code of mount(8) for words that are wrong.
const USAGE_FAILED: u8 = 1;
/// How often the end of the mount is looked for.
const END_TICK: Duration = Duration::from_millis(100);
/// Threads by default: beyond these the kernel's queue is the limit.
const THREADS_MAX: usize = 4;
const LOG_FOLDER: &str = "/var/log/brickwork";

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(BadWords::Help(usage)) => {
            println!("{usage}");
            return ExitCode::SUCCESS;
        }
        Err(BadWords::Usage(usage)) => {
            eprintln!("{usage}");
            return ExitCode::from(USAGE_FAILED);
        }
        Err(error) => {
            eprintln!("mount.brick: {error}");
            return ExitCode::from(USAGE_FAILED);
        }
    };
    if options.foreground {
        return ended(run(&options, None));
    }
    match daemon::fork() {
        Ok(Forked::Caller(status)) => ExitCode::from(status.wait()),
        Ok(Forked::Daemon(tell)) => ended(run(&options, Some(tell))),
        Err(error) => ended(Err(error.into())),
    }
}

fn ended(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mount.brick: {}", line(&error));
            ExitCode::from(MOUNT_FAILED)
        }
    }
}

/// An error and its causes in one line. Some say their cause themselves: it is not said twice.
fn line(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !text.contains(&cause) {
            let colon = if text.is_empty() { "" } else { ": " };
            text = text + colon + &cause;
        }
    }
    text.replace('\n', " ")
}

fn run(options: &Options, tell: Option<Tell>) -> Result<()> {
    let mut tell = tell;
    let result = mount(options, &mut tell);
    if let (Err(error), Some(tell)) = (&result, tell) {
        // The caller ends with this word: what is to be read must have been written before.
        eprintln!("mount.brick: {}", line(error));
        tell.failed();
        return Ok(());
    }
    result
}

fn mount(options: &Options, tell: &mut Option<Tell>) -> Result<()> {
    start_log(options)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("session")
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let connected = connect(options).await?;
        let Connected { session, volume, root } = connected;
        let threads = match options.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX),
            threads => threads,
        };
        let serving = Serving::start(volume, root, &options.dir, &options.mount, threads);
        let mut serving = match serving {
            Ok(serving) => serving,
            Err(error) => {
                session.close().await;
                return Err(error.into());
            }
        };
        tracing::info!(source = options.mount.source, dir = ?options.dir, threads, "mounted");
        let ready = tell.take().map_or(Ok(()), Tell::ready);
        if let Err(error) = ready {
            tracing::warn!(%error, "still tied to the caller's terminal");
        }
        until_the_end(&serving).await?;
        serving.wait();
        serving.finish().await;
        session.close().await;
        tracing::info!("unmounted");
        Ok(())
    })
}

/// Returns when the mount was unmounted, from outside or because of a signal.
async fn until_the_end(serving: &Serving) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    while !serving.has_ended() {
        tokio::select! {
            _ = terminate.recv() => unmount(serving),
            _ = interrupt.recv() => unmount(serving),
            // The terminal from which it was started is gone: no reason to end.
            _ = hangup.recv() => {}
            () = tokio::time::sleep(END_TICK) => {}
        }
    }
    Ok(())
}

fn unmount(serving: &Serving) {
    // Blocks while mapped pages are written back, which other threads serve.
    if let Err(error) = tokio::task::block_in_place(|| serving.unmount()) {
        tracing::error!(%error, "not unmounted");
    }
}

/// To stderr in the foreground, else to a file.
fn start_log(options: &Options) -> Result<()> {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(&options.log_level))
        .with_target(false);
    let file = match (&options.log_file, options.foreground) {
        (Some(path), _) => path.clone(),
        (None, true) => {
            builder.with_writer(std::io::stderr).init();
            return Ok(());
        }
        (None, false) => default_log(options)?,
    };
    let opened = File::options().append(true).create(true).open(&file);
    let opened = opened.with_context(|| format!("log file {}", file.display()))?;
    builder.with_ansi(false).with_writer(Mutex::new(opened)).init();
    Ok(())
}

/// `/mnt/a` logs to `mnt-a.log`.
fn default_log(options: &Options) -> Result<PathBuf> {
    std::fs::create_dir_all(LOG_FOLDER).with_context(|| LOG_FOLDER.to_owned())?;
    let dir = std::path::absolute(&options.dir)?;
    let name = dir.to_string_lossy().trim_matches('/').replace('/', "-");
    Ok(PathBuf::from(LOG_FOLDER).join(format!("{name}.log")))
}
