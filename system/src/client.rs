//! The client library: put, del, get and snapshots at the master, with outcomes that state what is certain;
//! and inspection of any node. Does not know the protocol behind the answers.

use std::{
    fmt, io,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};

use futures::{Stream, TryStreamExt as _, stream};
use proto::v1::{self as pb, inspect_client::InspectClient, kv_client::KvClient};
use tokio::time::{Instant, timeout_at};
use tonic::Status;

pub use crate::answer::{DOMAIN, Reason, ReasonKind};
use crate::{
    answer,
    config::Address,
    connection::{Connection, RequestHandle},
    protocol::{self, Key, Node, TxnId, Value, Version},
    tls::Tls,
    wire,
};

/// The outcome of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// It is committed, and durable at every replica.
    Committed {
        /// The key's version from now on.
        version: Version,
    },
    /// It had no effect and never will.
    Aborted(Reason),
    /// It may or may not have taken effect, or may still: the answer was lost or is late.
    Unknown(String),
}

/// A read failed. Reads have no effect, so nothing about it is uncertain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// A node gave the reason.
    #[error("{0}")]
    Refused(Reason),
    /// There was no answer.
    #[error("{0}")]
    Failed(String),
}

/// Several keys as they were at one instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManyRead {
    /// Of each key, in the order in which they were asked for: version and value, or none if it was absent.
    pub found: Vec<Option<(Version, Value)>>,
    /// The watermark of the replica that has answered: every transaction below it that is committed is in it.
    pub watermark: TxnId,
}

/// A page of a range, as it was at one instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageRead {
    /// The live keys, ascending, with their versions and values.
    pub entries: Vec<Entry>,
    /// The page ends before this key: the range has more entries, or a write of the key was in progress. None
    /// if the page reaches the end of the range. Go on after the last key of `entries`, which has one then.
    pub end: Option<Key>,
    /// The watermark of the replica that has answered: every transaction below it that is committed is in it.
    pub watermark: TxnId,
}

/// A range of keys, and the size of its pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeOf {
    /// The keys.
    pub keys: KeysOf,
    /// How many entries a page has at most; 0 for as many as possible.
    pub page_entries: u32,
}

/// The keys of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeysOf {
    /// All that begin with this.
    Prefix(Key),
    /// All from one key to another one, which is not included.
    Bounds {
        /// The first key. None: there is no lower bound.
        from: Option<Key>,
        /// The range ends before this key. None: there is no upper bound.
        to: Option<Key>,
    },
}

impl KeysOf {
    /// All keys.
    pub const ALL: KeysOf = KeysOf::Bounds { from: None, to: None };
}

/// A client of the master. Clones are cheap and share one connection, on which many calls may be in
/// progress.
///
/// The first call that needs a connection makes one. It is dropped after a transport error or a
/// timeout. No write is ever sent twice.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use system::client::{Client, WriteOutcome};
///
/// let client = Client::new("127.0.0.1:7000".parse()?).timeout(Duration::from_secs(2));
/// match client.put("colour", "green").await {
///     WriteOutcome::Committed { version } => println!("version {version}"),
///     WriteOutcome::Aborted(reason) => println!("no effect: {reason}"),
///     WriteOutcome::Unknown(why) => println!("unknown: {why}"),
/// }
/// assert_eq!(client.get("colour").await?.map(|(_, value)| value), Some("green".into()));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Client {
    connector: Arc<Connector>,
    timeout: Duration,
}

/// The longest timeout; adding a longer one to the clock might overflow.
const TIMEOUT_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The master's address, and the connection to it, if any.
struct Connector {
    address: Address,
    tls: Option<Arc<Tls>>,
    connection: Mutex<Option<Arc<Connection>>>,
    /// Held while dialing, so that concurrent calls make one connection.
    dialing: tokio::sync::Mutex<()>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({})", self.connector.address)
    }
}

/// A call that got no regular answer.
enum Failure {
    /// The request was certainly not sent.
    Unsent(String),
    /// The request may have arrived.
    Lost(String),
    /// The node or the transport answered with a status.
    Status(Status),
}

impl Client {
    /// Creates a client of the master at this address, without TLS. Does not connect yet.
    #[must_use]
    pub fn new(master: Address) -> Self {
        Client::with_tls(master, None)
    }

    /// Creates a client of the master at this address. With an identity, connections have TLS, and only the master's
    /// certificate is accepted. Does not connect yet.
    #[must_use]
    pub fn with_tls(master: Address, tls: Option<Arc<Tls>>) -> Self {
        let connector = Connector {
            address: master,
            tls,
            connection: Mutex::new(None),
            dialing: tokio::sync::Mutex::new(()),
        };
        Client { connector: Arc::new(connector), timeout: Duration::from_secs(5) }
    }

    /// Connects, unless there is a connection.
    ///
    /// # Errors
    /// The master cannot be reached.
    pub async fn connect(&self) -> io::Result<()> {
        self.connector.connection().await.map(drop)
    }

    /// The same client on the same connection, with another timeout for each call, from dialing to
    /// the last byte. Default 5 s; at most a year.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Client { timeout: timeout.min(TIMEOUT_MAX), ..self }
    }

    /// Stores a value under a key.
    pub async fn put(&self, key: impl Into<Key>, value: impl Into<Value>) -> WriteOutcome {
        let request = pb::PutRequest {
            key: wire::blob_to_wire(key.into()),
            value: wire::blob_to_wire(value.into()),
        };
        let answer = self
            .call(async |mut kv, _| kv.put(request).await.map(|answer| answer.into_inner().version))
            .await;
        write_outcome(answer)
    }

    /// Deletes a key. It is not an error if the key is absent.
    pub async fn del(&self, key: impl Into<Key>) -> WriteOutcome {
        let request = pb::DelRequest { key: wire::blob_to_wire(key.into()) };
        let answer = self
            .call(async |mut kv, _| kv.del(request).await.map(|answer| answer.into_inner().version))
            .await;
        write_outcome(answer)
    }

    /// Reads the last committed write of a key, or none if the key is absent.
    ///
    /// # Errors
    /// No replica answered in time, or the master could not be reached.
    pub async fn get(&self, key: impl Into<Key>) -> Result<Option<(Version, Value)>, ReadError> {
        let request = pb::GetRequest { key: wire::blob_to_wire(key.into()) };
        let answer = self
            .call(async |mut kv, left| {
                let mut request = tonic::Request::new(request);
                request.set_timeout(left);
                kv.get(request).await.map(|answer| answer.into_inner().found)
            })
            .await;
        wire::found_from_wire(answer.map_err(read_error)?).map_err(malformed)
    }

    /// Reads several keys as one snapshot: there was an instant at which each of them had what is returned. At
    /// most [`Query::KEYS_MAX`](crate::protocol::Query::KEYS_MAX) keys, whose values fit into one answer.
    ///
    /// # Errors
    /// As for [`Client::get`]; or the values are too long together, or there are no keys, or too many.
    pub async fn read(&self, keys: impl IntoIterator<Item = Key>) -> Result<ManyRead, ReadError> {
        let request = pb::ReadRequest { keys: keys.into_iter().map(wire::blob_to_wire).collect() };
        let asked = request.keys.len();
        let answer = self
            .call(async |mut kv, left| {
                let mut request = tonic::Request::new(request);
                request.set_timeout(left);
                kv.read(request).await.map(tonic::Response::into_inner)
            })
            .await;
        let pb::ReadResponse { found, watermark } = answer.map_err(read_error)?;
        let found = wire::many_from_wire(found).map_err(malformed)?;
        if found.len() != asked {
            let why = format!("invalid answer: {} of {asked} keys", found.len());
            return Err(ReadError::Failed(why));
        }
        let watermark = wire::txn_from_wire(watermark).map_err(malformed)?;
        Ok(ManyRead { found, watermark })
    }

    /// Reads a page of a range as one snapshot. `after` is the last key of the page before, if there was one.
    ///
    /// # Errors
    /// As for [`Client::get`].
    pub async fn page(&self, range: &RangeOf, after: Option<Key>) -> Result<PageRead, ReadError> {
        let bytes = |key: Option<Key>| key.map(wire::blob_to_wire).unwrap_or_default();
        let RangeOf { keys, page_entries } = range.clone();
        let (from, to, prefix) = match keys {
            KeysOf::Prefix(prefix) => (None, None, Some(prefix)),
            KeysOf::Bounds { from, to } => (from, to, None),
        };
        let request = pb::RangeRequest {
            from: bytes(from),
            to: bytes(to),
            prefix: bytes(prefix),
            limit: page_entries,
            after: bytes(after),
        };
        let answer = self
            .call(async |mut kv, left| {
                let mut request = tonic::Request::new(request);
                request.set_timeout(left);
                kv.range(request).await.map(tonic::Response::into_inner)
            })
            .await;
        let pb::RangeResponse { entries, end, watermark } = answer.map_err(read_error)?;
        let entries: Result<Vec<_>, _> = entries.into_iter().map(wire::entry_from_wire).collect();
        let entries = entries.map_err(malformed)?;
        if end.is_some() && entries.is_empty() {
            let why = "invalid answer: an empty page is not the last one".to_owned();
            return Err(ReadError::Failed(why));
        }
        let end = end.as_ref().map(wire::blob_from_wire);
        let watermark = wire::txn_from_wire(watermark).map_err(malformed)?;
        Ok(PageRead { entries, end, watermark })
    }

    /// The pages of a range, from the one after a key on, if one is given. Each is a snapshot of its own, later
    /// than the one before: a write that takes effect meanwhile is seen if its key is still to come.
    ///
    /// After an error there are no more items. Go on after the last key.
    pub fn pages(
        &self,
        range: RangeOf,
        after: Option<Key>,
    ) -> impl Stream<Item = Result<PageRead, ReadError>> + use<'_> {
        stream::try_unfold(Some((range, after)), async move |next| {
            let Some((range, after)) = next else { return Ok(None) };
            let page = self.page(&range, after).await?;
            let last = page.entries.last().filter(|_| page.end.is_some());
            let next = last.map(|(key, ..)| (range, Some(key.clone())));
            Ok(Some((page, next)))
        })
    }

    /// Makes one call on the connection within the timeout. `make` is given the remaining time.
    async fn call<T>(
        &self,
        make: impl AsyncFnOnce(KvClient<RequestHandle>, Duration) -> Result<T, Status>,
    ) -> Result<T, Failure> {
        let deadline = Instant::now() + self.timeout;
        let waited = self.timeout;
        let connection = match timeout_at(deadline, self.connector.connection()).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return Err(Failure::Unsent(error.to_string())),
            Err(_) => return Err(Failure::Unsent(format!("no connection within {waited:?}"))),
        };
        let request_handle = connection.request_handle();
        let unsent = request_handle.unsent();
        let kv = KvClient::with_origin(request_handle, connection.origin())
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(usize::MAX);
        let left = deadline.saturating_duration_since(Instant::now());
        let status = match timeout_at(deadline, make(kv, left)).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(status)) => status,
            Err(_) => {
                self.connector.discard(&connection);
                return Err(Failure::Lost(format!("no answer within {waited:?}")));
            }
        };
        if unsent.load(Ordering::Acquire) {
            self.connector.discard(&connection);
            return Err(Failure::Unsent(describe(&status)));
        }
        if answer::reason(&status).is_none() {
            // Most likely the transport generated this status.
            self.connector.discard(&connection);
        }
        Err(Failure::Status(status))
    }
}

impl Connector {
    fn current(&self) -> MutexGuard<'_, Option<Arc<Connection>>> {
        // The lock guards a single assignment, which cannot be left half done.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn live(&self) -> Option<Arc<Connection>> {
        self.current().clone().filter(|connection| !connection.is_closed())
    }

    async fn connection(&self) -> io::Result<Arc<Connection>> {
        if let Some(connection) = self.live() {
            return Ok(connection);
        }
        let _dialing = self.dialing.lock().await;
        if let Some(connection) = self.live() {
            return Ok(connection);
        }
        let connection = Arc::new(
            Connection::open(&self.address, self.tls.as_deref(), Some(Node::Master)).await?,
        );
        *self.current() = Some(connection.clone());
        Ok(connection)
    }

    /// Drops a connection, unless another has already replaced it.
    fn discard(&self, connection: &Arc<Connection>) {
        let mut current = self.current();
        if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, connection)) {
            *current = None;
        }
    }
}

fn write_outcome(answer: Result<Option<pb::TxnId>, Failure>) -> WriteOutcome {
    match answer {
        Ok(version) => match wire::txn_from_wire(version) {
            Ok(version) => WriteOutcome::Committed { version },
            Err(error) => WriteOutcome::Unknown(format!("invalid answer: {error}")),
        },
        Err(Failure::Unsent(why)) => WriteOutcome::Aborted(unreachable(why)),
        Err(Failure::Lost(why)) => WriteOutcome::Unknown(why),
        Err(Failure::Status(status)) => answer::reason(&status)
            .map_or_else(|| WriteOutcome::Unknown(describe(&status)), WriteOutcome::Aborted),
    }
}

fn read_error(failure: Failure) -> ReadError {
    match failure {
        Failure::Unsent(why) => ReadError::Refused(unreachable(why)),
        Failure::Lost(why) => ReadError::Failed(why),
        Failure::Status(status) => answer::reason(&status)
            .map_or_else(|| ReadError::Failed(describe(&status)), ReadError::Refused),
    }
}

fn malformed(error: wire::Malformed) -> ReadError {
    ReadError::Failed(format!("invalid answer: {error}"))
}

fn unreachable(text: String) -> Reason {
    Reason { kind: ReasonKind::Unreachable, text, facts: Default::default(), retry_after: None }
}

fn describe(status: &Status) -> String {
    let mut text = format!("{:?}: {}", status.code(), status.message());
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Inspects one node directly, bypassing the master if it is a replica. For people and tests: its
/// answers are not linearizable with anything.
#[derive(Clone)]
pub struct Inspector {
    inspect: InspectClient<RequestHandle>,
}

/// The status of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeStatus {
    /// The name of its cluster.
    pub cluster: String,
    /// The status of its machine.
    pub machine: protocol::Status,
}

/// An entry of a store.
pub type Entry = (Key, Version, Value);

impl Inspector {
    /// Connects to a node, without TLS.
    ///
    /// # Errors
    /// It cannot be reached.
    pub async fn connect(node: &Address) -> io::Result<Self> {
        Inspector::connect_with_tls(node, None, None).await
    }

    /// Connects to the node at this address. With an identity, which should be an administrator's, the connection has
    /// TLS, and only the certificate of this node is accepted, or that of any if none is given.
    ///
    /// # Errors
    /// It cannot be reached, or is another node.
    pub async fn connect_with_tls(
        address: &Address,
        tls: Option<&Tls>,
        node: Option<Node>,
    ) -> io::Result<Self> {
        let connection = Connection::open(address, tls, node).await?;
        let inspect = InspectClient::with_origin(connection.request_handle(), connection.origin())
            .max_decoding_message_size(usize::MAX);
        Ok(Inspector { inspect })
    }

    /// Requests the status of the node.
    ///
    /// # Errors
    /// The node cannot be reached, or its answer is invalid.
    pub async fn status(&mut self) -> Result<NodeStatus, Status> {
        let status = self.inspect.status(pb::StatusRequest {}).await?.into_inner();
        Self::decode_status(status).map_err(|error| Status::internal(error.to_string()))
    }

    fn decode_status(status: pb::StatusResponse) -> Result<NodeStatus, wire::Malformed> {
        let live = status.live.into_iter().map(wire::node_from_wire);
        let stalled = status.stalled.into_iter().map(wire::node_from_wire);
        let unsettled = status
            .unsettled
            .into_iter()
            .map(|one| Ok((wire::txn_from_wire(one.txn)?, wire::blob_from_wire(&one.key))));
        let machine = protocol::Status {
            node: wire::node_from_wire(status.node)?,
            epoch: status.epoch,
            incarnation: status.incarnation,
            watermark: wire::txn_from_wire(status.watermark)?,
            ready: status.ready,
            live: live.collect::<Result<_, _>>()?,
            unsettled: unsettled.collect::<Result<_, _>>()?,
            force_age: Duration::from_millis(status.force_age_ms),
            stalled: stalled.collect::<Result<_, _>>()?,
            scrubs: status.scrubs,
        };
        Ok(NodeStatus { cluster: status.cluster, machine })
    }

    /// Every entry of the node's store at one moment, in key order.
    ///
    /// # Errors
    /// The node cannot be reached. As an item: the stream failed, or the node ended it because it took too long.
    pub async fn dump(
        &mut self,
    ) -> Result<impl Stream<Item = Result<Entry, Status>> + Send + use<>, Status> {
        self.dump_after(None).await
    }

    /// The entries after a key, or all of them, as [`Inspector::dump`]: to go on where one was ended.
    ///
    /// # Errors
    /// As for [`Inspector::dump`].
    pub async fn dump_after(
        &mut self,
        after: Option<Key>,
    ) -> Result<impl Stream<Item = Result<Entry, Status>> + Send + use<>, Status> {
        let after = after.map(wire::blob_to_wire).unwrap_or_default();
        let parts = self.inspect.dump(pb::DumpRequest { after }).await?.into_inner();
        let entry = |entry| {
            wire::entry_from_wire(entry).map_err(|error| Status::internal(error.to_string()))
        };
        Ok(parts
            .map_ok(move |part| stream::iter(part.entries.into_iter().map(entry)))
            .try_flatten())
    }
}

impl fmt::Debug for Inspector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Inspector")
    }
}
