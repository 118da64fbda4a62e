//! Waits for the moment at which an injection acts.

use std::time::Duration;

use serde_json::{Value as Json, json};
use system::protocol::TxnId;

use super::{Nemesis, NemesisError};
use crate::{
    faults::{FaultAction, Injection, Trigger},
    network::{InterceptRule, MessageAction, Pattern},
};

/// How long to wait for a node to reach an armed point.
pub(super) const REACH_DEADLINE: Duration = Duration::from_secs(4);

/// How long to wait for a message that matches the trigger.
const MESSAGE_DEADLINE: Duration = Duration::from_millis(1_500);

/// After a message was intercepted, how long messages that were sent with it have to arrive before
/// the action.
const ARRIVAL_TIME: Duration = Duration::from_millis(20);

/// Why an injection missed: the point was not reached.
pub(super) const NOT_REACHED: &str = "the point was not reached in time";

/// Why an injection missed: the run ended first.
pub(super) const LOAD_ENDED: &str = "the load ended before the point was reached";

/// Why an injection is impossible: there are no relays.
pub(super) const NO_RELAYS: &str = "there are no relays between the nodes";

/// The state in which the trigger left the cluster.
#[derive(Default)]
pub(super) struct Triggered {
    /// Whether the target is stopped, or its disk is held.
    pub(super) stopped: bool,
    /// The transaction that the trigger concerns.
    pub(super) txn: Option<TxnId>,
    /// The rule that holds a message.
    pub(super) held: Option<InterceptRule>,
}

impl Nemesis<'_> {
    /// Waits for the trigger of an injection and adds what is known of it to the fields. The inner
    /// error says why it did not occur.
    pub(super) async fn wait_for_trigger(
        &mut self,
        injection: &mut Injection,
        fields: &mut Json,
    ) -> Result<Result<Triggered, String>, NemesisError> {
        let mut triggered = Triggered::default();
        match &injection.trigger.clone() {
            Trigger::Now => {}
            Trigger::Point { point, precondition } => {
                fields["at"] = json!(point);
                let target = injection.target;
                let reached = match point.parse() {
                    Ok(point) => {
                        let held = self.reach_disk_point(target, point, *precondition).await?;
                        held.map(|()| (target, None))
                    }
                    Err(_) => self.reach_point(target, point, *precondition).await?,
                };
                let (node, txn) = match reached {
                    Ok(reached) => reached,
                    Err(why) => return Ok(Err(why)),
                };
                injection.target = node;
                fields["node"] = json!(node);
                triggered = Triggered { stopped: true, txn, held: None };
            }
            Trigger::Message(pattern, action) => {
                let rule = match self.intercept(pattern, action).await {
                    Ok(rule) => rule,
                    Err(why) => return Ok(Err(why)),
                };
                let first = rule.intercepted().first;
                triggered.txn = first.first().and_then(|message| message.txns.first().copied());
                fields["message"] = json!(first.first());
                fields["message_action"] = json!(action.to_string());
                triggered.held = Some(rule);
                self.record("intercepted", fields)?;
                self.wait(ARRIVAL_TIME).await;
            }
        }
        if let Some(txn) = triggered.txn {
            fields["txn"] = json!(txn);
        }
        let stops = matches!(
            injection.action,
            FaultAction::Pause { .. } | FaultAction::SecondInstance { .. }
        );
        if stops && !triggered.stopped {
            triggered.stopped = self.cluster.pause(injection.target).await;
            if !triggered.stopped {
                return Ok(Err(format!("{} is not running", injection.target)));
            }
        }
        Ok(Ok(triggered))
    }

    /// Waits until a message is intercepted. The error says why none was.
    async fn intercept(
        &mut self,
        pattern: &Pattern,
        action: &MessageAction,
    ) -> Result<InterceptRule, String> {
        let network = self.network.ok_or(NO_RELAYS)?;
        let mut rule = network.intercept(pattern.clone(), action.clone());
        let matched = tokio::select! {
            matched = rule.until_matched(MESSAGE_DEADLINE) => matched,
            _ = self.load_ended.wait_for(|ended| *ended) => false,
        };
        if matched { Ok(rule) } else { Err("no such message was sent in time".to_owned()) }
    }

    /// Why a point was not reached.
    pub(super) fn why_not_reached(&self) -> String {
        if *self.load_ended.borrow() { LOAD_ENDED } else { NOT_REACHED }.to_owned()
    }
}
