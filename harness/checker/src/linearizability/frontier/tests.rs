use super::*;

/// `each` copies of every cas between different states of `states`, none of which returns, followed by
/// a read of a state that nothing writes.
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
    let invoked = u32::try_from(operations.len()).expect("a few");
    operations.push(TimedStep { invoked, returned: invoked + 1, step: Step::Read(states) });
    operations
}

#[test]
fn a_single_return_stays_within_the_limits() {
    let operations = explosion(6, 20);
    let few = Limits { configurations: 1000, time: Duration::from_secs(600) };
    let states = &mut States::default();
    assert_eq!(check(&operations, states, &few, false), FrontierResult::TooManyConfigs(1000));
    let short = Limits { configurations: usize::MAX / 4096, time: Duration::from_millis(1) };
    assert_eq!(check(&operations, states, &short, false), FrontierResult::TimedOut(short.time));
    // A small history is decided.
    let result = check(&explosion(2, 5), states, &Limits::default(), false);
    assert_eq!(result, FrontierResult::Invalid { breaks_at: 10, states: vec![0] });
}
