//! All that a page shows of a run, gathered: operations, faults, locks and forces of every node,
//! and the stories of the transactions that matter. Decides what is left out of a long run; knows
//! nothing of how it is drawn.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    path::Path,
};

use serde::Serialize;
use serde_json::{Value as Json, json};
use system::protocol::{Node, TxnId};

use super::{
    cite::{Piece, pieces},
    columns::Columns,
    journals::{self, Found, Note, Story, Wanted},
    tenures::{self, Reign, Release, Tenure},
    windows::{Window, windows},
};
use crate::{
    checker::{
        Results, Validity,
        linearizability::{self, Limits, NonLinearizableKey},
    },
    history::{Function, Operation, Outcome},
    twopc::{LoadError, Run, evidence::FactKind, find_journals, read_json, version_of},
};

/// A run with more operations shows a share of them: about so many.
const OPERATIONS_MAX: usize = 150_000;

/// The stories of so many transactions are told.
const STORIES_MAX: usize = 240;

/// Of them, so many because they were in doubt for long.
const DOUBTFUL: usize = 60;

/// Everything that a page shows.
pub(super) struct Scene<'a> {
    pub(super) run: &'a Run,
    pub(super) results: &'a Results,
    /// `test.json`.
    pub(super) test: Json,
    pub(super) windows: Vec<Window>,
    pub(super) broken: Vec<NonLinearizableKey>,
    pub(super) tenures: BTreeMap<Node, Vec<Tenure>>,
    pub(super) stories: BTreeMap<TxnId, Story>,
    /// Lines of journals that sentences name.
    pub(super) quotes: BTreeMap<(Node, usize), (i64, String)>,
    /// The transaction to look at first.
    pub(super) first: Option<TxnId>,
    /// What the page leaves out, a sentence each.
    pub(super) left_out: Vec<String>,
    /// Everything for the script, packed.
    pub(super) packed: String,
}

impl<'a> Scene<'a> {
    /// Gathers.
    ///
    /// # Errors
    /// A file of the run cannot be read.
    pub(super) fn of(
        directory: &Path,
        run: &'a Run,
        results: &'a Results,
    ) -> Result<Self, LoadError> {
        let file = |name: &str| {
            let path = directory.join(name);
            move |source| LoadError::File { path: path.clone(), source }
        };
        let test: Json = read_json(&directory.join("test.json"))?;
        let windows = windows(&run.events);
        let limits = Limits { time: std::time::Duration::from_secs(10), ..Limits::default() };
        let invalid = results
            .check(linearizability::NAME)
            .is_some_and(|check_result| check_result.verdict == Validity::Invalid);
        let broken = if invalid {
            linearizability::non_linearizable_keys(&run.operations, &limits)
        } else {
            Vec::new()
        };
        let tenures = tenures::tenures(&run.evidence, &windows);
        let (wanted, first) = wanted(run, results, &windows, &broken, &tenures);
        let journals = find_journals(directory)?;
        let found = journals::read(&journals, &wanted, run.description.clock_origin)
            .map_err(file("nodes"))?;
        let Found { forces, begun, mut stories, quotes } = found;
        let context = context(run, &windows);
        for story in stories.values_mut() {
            story.add(context.iter().cloned());
            story.cut();
        }
        let mut left_out = Vec::new();
        let reigns = tenures::reigns(&run.evidence, &begun);
        let shown = Shown::of(run, &windows, &broken, &stories, &mut left_out);
        if !stories.is_empty() {
            left_out.push(format!(
                "messages are kept for {} of {} transactions: those that a fault, a violation or a \
                 long doubt is about, and a few ordinary ones",
                stories.len(),
                run.evidence.transactions.by_id.len()
            ));
        }
        let mut scene = Scene {
            run,
            results,
            test,
            windows,
            broken,
            tenures,
            stories,
            quotes,
            first,
            left_out,
            packed: String::new(),
        };
        scene.packed = scene.pack(&shown, &forces, &reigns).map_err(file("report.html"))?;
        Ok(scene)
    }

    /// By operation: when the event came that ended it, also of an `info`.
    pub(super) fn ends(&self) -> Vec<Option<u64>> {
        let of = |operation: &Operation| Some(time_of(self.run, operation.returned_index?));
        self.run.operations.iter().map(of).collect()
    }

    /// How many clients asked at a time, as far as is known.
    pub(super) fn concurrency(&self) -> u64 {
        let told = self.test.get("concurrency").and_then(Json::as_u64);
        told.filter(|clients| *clients > 0)
            .or_else(|| self.run.operations.iter().map(|operation| operation.process + 1).max())
            .unwrap_or(1)
    }

    /// The operation that became a transaction: one that was told its version, or wrote its value.
    pub(super) fn operation_of(&self, txn: TxnId) -> Option<&Operation> {
        let operations = &self.run.operations;
        let told = operations.iter().find(|op| op.f.is_write() && version_of(op) == Some(txn));
        told.or_else(|| {
            let write = self.run.evidence.transactions.by_id.get(&txn)?.write.as_ref()?;
            let value = write.value.as_ref()?.to_string();
            operations.iter().find(|op| op.f == Function::Put && op.value.as_ref() == Some(&value))
        })
    }

    fn pack(
        &self,
        shown: &Shown,
        forces: &BTreeMap<Node, Vec<(i64, i64)>>,
        reigns: &BTreeMap<TxnId, Reign>,
    ) -> io::Result<String> {
        #[derive(Serialize)]
        struct Head<'a> {
            name: &'a str,
            clients: u64,
            replicas: u8,
            end: u64,
            keys: Vec<&'a str>,
            values: Vec<&'a str>,
            errors: Vec<String>,
            windows: &'a [Window],
            nemesis: Vec<String>,
            stories: Vec<Told<'a>>,
            broken: Vec<Json>,
            quotes: Vec<(String, i64, &'a str)>,
            first: Option<String>,
            focus: Option<(i64, i64)>,
        }
        #[derive(Serialize)]
        struct Told<'a> {
            txn: String,
            write: String,
            #[serde(flatten)]
            story: &'a Story,
        }
        let run = self.run;
        let mut columns = Columns::default();
        let operations: Vec<&Operation> =
            shown.operations.iter().map(|at| &run.operations[*at]).collect();
        let mut names = Names::default();
        put_operations(&mut columns, &operations, run, &mut names);
        let last = run.events.last().map_or(0, |event| event.time);
        let mut keys = names.keys;
        for (node, tenures) in &self.tenures {
            let of_shown: Vec<&Tenure> = tenures.iter().filter(|t| shown.has(t.txn)).collect();
            put_tenures(&mut columns, *node, &of_shown, &mut keys);
        }
        let reigns: Vec<_> = reigns.iter().filter(|(txn, _)| shown.has(**txn)).collect();
        put_reigns(&mut columns, &reigns);
        for (node, forces) in forces {
            let thinned = forces.len().div_ceil(OPERATIONS_MAX / 3).max(1);
            let forces: Vec<_> = forces.iter().step_by(thinned).collect();
            columns.steps(&format!("{node}.force"), forces.iter().map(|(from, _)| from / 1000));
            columns.plain(&format!("{node}.force.for"), forces.iter().map(|(a, b)| (b - a) / 1000));
        }
        let starts = run.evidence.nodes.iter().map(|(node, facts)| {
            let starts = facts.facts.iter().filter(|f| matches!(f.kind, FactKind::Started { .. }));
            (node, starts.map(|fact| fact.position.time / 1000).collect::<Vec<_>>())
        });
        for (node, times) in starts {
            columns.steps(&format!("{node}.start"), times);
        }
        let nemesis = run.events.iter().filter(|event| event.is_nemesis());
        let stories = self.stories.iter().map(|(txn, story)| {
            let known = run.evidence.transactions.by_id.get(txn).and_then(|t| t.write.as_ref());
            let write = known.map_or_else(String::new, ToString::to_string);
            Told { txn: txn.to_string(), write, story }
        });
        let broken = self.broken.iter().map(|broken| {
            let of = |number: u32| shown.place.get(&(number as usize)).copied();
            json!({
                "key": broken.explanation.key,
                "at": of(broken.breaks_at),
                "ops": broken.explanation.operations.iter().filter_map(|op| of(op.number))
                    .collect::<Vec<_>>(),
            })
        });
        let mut keys: Vec<_> = keys.into_iter().collect();
        keys.sort_by_key(|(_, number)| *number);
        let mut values: Vec<_> = names.values.into_iter().collect();
        values.sort_by_key(|(_, number)| *number);
        let mut errors: Vec<_> = names.errors.into_iter().collect();
        errors.sort_by_key(|(_, number)| *number);
        columns.pack(&Head {
            name: self.test.get("name").and_then(Json::as_str).unwrap_or("a run"),
            clients: self.concurrency(),
            replicas: run.description.replicas,
            end: last,
            keys: keys.iter().map(|(key, _)| key.as_str()).collect(),
            values: values.iter().map(|(value, _)| value.as_str()).collect(),
            errors: errors.into_iter().map(|(error, _)| error).collect(),
            windows: &self.windows,
            nemesis: nemesis.map(serde_json::to_string).collect::<Result<_, _>>()?,
            stories: stories.collect(),
            broken: broken.collect(),
            quotes: self
                .quotes
                .iter()
                .map(|((node, line), (t, text))| (format!("{node}:{line}"), *t, text.as_str()))
                .collect(),
            first: self.first.map(|txn| txn.to_string()),
            focus: self.focus(),
        })
    }

    /// The time to look at first.
    fn focus(&self) -> Option<(i64, i64)> {
        let operations = &self.run.operations;
        if let Some(broken) = self.broken.first() {
            let shown = broken.explanation.operations.iter();
            let times: Vec<u64> = shown
                .flat_map(|op| {
                    let operation = &operations[op.number as usize];
                    [Some(operation.invoked), operation.returned]
                })
                .flatten()
                .collect();
            let (from, to) = (*times.iter().min()?, *times.iter().max()?);
            return Some((i64::try_from(from).ok()?, i64::try_from(to).ok()?));
        }
        if self.results.verdict != Validity::Invalid {
            return None;
        }
        let story = self.stories.get(&self.first?)?;
        let arrows = story.arrows.iter().flat_map(|arrow| [arrow.sent, arrow.got]).flatten();
        let times: Vec<i64> =
            story.notes.iter().map(|note| note.t).chain(arrows.map(|(t, _)| t)).collect();
        Some((*times.iter().min()?, *times.iter().max()?))
    }
}

/// Which operations and transactions a page shows.
struct Shown {
    /// By place: the number of the operation in the history.
    operations: Vec<usize>,
    /// The places of those, by number.
    place: HashMap<usize, usize>,
    /// Of the transactions every so many-th, and these.
    every: usize,
    also: BTreeSet<TxnId>,
}

impl Shown {
    fn of(
        run: &Run,
        windows: &[Window],
        broken: &[NonLinearizableKey],
        stories: &BTreeMap<TxnId, Story>,
        left_out: &mut Vec<String>,
    ) -> Self {
        let all = run.operations.len();
        let every = all.div_ceil(OPERATIONS_MAX).max(1);
        let named: BTreeSet<usize> = broken
            .iter()
            .flat_map(|broken| {
                let shown = broken.explanation.operations.iter().map(|op| op.number);
                shown.chain([broken.breaks_at]).chain(broken.prefix.iter().rev().take(64).copied())
            })
            .map(|number| number as usize)
            .collect();
        // Around each fault all of them, as long as that is not most of the run.
        let near =
            |t: u64| windows.iter().any(|w| t + 20_000_000 >= w.from && t <= w.from + 80_000_000);
        let mut few = all / every / 2;
        let mut operations = Vec::with_capacity(all / every + named.len());
        for (number, operation) in run.operations.iter().enumerate() {
            let kept = number % every == 0
                || named.contains(&number)
                || operation.outcome == Outcome::Info
                || (few > 0 && near(operation.invoked) && {
                    few -= 1;
                    true
                });
            if kept {
                operations.push(number);
            }
        }
        if operations.len() < all {
            left_out.push(format!(
                "{} of {all} operations are drawn: every {every}th, all around faults and in \
                 counterexamples, and every indeterminate one",
                operations.len()
            ));
        }
        let place = operations.iter().enumerate().map(|(place, number)| (*number, place)).collect();
        let mut also: BTreeSet<TxnId> = stories.keys().copied().collect();
        also.extend(operations.iter().filter_map(|number| version_of(&run.operations[*number])));
        if every == 1 {
            also.clear();
        }
        Shown { operations, place, every, also }
    }

    fn has(&self, txn: TxnId) -> bool {
        self.every == 1 || self.also.contains(&txn)
    }
}

/// Texts by the numbers that stand for them.
#[derive(Default)]
struct Names {
    keys: HashMap<String, usize>,
    values: HashMap<String, usize>,
    errors: HashMap<String, usize>,
}

fn number(names: &mut HashMap<String, usize>, name: &str) -> (usize, bool) {
    if let Some(number) = names.get(name) {
        return (*number, false);
    }
    let number = names.len();
    names.insert(name.to_owned(), number);
    (number, true)
}

fn int(number: impl TryInto<i64>) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

/// When an event was.
fn time_of(run: &Run, index: u64) -> u64 {
    let at = run.events.binary_search_by_key(&index, |event| event.index);
    at.map_or(0, |at| run.events[at].time)
}

/// The operations, so that `page.js` can write the lines of the history as they are.
fn put_operations(columns: &mut Columns, operations: &[&Operation], run: &Run, names: &mut Names) {
    let each =
        |f: &dyn Fn(&Operation) -> i64| operations.iter().map(|op| f(op)).collect::<Vec<_>>();
    columns.steps("o.index", each(&|op| int(op.invoked_index)));
    columns.steps("o.time", each(&|op| int(op.invoked)));
    columns.plain(
        "o.end",
        each(&|op| op.returned_index.map_or(0, |end| int(end) - int(op.invoked_index))),
    );
    columns.plain(
        "o.for",
        each(&|op| op.returned_index.map_or(0, |end| int(time_of(run, end)) - int(op.invoked))),
    );
    columns.plain("o.process", each(&|op| int(op.process)));
    columns.plain(
        "o.what",
        each(&|op| {
            let f = match op.f {
                Function::Get => 0,
                Function::Put => 1,
                Function::Del => 2,
            };
            let outcome = match op.outcome {
                Outcome::Ok => 0,
                Outcome::Fail => 1,
                Outcome::Info => 2,
            };
            3 * f + outcome
        }),
    );
    let keys = operations.iter().map(|op| int(number(&mut names.keys, &op.key).0));
    columns.plain("o.key", keys.collect::<Vec<_>>());
    // A value that is new is the next one; another is so many back.
    let mut known = 0;
    let values = operations.iter().map(|op| match &op.value {
        None => 0,
        Some(value) => {
            let (at, new) = number(&mut names.values, value);
            known += usize::from(new);
            if new { 1 } else { 1 + int(known - at) }
        }
    });
    columns.plain("o.value", values.collect::<Vec<_>>());
    columns.plain("o.epoch", each(&|op| version_of(op).map_or(0, |version| int(version.epoch))));
    columns.steps("o.seq", each(&|op| version_of(op).map_or(0, |version| int(version.seq))));
    // Of an error that names a transaction, the transaction goes apart.
    let mut about = Vec::with_capacity(operations.len());
    let errors = operations.iter().map(|op| match &op.error {
        None => {
            about.push(TxnId::default());
            0
        }
        Some(error) => {
            let named = pieces(error).into_iter().find_map(|piece| match piece {
                Piece::Txn(txn) => Some(txn),
                _ => None,
            });
            about.push(named.unwrap_or_default());
            let text = named.map_or_else(
                || error.replace('%', "%%"),
                |txn| error.replace('%', "%%").replacen(&txn.to_string(), "%t", 1),
            );
            1 + int(number(&mut names.errors, &text).0)
        }
    });
    columns.plain("o.error", errors.collect::<Vec<_>>());
    columns.steps("o.error.epoch", about.iter().map(|txn| int(txn.epoch)));
    columns.steps("o.error.seq", about.iter().map(|txn| int(txn.seq)));
}

fn put_tenures(
    columns: &mut Columns,
    node: Node,
    tenures: &[&Tenure],
    keys: &mut HashMap<String, usize>,
) {
    let name = |field: &str| format!("{node}.{field}");
    let each = |f: &dyn Fn(&Tenure) -> i64| tenures.iter().map(|t| f(t)).collect::<Vec<_>>();
    columns.steps(&name("epoch"), each(&|t| int(t.txn.epoch)));
    columns.steps(&name("seq"), each(&|t| int(t.txn.seq)));
    columns.steps(&name("from"), each(&|t| t.from / 1000));
    columns.plain(&name("voted"), each(&|t| t.voted.map_or(-1, |v| v / 1000 - t.from / 1000)));
    columns.plain(&name("for"), each(&|t| t.to / 1000 - t.from / 1000));
    let outcome = |t: &Tenure| match t.outcome {
        Release::Open => 0,
        Release::Applied => 1,
        Release::Aborted => 2,
        Release::Down => 3,
    };
    columns.plain(&name("how"), each(&outcome));
    let numbers = tenures.iter().map(|t| int(number(keys, &t.key.to_string()).0));
    columns.plain(&name("key"), numbers.collect::<Vec<_>>());
}

fn put_reigns(columns: &mut Columns, reigns: &[(&TxnId, &Reign)]) {
    let mut rows: Vec<(i64, TxnId, &Reign)> = Vec::with_capacity(reigns.len());
    for (txn, reign) in reigns {
        let times = [reign.begun, reign.appended, reign.decided, reign.aborted];
        if let Some(from) = times.into_iter().flatten().min() {
            rows.push((from / 1000, **txn, reign));
        }
    }
    rows.sort_by_key(|(from, txn, _)| (*from, *txn));
    let each = |f: &dyn Fn(&(i64, TxnId, &Reign)) -> i64| rows.iter().map(f).collect::<Vec<_>>();
    let since = |from: i64, t: Option<i64>| t.map_or(-1, |t| t / 1000 - from);
    columns.steps("master.epoch", each(&|(_, txn, _)| int(txn.epoch)));
    columns.steps("master.seq", each(&|(_, txn, _)| int(txn.seq)));
    columns.steps("master.from", each(&|(from, ..)| *from));
    columns.plain("master.appended", each(&|(from, _, r)| since(*from, r.appended)));
    columns.plain("master.decided", each(&|(from, _, r)| since(*from, r.decided)));
    columns.plain("master.ended", each(&|(from, _, r)| since(*from, r.ended)));
    columns.plain("master.aborted", each(&|(from, _, r)| since(*from, r.aborted)));
}

/// The transactions whose stories are told, the lines that are quoted, and which story is the first.
fn wanted(
    run: &Run,
    results: &Results,
    windows: &[Window],
    broken: &[NonLinearizableKey],
    tenures: &BTreeMap<Node, Vec<Tenure>>,
) -> (Wanted, Option<TxnId>) {
    let known = &run.evidence.transactions.by_id;
    let mut wanted = Wanted::default();
    let mut first = None;
    let add = |wanted: &mut Wanted, txn: TxnId| {
        if known.contains_key(&txn) && wanted.transactions.len() < STORIES_MAX {
            wanted.transactions.insert(txn);
        }
    };
    for check_result in results.checks.iter().filter(|check| check.verdict == Validity::Invalid) {
        for sentence in &check_result.violations {
            for piece in pieces(sentence) {
                match piece {
                    Piece::Text(_) => {}
                    Piece::Txn(txn) => {
                        add(&mut wanted, txn);
                        if first.is_none() && known.contains_key(&txn) {
                            first = Some(txn);
                        }
                    }
                    Piece::Line(node, line, _) => {
                        wanted.lines.insert((node, line));
                    }
                }
            }
        }
    }
    let by_value: HashMap<String, TxnId> = if broken.is_empty() {
        HashMap::new()
    } else {
        let writes = known.iter().filter_map(|(txn, t)| Some((t.write.as_ref()?, txn)));
        writes.filter_map(|(write, txn)| Some((write.value.as_ref()?.to_string(), *txn))).collect()
    };
    for broken in broken {
        for operation in &broken.explanation.operations {
            let operation = &run.operations[operation.number as usize];
            let by_value =
                || operation.value.as_ref().and_then(|value| by_value.get(value)).copied();
            if let Some(txn) = version_of(operation).or_else(by_value) {
                add(&mut wanted, txn);
                first.get_or_insert(txn);
            }
        }
    }
    for window in windows {
        if let Some(txn) = window.txn.as_ref().and_then(|txn| txn.parse().ok()) {
            add(&mut wanted, txn);
            first.get_or_insert(txn);
        }
    }
    let mut unknown_because: Vec<(i64, TxnId)> =
        tenures.values().flatten().map(|tenure| (tenure.unknown(), tenure.txn)).collect();
    unknown_because.sort_unstable_by(|a, b| b.cmp(a));
    unknown_because.dedup_by_key(|(_, txn)| *txn);
    unknown_because.iter().take(DOUBTFUL).for_each(|(_, txn)| add(&mut wanted, *txn));
    // And some as they come, spread over the run.
    let spread = known.len().div_ceil(20).max(1);
    known.keys().step_by(spread).for_each(|txn| add(&mut wanted, *txn));
    let first = first.or_else(|| wanted.transactions.first().copied());
    (wanted, first)
}

/// What happened to nodes, whatever transaction one looks at.
fn context(run: &Run, windows: &[Window]) -> Vec<Note> {
    let mut notes = Vec::new();
    for window in windows {
        for node in window.nodes.iter().filter_map(|node| node.parse::<Node>().ok()) {
            let at = window.at.as_ref().map_or_else(String::new, |at| format!(" at {at}"));
            let text = format!("{}: {}{at}", window.fault, window.action);
            let kind = if window.silent { "down" } else { "fault" };
            notes.push(Note { t: int(window.from), line: None, node, kind, text });
            // A process that was killed says itself that it starts.
            if ["pause", "hold"].contains(&window.action.as_str()) && window.to > window.from {
                let text = "goes on".to_owned();
                notes.push(Note { t: int(window.to), line: None, node, kind: "up", text });
            }
        }
    }
    for (node, facts) in &run.evidence.nodes {
        for fact in &facts.facts {
            let (kind, text) = match &fact.kind {
                FactKind::Started { .. } => ("up", "starts".to_owned()),
                FactKind::Halted(_, why) => ("halt", format!("halts: {why}")),
                _ => continue,
            };
            let (t, line) = (fact.position.time, Some(fact.position.line));
            notes.push(Note { t, line, node: *node, kind, text });
        }
    }
    notes
}
