//! The fault of the nodes' wall clocks.

use std::{ops::Range, time::Duration};

use history::{
    NemesisEvent,
    nemesis::{ClockRestored, ClockShift, Injected, InjectionKind, ShiftedProcess},
};
use rand::RngExt as _;
use tokio::time::Instant;

use super::{Draw, Nemesis, NemesisError, Victims, injected, milliseconds};
use crate::{
    clock::ClockChange,
    fault::{Fault, FaultAction, Moment},
    node::NodeName,
};

/// How long a clock is wrong: between these.
const WRONG: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));

/// The same in the first round, at most.
const QUICK_WRONG: Duration = Duration::from_millis(1500);

/// How far a clock jumps, in milliseconds: as often by milliseconds as by hours.
const JUMP_MS: Range<f64> = 1.0..4.0 * 3_600_000.0;

/// How much too fast or too slow a clock runs, in millionths: a bad oscillator, or a virtual machine that goes on.
const DRIFT_PPM: Range<f64> = 1_000.0..900_000.0;

/// Of how many clocks that are wrong one drifts instead of jumping.
const DRIFT_SHARE: f64 = 0.3;

impl Nemesis<'_> {
    /// Makes the clocks of the nodes wrong for a while, each in its own way.
    pub(super) async fn wrong_clocks(
        &mut self,
        fault: &Fault,
        victims: &Victims,
        is_quick: bool,
        second: Option<&Draw>,
    ) -> Result<(), NemesisError> {
        let time = self.between(WRONG);
        let time = if is_quick { time.min(QUICK_WRONG) } else { time };
        // All are drawn, so that the seed gives the same ones whoever is hit.
        let drawn: Vec<(NodeName, ClockShift)> =
            self.cluster.nodes().iter().map(|node| (node.clone(), self.drawn_shift())).collect();
        let hit: Vec<&(NodeName, ClockShift)> =
            drawn.iter().filter(|(node, _)| victims.nodes.contains(node)).collect();
        for (node, shift) in &hit {
            // Recorded before it happens: then the recorded fault contains the real one.
            let fields = Injected {
                clock: Some(*shift),
                duration_ms: Some(milliseconds(time)),
                ..injected(fault, Some(node), victims)
            };
            self.inject_now(InjectionKind::Clock, fields)?;
        }
        let mut done = Vec::new();
        for (node, shift) in hit {
            let changed = self.cluster.change_clock(node, Some(*shift)).await;
            let changed = changed.unwrap_or_else(|why| refused(node, why));
            done.push((node, changed, Instant::now()));
        }
        self.load_ends_within(time).await;
        let second = self.second(fault, Moment::During, second, &victims.nodes).await?;
        for (node, change, since) in done {
            self.right_clock(fault, victims, node, change, since).await?;
        }
        let (action, stopped) = second.unwrap_or((FaultAction::Pause, Vec::new()));
        self.undo(action, &stopped).await
    }

    /// Makes the clock of a node right again, and records what was done to which processes.
    async fn right_clock(
        &self,
        fault: &Fault,
        victims: &Victims,
        node: &NodeName,
        change: ClockChange,
        since: Instant,
    ) -> Result<(), NemesisError> {
        let held = milliseconds(since.elapsed());
        let ClockChange { changed, refused } = change;
        if changed.is_empty() {
            let whys = refused.iter().map(|(process, why)| format!("{}: {why}", process.name));
            let why = whys.reduce(|all, why| format!("{all}; {why}"));
            let why = why.unwrap_or_else(|| "no process of it was running".to_owned());
            self.missed(fault, victims, Some(node), why)?;
        } else if self.cluster.has_exited(node) {
            // Nothing is left whose clock is wrong.
        } else {
            let right = self.cluster.change_clock(node, None).await;
            let stuck = match right {
                Ok(ClockChange { refused, .. }) => refused.into_iter().next().map(|(_, why)| why),
                Err(why) => Some(why),
            };
            if let Some(why) = stuck.filter(|_| !self.cluster.has_exited(node)) {
                // Its next process has the true clock.
                let fields = Injected {
                    at: Some(format!("its clock cannot be made right: {why}")),
                    ..injected(fault, Some(node), victims)
                };
                self.inject_now(InjectionKind::Kill, fields)?;
                self.cluster.kill(node).await;
                self.start_again(node).await?;
            }
        }
        Ok(self.events.record(NemesisEvent::ClockRestored(ClockRestored {
            fault: Some(fault.name().to_owned()),
            node: Some(node.to_string()),
            held_ms: Some(held),
            processes: changed,
            refused: refused.into_iter().map(|(process, why)| (process.name, why)).collect(),
        }))?)
    }

    fn drawn_shift(&mut self) -> ClockShift {
        let drifts = self.rng.random_bool(DRIFT_SHARE);
        let sign = if self.rng.random_bool(0.5) { 1 } else { -1 };
        let jump_ms = sign * self.log_uniform(JUMP_MS);
        let drift_ppm = sign * self.log_uniform(DRIFT_PPM);
        match drifts {
            true => ClockShift { jump_ms: 0, drift_ppm },
            false => ClockShift { jump_ms, drift_ppm: 0 },
        }
    }

    /// A number of a random order of magnitude.
    fn log_uniform(&mut self, Range { start, end }: Range<f64>) -> i64 {
        self.rng.random_range(start.ln()..end.ln()).exp().round() as i64
    }
}

/// What came of it if nothing could be changed.
fn refused(node: &NodeName, why: String) -> ClockChange {
    let process = ShiftedProcess { pid: 0, name: node.to_string() };
    ClockChange { changed: Vec::new(), refused: vec![(process, why)] }
}
