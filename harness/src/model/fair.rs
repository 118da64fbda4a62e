//! Whether a cluster settles once everything is repaired: AC4 and AC5, judged from every quiet
//! state by running the rest of its life under a schedule that is fair. (Stateright's `eventually`
//! is not sound where paths join or go round.)

use ahash::RandomState;
use dashmap::DashMap;

use super::{
    State, TwoPhase,
    world::{Id, Local},
};
use crate::schedule::{FAIR_ROUNDS, at_rest};

/// What was found of the clusters that were tried, by their hosts.
pub(super) type Verdicts = DashMap<Box<[Id]>, bool, RandomState>;

impl TwoPhase {
    /// Whether a quiet cluster settles. One where something is still under way is not judged:
    /// each of its lives comes to a quiet state. Nor is one that lost a store, which waits for a
    /// person.
    pub(super) fn settles(&self, state: &State) -> bool {
        if !self.quiet(state) {
            return true;
        }
        if let Some(verdict) = self.fair.get(&state.hosts) {
            return *verdict;
        }
        let verdict = self.live_on(state.hosts.clone());
        self.fair.insert(state.hosts.clone(), verdict);
        verdict
    }

    /// Whether no message can change anything and everything is durable: only timers, crashes,
    /// restarts and clients can move the cluster on.
    fn quiet(&self, state: &State) -> bool {
        self.judge(state).content()
            && self.views(state).all(|view| view.intact && !view.unforced)
            && state.hosts.iter().all(|id| !self.world.host(*id).host.stopped())
            && state.sent.iter().all(|message| {
                let to = self.world.to(*message);
                let done = self.world.deliver(state.hosts[to], *message, false);
                done.is_none_or(|done| done.host == state.hosts[to])
            })
    }

    /// Repairs everything and lets time pass. No message of the past arrives any more, so what was
    /// lost must be said again.
    fn live_on(&self, mut hosts: Box<[Id]>) -> bool {
        let world = &self.world;
        for _ in 0..FAIR_ROUNDS {
            let mut sent = Vec::new();
            for host in &mut hosts {
                let mut due: Vec<_> = world.host(*host).host.timers(false).collect();
                if let Some(done) = self.item(*host, |local| *local == Local::Restart) {
                    (*host, due) = (done.0, Vec::new());
                    sent.extend(done.1);
                }
                for id in due {
                    let timer = Local::Timer { id, second_instance: false };
                    if let Some((after, said)) = self.item(*host, |local| *local == timer) {
                        *host = after;
                        sent.extend(said);
                    }
                }
            }
            loop {
                for host in &mut hosts {
                    let all = world.host(*host).host.forceable(false);
                    let force = Local::Force { upto: all, second_instance: false };
                    if let Some((after, said)) = self.item(*host, |local| *local == force) {
                        *host = after;
                        sent.extend(said);
                    }
                }
                let Some(message) = sent.pop() else { break };
                let to = world.to(message);
                if let Some(done) = world.deliver(hosts[to], message, false) {
                    hosts[to] = done.host;
                    sent.extend(&done.sent);
                }
            }
            if hosts.iter().all(|id| at_rest(&world.host(*id).host)) {
                return true;
            }
        }
        false
    }

    /// What an item of a host's menu makes of it, if it is there.
    fn item(&self, host: Id, is: impl Fn(&Local) -> bool) -> Option<(Id, Vec<Id>)> {
        let (_, done) = self.world.menu(host).iter().find(|(local, _)| is(local))?;
        Some((done.host, done.sent.to_vec()))
    }
}
