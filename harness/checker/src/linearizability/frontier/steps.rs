//! Operations on one key in terms of numbered states.

use std::collections::HashMap;

use ahash::RandomState;

/// The time of an event that never happens.
pub const OPEN: u32 = u32::MAX;

/// A state that no operation can observe any more. All such states are equivalent.
pub const UNOBSERVABLE: u32 = u32::MAX;

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// Sets the state, whatever it was.
    Write(u32),
    /// Observed this state.
    Read(u32),
    /// Observed the first state and set the second.
    Cas(u32, u32),
    /// Observed a state other than this one: a failed compare-and-set.
    Mismatch(u32),
    /// Appended this text to the state's.
    Append(u32),
}

impl Step {
    /// Whether it changes nothing.
    pub(super) fn is_read_only(self) -> bool {
        matches!(self, Step::Read(_) | Step::Mismatch(_))
    }

    /// Whether it is possible in every state and observes nothing.
    pub(super) fn is_blind(self) -> bool {
        matches!(self, Step::Write(_) | Step::Append(_))
    }
}

/// An operation on one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TimedStep {
    /// Position of the invocation among the events of the key.
    pub invoked: u32,
    /// Position of the return, [`OPEN`] if there is none: the operation may or may not have taken
    /// effect.
    pub returned: u32,
    /// What it does.
    pub step: Step,
}

/// The greatest number of operations open at a time that return.
pub(super) fn slots_needed(operations: &[TimedStep]) -> usize {
    let mut returns: Vec<u32> =
        operations.iter().map(|op| op.returned).filter(|at| *at != OPEN).collect();
    returns.sort_unstable();
    let (mut open, mut most) = (0, 0);
    let mut invocations = operations.iter().filter(|op| op.returned != OPEN).peekable();
    for returned in returns {
        while invocations.next_if(|op| op.invoked < returned).is_some() {
            open += 1;
        }
        most = most.max(open);
        open -= 1;
    }
    most
}

/// The states of a key. State 0 is the initial one.
#[derive(Clone, Debug, Default)]
pub struct States {
    /// The text of each state. Only needed for appends.
    texts: Vec<Box<[u8]>>,
    numbers: HashMap<Box<[u8]>, u32, RandomState>,
    /// The texts that the operations name, sorted, once they are needed.
    named: Vec<Box<[u8]>>,
    /// By state and appended text: the state after, `None` if no named text begins with its text.
    appended: HashMap<(u32, u32), Option<u32>, RandomState>,
}

impl PartialEq for States {
    fn eq(&self, other: &Self) -> bool {
        // The rest follows from the texts.
        self.texts == other.texts
    }
}

impl Eq for States {}

impl States {
    /// States with texts. The initial state is the empty text.
    #[must_use]
    pub fn with_texts() -> Self {
        let mut states = States::default();
        states.number(b"");
        states
    }

    /// The number of the state with this text.
    ///
    /// # Panics
    /// If there are 2^32 states.
    pub fn number(&mut self, text: &[u8]) -> u32 {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        let number = u32::try_from(self.texts.len()).expect("fewer states than 2^32");
        self.texts.push(text.into());
        self.numbers.insert(text.into(), number);
        number
    }

    /// The text of a state, `None` if states have no texts.
    #[must_use]
    pub fn text(&self, state: u32) -> Option<&[u8]> {
        self.texts.get(state as usize).map(|text| &**text)
    }

    /// The state whose text is that of a state followed by that of another, and the number of bytes
    /// handled to find it. Unless `always`, a text that no operation can observe gets no number.
    pub(super) fn appended(&mut self, state: u32, text: u32, always: bool) -> (Option<u32>, u64) {
        match self.appended.get(&(state, text)) {
            Some(None) if always => {}
            Some(after) => return (*after, 0),
            None => {}
        }
        if self.named.is_empty() {
            self.named.clone_from(&self.texts);
            self.named.sort_unstable();
        }
        let whole = [&*self.texts[state as usize], &*self.texts[text as usize]].concat();
        let from = self.named.partition_point(|named| **named < *whole);
        let is_named = self.named.get(from).is_some_and(|named| named.starts_with(&whole));
        let after = (is_named || always).then(|| self.number(&whole));
        self.appended.insert((state, text), after);
        (after, whole.len() as u64)
    }

    /// The text of a state that has one.
    pub(super) fn bytes(&self, state: u32) -> &[u8] {
        &self.texts[state as usize]
    }
}
