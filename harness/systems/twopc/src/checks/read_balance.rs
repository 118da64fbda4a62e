//! Reads at random: each replica is asked first for the share of the gets that chance gives. Counts the gets
//! while all replicas were in service. From the master's journal.

use checker::{CheckResult, finding};
use serde_json::json;
use system::protocol::Node;

use super::Run;

/// The name of the check.
pub const NAME: &str = "read-balance";

/// A share is reported if chance alone gives one as far off less often than once in this many runs.
const FALSE_ALARM: f64 = 1e-10;

/// Checks a run.
#[must_use]
pub fn check(run: &Run) -> CheckResult {
    let mut check_result = CheckResult::new(NAME);
    let Some(master) = run.evidence.nodes.get(&Node::Master) else {
        run.evidence.complete(&mut check_result);
        return check_result;
    };
    let asked = |node: &Node| master.first_reads.get(node).copied().unwrap_or(0);
    let counts: Vec<_> = run.replicas().map(|node| (node, asked(&node))).collect();
    let all: u64 = counts.iter().map(|(_, count)| count).sum();
    let share = 1.0 / counts.len().max(1) as f64;
    for (node, count) in &counts {
        if tail(*count, all, share) * 2.0 * (counts.len() as f64) < FALSE_ALARM {
            check_result.violation(finding!(;
                "{node} was asked first for {count} of {all} gets while all {} replicas were in service: \
                 chance gives such a share less than once in 10^10 runs",
                counts.len()
            ));
        }
    }
    let counts = counts.iter().map(|(node, count)| (node.to_string(), json!(count)));
    check_result.measure("first_reads", counts.collect::<serde_json::Map<_, _>>());
    check_result
}

/// A bound on the probability that of `all` draws with this probability a number as far off as `count`, or
/// further on the same side, succeeds (Chernoff's, with the relative entropy).
fn tail(count: u64, all: u64, share: f64) -> f64 {
    if all == 0 || share >= 1.0 {
        return 1.0;
    }
    let seen = count as f64 / all as f64;
    let term = |seen: f64, share: f64| if seen > 0.0 { seen * (seen / share).ln() } else { 0.0 };
    let entropy = term(seen, share) + term(1.0 - seen, 1.0 - share);
    (-(all as f64) * entropy).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_covers_the_binomial_distribution() {
        // Exactly, for a few numbers: the probability of at least `count` of 60 at one third.
        let exact = |count: u64| -> f64 {
            let choose = |k: u64| (0..k).map(|i| (60 - i) as f64 / (i + 1) as f64).product::<f64>();
            let chance =
                |k: u64| (1.0_f64 / 3.0).powf(k as f64) * (2.0_f64 / 3.0).powf((60 - k) as f64);
            (count..=60).map(|k| choose(k) * chance(k)).sum()
        };
        for count in 20..=60 {
            assert!(tail(count, 60, 1.0 / 3.0) >= exact(count) * 0.999_999, "{count}");
        }
        assert!(tail(20, 60, 1.0 / 3.0) > 0.99, "the expected share is no surprise");
    }

    #[test]
    fn a_share_of_a_quarter_is_seen_in_a_run_and_luck_is_not() {
        let is_reported = |count, all| tail(count, all, 1.0 / 3.0) * 6.0 < FALSE_ALARM;
        assert!(is_reported(500, 2000), "three bits, modulo three");
        assert!(is_reported(0, 100), "one replica is never asked");
        assert!(!is_reported(0, 10));
        assert!(!is_reported(580, 2000), "five standard deviations below");
    }
}
