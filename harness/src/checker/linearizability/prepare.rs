//! What can be said of a register's history before any search, and is always sound: operations
//! that say nothing are dropped, and indeterminate puts that were read get a deadline. Without
//! this a few indeterminate puts make a search explode.

use std::collections::HashMap;

use super::{
    register::{RegisterOp, RegisterRet},
    search::Call,
};

/// Something that is wrong whatever the order; each operation by its place in the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defect {
    /// A get returned what only a failed put has written.
    AbortedRead {
        /// The get.
        get: usize,
        /// The put.
        put: usize,
    },
    /// A get returned what no put has written.
    NoWriter {
        /// The get.
        get: usize,
    },
}

/// What is known of the writers and readers of one value.
#[derive(Default)]
struct Value {
    writers: usize,
    failed: Option<usize>,
    /// The earliest return of a get that found the value.
    read_by: Option<u64>,
}

/// A call that is kept, with its place in the input.
type Kept = (usize, Call<RegisterOp, RegisterRet>);

/// Drops failed writes, gets without a result, and indeterminate puts that nobody read; and makes
/// an indeterminate put that was read, and is the only writer of its value, one that returned when
/// the first such get did, for by then it had taken effect.
///
/// # Errors
/// A get found what nobody can have written.
pub fn prepare(calls: &[Call<RegisterOp, RegisterRet>]) -> Result<Vec<Kept>, Defect> {
    let mut values: HashMap<u32, Value> = HashMap::new();
    for (place, call) in calls.iter().enumerate() {
        match (call.op, call.ret) {
            (RegisterOp::Put(value), _) => {
                let value = values.entry(value).or_default();
                if call.failed {
                    value.failed = Some(place);
                } else {
                    value.writers += 1;
                }
            }
            (RegisterOp::Get, Some(RegisterRet::Found(Some(value)))) => {
                let read_by = &mut values.entry(value).or_default().read_by;
                *read_by = [*read_by, call.returned].into_iter().flatten().min();
            }
            _ => {}
        }
    }
    let mut kept = Vec::with_capacity(calls.len());
    for (place, call) in calls.iter().enumerate() {
        let mut call = call.clone();
        match (call.op, call.ret) {
            _ if call.failed => continue,
            (RegisterOp::Get, None) => continue,
            (RegisterOp::Get, Some(RegisterRet::Found(Some(value)))) => {
                let value = &values[&value];
                if value.writers == 0 {
                    return Err(match value.failed {
                        Some(put) => Defect::AbortedRead { get: place, put },
                        None => Defect::NoWriter { get: place },
                    });
                }
            }
            (RegisterOp::Put(value), None) => {
                let value = &values[&value];
                let Some(read_by) = value.read_by else { continue };
                if value.writers == 1 {
                    // A get that returned before the put was even invoked is left to the search.
                    call.returned = Some(read_by.max(call.invoked));
                    call.ret = Some(RegisterRet::Done);
                }
            }
            _ => {}
        }
        kept.push((place, call));
    }
    Ok(kept)
}
