//! The hooks of a node with the feature `test-hooks`.

use std::{future, path::PathBuf, sync::Arc, time::Duration};

use clap::Args;
use nix::{
    sys::{prctl, signal::Signal},
    time::{ClockId, clock_gettime},
    unistd::getppid,
};
use tokio::sync::oneshot;

use super::{
    Hit, Side, control,
    crash_points::{CrashPoints, PersistHooks, Site, print_control_line, txn_of_reply},
};
use crate::{
    cli::{MasterArgs, ReplicaArgs},
    meter::Meter,
    node::NodeError,
    protocol::{CommitMode, Config, Effect, Event, Mistake, Node, Record, Rule, Rules, TxnId},
    store::{self, Observer, SyncMode},
};

/// Flags for tests.
#[derive(Args, Clone, Debug, Default)]
pub struct HookArgs {
    /// Break a rule of the protocol, so that a test can show that it is detected. May be repeated
    #[arg(long = "break", value_name = "RULE", hide = true, value_parser = rule)]
    pub break_rules: Vec<Rule>,

    /// Make a mistake that no rule is about, so that a test can show that it is detected. May be repeated
    #[arg(long = "mistake", value_name = "MISTAKE", hide = true)]
    pub mistakes: Vec<Mistake>,

    /// Number the transactions of each epoch from the next number on, to reach numbers that take days of load
    #[arg(long, value_name = "N", default_value_t = 0, hide = true,
          value_parser = clap::value_parser!(u64).range(..1 << 55))]
    pub sequence_above: u64,

    /// Append every event and effect of the node's machine to this file
    #[arg(long, value_name = "FILE", hide = true)]
    pub journal: Option<PathBuf>,

    /// Arm this crash point before anything else happens
    #[arg(long, value_name = "POINT", hide = true, requires = "control")]
    pub arm: Option<String>,

    /// Take commands (arm POINT, disarm) from standard input, and stop when it is closed
    #[arg(long, hide = true)]
    pub control: bool,

    /// The process id of the controlling process; end when it is not, or no longer, the parent
    #[arg(long, value_name = "PID", hide = true, requires = "control")]
    pub parent: Option<i32>,

    /// How the store is weakened. Not a flag: see [`MasterArgs::run_with`].
    #[arg(skip)]
    pub store: StoreDefects,
}

/// What a store does less than it should.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreDefects {
    /// Which syncs a commit waits for.
    pub sync_mode: SyncMode,
    /// The rules in force.
    pub rules: store::Rules,
}

/// Parses a rule, and warns if the name is an earlier one.
fn rule(text: &str) -> Result<Rule, String> {
    if let Some(name) = Rule::renamed(text) {
        eprintln!("warning: rule '{text}' is now called '{name}'");
    }
    text.parse()
}

impl HookArgs {
    /// Under control, asks the kernel to kill this process when its parent ends.
    ///
    /// # Errors
    /// The parent is not the controlling process.
    pub(crate) fn tie_to_parent(&self) -> Result<(), String> {
        if !self.control {
            return Ok(());
        }
        prctl::set_pdeathsig(Signal::SIGKILL)
            .map_err(|error| format!("cannot set the parent-death signal: {error}"))?;
        // The parent may have ended before the call.
        match self.parent {
            Some(parent) if parent != getppid().as_raw() => {
                Err(format!("the parent process is not {parent}, the controlling process"))
            }
            _ => Ok(()),
        }
    }

    /// The options for a node of a cluster with this commit mode.
    ///
    /// # Errors
    /// A rule has no effect in this mode.
    pub(crate) fn options(self, commit: CommitMode) -> Result<HookOptions, String> {
        let HookArgs {
            break_rules,
            mistakes,
            sequence_above,
            journal,
            arm,
            control,
            parent: _,
            store,
        } = self;
        Rule::check(&break_rules, &[commit])?;
        let rules = break_rules.into_iter().fold(Rules::ALL, Rules::without);
        let rules = mistakes.into_iter().fold(rules, Rules::with);
        Ok(HookOptions { rules, sequence_above, journal, control, arm, store })
    }
}

impl MasterArgs {
    /// Runs the master with a weakened store.
    #[must_use]
    pub fn run_with(mut self, store: StoreDefects) -> std::process::ExitCode {
        self.node.hooks.store = store;
        self.run()
    }
}

impl ReplicaArgs {
    /// Runs the replica with a weakened store.
    #[must_use]
    pub fn run_with(mut self, store: StoreDefects) -> std::process::ExitCode {
        self.node.hooks.store = store;
        self.run()
    }
}

/// Options for tests.
#[derive(Clone, Debug, Default)]
pub struct HookOptions {
    /// The rules in force.
    pub rules: Rules,
    /// The transactions of each epoch are numbered from the next number on.
    pub sequence_above: u64,
    /// The journal to append to.
    pub journal: Option<PathBuf>,
    /// Whether to take commands from standard input, and stop when it is closed.
    pub control: bool,
    /// A crash point that is armed before anything else happens.
    pub arm: Option<String>,
    /// How the store is weakened.
    pub store: StoreDefects,
}

impl HookOptions {
    pub(crate) fn rules(&self) -> Rules {
        self.rules
    }

    pub(crate) fn sequence_above(&self) -> u64 {
        self.sequence_above
    }

    pub(crate) fn sync_mode(&self) -> SyncMode {
        self.store.sync_mode
    }

    pub(crate) fn store_rules(&self) -> store::Rules {
        self.store.rules
    }
}

/// What crosses a site: the site, the kind, and the transaction that it is about. None if no crash
/// point is armed there.
pub(crate) struct Crossing(Option<(Site, &'static str, Option<TxnId>)>);

/// The hooks of a node.
pub(crate) struct Hooks {
    crash_points: Arc<CrashPoints>,
    control: bool,
    journal_path: Option<PathBuf>,
    journal: Option<(journal::Writer, PathBuf)>,
    /// The time of the current iteration, if there is a journal.
    now_ns: u64,
    /// Replies of this iteration, each with the value of its connection's meter once the kernel has
    /// accepted it. Only tracked while a crash point is armed.
    replies: Vec<(Arc<Meter>, u64)>,
}

impl Hooks {
    /// Sets up the hooks of a node. The future completes when a controlled node's standard input is
    /// closed.
    ///
    /// # Errors
    /// The control thread cannot be started.
    pub(crate) fn new(
        options: HookOptions,
        node: Node,
    ) -> Result<(Self, impl Future<Output = ()>), NodeError> {
        for rule in options.rules.broken() {
            tracing::warn!("RULE BROKEN: this node {}; its data is not safe", rule.without());
        }
        for mistake in options.rules.made() {
            tracing::warn!("MISTAKE MADE: this node {}; its data is not safe", mistake.does());
        }
        if options.store.rules != store::Rules::ALL {
            tracing::warn!(
                "RULES OF THE STORE BROKEN, OR MISTAKES MADE: the data of this node is not safe"
            );
        }
        if options.store.sync_mode != SyncMode::All {
            tracing::warn!("SYNCS SKIPPED: the data of this node is not safe");
        }
        let crash_points = Arc::new(CrashPoints::default());
        if let Some(point) = options.arm
            && let Err(why) = crash_points.arm(&point, node.into())
        {
            print_control_line(&format!("error {point} {why}"));
        }
        let (ended, end) = oneshot::channel();
        if options.control {
            control::listen(crash_points.clone(), node.into(), ended)
                .map_err(|cause| NodeError::Process { doing: "start the control thread", cause })?;
        }
        let control_closed = async move {
            if end.await.is_err() {
                future::pending::<()>().await;
            }
        };
        let hooks = Hooks {
            crash_points,
            control: options.control,
            journal_path: options.journal,
            journal: None,
            now_ns: 0,
            replies: Vec::new(),
        };
        Ok((hooks, control_closed))
    }

    /// The observer of the store's writer.
    pub(crate) fn observer(&self) -> Option<Box<dyn Observer<Record>>> {
        self.control.then(|| Box::new(PersistHooks(self.crash_points.clone())) as _)
    }

    /// The node listens on an address.
    pub(crate) fn listening(&self, address: &str) {
        if self.control {
            print_control_line(&format!("listening {address}"));
        }
    }

    /// Opens the journal.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub(crate) fn open_journal(&mut self) -> Result<(), NodeError> {
        let Some(path) = self.journal_path.take() else { return Ok(()) };
        match journal::Writer::open(&path) {
            Ok(writer) => self.journal = Some((writer, path)),
            Err(cause) => return Err(NodeError::Journal { path, cause }),
        }
        Ok(())
    }

    /// The machine was recovered from records, with these effects.
    pub(crate) fn recovered(&mut self, config: Config, records: Vec<Record>, effects: &[Effect]) {
        self.add(|| journal::Entry::Start {
            t: monotonic_ns(),
            config,
            records,
            read_results: true,
        });
        self.effects(effects);
    }

    /// An iteration of the event loop begins.
    pub(crate) fn iteration(&mut self) {
        self.replies.clear();
        if self.journal.is_some() {
            self.now_ns = monotonic_ns();
        }
    }

    /// The machine is about to process an event.
    pub(crate) fn event(&mut self, event: &Event) {
        let t = self.now_ns;
        self.add(|| journal::Entry::Event { t, event: event.clone() });
    }

    /// The machine returned these effects.
    pub(crate) fn effects(&mut self, effects: &[Effect]) {
        for effect in effects {
            self.add(|| journal::Entry::Effect(effect.clone()));
        }
    }

    fn add(&mut self, entry: impl FnOnce() -> journal::Entry) {
        if let Some((journal, _)) = &mut self.journal {
            journal.add(&entry());
        }
    }

    /// Effects are about to leave the process: writes the entries that are not written yet.
    ///
    /// # Errors
    /// The journal cannot be written, so the effects must not leave.
    pub(crate) fn write_journal(&mut self) -> Result<(), NodeError> {
        match &mut self.journal {
            Some((journal, path)) => {
                journal.write().map_err(|cause| NodeError::Journal { path: path.clone(), cause })
            }
            None => Ok(()),
        }
    }

    /// An event is about to be processed; only messages and requests cross a site.
    pub(crate) fn receiving(&self, event: &Event) -> Crossing {
        self.crossing(Site::Receive, || match event {
            Event::Message { message, .. } => {
                Some((message.body.kind(), message.body.txns().first().copied()))
            }
            Event::Client { request, .. } => Some((request.kind(), None)),
            Event::Persisted(_)
            | Event::Timer(_)
            | Event::ForceAge(_)
            | Event::Leave
            | Event::ReadResult { .. }
            | Event::ReadFailed { .. }
            | Event::KeysRead { .. }
            | Event::PageRead { .. }
            | Event::Damaged { .. }
            | Event::Copied { .. }
            | Event::Checkpointed { .. }
            | Event::Summarized { .. }
            | Event::Checked { .. }
            | Event::Room { .. } => None,
        })
    }

    /// An effect is about to be performed; only messages and replies cross a site.
    pub(crate) fn performing(&self, effect: &Effect) -> Crossing {
        match effect {
            Effect::Send { message, .. } => self.crossing(Site::Send, || {
                Some((message.body.kind(), message.body.txns().first().copied()))
            }),
            Effect::Reply { reply, .. } => {
                self.crossing(Site::Reply, || Some((reply.kind(), txn_of_reply(reply))))
            }
            _ => Crossing(None),
        }
    }

    fn crossing(
        &self,
        site: Site,
        what: impl FnOnce() -> Option<(&'static str, Option<TxnId>)>,
    ) -> Crossing {
        if !self.crash_points.is_armed_at(site) {
            return Crossing(None);
        }
        Crossing(what().map(|(kind, txn)| (site, kind, txn)))
    }

    /// Whether the armed crash point is hit on this side of a site. The caller must stop.
    pub(crate) fn hit(&self, side: Side, crossing: &Crossing) -> Option<Hit> {
        let (site, kind, txn) = crossing.0?;
        self.crash_points.hit(side, site, kind, txn)
    }

    /// A reply was sent on a connection.
    pub(crate) fn replied(&mut self, meter: Arc<Meter>) {
        if self.crash_points.is_armed() {
            let earlier = self.replies.iter().rfind(|(other, _)| Arc::ptr_eq(other, &meter));
            let accepted = earlier.map_or(0, |(_, accepted)| *accepted).max(meter.ended()) + 1;
            self.replies.push((meter, accepted));
        }
    }

    /// Whether the kernel has accepted every reply of this iteration.
    pub(crate) fn replies_accepted(&self) -> bool {
        self.replies.iter().all(|(meter, accepted)| meter.ended() >= *accepted)
    }
}

/// The monotonic clock, which all processes of a machine share.
fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("CLOCK_MONOTONIC exists");
    u64::try_from(Duration::from(now).as_nanos()).unwrap_or(u64::MAX)
}
