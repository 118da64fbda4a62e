//! The interface of a cluster under load: its processes, and clients that put and get. Does not know about loads.

use std::{future::Future, io, net::SocketAddr, pin::Pin};

use bytes::Bytes;
use tonic::Status;

use crate::process::Process;

/// A call in progress.
pub type CallFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, Status>> + 'a>>;

/// A client that connects.
pub type ConnectFuture<'a> = Pin<Box<dyn Future<Output = io::Result<Box<dyn Client>>> + 'a>>;

/// A running cluster.
pub trait Cluster {
    /// The name of the system, for tables.
    fn name(&self) -> &str;

    /// The addresses of its nodes. Clients connect to the first.
    fn nodes(&self) -> &[SocketAddr];

    /// Its processes, in the same order.
    fn processes(&self) -> &[Process];

    /// Connects to the node of this number.
    fn connect(&self, node: usize) -> ConnectFuture<'_>;
}

/// A client, with one operation in progress at any time.
pub trait Client {
    /// Another client on the same connection, if the protocol allows that.
    fn share(&self) -> Option<Box<dyn Client>>;

    /// Stores a value.
    fn put(&mut self, key: Bytes, value: Bytes) -> CallFuture<'_, ()>;

    /// Reads the last value, as every client must see it.
    fn get(&mut self, key: Bytes) -> CallFuture<'_, Option<Bytes>>;

    /// Requests the node's status, which costs the node next to nothing.
    fn status(&mut self) -> CallFuture<'_, ()>;
}
