//! master-uncertainty: the master stops itself inside the window of uncertainty, when replicas
//! have voted yes and not all of them have heard the decision; then it is killed or continued.

use std::time::Duration;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use system::protocol::{CommitMode, Node};

use super::{Fault, FaultAction, FaultName, Injection, ShuffledBag, Span, Trigger};

/// What becomes of a master that lies in the window.
#[derive(Clone, Copy, Debug)]
enum End {
    /// Killed at once, and gone for a while: its peers find nobody.
    Killed,
    /// Killed after a while, and started at once: its peers have waited for an answer meanwhile.
    KilledLater,
    /// Continued after a while, with all that it knew.
    Continued,
}

#[derive(Debug)]
pub(super) struct MasterUncertainty {
    points: ShuffledBag<String>,
    ends: ShuffledBag<End>,
    spans: ShuffledBag<Span>,
}

/// The master's points inside the window of uncertainty, for so many replicas.
#[must_use]
pub fn window(replicas: u8, commit: CommitMode) -> Vec<String> {
    let first = match commit {
        CommitMode::Logged => ["master:before-persist:commit", "master:after-persist:commit"],
        // The master forces nothing: all have voted, and nobody has been told, or the client.
        CommitMode::Votes => ["master:before-reply:ok", "master:after-reply:ok"],
    };
    // The decision sent to all but the last replica leaves one in doubt. A single replica is in
    // doubt until it has received what was sent.
    let sent = (1..replicas.max(2)).map(|sent| format!("master:after-send:decide:{sent}"));
    first.map(str::to_owned).into_iter().chain(sent).collect()
}

impl MasterUncertainty {
    pub(super) fn new(replicas: u8, commit: CommitMode) -> Self {
        MasterUncertainty {
            points: ShuffledBag::new(window(replicas, commit)),
            ends: ShuffledBag::new(vec![End::Killed, End::KilledLater, End::Continued]),
            spans: Span::bag(),
        }
    }
}

impl Fault for MasterUncertainty {
    fn next(&mut self, rng: &mut ChaCha8Rng) -> Injection {
        let point = self.points.deal(rng);
        let span = self.spans.deal(rng).draw(rng);
        Injection::of(
            FaultName::MasterUncertainty,
            Duration::from_millis(rng.random_range(5..200)),
            Node::Master,
            Trigger::Point(point),
            match self.ends.deal(rng) {
                End::Killed => FaultAction::Kill { lies: Duration::ZERO, down: span },
                End::KilledLater => FaultAction::Kill { lies: span, down: Duration::ZERO },
                End::Continued => FaultAction::Pause { lies: span },
            },
        )
    }
}
