//! The interpreter of effects: performs what a machine requests, in order, on the environment of its
//! driver. The node, the model, the simulator and the test scripts differ in their environments only.
//!
//! A driver owns a machine and an environment. For each event it calls [`Machine::step`], writes the
//! event and its effects to its journal if it keeps one, and then performs the effects:
//!
//! ```
//! # use std::{convert::Infallible, time::Duration};
//! # use protocol::{driver::{self, Clients, Environment, Network, Operator, Storage, Timers}, *};
//! /// Drops every message and every record.
//! struct Void;
//!
//! impl Storage for Void {
//!     type Error = Infallible;
//!     fn append(&mut self, _: Record) {}
//!     fn force(&mut self, _: Lsn) {}
//!     fn get(&mut self, _: &Key) -> Result<Option<(Version, Value)>, Infallible> {
//!         Ok(None)
//!     }
//! }
//! impl Network for Void {
//!     fn send(&mut self, _: Node, _: Message) {}
//! }
//! impl Timers for Void {
//!     fn set_timer(&mut self, _: TimerId, _: Duration) {}
//! }
//! impl Clients for Void {
//!     fn reply(&mut self, _: CallId, _: Reply) {}
//! }
//! impl Operator for Void {}
//! impl Environment for Void {}
//!
//! # let config = Config { node: Node::Replica(1), replicas: 1, store: StoreId(1), nonce: 0, bootstrap: true,
//! #     commit: CommitMode::Logged, rules: Rules::ALL, timing: Timing::default(),
//! #     scrub_interval: Duration::ZERO, sequence_above: 0 };
//! let (mut machine, effects) = Machine::recover(config, &[]);
//! let Ok(halt) = driver::perform_all(&mut machine, effects, &mut Void);
//! assert_eq!(halt, None);
//! ```
//!
//! # Reads
//!
//! [`Effect::Serve`] reads the store when it is performed, after the appends before it and before
//! those after it: that moment is the read's linearization point. The result returns to the machine
//! as [`Event::ReadResult`], or as [`Event::ReadFailed`] if the entry is damaged. Its effects are
//! performed at once, before the next effect. Serving a
//! read, its result and the answer are therefore one atomic step, in production as in the model. The
//! same holds for [`Effect::ServeKeys`] and [`Effect::ServePage`], which read several keys at that moment, for
//! [`Effect::Copy`], whose answer goes to another replica, and for what the scrub reads.
//!
//! # Drivers that do something between effects
//!
//! [`perform_all`] is a loop over [`perform`]. A driver that stops at failpoints or has to wait between
//! effects writes the loop itself; it must handle every [`Performed`].

use std::time::Duration;

use super::{
    CallId, Effect, Event, HaltKind, Key, KeyRange, Lsn, Machine, Message, Node, Page,
    RangeSummary, ReadId, Record, Reply, TimerId, TxnId, Value, Version,
};

/// A range of the keys in a store's tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// It begins after this key, or with the first one.
    pub after: Option<Key>,
    /// Its last key. Without one it ends when `rows_max` rows are read.
    pub upto: Option<Key>,
    /// How many rows may be read. What comes behind them does not count.
    pub rows_max: u32,
}

/// A node's store.
pub trait Storage {
    /// Why the store cannot be read.
    type Error;

    /// Appends a record. `get` sees it immediately; it becomes durable with the next force, or some
    /// time later without one.
    fn append(&mut self, record: Record);

    /// Makes every record up to this one durable as soon as possible. The driver then steps the
    /// machine with [`Event::Persisted`].
    fn force(&mut self, upto: Lsn);

    /// The version and value of a key, as of all records appended so far.
    ///
    /// # Errors
    /// The store cannot be read.
    fn get(&mut self, key: &Key) -> Result<Option<(Version, Value)>, Self::Error>;

    /// How many bytes of values the answer to a query of listed keys may have. A single value may always have
    /// more.
    fn answer_bytes_max(&self) -> usize {
        usize::MAX
    }

    /// The entries of a range, in key order, as of all records appended so far: at most its limit, as many as
    /// fit into an answer, but at least one. The default is a store without ranges.
    ///
    /// # Errors
    /// The store cannot be read, or an entry is damaged.
    fn page(&mut self, _range: &KeyRange) -> Result<Page, Self::Error> {
        unreachable!("a range of a store that has none")
    }

    /// The key whose entry is damaged, if that is what an error of [`page`](Storage::page) says and the key
    /// is known.
    fn damaged_key(_error: &Self::Error) -> Option<Key> {
        None
    }

    /// Has the tables contain every record up to this one, some time soon and in the background. Returns
    /// whether they do already. The default is a store without tables: they never do, so that no scrub
    /// compares them, and no range of them is summarized.
    fn checkpoint(&mut self, _upto: Lsn) -> bool {
        false
    }

    /// Summarizes a range of the tables. An entry counts if its version is below `below`, no later record has
    /// written its key, and [`get`](Storage::get) finds it intact. Damaged entries do not count.
    ///
    /// # Errors
    /// The store cannot be read.
    fn summarize(&mut self, _range: &Range, _below: TxnId) -> Result<RangeSummary, Self::Error> {
        unreachable!("a range of tables that contain nothing")
    }

    /// Whether an error of [`get`](Storage::get) says that the entry of the key is damaged. The store
    /// goes on with its other keys then, and the driver steps the machine with [`Event::ReadFailed`].
    fn is_damaged_entry(_error: &Self::Error) -> bool {
        false
    }
}

/// The network between the nodes. It may lose, duplicate, reorder and delay messages.
pub trait Network {
    /// Sends a message.
    fn send(&mut self, to: Node, message: Message);
}

/// The timers of a machine.
pub trait Timers {
    /// Starts a timer, anew if it is running. When it expires the driver steps the machine with
    /// [`Event::Timer`].
    fn set_timer(&mut self, id: TimerId, after: Duration);
}

/// The clients of the master.
pub trait Clients {
    /// Replies to a client's call.
    fn reply(&mut self, call: CallId, reply: Reply);
}

/// Whoever operates the cluster.
pub trait Operator {
    /// Reports something that needs the attention of a person.
    fn warn(&mut self, _message: &str) {}

    /// Counts a refused message.
    fn refused(&mut self, _from: Node, _why: &str) {}

    /// Reports and counts an entry that was lost, although no checksum shows it: see [`Effect::Lost`].
    fn lost(&mut self, _key: &Key, _version: Version, _found: Option<Version>) {}
}

/// Everything outside a machine.
pub trait Environment: Storage + Network + Timers + Clients + Operator {
    /// Called before each effect is performed, including those of nested steps.
    fn performing(&mut self, _effect: &Effect) {}

    /// Called after a nested step of the machine, whose event is the result of an effect, before its
    /// effects are performed. Drivers with a journal record the step here.
    fn stepped(&mut self, _event: &Event, _effects: &[Effect]) {}
}

/// What performing an effect leads to.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Performed {
    /// Nothing further.
    Done,
    /// The machine must be stepped with this event, and the effects of that step performed before the
    /// next effect.
    Event(Event),
    /// The process must stop. No further effect may be performed.
    Halted(Halt),
}

/// Why a machine stops its process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Halt {
    /// The kind of stop.
    pub kind: HaltKind,
    /// The reason, in words.
    pub why: String,
}

/// Performs one effect.
///
/// # Errors
/// The store cannot be read.
pub fn perform<E: Environment>(effect: Effect, environment: &mut E) -> Result<Performed, E::Error> {
    environment.performing(&effect);
    match effect {
        Effect::Append(record) => environment.append(record),
        Effect::Force(lsn) => environment.force(lsn),
        Effect::Send { to, message } => environment.send(to, message),
        Effect::Reply { call, reply } => environment.reply(call, reply),
        Effect::Serve { read, key } => {
            let event = match environment.get(&key) {
                Ok(found) => Event::ReadResult { read, found },
                Err(error) if E::is_damaged_entry(&error) => {
                    Event::ReadFailed { read, key: Some(key) }
                }
                Err(error) => return Err(error),
            };
            return Ok(Performed::Event(event));
        }
        Effect::ServeKeys { read, keys } => {
            return read_keys(read, &keys, environment).map(Performed::Event);
        }
        Effect::ServePage { read, range, before } => {
            let range = KeyRange { to: before.clone().or(range.to), ..range };
            let event = match environment.page(&range) {
                Ok(Page { entries, end }) => {
                    Event::PageRead { read, page: Page { entries, end: end.or(before) } }
                }
                Err(error) if E::is_damaged_entry(&error) => {
                    Event::ReadFailed { read, key: E::damaged_key(&error) }
                }
                Err(error) => return Err(error),
            };
            return Ok(Performed::Event(event));
        }
        Effect::Copy { to, heal, key } => {
            let event = match environment.get(&key) {
                Ok(found) => Event::Copied { to, heal, key, found },
                Err(error) if E::is_damaged_entry(&error) => Event::Damaged { key },
                Err(error) => return Err(error),
            };
            return Ok(Performed::Event(event));
        }
        Effect::Checkpoint { upto } => {
            if environment.checkpoint(upto) {
                return Ok(Performed::Event(Event::Checkpointed { upto }));
            }
        }
        Effect::Summarize { scrub, by, after, upto, rows_max, below } => {
            let summary = environment.summarize(&Range { after, upto, rows_max }, below)?;
            return Ok(Performed::Event(Event::Summarized { scrub, by, below, summary }));
        }
        Effect::Check { key, version } => {
            let event = match environment.get(&key) {
                Ok(found) => {
                    Event::Checked { key, version, found: found.map(|(version, _)| version) }
                }
                Err(error) if E::is_damaged_entry(&error) => Event::Damaged { key },
                Err(error) => return Err(error),
            };
            return Ok(Performed::Event(event));
        }
        Effect::Lost { key, version, found } => environment.lost(&key, version, found),
        Effect::SetTimer { id, after } => environment.set_timer(id, after),
        Effect::Refuse { from, why } => environment.refused(from, &why),
        Effect::Warn(message) => environment.warn(&message),
        Effect::Halt { kind, why } => return Ok(Performed::Halted(Halt { kind, why })),
    }
    Ok(Performed::Done)
}

/// Reads several keys. No record is appended in between, so they are read at one instant.
fn read_keys<E: Environment>(
    read: ReadId,
    keys: &[Key],
    environment: &mut E,
) -> Result<Event, E::Error> {
    let bytes_max = environment.answer_bytes_max();
    let (mut all, mut bytes) = (Vec::with_capacity(keys.len()), 0);
    for key in keys {
        match environment.get(key) {
            Ok(found) => {
                bytes += found.as_ref().map_or(0, |(_, value)| value.as_bytes().len());
                all.push(found);
            }
            Err(error) if E::is_damaged_entry(&error) => {
                return Ok(Event::ReadFailed { read, key: Some(key.clone()) });
            }
            Err(error) => return Err(error),
        }
        if bytes > bytes_max && all.len() > 1 {
            return Ok(Event::KeysRead { read, found: None });
        }
    }
    Ok(Event::KeysRead { read, found: Some(all) })
}

/// Performs the effects of a machine's step, in order, and the nested steps that they lead to. Stops
/// at the first halt and returns it.
///
/// # Errors
/// The store cannot be read.
pub fn perform_all<E: Environment>(
    machine: &mut Machine,
    effects: impl IntoIterator<Item = Effect>,
    environment: &mut E,
) -> Result<Option<Halt>, E::Error> {
    let mut nested = Vec::new();
    for effect in effects {
        match perform(effect, environment)? {
            Performed::Done => {}
            Performed::Event(event) => {
                machine.step(event.clone(), &mut nested);
                environment.stepped(&event, &nested);
                let halt = perform_all(machine, nested.drain(..), environment)?;
                if halt.is_some() {
                    return Ok(halt);
                }
            }
            Performed::Halted(halt) => return Ok(Some(halt)),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::{
        super::{Body, ClusterId, CommitMode, Config, ReadId, Rules, StoreId, Timing, TxnId},
        *,
    };

    /// Records what it is asked to do.
    #[derive(Default)]
    struct Recorder {
        calls: Vec<String>,
        appended: u64,
    }

    impl Storage for Recorder {
        type Error = Infallible;

        fn append(&mut self, record: Record) {
            self.appended += 1;
            self.calls.push(format!("append {record}"));
        }

        fn force(&mut self, upto: Lsn) {
            self.calls.push(format!("force {upto}"));
        }

        fn get(&mut self, key: &Key) -> Result<Option<(Version, Value)>, Infallible> {
            self.calls.push(format!("get {key}"));
            Ok(Some((TxnId::new(1, self.appended), "v".into())))
        }
    }

    impl Network for Recorder {
        fn send(&mut self, to: Node, message: Message) {
            self.calls.push(format!("send {to} {}", message.body));
        }
    }

    impl Timers for Recorder {
        fn set_timer(&mut self, id: TimerId, _: Duration) {
            self.calls.push(format!("timer {id}"));
        }
    }

    impl Clients for Recorder {
        fn reply(&mut self, call: CallId, reply: Reply) {
            self.calls.push(format!("reply {call} {reply}"));
        }
    }

    impl Operator for Recorder {
        fn warn(&mut self, message: &str) {
            self.calls.push(format!("warn {message}"));
        }
    }

    impl Environment for Recorder {
        fn stepped(&mut self, event: &Event, effects: &[Effect]) {
            self.calls.push(format!("step {event}: {} effect", effects.len()));
        }
    }

    #[test]
    fn effects_are_performed_in_order_and_reads_where_they_stand() {
        let config = Config {
            node: Node::Replica(1),
            replicas: 1,
            store: StoreId(1),
            nonce: 0,
            bootstrap: true,
            commit: CommitMode::Logged,
            rules: Rules::ALL,
            timing: Timing::default(),
            scrub_interval: Duration::ZERO,
            sequence_above: 0,
        };
        let (mut machine, _) = Machine::recover(config, &[]);
        let before = machine.clone();
        let read = ReadId { epoch: 1, n: 2, attempt: 0 };
        let (store, watermark, body) = (StoreId(1), TxnId::default(), Body::Heartbeat);
        let (to, message) = (
            Node::Master,
            Message {
                cluster: ClusterId(0),
                store,
                epoch: 0,
                nonce: 0,
                watermark,
                decisions: 0,
                body,
            },
        );
        let effects = vec![
            Effect::Append(Record::Commit { txn: TxnId::new(1, 1) }),
            Effect::Serve { read, key: "k".into() },
            Effect::Append(Record::Commit { txn: TxnId::new(1, 2) }),
            Effect::Send { to, message },
            Effect::Warn("look".to_owned()),
            Effect::Halt { kind: HaltKind::Violation, why: "enough".to_owned() },
            Effect::Force(2),
        ];
        let mut recorder = Recorder::default();
        let Ok(halt) = perform_all(&mut machine, effects, &mut recorder);
        assert_eq!(halt, Some(Halt { kind: HaltKind::Violation, why: "enough".to_owned() }));
        assert_eq!(
            recorder.calls,
            [
                "append COMMIT 1.1",
                "get k",
                "step read 1.2/0 returns v (version 1.1): 1 effect",
                "send master Value 1.2/0 v (version 1.1)",
                "append COMMIT 1.2",
                "send master Heartbeat",
                "warn look",
            ]
        );
        assert_eq!(machine, before, "a read does not change the machine");
    }
}
