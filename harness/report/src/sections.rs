//! What a system under test adds to the page of its runs.
//!
//! The history and the check results of a run suffice for a page. A system may record more, such as
//! journals of its nodes. It hands that to the page as plain data: a lane of the timeline for each node,
//! traces of transactions, quoted journal lines, and links between operations and transactions. The
//! page draws these without knowing what they mean.
//!
//! All times are nanoseconds of the history.

use std::collections::BTreeMap;

use checker::Reference;
use history::Operation;
use serde::Serialize;

use super::{FaultInterval, ReportError, Sample};

/// A term that the sentences of a check use, such as `AC1`, and its meaning in a sentence.
pub type Term = (&'static str, &'static str);

/// A source of what a system under test recorded about a run.
pub trait SystemEvidence {
    /// The sections for the page.
    ///
    /// # Errors
    /// A record cannot be read.
    fn sections(&self, request: &SectionRequest<'_>) -> Result<SystemSections, ReportError>;

    /// What the system does that is broken in this way: by a name in the field `broken` of `test.json`.
    fn mutation(&self, _name: &str) -> Option<&'static str> {
        None
    }

    /// The property that one of the system's own checks verifies.
    fn check_property(&self, _check: &str) -> Option<&'static str> {
        None
    }

    /// The shortest schedule that shows what is broken in this way, if one is known.
    fn shortest_schedule(&self, _name: &str) -> Option<ShownSchedule> {
        None
    }

    /// The terms that the sentences of a check use.
    fn terms(&self, _check: &str) -> &'static [Term] {
        &[]
    }

    /// The words of the message diagram.
    fn glossary(&self) -> &'static [Term] {
        &[]
    }
}

/// A schedule that leads to a violation, step by step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownSchedule {
    /// What is broken.
    pub title: String,
    /// What happens, in order.
    pub steps: Vec<String>,
    /// The properties that are violated at the end, each with what it claims.
    pub violated: Vec<(String, String)>,
    /// The command that found it.
    pub command: String,
}

/// For systems that record nothing but the history.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoEvidence;

impl SystemEvidence for NoEvidence {
    fn sections(&self, _request: &SectionRequest<'_>) -> Result<SystemSections, ReportError> {
        Ok(SystemSections::default())
    }
}

/// What the page shows, so that the sections can be limited to it.
#[derive(Debug)]
pub struct SectionRequest<'a> {
    /// The fault intervals of the run.
    pub faults: &'a [FaultInterval],
    /// The references of all violations, most important first.
    pub references: &'a [Reference],
    /// The operations of the counterexamples.
    pub counterexamples: &'a [&'a Operation],
    /// The operations that the timeline shows.
    pub sample: &'a Sample,
}

/// What a system adds to a page. Empty parts are not shown.
#[derive(Clone, Debug, Default)]
pub struct SystemSections {
    /// The nodes, in the order of the message diagram.
    pub nodes: Vec<String>,
    /// The lanes of the timeline, below those of the clients.
    pub lanes: Vec<Lane>,
    /// The legend of the lanes.
    pub legend: Vec<LegendEntry>,
    /// Traces of transactions.
    pub traces: Vec<Trace>,
    /// The transaction whose trace is shown first.
    pub first_transaction: Option<String>,
    /// Quoted journal lines.
    pub quotes: Vec<Quote>,
    /// Links between operations and transactions.
    pub links: Links,
    /// Additional plots.
    pub charts: Vec<LevelChart>,
    /// What the sections leave out, a sentence each.
    pub omissions: Vec<String>,
}

/// The meaning of a colour. The style sheet has a variable for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tone {
    /// In progress, with no effect yet.
    Pending,
    /// Waiting for an outcome while holding a resource.
    Waiting,
    /// Done, with effect.
    Done,
    /// Ended without effect.
    Aborted,
    /// Input or output, such as forcing a log.
    Io,
    /// A failure, or a node that is down.
    Down,
    /// No special meaning.
    Neutral,
}

impl Tone {
    /// The name of the style sheet variable, and of the class.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Tone::Pending => "pending",
            Tone::Waiting => "waiting",
            Tone::Done => "done",
            Tone::Aborted => "aborted",
            Tone::Io => "io",
            Tone::Down => "down",
            Tone::Neutral => "neutral",
        }
    }
}

/// A lane of the timeline: what one node did.
#[derive(Clone, Debug)]
pub struct Lane {
    /// The name of the node. Faults that name it are hatched in its lane.
    pub name: String,
    /// How the spans are drawn and described.
    pub layout: SpanLayout,
    /// The spans, in any order.
    pub spans: Vec<Span>,
    /// Marks at the lower edge.
    pub marks: Vec<MarkSeries>,
}

/// The phases that a span of a lane can have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SpanLayout {
    /// The phase that begins with the span.
    pub start: Phase,
    /// The phases that begin at milestones.
    pub milestones: Vec<Phase>,
    /// The ways in which a span can end.
    pub endings: Vec<Phase>,
}

/// A phase of a span, or its ending.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Phase {
    /// What happened at its beginning, for the details. Empty if it is not mentioned.
    pub text: String,
    /// The colour. `None` if it is not drawn.
    pub tone: Option<Tone>,
    /// Whether the colour is faint.
    pub faint: bool,
}

impl Phase {
    /// A phase that is drawn.
    #[must_use]
    pub fn drawn(text: &str, tone: Tone) -> Phase {
        Phase { text: text.to_owned(), tone: Some(tone), faint: false }
    }

    /// A phase that is only mentioned in the details.
    #[must_use]
    pub fn hidden(text: &str) -> Phase {
        Phase { text: text.to_owned(), tone: None, faint: false }
    }

    /// The same phase in a faint colour.
    #[must_use]
    pub fn faint(self) -> Phase {
        Phase { faint: true, ..self }
    }
}

/// An interval of a lane, about one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// The identifier of the transaction.
    pub transaction: String,
    /// Its key.
    pub key: Option<String>,
    /// When it began.
    pub from: i64,
    /// When it reached each milestone of the layout.
    pub milestones: Vec<Option<i64>>,
    /// When it ended.
    pub to: i64,
    /// How it ended: an index of the endings of the layout.
    pub ending: usize,
}

/// Marks of one kind in a lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarkSeries {
    /// How they are drawn.
    pub shape: MarkShape,
    /// The colour.
    pub tone: Tone,
    /// From when to when each lasted, ordered by start.
    pub intervals: Vec<(i64, i64)>,
}

/// How a mark is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum MarkShape {
    /// A thin bar.
    Bar,
    /// A triangle at its start.
    Triangle,
    /// A line through the lane with a cross, at its start.
    Cross,
}

/// An entry of the legend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LegendEntry {
    /// The colour.
    pub tone: Tone,
    /// How it is drawn.
    pub swatch: Swatch,
    /// Its meaning.
    pub text: String,
}

impl LegendEntry {
    /// An entry.
    #[must_use]
    pub fn new(tone: Tone, swatch: Swatch, text: &str) -> LegendEntry {
        LegendEntry { tone, swatch, text: text.to_owned() }
    }
}

/// How a legend entry is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swatch {
    /// A phase of a span.
    Area,
    /// The ending of a span.
    Edge,
    /// A thin bar.
    Line,
    /// A triangle.
    Triangle,
    /// A line through a lane.
    Cross,
}

impl Swatch {
    /// The class in the style sheet.
    pub(super) fn name(self) -> &'static str {
        match self {
            Swatch::Area => "area",
            Swatch::Edge => "edge",
            Swatch::Line => "line",
            Swatch::Triangle => "triangle",
            Swatch::Cross => "cross",
        }
    }
}

/// The events and messages of one transaction at all nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Trace {
    /// The identifier of the transaction.
    pub transaction: String,
    /// What it does, such as `put k1 = 7`.
    pub title: String,
    /// The number of the operation that it executed, counted in the history.
    #[serde(skip)]
    pub operation: Option<usize>,
    /// Events local to a node, ordered by time.
    pub events: Vec<TraceEvent>,
    /// Messages between nodes, ordered by time.
    pub messages: Vec<TraceMessage>,
    /// The number of events and messages omitted from the middle.
    pub omitted: usize,
}

impl Trace {
    /// The times of the first and the last event or message.
    #[must_use]
    pub fn time_range(&self) -> Option<(i64, i64)> {
        let ends = self.messages.iter().flat_map(|message| [message.sent, message.received]);
        let times = || {
            let events = self.events.iter().map(|event| event.time);
            events.chain(ends.clone().flatten().map(|end| end.time))
        };
        Some((times().min()?, times().max()?))
    }
}

/// An event local to a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct TraceEvent {
    /// When.
    pub time: i64,
    /// The journal line that records it.
    pub line: Option<usize>,
    /// The node.
    pub node: String,
    /// The colour of its frame.
    pub tone: Tone,
    /// The description.
    pub text: String,
}

/// A message between nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TraceMessage {
    /// The sender.
    pub from: String,
    /// The recipient.
    pub to: String,
    /// Its sending. `None` if only its arrival is recorded.
    pub sent: Option<MessageEnd>,
    /// Its arrival. `None` if it never arrived.
    pub received: Option<MessageEnd>,
    /// The colour.
    pub tone: Tone,
    /// The description.
    pub text: String,
}

impl TraceMessage {
    /// The time of its sending, or of its arrival if that is all that is recorded.
    #[must_use]
    pub fn time(&self) -> i64 {
        self.sent.or(self.received).map_or(0, |end| end.time)
    }
}

/// One end of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct MessageEnd {
    /// When.
    pub time: i64,
    /// The journal line that records it.
    pub line: usize,
}

/// A quoted journal line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Quote {
    /// The node.
    pub node: String,
    /// The line, counted from 1.
    pub line: usize,
    /// When.
    pub time: i64,
    /// Its text.
    pub text: String,
}

/// Links between operations, by their number in the history, and transactions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Links {
    /// What the evidence shows about indeterminate operations.
    pub resolutions: BTreeMap<usize, Resolution>,
}

/// What the evidence shows about an indeterminate operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolution {
    /// In short, such as `committed`.
    pub text: String,
    /// The transaction that executed it.
    pub transaction: Option<String>,
}

/// A plot of levels over time: of how many things were in some state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LevelChart {
    /// The name of its file in the run directory.
    pub file: &'static str,
    /// The title.
    pub title: String,
    /// The caption.
    pub caption: String,
    /// The unit of the levels.
    pub unit: String,
    /// By name, the times at which the level changed, and by how much. The level starts at 0.
    pub series: Vec<(String, Vec<(i64, i32)>)>,
}
