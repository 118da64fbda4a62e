//! What a load can be put on: a cluster of some system, as processes, with a put and a get. Knows
//! nothing of loads.

use std::{future::Future, net::SocketAddr, pin::Pin};

use bytes::Bytes;
use tonic::Status;

use crate::{line::Line, process::Process};

/// A call that is under way.
pub type Calling<'a, T> = Pin<Box<dyn Future<Output = Result<T, Status>> + 'a>>;

/// A cluster that runs.
pub trait Cluster {
    /// What its system is called.
    fn name(&self) -> &str;

    /// Where its nodes are; the first is the one that clients go to.
    fn nodes(&self) -> &[SocketAddr];

    /// Its processes, in the same order.
    fn processes(&self) -> &[Process];

    /// Stores a value.
    fn put<'a>(&self, line: &'a mut Line, key: Bytes, value: Bytes) -> Calling<'a, ()>;

    /// Reads the last value, as every client must see it.
    fn get<'a>(&self, line: &'a mut Line, key: Bytes) -> Calling<'a, Option<Bytes>>;

    /// Asks for something that costs the node next to nothing.
    fn nothing<'a>(&self, line: &'a mut Line) -> Calling<'a, ()>;
}
