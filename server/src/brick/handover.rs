//! What a joiner takes over from the lead, as bytes; and the rules' facts in the store.
//!
//! Travels as `HandOver::rules`; where many sessions have many changes unsettled it may be too
//! long for a message, and is then the frame's payload instead.

use bytes::Bytes;
use prost::Message as _;
use proto::fop::{LeaseKey, TouchMsg, Under};
use proto::{BrickId, Epoch, Errno, Gfid, LeaseNumber, Seq, SessionId};
use proto_rules::heal::log::LogBook;
use proto_rules::member::handover::HandOver;
use proto_rules::window::{Entry, SessionWindow};
use server_store::Store;

use super::request::Stored;
use crate::heal::job::Resume;
use crate::lead::{touch_of, touch_to};

const GRACED_KEY: &str = "graced-epoch";
const IN_SYNC_KEY: &str = "in-sync-interval";
const RESUME_KEY: &str = "heal-resume";
/// Numbers shipped at most, some 50 bytes each. What is left out is below the floor: the joiner
/// asks the lead about it.
const NUMBERS_MAX: usize = 8_000;
/// A message of this size leaves room for the rest of its frame.
const MESSAGE_BYTES: usize = proto::frame::MESSAGE_BYTES_MAX - (64 << 10);

/// Where an encoded hand-over goes: into the message, or into the payload beside it.
pub fn placed(bytes: Bytes) -> (Bytes, Bytes) {
    if bytes.len() <= MESSAGE_BYTES { (bytes, Bytes::new()) } else { (Bytes::new(), bytes) }
}

/// The greatest epoch whose grace this brick has seen end.
///
/// # Errors
/// The database cannot be read.
pub fn graced(store: &Store) -> Result<Epoch, Errno> {
    let bytes = store.meta_get(GRACED_KEY)?;
    let number = bytes.and_then(|b| Some(u64::from_le_bytes(b.try_into().ok()?)));
    Ok(Epoch(number.unwrap_or(0)))
}

/// The newest interval in which this brick was in-sync at a checkpoint; 0: never.
///
/// # Errors
/// The database cannot be read.
pub fn in_sync(store: &Store) -> Result<u64, Errno> {
    let bytes = store.meta_get(IN_SYNC_KEY)?;
    Ok(bytes.and_then(|b| Some(u64::from_le_bytes(b.try_into().ok()?))).unwrap_or(0))
}

/// Durable with the checkpoint that follows: an older note only makes a heal compare more.
///
/// # Errors
/// The database cannot be written.
pub fn note_in_sync(store: &mut Store, interval: u64, sync: bool) -> Result<(), Errno> {
    store.meta_put(IN_SYNC_KEY, &interval.to_le_bytes(), sync)
}

/// How far a heal has come; `None` when none was cut off.
///
/// # Errors
/// The database cannot be read.
pub fn resume(store: &Store) -> Result<Option<Resume>, Errno> {
    let Some(bytes) = store.meta_get(RESUME_KEY)? else { return Ok(None) };
    let Some((since, pending)) = bytes.split_at_checked(8) else { return Ok(None) };
    let since = u64::from_le_bytes(since.try_into().expect("eight bytes"));
    let pending = pending.chunks_exact(16).filter_map(Gfid::from_slice).collect();
    Ok(Some(Resume { since, pending }))
}

/// Not synced: after a power loss it does not count.
///
/// # Errors
/// The database cannot be written.
pub fn note_resume(store: &mut Store, resume: Option<&Resume>) -> Result<(), Errno> {
    let mut bytes = Vec::new();
    if let Some(resume) = resume {
        bytes.extend_from_slice(&resume.since.to_le_bytes());
        resume.pending.iter().for_each(|gfid| bytes.extend_from_slice(&gfid.0));
    }
    store.meta_put(RESUME_KEY, &bytes, false)
}

/// # Errors
/// It cannot be made durable.
pub fn note_graced(store: &mut Store, epoch: Epoch) -> Result<(), Errno> {
    store.meta_put(GRACED_KEY, &epoch.0.to_le_bytes(), true)
}

#[derive(Clone, PartialEq, prost::Message)]
struct HandOverMsg {
    #[prost(uint64, tag = "1")]
    epoch: u64,
    #[prost(message, repeated, tag = "2")]
    windows: Vec<WindowMsg>,
    #[prost(message, repeated, tag = "3")]
    numbers: Vec<Under>,
    #[prost(message, required, tag = "4")]
    floor: LeaseNumber,
    #[prost(message, required, tag = "5")]
    dead_below: LeaseNumber,
    #[prost(fixed64, repeated, tag = "6")]
    sessions: Vec<u64>,
    #[prost(message, repeated, tag = "7")]
    stale: Vec<StaleMsg>,
    #[prost(uint64, tag = "8")]
    graced: u64,
    /// The lead's log book, as JSON: what members that are away have on disk.
    #[prost(bytes = "bytes", tag = "9")]
    book: Bytes,
    /// Numbers of ended leases that the lead keeps on disk (see `raised.rs`).
    #[prost(message, repeated, tag = "10")]
    raised: Vec<Under>,
    /// 0 from an earlier version.
    #[prost(uint64, tag = "11")]
    remembers_since: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WindowMsg {
    #[prost(fixed64, tag = "1")]
    session: u64,
    #[prost(uint64, tag = "2")]
    mark: u64,
    #[prost(message, repeated, tag = "3")]
    entries: Vec<EntryMsg>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct EntryMsg {
    #[prost(uint64, tag = "1")]
    seq: u64,
    #[prost(message, repeated, tag = "2")]
    touches: Vec<TouchMsg>,
    #[prost(message, required, tag = "3")]
    number: LeaseNumber,
    /// Absent while it is being executed (never, in a pause).
    #[prost(message, optional, tag = "4")]
    reply: Option<StoredMsg>,
    #[prost(bool, tag = "5")]
    by_lead: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StoredMsg {
    #[prost(bytes = "bytes", tag = "1")]
    answer: Bytes,
    #[prost(int32, tag = "2")]
    errno: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StaleMsg {
    #[prost(bytes = "bytes", tag = "1")]
    brick: Bytes,
    #[prost(message, required, tag = "2")]
    gfid: Gfid,
}

pub fn encode(state: HandOver<Stored>, book: &LogBook, raised: Vec<Under>) -> Bytes {
    let (numbers, floor) = newest(state.numbers, state.floor);
    let window = |w: SessionWindow<Stored>| WindowMsg {
        session: w.session.0,
        mark: w.mark.0,
        entries: w.entries.into_iter().map(entry_to).collect(),
    };
    let stale = |(brick, gfid): (BrickId, Gfid)| StaleMsg {
        brick: Bytes::copy_from_slice(brick.as_bytes()),
        gfid,
    };
    let message = HandOverMsg {
        epoch: state.epoch.0,
        windows: state.windows.into_iter().map(window).collect(),
        numbers,
        floor,
        dead_below: state.dead_below,
        sessions: state.sessions.into_iter().map(|s| s.0).collect(),
        stale: state.stale.into_iter().map(stale).collect(),
        graced: state.graced.0,
        remembers_since: state.remembers_since.0,
        book: serde_json::to_vec(book).unwrap_or_default().into(),
        raised,
    };
    message.encode_to_vec().into()
}

/// The newest numbers, and the floor that stands for the others.
fn newest(
    mut numbers: Vec<(LeaseKey, LeaseNumber)>,
    floor: LeaseNumber,
) -> (Vec<Under>, LeaseNumber) {
    numbers.sort_unstable_by_key(|(_, number)| std::cmp::Reverse(*number));
    let left_out = numbers.get(NUMBERS_MAX).map_or(LeaseNumber::NONE, |(_, n)| *n);
    numbers.truncate(NUMBERS_MAX);
    let under = numbers.into_iter().map(|(key, number)| Under { key: key.into(), number });
    (under.collect(), floor.max(left_out))
}

fn entry_to((seq, entry): (Seq, Entry<Stored>)) -> EntryMsg {
    EntryMsg {
        seq: seq.0,
        touches: entry.touches.iter().map(touch_to).collect(),
        number: entry.number,
        reply: entry.reply.map(|r| StoredMsg { answer: r.answer, errno: r.errno }),
        by_lead: entry.by_lead,
    }
}

/// What a joiner gets of its lead.
#[derive(Debug, PartialEq)]
pub struct Shipped {
    pub state: HandOver<Stored>,
    /// The lead's log book; without it the joiner's log keeps more.
    pub book: Option<LogBook>,
    /// What the lead keeps of ended leases.
    pub raised: Vec<Under>,
}

/// `None`: no hand-over of this version.
pub fn decode(bytes: &Bytes) -> Option<Shipped> {
    let message = HandOverMsg::decode(bytes.clone()).ok()?;
    let entry = |e: EntryMsg| {
        let touches = e.touches.iter().map(touch_of).collect::<Option<Vec<_>>>()?;
        let reply = e.reply.map(|r| Stored { answer: r.answer, errno: r.errno });
        Some((Seq(e.seq), Entry { touches, number: e.number, reply, by_lead: e.by_lead }))
    };
    let window = |w: WindowMsg| {
        let entries = w.entries.into_iter().map(entry).collect::<Option<Vec<_>>>()?;
        Some(SessionWindow { session: SessionId(w.session), mark: Seq(w.mark), entries })
    };
    let stale = |s: StaleMsg| Some((BrickId::from_slice(&s.brick)?, s.gfid));
    let state = HandOver {
        epoch: Epoch(message.epoch),
        windows: message.windows.into_iter().map(window).collect::<Option<Vec<_>>>()?,
        numbers: message.numbers.iter().map(|u| (u.key.into(), u.number)).collect(),
        floor: message.floor,
        dead_below: message.dead_below,
        sessions: message.sessions.into_iter().map(SessionId).collect(),
        stale: message.stale.into_iter().map(stale).collect::<Option<Vec<_>>>()?,
        graced: Epoch(message.graced),
        // An earlier version does not say: nothing of before is known for sure.
        remembers_since: match message.remembers_since {
            0 => Epoch(message.epoch),
            epoch => Epoch(epoch),
        },
    };
    let book = serde_json::from_slice(&message.book).ok();
    Some(Shipped { state, book, raised: message.raised })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::fop::Touch;

    #[test]
    fn a_hand_over_arrives_as_it_was_sent() {
        let number = LeaseNumber { base: 7, counter: 3 };
        let touches = vec![
            Touch::Attrs(Gfid::ROOT),
            Touch::Range { gfid: Gfid::ROOT, start: 4096, end: 8192 },
            Touch::Name { dir: Gfid::ROOT, hash: 99 },
        ];
        let reply = Some(Stored { answer: Bytes::from_static(b"answer"), errno: 17 });
        let entry = Entry { touches, number, reply, by_lead: true };
        let state = HandOver {
            epoch: Epoch(7),
            windows: vec![SessionWindow {
                session: SessionId(5),
                mark: Seq(10),
                entries: vec![(Seq(11), entry)],
            }],
            numbers: vec![(LeaseKey::Part(Gfid::ROOT), number)],
            floor: LeaseNumber { base: 6, counter: 1 },
            dead_below: LeaseNumber { base: 5, counter: 0 },
            sessions: vec![SessionId(5)],
            stale: vec![(BrickId::random(), Gfid::ROOT)],
            graced: Epoch(6),
            remembers_since: Epoch(3),
        };
        let mut log = LogBook::of_new_set();
        log.on_durable(BrickId::random(), proto_rules::heal::log::Interval(9));
        let under = Under { key: LeaseKey::Part(Gfid::ROOT).into(), number };
        let bytes = encode(state.clone(), &log, vec![under]);
        let shipped = Shipped { state, book: Some(log), raised: vec![under] };
        assert_eq!(decode(&bytes), Some(shipped));
        assert_eq!(decode(&Bytes::from_static(b"\xff\xff")), None);
    }

    #[test]
    fn numbers_that_are_left_out_are_below_the_floor() {
        let key = |n: u32| {
            let mut bytes = [0; 16];
            bytes[12..].copy_from_slice(&n.to_be_bytes());
            bytes[0] = 1;
            LeaseKey::Inode(Gfid(bytes))
        };
        let count = NUMBERS_MAX as u32 + 10;
        let number = |n: u32| LeaseNumber { base: 1, counter: n.into() };
        let all = (1..=count).map(|n| (key(n), number(n))).collect();
        let (kept, floor) = newest(all, LeaseNumber::NONE);
        assert_eq!(kept.len(), NUMBERS_MAX);
        assert_eq!(floor, number(10));
        assert!(kept.iter().all(|u| u.number > floor));
    }
}
