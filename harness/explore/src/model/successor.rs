//! The successor of a state: the transition of one host, then everything that is implied by it and
//! need not be a step of its own.

use protocol::TimerId;

use super::{
    Action, ClusterModel, State,
    interner::{Id, LocalStep, Transition},
    state::Budget,
};
use crate::schedule::{Observation, Step, is_refusal};

impl ClusterModel {
    /// The state after an action, and with `explain` the implied steps. `None` if the action is not
    /// possible, or changes nothing.
    pub(super) fn successor(
        &self,
        state: &State,
        action: Action,
        explain: bool,
    ) -> Option<(State, Vec<Step>)> {
        match action {
            Action::Deliver { message, second_instance } => {
                let to = self.interner.receiver(message);
                let transition =
                    self.interner.deliver(state.hosts[to], message, second_instance)?;
                if transition.host == state.hosts[to] {
                    return None;
                }
                Some(self.complete(state, to, &transition, state.budget, explain))
            }
            Action::Local { node, host, item } => {
                let (local, transition) = &self.interner.local_steps(host)[usize::from(item)];
                if transition.host == host {
                    return None;
                }
                let budget = self.allowed(&self.interner.host(host).host, local, state.budget)?;
                Some(self.complete(state, usize::from(node), transition, budget, explain))
            }
            Action::Call { choice } => {
                let call = state.budget.next_call;
                let request = self.request(call, choice)?;
                let master = state.hosts[0];
                let transition =
                    self.interner.call(master, call.into(), choice.into(), &request)?;
                let budget = Budget { next_call: call + 1, ..state.budget };
                let after = self.complete(state, 0, &transition, budget, explain);
                // A call that is refused at once leaves no trace: a shorter script covers the rest.
                let refused = transition.observations.iter().any(|observation| {
                    matches!(observation, Observation::Replied(_, reply) if is_refusal(reply))
                });
                (!refused || !self.checker_of(&after.0).all_hold()).then_some(after)
            }
        }
    }

    /// Applies the transition of one host, and what is implied by it.
    fn complete(
        &self,
        state: &State,
        node: usize,
        transition: &Transition,
        budget: Budget,
        explain: bool,
    ) -> (State, Vec<Step>) {
        let mut successor = Successor {
            model: self,
            hosts: state.hosts.clone(),
            sent: state.sent.to_vec(),
            checker: state.checker,
            explain,
            implied: Vec::new(),
        };
        successor.hosts[node] = transition.host;
        successor.observe(transition);
        successor.saturate(node, &transition.sent);
        successor.reduce(budget);
        let Successor { hosts, sent, checker, implied, .. } = successor;
        (State::new(self.interner.clone(), hosts, sent.into(), checker, budget), implied)
    }
}

/// A state under construction.
struct Successor<'a> {
    model: &'a ClusterModel,
    hosts: Box<[Id]>,
    sent: Vec<Id>,
    checker: Id,
    /// Whether to collect the implied steps.
    explain: bool,
    implied: Vec<Step>,
}

impl Successor<'_> {
    /// Sends everything that can be sent without changing a host: replies to inquiries, and what a
    /// timer retransmits. A message that was sent need not be delivered, so sending it at once removes
    /// no schedule; and every state reached this way is reached by steps that send it.
    fn saturate(&mut self, changed: usize, sent: &[Id]) {
        let interner = &self.model.interner;
        let mut fresh: Vec<Id> = Vec::new();
        self.add_sent(sent, &mut fresh);
        let mut old: Vec<Id> =
            self.sent.iter().copied().filter(|id| interner.receiver(*id) == changed).collect();
        for (local, transition) in interner.local_steps(self.hosts[changed]) {
            let heartbeat = matches!(local, LocalStep::Timer { id: TimerId::Heartbeat, .. });
            if transition.host == self.hosts[changed] && !heartbeat {
                if self.explain {
                    let node = interner.host(transition.host).host.node();
                    self.implied.push(local.clone().at(node));
                }
                self.observe(transition);
                self.add_sent(&transition.sent, &mut fresh);
            }
        }
        while let Some(message) = old.pop().or_else(|| fresh.pop()) {
            let to = interner.receiver(message);
            let has_second = to == 0 && interner.host(self.hosts[0]).host.has_second_instance();
            for second_instance in [false, true].into_iter().take(1 + usize::from(has_second)) {
                if let Some(transition) = interner.deliver(self.hosts[to], message, second_instance)
                    && transition.host == self.hosts[to]
                {
                    if self.explain {
                        self.implied.push(self.model.delivery(message, second_instance));
                    }
                    self.observe(&transition);
                    self.add_sent(&transition.sent, &mut fresh);
                }
            }
        }
    }

    /// Adds messages to those that were sent; the new ones also to `fresh`.
    fn add_sent(&mut self, messages: &[Id], fresh: &mut Vec<Id>) {
        for id in messages {
            if let Err(index) = self.sent.binary_search(id) {
                self.sent.insert(index, *id);
                fresh.push(*id);
            }
        }
    }

    fn observe(&mut self, transition: &Transition) {
        if transition.observations.is_empty() {
            return;
        }
        let interner = &self.model.interner;
        let mut checker = interner.checker(self.checker).clone();
        let replica = |slot: u8| &interner.host(self.hosts[usize::from(slot)]).view;
        let node = interner.host(transition.host).host.node();
        let replicas = self.model.options.setup.replicas;
        checker.observe(node, &transition.observations, &replica, replicas);
        self.checker = interner.intern_checker(checker);
    }

    /// Removes differences that have no consequences: records that may as well be durable, and
    /// messages that can change nothing any more.
    fn reduce(&mut self, budget: Budget) {
        let interner = &self.model.interner;
        for (node, id) in self.hosts.iter_mut().enumerate() {
            let crashes = if node == 0 { budget.master_crashes } else { budget.replica_crashes };
            let can_crash = crashes > 0 || budget.wipes > 0;
            let forced = if can_crash { *id } else { interner.lazily_forced(*id) };
            if forced != *id && self.explain {
                let host = &interner.host(*id).host;
                let (node, upto) = (host.node(), host.forceable(false));
                self.implied.push(Step::Force { node, upto, second_instance: false });
            }
            *id = forced;
        }
        if budget.wipes > 0 || self.model.options.second_instances > 0 {
            return;
        }
        let hosts = &self.hosts;
        self.sent.retain(|id| !interner.is_fenced_off(*id, hosts[interner.receiver(*id)]));
        if self.model.removes_inert_messages() {
            let can_crash = [budget.master_crashes > 0, budget.replica_crashes > 0];
            let sent = self.sent.clone();
            self.sent.retain(|id| !interner.is_inert(*id, hosts, &sent, can_crash));
        }
    }
}
