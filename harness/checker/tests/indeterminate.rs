//! Histories with many operations of an unknown outcome get the verdict that they have by construction.
//! The bench `indeterminate` measures longer ones.

use std::time::Duration;

use checker::{
    Completion, Invocation, Limits, Observations, Verdict, check_keys,
    linearizability::{LimitExceeded, decide},
};
use history::synthetic::cas::{CasOptions, CasViolation, generate};

fn observations(options: &CasOptions) -> Observations {
    let mut observations = Observations::default();
    generate(options, &mut observations).expect("well formed");
    observations
}

fn verdict(options: &CasOptions, limits: &Limits) -> Verdict {
    let observations = observations(options);
    decide(&mut observations.keys()[0].history(observations.spec()), limits, true)
}

#[test]
fn verdicts_are_those_of_the_construction() {
    for seed in 0..4 {
        for values in [3, 20] {
            let options = CasOptions { ops: 600, values, seed, ..CasOptions::default() };
            let found = verdict(&options, &Limits::default());
            assert!(matches!(found, Verdict::Valid(Some(_))), "{options:?}: {found:?}");
            for violation in CasViolation::ALL {
                let options = CasOptions { violation: Some(violation), ..options.clone() };
                let found = verdict(&options, &Limits::default());
                let Verdict::Invalid(counterexample) = found else {
                    panic!("{options:?}: {found:?}")
                };
                assert!(counterexample.operations.len() < 300, "{options:?}: {counterexample:?}");
            }
        }
    }
}

#[test]
fn limits_move_the_bound() {
    let options = CasOptions { values: 20, ..CasOptions::default() };
    let few = Limits { configurations: 2, ..Limits::default() };
    let short = Limits { time: Duration::ZERO, ..Limits::default() };
    assert_eq!(verdict(&options, &few), Verdict::Unknown(LimitExceeded::Configurations(2)));
    assert_eq!(verdict(&options, &short), Verdict::Unknown(LimitExceeded::Time(Duration::ZERO)));
    assert!(matches!(verdict(&options, &Limits::default()), Verdict::Valid(_)));
}

#[test]
fn the_same_history_gets_the_same_certificate() {
    let options = CasOptions { values: 10, ..CasOptions::default() };
    let [first, second] = [(); 2].map(|()| verdict(&options, &Limits::default()));
    assert_eq!(first, second);
}

#[test]
fn a_key_that_takes_long_does_not_hold_up_one_that_is_not_linearizable() {
    let violation = Some(CasViolation::StaleCas);
    let hard = CasOptions { clients: 20, seed: 1, violation, ..CasOptions::default() };
    let mut history = observations(&hard);
    let mut run = |process, invocation, completion| {
        history.invoke(process, "lost", invocation).expect("well formed");
        history.complete(process, completion).expect("well formed");
    };
    run(1 << 40, Invocation::Put("a"), Completion::Ok(None));
    run(1 << 41, Invocation::Get, Completion::Ok(None));
    let verdicts = check_keys(&history, &Limits::default(), false);
    let [hard, lost] = &verdicts[..] else { panic!("two keys: {verdicts:?}") };
    assert!(matches!(lost.verdict, Verdict::Invalid(_)), "{lost:?}");
    let Verdict::Unknown(limit @ LimitExceeded::Steps(_)) = hard.verdict else {
        panic!("{:?}", hard.verdict)
    };
    assert!(limit.to_string().contains("another key is not linearizable"), "{limit}");
}
