//! Which replicas a master asked for reads while all were in service: the first attempt of each get.

use std::{collections::BTreeMap, time::Duration};

use system::protocol::{Body, Config, Effect, Event, Node, TimerId};

/// Counts the first attempts by replica, from one heartbeat to the next. A period counts only if every replica
/// was live at both of its ends, and nothing was heard in between by which one could leave or return.
#[derive(Debug, Default)]
pub(super) struct Choices {
    replicas: u8,
    force_age_max: Duration,
    /// The reads of the current period.
    period: BTreeMap<Node, u64>,
    /// The replicas that were sent the last heartbeats.
    live: u8,
    /// Something may have changed since.
    is_tainted: bool,
    counts: BTreeMap<Node, u64>,
}

impl Choices {
    pub(super) fn started(&mut self, config: &Config) {
        let counts = std::mem::take(&mut self.counts);
        let force_age_max = config.timing.force_age_max;
        *self = Choices {
            replicas: config.replicas,
            force_age_max,
            is_tainted: true,
            counts,
            ..Choices::default()
        };
    }

    pub(super) fn event(&mut self, event: &Event) {
        match event {
            Event::Timer(TimerId::Heartbeat) => self.live = 0,
            Event::Message { message, .. } => match message.body {
                Body::FenceOk { .. } | Body::Leaving { .. } => self.is_tainted = true,
                Body::Alive { force_age, promised, .. } => {
                    self.is_tainted |= force_age > self.force_age_max || promised.is_some();
                }
                _ => {}
            },
            _ => {}
        }
    }

    pub(super) fn effect(&mut self, effect: &Effect) {
        match effect {
            Effect::Send { to, message } => match message.body {
                Body::Read { read, .. } | Body::Query { read, .. } if read.attempt == 0 => {
                    *self.period.entry(*to).or_default() += 1;
                }
                Body::Heartbeat => self.live += 1,
                Body::Fence { .. } => self.is_tainted = true,
                _ => {}
            },
            // The heartbeats are sent.
            Effect::SetTimer { id: TimerId::Heartbeat, .. } => {
                let period = std::mem::take(&mut self.period);
                let all_live = self.live == self.replicas;
                if all_live && !self.is_tainted {
                    for (node, reads) in period {
                        *self.counts.entry(node).or_default() += reads;
                    }
                }
                self.is_tainted = !all_live;
            }
            _ => {}
        }
    }

    pub(super) fn counts(self) -> BTreeMap<Node, u64> {
        self.counts
    }
}

#[cfg(test)]
mod tests {
    use system::protocol::{ClusterId, CommitMode, Message, ReadId, Rules, StoreId, Timing, TxnId};

    use super::*;

    fn send(slot: u8, body: Body) -> Effect {
        let (cluster, store, watermark) = (ClusterId(0), StoreId(1), TxnId::default());
        let message = Message { cluster, store, epoch: 1, nonce: 0, watermark, decisions: 0, body };
        Effect::Send { to: Node::Replica(slot), message }
    }

    fn read(slot: u8, attempt: u32) -> Effect {
        let (piggybacked, wait) = (Vec::new(), Duration::ZERO);
        let read = ReadId { epoch: 1, n: 1, attempt };
        send(slot, Body::Read { read, key: "k".into(), piggybacked, wait })
    }

    fn round(choices: &mut Choices, live: &[u8]) {
        choices.event(&Event::Timer(TimerId::Heartbeat));
        for slot in live {
            choices.effect(&send(*slot, Body::Heartbeat));
        }
        choices.effect(&Effect::SetTimer { id: TimerId::Heartbeat, after: Duration::ZERO });
    }

    #[test]
    fn first_attempts_count_while_all_replicas_are_in_service() {
        let config = Config {
            node: Node::Master,
            replicas: 2,
            store: StoreId(1),
            nonce: 0,
            bootstrap: true,
            commit: CommitMode::Logged,
            rules: Rules::ALL,
            timing: Timing::default(),
            scrub_interval: Duration::ZERO,
            sequence_above: 0,
        };
        let mut choices = Choices::default();
        choices.started(&config);
        choices.effect(&read(1, 0));
        round(&mut choices, &[1, 2]);
        // The first period began with the start.
        choices.effect(&read(1, 0));
        choices.effect(&read(2, 1));
        round(&mut choices, &[1, 2]);
        choices.effect(&read(2, 0));
        round(&mut choices, &[1]);
        choices.effect(&read(1, 0));
        round(&mut choices, &[1, 2]);
        assert_eq!(choices.counts(), BTreeMap::from([(Node::Replica(1), 1)]));
    }
}
