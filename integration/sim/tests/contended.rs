//! Traps 28 and 60 as schedules told step by step, with the rule that holds them and without it.

use std::collections::BTreeMap;

use integration_sim::plant::{Plant, plant};
use proto::fop::{Class, LeaseKey, Mode, Touch};
use proto::map::{MemberMap, MemberState, SetMap};
use proto::{
    BrickId, Epoch, Gfid, Incarnation, LeaseNumber, PeerId, Refusal, Seq, SessionId, SetId,
};
use proto_rules::Tick;
use proto_rules::lease::Lease;
use proto_rules::lease::table::{Ask, How, LeaseCommand, LeaseTable};
use proto_rules::member::{Head, Member, Verdict};
use proto_rules::settle::{MemberList, Scope, Settle, SettleCommand};
use proto_rules::time::MS;
use proto_rules::window::Entry;

const W: SessionId = SessionId(1);
const M: SessionId = SessionId(2);
const LOG: Gfid = Gfid([7; 16]);
const KEY: LeaseKey = LeaseKey::Inode(LOG);

fn at(ms: u64) -> Tick {
    Tick(1_000_000 * MS).after(ms * MS)
}

fn brick(n: u8) -> BrickId {
    BrickId::from_bytes([n; 16])
}

/// The first of `bricks` leads; all are in-sync.
fn map(epoch: u64, bricks: &[u8]) -> SetMap {
    let member = |n: &u8| MemberMap {
        brick: brick(*n),
        peer: PeerId::from_bytes([*n; 16]),
        path: format!("/b{n}"),
        state: MemberState::InSync,
        incarnation: Incarnation(u64::from(*n)),
        reason: String::new(),
    };
    let members = bricks.iter().map(member).collect();
    SetMap { id: SetId(0), epoch: Epoch(epoch), lead: Some(brick(bricks[0])), members }
}

fn serving(epoch: u64) -> LeaseTable {
    let mut table = LeaseTable::new_lead(Epoch(epoch), Epoch(0), [W, M]);
    table.lists_settled(at(0));
    for session in [W, M] {
        table.hello(at(0), session).expect("a new session");
    }
    table.tick(at(600));
    table.graced(Epoch(epoch));
    table
}

fn turn(table: &mut LeaseTable, ms: u64, session: SessionId, id: u64) -> Lease {
    let commands = table.ask_turn(at(ms), session, id, KEY);
    match commands.as_slice() {
        [LeaseCommand::Turn { lease, .. }] => *lease,
        other => panic!("{other:?}"),
    }
}

/// W's append as the lead sends it on: to the end of the file, wherever that is at the time.
fn append(epoch: u64, number: LeaseNumber, end: usize) -> Head {
    let start = end as u64;
    Head {
        session: W,
        epoch: Epoch(epoch),
        class: Class::Change,
        seq: Seq(1),
        mark: Seq(0),
        under: vec![(KEY, number)],
        touches: vec![Touch::Range { gfid: LOG, start, end: start + 1 }, Touch::Attrs(LOG)],
        reads: vec![],
        by_lead: true,
    }
}

struct Brick {
    member: Member<u64>,
    /// The file: one letter for each record.
    log: String,
}

impl Brick {
    fn new(n: u8) -> Brick {
        Brick { member: Member::new(brick(n), Incarnation(n.into())), log: "old".into() }
    }

    fn on_map(&mut self, map: &SetMap) {
        self.member.on_map(map, 1);
        self.member.set_serve_until(at(60_000));
        self.member.session_named(W);
    }

    /// A frame of the lead's (or its own execution). Whether it was executed, and not replayed.
    fn frame(&mut self, ms: u64, head: &Head, table: Option<&LeaseTable>) -> bool {
        match self.member.admit(at(ms), head, table) {
            Verdict::Execute => {
                self.log.push('W');
                self.member.finish(W, Seq(1), self.log.len() as u64);
                true
            }
            Verdict::Replay(_) => false,
            other => panic!("{other:?}"),
        }
    }

    fn list(&self) -> MemberList {
        MemberList {
            entries: self.member.windows.unsettled(None, None),
            marks: self.member.windows.marks(),
            sessions: vec![W],
            replies: self.member.windows.replies(None, |end| *end),
            stale: Vec::new(),
        }
    }
}

/// Settles everything at the new lead, `bricks[0]`.
fn settle(bricks: &mut BTreeMap<u8, Brick>, order: &[u8]) {
    let members: Vec<BrickId> = order.iter().map(|n| brick(*n)).collect();
    let (mut rules, _) = Settle::start(Scope::All, members[0], members, vec![]);
    let stale = bricks[&order[0]].member.stale.clone();
    let mut todo = Vec::new();
    for n in order {
        todo.extend(rules.on_list(brick(*n), bricks[n].list(), &stale));
    }
    while let Some(command) = todo.pop() {
        match command {
            SettleCommand::Copy { gfid, source, targets, .. } => {
                let name =
                    |b: BrickId| order.iter().copied().find(|n| brick(*n) == b).expect("known");
                let log = bricks[&name(source)].log.clone();
                for target in targets {
                    bricks.get_mut(&name(target)).expect("a member").log.clone_from(&log);
                }
                todo.extend(rules.on_copied(gfid, &stale));
            }
            SettleCommand::Clear { at, entries, take_over } => {
                let taken: Vec<(SessionId, Seq, Entry<u64>)> = take_over
                    .iter()
                    .map(|(from, session, seq)| {
                        let name = order.iter().find(|n| brick(**n) == *from).expect("known");
                        let entry = bricks[name].member.windows.entry(*session, *seq);
                        (*session, *seq, entry.expect("the source has it").clone())
                    })
                    .collect();
                let name = order.iter().find(|n| brick(**n) == at).expect("known");
                let windows = &mut bricks.get_mut(name).expect("a member").member.windows;
                windows.clear(&entries);
                for (session, seq, entry) in taken {
                    windows.take_over(session, seq, entry);
                }
                todo.extend(rules.on_cleared(at));
            }
            _ => {}
        }
    }
    assert!(rules.is_done());
}

/// A leads and executes W's append, on B too, and dies before C has it and before it answers; B
/// leads, settles, and dies as well; C leads. To each lead W sends the same change again. The log
/// in the end.
fn appended_over_two_dead_leads() -> String {
    let mut bricks: BTreeMap<u8, Brick> = (1..=3).map(|n| (n, Brick::new(n))).collect();
    let first = map(5, &[1, 2, 3]);
    bricks.values_mut().for_each(|b| b.on_map(&first));
    let mut table = serving(5);
    let lease = turn(&mut table, 700, W, 1);
    let frame = append(5, lease.number, 3);
    for n in [1, 2] {
        let lead = (n == 1).then_some(&table);
        let brick = bricks.get_mut(&n).expect("a brick");
        assert!(brick.frame(701, &frame, lead), "brick {n} executes it");
    }
    bricks.remove(&1);
    for (epoch, order) in [(6, &[2, 3][..]), (7, &[3])] {
        let next = map(epoch, order);
        bricks.values_mut().for_each(|b| b.on_map(&next));
        settle(&mut bricks, order);
        let mut table = serving(epoch);
        let lease = turn(&mut table, 700, W, 1);
        let end = bricks[&order[0]].log.len();
        for n in order {
            let lead = (*n == order[0]).then_some(&table);
            let brick = bricks.get_mut(n).expect("a brick");
            if !brick.frame(701, &append(epoch, lease.number, end), lead) && lead.is_some() {
                // Answered from the lead's window.
                break;
            }
        }
        let logs: Vec<&String> = order.iter().map(|n| &bricks[n].log).collect();
        assert!(logs.windows(2).all(|two| two[0] == two[1]), "replicas differ: {logs:?}");
        bricks.remove(&2);
    }
    bricks[&3].log.clone()
}

/// Trap 60: the lead executed an append on B too, and dies before answering.
#[test]
fn trap_60_an_append_sent_again_to_the_next_leads_is_there_once() {
    plant(Plant::None);
    assert_eq!(appended_over_two_dead_leads(), "oldW");
    // Without the reply in its slot on all members the re-send is a second append.
    plant(Plant::NoTakenReplies);
    assert_eq!(appended_over_two_dead_leads(), "oldWW");
    plant(Plant::None);
}

/// Two sessions change one key in turn, `changes` times each, 5 ms apart. How many were recalled,
/// and how many changes the lead executed.
fn recalls_of_a_fight(changes: u64) -> (u64, u64) {
    let mut table = serving(5);
    let mut held: BTreeMap<SessionId, Lease> = BTreeMap::new();
    let (mut recalls, mut executed, mut done) = (0, 0, 0);
    for n in 0..2 * changes {
        let (ms, session) = (700 + 5 * n, [W, M][n as usize % 2]);
        for known in [W, M] {
            table.renew(at(ms), known, 1500 * MS, &[]).expect("it is heard of");
        }
        if held.contains_key(&session) {
            done += 1;
            continue;
        }
        let how = How::Yields;
        let ask = Ask { session, id: n, key: KEY, mode: Mode::Exclusive, how };
        let mut todo = table.ask(at(ms), ask);
        // A holder's moment passes.
        todo.extend(table.tick(at(ms + 4)));
        while let Some(command) = todo.pop() {
            match command {
                LeaseCommand::Recall { session, lease, .. } => {
                    recalls += 1;
                    held.remove(&session);
                    todo.extend(table.on_return(at(ms + 4), session, lease, Mode::None, false));
                }
                LeaseCommand::Grant { session, lease, .. } => {
                    held.insert(session, lease);
                    done += 1;
                }
                LeaseCommand::Refuse { refusal, .. } => {
                    assert_eq!(refusal, Refusal::Contended);
                    todo.extend(table.ask_turn(at(ms + 4), session, n, KEY));
                }
                LeaseCommand::Turn { ask, .. } => {
                    executed += 1;
                    done += 1;
                    todo.extend(table.end_turn(at(ms + 4), KEY, ask));
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(done, 2 * changes, "both make progress");
    (recalls, executed)
}

/// Trap 28: M1 and M2 fight for one file: what bounces costs a recall a change.
#[test]
fn trap_28_a_fight_costs_few_recalls() {
    plant(Plant::None);
    let (recalls, executed) = recalls_of_a_fight(100);
    assert!(recalls <= 5, "{recalls} recalls");
    assert!(executed >= 190, "{executed} executed by the lead");
    plant(Plant::NoContention);
    let (recalls, executed) = recalls_of_a_fight(100);
    plant(Plant::None);
    assert!(recalls >= 190 && executed == 0, "{recalls} recalls, {executed} executed");
}
