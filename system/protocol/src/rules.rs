//! The rules that make the protocol correct. Each has a name, so that a test can break it and see
//! which check detects that. In production all rules are in force. The machines and the drivers
//! consult them; nothing else does. A set of rules also says which [mistakes](Mistake) are made.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{CommitMode, Mistake};

/// Earlier names of rules, and the current ones.
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
            /// Every rule, in the order in which the description of the protocol introduces them.
            pub const ALL: &[Rule] = &[$(Rule::$variant),*];

            /// The rule's name, as on the command line.
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
    /// COMMIT is durable at the master before any node or client is told.
    DecisionForced = "decision-forced": "sends Ok and Decide before COMMIT is durable",
    /// PREPARE is durable before the yes vote is sent.
    VoteForced = "vote-forced": "votes yes before PREPARE is durable",
    /// A restarted replica locks the keys of its undecided transactions before it serves.
    RelockOnRecovery = "relock-on-recovery": "loses its locks in a restart",
    /// A locked key is not read.
    ReadsRespectLocks = "reads-respect-locks": "serves reads of a locked key",
    /// A prepared participant never decides on its own.
    PreparedWaits = "prepared-waits": "aborts on its own after being in doubt for too long",
    /// An outcome is acknowledged only once it is durable.
    AckAfterDurable = "ack-after-durable": "acknowledges before COMMIT or ABORT is durable",
    /// The master remembers a commit until every replica has acknowledged it.
    ForgetAfterAllAcks = "forget-after-all-acks": "forgets a commit at the first acknowledgement",
    /// A participant that sends a peer Abort has durably refused to prepare.
    RefuseBeforePeerAbort = "refuse-before-peer-abort": "sends a peer Abort without a REFUSED record",
    /// A replica keeps an outcome until the watermark has passed it.
    KeepOutcomeUntilWatermark = "keep-outcome-until-watermark": "drops an outcome as soon as it has acknowledged it",
    /// The watermark stays below every commit that some replica has not acknowledged.
    WatermarkWaitsForAcks = "watermark-waits-for-acks": "advances the watermark past an unacknowledged commit",
    /// A starting master does not act before EPOCH is durable.
    EpochForced = "epoch-forced": "acts after a start on records that may still be lost",
    /// A starting replica does not act before INCARNATION is durable.
    IncarnationForced = "incarnation-forced": "acts after a start on records that may still be lost",
    /// A committed participant ignores a late presumed abort.
    CommitIsFinal = "commit-is-final": "applies an abort after it has committed",
    /// A commit needs the yes vote of every replica.
    WriteAll = "write-all": "commits on a majority of votes",
    /// Only one process has the store open at a time.
    ExclusiveStore = "exclusive-store": "opens a store that another process has open",
    /// That all replicas are prepared does not imply commit.
    NoGuessInDoubt = "no-guess-in-doubt": "commits because all replicas are prepared",
    /// A Prepare piggybacks the unacknowledged decisions on its key.
    PiggybackOnPrepare = "piggyback-on-prepare": "sends Prepare without the unacknowledged decisions on its key",
    /// A node that lost its directory is refused.
    EmptyStoreRefused = "empty-store-refused": "lets an empty store rejoin",
    /// A replica promises nothing to a master that does not name the replica's store. A Fence from
    /// the beginning of the cluster names none and may arrive late, at a replica that has lost its
    /// store since.
    MemberBeforePromise = "member-before-promise": "promises an epoch to a master that does not know its store",
    /// The master's records of every replica's store are durable before it sends the first Prepare.
    /// In logged mode no check can detect that the rule is broken: they precede the first COMMIT in
    /// the log, so they are durable before the first commit.
    MembersDurableBeforeWrite = "members-durable-before-write": "takes writes before its records of the replicas' stores are durable",
    /// Every message carries the identity of the cluster, and an epoch with the nonce of its start;
    /// both sides compare them.
    NonceOnEveryMessage = "nonce-on-every-message": "obeys another cluster, or a master on a copy of the store",
    /// A Fence names the promise that it supersedes, and a replica supersedes no other. A master whose
    /// records do not hold a replica's promise runs on a copy of the store.
    FenceNamesSuperseded = "fence-names-superseded": "promises to a master that does not know the promise before",
    /// Logged mode: a master has decided every commit that a replica knows of. One that has not runs on
    /// an older copy of the store.
    DecisionNumberChecked = "decision-number-checked": "decides with a log that lacks commits",
    /// Logged mode: a replica that knows of more commits than a master has decided promises it nothing. If it promised, the copy would halt all the same, but the original could not come back.
    DecisionsBeforePromise = "decisions-before-promise": "promises an epoch to a master whose log lacks commits",
    /// Logged mode: every message says how many commits are decided, and a replica keeps the greatest
    /// number. It then knows of commits that it has not applied itself.
    DecisionsInEveryMessage = "decisions-in-every-message": "knows only of the commits that it has applied itself",
    /// A replica's store holds everything that the replica has told the master. One that does not is
    /// an older copy.
    RestoredStoreRefused = "restored-store-refused": "serves from an older copy of its store",
    /// Before the handshake of its start a replica obeys nothing that a master sends but its Fence: an older
    /// copy of its store must neither vote nor acknowledge.
    HandshakeBeforeObeying = "handshake-before-obeying": "votes and acknowledges before a master has told what its store must hold",
    /// A replica believes another one only if its store is the one that the master has named.
    PeerIdChecked = "peer-id-checked": "believes whoever claims to be a replica",
    /// Votes mode: an abort is announced only after a replica has vetoed.
    VetoBeforeAbort = "veto-before-abort": "announces an abort that no replica has vetoed",
    /// Votes mode: a veto is reported only once it is durable.
    VetoForced = "veto-forced": "reports a veto before REFUSED is durable",
    /// Votes mode: a master that has requested vetoes counts only votes that are final.
    LateYesIsVoid = "late-yes-is-void": "counts a yes vote that arrived after it had requested vetoes",
    /// Votes mode: a replica freezes its vote durably before it tells a node that its yes is final,
    /// and before it asks its peers.
    FreezeBeforeAnswer = "freeze-before-answer": "reports its yes as final without a FROZEN record",
    /// Votes mode: a starting master presumes no abort.
    NoPresumption = "no-presumption": "presumes abort for transactions that it does not know, without a log",
    /// Votes mode: until its takeover is complete, a starting master uses the greatest watermark
    /// that the replicas reported.
    WatermarkWaitsForHandshakes = "watermark-waits-for-handshakes": "advances its watermark past a transaction that a replica may be in doubt about",
    /// Votes mode: a replica's commits are durable before its handshake, which does not list them.
    HandshakeAfterCommits = "handshake-after-commits": "completes the handshake with a COMMIT that can still be lost",
    /// A peer's copy of a damaged entry is dropped if the key was written since the damage was found: it
    /// may be older than that write.
    LateHealDropped = "late-heal-dropped": "replaces an entry by a copy that was asked for earlier",
    /// The scrub takes no entry for lost whose key is locked here or at the peer, or was written since the
    /// peer was asked.
    ScrubComparesSettled = "scrub-compares-settled": "takes an entry for lost because a write of it is under way",
    /// Several keys are read at one instant at which none of them is locked.
    SnapshotAtOneInstant = "snapshot-at-one-instant": "reads each of several keys as soon as that key is unlocked",
    /// A page of a range ends before the first locked key, also if the key is absent: a write that is
    /// decided may be about to put it there.
    RangeSeesAbsentLocks = "range-sees-absent-locks": "ends a page only before locked keys that are in the store",
    /// A replica ignores a Prepare of an epoch below the promised one. In logged mode no check can
    /// detect that it is broken: the store is exclusive, so an earlier master has stopped.
    EpochCheck = "epoch-check": "prepares for a master that was fenced off",
    /// A replica serves reads only after a handshake since its start. No check can detect that it
    /// is broken: the replica has locked its undecided keys again.
    HandshakeBeforeServing = "handshake-before-serving": "serves reads before the first handshake",
    /// A replica votes no on a locked key. No check can detect that it is broken: the master holds
    /// such a Prepare back.
    ReplicaLock = "replica-lock": "prepares a locked key",
}

impl Rule {
    /// The current name of a rule, if `text` is an earlier one. Programs warn with it when a user
    /// types the earlier name.
    #[must_use]
    pub fn renamed(text: &str) -> Option<&'static str> {
        RENAMED.iter().find(|(old, _)| *old == text).map(|(_, new)| *new)
    }

    /// Whether the rule has any effect in a cluster of this commit mode.
    #[must_use]
    pub fn applies_to(self, commit: CommitMode) -> bool {
        match self {
            Rule::DecisionForced
            | Rule::NoGuessInDoubt
            | Rule::DecisionNumberChecked
            | Rule::DecisionsBeforePromise
            | Rule::DecisionsInEveryMessage => commit == CommitMode::Logged,
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

    /// Whether breaking the rule gives an equivalent system in this commit mode, because another
    /// rule covers for it, or because it only concerns strangers, copied stores, or the scrub, none of which
    /// the model has. No check of it can detect that then.
    #[must_use]
    pub fn is_equivalent(self, commit: CommitMode) -> bool {
        match self {
            Rule::HandshakeBeforeServing
            | Rule::ReplicaLock
            | Rule::NonceOnEveryMessage
            | Rule::FenceNamesSuperseded
            | Rule::DecisionNumberChecked
            | Rule::DecisionsBeforePromise
            | Rule::DecisionsInEveryMessage
            | Rule::RestoredStoreRefused
            | Rule::HandshakeBeforeObeying
            | Rule::PeerIdChecked
            | Rule::ScrubComparesSettled => true,
            Rule::EpochCheck | Rule::MembersDurableBeforeWrite => commit == CommitMode::Logged,
            _ => !self.applies_to(commit),
        }
    }

    /// Checks that each of these rules has an effect in one of these modes. Breaking a rule without
    /// effect would test nothing.
    ///
    /// # Errors
    /// The first rule without effect, for the user.
    pub fn check(rules: &[Rule], modes: &[CommitMode]) -> Result<(), String> {
        let has_effect = |rule: &&Rule| modes.iter().any(|mode| rule.applies_to(*mode));
        let Some(rule) = rules.iter().find(|rule| !has_effect(rule)) else { return Ok(()) };
        let list = |modes: &[CommitMode], separator| {
            modes.iter().map(ToString::to_string).collect::<Vec<_>>().join(separator)
        };
        let others: Vec<_> =
            CommitMode::ALL.into_iter().filter(|mode| rule.applies_to(*mode)).collect();
        let (here, others) = (list(modes, " or "), list(&others, " or --commit "));
        Err(format!("rule {rule} has no effect with commit = {here}: use --commit {others}"))
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
        // Records may hold an old name, so parsing accepts it silently; see `Rule::renamed`.
        let name = Rule::renamed(text).unwrap_or(text);
        Rule::ALL.iter().copied().find(|rule| rule.name() == name).ok_or_else(|| {
            let names: Vec<_> = Rule::ALL.iter().map(|rule| rule.name()).collect();
            format!("unknown rule '{text}': expected one of {}", names.join(", "))
        })
    }
}

/// The set of rules that are in force at a node, and the mistakes that it makes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(into = "Vec<String>", try_from = "Vec<String>")]
pub struct Rules {
    /// A bit for each rule of [`Rule::ALL`] that is broken.
    broken: u64,
    /// A bit for each mistake of [`Mistake::ALL`] that is made.
    made: u32,
}

impl Rules {
    /// Every rule is in force, and no mistake is made.
    pub const ALL: Rules = Rules { broken: 0, made: 0 };

    /// This set without one rule.
    #[must_use]
    pub const fn without(self, rule: Rule) -> Rules {
        Rules { broken: self.broken | 1 << rule as u64, ..self }
    }

    /// This set with one mistake more.
    #[must_use]
    pub const fn with(self, mistake: Mistake) -> Rules {
        Rules { made: self.made | 1 << mistake as u32, ..self }
    }

    /// Whether a rule is in force.
    #[must_use]
    pub fn keep(self, rule: Rule) -> bool {
        self.and_everywhere().broken & (1 << rule as u64) == 0
    }

    /// Whether a mistake is made.
    #[must_use]
    pub fn makes(self, mistake: Mistake) -> bool {
        self.and_everywhere().made & (1 << mistake as u32) != 0
    }

    #[cfg(not(feature = "mutations"))]
    fn and_everywhere(self) -> Rules {
        self
    }

    /// This set, and the rule or mistake that `MUTATION` names in the environment: the tests then run on
    /// mutated code, without being built again.
    #[cfg(feature = "mutations")]
    fn and_everywhere(self) -> Rules {
        static MUTATION: std::sync::LazyLock<Rules> = std::sync::LazyLock::new(|| {
            let name = std::env::var("MUTATION").unwrap_or_default();
            let rule = Rule::ALL.iter().find(|rule| rule.name() == name);
            let mistake = Mistake::ALL.iter().find(|mistake| mistake.name() == name);
            let rules = rule.map_or(Rules::ALL, |rule| Rules::ALL.without(*rule));
            mistake.map_or(rules, |mistake| rules.with(*mistake))
        });
        Rules { broken: self.broken | MUTATION.broken, made: self.made | MUTATION.made }
    }

    /// The mistakes that are made.
    pub fn made(self) -> impl Iterator<Item = Mistake> {
        Mistake::ALL.iter().copied().filter(move |mistake| self.makes(*mistake))
    }

    /// The rules that are broken.
    pub fn broken(self) -> impl Iterator<Item = Rule> {
        Rule::ALL.iter().copied().filter(move |rule| !self.keep(*rule))
    }
}

/// Serialised as the names of the rules that are broken and of the mistakes that are made.
impl From<Rules> for Vec<String> {
    fn from(rules: Rules) -> Self {
        let broken = rules.broken().map(Rule::name);
        broken.chain(rules.made().map(Mistake::name)).map(str::to_owned).collect()
    }
}

impl TryFrom<Vec<String>> for Rules {
    type Error = String;

    fn try_from(broken: Vec<String>) -> Result<Self, String> {
        broken.iter().try_fold(Rules::ALL, |rules, name| match name.parse() {
            Ok(mistake) => Ok(rules.with(mistake)),
            Err(_) => Ok(rules.without(name.parse()?)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn earlier_names_parse_as_the_current_rule() {
        for (old, new) in RENAMED {
            let rule: Rule = old.parse().expect("an earlier name");
            assert_eq!(rule.name(), new);
            assert_eq!(Rule::renamed(old), Some(new));
            assert_eq!(Rule::renamed(new), None, "the current name needs no warning");
        }
        assert!("the-bank".parse::<Rule>().unwrap_err().starts_with("unknown rule 'the-bank'"));
    }
}
