//! Small random histories of one key, a seed each: an object that is asked by a few clients at a
//! time, whose answers are then sometimes changed. Knows no checker.

use harness::checker::linearizability::frontier::{OPEN, Operation, Step};
use rand::{RngExt, SeedableRng, rngs::SmallRng};

/// An operation that was observed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Observed {
    /// What it did, if it did.
    pub(crate) op: Operation,
    /// It says nothing: a change that failed, or a get whose answer nobody knows. Its time is that
    /// of its failure or its giving up.
    pub(crate) silent: bool,
}

/// What a small history looks like.
struct Shape {
    /// The most operations.
    ops_max: usize,
    /// Under way at a time.
    concurrency: usize,
    /// Values are drawn from so many; none: every put has its own.
    values: Option<u32>,
    /// Of a hundred operations: puts, deletes, cas, appends; the others are gets.
    puts: u32,
    deletes: u32,
    cas: u32,
    appends: u32,
    /// Of a hundred changes, so many never return.
    open: u32,
    /// Of a hundred operations, so many say nothing: changes that fail, gets without an answer.
    silent: u32,
    /// Of a hundred gets, so many find something else than they did.
    wrong: u32,
}

impl Shape {
    fn of(rng: &mut SmallRng) -> Shape {
        Shape {
            ops_max: rng.random_range(1..=10),
            concurrency: rng.random_range(1..=5),
            values: None,
            puts: rng.random_range(10..=60),
            deletes: rng.random_range(0..=35),
            cas: 0,
            appends: 0,
            open: rng.random_range(0..=30),
            silent: rng.random_range(0..=20),
            wrong: rng.random_range(0..=60),
        }
    }
}

/// No value is written twice.
pub(crate) fn unique(seed: u64) -> Vec<Observed> {
    let mut rng = SmallRng::seed_from_u64(seed);
    history(&Shape::of(&mut rng), &mut rng)
}

/// Values are written again and again.
pub(crate) fn repeated(seed: u64) -> Vec<Observed> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let values = Some(rng.random_range(1..=3));
    history(&Shape { values, ..Shape::of(&mut rng) }, &mut rng)
}

/// With cas.
pub(crate) fn with_cas(seed: u64) -> Vec<Observed> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let values = Some(rng.random_range(1..=3));
    let cas = rng.random_range(10..=40);
    let shape = Shape { values, cas, puts: 25, deletes: 5, ..Shape::of(&mut rng) };
    history(&shape, &mut rng)
}

/// With appends, of texts that are numbers in base 4.
pub(crate) fn with_appends(seed: u64) -> Vec<Observed> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let shape = Shape {
        values: Some(3),
        ops_max: rng.random_range(1..=8),
        appends: rng.random_range(10..=40),
        puts: 15,
        deletes: 5,
        ..Shape::of(&mut rng)
    };
    history(&shape, &mut rng)
}

/// Texts are kept this short, so that all can be numbered beforehand.
const TEXT_MAX: u32 = 64;

fn history(shape: &Shape, rng: &mut SmallRng) -> Vec<Observed> {
    let mut ops: Vec<Observed> = Vec::new();
    // Place, and whether it has taken effect.
    let mut under_way: Vec<(usize, bool)> = Vec::new();
    let (mut state, mut fresh, mut time) = (0, 0, 0);
    while ops.len() < shape.ops_max || !under_way.is_empty() {
        let begin = ops.len() < shape.ops_max
            && (under_way.is_empty()
                || under_way.len() < shape.concurrency && rng.random_ratio(1, 2));
        if begin {
            under_way.push((ops.len(), false));
            let step = begun(shape, &mut fresh, rng);
            let silent = rng.random_range(0..100) < shape.silent;
            ops.push(Observed { op: Operation { invoked: time, returned: OPEN, step }, silent });
            time += 1;
            continue;
        }
        let pick = rng.random_range(0..under_way.len());
        let (at, done) = under_way[pick];
        let Observed { op, silent } = &mut ops[at];
        if !done {
            if !*silent {
                take_effect(&mut op.step, &mut state);
            }
            under_way[pick].1 = true;
            if rng.random_ratio(1, 2) {
                continue;
            }
        }
        under_way.swap_remove(pick);
        let changes = !matches!(op.step, Step::Read(_) | Step::Differs(_));
        if *silent || !(changes && rng.random_range(0..100) < shape.open) {
            op.returned = time;
            time += 1;
        }
    }
    let values = if shape.appends > 0 { TEXT_MAX } else { shape.values.unwrap_or(fresh) };
    for Observed { op, .. } in &mut ops {
        if let Step::Read(found) | Step::Differs(found) = &mut op.step
            && rng.random_range(0..100) < shape.wrong
        {
            *found = rng.random_range(0..=values);
        }
    }
    ops
}

fn begun(shape: &Shape, fresh: &mut u32, rng: &mut SmallRng) -> Step {
    let mut value = || {
        *fresh += 1;
        shape.values.map_or(*fresh, |values| rng.random_range(1..=values))
    };
    let (put, other) = (value(), value());
    match rng.random_range(0..100) {
        n if n < shape.puts => Step::Write(put),
        n if n < shape.puts + shape.deletes => Step::Write(0),
        n if n < shape.puts + shape.deletes + shape.cas => Step::Cas(other - 1, put),
        n if n < shape.puts + shape.deletes + shape.appends => Step::Append(put),
        _ => Step::Read(0),
    }
}

/// An operation takes effect: what it found is put in.
fn take_effect(step: &mut Step, state: &mut u32) {
    match step {
        Step::Write(value) => *state = *value,
        Step::Read(found) => *found = *state,
        Step::Cas(from, to) if *from == *state => *state = *to,
        Step::Cas(from, _) => *step = Step::Differs(*from),
        Step::Append(digit) if *state < TEXT_MAX => *state = *state * 4 + *digit,
        // The text would be too long: a read instead.
        Step::Append(_) => *step = Step::Read(*state),
        Step::Differs(_) => {}
    }
}
