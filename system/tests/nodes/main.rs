//! Tests of the programs: real processes on loopback addresses, driven by clients, by the wire protocol
//! and by crash points. They need the feature `test-hooks`, which a build of the whole workspace has
//! and `cargo test -p system` has not.

#[cfg(feature = "test-hooks")]
mod beginning;
#[cfg(feature = "test-hooks")]
mod client;
#[cfg(feature = "test-hooks")]
mod cluster;
#[cfg(feature = "test-hooks")]
mod crash_points;
#[cfg(feature = "test-hooks")]
mod identity;
#[cfg(feature = "test-hooks")]
mod journal;
#[cfg(feature = "test-hooks")]
mod limits;
#[cfg(feature = "test-hooks")]
mod refusals;
#[cfg(feature = "test-hooks")]
mod replica;
#[cfg(feature = "test-hooks")]
mod rot;
#[cfg(feature = "test-hooks")]
mod snapshots;
#[cfg(feature = "test-hooks")]
mod strangers;
#[cfg(feature = "test-hooks")]
mod support;
#[cfg(all(feature = "test-hooks", feature = "tls"))]
mod tls;

/// Stand in for the tests that this build skips, so that a run lists them.
#[cfg(not(feature = "test-hooks"))]
mod skipped {
    macro_rules! skipped {
        ($($name:ident)*) => {$(
            #[test]
            #[ignore = "needs --features test-hooks"]
            fn $name() {}
        )*};
    }

    skipped! {
        beginning client cluster crash_points identity journal limits refusals replica rot
        snapshots strangers tls
    }
}
