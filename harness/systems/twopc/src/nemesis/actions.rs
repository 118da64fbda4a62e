//! The actions against processes and messages, and how each is undone.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use history::{
    NemesisEvent,
    nemesis::{Died, InDoubt, Injected, InjectionKind, MessageRule, NetworkRestored, ReturnKind},
};
use lab::{
    ForbiddenStart,
    cluster::{ForbiddenStartResult, poll},
};
use serde_json::json;
use system::{protocol::TxnId, tls::Role};
use tokio::{runtime, sync::watch, task::spawn_blocking};

use super::{
    Nemesis, NemesisError, millis,
    trigger::{Miss, Triggered},
};
use crate::{
    attack::Attack,
    checks::resources::ResourcesEvent,
    faults::Injection,
    network::{InterceptRule, MessageAction, Pattern},
    run::resources::peak_memory,
};

/// How long held messages have to reach their receiver before the target is continued.
const RELEASE_DEADLINE: Duration = Duration::from_millis(300);

/// How long a hostile client has to begin its first call.
const ATTACK_DEADLINE: Duration = Duration::from_secs(1);

impl Nemesis<'_> {
    /// Kills the target and restarts it.
    pub(super) async fn kill(
        &mut self,
        injection: &Injection,
        triggered: Triggered,
        mut fields: Injected,
        paused: Duration,
        down: Duration,
    ) -> Result<Vec<TxnId>, NemesisError> {
        let node = injection.target;
        let Triggered { stopped, txn, held } = triggered;
        let mut in_doubt = Vec::new();
        if stopped {
            (fields.in_doubt, in_doubt) = self.observe_in_doubt(txn).await;
        }
        fields.paused_ms = Some(millis(paused));
        fields.down_ms = Some(millis(down));
        if !paused.is_zero() {
            self.injected(InjectionKind::Hold, &fields)?;
            self.outage(paused, injection, &mut in_doubt).await?;
        }
        self.cluster.kill(node).await;
        if !stopped {
            (fields.in_doubt, in_doubt) = self.observe_in_doubt(txn).await;
        }
        self.injected(InjectionKind::Kill, &fields)?;
        self.outage(down, injection, &mut in_doubt).await?;
        let (before, _) = self.observe_in_doubt(txn).await;
        self.cluster.start(node).await?;
        self.returned(ReturnKind::Restart, node, before)?;
        // Released now, a held message reaches the new incarnation, or comes from the old one.
        self.release(injection, held).await?;
        Ok(in_doubt)
    }

    /// Asks the target to exit, and restarts it. The node has to end what it has begun, or leave it to
    /// its next start; an exit that fails or takes too long is recorded as unexpected.
    pub(super) async fn terminate(
        &mut self,
        injection: &Injection,
        triggered: Triggered,
        mut fields: Injected,
        down: Duration,
    ) -> Result<Vec<TxnId>, NemesisError> {
        let node = injection.target;
        let (observed, mut in_doubt) = self.observe_in_doubt(triggered.txn).await;
        fields.in_doubt = observed;
        fields.down_ms = Some(millis(down));
        self.injected(InjectionKind::Terminate, &fields)?;
        if !self.cluster.terminate(node).await {
            self.record(NemesisEvent::Died(Died {
                node: node.to_string(),
                status: "it did not exit after SIGTERM".to_owned(),
                log: String::new(),
            }))?;
        }
        self.outage(down, injection, &mut in_doubt).await?;
        let (before, _) = self.observe_in_doubt(triggered.txn).await;
        self.cluster.start(node).await?;
        self.returned(ReturnKind::Restart, node, before)?;
        Ok(in_doubt)
    }

    /// Lets a client do harm to the target for a while, from a thread of its own: it must not take the
    /// time of the other clients. Returns `None` if it could not begin anything.
    pub(super) async fn attack(
        &mut self,
        injection: &Injection,
        mut fields: Injected,
        attack: Attack,
        duration: Duration,
    ) -> Result<Option<Vec<TxnId>>, NemesisError> {
        let address = self.cluster.deployment().address(injection.target).to_string();
        // It may do everything that a client and an administrator may.
        let tls = self.cluster.deployment().identity(Role::Admin);
        let (stop, stopped) = watch::channel(false);
        let pid = self.cluster.process(injection.target).map(|process| process.pid());
        let memory = pid.map(|pid| tokio::spawn(peak_memory(pid, stopped.clone())));
        let begun = Arc::new(AtomicU64::new(0));
        let attacker = thread::spawn({
            let begun = begun.clone();
            move || {
                let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
                let one = || attack.run(&address, b"k0", tls.as_deref(), &begun, stopped.clone());
                let all = (0..attack.attackers()).map(|_| one());
                runtime
                    .block_on(futures::future::join_all(all))
                    .into_iter()
                    .collect::<io::Result<()>>()
            }
        });
        fields.attack = Some(attack.name().to_owned());
        fields.duration_ms = Some(millis(duration));
        let has_begun = || begun.load(Ordering::Relaxed) > 0;
        let attacked = poll(ATTACK_DEADLINE, async || has_begun()).await.is_some();
        let mut in_doubt = Vec::new();
        if attacked {
            self.injected(InjectionKind::HostileClient, &fields)?;
            self.outage(duration, injection, &mut in_doubt).await?;
        }
        stop.send_replace(true);
        // The thread ends at once: everything that it waits for is cancelled.
        let ended = spawn_blocking(move || attacker.join()).await;
        if !attacked {
            let why = match ended {
                Ok(Ok(Err(error))) => format!("the node accepts no connection: {error}"),
                _ => "the node accepts no connection".to_owned(),
            };
            self.missed(injection, fields, None, why)?;
            return Ok(None);
        }
        if let Some(memory) = memory
            && let Ok(peak) = memory.await
        {
            let nodes = [(injection.target, peak)].into_iter().collect();
            self.record(ResourcesEvent { idle: false, attack: fields.attack, nodes }.event())?;
        }
        Ok(Some(in_doubt))
    }

    /// Leaves the target stopped for a while and continues it.
    pub(super) async fn pause(
        &mut self,
        injection: &Injection,
        triggered: Triggered,
        mut fields: Injected,
        paused: Duration,
    ) -> Result<Vec<TxnId>, NemesisError> {
        let node = injection.target;
        let Triggered { txn, held, .. } = triggered;
        let (observed, mut in_doubt) = self.observe_in_doubt(txn).await;
        fields.in_doubt = observed;
        fields.paused_ms = Some(millis(paused));
        self.injected(InjectionKind::Pause, &fields)?;
        self.outage(paused, injection, &mut in_doubt).await?;
        let (before, _) = self.observe_in_doubt(txn).await;
        self.release(injection, held).await?;
        if let Some(device) = self.cluster.device(node) {
            // The target may have been stopped by its disk.
            device.release();
        }
        self.cluster.resume(node).await;
        self.returned(ReturnKind::Resume, node, before)?;
        Ok(in_doubt)
    }

    /// Starts a second process on the store of the paused target.
    pub(super) async fn second_instance(
        &mut self,
        injection: &Injection,
        mut fields: Injected,
        overlap: Duration,
    ) -> Result<Option<Vec<TxnId>>, NemesisError> {
        let node = injection.target;
        let (observed, in_doubt) = self.observe_in_doubt(None).await;
        fields.in_doubt = observed;
        self.injected(InjectionKind::Hold, &fields)?;
        let result = self.cluster.try_forbidden_start(node, ForbiddenStart::SecondInstance).await?;
        fields.start = result.record();
        self.injected(InjectionKind::SecondInstance, &fields)?;
        let decided = !matches!(result, ForbiddenStartResult::Undecided);
        if let ForbiddenStartResult::Admitted(second_instance) = result {
            // The damage happens while both of them act.
            self.wait(overlap).await;
            self.resume(injection).await?;
            self.wait(overlap).await;
            second_instance.kill().await;
        } else {
            self.resume(injection).await?;
        }
        Ok(decided.then_some(in_doubt))
    }

    async fn resume(&self, injection: &Injection) -> Result<(), NemesisError> {
        self.cluster.resume(injection.target).await;
        self.returned(ReturnKind::Resume, injection.target, InDoubt::default())
    }

    /// Starts the target on an empty directory. If it is admitted, it keeps that directory.
    pub(super) async fn wipe(
        &mut self,
        injection: &Injection,
        mut fields: Injected,
        bootstrap: bool,
    ) -> Result<Option<Vec<TxnId>>, NemesisError> {
        let node = injection.target;
        self.cluster.kill(node).await;
        let (observed, in_doubt) = self.observe_in_doubt(None).await;
        fields.in_doubt = observed;
        fields.bootstrap = Some(bootstrap);
        let start = ForbiddenStart::EmptyDirectory { bootstrap };
        let result = self.cluster.try_forbidden_start(node, start).await?;
        fields.start = result.record();
        let decided = !matches!(result, ForbiddenStartResult::Undecided);
        self.injected(InjectionKind::Wipe, &fields)?;
        drop(result);
        self.cluster.start(node).await?;
        self.returned(ReturnKind::Restart, node, InDoubt::default())?;
        Ok(decided.then_some(in_doubt))
    }

    /// Intercepts messages for a while. Returns `None` if none was sent.
    pub(super) async fn network_fault(
        &mut self,
        injection: &Injection,
        triggered: Triggered,
        mut fields: Injected,
        rules: &[(Pattern, MessageAction)],
        duration: Duration,
    ) -> Result<Option<Vec<TxnId>>, NemesisError> {
        let Some(network) = self.network else {
            self.missed(injection, fields, None, Miss::NoRelays.to_string())?;
            return Ok(None);
        };
        let described = |(pattern, action): &(Pattern, MessageAction)| MessageRule {
            pattern: json!(pattern),
            action: action.to_string(),
        };
        fields.messages = rules.iter().map(described).collect();
        fields.duration_ms = Some(millis(duration));
        let rules: Vec<_> = rules
            .iter()
            .map(|(pattern, action)| network.intercept(pattern.clone(), action.clone()))
            .collect();
        self.injected(InjectionKind::NetworkFault, &fields)?;
        let mut in_doubt = Vec::new();
        self.outage(duration, injection, &mut in_doubt).await?;
        in_doubt.extend(self.observe_in_doubt(None).await.1);
        let mut intercepted = self.release(injection, triggered.held).await?;
        for rule in rules {
            intercepted |= self.release(injection, Some(rule)).await?;
        }
        Ok(intercepted.then_some(in_doubt))
    }

    /// Removes a rule and releases the messages that it holds. Returns whether it intercepted any.
    pub(super) async fn release(
        &self,
        injection: &Injection,
        rule: Option<InterceptRule>,
    ) -> Result<bool, NemesisError> {
        let Some(rule) = rule else { return Ok(false) };
        let intercepted = rule.remove(RELEASE_DEADLINE).await;
        let messages = intercepted.messages;
        self.record(NemesisEvent::NetworkRestored(NetworkRestored {
            fault: Some(injection.fault.to_string()),
            node: Some(injection.target.to_string()),
            intercepted: intercepted.record(),
        }))?;
        Ok(messages > 0)
    }
}
