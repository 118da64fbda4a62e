//! Histories of tools that know sessions and no times: each session is a list of transactions on registers,
//! and nothing says which of two sessions' transactions came first. The formats of Plume and PolySI, AWDIT,
//! dbcop and Cobra.
//!
//! Values and keys are numbers. A transaction is committed, failed, or of unknown outcome. The first
//! transactions of all sessions are passed on before the second ones, and so on; the sink is told that this
//! order means nothing.

pub(super) mod cobra;
pub(super) mod dbcop;
pub(super) mod text;

use std::collections::HashSet;

use ahash::RandomState;

use super::pairing::PairingSink;
use crate::{MalformedHistory, MicroFunction, MicroOp, Outcome, Value, value::NumberKind};

/// An access to a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Access {
    pub(super) is_write: bool,
    pub(super) key: u64,
    /// `None`: the register was never written.
    pub(super) value: Option<u64>,
}

/// A transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SessionTransaction {
    pub(super) accesses: Vec<Access>,
    pub(super) outcome: Outcome,
}

/// A history by session.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    /// The number of each session, and its name if it has another one.
    pub(super) names: Vec<(u64, Option<String>)>,
    pub(super) transactions: Vec<Vec<SessionTransaction>>,
}

impl Sessions {
    /// Adds a session.
    pub(super) fn add(
        &mut self,
        number: u64,
        name: Option<String>,
    ) -> &mut Vec<SessionTransaction> {
        self.names.push((number, name));
        self.transactions.push(Vec::new());
        self.transactions.last_mut().expect("it was just added")
    }

    /// Takes 0 for a register that was never written, where nobody writes 0. What failed wrote nothing.
    pub(super) fn zero_is_initial(&mut self) {
        let may_write = |one: &&SessionTransaction| one.outcome != Outcome::Fail;
        let all = self.transactions.iter().flatten().filter(may_write);
        let is_zero = |access: &&Access| access.is_write && access.value == Some(0);
        let written: HashSet<u64, RandomState> =
            all.flat_map(|one| &one.accesses).filter(is_zero).map(|access| access.key).collect();
        let all = self.transactions.iter_mut().flatten().flat_map(|one| &mut one.accesses);
        for access in all {
            if !access.is_write && access.value == Some(0) && !written.contains(&access.key) {
                access.value = None;
            }
        }
    }

    /// Passes the transactions on.
    pub(super) fn pass_on(&self, pairs: &mut PairingSink<'_>) -> Result<(), MalformedHistory> {
        pairs.without_real_time();
        let longest = self.transactions.iter().map(Vec::len).max().unwrap_or(0);
        for at in 0..longest {
            for ((process, name), session) in self.names.iter().zip(&self.transactions) {
                let Some(transaction) = session.get(at) else { continue };
                if let Some(name) = name {
                    pairs.name_process(*process, name);
                }
                pass_transaction(*process, transaction, pairs)?;
            }
        }
        Ok(())
    }
}

fn pass_transaction(
    process: u64,
    transaction: &SessionTransaction,
    pairs: &mut PairingSink<'_>,
) -> Result<(), MalformedHistory> {
    let number = |number: u64| Value::Number(NumberKind::Integer, number.to_string().into());
    let values: Vec<(MicroFunction, Value<'_>, Value<'_>)> = transaction
        .accesses
        .iter()
        .map(|access| {
            let f = if access.is_write { MicroFunction::Write } else { MicroFunction::Read };
            (f, number(access.key), access.value.map_or(Value::Nil, number))
        })
        .collect();
    let nothing = Value::Nil;
    let invoked: Vec<MicroOp<'_, '_>> = values
        .iter()
        .map(|(f, key, value)| {
            let value = if *f == MicroFunction::Read { &nothing } else { value };
            MicroOp { f: *f, key, value, version: None }
        })
        .collect();
    pairs.pass_transaction(process, &invoked)?;
    if transaction.outcome != Outcome::Ok {
        return pairs.pass_outcome(process, &[], transaction.outcome);
    }
    let completed: Vec<MicroOp<'_, '_>> =
        values.iter().map(|(f, key, value)| MicroOp { f: *f, key, value, version: None }).collect();
    pairs.pass_outcome(process, &completed, Outcome::Ok)
}
