//! The history of one key, packed: sixteen bytes an operation, values numbered, times the places of
//! the key's own events. What every fast checker works on; knows nothing of how it was recorded.

/// The time of what never comes.
pub const OPEN: u32 = u32::MAX;

/// The number of "nothing": what a delete writes, and what is there at first.
pub const NOTHING: u32 = 0;

/// An operation on one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Op {
    /// The place of its invocation among the events of the key.
    pub invoked: u32,
    /// The place of its return; [`OPEN`] if there is none, and it may or may not have happened.
    pub returned: u32,
    /// What it does.
    pub what: What,
}

/// What an operation on a register does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum What {
    /// Writes a value; to write [`NOTHING`] is to delete.
    Write(u32),
    /// Found a value, or [`NOTHING`].
    Read(u32),
}

impl What {
    /// The value that is written or was found.
    #[must_use]
    pub fn value(self) -> u32 {
        match self {
            What::Write(value) | What::Read(value) => value,
        }
    }
}

impl Op {
    /// Whether it certainly happened.
    #[must_use]
    pub fn happened(&self) -> bool {
        self.returned != OPEN
    }
}

/// The operations of one key, in the order of their invocations: those that happened, and writes
/// that may have. Reads without a result and writes that failed are not among them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyHistory {
    /// The operations.
    pub ops: Vec<Op>,
    /// All values are less than this.
    pub values: u32,
    /// No value but [`NOTHING`] is written twice.
    pub unique: bool,
}

impl KeyHistory {
    /// Packs operations that are in the order of their invocations.
    #[must_use]
    pub fn new(ops: Vec<Op>) -> Self {
        let values = ops.iter().map(|op| op.what.value() + 1).max().unwrap_or(1);
        let mut written = vec![false; values as usize];
        let unique = ops.iter().all(|op| match op.what {
            What::Write(value) if value != NOTHING => {
                !std::mem::replace(&mut written[value as usize], true)
            }
            _ => true,
        });
        KeyHistory { ops, values, unique }
    }

    /// What had been observed when the event at this place had happened, and nothing later.
    #[must_use]
    pub fn prefix(&self, until: u32) -> (Vec<Op>, Vec<u32>) {
        let count = self.ops.partition_point(|op| op.invoked <= until);
        let mut kept = Vec::with_capacity(count);
        let mut places = Vec::with_capacity(count);
        for (place, op) in (0_u32..).zip(&self.ops[..count]) {
            let returned = if op.returned <= until { op.returned } else { OPEN };
            // A read under way has found nothing yet.
            if returned != OPEN || matches!(op.what, What::Write(_)) {
                kept.push(Op { returned, ..*op });
                places.push(place);
            }
        }
        (kept, places)
    }
}
