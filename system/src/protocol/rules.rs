//! The rules that make the protocol right, each by name, so that a harness can break one and see
//! who notices. In production all are on. The machines and the drivers consult them; nothing else
//! decides by them.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::CommitMode;

/// Names that rules had in records of earlier versions, and the names they have now.
const RENAMED: [(&str, &str); 6] = [
    ("keep-outcome-until-floor", "keep-outcome-until-watermark"),
    ("floor-waits-for-acks", "watermark-waits-for-acks"),
    ("floor-waits-for-handshakes", "watermark-waits-for-handshakes"),
    ("master-boot-forces", "epoch-forced"),
    ("replica-boot-forces", "incarnation-forced"),
    ("resolves-on-prepare", "piggyback-on-prepare"),
];

macro_rules! rules {
    ($($(#[$doc:meta])* $variant:ident = $name:literal : $without:literal),* $(,)?) => {
        /// One rule.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Rule { $($(#[$doc])* $variant),* }

        impl Rule {
            /// Every rule, in the order in which the protocol's description names them.
            pub const ALL: &[Rule] = &[$(Rule::$variant),*];

            /// The rule's name, as typed.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Rule::$variant => $name),* }
            }

            /// What a system does that breaks the rule.
            #[must_use]
            pub fn without(self) -> &'static str {
                match self { $(Rule::$variant => $without),* }
            }
        }
    };
}

rules! {
    /// COMMIT is durable at the master before anybody is told.
    DecisionForced = "decision-forced": "says Ok and Decide before COMMIT is durable",
    /// PREPARE is durable before the yes vote leaves.
    VoteForced = "vote-forced": "votes yes before PREPARE is durable",
    /// A restarted replica locks the keys of its undecided transactions before it serves.
    RelockOnRecovery = "relock-on-recovery": "forgets its locks in a restart",
    /// A locked key is not read.
    ReadsRespectLocks = "reads-respect-locks": "reads a key though it is locked",
    /// A prepared participant never decides alone.
    PreparedWaits = "prepared-waits": "aborts alone when it has been in doubt for long",
    /// An outcome is acknowledged when it is durable.
    AckAfterDurable = "ack-after-durable": "acknowledges before COMMIT or ABORT is durable",
    /// The master remembers a commit until every replica has acknowledged it.
    ForgetAfterAllAcks = "forget-after-all-acks": "forgets a commit at the first acknowledgement",
    /// A participant that tells a peer Abort has durably refused to prepare.
    RefuseBeforePeerAbort = "refuse-before-peer-abort": "tells a peer Abort without REFUSED",
    /// A replica keeps an outcome until the watermark has passed it.
    KeepOutcomeUntilWatermark = "keep-outcome-until-watermark": "drops an outcome with its own acknowledgement",
    /// The watermark stays below every commit that somebody has not acknowledged.
    WatermarkWaitsForAcks = "watermark-waits-for-acks": "lets the watermark pass an unacknowledged commit",
    /// A starting master acts on nothing before EPOCH is durable.
    EpochForced = "epoch-forced": "acts at start on records that may still be lost",
    /// A starting replica acts on nothing before INCARNATION is durable.
    IncarnationForced = "incarnation-forced": "acts at start on records that may still be lost",
    /// A committed participant ignores a late presumed abort.
    CommitIsFinal = "commit-is-final": "obeys an abort after it has committed",
    /// A commit needs the yes of every replica.
    WriteAll = "write-all": "commits on a majority of votes",
    /// One process has the store at a time.
    ExclusiveStore = "exclusive-store": "opens a store that another process has open",
    /// That all are prepared does not mean commit.
    NoGuessInDoubt = "no-guess-in-doubt": "takes 'all are prepared' for a commit",
    /// A Prepare carries the decisions that its key still waits for.
    PiggybackOnPrepare = "piggyback-on-prepare": "sends Prepare without the key's last decisions",
    /// A node that lost its directory is refused.
    EmptyStoreRefused = "empty-store-refused": "lets an empty store rejoin",
    /// Where the votes decide, an abort is announced when a replica has vetoed.
    VetoBeforeAbort = "veto-before-abort": "announces an abort that no replica has vetoed",
    /// Where the votes decide, a veto is told of when it is durable.
    VetoForced = "veto-forced": "tells of a veto before REFUSED is durable",
    /// Where the votes decide, a master that has asked for vetoes counts only votes that are final.
    LateYesIsVoid = "late-yes-is-void": "counts a yes that came after it had asked for vetoes",
    /// Where the votes decide, a replica has durably given up its veto before it tells a peer that its
    /// yes is final, or asks its peers for theirs.
    FreezeBeforeAnswer = "freeze-before-answer": "says that its yes is final without FROZEN",
    /// Where the votes decide, a starting master takes nothing for aborted.
    NoPresumption = "no-presumption": "takes what it does not know for aborted, with no log to say so",
    /// Where the votes decide, the watermark of a starting master stays where the replicas know it to be
    /// until all have handshaken and what they were in doubt about is settled.
    WatermarkWaitsForHandshakes = "watermark-waits-for-handshakes": "lets its watermark pass what a replica may be in doubt about",
    /// Where the votes decide, a replica's commits are durable before its handshake, which does not
    /// name them.
    HandshakeAfterCommits = "handshake-after-commits": "completes the handshake with a COMMIT that can still be lost",
    /// A replica obeys no Prepare of an epoch below the one it promised. Redundant where the master's
    /// log decides: the store is exclusive.
    EpochCheck = "epoch-check": "prepares for a master that was fenced off",
    /// A replica serves reads only after a handshake since its start. Redundant: it has locked
    /// again what it had locked.
    HandshakeBeforeServing = "handshake-before-serving": "serves reads before the first handshake",
    /// A replica votes no on a locked key. Redundant: the master's table keeps such a Prepare back.
    ReplicaLock = "replica-lock": "prepares a key that is locked",
}

impl Rule {
    /// Whether the rule means something in a cluster that commits in this mode.
    #[must_use]
    pub fn applies_to(self, commit: CommitMode) -> bool {
        match self {
            Rule::DecisionForced | Rule::NoGuessInDoubt => commit == CommitMode::Logged,
            Rule::VetoBeforeAbort
            | Rule::VetoForced
            | Rule::LateYesIsVoid
            | Rule::FreezeBeforeAnswer
            | Rule::NoPresumption
            | Rule::WatermarkWaitsForHandshakes
            | Rule::HandshakeAfterCommits => commit == CommitMode::Votes,
            _ => true,
        }
    }

    /// Whether another rule covers for this one in the present configuration, so that breaking it
    /// is rightly not caught.
    #[must_use]
    pub fn is_equivalent(self, commit: CommitMode) -> bool {
        match self {
            Rule::HandshakeBeforeServing | Rule::ReplicaLock => true,
            Rule::EpochCheck => commit == CommitMode::Logged,
            _ => !self.applies_to(commit),
        }
    }

    /// Whether each of these rules means something in one of these modes. To break one that does not
    /// breaks nothing, and whatever is then found valid tells nothing.
    ///
    /// # Errors
    /// The first that does not, in words.
    pub fn check(rules: &[Rule], modes: &[CommitMode]) -> Result<(), String> {
        let concerned = |rule: &&Rule| modes.iter().any(|mode| rule.applies_to(*mode));
        let Some(rule) = rules.iter().find(|rule| !concerned(rule)) else { return Ok(()) };
        let list = |modes: &[CommitMode], between| {
            modes.iter().map(ToString::to_string).collect::<Vec<_>>().join(between)
        };
        let other: Vec<_> = CommitMode::ALL.into_iter().filter(|it| rule.applies_to(*it)).collect();
        let (here, other) = (list(modes, " or "), list(&other, " or --commit "));
        Err(format!("{rule} means nothing where commit = {here}: say --commit {other}"))
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let name = RENAMED.iter().find(|(old, _)| *old == text).map_or(text, |(_, new)| new);
        Rule::ALL.iter().copied().find(|rule| rule.name() == name).ok_or_else(|| {
            let names: Vec<_> = Rule::ALL.iter().map(|rule| rule.name()).collect();
            format!("'{text}' is no rule: want one of {}", names.join(", "))
        })
    }
}

/// Which rules a node keeps.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(into = "Vec<String>", try_from = "Vec<String>")]
pub struct Rules {
    /// A bit for each rule of [`Rule::ALL`] that is broken.
    broken: u32,
}

impl Rules {
    /// Every rule is kept.
    pub const ALL: Rules = Rules { broken: 0 };

    /// These rules, but one.
    #[must_use]
    pub const fn without(self, rule: Rule) -> Rules {
        Rules { broken: self.broken | 1 << rule as u32 }
    }

    /// Whether a rule is kept.
    #[must_use]
    pub const fn keep(self, rule: Rule) -> bool {
        self.broken & (1 << rule as u32) == 0
    }

    /// The rules that are broken.
    pub fn broken(self) -> impl Iterator<Item = Rule> {
        Rule::ALL.iter().copied().filter(move |rule| !self.keep(*rule))
    }
}

/// Serialised as the names of the rules that are broken.
impl From<Rules> for Vec<String> {
    fn from(rules: Rules) -> Self {
        rules.broken().map(|rule| rule.name().to_owned()).collect()
    }
}

impl TryFrom<Vec<String>> for Rules {
    type Error = String;

    fn try_from(broken: Vec<String>) -> Result<Self, String> {
        broken.iter().try_fold(Rules::ALL, |rules, name| Ok(rules.without(name.parse()?)))
    }
}
