//! What the page shows of a system whose nodes leave no evidence: a lane for each node, with the operations
//! of the clients that are connected to it.

use history::{Operation, Outcome};

use crate::{
    ReportError,
    sections::{
        Lane, LegendEntry, MarkSeries, MarkShape, SectionRequest, SpanLayout, Swatch,
        SystemEvidence, SystemSections, Tone,
    },
};

/// The lanes of nodes, from the history alone.
#[derive(Clone, Copy, Debug)]
pub struct NodeLanes<'a> {
    nodes: &'a [String],
    operations: &'a [Operation],
}

impl<'a> NodeLanes<'a> {
    /// Lanes for these nodes.
    #[must_use]
    pub fn new(nodes: &'a [String], operations: &'a [Operation]) -> Self {
        NodeLanes { nodes, operations }
    }

    fn lane(&self, node: &str) -> Lane {
        let of_node = || {
            let here = |op: &&Operation| op.node.as_deref() == Some(node);
            self.operations.iter().filter(here)
        };
        let marks = |outcome: Outcome, tone: Tone| {
            let time = |time: u64| i64::try_from(time).unwrap_or(i64::MAX);
            let intervals = of_node()
                .filter(|operation| operation.outcome == outcome)
                .map(|op| (time(op.invoked), time(op.returned.unwrap_or(op.invoked))));
            MarkSeries { shape: MarkShape::Bar, tone, intervals: intervals.collect() }
        };
        Lane {
            name: node.to_owned(),
            layout: SpanLayout::default(),
            spans: Vec::new(),
            marks: vec![
                marks(Outcome::Ok, Tone::Done),
                marks(Outcome::Fail, Tone::Aborted),
                marks(Outcome::Info, Tone::Waiting),
            ],
        }
    }
}

impl SystemEvidence for NodeLanes<'_> {
    fn sections(&self, _request: &SectionRequest<'_>) -> Result<SystemSections, ReportError> {
        Ok(SystemSections {
            nodes: self.nodes.to_vec(),
            lanes: self.nodes.iter().map(|node| self.lane(node)).collect(),
            legend: vec![
                LegendEntry::new(Tone::Done, Swatch::Line, "ok at this node"),
                LegendEntry::new(Tone::Aborted, Swatch::Line, "failed"),
                LegendEntry::new(Tone::Waiting, Swatch::Line, "of unknown outcome"),
            ],
            ..SystemSections::default()
        })
    }

    fn check_property(&self, check: &str) -> Option<&'static str> {
        (check == "durability").then_some(
            "After the last fault is undone, no node answers with a value that an acknowledged write had \
             replaced.",
        )
    }
}
