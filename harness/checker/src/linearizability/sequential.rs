//! Sequential specifications: what an object does when operations come one at a time. A history is
//! linearizable if some order of its operations satisfies the specification.

/// An object as one client at a time sees it.
pub trait SequentialSpec {
    /// What can be asked of it.
    type Op;
    /// What it returns.
    type Ret: PartialEq;

    /// Applies an operation and returns its result.
    fn invoke(&mut self, op: &Self::Op) -> Self::Ret;

    /// Applies an operation, and tells whether it returns `ret`.
    fn is_valid_step(&mut self, op: &Self::Op, ret: &Self::Ret) -> bool {
        self.invoke(op) == *ret
    }
}

/// A register that holds a value or nothing. Values are numbers: only their equality matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Register {
    /// The value held, `None` at first and after a delete.
    pub value: Option<u32>,
}

/// An operation on a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RegisterOp {
    /// Writes a value.
    Put(u32),
    /// Deletes the value.
    Del,
    /// Reads the value.
    Get,
}

/// The result of an operation on a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RegisterRet {
    /// Of a put or a del.
    Done,
    /// Of a get: the value read.
    Value(Option<u32>),
}

impl SequentialSpec for Register {
    type Op = RegisterOp;
    type Ret = RegisterRet;

    fn invoke(&mut self, op: &RegisterOp) -> RegisterRet {
        match op {
            RegisterOp::Put(value) => self.value = Some(*value),
            RegisterOp::Del => self.value = None,
            RegisterOp::Get => return RegisterRet::Value(self.value),
        }
        RegisterRet::Done
    }
}
