use super::*;

/// `each` copies of every cas between different states of `states`, none of which returns.
fn explosion(states: u32, each: u32) -> Vec<TimedStep> {
    let mut operations = Vec::new();
    let pairs = (0..states).flat_map(|from| (0..states).map(move |to| (from, to)));
    for (from, to) in pairs.filter(|(from, to)| from != to) {
        for _ in 0..each {
            let invoked = u32::try_from(operations.len()).expect("a few");
            let step = Step::Cas(from, to);
            operations.push(TimedStep { invoked, returned: OPEN, step });
        }
    }
    operations
}

#[test]
fn a_single_return_stays_within_the_limits() {
    // A read of the last state can be explained, if only it is last.
    let mut operations = explosion(9, 2);
    let next = u32::try_from(operations.len()).expect("a few");
    for (invoked, state) in [(next, 7), (next + 2, 8)] {
        let step = Step::Read(state);
        operations.push(TimedStep { invoked, returned: invoked + 1, step });
    }
    let few = Limits { configurations: 1000, time: Duration::from_secs(600) };
    let states = &mut States::default();
    assert_eq!(check(&operations, states, &few, false), FrontierResult::TooManyConfigs);
    let short = Limits { configurations: usize::MAX / 4096, time: Duration::from_millis(1) };
    assert_eq!(check(&operations, states, &short, false), FrontierResult::TimedOut);
}

#[test]
fn indeterminate_cas_form_a_chain() {
    // Puts 1, and reads 6 once five cas have led there. None of them returns.
    let put = TimedStep { invoked: 0, returned: 1, step: Step::Write(1) };
    let cas = (1..6).map(|state| TimedStep {
        invoked: state + 1,
        returned: OPEN,
        step: Step::Cas(state, state + 1),
    });
    let read = |state| TimedStep { invoked: 7, returned: 8, step: Step::Read(state) };
    for overflow in [Overflow::Keep, Overflow::Drop { width: 1, search: 1 }, Overflow::Join(1)] {
        let decided = |state| {
            let operations: Vec<TimedStep> =
                [put].into_iter().chain(cas.clone()).chain([read(state)]).collect();
            let (states, effort) = (&mut States::default(), &mut Effort::new(&Limits::default()));
            follow(&operations, states, overflow, &Weights::default(), effort, true)
        };
        let order = (0..7).collect();
        assert_eq!(decided(6), FrontierResult::Valid(order), "{overflow:?}");
        let result = decided(7);
        assert!(!matches!(result, FrontierResult::Valid(_)), "{overflow:?}: {result:?}");
    }
}

#[test]
fn what_is_joined_can_do_what_each_can() {
    // 3 is reached by a put or by a cas of 1. The first time it must be the cas, since the second time
    // the state is 2.
    for [first, second] in [[Step::Write(3), Step::Cas(1, 3)], [Step::Cas(1, 3), Step::Write(3)]] {
        let open = |invoked, step| TimedStep { invoked, returned: OPEN, step };
        let done = |invoked, step| TimedStep { invoked, returned: invoked + 1, step };
        let operations = [
            done(0, Step::Write(1)),
            open(2, first),
            open(3, second),
            open(4, Step::Cas(3, 4)),
            open(5, Step::Cas(3, 4)),
            done(6, Step::Read(4)),
            done(8, Step::Write(2)),
            done(10, Step::Read(4)),
        ];
        for overflow in [Overflow::Keep, Overflow::Join(1), Overflow::Join(2)] {
            let (states, effort) = (&mut States::default(), &mut Effort::new(&Limits::default()));
            let result = follow(&operations, states, overflow, &Weights::default(), effort, true);
            assert!(!matches!(result, FrontierResult::Invalid { .. }), "{overflow:?}: {result:?}");
        }
    }
}
