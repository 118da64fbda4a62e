//! The programs as they are: real processes on loopback addresses, driven from outside by clients,
//! by the wire and by crash points.

mod client;
mod cluster;
mod points;
mod refusals;
mod replica;
mod support;
