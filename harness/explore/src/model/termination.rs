//! Termination, AC4 and AC5: whether a cluster settles every transaction once all failures are
//! repaired. Checked from every quiescent state by running it on under one fair schedule.
//! (Stateright's `eventually` is not sound where paths join or form cycles.)

use ahash::RandomState;
use dashmap::DashMap;

use super::{
    ClusterModel, State,
    interner::{Id, LocalStep},
};
use crate::schedule::{FAIR_ROUNDS, is_quiescent};

/// Whether the clusters tried so far terminate, by their hosts.
pub(super) type TerminationCache = DashMap<Box<[Id]>, bool, RandomState>;

impl ClusterModel {
    /// Whether a quiescent state terminates. Other states are not checked: every execution from them
    /// comes to a quiescent state. Neither are clusters that lost a store and wait for the operator.
    pub(super) fn terminates(&self, state: &State) -> bool {
        if !self.is_quiescent(state) {
            return true;
        }
        if let Some(known) = self.termination.get(&state.hosts) {
            return *known;
        }
        let terminates = self.run_fairly(state.hosts.clone());
        self.termination.insert(state.hosts.clone(), terminates);
        terminates
    }

    /// Whether no message changes anything and every record is durable: only timers, crashes,
    /// restarts and clients can cause further steps.
    fn is_quiescent(&self, state: &State) -> bool {
        self.checker_of(state).all_hold()
            && self.views(state).all(|view| view.intact && !view.unforced)
            && state.hosts.iter().all(|id| !self.interner.host(*id).host.stopped())
            && state.sent.iter().all(|message| {
                let to = self.interner.receiver(*message);
                let transition = self.interner.deliver(state.hosts[to], *message, false);
                transition.is_none_or(|after| after.host == state.hosts[to])
            })
    }

    /// Restarts every node and expires every timer, in rounds. Messages that were sent before are
    /// lost, so whatever is needed must be sent again.
    fn run_fairly(&self, mut hosts: Box<[Id]>) -> bool {
        let interner = &self.interner;
        for _ in 0..FAIR_ROUNDS {
            let mut sent = Vec::new();
            for host in &mut hosts {
                let mut timers: Vec<_> = interner.host(*host).host.timers(false).collect();
                if self.take(host, &LocalStep::Restart, &mut sent) {
                    timers = Vec::new();
                }
                for id in timers {
                    self.take(host, &LocalStep::Timer { id, second_instance: false }, &mut sent);
                }
            }
            loop {
                for host in &mut hosts {
                    let all = interner.host(*host).host.forceable(false);
                    let force = LocalStep::Force { upto: all, second_instance: false };
                    self.take(host, &force, &mut sent);
                }
                let Some(message) = sent.pop() else { break };
                let to = interner.receiver(message);
                if let Some(transition) = interner.deliver(hosts[to], message, false) {
                    hosts[to] = transition.host;
                    sent.extend(&transition.sent);
                }
            }
            if hosts.iter().all(|id| is_quiescent(&interner.host(*id).host)) {
                return true;
            }
        }
        false
    }

    /// Takes a local step of a host, if it is possible.
    fn take(&self, host: &mut Id, step: &LocalStep, sent: &mut Vec<Id>) -> bool {
        let mut steps = self.interner.local_steps(*host).iter();
        let Some((_, transition)) = steps.find(|(local, _)| local == step) else { return false };
        *host = transition.host;
        sent.extend(&transition.sent);
        true
    }
}
