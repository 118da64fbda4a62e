//! The seam for tests: everything that a test can make a node do and an operator cannot. With the
//! feature `test-hooks` a node has crash points, control over standard input, a journal, rules that
//! can be broken, and syncs that can be skipped. Without it, every hook is an empty function, the
//! flags do not exist, and all rules are in force.
//!
//! Both versions have the same interface, so that the rest of the crate does not depend on the
//! feature.

#[cfg(feature = "test-hooks")]
mod control;
#[cfg(feature = "test-hooks")]
mod crash_points;
#[cfg(not(feature = "test-hooks"))]
mod disabled;
#[cfg(feature = "test-hooks")]
mod enabled;

#[cfg(feature = "test-hooks")]
pub use self::crash_points::{Point, Role, Site};
#[cfg(not(feature = "test-hooks"))]
pub(crate) use self::disabled::{Crossing, Hit, Hooks};
#[cfg(not(feature = "test-hooks"))]
pub use self::disabled::{HookArgs, HookOptions};
#[cfg(feature = "test-hooks")]
pub use self::enabled::{HookArgs, HookOptions, StoreDefects};
#[cfg(feature = "test-hooks")]
pub(crate) use self::{
    crash_points::Hit,
    enabled::{Crossing, Hooks},
};

/// The side of the site on which a crash point lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// It has not started. Everything before it has happened, as far as the node can ensure.
    Before,
    /// It has happened, and nothing after it. A message or a reply has *happened* when the kernel has
    /// accepted its bytes; a received event has when all of its effects have.
    After,
}
