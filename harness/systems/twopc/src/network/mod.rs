//! The network between the nodes, under the harness's control: a relay in front of each replica
//! speaks the peer protocol, forwards what it receives, and intercepts the messages that match a
//! [`Pattern`]. Relays never rewrite a message. This module knows what messages look like, not why
//! one is intercepted.
//!
//! Nodes find the relays' addresses in their configuration and listen on addresses of their own. A
//! stream through a relay is two joined streams: when one side ends, so does the other. A held
//! message belongs to no stream. It waits in its [`InterceptRule`] and, once released, leaves on
//! whichever stream then leads to its receiver.

mod connections;
mod pattern;
mod relay;
mod router;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use history::nemesis;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use system::{
    protocol::{Message, Node},
    wire,
};
use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::timeout,
};

use crate::certificates::Certificates;

pub use self::pattern::{Link, MessageAction, MessageSummary, Pattern};
use self::router::{ActiveRule, Router};

/// The relays of a run. Dropping it closes them.
#[derive(Debug)]
pub struct Network {
    router: Arc<Router>,
    _relays: JoinSet<()>,
}

/// The messages that a rule has intercepted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Intercepted {
    /// The number of messages.
    pub messages: u64,
    /// The number of messages of each kind.
    pub kinds: BTreeMap<&'static str, u64>,
    /// The first of them.
    pub first: Vec<MessageSummary>,
}

impl Intercepted {
    /// The messages as a history records them.
    #[must_use]
    pub fn record(&self) -> nemesis::Intercepted {
        nemesis::Intercepted {
            messages: self.messages,
            kinds: self.kinds.iter().map(|(kind, count)| ((*kind).to_owned(), *count)).collect(),
            first: self.first.iter().map(|message| json!(message)).collect(),
        }
    }
}

/// A rule that is in force until it is removed or dropped.
#[derive(Debug)]
pub struct InterceptRule {
    router: Arc<Router>,
    number: u64,
    count: watch::Receiver<u64>,
}

impl Network {
    /// Puts a relay in front of each of these nodes. A relay listens on the first address and
    /// forwards to the second. The seed determines random choices of the rules. With certificates, all
    /// connections have TLS.
    ///
    /// # Errors
    /// A relay cannot listen on its address.
    pub fn start(
        cluster: String,
        relays: BTreeMap<Node, (SocketAddr, SocketAddr)>,
        seed: u64,
        certificates: Option<&Arc<Certificates>>,
    ) -> io::Result<Self> {
        let router = Arc::new(Router::new(cluster, ChaCha8Rng::seed_from_u64(seed)));
        let mut running = JoinSet::new();
        for (node, (listen, target)) in relays {
            running.spawn(relay::serve(
                router.clone(),
                node,
                listen,
                target,
                certificates.cloned(),
            )?);
        }
        Ok(Network { router, _relays: running })
    }

    /// Applies an action to matching messages from now on. If several rules match a message, the
    /// oldest one applies.
    #[must_use]
    pub fn intercept(&self, pattern: Pattern, action: MessageAction) -> InterceptRule {
        let mut state = self.router.lock();
        let number = state.next_rule;
        state.next_rule += 1;
        let (counter, count) = watch::channel(0);
        state.rules.insert(number, ActiveRule::new(pattern, action, counter));
        self.router.rules.store(state.rules.len(), Ordering::Release);
        InterceptRule { router: self.router.clone(), number, count }
    }

    /// Ends every stream of the master. A master may dial again, and messages to it wait until
    /// then.
    pub fn disconnect_master(&self) {
        self.forget_streams(Node::Master);
        self.router.disconnects.send_modify(|times| *times += 1);
    }

    /// Lets messages to and from a node that has ended wait until it has been started again. The end of its
    /// connections may show here after its next start.
    pub fn forget_streams(&self, node: Node) {
        let mut state = self.router.lock();
        for ((from, to), stream) in &mut state.streams {
            if [from, to].contains(&&node) {
                stream.send_replace(None);
            }
        }
    }
}

impl InterceptRule {
    /// Waits until the rule has matched a message. Returns whether it did before the deadline.
    pub async fn until_matched(&mut self, deadline: Duration) -> bool {
        matches!(timeout(deadline, self.count.wait_for(|count| *count > 0)).await, Ok(Ok(_)))
    }

    /// The messages intercepted so far.
    #[must_use]
    pub fn intercepted(&self) -> Intercepted {
        let state = self.router.lock();
        state.rules.get(&self.number).map(|rule| rule.intercepted.clone()).unwrap_or_default()
    }

    /// Removes the rule, releases held messages in order, and waits up to `deadline` until they are
    /// sent. Returns all messages that were intercepted.
    pub async fn remove(mut self, deadline: Duration) -> Intercepted {
        let Some((intercepted, sending)) = self.take() else { return Intercepted::default() };
        // Sending continues in the background if it takes longer.
        let _ = timeout(deadline, sending).await;
        intercepted
    }

    /// Sends the latest held message on a link that satisfies a condition, and keeps it held.
    /// Returns false if there is none, or if no stream leads to its receiver in time.
    pub async fn deliver(
        &self,
        link: Link,
        condition: impl Fn(&Message) -> bool,
        deadline: Duration,
    ) -> bool {
        let held = {
            let state = self.router.lock();
            let held = state.rules.get(&self.number).map(|rule| rule.held.iter().rev());
            let mut on_link = held.into_iter().flatten().filter(|(on, _)| *on == link);
            on_link.find_map(|(_, envelope)| {
                let message = wire::from_wire(envelope.clone()).ok()?;
                condition(&message).then(|| envelope.clone())
            })
        };
        let Some(envelope) = held else { return false };
        timeout(deadline, self.router.send(link, envelope)).await.is_ok()
    }

    /// Removes the rule and drops held messages.
    pub fn discard(self) {
        let mut state = self.router.lock();
        if let Some(rule) = state.rules.get_mut(&self.number) {
            rule.held.clear();
        }
    }

    fn take(&mut self) -> Option<(Intercepted, JoinHandle<()>)> {
        let mut state = self.router.lock();
        let rule = state.rules.remove(&self.number)?;
        self.router.rules.store(state.rules.len(), Ordering::Release);
        drop(state);
        let router = self.router.clone();
        let sending = tokio::spawn(async move {
            for (link, envelope) in rule.held {
                router.send(link, envelope).await;
            }
        });
        Some((rule.intercepted, sending))
    }
}

impl Drop for InterceptRule {
    fn drop(&mut self) {
        self.take();
    }
}
