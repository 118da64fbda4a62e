//! Exploration of the protocol without processes, sockets or clocks: the machines that run in
//! production, over the memory model of the store.
//!
//! - [`schedule`]: a run as data, step by step, and a cluster that executes it; the properties of the
//!   protocol, checked after each step; minimization of schedules that violate one.
//! - [`model`]: every schedule of a small cluster, exhaustively, by stateright.
//! - [`simulator`]: one run in virtual time per seed, with clients and faults.
//!
//! All three find violations in the same form, a [`schedule::Schedule`]:
//!
//! ```
//! use explore::model::{ExplorationLimits, ModelOptions, explore, script};
//! use protocol::{Rule, Rules};
//!
//! // Two replicas and one write.
//! let mut options = ModelOptions::of(2, script(1, 0, 1));
//! let exploration = explore(&options, ExplorationLimits::default(), |_, _| {});
//! assert!(exploration.complete, "every property holds in every state");
//!
//! options.setup.rules = Rules::ALL.without(Rule::ReadsRespectLocks);
//! let exploration = explore(&options, ExplorationLimits::default(), |_, _| {});
//! let (property, counterexample) = &exploration.violations[0];
//! assert_eq!(property.name(), "R1");
//! assert_eq!(counterexample.steps.len(), 8);
//! let (_, cluster) = counterexample.trace()?;
//! assert!(cluster.violates(*property));
//! # Ok::<(), explore::schedule::ImpossibleStep>(())
//! ```
//!
//! Does not know about recorded histories, checks of them, run directories or the command line.

pub mod model;
pub mod schedule;
pub mod simulator;
