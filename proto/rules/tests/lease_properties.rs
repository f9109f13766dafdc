//! The lead's table and the clients' caches together: whatever is delayed, reordered, wedged
//! or silent, no client believes in a lease that excludes another's.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proto::fop::{LeaseKey, Mode};
use proto::{BrickId, Epoch, Gfid, Incarnation, Refusal, SessionId};
use proto_rules::Tick;
use proto_rules::lease::Lease;
use proto_rules::lease::cache::{LeaseCache, RecallAction};
use proto_rules::lease::table::{Ask, How, LeaseCommand, LeaseTable, RenewAnswer, SettleScope};
use proto_rules::time::{LEASE_TERM, MS};

const CLIENTS: usize = 3;

fn key(n: usize) -> LeaseKey {
    let mut bytes = [0; 16];
    bytes[15] = n as u8 + 1;
    LeaseKey::Inode(Gfid(bytes))
}

fn session(n: usize) -> SessionId {
    SessionId(n as u64 + 1)
}

#[derive(Debug)]
enum Message {
    Ask { from: usize, ask: Ask, sent: Tick },
    Granted { to: usize, sent: Tick, lease: Lease },
    Refused { to: usize, key: LeaseKey, unknown: bool },
    Renew { from: usize, sent: Tick },
    Renewed { to: usize, sent: Tick, answer: Result<RenewAnswer, Refusal> },
    Hello { from: usize },
    Recall { to: usize, lease: Lease, keep: Mode },
    Return { from: usize, lease: Lease, keep: Mode },
    Returned { to: usize, lease: Lease },
    Settled { scope: SettleScope },
}

struct Client {
    cache: LeaseCache,
    rate_ppm: u64,
    asking: BTreeSet<LeaseKey>,
    /// Recalls are never answered.
    wedged: bool,
}

struct World {
    ms: u64,
    table: LeaseTable,
    clients: Vec<Client>,
    queue: BTreeMap<(u64, u64), Message>,
    asks: BTreeMap<(SessionId, u64), (Tick, LeaseKey)>,
    count: u64,
    delays: Vec<u64>,
    granted: u64,
    history: Vec<String>,
}

impl World {
    fn new(delays: Vec<u64>, rates: [u64; CLIENTS], wedged: [bool; CLIENTS]) -> World {
        let mut table = LeaseTable::new_lead(Epoch(5), Epoch(0), []);
        table.lists_settled(Tick(0));
        table.graced(Epoch(5));
        let client = |n: usize| {
            let mut cache = LeaseCache::default();
            cache.on_map(Epoch(5), (BrickId::from_bytes([1; 16]), Incarnation(1)));
            Client { cache, rate_ppm: rates[n], asking: BTreeSet::new(), wedged: wedged[n] }
        };
        let clients: Vec<Client> = (0..CLIENTS).map(client).collect();
        (0..CLIENTS).for_each(|n| table.hello(Tick(0), session(n)).expect("new"));
        let (queue, asks) = (BTreeMap::new(), BTreeMap::new());
        World {
            ms: 0,
            table,
            clients,
            queue,
            asks,
            count: 0,
            delays,
            granted: 0,
            history: Vec::new(),
        }
    }

    fn lead_now(&self) -> Tick {
        Tick(self.ms * MS)
    }

    /// A client's clock: up to 5 % slower than the lead's, with another zero.
    fn now(&self, client: usize) -> Tick {
        Tick((1 << 40) + self.ms * (1_000_000 - self.clients[client].rate_ppm))
    }

    fn send(&mut self, message: Message) {
        let way = self.delays[self.count as usize % self.delays.len()];
        self.count += 1;
        self.queue.insert((self.ms + way, self.count), message);
    }

    fn step(&mut self) {
        while self.queue.first_key_value().is_some_and(|((due, _), _)| *due <= self.ms) {
            let (_, message) = self.queue.pop_first().expect("just looked");
            self.history.push(format!("{} {message:?}", self.ms));
            self.deliver(message);
        }
        let commands = self.table.tick(self.lead_now());
        self.run(commands);
        if self.ms.is_multiple_of(300) {
            for from in 0..CLIENTS {
                self.send(Message::Renew { from, sent: self.now(from) });
            }
        }
    }

    fn ask(&mut self, from: usize, key: LeaseKey, mode: Mode) {
        let client = &mut self.clients[from];
        if client.cache.may_ask(key) && client.asking.insert(key) {
            let id = self.count;
            let ask = Ask { session: session(from), id, key, mode, how: How::Waits };
            self.send(Message::Ask { from, ask, sent: self.now(from) });
        }
    }

    fn run(&mut self, commands: Vec<LeaseCommand>) {
        for command in commands {
            match command {
                LeaseCommand::Grant { session, ask, lease, .. } => {
                    let (sent, _) = self.asks.remove(&(session, ask)).expect("asked once");
                    let to = session.0 as usize - 1;
                    self.granted += 1;
                    self.send(Message::Granted { to, sent, lease });
                }
                LeaseCommand::Refuse { session, ask, refusal } => {
                    let (_, key) = self.asks.remove(&(session, ask)).expect("asked once");
                    let unknown = refusal == Refusal::UnknownSession;
                    self.send(Message::Refused { to: session.0 as usize - 1, key, unknown });
                }
                LeaseCommand::Recall { session, lease, keep } => {
                    self.send(Message::Recall { to: session.0 as usize - 1, lease, keep });
                }
                LeaseCommand::Settle { scope, .. } => self.send(Message::Settled { scope }),
                LeaseCommand::NoteGraced { .. }
                | LeaseCommand::Forget { .. }
                | LeaseCommand::Turn { .. } => {}
            }
        }
    }

    fn act(&mut self, who: usize, action: Option<RecallAction>) {
        let (lease, keep) = match action {
            Some(RecallAction::GiveBack { .. }) if self.clients[who].wedged => return,
            Some(RecallAction::GiveBack { lease, keep }) => {
                self.clients[who].cache.returning(lease.key, keep).expect("held");
                (lease, keep)
            }
            Some(RecallAction::NotHeld { lease }) => (lease, Mode::None),
            Some(RecallAction::Wait) | None => return,
        };
        self.send(Message::Return { from: who, lease, keep });
    }

    fn deliver(&mut self, message: Message) {
        let lead_now = self.lead_now();
        match message {
            Message::Ask { from, ask, sent } => {
                self.asks.insert((session(from), ask.id), (sent, ask.key));
                let commands = self.table.ask(lead_now, ask);
                self.run(commands);
            }
            Message::Renew { from, sent } => {
                let answer = self.table.renew(lead_now, session(from), LEASE_TERM, &[]);
                self.send(Message::Renewed { to: from, sent, answer });
            }
            Message::Hello { from } => {
                // Refused while its death is being settled; the next renewal tries again.
                let _ = self.table.hello(lead_now, session(from));
            }
            Message::Return { from, lease, keep } => {
                let commands = self.table.on_return(lead_now, session(from), lease, keep, false);
                self.run(commands);
                self.send(Message::Returned { to: from, lease });
            }
            Message::Settled { scope } => {
                let commands = self.table.settled(lead_now, scope);
                self.run(commands);
            }
            to_client => self.deliver_to_client(to_client),
        }
    }

    fn deliver_to_client(&mut self, message: Message) {
        match message {
            Message::Granted { to, sent, lease } => {
                self.clients[to].asking.remove(&lease.key);
                let action = self.clients[to].cache.on_granted(sent, LEASE_TERM, lease);
                self.act(to, action);
                let action = self.clients[to].cache.no_grant_coming(lease.key);
                self.act(to, action);
            }
            Message::Refused { to, key, unknown } => {
                self.clients[to].asking.remove(&key);
                if unknown {
                    self.forget(to);
                }
            }
            Message::Renewed { to, sent, answer } => match answer {
                Ok(answer) => {
                    let actions =
                        self.clients[to].cache.on_renewed(sent, answer.term, &answer.overdue);
                    actions.into_iter().for_each(|action| self.act(to, Some(action)));
                }
                Err(_) => self.forget(to),
            },
            Message::Recall { to, lease, keep } => {
                let action = self.clients[to].cache.on_recall(lease, keep);
                self.act(to, Some(action));
            }
            Message::Returned { to, lease } => {
                let action = self.clients[to].cache.on_returned(lease);
                self.act(to, action);
            }
            _ => unreachable!("for the lead"),
        }
    }

    fn forget(&mut self, client: usize) {
        let now = self.now(client);
        self.clients[client].cache.lose_all_at(now);
        self.send(Message::Hello { from: client });
    }

    /// Nobody holds anything beside an exclusive holder.
    fn check(&self, key: LeaseKey) -> Result<(), TestCaseError> {
        let valid = |mode| {
            (0..CLIENTS)
                .filter(|n| self.clients[*n].cache.valid(self.now(*n), key, mode).is_some())
                .collect::<Vec<usize>>()
        };
        let (writers, holders) = (valid(Mode::Exclusive), valid(Mode::Shared));
        prop_assert!(
            writers.is_empty() || holders.len() == 1,
            "at {} ms: {key:?} is written by {writers:?} and held by {holders:?}\n{}",
            self.ms,
            self.history.join("\n")
        );
        Ok(())
    }
}

/// Mostly quick, some slow, a few longer than a term or two.
fn delay() -> impl Strategy<Value = u64> {
    prop_oneof![12 => 0u64..20, 3 => 0u64..700, 1 => 0u64..5000]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn no_client_believes_in_a_lease_that_excludes_anothers(
        delays in prop::collection::vec(delay(), 97),
        rates in prop::array::uniform3(0u64..47_619),
        wedged in prop::array::uniform3(prop::bool::weighted(0.2)),
        asks in prop::collection::vec((0..CLIENTS, 0usize..2, any::<bool>()), 300),
    ) {
        let mut world = World::new(delays, rates, wedged);
        for (client, k, exclusive) in asks {
            let mode = if exclusive { Mode::Exclusive } else { Mode::Shared };
            world.ask(client, key(k), mode);
            for _ in 0..10 {
                world.ms += 5;
                world.step();
                world.check(key(0))?;
                world.check(key(1))?;
            }
        }
        prop_assert!(world.granted > 0);
    }
}
