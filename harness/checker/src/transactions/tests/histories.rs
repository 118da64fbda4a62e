//! Small random histories of transactions on lists, and how they are made smaller.

use history::Outcome;
use rand::{RngExt, SeedableRng, rngs::SmallRng};

use super::oracle::{KEYS, Op, Txn};

/// A random history: of a database that is more or less wrong.
pub(super) fn random(seed: u64) -> Vec<Txn> {
    observed(&mut SmallRng::seed_from_u64(seed)).0
}

/// A random history on registers, of a database that tells versions.
pub(super) fn versioned(seed: u64) -> Vec<Txn> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let (txns, lists) = observed(&mut rng);
    let mut txns = on_registers(txns);
    let tells_all = rng.random_ratio(1, 2);
    let errs = if rng.random_ratio(1, 4) { rng.random_range(1..6) } else { 0 };
    for txn in &mut txns {
        let version = |op: &Op| {
            let (key, value) = match op {
                Op::Append(key, value) => (*key, Some(*value)),
                Op::Read(key, read) => (*key, read.as_ref().and_then(|read| read.last().copied())),
            };
            let place = lists[usize::from(key)].iter().position(|one| Some(*one) == value);
            let version = match place {
                Some(place) if !rng.random_ratio(errs, 24) => place as u64 + 2,
                _ => rng.random_range(1..9),
            };
            (tells_all || rng.random_ratio(3, 4)).then_some(version)
        };
        txn.versions = txn.ops.iter().map(version).collect();
    }
    txns
}

/// A random history, and what the lists hold at its end.
fn observed(rng: &mut SmallRng) -> (Vec<Txn>, Vec<Vec<u8>>) {
    let count =
        if rng.random_ratio(1, 8) { rng.random_range(5..=6) } else { rng.random_range(1..=4) };
    let keys = rng.random_range(1..=KEYS);
    let mut txns = shapes(rng, count, keys);
    let lists = fill_reads(rng, &mut txns, keys);
    (txns, lists)
}

/// Transactions without results: what they do, when, and how they end.
fn shapes(rng: &mut SmallRng, count: usize, keys: u8) -> Vec<Txn> {
    let mut txns: Vec<Txn> = Vec::new();
    let mut next = 1;
    // The oracle tries the orders of the elements of a key.
    let mut appends = [0; KEYS as usize];
    let mut clock = 0;
    let mut open: Vec<usize> = Vec::new();
    let mut idle: Vec<u64> = vec![0, 1, 2];
    let mut fresh = 3;
    while txns.len() < count || !open.is_empty() {
        clock += 1;
        let invokes = txns.len() < count && !idle.is_empty();
        if invokes && (open.is_empty() || rng.random_ratio(3, 5)) {
            let process = idle.swap_remove(rng.random_range(0..idle.len()));
            let ops = (0..rng.random_range(1..=3)).map(|_| {
                let key = rng.random_range(0..keys);
                if rng.random_ratio(1, 2) && appends[usize::from(key)] < 5 {
                    appends[usize::from(key)] += 1;
                    next += 1;
                    Op::Append(key, next - 1)
                } else {
                    Op::Read(key, None)
                }
            });
            let ops = ops.collect();
            open.push(txns.len());
            let outcome = Outcome::Info;
            let versions = Vec::new();
            txns.push(Txn { process, ops, versions, outcome, invoked: clock, returned: 0 });
            continue;
        }
        let txn = &mut txns[open.swap_remove(rng.random_range(0..open.len()))];
        txn.returned = clock;
        txn.outcome = match rng.random_range(0..10) {
            0 => Outcome::Fail,
            1 => Outcome::Info,
            _ => Outcome::Ok,
        };
        match txn.outcome {
            Outcome::Info => {
                idle.push(fresh);
                fresh += 1;
            }
            _ => idle.push(txn.process),
        }
    }
    txns
}

/// What the reads return: a database with lists that are appended to at random moments. Returns the lists.
fn fill_reads(rng: &mut SmallRng, txns: &mut [Txn], keys: u8) -> Vec<Vec<u8>> {
    let mut lists: Vec<Vec<u8>> = vec![Vec::new(); usize::from(keys)];
    // Each transaction takes effect at some moment, or in pieces.
    let mut order: Vec<usize> = (0..txns.len()).collect();
    for at in (1..order.len()).rev() {
        if rng.random_ratio(1, 3) {
            order.swap(at, rng.random_range(0..=at));
        }
    }
    let is_atomic = rng.random_ratio(1, 2);
    let mut steps: Vec<(usize, usize)> = Vec::new();
    for at in &order {
        steps.extend((0..txns[*at].ops.len()).map(|op| (*at, op)));
    }
    if !is_atomic {
        for _ in 0..rng.random_range(1..=4) {
            let at = rng.random_range(1..steps.len().max(2));
            if at < steps.len() && steps[at].0 != steps[at - 1].0 {
                steps.swap(at, at - 1);
            }
        }
    }
    let stale = rng.random_range(0..4_u32);
    let snapshots = rng.random_ratio(1, 3);
    let mut own: Vec<Vec<(u8, u8)>> = vec![Vec::new(); txns.len()];
    let mut pasts: Vec<Option<Vec<Vec<u8>>>> = vec![None; txns.len()];
    let mut before = lists.clone();
    let mut last = usize::MAX;
    for (at, op) in steps {
        if last != at {
            if rng.random_ratio(1, 2) {
                before.clone_from(&lists);
            }
            last = at;
        }
        let takes_effect = match txns[at].outcome {
            Outcome::Ok => true,
            Outcome::Info => txns[at].invoked.is_multiple_of(2),
            Outcome::Fail => rng.random_ratio(1, 10),
        };
        if snapshots && pasts[at].is_none() {
            pasts[at] = Some(if rng.random_ratio(1, 2) { before.clone() } else { lists.clone() });
        }
        match &mut txns[at].ops[op] {
            Op::Append(key, element) => {
                own[at].push((*key, *element));
                // Sometimes an acknowledged append is lost.
                if takes_effect && !rng.random_ratio(1, 12) {
                    lists[usize::from(*key)].push(*element);
                }
            }
            Op::Read(key, read) => {
                let mut list = match &pasts[at] {
                    Some(past) => {
                        let mut list = past[usize::from(*key)].clone();
                        list.extend(
                            own[at].iter().filter(|(of, _)| of == key).map(|(_, one)| *one),
                        );
                        list
                    }
                    None => lists[usize::from(*key)].clone(),
                };
                if rng.random_ratio(stale, 12) && !list.is_empty() {
                    match rng.random_range(0..5) {
                        0..3 => drop(list.pop()),
                        3 => list.truncate(rng.random_range(0..list.len())),
                        _ => {
                            let [one, other] = [0, 0].map(|_| rng.random_range(0..list.len()));
                            list.swap(one, other);
                        }
                    }
                }
                if rng.random_ratio(1, 200) {
                    list.push(rng.random_range(1..9));
                }
                *read = Some(list);
            }
        }
    }
    lists
}

/// The same history on registers: a read returns the last element alone.
pub(super) fn on_registers(mut txns: Vec<Txn>) -> Vec<Txn> {
    for op in txns.iter_mut().flat_map(|txn| &mut txn.ops) {
        if let Op::Read(_, Some(read)) = op {
            *read = read.last().copied().into_iter().collect();
        }
    }
    txns
}

/// Removes transactions and operations, and ends reads earlier, as long as the history still fails.
pub(super) fn shrink(mut txns: Vec<Txn>, fails: &dyn Fn(&[Txn]) -> bool) -> Vec<Txn> {
    loop {
        let found = smaller(&txns).into_iter().find(|smaller| fails(smaller));
        match found {
            Some(smaller) => txns = smaller,
            None => return txns,
        }
    }
}

fn smaller(txns: &[Txn]) -> Vec<Vec<Txn>> {
    let mut all = Vec::new();
    for at in 0..txns.len() {
        let mut fewer = txns.to_vec();
        fewer.remove(at);
        all.push(fewer);
    }
    for (at, txn) in txns.iter().enumerate() {
        for op in 0..txn.ops.len() {
            let mut fewer = txns.to_vec();
            fewer[at].ops.remove(op);
            if op < txn.versions.len() {
                fewer[at].versions.remove(op);
            }
            all.push(fewer);
            if txn.versions.get(op).is_some_and(Option::is_some) {
                let mut untold = txns.to_vec();
                untold[at].versions[op] = None;
                all.push(untold);
            }
            if let Op::Read(_, Some(read)) = &txn.ops[op]
                && !read.is_empty()
            {
                let mut shorter = txns.to_vec();
                let read = Some(read[..read.len() - 1].to_vec());
                if let Op::Read(_, place) = &mut shorter[at].ops[op] {
                    *place = read;
                }
                all.push(shorter);
            }
        }
    }
    all
}
