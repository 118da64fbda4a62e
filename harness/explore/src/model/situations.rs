//! Situations that an exploration must reach. Without them the properties might hold only because
//! nothing of interest ever happens: a `sometimes` beside every `always`.

use protocol::{Body, CommitMode, Request};

use super::{ClusterModel, ModelOptions, State, interner::Id};
use crate::schedule::HostView;

/// A situation that must be reached.
pub(super) struct Situation {
    pub(super) name: &'static str,
    /// Whether a model with these options can reach it.
    pub(super) possible: fn(&ModelOptions) -> bool,
    pub(super) reached: fn(&ClusterModel, &State) -> bool,
}

pub(super) const SITUATIONS: [Situation; 7] = [
    Situation {
        name: "commit",
        possible: writes,
        reached: |model, state| model.checker_of(state).saw_commit(),
    },
    Situation {
        name: "abort",
        possible: writes,
        reached: |model, state| model.checker_of(state).saw_abort(),
    },
    Situation {
        name: "write acknowledged while a replica is in doubt",
        possible: writes,
        reached: |model, state| {
            let mut in_doubt = model.views(state).skip(1).flat_map(HostView::in_doubt);
            in_doubt.any(|txn| model.checker_of(state).acknowledged(txn))
        },
    },
    Situation {
        name: "master down, every replica in doubt",
        possible: |options| writes(options) && options.master_crashes > 0,
        reached: ClusterModel::all_in_doubt,
    },
    // The blocking problem of two-phase commit: the client has its Ok, and no node that is up knows
    // the decision.
    Situation {
        name: "blocked after acknowledging a commit",
        possible: |options| {
            let blocks = options.setup.commit == CommitMode::Logged;
            blocks && writes(options) && options.master_crashes > 0
        },
        reached: |model, state| {
            let mut in_doubt = model.view(state, 1).in_doubt();
            let checker = model.checker_of(state);
            model.all_in_doubt(state) && in_doubt.any(|txn| checker.acknowledged(txn))
        },
    },
    Situation {
        name: "cooperative termination",
        possible: |options| writes(options) && options.setup.peers,
        reached: |model, state| {
            let is_answer = |id: &&Id| {
                matches!(model.interner.envelope(**id).message.body, Body::PeerAnswer { .. })
            };
            let changes_receiver = |id: &Id| {
                let to = state.hosts[model.interner.receiver(*id)];
                model.interner.deliver(to, *id, false).is_some_and(|after| after.host != to)
            };
            state.sent.iter().filter(is_answer).any(changes_receiver)
        },
    },
    Situation {
        name: "a damaged entry is healed",
        possible: |options| writes(options) && options.damages > 0,
        reached: |model, state| {
            let damaged = |host: Id| model.interner.host(host).view.damaged;
            let is_answer = |id: &&Id| {
                matches!(model.interner.envelope(**id).message.body, Body::HealAnswer { .. })
            };
            let heals = |id: &Id| {
                let to = state.hosts[model.interner.receiver(*id)];
                let after = model.interner.deliver(to, *id, false);
                after.is_some_and(|after| damaged(after.host) < damaged(to))
            };
            state.sent.iter().filter(is_answer).any(heals)
        },
    },
];

fn writes(options: &ModelOptions) -> bool {
    options.script.iter().any(|request| matches!(request, Request::Write(_)))
}

impl ClusterModel {
    /// The master is down, and every replica is up and in doubt.
    fn all_in_doubt(&self, state: &State) -> bool {
        !self.view(state, 0).up
            && self.views(state).skip(1).all(|view| view.up && view.in_doubt().next().is_some())
    }
}
