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
