//! The interface of a cluster under load: processes, put and get. Does not know about loads.

use std::{future::Future, net::SocketAddr, pin::Pin};

use bytes::Bytes;
use tonic::Status;

use crate::{connection::Connection, process::Process};

/// A call in progress.
pub type CallFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, Status>> + 'a>>;

/// A running cluster.
pub trait Cluster {
    /// The name of the system, for tables.
    fn name(&self) -> &str;

    /// The addresses of its nodes. Clients connect to the first.
    fn nodes(&self) -> &[SocketAddr];

    /// Its processes, in the same order.
    fn processes(&self) -> &[Process];

    /// Stores a value.
    fn put<'a>(
        &self,
        connection: &'a mut Connection,
        key: Bytes,
        value: Bytes,
    ) -> CallFuture<'a, ()>;

    /// Reads the last value, as every client must see it.
    fn get<'a>(&self, connection: &'a mut Connection, key: Bytes) -> CallFuture<'a, Option<Bytes>>;

    /// Requests the node's status, which costs the node next to nothing.
    fn status<'a>(&self, connection: &'a mut Connection) -> CallFuture<'a, ()>;
}
