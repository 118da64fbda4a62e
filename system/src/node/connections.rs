//! The accepted connections: which of them have to go, because there are too many, because nobody uses them, or
//! because their client does not take its answers. Does not know what is called on them.

use std::{mem, sync::Arc, time::Duration};

use tokio::{
    sync::Notify,
    task::{AbortHandle, yield_now},
    time::Instant,
};

use super::limits::{Account, Resource};
use crate::{config::NodeLimits, tls::Caller};

/// How often all connections are looked at.
pub(super) const SWEEP_INTERVAL: Duration = Duration::from_millis(500);
/// How often closed connections are reported at most.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// A client takes its answers if it takes this much within the answer timeout.
const TAKEN_BYTES_MIN: u64 = 64 << 10;
/// Sweeps that a client has to close a connection that it was asked to close.
const CLOSING_SWEEPS_MAX: u32 = 10;

/// A connection. Its task ends when it is closed.
struct Open {
    task: AbortHandle,
    account: Arc<Account>,
    /// Notified to ask the client to close the connection.
    close: Arc<Notify>,
    /// Sweeps since `close` was notified.
    closing: Option<u32>,
    /// Sweeps since answers wait, and the bytes that the client had taken then.
    waiting: Option<(u32, u64)>,
}

impl Open {
    /// Counts sweeps, and not time: a process that was paused must not take its own silence for the client's.
    fn is_stalled(&mut self, sweeps_max: u32) -> bool {
        let taken = self.account.meter.data();
        if self.account.used(Resource::AnswerBytes) == 0 {
            self.waiting = None;
            return false;
        }
        let (sweeps, before) = self.waiting.get_or_insert((0, taken));
        *sweeps += 1;
        if *sweeps <= sweeps_max {
            return false;
        }
        let stalled = taken - *before < TAKEN_BYTES_MIN;
        self.waiting = None;
        stalled
    }

    fn is_idle(&self, now: Instant, idle_timeout: Duration) -> bool {
        let in_use = |resource| self.account.used(resource) > 0;
        now.duration_since(self.account.meter.last_heard()) > idle_timeout
            && !in_use(Resource::Calls)
            && !in_use(Resource::PeerCalls)
            && !in_use(Resource::OtherCalls)
    }
}

/// The accepted connections.
pub(super) struct Connections {
    max: usize,
    answer_sweeps_max: u32,
    /// None if connections may be idle forever.
    idle_timeout: Option<Duration>,
    open: Vec<Open>,
    /// Closed for others since the last report.
    closed: u64,
    /// Closed since the last report because their client did not take its answers.
    stalled: u64,
    reported: Option<Instant>,
}

impl Connections {
    pub(super) fn new(max: usize, limits: &NodeLimits) -> Self {
        let sweeps = limits.answer_timeout_ms.div_ceil(SWEEP_INTERVAL.as_millis() as u64);
        let idle = limits.idle_timeout_ms;
        Connections {
            max,
            answer_sweeps_max: u32::try_from(sweeps).unwrap_or(u32::MAX),
            idle_timeout: (idle > 0).then(|| Duration::from_millis(idle)),
            open: Vec::new(),
            closed: 0,
            stalled: 0,
            reported: None,
        }
    }

    /// Makes room for another connection: closes the one that has been silent for longest if there are too many.
    /// Peers are never silent for long, and connections that nobody uses always are. So nobody can keep a peer or
    /// a client out with connections that it only opens. With TLS, those that have shown no certificate go first,
    /// their handshakes unfinished or not, however much they send.
    pub(super) async fn make_room(&mut self) {
        self.open.retain(|open| !open.task.is_finished());
        while self.open.len() >= self.max {
            let rank = |open: &Open| {
                let is_known = matches!(open.account.caller(), Caller::Known(_));
                (is_known, open.account.meter.last_heard())
            };
            let silent = self.open.iter().enumerate().min_by_key(|(_, open)| rank(open));
            let Some((at, _)) = silent else { return };
            self.open.swap_remove(at).task.abort();
            self.closed += 1;
            // The task lets go of its descriptor before another connection takes one.
            yield_now().await;
        }
        self.report();
    }

    pub(super) fn add(&mut self, task: AbortHandle, account: Arc<Account>, close: Arc<Notify>) {
        self.open.push(Open { task, account, close, closing: None, waiting: None });
    }

    /// Closes the connections that are idle, and those whose client does not take its answers.
    pub(super) fn sweep(&mut self, now: Instant) {
        self.open.retain(|open| !open.task.is_finished());
        for open in &mut self.open {
            if open.is_stalled(self.answer_sweeps_max) {
                self.stalled += 1;
                open.task.abort();
            } else if let Some(sweeps) = &mut open.closing {
                *sweeps += 1;
                if *sweeps > CLOSING_SWEEPS_MAX {
                    open.task.abort();
                }
            } else if self.idle_timeout.is_some_and(|timeout| open.is_idle(now, timeout)) {
                open.closing = Some(0);
                open.close.notify_one();
            }
        }
        self.report();
    }

    fn report(&mut self) {
        let now = Instant::now();
        if self.closed + self.stalled == 0
            || self.reported.is_some_and(|at| now < at + REPORT_INTERVAL)
        {
            return;
        }
        self.reported = Some(now);
        let (closed, stalled, max) =
            (mem::take(&mut self.closed), mem::take(&mut self.stalled), self.max);
        if closed > 0 {
            tracing::warn!(
                "closed {closed} connections, those that were silent for longest: this node accepts {max}"
            );
        }
        if stalled > 0 {
            tracing::warn!("closed {stalled} connections whose clients do not take their answers");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;
    use crate::{node::limits::Budgets, tls::Role};

    struct Opened {
        task: tokio::task::JoinHandle<()>,
        account: Arc<Account>,
        close: Arc<Notify>,
    }

    fn open(connections: &mut Connections) -> Opened {
        let budgets = Arc::new(Budgets::new(&NodeLimits::default(), 0));
        let task = tokio::spawn(pending::<()>());
        let (account, close) = (Account::new(budgets, Arc::default()), Arc::default());
        connections.add(task.abort_handle(), Arc::clone(&account), Arc::clone(&close));
        Opened { task, account, close }
    }

    #[tokio::test]
    async fn the_most_silent_connection_makes_room() {
        let mut connections = Connections::new(3, &NodeLimits::default());
        let mut opened = Vec::new();
        for _ in 0..3 {
            connections.make_room().await;
            opened.push(open(&mut connections));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        opened[0].account.meter.set_heard();
        connections.make_room().await;
        assert_eq!([0, 1, 2].map(|at: usize| opened[at].task.is_finished()), [false, true, false]);
        // A connection that has ended by itself makes room as well.
        open(&mut connections).task.abort();
        yield_now().await;
        connections.make_room().await;
        assert_eq!(connections.open.len(), 2);
        assert!(!opened[0].task.is_finished() && !opened[2].task.is_finished());
    }

    #[tokio::test]
    async fn those_without_a_certificate_make_room_first() {
        let mut connections = Connections::new(3, &NodeLimits::default());
        let mut opened = Vec::new();
        for caller in [Some(Caller::Known(Role::Client)), Some(Caller::Stranger), None] {
            connections.make_room().await;
            let one = open(&mut connections);
            caller.into_iter().for_each(|caller| one.account.identify(caller));
            opened.push(one);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        opened[1].account.meter.set_heard();
        for expected in [[false, false, true], [false, true, true], [true, true, true]] {
            connections.make_room().await;
            open(&mut connections).account.identify(Caller::Known(Role::Admin));
            yield_now().await;
            assert_eq!([0, 1, 2].map(|at: usize| opened[at].task.is_finished()), expected);
        }
    }

    #[tokio::test]
    async fn a_client_that_takes_no_answers_is_closed() {
        let limits = NodeLimits { answer_timeout_ms: 1000, ..NodeLimits::default() };
        let mut connections = Connections::new(10, &limits);
        let [stalled, slow, quick] = [(); 3].map(|()| open(&mut connections));
        let held = [&stalled, &slow]
            .map(|opened| opened.account.take(Resource::AnswerBytes, 1).expect("there is room"));
        for _ in 0..3 {
            let waits = quick.account.take(Resource::AnswerBytes, 1).expect("there is room");
            for _ in 0..2 {
                slow.account.meter.count_data(TAKEN_BYTES_MIN / 2);
                connections.sweep(Instant::now());
            }
            drop(waits);
            slow.account.meter.count_data(TAKEN_BYTES_MIN / 2);
            connections.sweep(Instant::now());
            yield_now().await;
        }
        yield_now().await;
        assert!(stalled.task.is_finished(), "nothing was taken");
        assert!(!slow.task.is_finished() && !quick.task.is_finished());
        drop(held);
    }

    #[tokio::test]
    async fn an_idle_connection_is_closed_politely_and_then_for_good() {
        let limits = NodeLimits { idle_timeout_ms: 10_000, ..NodeLimits::default() };
        let mut connections = Connections::new(10, &limits);
        let [idle, used] = [(); 2].map(|()| open(&mut connections));
        let call = used.account.take(Resource::Calls, 1).expect("there is room");
        let now = Instant::now();
        connections.sweep(now + Duration::from_secs(9));
        assert!(connections.open.iter().all(|open| open.closing.is_none()));
        let later = now + Duration::from_secs(11);
        connections.sweep(later);
        idle.close.notified().await;
        (0..CLOSING_SWEEPS_MAX).for_each(|_| connections.sweep(later));
        yield_now().await;
        assert!(!idle.task.is_finished(), "it may take some time");
        connections.sweep(later);
        yield_now().await;
        assert!(idle.task.is_finished() && !used.task.is_finished());
        drop(call);
    }
}
