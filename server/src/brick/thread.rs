//! The thread of a brick: its commands, its timers, its connections.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use proto::frame::{BadFrame, Features, Frame, FrameKind, Header, VERSION, Welcome};
use server_store::Store;
use tokio::sync::{mpsc, oneshot};

use super::clock::{now, wall_ns};
use super::connection::{Conn, ConnId, Ended, Serve, read_loop};
use super::core::{Brick, Core};
use super::inbox::{BrickCommand, BrickHandle, INBOX_MAX, Newcomer, Setup};
use super::io::{BrickIo, Runner, blocking, run};
use super::request::Pending;

/// A checkpoint while there is something to sync; bounds what a power loss makes suspect.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(5);
/// Free space changes slowly.
const FACTS_EVERY: Duration = Duration::from_millis(500);
/// Connections of one brick; a mount uses a few, each session at most `PER_SESSION_MAX`.
const CONNECTIONS_MAX: usize = 8192;
const PER_SESSION_MAX: usize = 128;
/// For the last frames of a stopping brick to leave.
const FAREWELL: Duration = Duration::from_millis(20);

/// Starts a brick's thread. `open` makes the store there, because a store belongs to its
/// thread; its error comes back.
///
/// # Errors
/// One line for people: the thread, the runtime or the store cannot be made.
pub async fn spawn(
    setup: Setup,
    open: impl FnOnce() -> Result<Store, String> + Send + 'static,
) -> Result<BrickHandle, String> {
    let (inbox, commands) = mpsc::channel(INBOX_MAX);
    let (ready, is_ready) = oneshot::channel();
    let handle = BrickHandle {
        identity: setup.identity,
        inbox,
        gate: setup.gate.clone(),
        metrics: setup.metrics.clone(),
    };
    let name = format!("brick-{}", &setup.identity.brick.to_string()[..8]);
    let body = move || {
        let store = match open() {
            Ok(store) => store,
            Err(error) => return drop(ready.send(Err(error))),
        };
        let backend = setup.backend.resolve();
        let life = Life { setup, store, commands, ready };
        match run(backend, life) {
            // Its tasks are gone with the runtime: nobody else has the store.
            Ok(Some((brick, answer))) => close(brick, answer),
            Ok(None) => {}
            Err(error) => tracing::error!(%error, ?backend, "a brick's thread cannot run"),
        }
    };
    std::thread::Builder::new().name(name).spawn(body).map_err(|e| format!("thread: {e}"))?;
    is_ready.await.map_err(|_| "the brick's thread ended at once".to_owned())??;
    Ok(handle)
}

struct Life {
    setup: Setup,
    store: Store,
    commands: mpsc::Receiver<BrickCommand>,
    ready: oneshot::Sender<Result<(), String>>,
}

/// A brick that has stopped serving, and who wants to know when it is closed.
type Stopped = (Rc<Brick>, Option<oneshot::Sender<bool>>);

impl Runner for Life {
    type Output = Option<Stopped>;

    async fn run<I: BrickIo>(self, io: I) -> Option<Stopped> {
        let map = self.setup.map.clone();
        let (setup, store) = (self.setup, self.store);
        let core = match Core::new(setup, store) {
            Ok(core) => core,
            Err(errno) => {
                let _ = self.ready.send(Err(format!("the brick's database: {errno:?}")));
                return None;
            }
        };
        let brick = Rc::new(Brick { core: RefCell::new(core), disk: Rc::new(io.clone()) });
        brick.core.borrow_mut().me = Rc::downgrade(&brick);
        brick.core.borrow_mut().refresh_facts();
        if let Some(map) = map {
            brick.core.borrow_mut().on_map(map);
        }
        let _ = self.ready.send(Ok(()));
        let answer = serve(&brick, &io, self.commands).await;
        say_goodbye(&brick).await;
        Some((brick, answer))
    }
}

/// Makes everything durable. True: cleanly.
fn close(brick: Rc<Brick>, answer: Option<oneshot::Sender<bool>>) {
    let closed = match Rc::try_unwrap(brick) {
        Ok(brick) => {
            let mut core = brick.core.into_inner();
            let _ = core.note_in_sync();
            core.failed.is_none() && core.store.close().is_ok()
        }
        Err(_) => {
            tracing::error!("a task of a stopped brick is still there; its store is not closed");
            false
        }
    };
    if let Some(answer) = answer {
        // Whoever asked may be gone.
        let _ = answer.send(closed);
    }
}

async fn serve<I: BrickIo>(
    brick: &Rc<Brick>,
    io: &I,
    mut commands: mpsc::Receiver<BrickCommand>,
) -> Option<oneshot::Sender<bool>> {
    let mut checkpoint = tokio::time::interval(CHECKPOINT_EVERY);
    let mut facts = tokio::time::interval(FACTS_EVERY);
    for every in [&mut checkpoint, &mut facts] {
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    }
    loop {
        let (pause, sooner) = brick.core.borrow_mut().plan_tick(now());
        tokio::select! {
            command = commands.recv() => match command {
                Some(BrickCommand::Connect(newcomer)) => connect(brick, io, newcomer),
                Some(BrickCommand::Map(map)) => brick.core.borrow_mut().on_map(map),
                Some(BrickCommand::JoinEnded) => brick.core.borrow_mut().join_ended(),
                Some(BrickCommand::TakeOverLog { items, complete_since, answer }) => {
                    let taken = brick.core.borrow_mut().take_over_log(&items, complete_since);
                    // A heal that is gone asks again.
                    let _ = answer.send(taken);
                }
                Some(BrickCommand::Keeps { lead, marks, answer }) => {
                    let _ = answer.send(brick.core.borrow().member.keeps(lead, &marks));
                }
                Some(BrickCommand::TrustCopies { source, answer }) => {
                    brick.core.borrow_mut().trust_copies(source, answer);
                }
                Some(BrickCommand::NoteHeal { resume, answer }) => {
                    let noted = brick.core.borrow_mut().note_resume(Some(resume));
                    let _ = answer.send(noted.is_ok());
                }
                Some(BrickCommand::Stop(answer)) => return Some(answer),
                None => return None,
            },
            _ = checkpoint.tick() => start_checkpoint(brick),
            _ = facts.tick() => brick.core.borrow_mut().refresh_facts(),
            () = tokio::time::sleep(pause) => {}
            () = sooner.notified() => {}
        }
        brick.core.borrow_mut().tick();
    }
}

/// Syncs on a helper thread what has changed since the last time, if anything.
fn start_checkpoint(brick: &Rc<Brick>) {
    let mut core = brick.core.borrow_mut();
    if core.checkpointing || core.failed.is_some() || !core.store.dirty() {
        return;
    }
    core.checkpointing = true;
    if core.note_in_sync().is_err() {
        core.leave("a note cannot be written to its database");
        return;
    }
    let (handle, interval) = (core.store.checkpoint_handle(), core.interval.current());
    let in_sync = core.setup.gate.in_sync_interval();
    core.spawn(|brick| async move {
        let done = blocking(move || handle.run(interval)).await;
        let mut core = brick.core.borrow_mut();
        core.checkpointing = false;
        match done {
            Ok(()) => core.checkpointed(in_sync),
            Err(errno) => core.leave(&format!("a checkpoint failed: {errno:?}")),
        }
        core.refresh_facts();
    });
}

/// Answers nobody from now on, and tells all connections.
async fn say_goodbye(brick: &Rc<Brick>) {
    {
        let mut core = brick.core.borrow_mut();
        core.setup.gate.set_failed("stopped");
        core.lose_lead();
        for (conn, _) in core.conns.values() {
            conn.push(Header::new(FrameKind::Goodbye), &(), Bytes::new());
            conn.outbox.finish();
        }
    }
    // What a socket takes at once goes out; whoever does not read learns it by the end.
    tokio::time::sleep(FAREWELL).await;
}

fn connect<I: BrickIo>(brick: &Rc<Brick>, io: &I, newcomer: Newcomer) {
    let socket = match io.adopt(newcomer.stream) {
        Ok(socket) => Rc::new(socket),
        Err(error) => {
            tracing::warn!(from = %newcomer.from, %error, "a connection cannot be taken over");
            return;
        }
    };
    let mut core = brick.core.borrow_mut();
    let id = ConnId(core.fresh_id());
    let conn = Rc::new(Conn::new(id, newcomer.session, newcomer.credential));
    let session_conns = core.sessions.get(&newcomer.session).map_or(0, |ids| ids.len());
    if core.conns.len() >= CONNECTIONS_MAX
        || (conn.peer().is_none() && session_conns >= PER_SESSION_MAX)
    {
        return refuse(&conn, &*socket, "too many connections");
    }
    if conn.peer().is_none()
        && let Some(lead) = &mut core.lead
    {
        // Busy while its death is being settled: its requests are told to come again.
        let _ = lead.table.hello(now(), newcomer.session);
    }
    conn.push(Header::new(FrameKind::Welcome), &welcome(&core), Bytes::new());
    core.conns.insert(id, (conn.clone(), newcomer.number));
    core.sessions.entry(newcomer.session).or_default().insert(id);
    tracing::debug!(
        from = %newcomer.from, host = newcomer.host, session = newcomer.session.0,
        brick = %core.setup.identity.brick, "connected",
    );
    let (reader, writer) = (brick.clone(), io.clone());
    let (read_conn, read_socket) = (conn.clone(), socket.clone());
    let io = io.clone();
    brick.clone().guard(async move {
        let ended = read_loop(&io, &*read_socket, &read_conn, &reader).await;
        reader.ended(&read_conn, &ended);
    });
    brick.clone().guard(async move {
        // The reader sees a broken connection too, and says so.
        let _ = conn.outbox.write_loop(&writer, &*socket).await;
        conn.close();
        // Ends the reader's wait: a request in the ring holds its socket open until then.
        let _ = rustix::net::shutdown(&*socket, rustix::net::Shutdown::Both);
    });
}

fn refuse<S: std::os::fd::AsFd>(conn: &Conn, socket: &S, error: &str) {
    let welcome = Welcome { version: VERSION.into(), error: error.into(), ..Welcome::default() };
    conn.push(Header::new(FrameKind::Welcome), &welcome, Bytes::new());
    let sent: io::Result<()> = conn.outbox.flush_now(socket);
    tracing::warn!(session = conn.session.0, error, ?sent, "a connection was refused");
}

fn welcome(core: &Core) -> Welcome {
    Welcome {
        version: VERSION.into(),
        features: Features::OURS.0,
        incarnation: core.setup.identity.incarnation.0,
        epoch: core.epoch().0,
        error: String::new(),
        time_ns: wall_ns(),
    }
}

impl Brick {
    fn ended(&self, conn: &Rc<Conn>, ended: &Ended) {
        conn.close();
        let mut core = self.core.borrow_mut();
        core.disconnected(conn);
        match ended {
            Ended::Bad(bad) => {
                core.setup.metrics.bad_frames.add(1);
                tracing::warn!(session = conn.session.0, %bad, "a connection sent no good frame");
            }
            ended => tracing::debug!(session = conn.session.0, %ended, "disconnected"),
        }
    }
}

impl Serve for Rc<Brick> {
    fn frame(&self, conn: &Rc<Conn>, frame: Frame) -> Result<(), BadFrame> {
        let pending = Pending::decode(conn, frame, now())?;
        self.core.borrow_mut().advance(pending);
        Ok(())
    }
}
