//! Tests of the programs: real processes on loopback addresses, driven by clients, by the wire
//! protocol and by crash points.

mod client;
mod cluster;
mod crash_points;
mod refusals;
mod replica;
mod support;
