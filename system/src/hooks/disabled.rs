//! The hooks of a node without the feature `test-hooks`: none of them does anything.

use std::{convert::Infallible, future, sync::Arc};

use clap::Args;

use super::Side;
use crate::{
    meter::Meter,
    node::NodeError,
    protocol::{CommitMode, Config, Effect, Event, Node, Record, Rules},
    store::{self, Observer, SyncMode},
};

/// Flags for tests: none.
#[derive(Args, Clone, Debug, Default)]
pub struct HookArgs {}

impl HookArgs {
    #[expect(clippy::unused_self, reason = "the interface of the enabled version")]
    pub(crate) fn tie_to_parent(&self) -> Result<(), String> {
        Ok(())
    }

    #[expect(clippy::unused_self, reason = "the interface of the enabled version")]
    pub(crate) fn options(self, _: CommitMode) -> Result<HookOptions, String> {
        Ok(HookOptions::default())
    }
}

/// Options for tests: none.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct HookOptions {}

impl HookOptions {
    /// Every rule is in force.
    #[expect(clippy::unused_self, reason = "the interface of the enabled version")]
    pub(crate) fn rules(&self) -> Rules {
        Rules::ALL
    }

    /// Numbers begin at 1.
    #[expect(clippy::unused_self, reason = "the interface of the enabled version")]
    pub(crate) fn sequence_above(&self) -> u64 {
        0
    }

    /// Nothing is skipped.
    #[expect(clippy::unused_self, reason = "the interface of the enabled version")]
    pub(crate) fn sync_mode(&self) -> SyncMode {
        SyncMode::All
    }

    /// Every rule of the store is in force.
    #[expect(clippy::unused_self, reason = "the interface of the enabled version")]
    pub(crate) fn store_rules(&self) -> store::Rules {
        store::Rules::ALL
    }
}

/// A crash point was hit: never.
pub(crate) struct Hit(Infallible);

impl Hit {
    pub(crate) fn stop(self) {
        match self.0 {}
    }
}

/// What crosses a site: not tracked.
pub(crate) struct Crossing;

/// The hooks of a node.
pub(crate) struct Hooks;

#[expect(clippy::unused_self, reason = "the interface of the enabled version")]
impl Hooks {
    pub(crate) fn new(
        _: HookOptions,
        _: Node,
    ) -> Result<(Self, impl Future<Output = ()>), NodeError> {
        Ok((Hooks, future::pending()))
    }

    pub(crate) fn observer(&self) -> Option<Box<dyn Observer<Record>>> {
        None
    }

    pub(crate) fn listening(&self, _: &str) {}

    pub(crate) fn open_journal(&mut self) -> Result<(), NodeError> {
        Ok(())
    }

    pub(crate) fn recovered(&mut self, _: Config, _: Vec<Record>, _: &[Effect]) {}

    pub(crate) fn iteration(&mut self) {}

    pub(crate) fn event(&mut self, _: &Event) {}

    pub(crate) fn effects(&mut self, _: &[Effect]) {}

    pub(crate) fn write_journal(&mut self) -> Result<(), NodeError> {
        Ok(())
    }

    pub(crate) fn receiving(&self, _: &Event) -> Crossing {
        Crossing
    }

    pub(crate) fn performing(&self, _: &Effect) -> Crossing {
        Crossing
    }

    pub(crate) fn hit(&self, _: Side, _: &Crossing) -> Option<Hit> {
        None
    }

    pub(crate) fn replied(&mut self, _: Arc<Meter>) {}

    pub(crate) fn replies_accepted(&self) -> bool {
        true
    }
}
