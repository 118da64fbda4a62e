//! Packs the data of a page for its script, which `page/decode.js` and `page/model.js` read.
//!
//! Operations and spans are columns of integers ([`Columns`]); texts are interned in tables of the header,
//! and a column has their indices. Times of operations are nanoseconds, times of lanes microseconds.

use std::{collections::HashMap, io};

use checker::linearizability::NonLinearizableKey;
use history::{Action, Operation, Outcome};
use serde::Serialize;
use serde_json::{Value as Json, json};

use super::{
    FaultInterval,
    columns::Columns,
    links::{first_transaction, numeric_identifier},
    page_data::{PageData, ShownError},
    sample::OPERATIONS_MAX,
    sections::{Lane, MarkSeries, MarkShape, Quote, Span, SpanLayout, Tone, Trace},
};

/// The most marks of one kind that a lane shows.
const MARKS_MAX: usize = OPERATIONS_MAX / 3;

#[derive(Serialize)]
struct Header<'a> {
    name: &'a str,
    clients: u64,
    /// The time of the last event.
    end: u64,
    keys: Vec<String>,
    values: Vec<String>,
    errors: Vec<String>,
    /// Transactions whose identifier is not of two numbers.
    identifiers: Vec<String>,
    faults: &'a [FaultInterval],
    /// The nemesis events as lines of the history.
    nemesis: Vec<String>,
    nodes: &'a [String],
    lanes: Vec<LaneHeader<'a>>,
    traces: &'a [Trace],
    first_transaction: Option<&'a str>,
    counterexamples: Vec<Json>,
    quotes: &'a [Quote],
    focus: Option<(i64, i64)>,
    errors_found: &'a [ShownError],
}

#[derive(Serialize)]
struct LaneHeader<'a> {
    name: &'a str,
    layout: &'a SpanLayout,
    marks: Vec<MarkHeader>,
}

#[derive(Serialize)]
struct MarkHeader {
    shape: MarkShape,
    tone: Tone,
}

/// Packs the data of a page.
///
/// # Errors
/// It cannot be serialised.
pub(super) fn pack(data: &PageData<'_>) -> io::Result<String> {
    let mut packer = Packer::default();
    packer.operations(data);
    let lanes = data.sections.lanes.iter().enumerate();
    let lanes = lanes.map(|(number, lane)| packer.lane(number, lane)).collect();
    let nemesis = data.run.events.iter().filter(|event| matches!(event.action, Action::Nemesis(_)));
    let header = Header {
        name: data.name(),
        clients: data.concurrency(),
        end: data.run.end(),
        keys: packer.keys.into_texts(),
        values: packer.values.into_texts(),
        errors: packer.errors.into_texts(),
        identifiers: packer.identifiers.into_texts(),
        faults: &data.faults,
        nemesis: nemesis.map(serde_json::to_string).collect::<Result<_, _>>()?,
        nodes: &data.sections.nodes,
        lanes,
        traces: &data.sections.traces,
        first_transaction: data.sections.first_transaction.as_deref(),
        counterexamples: counterexamples(data),
        quotes: &data.sections.quotes,
        focus: data.focus(),
        errors_found: &data.errors,
    };
    packer.columns.pack(&header)
}

/// The counterexamples, with operations by their position in the sample.
fn counterexamples(data: &PageData<'_>) -> Vec<Json> {
    let position = |number: u32| data.sample.position(number as usize);
    let counterexample = |broken: &NonLinearizableKey| {
        let operations = broken.explanation.operations.iter();
        json!({
            "key": broken.explanation.key,
            "breaks_at": position(broken.breaks_at),
            "operations": operations.filter_map(|op| position(op.number)).collect::<Vec<_>>(),
        })
    };
    data.counterexamples.iter().map(counterexample).collect()
}

/// Texts in the order of their first use.
#[derive(Default)]
struct Interner {
    numbers: HashMap<String, usize>,
}

impl Interner {
    /// The number of a text, and whether it is new.
    fn intern(&mut self, text: &str) -> (usize, bool) {
        if let Some(number) = self.numbers.get(text) {
            return (*number, false);
        }
        let number = self.numbers.len();
        self.numbers.insert(text.to_owned(), number);
        (number, true)
    }

    fn number(&mut self, text: &str) -> i64 {
        int(self.intern(text).0)
    }

    fn into_texts(self) -> Vec<String> {
        let mut texts: Vec<_> = self.numbers.into_iter().collect();
        texts.sort_by_key(|(_, number)| *number);
        texts.into_iter().map(|(text, _)| text).collect()
    }
}

fn int(number: impl TryInto<i64>) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

#[derive(Default)]
struct Packer {
    columns: Columns,
    keys: Interner,
    values: Interner,
    errors: Interner,
    identifiers: Interner,
}

impl Packer {
    /// Packs the sampled operations, so that the script can reproduce their lines of the history.
    fn operations(&mut self, data: &PageData<'_>) {
        let numbers = data.sample.operations().iter();
        let operations: Vec<&Operation> =
            numbers.map(|number| &data.run.operations[*number]).collect();
        let each =
            |f: &dyn Fn(&Operation) -> i64| operations.iter().map(|op| f(op)).collect::<Vec<_>>();
        let completion = |op: &Operation| {
            let index = op.returned_index?;
            Some((int(index).saturating_sub(int(op.invoked_index)), int(data.run.completion(op)?)))
        };
        let columns = &mut self.columns;
        columns.deltas("op.index", each(&|op| int(op.invoked_index)));
        columns.deltas("op.time", each(&|op| int(op.invoked)));
        // The distance of the completion in the history; 0 if there is none.
        columns.values("op.completion", each(&|op| completion(op).map_or(0, |(index, _)| index)));
        columns.values(
            "op.duration",
            each(&|op| completion(op).map_or(0, |(_, time)| time.saturating_sub(int(op.invoked)))),
        );
        columns.values("op.process", each(&|op| int(op.process)));
        columns.values("op.kind", each(&kind));
        let keys: Vec<i64> = operations.iter().map(|op| self.keys.number(&op.key)).collect();
        self.columns.values("op.key", keys);
        self.values(&operations);
        let versions = operations.iter().map(|op| op.version.as_ref().map(ToString::to_string));
        let versions: Vec<Option<String>> = versions.collect();
        self.transactions("op.version", versions.iter().map(Option::as_deref));
        self.errors(&operations);
    }

    /// Packs the values. 0 is no value, 1 the next new value, and 1 + n the value n places before the next
    /// new one: most values are new or recent.
    fn values(&mut self, operations: &[&Operation]) {
        let mut known = 0;
        let values = operations.iter().map(|op| match &op.value {
            None => 0,
            Some(value) => {
                let (number, new) = self.values.intern(value);
                known += usize::from(new);
                if new { 1 } else { 1 + int(known - number) }
            }
        });
        let values: Vec<i64> = values.collect();
        self.columns.values("op.value", values);
    }

    /// Packs the errors: 0 for none, or 1 + the number of the text. A transaction that an error names is
    /// packed apart, so that errors share their texts: `%t` stands for it, `%%` for `%`.
    fn errors(&mut self, operations: &[&Operation]) {
        let named: Vec<Option<String>> =
            operations.iter().map(|op| op.error.as_deref().and_then(first_transaction)).collect();
        let texts = operations.iter().zip(&named).map(|(op, transaction)| {
            let Some(error) = &op.error else { return 0 };
            let escaped = error.replace('%', "%%");
            let text = match transaction {
                Some(id) => escaped.replacen(id.as_str(), "%t", 1),
                None => escaped,
            };
            1 + self.errors.number(&text)
        });
        let texts: Vec<i64> = texts.collect();
        self.columns.values("op.error", texts);
        self.transactions("op.error.transaction", named.iter().map(Option::as_deref));
    }

    /// Packs identifiers of transactions in two columns. Both are 0 for none; the first is -1 if the
    /// second is an index of the table of identifiers.
    fn transactions<'t>(&mut self, name: &str, ids: impl Iterator<Item = Option<&'t str>>) {
        let parts = ids.map(|id| match id {
            None => (0, 0),
            Some(id) => numeric_identifier(id).unwrap_or_else(|| (-1, self.identifiers.number(id))),
        });
        let (first, second): (Vec<i64>, Vec<i64>) = parts.unzip();
        self.columns.deltas(&format!("{name}.major"), first);
        self.columns.deltas(&format!("{name}.minor"), second);
    }

    fn lane<'l>(&mut self, number: usize, lane: &'l Lane) -> LaneHeader<'l> {
        let name = |column: &str| format!("lane.{number}.{column}");
        let mut spans: Vec<&Span> = lane.spans.iter().collect();
        // The script searches the spans by their start.
        spans.sort_by_key(|span| span.from);
        let each = |f: &dyn Fn(&Span) -> i64| spans.iter().map(|span| f(span)).collect::<Vec<_>>();
        let since_start = |span: &Span, time: i64| time / 1000 - span.from / 1000;
        self.transactions(&name("span"), spans.iter().map(|span| Some(span.transaction.as_str())));
        let keys = spans.iter().map(|span| match &span.key {
            Some(key) => self.keys.number(key),
            None => -1,
        });
        let keys: Vec<i64> = keys.collect();
        self.columns.values(&name("key"), keys);
        self.columns.deltas(&name("from"), each(&|span| span.from / 1000));
        self.columns.values(&name("duration"), each(&|span| since_start(span, span.to)));
        self.columns.values(&name("ending"), each(&|span| int(span.ending)));
        for milestone in 0..lane.layout.milestones.len() {
            let reached = |span: &Span| {
                let time = span.milestones.get(milestone).copied().flatten();
                time.map_or(-1, |time| since_start(span, time))
            };
            self.columns.values(&name(&format!("milestone.{milestone}")), each(&reached));
        }
        for (mark, series) in lane.marks.iter().enumerate() {
            self.marks(&name(&format!("mark.{mark}")), series);
        }
        let header = |series: &MarkSeries| MarkHeader { shape: series.shape, tone: series.tone };
        LaneHeader {
            name: &lane.name,
            layout: &lane.layout,
            marks: lane.marks.iter().map(header).collect(),
        }
    }

    fn marks(&mut self, name: &str, series: &MarkSeries) {
        let every = series.intervals.len().div_ceil(MARKS_MAX).max(1);
        let shown = || series.intervals.iter().step_by(every);
        self.columns.deltas(&format!("{name}.from"), shown().map(|(from, _)| from / 1000));
        self.columns.values(
            &format!("{name}.duration"),
            shown().map(|(from, to)| to.saturating_sub(*from) / 1000),
        );
    }
}

/// The function and the outcome of an operation in one number.
fn kind(operation: &Operation) -> i64 {
    let function = operation.f.number();
    let outcome = match operation.outcome {
        Outcome::Ok => 0,
        Outcome::Fail => 1,
        Outcome::Info => 2,
    };
    3 * i64::from(function) + outcome
}
