//! Mistakes that a programmer could make in the protocol or in a node, and that no rule is about. Each
//! has a name, so that a test can make it and see which check detects it. In production none is made.
//! Each is made at one place, which asks [`Rules::makes`](super::Rules::makes).

use std::{fmt, str::FromStr};

macro_rules! mistakes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal : $does:literal),* $(,)?) => {
        /// One mistake.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Mistake { $($(#[$doc])* $variant),* }

        impl Mistake {
            /// Every mistake: those of the machines first, then those of the node around them.
            pub const ALL: &[Mistake] = &[$(Mistake::$variant),*];

            /// The mistake's name, as on the command line.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Mistake::$variant => $name),* }
            }

            /// What a system does that makes the mistake.
            #[must_use]
            pub fn does(self) -> &'static str {
                match self { $(Mistake::$variant => $does),* }
            }
        }
    };
}

mistakes! {
    /// A replica's answer to a read has the right value and a wrong version.
    VersionBefore = "version-before": "tells with a value the version before that of the value",
    /// A write conflicts with a transaction that no longer holds the key.
    ConflictAfterDecision = "conflict-after-decision": "answers CONFLICT until all have acknowledged the last write of the key",
    /// The watermark stays where it is from some transaction on.
    WatermarkStops = "watermark-stops": "advances the watermark no further than to transaction 300",
    /// The sequence number of the watermark is kept in 32 bits.
    WatermarkIn32Bits = "watermark-in-32-bits": "tells the watermark with 32 bits of its sequence number",
    /// A decision is sent once.
    DecisionNotRepeated = "decision-not-repeated": "sends each decision once, acknowledged or not",
    /// The timer of the votes is armed with ten times its time.
    VoteTimeoutTenfold = "vote-timeout-tenfold": "waits for votes ten times as long as configured",
    /// The timer of the second and each later inquiry is armed with ten times its time.
    InquiryTenfold = "inquiry-tenfold": "repeats inquiries after ten times the configured time",
    /// An abort that overtakes the sync of PREPARE does not unlock the key.
    LockAfterAbort = "lock-after-abort": "keeps the lock of a transaction that is aborted before its PREPARE is durable",
    /// Of the random number that selects a replica, three bits are used.
    ReadsByThreeBits = "reads-by-three-bits": "selects the replica of a get by three random bits",
    /// A replica that does not answer stays live.
    SilentReplicaKept = "silent-replica-kept": "takes a replica for live that does not answer heartbeats",
    /// A master that is told to stop reports an abort of what it has not decided, and then decides.
    StopReportsAbort = "stop-reports-abort": "reports writes as aborted when it is told to stop, and goes on with them",
    /// The scrub sees no difference.
    ScrubComparesNothing = "scrub-compares-nothing": "takes each range of entries for equal to that of a peer",
    /// A vote is written to the journal and never sent.
    VoteDropped = "vote-dropped": "drops its yes vote on every 64th transaction",
    /// A write is begun again some time after it was answered.
    WriteRepeated = "write-repeated": "begins each 16th write again some calls later",
    /// The descriptor of a connection is not closed with the connection.
    DescriptorLeaked = "descriptor-leaked": "keeps a descriptor of every connection",
    /// The event loop does not wait.
    LoopSpins = "loop-spins": "asks for events without waiting for them",
}

impl Mistake {
    /// Whether it is made by the state machine of a node. The others are made by the node around it, which the model
    /// and the simulator do not have.
    #[must_use]
    pub fn is_of_machine(self) -> bool {
        self < Mistake::VoteDropped
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Mistake {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Mistake::ALL.iter().copied().find(|mistake| mistake.name() == text).ok_or_else(|| {
            let names: Vec<_> = Mistake::ALL.iter().map(|mistake| mistake.name()).collect();
            format!("unknown mistake '{text}': expected one of {}", names.join(", "))
        })
    }
}
