//! Checks two small histories of one key: three clients, two of which write while one reads.

use checker::{Completion, Invocation, Limits, MalformedHistory, Observations, check_keys};

/// Process 1 puts a, then process 2 puts b, and process 3 reads twice.
fn history(first: &str, second: &str) -> Result<Observations, MalformedHistory> {
    let mut history = Observations::default();
    history.invoke(1, "colour", Invocation::Put("a"))?;
    history.complete(1, Completion::Ok(None))?;
    history.invoke(2, "colour", Invocation::Put("b"))?; // its outcome stays unknown
    for value in [first, second] {
        history.invoke(3, "colour", Invocation::Get)?;
        history.complete(3, Completion::Ok(Some(value)))?;
    }
    history.complete(2, Completion::Info)?;
    Ok(history)
}

fn main() -> Result<(), MalformedHistory> {
    // The second history is not linearizable: a reappears after b was read.
    for (first, second) in [("a", "b"), ("b", "a")] {
        let history = history(first, second)?;
        for verdict in check_keys(&history, &Limits::default(), false) {
            match verdict.explain(&history) {
                Some(explanation) => println!("read {first}, {second}: {explanation}"),
                None => println!("read {first}, {second}: linearizable"),
            }
        }
    }
    Ok(())
}
