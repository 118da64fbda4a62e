//! Replays a recorded journal through the node's state machine and compares every effect. The state
//! machine is deterministic, so a difference means that the code has changed or the journal has.

use std::{collections::VecDeque, fmt, io, path::Path};

use system::{
    journal::Entry,
    protocol::{Effect, Machine},
};

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
    },
    /// The first difference.
    Different(Box<Difference>),
}

/// Where the state machine and its journal differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The journal line, from 1: the effect that differs, or the entry that comes in place of
    /// further effects.
    pub line: usize,
    /// The line of the event or start that caused the effect.
    pub cause: usize,
    /// The effect that the state machine requests now, `None` if none.
    pub expected: Option<Effect>,
    /// The effect in the journal, `None` if it has no further one here.
    pub got: Option<Effect>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let json = |effect: &Option<Effect>| match effect {
            None => "no further effect".to_owned(),
            Some(effect) => serde_json::to_string(effect).unwrap_or_else(|_| format!("{effect:?}")),
        };
        writeln!(
            f,
            "line {}: the state machine reacts differently to line {}",
            self.line, self.cause
        )?;
        writeln!(f, "  expected {}", json(&self.expected))?;
        write!(f, "  got      {}", json(&self.got))
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
    replay_entries(system::journal::read(path)?)
}

/// Replays entries, each with its line number.
///
/// # Errors
/// An entry cannot be read, or comes before the first start.
pub fn replay_entries(
    entries: impl Iterator<Item = io::Result<(usize, Entry)>>,
) -> Result<Replay, ReplayError> {
    let mut machine: Option<Machine> = None;
    let mut expected_effects: VecDeque<Effect> = VecDeque::new();
    let mut scratch = Vec::new();
    let (mut cause, mut starts, mut events, mut effects) = (0, 0, 0, 0);
    for entry in entries {
        let (line, entry) = entry?;
        match entry {
            Entry::Start { config, records, .. } => {
                // A kill may have interrupted the last batch: effects that are still expected were
                // not performed.
                let (started, first) = Machine::recover(config, &records);
                machine = Some(started);
                expected_effects = first.into();
                cause = line;
                starts += 1;
            }
            Entry::Event { event, .. } => {
                let machine = machine.as_mut().ok_or(ReplayError::NoStart { line })?;
                if let Some(expected) = expected_effects.pop_front() {
                    let expected = Some(expected);
                    return Ok(different(Difference { line, cause, expected, got: None }));
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
                    let got = Some(got);
                    return Ok(different(Difference { line, cause, expected, got }));
                }
                effects += 1;
            }
        }
    }
    Ok(Replay::Same { starts, events, effects })
}

fn different(difference: Difference) -> Replay {
    Replay::Different(Box::new(difference))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use system::protocol::{Body, CommitMode, Config, Event, Node, Rules, StoreId, Timing};

    use super::*;

    fn config() -> Config {
        Config {
            node: Node::Replica(1),
            replicas: 3,
            store: StoreId(7),
            bootstrap: true,
            commit: CommitMode::Logged,
            rules: Rules::ALL,
            timing: Timing::default(),
        }
    }

    /// The journal entries of a replica that starts.
    fn journal() -> Vec<Entry> {
        let (mut machine, effects) = Machine::recover(config(), &[]);
        let mut entries = vec![Entry::Start { t: 1, config: config(), records: Vec::new() }];
        entries.extend(effects.into_iter().map(Entry::Effect));
        let mut effects = Vec::new();
        machine.step(Event::Persisted(2), &mut effects);
        entries.push(Entry::Event { t: 2, event: Event::Persisted(2) });
        entries.extend(effects.into_iter().map(Entry::Effect));
        entries
    }

    fn run(entries: Vec<Entry>) -> Replay {
        let lines = entries.into_iter().enumerate().map(|(at, entry)| Ok((at + 1, entry)));
        replay_entries(lines).expect("it begins with a start")
    }

    #[test]
    fn a_journal_replays() {
        let mut twice = journal();
        // A kill interrupted the batch, and the node was started again.
        twice.pop();
        twice.extend(journal());
        assert_eq!(run(twice), Replay::Same { starts: 2, events: 2, effects: 7 });
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
        let expected = Difference { line, cause: line - 2, expected: None, got: Some(other) };
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
        assert_eq!((difference.line, difference.cause), (2, 1));
    }
}
