//! What clients may use of a node at one time: calls, bytes of requests that are being read, bytes of writes in
//! progress, and bytes of answers that the kernel has not accepted. Each is bounded for the node, and to a part of
//! that for a connection, so that one connection cannot keep the others out. Does not know what is called.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use crate::{config::NodeLimits, meter::Meter, tls::Caller};

/// Streams of peers, and of callers that have not identified themselves, at the node and on a connection. A budget of
/// their own: calls that last, such as those that watch the health, must not keep a peer out.
const PEER_CALLS_MAX: usize = 1024;
const CONNECTION_PEER_CALLS_MAX: usize = 4;
/// The size that the first answer on a connection is expected to have.
const FIRST_ANSWER_BYTES: usize = 64 << 10;
/// Calls of the other services that may be in progress, at the node and on a connection.
const OTHER_CALLS_MAX: usize = 256;
const CONNECTION_OTHER_CALLS_MAX: usize = 32;

/// What is bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resource {
    /// Calls of `Kv`, from their arrival until the answer has left, or until it is known that nobody waits for it.
    Calls,
    /// Streams of peers.
    PeerCalls,
    /// Calls of the other services.
    OtherCalls,
    /// Announced bytes of requests that have not arrived in full.
    RequestBytes,
    /// Bytes of writes that are not decided.
    WriteBytes,
    /// Bytes that the answers of gets in progress are expected to have.
    ExpectedBytes,
    /// Bytes of answers that the kernel has not accepted.
    AnswerBytes,
}

/// Every resource.
pub(super) const RESOURCES: [Resource; 7] = [
    Resource::Calls,
    Resource::PeerCalls,
    Resource::OtherCalls,
    Resource::RequestBytes,
    Resource::WriteBytes,
    Resource::ExpectedBytes,
    Resource::AnswerBytes,
];

/// A number for each resource.
#[derive(Debug, Default)]
struct Amounts<T>([T; RESOURCES.len()]);

impl<T> Amounts<T> {
    fn of(&self, resource: Resource) -> &T {
        &self.0[resource as usize]
    }
}

/// The limits of a node, and what is in use.
#[derive(Debug)]
pub(super) struct Budgets {
    used: Amounts<AtomicUsize>,
    node_max: Amounts<usize>,
    connection_max: Amounts<usize>,
    /// How often there was no room.
    refused: AtomicU64,
}

impl Budgets {
    /// The budgets for these limits. There is always room for one message of the largest size.
    pub(super) fn new(limits: &NodeLimits, message_bytes_max: usize) -> Self {
        let maximum = |resource| {
            let (node, connection) = match resource {
                Resource::Calls => (limits.max_inflight, limits.connection_max_inflight),
                Resource::PeerCalls => (PEER_CALLS_MAX, CONNECTION_PEER_CALLS_MAX),
                Resource::OtherCalls => (OTHER_CALLS_MAX, CONNECTION_OTHER_CALLS_MAX),
                Resource::RequestBytes => {
                    (limits.request_bytes_max, limits.connection_request_bytes_max)
                }
                Resource::WriteBytes => (limits.write_bytes_max, limits.connection_write_bytes_max),
                Resource::ExpectedBytes | Resource::AnswerBytes => {
                    (limits.answer_bytes_max, limits.connection_answer_bytes_max)
                }
            };
            let least = match resource {
                Resource::Calls | Resource::PeerCalls | Resource::OtherCalls => 1,
                Resource::RequestBytes
                | Resource::WriteBytes
                | Resource::ExpectedBytes
                | Resource::AnswerBytes => message_bytes_max,
            };
            (node.max(least), connection.min(node).max(least))
        };
        Budgets {
            used: Amounts::default(),
            node_max: Amounts(RESOURCES.map(|resource| maximum(resource).0)),
            connection_max: Amounts(RESOURCES.map(|resource| maximum(resource).1)),
            refused: AtomicU64::default(),
        }
    }

    /// What all connections together use of a resource.
    pub(super) fn used(&self, resource: Resource) -> usize {
        self.used.of(resource).load(Ordering::Relaxed)
    }

    /// How often there was no room for more of a resource.
    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    fn exhausted(&self, resource: Resource, on_connection: bool, max: usize) -> Exhausted {
        self.refused.fetch_add(1, Ordering::Relaxed);
        Exhausted { resource, on_connection, max }
    }

    /// The largest number of calls of one connection, of all services.
    pub(super) fn connection_calls_max(&self) -> usize {
        let calls = [Resource::Calls, Resource::PeerCalls, Resource::OtherCalls];
        calls.iter().map(|resource| self.connection_max.of(*resource)).sum()
    }
}

/// What a connection uses.
#[derive(Debug)]
pub(super) struct Account {
    budgets: Arc<Budgets>,
    used: Amounts<AtomicUsize>,
    /// The size that the next answer is expected to have.
    expected_answer: AtomicUsize,
    /// The meter of the connection.
    pub(super) meter: Arc<Meter>,
    /// Who is at the other end, once that is known.
    caller: OnceLock<Caller>,
}

/// There is no room for more of a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exhausted {
    resource: Resource,
    /// Whether the connection uses up its part, or all connections together the whole.
    on_connection: bool,
    max: usize,
}

impl fmt::Display for Exhausted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.resource {
            Resource::Calls => "calls are in progress",
            Resource::PeerCalls | Resource::OtherCalls => "calls of this kind are in progress",
            Resource::RequestBytes => "bytes of requests are arriving",
            Resource::WriteBytes => "bytes of writes are in progress",
            Resource::ExpectedBytes => "bytes of answers are asked for",
            Resource::AnswerBytes => "bytes of answers wait to be taken",
        };
        let of = if self.on_connection { "a connection" } else { "the node" };
        write!(f, "too many {what}; the limit of {of} is {}", self.max)
    }
}

impl Account {
    /// Opens the account of a connection.
    pub(super) fn new(budgets: Arc<Budgets>, meter: Arc<Meter>) -> Arc<Self> {
        let expected_answer = AtomicUsize::new(FIRST_ANSWER_BYTES);
        let (used, caller) = (Amounts::default(), OnceLock::new());
        Arc::new(Account { budgets, used, expected_answer, meter, caller })
    }

    /// The other end has shown who it is.
    pub(super) fn identify(&self, caller: Caller) {
        // A connection has one handshake.
        let _ = self.caller.set(caller);
    }

    /// Who is at the other end. A stranger until it has shown who it is.
    pub(super) fn caller(&self) -> Caller {
        self.caller.get().copied().unwrap_or(Caller::Stranger)
    }

    /// Takes an amount of a resource, until the hold is dropped.
    ///
    /// # Errors
    /// The connection or the node has no room for it.
    pub(super) fn take(
        self: &Arc<Self>,
        resource: Resource,
        amount: usize,
    ) -> Result<Hold, Exhausted> {
        let Budgets { used, node_max, connection_max, .. } = &*self.budgets;
        let exhausted = |on_connection, max| self.budgets.exhausted(resource, on_connection, max);
        let own_max = *connection_max.of(resource);
        if !add(self.used.of(resource), amount, own_max) {
            return Err(exhausted(true, own_max));
        }
        let max = *node_max.of(resource);
        if !add(used.of(resource), amount, max) {
            self.used.of(resource).fetch_sub(amount, Ordering::Relaxed);
            return Err(exhausted(false, max));
        }
        Ok(Hold { account: self.clone(), resource, amount })
    }

    /// Takes room for an answer whose size is not known yet: as much as the largest of the last answers took.
    ///
    /// # Errors
    /// The connection or the node has no room for it.
    pub(super) fn expect_answer(self: &Arc<Self>) -> Result<Hold, Exhausted> {
        self.take(Resource::ExpectedBytes, self.expected_answer.load(Ordering::Relaxed))
    }

    /// An answer has this size.
    pub(super) fn count_answer(&self, bytes: usize) {
        let expected = self.expected_answer.load(Ordering::Relaxed);
        // Falls slowly, so that a small answer between large ones changes little.
        self.expected_answer.store(bytes.max(expected - expected / 8), Ordering::Relaxed);
    }

    /// What the connection uses of a resource.
    pub(super) fn used(&self, resource: Resource) -> usize {
        self.used.of(resource).load(Ordering::Relaxed)
    }
}

/// Adds an amount unless the sum would exceed a maximum.
fn add(used: &AtomicUsize, amount: usize, max: usize) -> bool {
    let sum = |used: usize| used.checked_add(amount).filter(|sum| *sum <= max);
    used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, sum).is_ok()
}

/// An amount in use. It is given back when this is dropped.
#[derive(Debug)]
#[must_use]
pub(super) struct Hold {
    account: Arc<Account>,
    resource: Resource,
    amount: usize,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let Hold { account, resource, amount } = self;
        account.used.of(*resource).fetch_sub(*amount, Ordering::Relaxed);
        account.budgets.used.of(*resource).fetch_sub(*amount, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(budgets: &Arc<Budgets>) -> Arc<Account> {
        Account::new(budgets.clone(), Arc::default())
    }

    #[test]
    fn a_connection_has_a_part_and_gives_back_what_it_held() {
        let limits = NodeLimits {
            write_bytes_max: 300,
            connection_write_bytes_max: 200,
            ..NodeLimits::default()
        };
        let budgets = Arc::new(Budgets::new(&limits, 100));
        let [one, other] = [account(&budgets), account(&budgets)];
        let held = one.take(Resource::WriteBytes, 200).expect("its part");
        let why = one.take(Resource::WriteBytes, 1).expect_err("its part is used up");
        assert_eq!(
            why.to_string(),
            "too many bytes of writes are in progress; the limit of a connection is 200"
        );
        let of_other = other.take(Resource::WriteBytes, 100).expect("the rest");
        let why = other.take(Resource::WriteBytes, 1).expect_err("nothing is left");
        assert_eq!(
            why.to_string(),
            "too many bytes of writes are in progress; the limit of the node is 300"
        );
        assert_eq!(other.used(Resource::WriteBytes), 100, "a refusal takes nothing");
        drop(held);
        assert_eq!((one.used(Resource::WriteBytes), budgets.used(Resource::WriteBytes)), (0, 100));
        drop(of_other);
        assert_eq!(budgets.used(Resource::WriteBytes), 0);
    }

    #[test]
    fn answers_are_expected_to_be_as_large_as_the_last_ones() {
        let size = 1 << 20;
        let limits = NodeLimits { connection_answer_bytes_max: 4 * size, ..NodeLimits::default() };
        let account = account(&Arc::new(Budgets::new(&limits, 0)));
        let many = |account: &Arc<Account>| {
            std::iter::from_fn(|| account.expect_answer().ok()).collect::<Vec<_>>().len()
        };
        assert_eq!(many(&account), 4 * size / FIRST_ANSWER_BYTES);
        account.count_answer(size);
        assert_eq!(many(&account), 4);
        (0..100).for_each(|_| account.count_answer(1000));
        assert!(many(&account) > 4000);
    }

    #[test]
    fn there_is_room_for_one_message_of_any_size() {
        let limits = NodeLimits { request_bytes_max: 1, ..NodeLimits::default() };
        let budgets = Arc::new(Budgets::new(&limits, 1000));
        let held = account(&budgets).take(Resource::RequestBytes, 1000).expect("there is room");
        assert!(account(&budgets).take(Resource::RequestBytes, 1).is_err());
        drop(held);
    }
}
