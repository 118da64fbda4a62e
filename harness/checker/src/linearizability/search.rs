//! Tier 0, plain search: small, easy to verify by reading, exponential in the worst case. It serves
//! any [`SequentialSpec`] and is the oracle that the faster tiers are tested against.
//!
//! Wing and Gong, "Testing and verifying concurrent objects" (1993), with the cache of Lowe,
//! "Testing for linearizability" (2017): a state reached with the same set of linearized operations
//! is explored once.

use std::{collections::HashSet, fmt, hash::Hash, mem::size_of, time::Duration};

use super::sequential::SequentialSpec;

use super::deadline::Deadline;

/// What a search may spend before its result is [`SearchResult::Unknown`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SearchLimits {
    /// Time.
    pub time: Duration,
    /// Memory for the cache of explored states, in bytes.
    pub memory: usize,
}

impl Default for SearchLimits {
    /// A minute and 1 GiB.
    fn default() -> Self {
        SearchLimits { time: Duration::from_secs(60), memory: 1 << 30 }
    }
}

/// The result of a search.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SearchResult {
    /// Linearizable: the operations that took effect, by position in the input, in an order that
    /// shows it.
    Valid(Vec<usize>),
    /// Not linearizable.
    Invalid(ShortestPrefix),
    /// The search needs more than the limits allow.
    Unknown(ExceededLimit),
}

/// The shortest prefix of a history that has no order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShortestPrefix {
    /// The operation whose return ends the prefix, by position in the input.
    pub breaks_at: usize,
    /// An order of all operations that returned before. Up to there the history is linearizable.
    pub prefix: Vec<usize>,
}

/// The limit that was exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExceededLimit {
    /// Time.
    Time(Duration),
    /// Memory, in bytes.
    Memory(usize),
}

impl fmt::Display for ExceededLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExceededLimit::Time(limit) => write!(f, "no result within {limit:?}"),
            ExceededLimit::Memory(limit) => write!(f, "no result within {} MiB", limit >> 20),
        }
    }
}

/// An operation as it was observed. Times are only compared. An invocation and a return at the same
/// time are concurrent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedCall<Op, Ret> {
    /// The operation.
    pub op: Op,
    /// The result. `None` if there is none: the operation may or may not have taken effect.
    pub ret: Option<Ret>,
    /// It certainly had no effect.
    pub failed: bool,
    /// Time of the invocation.
    pub invoked: u64,
    /// Time of the return, `None` if it never returned.
    pub returned: Option<u64>,
}

/// Searches for an order of all calls that returned, and of any of those that did not, in which
/// each call returns what the specification does from `initial`, and none comes before a call that
/// returned before it was invoked. Failed calls are ignored.
pub fn search<S>(
    initial: &S,
    calls: &[ObservedCall<S::Op, S::Ret>],
    limits: &SearchLimits,
) -> SearchResult
where
    S: SequentialSpec + Clone + Eq + Hash,
{
    let mut deadline = Deadline::new(limits.time);
    match search_until(initial, calls, u64::MAX, limits, &mut deadline) {
        SearchOutcome::Order(order) => SearchResult::Valid(order),
        SearchOutcome::LimitExceeded(limit) => SearchResult::Unknown(limit),
        SearchOutcome::NoOrder => {
            SearchResult::Invalid(shortest(initial, calls, limits, &mut deadline))
        }
    }
}

/// Finds the return that ends the shortest prefix without an order, by bisection: every prefix of a
/// linearizable history is linearizable.
fn shortest<S>(
    initial: &S,
    calls: &[ObservedCall<S::Op, S::Ret>],
    limits: &SearchLimits,
    deadline: &mut Deadline,
) -> ShortestPrefix
where
    S: SequentialSpec + Clone + Eq + Hash,
{
    let mut returns: Vec<(u64, usize)> = (0..calls.len())
        .filter_map(|at| Some((calls[at].returned.filter(|_| calls[at].ret.is_some())?, at)))
        .collect();
    returns.sort_unstable();
    let mut prefix = Vec::new();
    // The first `good` returns have an order, the first `bad` have none.
    let (mut good, mut bad) = (0, returns.len());
    while bad - good > 1 {
        let middle = good.midpoint(bad);
        match search_until(initial, calls, returns[middle - 1].0, limits, deadline) {
            SearchOutcome::NoOrder => bad = middle,
            SearchOutcome::Order(order) => {
                good = middle;
                prefix = order;
            }
            // The history has no order. Only the prefix may not be the shortest.
            SearchOutcome::LimitExceeded(_) => break,
        }
    }
    ShortestPrefix { breaks_at: returns[bad - 1].1, prefix }
}

enum SearchOutcome {
    Order(Vec<usize>),
    NoOrder,
    LimitExceeded(ExceededLimit),
}

/// The end of the list.
const NO_ENTRY: usize = usize::MAX;

/// A doubly linked list of the invocations and returns that are not linearized, in order of time.
/// Unlinking and, in reverse order, relinking take constant time.
struct Entries {
    /// The call of each entry, and whether it is the invocation.
    of: Vec<(usize, bool)>,
    /// By call: the entry of its return.
    return_of: Vec<usize>,
    next: Vec<usize>,
    previous: Vec<usize>,
    first: usize,
}

impl Entries {
    /// The entries up to a time. Calls that return later count as open.
    fn new<Op, Ret>(calls: &[ObservedCall<Op, Ret>], until: u64) -> Self {
        let mut order: Vec<(u64, bool, usize)> = Vec::with_capacity(2 * calls.len());
        for (at, call) in calls.iter().enumerate() {
            if call.failed || call.invoked > until {
                continue;
            }
            order.push((call.invoked, false, at));
            if let Some(returned) = return_by(call, until) {
                order.push((returned, true, at));
            }
        }
        order.sort_unstable();
        let mut return_of = vec![NO_ENTRY; calls.len()];
        for (entry, &(_, is_return, call)) in order.iter().enumerate() {
            if is_return {
                return_of[call] = entry;
            }
        }
        let count = order.len();
        Entries {
            of: order.into_iter().map(|(_, is_return, call)| (call, !is_return)).collect(),
            return_of,
            next: (1..=count).map(|entry| if entry == count { NO_ENTRY } else { entry }).collect(),
            previous: (0..count).map(|entry| entry.wrapping_sub(1)).collect(),
            first: if count == 0 { NO_ENTRY } else { 0 },
        }
    }

    fn unlink(&mut self, entry: usize) {
        let (previous, next) = (self.previous[entry], self.next[entry]);
        if previous == NO_ENTRY {
            self.first = next;
        } else {
            self.next[previous] = next;
        }
        if next != NO_ENTRY {
            self.previous[next] = previous;
        }
    }

    fn relink(&mut self, entry: usize) {
        let (previous, next) = (self.previous[entry], self.next[entry]);
        if previous == NO_ENTRY {
            self.first = entry;
        } else {
            self.next[previous] = entry;
        }
        if next != NO_ENTRY {
            self.previous[next] = entry;
        }
    }
}

/// The time at which a call returned with a result, if not after `until`.
fn return_by<Op, Ret>(call: &ObservedCall<Op, Ret>, until: u64) -> Option<u64> {
    call.returned.filter(|returned| call.ret.is_some() && *returned <= until)
}

fn search_until<S>(
    initial: &S,
    calls: &[ObservedCall<S::Op, S::Ret>],
    until: u64,
    limits: &SearchLimits,
    deadline: &mut Deadline,
) -> SearchOutcome
where
    S: SequentialSpec + Clone + Eq + Hash,
{
    let mut entries = Entries::new(calls, until);
    let mut open =
        calls.iter().filter(|call| !call.failed && return_by(call, until).is_some()).count();
    let words = calls.len().div_ceil(64);
    let seen_max = limits.memory / (words * 8 + size_of::<(Box<[u64]>, S)>() + 16);
    let mut linearized = vec![0_u64; words];
    let mut seen: HashSet<(Box<[u64]>, S)> = HashSet::new();
    let mut state = initial.clone();
    let mut stack: Vec<(usize, S)> = Vec::new();
    let mut entry = entries.first;
    while open > 0 {
        if deadline.has_passed() {
            return SearchOutcome::LimitExceeded(ExceededLimit::Time(limits.time));
        }
        if seen.len() > seen_max {
            return SearchOutcome::LimitExceeded(ExceededLimit::Memory(limits.memory));
        }
        let next = if entry == NO_ENTRY { None } else { Some(entries.of[entry]) };
        if let Some((at, true)) = next {
            let call = &calls[at];
            let returned = return_by(call, until).is_some();
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
        // A return is reached whose call cannot be linearized before it: undo the last choice.
        let Some((last, before)) = stack.pop() else { return SearchOutcome::NoOrder };
        let at = entries.of[last].0;
        state = before;
        linearized[at / 64] &= !(1 << (at % 64));
        if return_by(&calls[at], until).is_some() {
            entries.relink(entries.return_of[at]);
            open += 1;
        }
        entries.relink(last);
        entry = entries.next[last];
    }
    SearchOutcome::Order(stack.into_iter().map(|(entry, _)| entries.of[entry].0).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use stateright::semantics::{ConsistencyTester, LinearizabilityTester};

    use super::{
        super::sequential::{Register, RegisterOp, RegisterRet},
        *,
    };

    impl stateright::semantics::SequentialSpec for Register {
        type Op = RegisterOp;
        type Ret = RegisterRet;

        fn invoke(&mut self, op: &RegisterOp) -> RegisterRet {
            SequentialSpec::invoke(self, op)
        }
    }

    type RegisterCall = ObservedCall<RegisterOp, RegisterRet>;

    fn result_of(calls: &[RegisterCall]) -> SearchResult {
        search(&Register::default(), calls, &SearchLimits::default())
    }

    /// Turns of four processes: who, and the operation to invoke or the result to return.
    fn histories() -> impl Strategy<Value = Vec<RegisterCall>> {
        let op = prop_oneof![
            3 => (0..3_u32).prop_map(RegisterOp::Put),
            1 => Just(RegisterOp::Del),
            4 => Just(RegisterOp::Get),
        ];
        let read = prop_oneof![1 => Just(None), 3 => (0..3_u32).prop_map(Some)];
        prop::collection::vec((0..4_usize, op, read), 0..22).prop_map(|turns| {
            let mut calls: Vec<RegisterCall> = Vec::new();
            let mut open = [None; 4];
            for (time, (process, op, read)) in turns.into_iter().enumerate() {
                let time = time as u64;
                if let Some(at) = open[process].take() {
                    let call: &mut RegisterCall = &mut calls[at];
                    call.returned = Some(time);
                    call.ret = Some(match call.op {
                        RegisterOp::Get => RegisterRet::Value(read),
                        _ => RegisterRet::Done,
                    });
                } else {
                    open[process] = Some(calls.len());
                    calls.push(ObservedCall {
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

    /// The verdict of stateright. It does not know retired processes, so each call has a process of
    /// its own: real time alone orders the calls.
    fn reference(calls: &[RegisterCall]) -> bool {
        let mut tester = LinearizabilityTester::new(Register::default());
        let mut events: Vec<(u64, usize, bool)> = Vec::new();
        for (at, call) in calls.iter().enumerate() {
            events.push((call.invoked, at, false));
            events.extend(call.returned.map(|returned| (returned, at, true)));
        }
        events.sort_unstable();
        for (_, at, is_return) in events {
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
            match result_of(&calls) {
                SearchResult::Valid(order) => {
                    prop_assert!(valid);
                    let mut register = Register::default();
                    for at in order {
                        let read = register.invoke(&calls[at].op);
                        prop_assert!(calls[at].ret.is_none_or(|ret| ret == read));
                    }
                }
                SearchResult::Invalid(counterexample) => {
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
                SearchResult::Unknown(limit) => prop_assert!(false, "{limit}"),
            }
        }
    }

    fn call(op: RegisterOp, ret: Option<RegisterRet>, from: u64, to: Option<u64>) -> RegisterCall {
        ObservedCall { op, ret, failed: false, invoked: from, returned: to }
    }

    #[test]
    fn the_shortest_prefix_without_an_order_is_returned() {
        use RegisterOp::{Get, Put};
        use RegisterRet::Done;
        let calls = [
            call(Put(1), Some(Done), 0, Some(1)),
            call(Put(2), Some(Done), 2, Some(3)),
            call(Get, Some(RegisterRet::Value(Some(1))), 4, Some(5)),
            call(Get, Some(RegisterRet::Value(Some(2))), 6, Some(7)),
        ];
        let expected = ShortestPrefix { breaks_at: 2, prefix: vec![0, 1] };
        assert_eq!(result_of(&calls), SearchResult::Invalid(expected));
    }

    #[test]
    fn limits_make_the_result_unknown() {
        // Sixteen concurrent puts and a get that read none of them: every order has to be tried.
        let mut calls: Vec<_> = (0..16)
            .map(|n| call(RegisterOp::Put(n), Some(RegisterRet::Done), 0, Some(1)))
            .collect();
        calls.push(call(RegisterOp::Get, Some(RegisterRet::Value(None)), 2, Some(3)));
        let limits = SearchLimits { memory: 1000, ..SearchLimits::default() };
        let verdict = search(&Register::default(), &calls, &limits);
        assert_eq!(verdict, SearchResult::Unknown(ExceededLimit::Memory(1000)));
        let limits = SearchLimits { time: Duration::ZERO, ..SearchLimits::default() };
        let verdict = search(&Register::default(), &calls, &limits);
        assert_eq!(verdict, SearchResult::Unknown(ExceededLimit::Time(Duration::ZERO)));
    }
}
