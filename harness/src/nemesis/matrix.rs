//! crash-matrix: every point of a node's work and of its disk, and at each a kill, a loss of power
//! and a pause longer than every timeout. Enumerates the cells, says what each takes to be reached
//! or why it never can be, and deals them in seeded order; [`Coverage`] counts which were.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    time::Duration,
};

use rand::{RngExt, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde_json::Value as Json;
use system::{
    node::{Point, Role, Site},
    protocol::{CommitMode, Node},
};

use super::{
    Fault, FaultAction, FaultName, Injection, Means, Precondition, ShuffledBag, Span, Trigger,
    Whom, replicas,
};
use crate::{
    disk::{DiskPoint, points},
    history::NemesisEvent,
};

/// What is done to a node that has reached its point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum End {
    /// SIGKILL.
    Kill,
    /// A loss of power.
    Cut,
    /// It lies for longer than every timeout.
    Pause,
}

impl End {
    const ALL: [End; 3] = [End::Kill, End::Cut, End::Pause];

    /// The event that says that it was done.
    fn event(self) -> &'static str {
        match self {
            End::Kill => "kill",
            End::Cut => "power-loss",
            End::Pause => "pause",
        }
    }
}

/// One cell.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cell {
    /// The point.
    pub at: String,
    /// What is done there.
    pub end: End,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.end.event(), self.at)
    }
}

/// What a point takes to be reached, or why it never is.
pub(super) type Reach = Result<Precondition, &'static str>;

const BEGINS: &str = "only when a cluster begins, before there is anything to lose";
const NOBODY_REPLACED: &str =
    "takes a master that was replaced while it lived, which the store's lock rules out";
const NO_READS_BEFORE: &str =
    "takes a read between a replica's restart and its handshake, and the master sends none then";
const LOG_NEVER_FULL: &str =
    "where the votes decide the master logs one record a start: too few to fill its log";

/// Of a point that concerns the cluster's mode.
pub(super) fn reach(Point { role, site: place, kind, .. }: Point, commit: CommitMode) -> Reach {
    use Precondition::{Load, Orphans, RestartMaster, RestartVictim, Straggler};
    match (role, place, kind) {
        (_, Site::Persist, "member" | "votes") => Err(BEGINS),
        (_, _, "stale") => Err(NOBODY_REPLACED),
        (_, _, "not-serving") => Err(NO_READS_BEFORE),
        (Role::Master, Site::Persist, "epoch")
        // Whatever was under way at the replicas when the master was killed is asked about.
        | (Role::Master, _, "fence" | "fence-ok" | "peer-inquire")
        | (Role::Replica, Site::Persist, "incarnation") => Ok(RestartVictim),
        (Role::Replica, Site::Persist, "promise") | (Role::Replica, _, "fence" | "fence-ok") => {
            Ok(RestartMaster)
        }
        // Where the votes decide who is asked to veto does, and has nothing left to abort.
        (Role::Replica, Site::Persist, "abort") if commit == CommitMode::Votes => Ok(Orphans),
        (_, _, "veto") | (Role::Master, _, "peer-answer") => Ok(Straggler),
        (Role::Replica, Site::Persist, "refused" | "frozen")
        | (_, _, "vote-no" | "peer-inquire" | "peer-answer") => Ok(Orphans),
        (Role::Replica, Site::Persist, "abort")
        | (Role::Master, Site::Reply, "unavailable")
        | (_, _, "decide-abort" | "pending" | "inquire" | "busy") => Ok(Straggler),
        _ => Ok(Load),
    }
}

/// Of a point of a disk.
pub(super) fn reach_disk(DiskPoint { role, part, .. }: DiskPoint, commit: CommitMode) -> Reach {
    match (role, commit, part) {
        (Role::Master, CommitMode::Votes, points::Part::Log) => Ok(Precondition::RestartVictim),
        (Role::Master, CommitMode::Votes, _) => Err(LOG_NEVER_FULL),
        _ => Ok(Precondition::Load),
    }
}

/// How many occurrences of a kind are told apart: what happens once for each replica has a first, a
/// second and so on.
fn occurrences(Point { role, site: place, kind, .. }: Point, replicas: u8) -> u32 {
    let each = match (role, place) {
        (Role::Master, Site::Send) => ["prepare", "decide", "veto"].contains(&kind),
        (Role::Master, Site::Receive) => ["vote-yes", "ack", "peer-answer"].contains(&kind),
        _ => false,
    };
    if each { replicas.into() } else { 1 }
}

/// Every cell, for a cluster of so many replicas that commits in this mode; those that need disks
/// that can lose power only if there are such.
fn cells(replicas: u8, disks: bool, commit: CommitMode) -> Vec<(Cell, Role, Reach)> {
    let mut points = Vec::new();
    for role in [Role::Master, Role::Replica] {
        for point in Point::all(role).filter(|point| point.applies_to(commit)) {
            for n in 1..=occurrences(point, replicas) {
                points.push((Point { n, ..point }.to_string(), role, reach(point, commit)));
            }
        }
        let disk = DiskPoint::all(role).filter(|_| disks);
        points.extend(disk.map(|point| (point.to_string(), role, reach_disk(point, commit))));
    }
    let ends = End::ALL.into_iter().filter(|end| disks || *end != End::Cut);
    let ends: Vec<_> = ends.collect();
    points
        .into_iter()
        .flat_map(|(at, role, reach)| {
            let cell = move |end: &End| (Cell { at: at.clone(), end: *end }, role, reach);
            ends.iter().map(cell).collect::<Vec<_>>()
        })
        .collect()
}

/// Which part of the matrix a run does: cells are dealt out to the parts in turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Which one, from 1.
    pub number: u32,
    /// Of how many.
    pub of: u32,
}

impl Part {
    /// All of it.
    pub const WHOLE: Part = Part { number: 1, of: 1 };
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.of)
    }
}

impl std::str::FromStr for Part {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let read = || {
            let (number, of) = text.split_once('/')?;
            let part = Part { number: number.parse().ok()?, of: of.parse().ok()? };
            (1..=part.of).contains(&part.number).then_some(part)
        };
        read().ok_or_else(|| {
            format!("'{text}' is no part: want K/N, as in 3/10 for the third of ten")
        })
    }
}

/// The fault.
#[derive(Debug)]
pub(super) struct CrashMatrix {
    cells: Vec<(Cell, Role, Precondition)>,
    /// What is left of this round, and how often each has missed.
    left: VecDeque<(usize, u32)>,
    last: Option<(usize, u32)>,
    /// The first round has begun.
    begun: bool,
    replicas: ShuffledBag<Node>,
    down: ShuffledBag<Span>,
}

/// A cell that was not reached is tried so often before the next round.
const TRIES: u32 = 4;

impl CrashMatrix {
    pub(super) fn new(count: u8, Means { disks, part, commit }: Means) -> Self {
        let cells = cells(count, disks, commit).into_iter();
        let can = cells.filter_map(|(cell, role, reach)| Some((cell, role, reach.ok()?)));
        let first = part.number as usize - 1;
        CrashMatrix {
            cells: can.skip(first).step_by(part.of as usize).collect(),
            left: VecDeque::new(),
            last: None,
            begun: false,
            replicas: replicas(count),
            down: ShuffledBag::new(vec![Span::Short, Span::Short, Span::Short, Span::Medium]),
        }
    }
}

impl Fault for CrashMatrix {
    fn next(&mut self, rng: &mut ChaCha8Rng) -> Injection {
        if self.left.is_empty() {
            let mut round: Vec<_> = (0..self.cells.len()).collect();
            round.shuffle(rng);
            if !std::mem::replace(&mut self.begun, true) {
                // A run that has other faults as well begins with what is soon reached.
                let soon = round.iter().position(|cell| self.cells[*cell].2 == Precondition::Load);
                round.swap(0, soon.unwrap_or(0));
            }
            self.left = round.into_iter().map(|cell| (cell, 1)).collect();
        }
        self.last = self.left.pop_front();
        let (Cell { at, end }, role, precondition) =
            &self.cells[self.last.map_or(0, |(cell, _)| cell)];
        let target = if *role == Role::Master { Node::Master } else { self.replicas.deal(rng) };
        let down = self.down.deal(rng).draw(rng);
        let action = match end {
            End::Kill => FaultAction::Kill { lies: Duration::ZERO, down },
            End::Cut => {
                let part = rng.random_bool(0.5).then(|| rng.random());
                FaultAction::Cut { lies: Duration::ZERO, down, whom: Whom::Target, part }
            }
            End::Pause => FaultAction::Pause { lies: Span::Long.draw(rng) },
        };
        let calm = Duration::from_millis(rng.random_range(5..60));
        let trigger = Trigger::Point(at.clone());
        let strike = Injection::of(FaultName::CrashMatrix, calm, target, trigger, action);
        Injection { precondition: *precondition, ..strike }
    }

    fn report(&mut self, struck: bool) {
        if let Some((cell, tries)) = self.last.take()
            && !struck
            && tries < TRIES
        {
            // Not at once: what keeps it from being reached may pass.
            let at = self.left.len().min(3);
            self.left.insert(at, (cell, tries + 1));
        }
    }
}

/// Which cells of the matrix were reached in a run, or in a series.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Those that can be reached, and how often they were.
    can: BTreeMap<Cell, u64>,
    /// Those that never can, and why.
    never: BTreeMap<Cell, &'static str>,
    /// Those that were armed and not reached.
    missed: BTreeSet<Cell>,
}

/// The event that says of which matrix a run does a part.
pub const EVENT: &str = "matrix";

/// What that event says.
#[must_use]
pub fn facts(replicas: u8, Means { disks, part, commit }: Means) -> Json {
    serde_json::json!({
        "replicas": replicas, "disks": disks, "part": part.to_string(), "commit": commit
    })
}

impl Coverage {
    /// Takes note of what a run did.
    pub fn add(&mut self, event: &NemesisEvent) {
        if event.f == EVENT {
            let number = event.value.get("replicas").and_then(Json::as_u64).unwrap_or_default();
            let disks = event.value.get("disks").and_then(Json::as_bool).unwrap_or_default();
            // A record that does not say is of the time when there was one mode.
            let commit = event.text("commit").and_then(|mode| mode.parse().ok());
            let replicas = u8::try_from(number).unwrap_or_default();
            for (cell, _, reach) in cells(replicas, disks, commit.unwrap_or_default()) {
                match reach {
                    Ok(_) => {
                        self.can.entry(cell).or_default();
                    }
                    Err(why) => {
                        self.never.insert(cell, why);
                    }
                }
            }
            return;
        }
        if event.text("fault") != Some(FaultName::CrashMatrix.name()) {
            return;
        }
        let Some(at) = event.text("at") else { return };
        let of = |name: &str| {
            let end = End::ALL.into_iter().find(|end| end.event() == name)?;
            Some(Cell { at: at.to_owned(), end })
        };
        if let Some(cell) = of(&event.f) {
            *self.can.entry(cell).or_default() += 1;
        } else if event.f == "miss"
            && event.value.get("over") == Some(&Json::Bool(false))
            && let Some(cell) = event.text("action").and_then(of)
        {
            self.missed.insert(cell);
        }
    }

    /// Adds what another run did.
    pub fn merge(&mut self, other: Coverage) {
        for (cell, times) in other.can {
            *self.can.entry(cell).or_default() += times;
        }
        self.never.extend(other.never);
        self.missed.extend(other.missed);
    }

    /// Whether there is anything to tell.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.can.is_empty()
    }

    /// The cells that were armed and never reached.
    pub fn vacuous(&self) -> impl Iterator<Item = &Cell> {
        self.missed.iter().filter(|cell| self.can.get(cell).is_none_or(|times| *times == 0))
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 30;
        let fired = self.can.values().filter(|times| **times > 0).count();
        let (all, share) = (self.can.len(), 100.0 * fired as f64 / self.can.len().max(1) as f64);
        writeln!(f, "Crash matrix: {fired} of {all} cells reached ({share:.1} %)")?;
        let open: Vec<_> = self.can.iter().filter(|(_, times)| **times == 0).collect();
        // A short run has no need to tell how little it is.
        for (cell, _) in open.iter().filter(|_| open.len() <= SHOWN) {
            writeln!(f, "  not yet: {cell}")?;
        }
        let mut why: BTreeMap<&str, (usize, BTreeSet<&str>)> = BTreeMap::new();
        for (cell, reason) in &self.never {
            let (count, points) = why.entry(reason).or_default();
            *count += 1;
            points.insert(&cell.at);
        }
        for (reason, (count, points)) in why {
            let points = points.into_iter().collect::<Vec<_>>().join(", ");
            writeln!(f, "  {count} never can be: {reason} ({points})")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use serde_json::json;

    use super::*;

    const LOGGED: CommitMode = CommitMode::Logged;

    fn means(disks: bool, part: Part) -> Means {
        Means { disks, part, commit: LOGGED }
    }

    #[test]
    fn every_point_has_its_cells_where_it_means_something_and_most_can_be_reached() {
        // Fixed, so that no change of a node's points goes unseen.
        for (commit, total, reached) in [(LOGGED, 462, 426), (CommitMode::Votes, 516, 444)] {
            let cells = cells(3, true, commit);
            let distinct: BTreeSet<_> = cells.iter().map(|(cell, ..)| cell).collect();
            assert_eq!(distinct.len(), cells.len());
            for role in [Role::Master, Role::Replica] {
                for point in Point::all(role) {
                    for end in End::ALL {
                        let cell = Cell { at: point.to_string(), end };
                        let there = distinct.contains(&cell);
                        assert_eq!(there, point.applies_to(commit), "{commit}: {cell}");
                    }
                }
            }
            let third = "master:after-send:decide:3".to_owned();
            assert!(distinct.contains(&Cell { at: third, end: End::Cut }));
            let can = cells.iter().filter(|(.., reach)| reach.is_ok()).count();
            assert_eq!((cells.len(), can), (total, reached), "{commit}");
        }
    }

    #[test]
    fn the_parts_of_a_matrix_are_all_of_it_and_each_round_deals_every_cell() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut seen = BTreeSet::new();
        for number in 1..=5 {
            let mut matrix = CrashMatrix::new(3, means(true, Part { number, of: 5 }));
            for _ in 0..matrix.cells.len() {
                let strike = matrix.next(&mut rng);
                matrix.report(true);
                let Trigger::Point(at) = strike.trigger else { panic!("{strike:?}") };
                let end = match strike.action {
                    FaultAction::Kill { .. } => End::Kill,
                    FaultAction::Pause { .. } => End::Pause,
                    _ => End::Cut,
                };
                assert!(seen.insert(Cell { at, end }));
            }
        }
        let can = cells(3, true, LOGGED).into_iter().filter(|(.., reach)| reach.is_ok());
        assert_eq!(seen, can.map(|(cell, ..)| cell).collect());
        for wrong in ["", "1", "0/3", "4/3", "a/b", "1/0"] {
            assert!(wrong.parse::<Part>().is_err(), "{wrong}");
        }
        assert_eq!("3/10".parse(), Ok(Part { number: 3, of: 10 }));
    }

    #[test]
    fn a_cell_that_was_missed_is_tried_again() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut matrix = CrashMatrix::new(1, means(false, Part { number: 1, of: 200 }));
        let first = matrix.next(&mut rng).trigger;
        let rest = matrix.left.len();
        matrix.report(false);
        let again = (0..=rest).map(|_| {
            let trigger = matrix.next(&mut rng).trigger;
            matrix.report(true);
            trigger
        });
        assert!(again.collect::<Vec<_>>().contains(&first));
    }

    #[test]
    fn coverage_tells_what_was_reached_what_not_and_what_cannot_be() {
        let event = |f: &str, value| NemesisEvent { f: f.to_owned(), value };
        let mut coverage = Coverage::default();
        coverage.add(&event(EVENT, facts(3, means(true, Part::WHOLE))));
        let at = "master:before-persist:commit";
        coverage.add(&event("kill", json!({ "fault": "crash-matrix", "at": at })));
        coverage.add(&event("kill", json!({ "fault": "kill-master" })));
        let miss = |at: &str, over: bool| json!({ "fault": "crash-matrix", "at": at, "action": "kill", "over": over });
        coverage.add(&event("miss", miss(at, false)));
        assert_eq!(coverage.vacuous().count(), 0, "it was reached another time");
        coverage.add(&event("miss", miss("master:after-send:read", true)));
        assert_eq!(coverage.vacuous().count(), 0, "the run was over");
        coverage.add(&event("miss", miss("master:after-send:read", false)));
        assert_eq!(coverage.vacuous().count(), 1);
        let text = coverage.to_string();
        let all = coverage.can.len();
        assert!(text.contains(&format!("1 of {all} cells")), "{text}");
        assert!(text.contains("only when a cluster begins"), "{text}");
        let mut both = coverage.clone();
        both.merge(coverage);
        assert_eq!(both.can[&Cell { at: at.to_owned(), end: End::Kill }], 2);
    }
}
