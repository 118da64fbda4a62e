//! A key as a sequential object: a register with put, del and get. The reference that clients'
//! observations are held against; knows nothing of concurrency.

use stateright::semantics::SequentialSpec;

/// A register that holds a value or nothing. Values are numbered: what they are does not matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Register {
    /// What it holds.
    pub value: Option<u32>,
}

/// What can be asked of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RegisterOp {
    /// Hold this.
    Put(u32),
    /// Hold nothing.
    Del,
    /// What is held?
    Get,
}

/// What a register answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RegisterRet {
    /// To a put or a del.
    Done,
    /// To a get.
    Found(Option<u32>),
}

impl SequentialSpec for Register {
    type Op = RegisterOp;
    type Ret = RegisterRet;

    fn invoke(&mut self, op: &RegisterOp) -> RegisterRet {
        match op {
            RegisterOp::Put(value) => self.value = Some(*value),
            RegisterOp::Del => self.value = None,
            RegisterOp::Get => return RegisterRet::Found(self.value),
        }
        RegisterRet::Done
    }
}
