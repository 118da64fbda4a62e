//! The plain search: small, obviously right, exponential at worst. It serves any sequential
//! specification, and is the oracle that faster checkers are held against.
//!
//! Wing and Gong, "Testing and verifying concurrent objects" (1993), with the memory of Lowe,
//! "Testing for linearizability" (2017): a set of linearized operations that led to a state once
//! need not be tried again.

use std::{collections::HashSet, fmt, hash::Hash, mem::size_of, time::Duration};

use stateright::semantics::SequentialSpec;

use super::Clock;

/// What may be spent before the answer is "unknown".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Time.
    pub time: Duration,
    /// Memory for what was seen before, in bytes.
    pub memory: usize,
}

impl Default for Bounds {
    /// A minute and 1 GiB.
    fn default() -> Self {
        Bounds { time: Duration::from_secs(60), memory: 1 << 30 }
    }
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// An order: the operations that took effect, by their place in the input.
    Valid(Vec<usize>),
    /// That there is none.
    Invalid(Shortest),
    /// That it would take more than the bounds allow.
    Unknown(Bound),
}

/// The shortest prefix of a history that has no order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortest {
    /// The operation, by its place in the input, whose return ends it.
    pub breaks_at: usize,
    /// An order of all the operations that had returned before: so far there is one.
    pub prefix: Vec<usize>,
}

/// Which bound was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// The time.
    Time(Duration),
    /// The memory, in bytes.
    Memory(usize),
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bound::Time(limit) => write!(f, "no answer within {limit:?}"),
            Bound::Memory(limit) => write!(f, "no answer within {} MiB", limit >> 20),
        }
    }
}

/// An operation as it was observed. Times are compared, nothing more; an invocation and a return at
/// the same time are concurrent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call<Op, Ret> {
    /// What was asked.
    pub op: Op,
    /// The answer; none if there was none, and it is not known whether the operation took effect.
    pub ret: Option<Ret>,
    /// It certainly took no effect.
    pub failed: bool,
    /// When it was invoked.
    pub invoked: u64,
    /// When it returned; none if it never did.
    pub returned: Option<u64>,
}

/// Looks for an order of all the calls that returned, and of any of those that did not, in which
/// each answers as the specification does from `initial`, and none comes before one that returned
/// before it was invoked. Failed calls count as absent.
pub fn search<S>(initial: &S, calls: &[Call<S::Op, S::Ret>], bounds: &Bounds) -> Found
where
    S: SequentialSpec + Clone + Eq + Hash,
{
    let mut clock = Clock::new(bounds.time);
    match attempt(initial, calls, u64::MAX, bounds, &mut clock) {
        Attempt::Order(order) => Found::Valid(order),
        Attempt::Exhausted(exhausted) => Found::Unknown(exhausted),
        Attempt::None => Found::Invalid(shortest(initial, calls, bounds, &mut clock)),
    }
}

/// Finds the return that ends the shortest bad prefix. Every prefix of a linearizable history is
/// linearizable, so halving finds it.
fn shortest<S>(
    initial: &S,
    calls: &[Call<S::Op, S::Ret>],
    bounds: &Bounds,
    clock: &mut Clock,
) -> Shortest
where
    S: SequentialSpec + Clone + Eq + Hash,
{
    let mut returns: Vec<(u64, usize)> = (0..calls.len())
        .filter_map(|at| Some((calls[at].returned.filter(|_| calls[at].ret.is_some())?, at)))
        .collect();
    returns.sort_unstable();
    let mut prefix = Vec::new();
    // The first `good` returns are known to have an order, the first `bad` to have none.
    let (mut good, mut bad) = (0, returns.len());
    while bad - good > 1 {
        let middle = good.midpoint(bad);
        match attempt(initial, calls, returns[middle - 1].0, bounds, clock) {
            Attempt::None => bad = middle,
            Attempt::Order(order) => {
                good = middle;
                prefix = order;
            }
            // The history is known to be bad; only the prefix is not the shortest.
            Attempt::Exhausted(_) => break,
        }
    }
    Shortest { breaks_at: returns[bad - 1].1, prefix }
}

enum Attempt {
    Order(Vec<usize>),
    None,
    Exhausted(Bound),
}

/// No entry.
const END: usize = usize::MAX;

/// A doubly linked list of the invocations and returns that are not linearized, in order of time:
/// taking an operation out and putting it back again are cheap if done in reverse.
struct Entries {
    /// Call and whether this is its invocation.
    of: Vec<(usize, bool)>,
    /// By call: the entry of its return.
    return_of: Vec<usize>,
    next: Vec<usize>,
    previous: Vec<usize>,
    first: usize,
}

impl Entries {
    /// The entries up to a time; calls that return later are taken as open.
    fn new<Op, Ret>(calls: &[Call<Op, Ret>], until: u64) -> Self {
        let mut order: Vec<(u64, bool, usize)> = Vec::with_capacity(2 * calls.len());
        for (at, call) in calls.iter().enumerate() {
            if call.failed || call.invoked > until {
                continue;
            }
            order.push((call.invoked, false, at));
            if let Some(returned) = closed(call, until) {
                order.push((returned, true, at));
            }
        }
        order.sort_unstable();
        let mut return_of = vec![END; calls.len()];
        for (entry, &(_, is_return, call)) in order.iter().enumerate() {
            if is_return {
                return_of[call] = entry;
            }
        }
        let count = order.len();
        Entries {
            of: order.into_iter().map(|(_, is_return, call)| (call, !is_return)).collect(),
            return_of,
            next: (1..=count).map(|entry| if entry == count { END } else { entry }).collect(),
            previous: (0..count).map(|entry| entry.wrapping_sub(1)).collect(),
            first: if count == 0 { END } else { 0 },
        }
    }

    fn unlink(&mut self, entry: usize) {
        let (previous, next) = (self.previous[entry], self.next[entry]);
        if previous == END {
            self.first = next;
        } else {
            self.next[previous] = next;
        }
        if next != END {
            self.previous[next] = previous;
        }
    }

    fn relink(&mut self, entry: usize) {
        let (previous, next) = (self.previous[entry], self.next[entry]);
        if previous == END {
            self.first = entry;
        } else {
            self.next[previous] = entry;
        }
        if next != END {
            self.previous[next] = entry;
        }
    }
}

/// When a call returned, if it did by then, with an answer.
fn closed<Op, Ret>(call: &Call<Op, Ret>, until: u64) -> Option<u64> {
    call.returned.filter(|returned| call.ret.is_some() && *returned <= until)
}

fn attempt<S>(
    initial: &S,
    calls: &[Call<S::Op, S::Ret>],
    until: u64,
    bounds: &Bounds,
    clock: &mut Clock,
) -> Attempt
where
    S: SequentialSpec + Clone + Eq + Hash,
{
    let mut entries = Entries::new(calls, until);
    let mut open =
        calls.iter().filter(|call| !call.failed && closed(call, until).is_some()).count();
    let words = calls.len().div_ceil(64);
    let seen_max = bounds.memory / (words * 8 + size_of::<(Box<[u64]>, S)>() + 16);
    let mut linearized = vec![0_u64; words];
    let mut seen: HashSet<(Box<[u64]>, S)> = HashSet::new();
    let mut state = initial.clone();
    let mut stack: Vec<(usize, S)> = Vec::new();
    let mut entry = entries.first;
    while open > 0 {
        if clock.is_up() {
            return Attempt::Exhausted(Bound::Time(bounds.time));
        }
        if seen.len() > seen_max {
            return Attempt::Exhausted(Bound::Memory(bounds.memory));
        }
        let candidate = if entry == END { None } else { Some(entries.of[entry]) };
        if let Some((at, true)) = candidate {
            let call = &calls[at];
            let returned = closed(call, until).is_some();
            let mut after = state.clone();
            let possible = match &call.ret {
                Some(ret) if returned => after.is_valid_step(&call.op, ret),
                _ => {
                    after.invoke(&call.op);
                    true
                }
            };
            linearized[at / 64] |= 1 << (at % 64);
            if possible && seen.insert((linearized.clone().into(), after.clone())) {
                entries.unlink(entry);
                if returned {
                    entries.unlink(entries.return_of[at]);
                    open -= 1;
                }
                stack.push((entry, std::mem::replace(&mut state, after)));
                entry = entries.first;
            } else {
                linearized[at / 64] &= !(1 << (at % 64));
                entry = entries.next[entry];
            }
            continue;
        }
        // A return that nothing before it can go with: take the last choice back.
        let Some((last, before)) = stack.pop() else { return Attempt::None };
        let at = entries.of[last].0;
        state = before;
        linearized[at / 64] &= !(1 << (at % 64));
        if closed(&calls[at], until).is_some() {
            entries.relink(entries.return_of[at]);
            open += 1;
        }
        entries.relink(last);
        entry = entries.next[last];
    }
    Attempt::Order(stack.into_iter().map(|(entry, _)| entries.of[entry].0).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use stateright::semantics::{ConsistencyTester, LinearizabilityTester};

    use super::{
        super::register::{Register, RegisterOp, RegisterRet},
        *,
    };

    type RegisterCall = Call<RegisterOp, RegisterRet>;

    fn answer(calls: &[RegisterCall]) -> Found {
        search(&Register::default(), calls, &Bounds::default())
    }

    /// What each of a few processes does, in turn: whose turn, whether to answer, what.
    fn histories() -> impl Strategy<Value = Vec<RegisterCall>> {
        let op = prop_oneof![
            3 => (0..3_u32).prop_map(RegisterOp::Put),
            1 => Just(RegisterOp::Del),
            4 => Just(RegisterOp::Get),
        ];
        let found = prop_oneof![1 => Just(None), 3 => (0..3_u32).prop_map(Some)];
        prop::collection::vec((0..4_usize, op, found), 0..22).prop_map(|turns| {
            let mut calls: Vec<RegisterCall> = Vec::new();
            let mut under_way = [None; 4];
            for (time, (process, op, found)) in turns.into_iter().enumerate() {
                let time = time as u64;
                if let Some(at) = under_way[process].take() {
                    let call: &mut RegisterCall = &mut calls[at];
                    call.returned = Some(time);
                    call.ret = Some(match call.op {
                        RegisterOp::Get => RegisterRet::Found(found),
                        _ => RegisterRet::Done,
                    });
                } else {
                    under_way[process] = Some(calls.len());
                    calls.push(Call {
                        op,
                        ret: None,
                        failed: false,
                        invoked: time,
                        returned: None,
                    });
                }
            }
            calls
        })
    }

    /// stateright's verdict. It knows no retired processes, so each open call has one of its own.
    fn reference(calls: &[RegisterCall]) -> bool {
        let mut tester = LinearizabilityTester::new(Register::default());
        let mut events: Vec<(u64, usize, bool)> = Vec::new();
        for (at, call) in calls.iter().enumerate() {
            events.push((call.invoked, at, false));
            events.extend(call.returned.map(|returned| (returned, at, true)));
        }
        events.sort_unstable();
        for (_, at, is_return) in events {
            // A thread for each call: real time alone orders them, as it does processes.
            if is_return {
                let ret = calls[at].ret.expect("it has returned");
                tester.on_return(at, ret).expect("well formed");
            } else {
                tester.on_invoke(at, calls[at].op).expect("well formed");
            }
        }
        tester.is_consistent()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

        #[test]
        fn agrees_with_stateright(calls in histories()) {
            let valid = reference(&calls);
            match answer(&calls) {
                Found::Valid(order) => {
                    prop_assert!(valid);
                    let mut register = Register::default();
                    for at in order {
                        let found = register.invoke(&calls[at].op);
                        prop_assert!(calls[at].ret.is_none_or(|ret| ret == found));
                    }
                }
                Found::Invalid(counterexample) => {
                    prop_assert!(!valid);
                    let until = calls[counterexample.breaks_at].returned.expect("it returned");
                    let cut = |strictly: bool| -> Vec<RegisterCall> {
                        let mut cut = calls.clone();
                        for call in &mut cut {
                            if call.returned.is_some_and(|at| at > until || strictly && at == until) {
                                call.returned = None;
                                call.ret = None;
                            }
                        }
                        cut.retain(|call| call.invoked < until);
                        cut
                    };
                    prop_assert!(!reference(&cut(false)));
                    prop_assert!(reference(&cut(true)));
                }
                Found::Unknown(exhausted) => prop_assert!(false, "{exhausted}"),
            }
        }
    }

    fn call(op: RegisterOp, ret: Option<RegisterRet>, from: u64, to: Option<u64>) -> RegisterCall {
        Call { op, ret, failed: false, invoked: from, returned: to }
    }

    #[test]
    fn the_shortest_bad_prefix_is_told() {
        use RegisterOp::{Get, Put};
        use RegisterRet::Done;
        let calls = [
            call(Put(1), Some(Done), 0, Some(1)),
            call(Put(2), Some(Done), 2, Some(3)),
            call(Get, Some(RegisterRet::Found(Some(1))), 4, Some(5)),
            call(Get, Some(RegisterRet::Found(Some(2))), 6, Some(7)),
        ];
        let expected = Shortest { breaks_at: 2, prefix: vec![0, 1] };
        assert_eq!(answer(&calls), Found::Invalid(expected));
    }

    #[test]
    fn bounds_make_the_answer_unknown() {
        // Twelve concurrent puts and a get that found none of them: every order must be tried.
        let mut calls: Vec<_> = (0..16)
            .map(|n| call(RegisterOp::Put(n), Some(RegisterRet::Done), 0, Some(1)))
            .collect();
        calls.push(call(RegisterOp::Get, Some(RegisterRet::Found(None)), 2, Some(3)));
        let bounds = Bounds { memory: 1000, ..Bounds::default() };
        let verdict = search(&Register::default(), &calls, &bounds);
        assert_eq!(verdict, Found::Unknown(Bound::Memory(1000)));
        let bounds = Bounds { time: Duration::ZERO, ..Bounds::default() };
        let verdict = search(&Register::default(), &calls, &bounds);
        assert_eq!(verdict, Found::Unknown(Bound::Time(Duration::ZERO)));
    }
}
