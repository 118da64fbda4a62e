//! A simulated run in the form of a recorded real run: history, journals, final state.

use std::{collections::BTreeMap, io};

use crate::checks::{
    FinalReplicaState, FinalState, Run, RunParameters, error_of,
    evidence::{self, Evidence},
};
use crate::snapshots::SnapshotValue;
use explore::{
    schedule::ScheduleHost,
    simulator::{
        CompletionKind, FaultEvent, MachineInput, MachineStep, RunEvent, RunEventKind,
        SimulatedRun, SimulationPlan,
    },
};
use history::{
    Action, ClientEvent, Event, Function, Kind, NemesisEvent, Version,
    nemesis::{Healed, Injected, InjectionKind, ReturnKind, Returned},
};
use system::{
    journal::Entry,
    protocol::{Node, Reply, Request, Snapshot, Write},
};

/// The run as the checks of recorded runs take it.
pub(super) fn recorded_run(
    plan: &SimulationPlan,
    run: SimulatedRun,
    events: Vec<Event>,
    operations: Vec<history::Operation>,
) -> Run {
    let replicas = plan.setup.replicas;
    let final_state = final_state(&run);
    let nodes = run.machine_steps.iter().map(|(node, steps)| {
        let entries = (1..).zip(journal(steps)).map(io::Result::Ok);
        let evidence = evidence::collect(*node, entries, replicas, 0);
        (*node, evidence.expect("entries in memory can be read"))
    });
    Run {
        parameters: parameters(plan),
        events,
        torn: false,
        operations,
        evidence: Evidence::of(nodes.collect::<BTreeMap<_, _>>(), replicas),
        final_state: Some(final_state),
    }
}

/// What the checks need to know of the run.
pub(super) fn parameters(plan: &SimulationPlan) -> RunParameters {
    RunParameters {
        faults: Vec::new(),
        replicas: plan.setup.replicas,
        clock_origin: 0,
        convergence_deadline_ms: 30_000,
    }
}

/// The state of the nodes at the end.
pub(super) fn final_state(run: &SimulatedRun) -> FinalState {
    let replicas = run.hosts.iter().skip(1).map(|host| (host.node(), final_replica(host)));
    FinalState {
        time: run.ended,
        replicas: replicas.collect(),
        master_unsettled: run.hosts[0].machine().map(|machine| machine.status().unsettled),
        invariant_violations: None,
    }
}

fn final_replica(host: &ScheduleHost) -> FinalReplicaState {
    let entries = host.store().entries();
    FinalReplicaState {
        entries: entries
            .map(|(key, (version, value))| (key.clone(), *version, value.clone()))
            .collect(),
        in_doubt: host.machine().map(|machine| machine.status().unsettled).unwrap_or_default(),
    }
}

/// The entries of a node's journal.
pub(super) fn journal(steps: &[MachineStep]) -> impl Iterator<Item = Entry> {
    steps.iter().flat_map(|MachineStep { time, input, effects }| {
        let t = *time;
        let input = input.as_ref().map(|input| match input.clone() {
            MachineInput::Start { config, records } => {
                Entry::Start { t, config, records, read_results: true }
            }
            MachineInput::Event(event) => Entry::Event { t, event },
        });
        input.into_iter().chain(effects.iter().cloned().map(Entry::Effect))
    })
}

/// The events of the history.
pub(super) fn history(run: &SimulatedRun) -> Vec<Event> {
    let event = |(index, event): (u64, &RunEvent)| {
        let action = match &event.kind {
            RunEventKind::Invoke { process, request } => {
                Action::Client(client_event(*process, request, Kind::Invoke, None, None))
            }
            RunEventKind::Complete { process, request, reply } => {
                Action::Client(completion(*process, request, reply.as_ref()))
            }
            RunEventKind::Fault { fault, node } => Action::Nemesis(nemesis_event(*fault, *node)),
        };
        Event { index, time: event.time, action }
    };
    (0..).zip(&run.history).map(event).collect()
}

fn nemesis_event(fault: FaultEvent, node: Option<Node>) -> NemesisEvent {
    let node = node.map(|node| node.to_string());
    let injected = |kind, node| {
        NemesisEvent::Injected(kind, Box::new(Injected { node, ..Injected::default() }))
    };
    let returned =
        |kind, node| NemesisEvent::Returned(kind, Returned { node, ..Returned::default() });
    match fault {
        FaultEvent::Kill => injected(InjectionKind::Kill, node),
        FaultEvent::PowerLoss => injected(InjectionKind::PowerLoss, node),
        FaultEvent::Wipe => injected(InjectionKind::Wipe, node),
        FaultEvent::SecondInstance => injected(InjectionKind::SecondInstance, node),
        FaultEvent::Damage => injected(InjectionKind::BitFlip, node),
        FaultEvent::Pause => injected(InjectionKind::Pause, node),
        FaultEvent::Resume => returned(ReturnKind::Resume, node),
        FaultEvent::Restart => returned(ReturnKind::Restart, node),
        FaultEvent::Heal => NemesisEvent::Healed(Healed::default()),
    }
}

fn completion(process: u64, request: &Request, reply: Option<&Reply>) -> ClientEvent {
    let kind = match CompletionKind::of(request, reply) {
        CompletionKind::Ok => Kind::Ok,
        CompletionKind::Fail => Kind::Fail,
        CompletionKind::Info => Kind::Info,
    };
    let error = match reply {
        Some(Reply::Snapshot { snapshot: Snapshot::TooLarge, .. }) => Some("too-large".to_owned()),
        Some(Reply::Committed { .. } | Reply::Value(_) | Reply::Snapshot { .. }) => None,
        Some(Reply::Aborted(reason)) => Some(error_of(reason)),
        Some(Reply::Unavailable) => Some("unavailable: nobody answered".to_owned()),
        None => Some("timeout: no answer".to_owned()),
    };
    client_event(process, request, kind, reply, error)
}

fn client_event(
    process: u64,
    request: &Request,
    kind: Kind,
    reply: Option<&Reply>,
    error: Option<String>,
) -> ClientEvent {
    let (f, key, written) = match request {
        Request::Snapshot { query, .. } => {
            let mut value = SnapshotValue::asking(query);
            if let Some(Reply::Snapshot { snapshot, watermark }) = reply {
                value = value.answered(snapshot, *watermark);
            }
            let (f, key, value) = (Function::Snapshot, value.key(), Some(value.text()));
            return ClientEvent { process, kind, f, key, value, version: None, error, node: None };
        }
        Request::Get { key, .. } => (Function::Get, key, None),
        Request::Write(Write { key, value: None }) => (Function::Del, key, None),
        Request::Write(Write { key, value: Some(value) }) => {
            (Function::Put, key, Some(value.to_string()))
        }
    };
    let (value, version) = match reply {
        Some(Reply::Committed { version }) => (written, Some(Version::new(version))),
        Some(Reply::Value(Some((version, value)))) => {
            (Some(value.to_string()), Some(Version::new(version)))
        }
        _ => (written, None),
    };
    ClientEvent { process, kind, f, key: key.to_string(), value, version, error, node: None }
}
