//! Replays a recorded journal through the node's state machine and compares every effect. The state
//! machine is deterministic, so a difference means that the code has changed or the journal has.
//!
//! The result of each read must return to the state machine, as an event. Earlier versions answered
//! reads without telling it; their journals have no results, and are replayed as they are.
//!
//! Earlier versions also began a cluster in another order: replicas promised at once, and the master
//! wrote before its records of their stores were durable. After that messages did not say who is who, then a
//! master did not say how many commits it had decided, and until this version only its Fence did. That is
//! what a node does
//! today that breaks some rules. So a journal that differs is replayed once more with these rules broken,
//! and the result says whether the beginning was an earlier one.

use std::{collections::VecDeque, fmt, io, path::Path};

use system::{
    journal::Entry,
    protocol::{Effect, Event, Machine, ReadId, Rule},
};

/// The rules that the version before this one did not have, and then those that each earlier version did
/// not have either.
const LATER_RULES: [&[Rule]; 4] = [
    &[Rule::DecisionsInEveryMessage, Rule::HandshakeBeforeObeying],
    &[Rule::DecisionsBeforePromise],
    &[
        Rule::NonceOnEveryMessage,
        Rule::FenceNamesSuperseded,
        Rule::DecisionNumberChecked,
        Rule::RestoredStoreRefused,
        Rule::PeerIdChecked,
    ],
    &[Rule::MemberBeforePromise, Rule::MembersDurableBeforeWrite],
];

/// The result of a replay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replay {
    /// Every effect was the same.
    Same {
        /// Starts of the state machine.
        starts: usize,
        /// Events after them.
        events: usize,
        /// Effects compared.
        effects: usize,
        /// Reads without a result, in a journal that an earlier version wrote.
        reads_without_result: usize,
        /// The cluster began in the order of an earlier version.
        earlier_beginning: bool,
    },
    /// The first difference.
    Different(Box<Difference>),
}

/// Where the state machine and its journal differ. Lines count from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// The state machine requests another effect.
    Effect {
        /// The effect that differs, or the entry that comes in place of further effects.
        line: usize,
        /// The line of the event or start that caused the effect.
        cause: usize,
        /// The effect that the state machine requests now, `None` if none.
        expected: Option<Box<Effect>>,
        /// The effect in the journal, `None` if it has no further one here.
        got: Option<Box<Effect>>,
    },
    /// A read was served, and the journal goes on without its result.
    NoResult {
        /// The line at which it was served.
        line: usize,
        /// The read.
        read: ReadId,
    },
    /// A result returned of a read that was not served.
    NotServed {
        /// The line of the result.
        line: usize,
        /// The read.
        read: ReadId,
    },
}

impl Difference {
    /// The line at which the journal differs.
    fn line(&self) -> usize {
        match self {
            Difference::Effect { line, .. }
            | Difference::NoResult { line, .. }
            | Difference::NotServed { line, .. } => *line,
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let json = |effect: &Option<Box<Effect>>| match effect {
            None => "no further effect".to_owned(),
            Some(effect) => serde_json::to_string(effect).unwrap_or_else(|_| format!("{effect:?}")),
        };
        match self {
            Difference::Effect { line, cause, expected, got } => {
                writeln!(f, "line {line}: the state machine reacts differently to line {cause}")?;
                writeln!(f, "  expected {}", json(expected))?;
                write!(f, "  got      {}", json(got))
            }
            Difference::NoResult { line, read } => {
                write!(f, "line {line}: the result of read {read} did not return")
            }
            Difference::NotServed { line, read } => {
                write!(f, "line {line}: a result of read {read}, which was not served")
            }
        }
    }
}

/// Why a journal cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] io::Error),
    /// An entry comes before the first start.
    #[error("line {line}: an entry before the first start")]
    NoStart {
        /// The line, from 1.
        line: usize,
    },
}

/// Replays the journal in a file.
///
/// # Errors
/// The journal cannot be read, or does not begin with a start.
pub fn replay(path: &Path) -> Result<Replay, ReplayError> {
    replay_entries(|| system::journal::read(path))
}

/// Replays entries, each with its line number. `read` reads them from the first.
///
/// # Errors
/// An entry cannot be read, or comes before the first start.
pub fn replay_entries<E>(read: impl Fn() -> io::Result<E>) -> Result<Replay, ReplayError>
where
    E: Iterator<Item = io::Result<(usize, Entry)>>,
{
    let mut rules = Vec::new();
    let mut best = replay_without(&rules, read()?)?;
    for later in LATER_RULES {
        let Replay::Different(difference) = &best else { break };
        rules.extend(later);
        let earlier = replay_without(&rules, read()?)?;
        match earlier {
            // The version that replays more of the journal has written it.
            Replay::Different(other) if other.line() <= difference.line() => {}
            earlier => best = earlier,
        }
    }
    Ok(best)
}

/// Replays entries with these rules broken, in addition to those that were broken when the journal
/// was written.
fn replay_without(
    rules: &[Rule],
    entries: impl Iterator<Item = io::Result<(usize, Entry)>>,
) -> Result<Replay, ReplayError> {
    let mut machine: Option<Machine> = None;
    let mut expected_effects: VecDeque<Effect> = VecDeque::new();
    let mut reads = Reads::default();
    let mut scratch = Vec::new();
    // The last event was the result of a read.
    let mut is_result = false;
    let (mut cause, mut starts, mut events, mut effects) = (0, 0, 0, 0);
    for entry in entries {
        let (line, entry) = entry?;
        match entry {
            Entry::Start { mut config, records, t, read_results } => {
                config.rules = rules.iter().fold(config.rules, |all, rule| all.without(*rule));
                // A kill may have interrupted the last batch: effects that are still expected were
                // not performed.
                let (started, first) = Machine::recover(config, &records);
                machine = Some(started);
                expected_effects = first.into();
                reads.start(t, read_results);
                cause = line;
                starts += 1;
            }
            Entry::Event { t, event } => {
                let machine = machine.as_mut().ok_or(ReplayError::NoStart { line })?;
                if let Some(expected) = expected_effects.pop_front() {
                    let expected = Some(Box::new(expected));
                    return Ok(different(Difference::Effect { line, cause, expected, got: None }));
                }
                is_result = false;
                let returned = match &event {
                    Event::ReadResult { read, .. }
                    | Event::KeysRead { read, .. }
                    | Event::PageRead { read, .. }
                    | Event::ReadFailed { read, .. } => {
                        is_result = true;
                        reads.result(line, *read)
                    }
                    _ => reads.event(t),
                };
                if let Err(difference) = returned {
                    return Ok(different(difference));
                }
                machine.step(event, &mut scratch);
                expected_effects.extend(scratch.drain(..));
                cause = line;
                events += 1;
            }
            Entry::Effect(got) => {
                if machine.is_none() {
                    return Err(ReplayError::NoStart { line });
                }
                let expected = expected_effects.pop_front();
                if expected.as_ref() != Some(&got) {
                    let (expected, got) = (expected.map(Box::new), Some(Box::new(got)));
                    return Ok(different(Difference::Effect { line, cause, expected, got }));
                }
                match got {
                    // With the rule `snapshot-at-one-instant` broken, more keys are read at once, before the reads after it.
                    Effect::ServeKeys { read, .. } if is_result => {
                        reads.served.push_front((line, read));
                    }
                    Effect::Serve { read, .. }
                    | Effect::ServeKeys { read, .. }
                    | Effect::ServePage { read, .. } => reads.served.push_back((line, read)),
                    _ => {}
                }
                effects += 1;
            }
        }
    }
    let reads_without_result = reads.without_result;
    let earlier_beginning = rules.contains(&Rule::MemberBeforePromise);
    Ok(Replay::Same { starts, events, effects, reads_without_result, earlier_beginning })
}

fn different(difference: Difference) -> Replay {
    Replay::Different(Box::new(difference))
}

/// Matches reads with their results.
///
/// A node performs the effects of an iteration of its event loop when the state machine has processed
/// the events of the iteration, which all have one time. The results of the reads follow in the order
/// of the reads, with the same time. After a kill the last of them are missing.
#[derive(Debug, Default)]
struct Reads {
    /// The time of the iteration.
    time: u64,
    /// The reads of this iteration that have no result yet, each with its line.
    served: VecDeque<(usize, ReadId)>,
    /// The first read of this start that got no result in its iteration.
    missing: Option<(usize, ReadId)>,
    /// Whether results return: the start says so, or a read has one.
    return_results: bool,
    without_result: usize,
}

impl Reads {
    fn start(&mut self, time: u64, return_results: bool) {
        let without_result = self.without_result;
        *self = Reads { time, return_results, without_result, ..Reads::default() };
    }

    /// An event that is not the result of a read.
    fn event(&mut self, time: u64) -> Result<(), Difference> {
        if time != self.time {
            self.time = time;
            self.without_result += self.served.len();
            self.missing = self.missing.or(self.served.front().copied());
            self.served.clear();
        }
        self.check()
    }

    fn result(&mut self, line: usize, read: ReadId) -> Result<(), Difference> {
        self.return_results = true;
        self.check()?;
        match self.served.pop_front() {
            Some((_, served)) if served == read => Ok(()),
            Some((line, read)) => Err(Difference::NoResult { line, read }),
            None => Err(Difference::NotServed { line, read }),
        }
    }

    /// In one start either all reads have results or none.
    fn check(&self) -> Result<(), Difference> {
        match self.missing {
            Some((line, read)) if self.return_results => Err(Difference::NoResult { line, read }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use system::protocol::{
        Body, ClusterId, CommitMode, Config, Message, Node, Record, Rules, StoreId, Timing, TxnId,
    };

    use super::*;

    fn config() -> Config {
        Config {
            node: Node::Replica(1),
            replicas: 3,
            store: StoreId(7),
            nonce: 0,
            bootstrap: true,
            commit: CommitMode::Logged,
            rules: Rules::ALL,
            timing: Timing::default(),
            scrub_interval: Duration::ZERO,
            sequence_above: 0,
        }
    }

    fn started(config: Config) -> Entry {
        Entry::Start { t: 1, config, records: Vec::new(), read_results: false }
    }

    /// The journal entries of a replica that starts.
    fn journal() -> Vec<Entry> {
        let (mut machine, effects) = Machine::recover(config(), &[]);
        let mut entries = vec![started(config())];
        entries.extend(effects.into_iter().map(Entry::Effect));
        let mut effects = Vec::new();
        machine.step(Event::Persisted(2), &mut effects);
        entries.push(Entry::Event { t: 2, event: Event::Persisted(2) });
        entries.extend(effects.into_iter().map(Entry::Effect));
        entries
    }

    fn run(entries: Vec<Entry>) -> Replay {
        let lines = || entries.clone().into_iter().enumerate();
        replay_entries(|| Ok(lines().map(|(at, entry)| Ok((at + 1, entry)))))
            .expect("it begins with a start")
    }

    #[test]
    fn a_journal_replays() {
        let mut twice = journal();
        // A kill interrupted the batch, and the node was started again.
        twice.pop();
        twice.extend(journal());
        assert_eq!(
            run(twice),
            Replay::Same {
                starts: 2,
                events: 2,
                effects: 7,
                reads_without_result: 0,
                earlier_beginning: false
            }
        );
    }

    #[test]
    fn the_first_difference_is_reported() {
        let mut entries = journal();
        let other = Effect::SetTimer {
            id: system::protocol::TimerId::Heartbeat,
            after: Duration::from_secs(1),
        };
        entries.push(Entry::Effect(other.clone()));
        let line = entries.len();
        let expected = Difference::Effect {
            line,
            cause: line - 2,
            expected: None,
            got: Some(Box::new(other)),
        };
        assert_eq!(run(entries), different(expected));

        let mut entries = journal();
        let Some(Entry::Effect(Effect::Send { message, .. })) = entries.last_mut() else {
            panic!("the replica makes itself known: {entries:?}")
        };
        message.body = Body::Heartbeat;
        let Replay::Different(difference) = run(entries) else { panic!("it differs") };
        let message = difference.to_string();
        assert!(message.contains("expected") && message.contains("heartbeat"), "{message}");

        let mut entries = journal();
        entries.remove(1);
        let Replay::Different(difference) = run(entries) else { panic!("it differs") };
        assert!(
            matches!(*difference, Difference::Effect { line: 2, cause: 1, .. }),
            "{difference}"
        );
    }

    fn read(n: u64) -> ReadId {
        ReadId { epoch: 1, n, attempt: 0 }
    }

    /// A replica that has served reads, and a journal of that.
    struct Reader {
        machine: Machine,
        entries: Vec<Entry>,
        clock: u64,
    }

    impl Reader {
        /// A replica that has completed its handshake.
        fn new() -> Self {
            let (machine, effects) = Machine::recover(config(), &[]);
            let mut entries = vec![started(config())];
            entries.extend(effects.into_iter().map(Entry::Effect));
            let mut reader = Reader { machine, entries, clock: 1 };
            reader.step(Event::Persisted(2));
            reader.receive(Body::Fence {
                member: Some(StoreId(7)),
                commit: CommitMode::Logged,
                members: Vec::new(),
                supersedes: None,
                seen: None,
                decided: None,
            });
            reader.step(Event::Persisted(4));
            reader
        }

        /// An event in an iteration of its own.
        fn step(&mut self, event: Event) {
            self.clock += 1;
            self.step_in_same_iteration(event);
        }

        fn step_in_same_iteration(&mut self, event: Event) {
            let mut effects = Vec::new();
            self.machine.step(event.clone(), &mut effects);
            self.entries.push(Entry::Event { t: self.clock, event });
            self.entries.extend(effects.into_iter().map(Entry::Effect));
        }

        fn receive(&mut self, body: Body) {
            let (store, watermark) = (StoreId(1), TxnId::new(1, 1));
            let message = Message {
                cluster: ClusterId(0),
                store,
                epoch: 1,
                nonce: 0,
                watermark,
                decisions: 0,
                body,
            };
            self.step(Event::Message { from: Node::Master, message });
        }

        fn serve(&mut self, n: u64) {
            let (key, piggybacked, wait) = ("k".into(), Vec::new(), Duration::from_secs(1));
            self.receive(Body::Read { read: read(n), key, piggybacked, wait });
            assert_eq!(
                self.entries.last(),
                Some(&Entry::Effect(Effect::Serve { read: read(n), key: "k".into() }))
            );
        }

        fn result(&mut self, n: u64) {
            self.step_in_same_iteration(Event::ReadResult { read: read(n), found: None });
        }
    }

    #[test]
    fn results_of_reads_return_or_the_journal_is_an_earlier_version_s() {
        let without = |found: Replay| match found {
            Replay::Same { reads_without_result, .. } => Ok(reads_without_result),
            Replay::Different(difference) => Err(difference.to_string()),
        };
        let mut reader = Reader::new();
        for n in 1..=3 {
            reader.serve(n);
            reader.result(n);
        }
        let whole = reader.entries.clone();
        assert_eq!(without(run(whole.clone())), Ok(0));

        // Killed before the last result was written, and restarted.
        let mut killed = whole.clone();
        killed.truncate(whole.len() - 2);
        killed.extend(Reader::new().entries);
        assert_eq!(without(run(killed)), Ok(0));

        // No result at all: an earlier version. A last read may have been interrupted by a kill.
        let mut earlier = whole.clone();
        let is_result =
            |entry: &Entry| matches!(entry, Entry::Event { event: Event::ReadResult { .. }, .. });
        while let Some(at) = earlier.iter().position(is_result) {
            earlier.drain(at..at + 2);
        }
        assert_eq!(without(run(earlier.clone())), Ok(2));
        // A journal that says that results are recorded is not one of an earlier version.
        if let Some(Entry::Start { read_results, .. }) = earlier.first_mut() {
            *read_results = true;
        }
        let difference = without(run(earlier)).expect_err("the first result is missing");
        assert!(difference.contains("the result of read 1.1/0 did not return"), "{difference}");

        // Results that are not recorded, without what they caused or with it.
        let results: Vec<usize> = (0..whole.len()).filter(|at| is_result(&whole[*at])).collect();
        let [first, second, _] = results[..] else { panic!("three reads, not {results:?}") };
        for (at, n) in [(first, 1), (second, 2)] {
            let mut entries = whole.clone();
            entries.drain(at..at + 2);
            let expected = format!("line {at}: the result of read 1.{n}/0 did not return");
            assert_eq!(without(run(entries)), Err(expected));
            let mut entries = whole.clone();
            entries.remove(at);
            let difference = without(run(entries)).expect_err("an effect without a cause");
            assert!(difference.contains("expected no further effect"), "{difference}");
        }
        let mut entries = whole;
        let Entry::Event { event: Event::ReadResult { read: changed, .. }, .. } =
            &mut entries[first]
        else {
            panic!("a result")
        };
        *changed = read(9);
        let expected = format!("line {first}: the result of read 1.1/0 did not return");
        assert_eq!(without(run(entries.clone())), Err(expected));
        entries.remove(first - 1);
        let difference = without(run(entries)).expect_err("the read is missing");
        assert!(difference.contains("\"serve\""), "{difference}");
    }

    #[test]
    fn a_journal_of_an_earlier_version_begins_in_its_order() {
        let mut entries = journal();
        let (store, watermark) = (StoreId(1), TxnId::new(1, 1));
        let body = Body::Fence {
            member: None,
            commit: CommitMode::Logged,
            members: Vec::new(),
            supersedes: None,
            seen: None,
            decided: None,
        };
        let message = Message {
            cluster: ClusterId(0),
            store,
            epoch: 1,
            nonce: 0,
            watermark,
            decisions: 0,
            body,
        };
        let event = Event::Message { from: Node::Master, message };
        entries.push(Entry::Event { t: 3, event });
        let member = Record::Member { node: Node::Master, store };
        let effects = [
            Effect::Append(member),
            Effect::Append(Record::Promise { epoch: 1 }),
            Effect::Force(4),
        ];
        entries.extend(effects.map(Entry::Effect));
        let replayed = run(entries.clone());
        let Replay::Same { events: 2, earlier_beginning: true, .. } = replayed else {
            panic!("{replayed:?}")
        };

        // What differs from that version is reported where it differs from it.
        entries.pop();
        entries.push(Entry::Effect(Effect::Force(3)));
        let line = entries.len();
        let Replay::Different(difference) = run(entries) else { panic!("it differs") };
        assert!(
            matches!(*difference, Difference::Effect { line: at, .. } if at == line),
            "{difference}"
        );
    }

    #[test]
    fn a_master_serves_no_reads() {
        let config = Config { node: Node::Master, ..config() };
        let (_, effects) = Machine::recover(config.clone(), &[]);
        let mut entries = vec![started(config)];
        entries.extend(effects.into_iter().map(Entry::Effect));
        entries
            .push(Entry::Event { t: 2, event: Event::ReadResult { read: read(1), found: None } });
        let line = entries.len();
        assert_eq!(run(entries), different(Difference::NotServed { line, read: read(1) }));
    }
}
