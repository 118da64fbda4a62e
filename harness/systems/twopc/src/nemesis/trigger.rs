//! Waits for the moment at which an injection acts.

use std::time::Duration;

use history::nemesis::{Injected, InjectionKind};
use serde_json::json;
use system::protocol::{Node, TxnId};

use super::{Nemesis, NemesisError};
use crate::{
    CrashPoint,
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

/// Why an injection does not happen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Miss {
    #[error("the point was not reached in time")]
    NotReached,
    #[error("the load ended before the point was reached")]
    LoadEnded,
    #[error("no such message was sent in time")]
    NoMessage,
    #[error("there are no relays between the nodes")]
    NoRelays,
    #[error("the disks cannot be held")]
    NoDisks,
    #[error("there is no other replica")]
    NoOtherReplica,
    #[error("no node is running")]
    NoneRunning,
    #[error("{0} is not running")]
    NotRunning(Node),
    #[error("the copy lacked nothing in time")]
    LacksNothing,
    #[error("{0} does not answer")]
    NoAnswer(Node),
    /// The node cannot arm the point; the reason is its own.
    #[error("{0}")]
    NotArmed(String),
}

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
        fields: &mut Injected,
    ) -> Result<Result<Triggered, Miss>, NemesisError> {
        let mut triggered = Triggered::default();
        match &injection.trigger.clone() {
            Trigger::Now => {}
            Trigger::Point { point, precondition } => {
                fields.at = Some(point.to_string());
                let target = injection.target;
                let reached = match point {
                    CrashPoint::Disk(point) => {
                        let held = self.reach_disk_point(target, *point, *precondition).await?;
                        held.map(|()| (target, None))
                    }
                    CrashPoint::Process(point) => {
                        self.reach_point(target, *point, *precondition).await?
                    }
                };
                let (node, txn) = match reached {
                    Ok(reached) => reached,
                    Err(miss) => return Ok(Err(miss)),
                };
                injection.target = node;
                fields.node = Some(node.to_string());
                triggered = Triggered { stopped: true, txn, held: None };
            }
            Trigger::Message(pattern, action) => {
                let rule = match self.intercept(pattern, action).await {
                    Ok(rule) => rule,
                    Err(miss) => return Ok(Err(miss)),
                };
                let first = rule.intercepted().first;
                triggered.txn = first.first().and_then(|message| message.txns.first().copied());
                fields.message = first.first().map(|message| json!(message));
                fields.message_action = Some(action.to_string());
                triggered.held = Some(rule);
                self.injected(InjectionKind::Intercept, fields)?;
                self.wait(ARRIVAL_TIME).await;
            }
        }
        fields.txn = triggered.txn.map(|txn| txn.to_string());
        let stops = matches!(
            injection.action,
            FaultAction::Pause { .. } | FaultAction::SecondInstance { .. }
        );
        if stops && !triggered.stopped {
            triggered.stopped = self.cluster.pause(injection.target).await;
            if !triggered.stopped {
                return Ok(Err(Miss::NotRunning(injection.target)));
            }
        }
        Ok(Ok(triggered))
    }

    /// Waits until a message is intercepted. The error says why none was.
    async fn intercept(
        &mut self,
        pattern: &Pattern,
        action: &MessageAction,
    ) -> Result<InterceptRule, Miss> {
        let network = self.network.ok_or(Miss::NoRelays)?;
        let mut rule = network.intercept(pattern.clone(), action.clone());
        let matched = tokio::select! {
            matched = rule.until_matched(MESSAGE_DEADLINE) => matched,
            _ = self.load_ended.wait_for(|ended| *ended) => false,
        };
        if matched { Ok(rule) } else { Err(Miss::NoMessage) }
    }

    /// Why a point was not reached.
    pub(super) fn why_not_reached(&self) -> Miss {
        if *self.load_ended.borrow() { Miss::LoadEnded } else { Miss::NotReached }
    }
}
