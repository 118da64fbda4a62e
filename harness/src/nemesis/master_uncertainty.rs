//! master-uncertainty: the master stops itself inside the window of uncertainty, when replicas
//! have voted yes and not all of them have heard the decision; then it is killed or continued.

use std::time::Duration;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use system::protocol::{CommitMode, Node};

use super::{Deck, Fault, FaultName, Harm, Span, Strike, Trigger};

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
    points: Deck<String>,
    ends: Deck<End>,
    spans: Deck<Span>,
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
            points: Deck::new(window(replicas, commit)),
            ends: Deck::new(vec![End::Killed, End::KilledLater, End::Continued]),
            spans: Span::deck(),
        }
    }
}

impl Fault for MasterUncertainty {
    fn next(&mut self, rng: &mut ChaCha8Rng) -> Strike {
        let point = self.points.deal(rng);
        let span = self.spans.deal(rng).draw(rng);
        Strike::of(
            FaultName::MasterUncertainty,
            Duration::from_millis(rng.random_range(5..200)),
            Node::Master,
            Trigger::Point(point),
            match self.ends.deal(rng) {
                End::Killed => Harm::Kill { lies: Duration::ZERO, down: span },
                End::KilledLater => Harm::Kill { lies: span, down: Duration::ZERO },
                End::Continued => Harm::Pause { lies: span },
            },
        )
    }
}
