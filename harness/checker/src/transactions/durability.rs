//! Durability: an acknowledged append is in the final reads of its key. A history can be serializable
//! without it, if the transaction is taken to be last.

use std::collections::{BTreeMap, HashSet};

use history::Outcome;

use super::history::{NONE, Step, TransactionHistory, Workload};

/// An acknowledged append that no process returned in its last final read of the key. A read is final if it
/// was invoked after every acknowledged append to the key had returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lost {
    writer: u32,
    element: u32,
    /// The last read of the key.
    reader: u32,
    /// Some read returned it.
    was_read: bool,
}

impl Lost {
    pub(super) fn text(self, history: &TransactionHistory) -> String {
        let Lost { writer, element, reader, was_read } = self;
        let key = history.key_name(history.elements[element as usize].key);
        let element = history.element_text(element);
        let others = match was_read {
            true => "it had been read before, and no process returned it in its last read",
            false => "and no read returned it",
        };
        format!(
            "T{writer} appended {element} to {key} and was acknowledged (event {}); T{reader}, invoked \
             later (event {}), read {key} without it, {others}",
            history.transactions[writer as usize].returned,
            history.transactions[reader as usize].invoked
        )
    }
}

/// Acknowledged appends, and the final reads of each key.
struct Appends {
    /// Writers and elements.
    acknowledged: Vec<(u32, u32)>,
    /// By key and process: the last final read, with its transaction.
    final_reads: BTreeMap<(u32, u32), (u32, Step)>,
}

/// The transactions that are ok. What others read is no evidence, and what they wrote is not acknowledged.
fn ok(history: &TransactionHistory) -> impl Iterator<Item = u32> + '_ {
    let is_ok = |number: &u32| history.transactions[*number as usize].outcome == Outcome::Ok;
    (0..history.len() as u32).filter(is_ok)
}

impl Appends {
    fn of(history: &TransactionHistory) -> Appends {
        let mut acknowledged = Vec::new();
        // By key: when its last acknowledged append returned.
        let mut last_append = vec![0; history.keys()];
        for number in ok(history) {
            for step in history.steps(number) {
                let Step::Append { key, element } = step else { continue };
                let last = &mut last_append[key as usize];
                *last = history.transactions[number as usize].returned.max(*last);
                acknowledged.push((number, element));
            }
        }
        let mut final_reads = BTreeMap::new();
        for number in ok(history) {
            let transaction = history.transactions[number as usize];
            for step in history.steps(number) {
                let (Step::List { key, .. } | Step::Divergent { key, .. }) = step else { continue };
                if transaction.invoked > last_append[key as usize] {
                    final_reads.insert((key, transaction.process), (number, step));
                }
            }
        }
        Appends { acknowledged, final_reads }
    }

    /// The transaction that read a key last, of the final reads. `None`: there are none.
    fn last_reader(&self, key: u32) -> Option<u32> {
        let reads = self.final_reads.range((key, 0)..=(key, NONE));
        reads.map(|(_, (reader, _))| *reader).max()
    }

    /// Which elements are in a final read.
    fn found(&self, history: &TransactionHistory) -> Vec<bool> {
        let mut is_found = vec![false; history.elements.len()];
        for (_, step) in self.final_reads.values() {
            let read = match *step {
                Step::List { key, length } => &history.lists[key as usize][..length as usize],
                Step::Divergent { at, .. } => &history.divergences[at as usize].elements,
                _ => continue,
            };
            read.iter().for_each(|element| is_found[*element as usize] = true);
        }
        is_found
    }
}

/// The lost appends of a history.
pub(super) fn lost(history: &TransactionHistory) -> Vec<Lost> {
    if !history.has_real_time() || history.workload() != Some(Workload::ListAppend) {
        return Vec::new();
    }
    let appends = Appends::of(history);
    let is_found = appends.found(history);
    let mut was_read = vec![false; history.elements.len()];
    let divergent = history.divergences.iter().map(|divergence| &divergence.elements);
    for element in history.lists.iter().chain(divergent).flatten() {
        was_read[*element as usize] = true;
    }
    // An element that is appended twice is lost once.
    let mut told = HashSet::new();
    let lost = appends.acknowledged.iter().filter_map(|(writer, element)| {
        let at = *element as usize;
        let reader = appends.last_reader(history.elements[at].key)?;
        let is_lost = !is_found[at] && told.insert(*element);
        is_lost.then_some(Lost {
            writer: *writer,
            element: *element,
            reader,
            was_read: was_read[at],
        })
    });
    lost.collect()
}

/// Why the history does not show whether what was acknowledged is durable, beyond the appends that are lost.
/// `None`: it shows it.
pub(super) fn unknown_because(history: &TransactionHistory) -> Option<String> {
    match history.workload() {
        None => return None,
        Some(Workload::Registers) => {
            return Some(
                "the durability of registers cannot be judged from transactions: a value that is \
                 not read may have been overwritten"
                    .to_owned(),
            );
        }
        Some(Workload::ListAppend) => {}
    }
    if !history.has_real_time() {
        return Some(format!("whether appends are durable is not known: {}", super::NO_REAL_TIME));
    }
    let appends = Appends::of(history);
    let is_unread = |(_, element): &&(u32, u32)| {
        appends.last_reader(history.elements[*element as usize].key).is_none()
    };
    let unread = appends.acknowledged.iter().filter(is_unread).count();
    (unread > 0).then(|| {
        format!(
            "{unread} acknowledged appends are to keys that no transaction read after the last of them, \
             so whether they are lost is not known"
        )
    })
}
