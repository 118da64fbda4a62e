//! The history of one key as the tiers decide it: sixteen bytes an operation, values as numbers,
//! and times as positions among the key's own events.

/// The time of an event that never happens.
pub const OPEN: u32 = u32::MAX;

/// The number of the absent value: what a delete writes, and what a key holds at first.
pub const ABSENT: u32 = 0;

/// An operation on a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PackedOp {
    /// Position of the invocation among the events of the key.
    pub invoked: u32,
    /// Position of the return, [`OPEN`] if there is none: the operation may or may not have taken
    /// effect.
    pub returned: u32,
    /// What it does.
    pub access: Access,
}

/// What an operation does to a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Access {
    /// Writes a value. Writing [`ABSENT`] is a delete.
    Write(u32),
    /// Read a value, or [`ABSENT`].
    Read(u32),
}

impl Access {
    /// The value written or read.
    #[must_use]
    pub fn value(self) -> u32 {
        match self {
            Access::Write(value) | Access::Read(value) => value,
        }
    }
}

impl PackedOp {
    /// Whether it certainly took effect.
    #[must_use]
    pub fn took_effect(&self) -> bool {
        self.returned != OPEN
    }
}

/// The operations on one register, in the order of their invocations: those that took effect, and
/// writes that may have. Reads without a result and failed writes are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegisterHistory {
    /// The operations.
    pub ops: Vec<PackedOp>,
    /// All values are less than this.
    pub values: u32,
    /// No value except [`ABSENT`] is written twice.
    pub unique: bool,
}

impl RegisterHistory {
    /// Packs operations, which must be in the order of their invocations.
    #[must_use]
    pub fn new(ops: Vec<PackedOp>) -> Self {
        let values = ops.iter().map(|op| op.access.value() + 1).max().unwrap_or(1);
        let mut written = vec![false; values as usize];
        let unique = ops.iter().all(|op| match op.access {
            Access::Write(value) if value != ABSENT => {
                !std::mem::replace(&mut written[value as usize], true)
            }
            _ => true,
        });
        RegisterHistory { ops, values, unique }
    }

    /// The operations as they were known right after the event at position `until`, and the
    /// position of each in this history.
    #[must_use]
    pub fn prefix(&self, until: u32) -> (Vec<PackedOp>, Vec<u32>) {
        let count = self.ops.partition_point(|op| op.invoked <= until);
        let mut kept = Vec::with_capacity(count);
        let mut positions = Vec::with_capacity(count);
        for (position, op) in (0_u32..).zip(&self.ops[..count]) {
            let returned = if op.returned <= until { op.returned } else { OPEN };
            // An open read has no result yet.
            if returned != OPEN || matches!(op.access, Access::Write(_)) {
                kept.push(PackedOp { returned, ..*op });
                positions.push(position);
            }
        }
        (kept, positions)
    }
}
