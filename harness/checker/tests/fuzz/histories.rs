//! Small random histories of one key, one for each seed: a few concurrent clients use an object,
//! and some of their results are changed afterwards.

use checker::linearizability::frontier::{OPEN, Step, TimedStep};
use rand::{RngExt, SeedableRng, rngs::SmallRng};

/// An operation that was observed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Observed {
    /// What it did, if it took effect.
    pub(crate) op: TimedStep,
    /// It is left out of the history to decide: a failed change, or a get without a result. The
    /// return is the time of its failure or info.
    pub(crate) omitted: bool,
}

/// Parameters of a small history.
struct Shape {
    /// Maximum number of operations.
    ops_max: usize,
    /// Maximum number of open operations.
    concurrency: usize,
    /// Number of values that puts draw from. `None`: every put has a value of its own.
    values: Option<u32>,
    /// Percentages of puts, deletes, cas and appends. The rest are gets.
    puts: u32,
    deletes: u32,
    cas: u32,
    appends: u32,
    /// Percentage of changes that never return.
    open: u32,
    /// Percentage of operations that are left out: failed changes, gets without a result.
    omitted: u32,
    /// Percentage of gets whose result is changed.
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
            omitted: rng.random_range(0..=20),
            wrong: rng.random_range(0..=60),
        }
    }
}

/// No value is written twice.
pub(crate) fn unique(seed: u64) -> Vec<Observed> {
    let mut rng = SmallRng::seed_from_u64(seed);
    history(&Shape::of(&mut rng), &mut rng)
}

/// Values are written repeatedly.
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

/// With cas, and with many changes that never return.
pub(crate) fn indeterminate(seed: u64) -> Vec<Observed> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let shape = Shape {
        ops_max: rng.random_range(6..=16),
        concurrency: rng.random_range(1..=3),
        values: Some(rng.random_range(1..=4)),
        puts: rng.random_range(5..=25),
        deletes: 5,
        cas: rng.random_range(10..=50),
        open: rng.random_range(40..=80),
        omitted: 0,
        wrong: rng.random_range(0..=20),
        ..Shape::of(&mut rng)
    };
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

/// The greatest text as a number. Texts are short, so that all can be numbered in advance.
const TEXT_MAX: u32 = 64;

fn history(shape: &Shape, rng: &mut SmallRng) -> Vec<Observed> {
    let mut ops: Vec<Observed> = Vec::new();
    // Position, and whether it has taken effect.
    let mut open_ops: Vec<(usize, bool)> = Vec::new();
    let (mut state, mut fresh, mut time) = (0, 0, 0);
    while ops.len() < shape.ops_max || !open_ops.is_empty() {
        let invoke = ops.len() < shape.ops_max
            && (open_ops.is_empty()
                || open_ops.len() < shape.concurrency && rng.random_ratio(1, 2));
        if invoke {
            open_ops.push((ops.len(), false));
            let step = new_step(shape, &mut fresh, rng);
            let omitted = rng.random_range(0..100) < shape.omitted;
            ops.push(Observed { op: TimedStep { invoked: time, returned: OPEN, step }, omitted });
            time += 1;
            continue;
        }
        let pick = rng.random_range(0..open_ops.len());
        let (at, done) = open_ops[pick];
        let Observed { op, omitted } = &mut ops[at];
        if !done {
            if !*omitted {
                take_effect(&mut op.step, &mut state);
            }
            open_ops[pick].1 = true;
            if rng.random_ratio(1, 2) {
                continue;
            }
        }
        open_ops.swap_remove(pick);
        let changes = !matches!(op.step, Step::Read(_) | Step::Mismatch(_));
        if *omitted || !(changes && rng.random_range(0..100) < shape.open) {
            op.returned = time;
            time += 1;
        }
    }
    let values = if shape.appends > 0 { TEXT_MAX } else { shape.values.unwrap_or(fresh) };
    for Observed { op, .. } in &mut ops {
        if let Step::Read(found) | Step::Mismatch(found) = &mut op.step
            && rng.random_range(0..100) < shape.wrong
        {
            *found = rng.random_range(0..=values);
        }
    }
    ops
}

fn new_step(shape: &Shape, fresh: &mut u32, rng: &mut SmallRng) -> Step {
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

/// Lets an operation take effect, and sets what it observes.
fn take_effect(step: &mut Step, state: &mut u32) {
    match step {
        Step::Write(value) => *state = *value,
        Step::Read(found) => *found = *state,
        Step::Cas(from, to) if *from == *state => *state = *to,
        Step::Cas(from, _) => *step = Step::Mismatch(*from),
        Step::Append(digit) if *state < TEXT_MAX => *state = *state * 4 + *digit,
        // The text would be too long: reads instead.
        Step::Append(_) => *step = Step::Read(*state),
        Step::Mismatch(_) => {}
    }
}
