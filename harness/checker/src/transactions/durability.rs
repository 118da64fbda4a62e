//! Durability: an acknowledged append is in the final reads of its key. A history can be serializable
//! without it, if the transaction is taken to be last.

use history::Outcome;

use super::{
    history::{NONE, Step, TransactionHistory},
    versions::Versions,
};

/// An acknowledged append that no read returned, although its key was read after every acknowledged
/// append to it had returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lost {
    writer: u32,
    element: u32,
    /// The last read of the key.
    reader: u32,
}

impl Lost {
    pub(super) fn text(self, history: &TransactionHistory) -> String {
        let Lost { writer, element, reader } = self;
        let key = history.key_name(history.elements[element as usize].key);
        let element = history.element_text(element);
        format!(
            "T{writer} appended {element} to {key} and was acknowledged (event {}); T{reader}, invoked \
             later (event {}), read {key} without it, and no read returned it",
            history.transactions[writer as usize].returned,
            history.transactions[reader as usize].invoked
        )
    }
}

/// The lost appends of a history.
pub(super) fn lost(history: &TransactionHistory, versions: &Versions) -> Vec<Lost> {
    if !history.has_real_time() {
        return Vec::new();
    }
    // By key: when its last acknowledged append returned, and the last transaction that reads it.
    let mut last_append = vec![0; history.keys()];
    let mut last_read = vec![NONE; history.keys()];
    let mut unread = Vec::new();
    for (number, transaction) in history.transactions.iter().enumerate() {
        if transaction.outcome != Outcome::Ok {
            continue;
        }
        let number = number as u32;
        for step in history.steps(number) {
            match step {
                Step::Append { key, element } => {
                    let last = &mut last_append[key as usize];
                    *last = transaction.returned.max(*last);
                    let state = versions.keys[key as usize];
                    let is_known = state.is_usable && state.is_whole;
                    if is_known && versions.positions[element as usize] == NONE {
                        unread.push((number, element));
                    }
                }
                Step::List { key, .. } => last_read[key as usize] = number,
                _ => {}
            }
        }
    }
    let lost = unread.into_iter().filter_map(|(writer, element)| {
        let key = history.elements[element as usize].key as usize;
        let reader = last_read[key];
        let is_final =
            reader != NONE && history.transactions[reader as usize].invoked > last_append[key];
        is_final.then_some(Lost { writer, element, reader })
    });
    lost.collect()
}
