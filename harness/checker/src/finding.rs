//! Findings: what a check reports, as a sentence with typed references to what it mentions.
//!
//! A reference is a byte range of the sentence and the thing that this range names. The page turns
//! references into links, so it never has to parse the sentence. [`finding!`](crate::finding!) builds a
//! finding from a format string:
//!
//! ```
//! use checker::{Reference, finding};
//!
//! let (txn, key) = ("1.7", "k3");
//! let found = finding!(transaction(txn), key(key); "r2 lost {key}, which {txn} wrote");
//! assert_eq!(found.text(), "r2 lost k3, which 1.7 wrote");
//! let references: Vec<_> = found.references().collect();
//! assert_eq!(references[0], &Reference::Key("k3".to_owned()));
//! assert_eq!(references[1], &Reference::Transaction("1.7".to_owned()));
//! ```

use std::{
    cell::{Cell, RefCell},
    fmt::{self, Write as _},
    ops::{Deref, Range},
};

use serde::{Deserialize, Serialize};

use crate::Impact;

/// Something that a finding refers to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reference {
    /// A line of the journal of a node.
    JournalLine {
        /// The name of the node.
        node: String,
        /// The line, counted from 1.
        line: usize,
    },
    /// An operation of the history.
    Operation {
        /// The index of its invocation.
        index: u64,
    },
    /// A transaction, by its identifier.
    Transaction(String),
    /// A key.
    Key(String),
    /// A node, by its name.
    Node(String),
}

/// A reference, and the part of the sentence that names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Citation {
    /// The byte range in the sentence.
    pub range: Range<usize>,
    /// What it names.
    #[serde(flatten)]
    pub reference: Reference,
}

/// A sentence with references. It dereferences to the sentence.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "StoredFinding", into = "StoredFinding")]
pub struct Finding {
    text: String,
    /// Ordered by range. Ranges do not overlap and lie on character boundaries.
    citations: Vec<Citation>,
    context: Context,
}

/// What a finding knows about itself besides its sentence.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Context {
    /// When it became true, in nanoseconds of the history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    at: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    impact: Option<Impact>,
    /// What it is about and does not name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    about: Vec<Reference>,
}

impl Finding {
    /// A finding with references. Citations whose range does not fit the sentence, or overlaps an
    /// earlier one, are dropped.
    #[must_use]
    pub fn new(text: impl Into<String>, citations: impl IntoIterator<Item = Citation>) -> Self {
        let text = text.into();
        let mut citations: Vec<Citation> = citations.into_iter().collect();
        citations.sort_by_key(|citation| citation.range.start);
        let mut end = 0;
        citations.retain(|Citation { range, .. }| {
            let fits = range.start >= end && !range.is_empty() && text.get(range.clone()).is_some();
            if fits {
                end = range.end;
            }
            fits
        });
        Finding { text, citations, context: Context::default() }
    }

    /// When what it says became true, in nanoseconds of the history. `None` if only the end of a run shows it.
    #[must_use]
    pub fn at(&self) -> Option<i64> {
        self.context.at
    }

    /// What it means for those who rely on the system.
    #[must_use]
    pub fn impact(&self) -> Impact {
        self.context.impact.unwrap_or_default()
    }

    /// The same finding with another time. By default it is that of the latest journal line that it cites.
    #[must_use]
    pub fn with_time(mut self, at: Option<i64>) -> Self {
        self.context.at = at;
        self
    }

    /// The same finding with this impact.
    #[must_use]
    pub fn with_impact(mut self, impact: Impact) -> Self {
        self.context.impact = Some(impact);
        self
    }

    /// Gives the finding an impact if it has none.
    pub(crate) fn default_impact(&mut self, impact: Impact) {
        self.context.impact.get_or_insert(impact);
    }

    /// The same finding, which is also about what its sentence does not name.
    #[must_use]
    pub fn about(mut self, references: impl IntoIterator<Item = Reference>) -> Self {
        self.context.about.extend(references);
        self
    }

    /// Everything that it is about: what its sentence refers to, and what it does not name.
    pub fn subjects(&self) -> impl Iterator<Item = &Reference> {
        self.references().chain(&self.context.about)
    }

    /// The sentence.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The references with their ranges, in the order of the sentence.
    #[must_use]
    pub fn citations(&self) -> &[Citation] {
        &self.citations
    }

    /// The references, in the order of the sentence.
    pub fn references(&self) -> impl Iterator<Item = &Reference> {
        self.citations.iter().map(|citation| &citation.reference)
    }

    /// The sentence in parts, each with the reference that it names. The parts add up to the sentence.
    #[must_use]
    pub fn segments(&self) -> Vec<(&str, Option<&Reference>)> {
        let mut segments = Vec::with_capacity(2 * self.citations.len() + 1);
        let mut at = 0;
        for Citation { range, reference } in &self.citations {
            if at < range.start {
                segments.push((&self.text[at..range.start], None));
            }
            segments.push((&self.text[range.clone()], Some(reference)));
            at = range.end;
        }
        if at < self.text.len() {
            segments.push((&self.text[at..], None));
        }
        segments
    }

    /// The first line as a finding of its own, and the text after it. A finding may end with a drawn
    /// timeline, which starts on the second line.
    #[must_use]
    pub fn split_first_line(&self) -> (Finding, &str) {
        let Some((first, rest)) = self.text.split_once('\n') else { return (self.clone(), "") };
        let first = Finding::new(first, self.citations.iter().cloned());
        (Finding { context: self.context.clone(), ..first }, rest)
    }
}

impl Deref for Finding {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<String> for Finding {
    fn from(text: String) -> Self {
        Finding::new(text, [])
    }
}

impl From<&str> for Finding {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

/// The serialised form. A finding that is only a sentence is a plain string, as every finding was before
/// findings had references.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum StoredFinding {
    Text(String),
    Cited {
        text: String,
        #[serde(default)]
        references: Vec<Citation>,
        #[serde(flatten)]
        context: Context,
    },
}

impl From<StoredFinding> for Finding {
    fn from(stored: StoredFinding) -> Self {
        match stored {
            StoredFinding::Text(text) => text.into(),
            StoredFinding::Cited { text, references, context } => {
                Finding { context, ..Finding::new(text, references) }
            }
        }
    }
}

impl From<Finding> for StoredFinding {
    fn from(finding: Finding) -> Self {
        let Finding { text, citations: references, context } = finding;
        if references.is_empty() && context == Context::default() {
            return StoredFinding::Text(text);
        }
        StoredFinding::Cited { text, references, context }
    }
}

/// A position in a journal that a finding can refer to. Its `Display` form is how a sentence names it.
pub trait JournalLine: fmt::Display {
    /// The name of the node.
    fn node(&self) -> String;
    /// The line, counted from 1.
    fn line(&self) -> usize;
    /// The time of the line, in nanoseconds of the history, if it is known.
    fn time(&self) -> Option<i64> {
        None
    }
}

impl<T: JournalLine + ?Sized> JournalLine for &T {
    fn node(&self) -> String {
        (**self).node()
    }

    fn line(&self) -> usize {
        (**self).line()
    }

    fn time(&self) -> Option<i64> {
        (**self).time()
    }
}

/// Records which parts of a sentence are references while the sentence is formatted. Used by
/// [`finding!`](crate::finding!).
#[doc(hidden)]
#[derive(Debug, Default)]
pub struct ReferenceRecorder {
    /// The length of the sentence so far.
    length: Cell<usize>,
    citations: RefCell<Vec<Citation>>,
    /// What the parts that were formatted know about themselves.
    context: RefCell<Context>,
}

impl ReferenceRecorder {
    pub fn transaction<'a>(&'a self, id: &impl ToString) -> Cited<'a> {
        self.cited(id.to_string(), Reference::Transaction)
    }

    pub fn key<'a>(&'a self, key: &impl ToString) -> Cited<'a> {
        self.cited(key.to_string(), Reference::Key)
    }

    /// An operation, by the index of its invocation.
    pub fn operation<'a>(&'a self, index: &u64) -> Cited<'a> {
        let index = *index;
        self.cited(index.to_string(), |_| Reference::Operation { index })
    }

    pub fn line<'a>(&'a self, position: &impl JournalLine) -> Cited<'a> {
        let (node, line) = (position.node(), position.line());
        let cited = self.cited(position.to_string(), |_| Reference::JournalLine { node, line });
        Cited { part: cited.part.with_time(position.time()), ..cited }
    }

    /// A part of the sentence that has references of its own.
    pub fn nested<'a>(&'a self, part: &Finding) -> Cited<'a> {
        Cited { recorder: self, part: part.clone() }
    }

    fn cited(&self, text: String, reference: impl FnOnce(String) -> Reference) -> Cited<'_> {
        let citation = Citation { range: 0..text.len(), reference: reference(text.clone()) };
        Cited { recorder: self, part: Finding::new(text, [citation]) }
    }

    pub fn finish(&self, sentence: fmt::Arguments<'_>) -> Finding {
        let mut writer = SentenceWriter { text: String::new(), length: &self.length };
        writer.write_fmt(sentence).expect("writing to a string cannot fail");
        let finding = Finding::new(writer.text, self.citations.take());
        Finding { context: self.context.take(), ..finding }
    }
}

/// A value that records its reference when it is formatted.
#[doc(hidden)]
#[derive(Debug)]
pub struct Cited<'a> {
    recorder: &'a ReferenceRecorder,
    part: Finding,
}

impl fmt::Display for Cited<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let offset = self.recorder.length.get();
        f.write_str(&self.part.text)?;
        let citations = self.part.citations.iter().map(|Citation { range, reference }| Citation {
            range: range.start + offset..range.end + offset,
            reference: reference.clone(),
        });
        self.recorder.citations.borrow_mut().extend(citations);
        let mut context = self.recorder.context.borrow_mut();
        let Context { at, impact, about } = &self.part.context;
        context.at = context.at.max(*at);
        context.impact = context.impact.max(*impact);
        context.about.extend(about.iter().cloned());
        Ok(())
    }
}

/// Collects a sentence and publishes its length, so that [`Cited`] values know their position.
struct SentenceWriter<'a> {
    text: String,
    length: &'a Cell<usize>,
}

impl fmt::Write for SentenceWriter<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.text.push_str(text);
        self.length.set(self.text.len());
        Ok(())
    }
}

/// Builds a [`Finding`] from a format string. The names before the semicolon are references, each with
/// its kind: `transaction`, `key`, `operation` (an index), `line` (a [`JournalLine`]), or `nested`
/// (another finding). `kind(name = expression)` gives an expression a name.
#[macro_export]
macro_rules! finding {
    ($($kind:ident($name:ident $(= $value:expr)?)),* $(,)?; $($format:tt)+) => {{
        let recorder = $crate::ReferenceRecorder::default();
        $(let $name = recorder.$kind(&$crate::finding!(@value $name $(= $value)?));)*
        recorder.finish(format_args!($($format)+))
    }};
    (@value $name:ident) => { $name };
    (@value $name:ident = $value:expr) => { $value };
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    struct Position(&'static str, usize);

    impl fmt::Display for Position {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "{} journal line {}", self.0, self.1)
        }
    }

    impl JournalLine for Position {
        fn node(&self) -> String {
            self.0.to_owned()
        }

        fn line(&self) -> usize {
            self.1
        }
    }

    #[test]
    fn references_cover_the_text_that_names_them() {
        let (txn, key, number) = ("1.7", "ключ", 7);
        let who = finding!(transaction(txn), line(place = Position("r2", number)); "r2 aborted {txn} ({place})");
        let found = finding!(nested(who), key(key), operation(index = 12);
            "AC1: {who} after {} wrote {key}, index {index}; {key} again", number);
        let text =
            "AC1: r2 aborted 1.7 (r2 journal line 7) after 7 wrote ключ, index 12; ключ again";
        assert_eq!(found.text(), text);
        let line = Reference::JournalLine { node: "r2".to_owned(), line: 7 };
        let key = Reference::Key(key.to_owned());
        assert_eq!(
            found.segments(),
            [
                ("AC1: r2 aborted ", None),
                ("1.7", Some(&Reference::Transaction("1.7".to_owned()))),
                (" (", None),
                ("r2 journal line 7", Some(&line)),
                (") after 7 wrote ", None),
                ("ключ", Some(&key)),
                (", index ", None),
                ("12", Some(&Reference::Operation { index: 12 })),
                ("; ", None),
                ("ключ", Some(&key)),
                (" again", None),
            ]
        );
        let stored = serde_json::to_string(&found).expect("it serialises");
        assert_eq!(serde_json::from_str::<Finding>(&stored).expect("it is a finding"), found);
    }

    #[test]
    fn a_plain_string_is_a_finding_without_references() {
        let found: Finding = serde_json::from_value(json!("r2 lost k")).expect("a string");
        assert_eq!(found, Finding::from("r2 lost k"));
        assert_eq!(serde_json::to_value(&found).expect("it serialises"), json!("r2 lost k"));
        assert!(found.starts_with("r2"), "it dereferences to its sentence");
    }

    #[test]
    fn references_that_do_not_fit_the_sentence_are_dropped() {
        let citation = |range| Citation { range, reference: Reference::Key("k".to_owned()) };
        let found = Finding::new(
            "größer\nk",
            [
                citation(3..9),
                citation(0..3),
                citation(1..4),
                citation(2..2),
                citation(8..20),
                citation(9..10),
            ],
        );
        let ranges: Vec<_> = found.citations().iter().map(|c| c.range.clone()).collect();
        assert_eq!(
            ranges,
            [1..4, 9..10],
            "within the text, on character boundaries, not overlapping"
        );
        let (first, rest) = found.split_first_line();
        assert_eq!((first.text(), first.citations().len(), rest), ("größer", 1, "k"));
    }
}
