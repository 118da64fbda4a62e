//! The actions against processes and messages, and how each is undone.

use std::time::Duration;

use lab::{ForbiddenStart, cluster::ForbiddenStartResult};
use serde_json::{Value as Json, json};
use system::protocol::TxnId;

use super::{
    Nemesis, NemesisError, millis,
    trigger::{NO_RELAYS, Triggered},
};
use crate::{
    faults::Injection,
    network::{InterceptRule, MessageAction, Pattern},
};

/// How long held messages have to reach their receiver before the target is continued.
const RELEASE_DEADLINE: Duration = Duration::from_millis(300);

impl Nemesis<'_> {
    /// Kills the target and restarts it.
    pub(super) async fn kill(
        &mut self,
        injection: &Injection,
        triggered: Triggered,
        mut fields: Json,
        paused: Duration,
        down: Duration,
    ) -> Result<Vec<TxnId>, NemesisError> {
        let node = injection.target;
        let Triggered { stopped, txn, held } = triggered;
        let mut in_doubt = Vec::new();
        if stopped {
            in_doubt = self.observe_in_doubt(txn, &mut fields).await;
        }
        fields["paused_ms"] = millis(paused);
        fields["down_ms"] = millis(down);
        if !paused.is_zero() {
            self.record("hold", &fields)?;
            self.outage(paused, injection, &mut in_doubt).await?;
        }
        self.cluster.kill(node).await;
        if !stopped {
            in_doubt = self.observe_in_doubt(txn, &mut fields).await;
        }
        self.record("kill", &fields)?;
        self.outage(down, injection, &mut in_doubt).await?;
        let mut restarted = json!({ "node": node });
        self.observe_in_doubt(txn, &mut restarted).await;
        self.cluster.start(node).await?;
        self.record("restart", &restarted)?;
        // Released now, a held message reaches the new incarnation, or comes from the old one.
        self.release(injection, held).await?;
        Ok(in_doubt)
    }

    /// Leaves the target stopped for a while and continues it.
    pub(super) async fn pause(
        &mut self,
        injection: &Injection,
        triggered: Triggered,
        mut fields: Json,
        paused: Duration,
    ) -> Result<Vec<TxnId>, NemesisError> {
        let node = injection.target;
        let Triggered { txn, held, .. } = triggered;
        let mut in_doubt = self.observe_in_doubt(txn, &mut fields).await;
        fields["paused_ms"] = millis(paused);
        self.record("pause", &fields)?;
        self.outage(paused, injection, &mut in_doubt).await?;
        let mut resumed = json!({ "node": node });
        self.observe_in_doubt(txn, &mut resumed).await;
        self.release(injection, held).await?;
        if let Some(device) = self.cluster.device(node) {
            // The target may have been stopped by its disk.
            device.release();
        }
        self.cluster.resume(node).await;
        self.record("resume", &resumed)?;
        Ok(in_doubt)
    }

    /// Starts a second process on the store of the paused target.
    pub(super) async fn second_instance(
        &mut self,
        injection: &Injection,
        mut fields: Json,
        overlap: Duration,
    ) -> Result<Option<Vec<TxnId>>, NemesisError> {
        let node = injection.target;
        let in_doubt = self.observe_in_doubt(None, &mut fields).await;
        self.record("hold", &fields)?;
        let result = self.cluster.try_forbidden_start(node, ForbiddenStart::SecondInstance).await?;
        result.describe(&mut fields);
        self.record(injection.fault.name(), &fields)?;
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
        self.record("resume", &json!({ "node": injection.target }))
    }

    /// Starts the target on an empty directory. If it is admitted, it keeps that directory.
    pub(super) async fn wipe(
        &mut self,
        injection: &Injection,
        mut fields: Json,
        bootstrap: bool,
    ) -> Result<Option<Vec<TxnId>>, NemesisError> {
        let node = injection.target;
        self.cluster.kill(node).await;
        let in_doubt = self.observe_in_doubt(None, &mut fields).await;
        fields["bootstrap"] = json!(bootstrap);
        let start = ForbiddenStart::EmptyDirectory { bootstrap };
        let result = self.cluster.try_forbidden_start(node, start).await?;
        result.describe(&mut fields);
        let decided = !matches!(result, ForbiddenStartResult::Undecided);
        self.record(injection.fault.name(), &fields)?;
        drop(result);
        self.cluster.start(node).await?;
        self.record("restart", &json!({ "node": node }))?;
        Ok(decided.then_some(in_doubt))
    }

    /// Intercepts messages for a while. Returns `None` if none was sent.
    pub(super) async fn network_fault(
        &mut self,
        injection: &Injection,
        triggered: Triggered,
        mut fields: Json,
        rules: &[(Pattern, MessageAction)],
        duration: Duration,
    ) -> Result<Option<Vec<TxnId>>, NemesisError> {
        let Some(network) = self.network else {
            fields["why"] = json!(NO_RELAYS);
            self.record("miss", &fields)?;
            return Ok(None);
        };
        let described = |(pattern, action): &(Pattern, MessageAction)| json!({ "pattern": pattern, "action": action.to_string() });
        fields["messages"] = rules.iter().map(described).collect();
        fields["duration_ms"] = millis(duration);
        let rules: Vec<_> = rules
            .iter()
            .map(|(pattern, action)| network.intercept(pattern.clone(), action.clone()))
            .collect();
        self.record("network-fault", &fields)?;
        let mut in_doubt = Vec::new();
        self.outage(duration, injection, &mut in_doubt).await?;
        in_doubt.extend(self.observe_in_doubt(None, &mut json!({})).await);
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
        self.record(
            "network-restored",
            &json!({
                "fault": injection.fault.name(),
                "node": injection.target,
                "intercepted": intercepted,
            }),
        )?;
        Ok(intercepted.messages > 0)
    }
}
