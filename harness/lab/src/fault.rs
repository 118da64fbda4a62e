//! Faults for the processes of any system: what is done, to which nodes, and when. Their names, and
//! nothing of how they are injected.

use std::{fmt, str::FromStr};

use regex_lite::Regex;

use crate::{network::Shape, node::NodeName};

/// What is done to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultAction {
    /// SIGKILL of every process of the node, and a start on the same data after a while.
    Kill,
    /// SIGSTOP of every process of the node, and SIGCONT after a while.
    Pause,
    /// SIGTERM, and a start as soon as it has exited.
    Restart,
    /// The node's disk loses what was not synced, and every process of the node is gone; a start after a while.
    PowerLoss,
    /// The node's disk has no free space for a while.
    DiskFull,
    /// Writes and syncs of the node's disk fail for a while.
    DiskError,
    /// The syncs of the node's disk are slow for a while.
    DiskSlow,
    /// The node's disk answers nothing for a while.
    DiskStall,
    /// SIGKILL, flipped bits of the node's disk, and a start. If the node refuses to start, the disk comes back
    /// as it was.
    BitFlip,
    /// SIGKILL, and a start on an earlier state of the node's disk.
    RestoredCopy,
    /// The node is removed from the cluster, and added again without its data.
    Replace,
    /// The node is made the leader.
    Promote,
    /// Nothing passes between some of the hosts of the virtual network for a while.
    Partition,
    /// Packets to and from the node are late, lost, repeated or reordered for a while.
    Packet,
    /// The node's connections are reset.
    Reset,
    /// The wall clock of the node is wrong for a while: it jumps, or runs too fast or too slow.
    Clock,
}

impl FaultAction {
    /// Those that last for a while, so that another fault can be injected meanwhile.
    const OUTAGES: [FaultAction; 9] = [
        FaultAction::Kill,
        FaultAction::Pause,
        FaultAction::DiskFull,
        FaultAction::DiskError,
        FaultAction::DiskSlow,
        FaultAction::DiskStall,
        FaultAction::Partition,
        FaultAction::Packet,
        FaultAction::Clock,
    ];

    /// Every action, in the order in which they are documented.
    pub const ALL: [FaultAction; 16] = [
        FaultAction::Kill,
        FaultAction::Pause,
        FaultAction::Restart,
        FaultAction::PowerLoss,
        FaultAction::DiskFull,
        FaultAction::DiskError,
        FaultAction::DiskSlow,
        FaultAction::DiskStall,
        FaultAction::BitFlip,
        FaultAction::RestoredCopy,
        FaultAction::Replace,
        FaultAction::Promote,
        FaultAction::Partition,
        FaultAction::Packet,
        FaultAction::Reset,
        FaultAction::Clock,
    ];

    /// Those that any system is expected to stand, unless it says otherwise.
    pub const PROCESSES: [FaultAction; 3] =
        [FaultAction::Kill, FaultAction::Pause, FaultAction::Restart];

    /// The name in options and histories.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            FaultAction::Kill => "kill",
            FaultAction::Pause => "pause",
            FaultAction::Restart => "restart",
            FaultAction::PowerLoss => "power-loss",
            FaultAction::DiskFull => "disk-full",
            FaultAction::DiskError => "disk-error",
            FaultAction::DiskSlow => "disk-slow",
            FaultAction::DiskStall => "disk-stall",
            FaultAction::BitFlip => "bit-flip",
            FaultAction::RestoredCopy => "restored-copy",
            FaultAction::Replace => "replace",
            FaultAction::Promote => "promote",
            FaultAction::Partition => "partition",
            FaultAction::Packet => "packet",
            FaultAction::Reset => "reset",
            FaultAction::Clock => "clock",
        }
    }

    /// Whether it needs a disk that the lab serves.
    #[must_use]
    pub fn needs_disk(self) -> bool {
        matches!(
            self,
            FaultAction::PowerLoss
                | FaultAction::DiskFull
                | FaultAction::DiskError
                | FaultAction::DiskSlow
                | FaultAction::DiskStall
                | FaultAction::BitFlip
                | FaultAction::RestoredCopy
        )
    }

    /// Whether it needs a [network](crate::network) that the lab is the switch of.
    #[must_use]
    pub fn needs_network(self) -> bool {
        matches!(self, FaultAction::Partition | FaultAction::Packet | FaultAction::Reset)
    }

    /// Whether the nodes that it hits do not run while it lasts.
    pub(crate) fn stops_nodes(self) -> bool {
        FaultAction::PROCESSES.contains(&self)
    }

    /// Whether it changes what a node is in the cluster, which only the system can do.
    #[must_use]
    pub fn changes_members(self) -> bool {
        matches!(self, FaultAction::Replace | FaultAction::Promote)
    }
}

/// Which nodes a fault hits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// One node, chosen at random each time.
    One,
    /// Fewer than half of the nodes.
    Minority,
    /// More than half of the nodes, and not all of them.
    Majority,
    /// Every node.
    All,
    /// The node that leads.
    Leader,
    /// Every node that does not lead.
    Followers,
    /// The node of this name.
    Node(NodeName),
    /// Of the second of two faults that belong together: the nodes that the first one hits.
    Same,
    /// Of a partition: what it looks like. With another target, the nodes that it hits are on one side.
    Shape(Shape),
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "one" => Target::One,
            "minority" => Target::Minority,
            "majority" => Target::Majority,
            "all" => Target::All,
            "leader" => Target::Leader,
            "followers" => Target::Followers,
            "same" => Target::Same,
            "" => {
                return Err(
                    "expected one, minority, majority, all, leader, followers or the name \
                            of a node after the colon"
                        .to_owned(),
                );
            }
            name => Target::Node(NodeName::new(name)),
        })
    }
}

/// When a fault is injected.
#[derive(Clone, Debug)]
pub enum Trigger {
    /// At a random time.
    Random,
    /// When a node writes a line to its log that matches.
    Log(Regex),
}

/// A fault: `ACTION[:TARGET][@/REGEX/]`, such as `kill`, `pause:leader`, or
/// `kill:leader@/became leader/`. Two of them that are joined by `+` overlap: with
/// `pause:followers+kill:leader`, the leader is killed while the followers are paused. Joined by `>`, the second
/// follows the end of the first at once: with `pause>kill:same`, a node is killed while it catches up.
#[derive(Clone, Debug)]
pub struct Fault {
    /// The fault as it was written.
    text: String,
    /// What is done.
    pub action: FaultAction,
    /// To which nodes.
    pub target: Target,
    /// When.
    pub trigger: Trigger,
    /// What is done besides.
    pub second: Option<Second>,
}

/// The second of two faults that belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Second {
    /// What is done.
    pub action: FaultAction,
    /// To which nodes.
    pub target: Target,
    /// When.
    pub moment: Moment,
}

/// When the second of two faults is injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// At the end of the outage of the first, which lasts until this one is over too.
    During,
    /// Just after the first was undone.
    After,
}

impl Fault {
    /// A fault at random times.
    #[must_use]
    pub fn new(action: FaultAction, target: Target) -> Self {
        let name = match &target {
            Target::One => "one",
            Target::Minority => "minority",
            Target::Majority => "majority",
            Target::All => "all",
            Target::Leader => "leader",
            Target::Followers => "followers",
            Target::Same => "same",
            Target::Shape(shape) => shape.name(),
            Target::Node(node) => node.as_str(),
        };
        let text = match target {
            Target::One | Target::Shape(Shape::Any) => action.name().to_owned(),
            _ => format!("{}:{name}", action.name()),
        };
        Fault { text, action, target, trigger: Trigger::Random, second: None }
    }

    /// Whether it needs a disk that the lab serves.
    #[must_use]
    pub fn needs_disk(&self) -> bool {
        self.action.needs_disk()
    }

    /// Whether it needs a network that the lab is the switch of.
    #[must_use]
    pub fn needs_network(&self) -> bool {
        self.action.needs_network()
    }

    /// Whether it needs [clocks](crate::clock) that can be made wrong.
    #[must_use]
    pub fn needs_clock(&self) -> bool {
        self.action == FaultAction::Clock
    }

    /// Everything that it does, with the targets.
    pub fn parts(&self) -> impl Iterator<Item = (FaultAction, &Target)> {
        let second = self.second.as_ref().map(|second| (second.action, &second.target));
        [(self.action, &self.target)].into_iter().chain(second)
    }

    /// The fault as it was written: its name in histories.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let explain = |why: String| format!("'{text}': {why}");
        let moment = match split(text, '>').len() {
            1 => Moment::During,
            _ => Moment::After,
        };
        let separator = if moment == Moment::During { '+' } else { '>' };
        let mut parts = split(text, separator).into_iter();
        let (action, target, trigger) = part(parts.next().unwrap_or_default()).map_err(explain)?;
        let trigger = trigger.map_or(Trigger::Random, Trigger::Log);
        let mut fault = Fault { text: text.to_owned(), action, target, trigger, second: None };
        if let Some(second) = parts.next() {
            let (action, target, trigger) = part(second).map_err(explain)?;
            let fits = FaultAction::OUTAGES.contains(&fault.action)
                && FaultAction::PROCESSES.contains(&action);
            if parts.next().is_some() || !fits || trigger.is_some() {
                return Err(explain(
                    "expected kill, pause, partition, packet, clock or a fault of disks that lasts, + or >, and kill, pause or \
                     restart, as in pause:followers+kill:leader or pause>kill:same; only the first may wait for a line"
                        .to_owned(),
                ));
            }
            let is_down = moment == Moment::During && fault.action.stops_nodes();
            if target == Target::Same && is_down {
                return Err(explain(
                    "a node that is stopped already is not stopped again".to_owned(),
                ));
            }
            fault.second = Some(Second { action, target, moment });
        }
        if fault.target == Target::Same {
            return Err(explain("only the second of two faults can hit the same nodes".to_owned()));
        }
        Ok(fault)
    }
}

/// Parses a part of a fault.
fn part(text: &str) -> Result<(FaultAction, Target, Option<Regex>), String> {
    let (head, trigger) = match text.split_once('@') {
        None => (text, None),
        Some((head, pattern)) => {
            let inner = pattern.strip_prefix('/').and_then(|rest| rest.strip_suffix('/'));
            let inner = inner.filter(|inner| !inner.is_empty()).ok_or_else(|| {
                "expected /REGEX/ after @, as in kill:leader@/became leader/".to_owned()
            })?;
            (head, Some(Regex::new(inner).map_err(|error| error.to_string())?))
        }
    };
    let (name, target) = match head.split_once(':') {
        None => (head, None),
        Some((name, target)) => (name, Some(target)),
    };
    let action = FaultAction::ALL.into_iter().find(|action| action.name() == name);
    let action = action.ok_or_else(|| {
        "this is no fault of any system: expected kill, pause, restart, power-loss, disk-full, \
         disk-error, disk-slow, disk-stall, bit-flip, restored-copy, replace, promote, partition, packet, \
         reset or clock, with a target as in kill:leader, or all"
            .to_owned()
    })?;
    let shape = |name| Shape::NAMED.into_iter().find(|shape| shape.name() == name);
    let target = match (target, action) {
        (None, FaultAction::Partition) => Target::Shape(Shape::Any),
        (None, _) => Target::One,
        (Some(name), _) => match shape(name) {
            Some(shape) if action == FaultAction::Partition => Target::Shape(shape),
            Some(_) => return Err(format!("{name} is a shape of a partition: partition:{name}")),
            None => name.parse()?,
        },
    };
    Ok((action, target, trigger))
}

/// Parses a list of faults, separated by commas: `kill,pause:leader`. `none` is the empty list, `all` is
/// every action against processes, each against one node.
///
/// # Errors
/// An element is not a fault; the message says which and what to write.
pub fn parse_faults(text: &str) -> Result<Vec<Fault>, String> {
    let mut faults = Vec::new();
    for part in split(text, ',') {
        match part.trim() {
            "none" => {}
            "all" => {
                faults.extend(FaultAction::PROCESSES.map(|action| Fault::new(action, Target::One)));
            }
            part => faults.push(part.parse()?),
        }
    }
    Ok(faults)
}

/// Splits at a separator where it is not within a regular expression.
fn split(text: &str, separator: char) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut in_regex, mut last) = (0, false, ' ');
    for (at, letter) in text.char_indices() {
        match letter {
            '/' if in_regex && last != '\\' => in_regex = false,
            '/' if last == '@' => in_regex = true,
            _ if letter == separator && !in_regex => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
        last = letter;
    }
    parts.push(&text[start..]);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_parsed_with_target_and_trigger() {
        let faults = parse_faults("kill, pause:leader,restart:n2@/a,b \\/ c{2,3}/").expect("valid");
        let names: Vec<_> = faults.iter().map(Fault::name).collect();
        assert_eq!(names, ["kill", "pause:leader", "restart:n2@/a,b \\/ c{2,3}/"]);
        assert_eq!(faults[0].target, Target::One);
        assert_eq!(faults[1].target, Target::Leader);
        assert_eq!(faults[2].target, Target::Node(NodeName::new("n2")));
        let Trigger::Log(regex) = &faults[2].trigger else { panic!("{:?}", faults[2]) };
        assert!(regex.is_match("a,b / ccc"));
        assert!(parse_faults("none").expect("valid").is_empty());
        let both = parse_faults("pause:followers@/x+/+kill:leader,kill").expect("valid");
        assert_eq!(both.len(), 2);
        let (action, target, moment) = (FaultAction::Kill, Target::Leader, Moment::During);
        assert_eq!(both[0].second, Some(Second { action, target, moment }));
        let after = parse_faults("pause>kill:same").expect("valid");
        let (target, moment) = (Target::Same, Moment::After);
        assert_eq!(after[0].second, Some(Second { action, target, moment }));
        assert_eq!((both[0].action, &both[0].target), (FaultAction::Pause, &Target::Followers));
        assert_eq!(parse_faults("all").expect("valid").len(), 3);
        let clocks = parse_faults("clock,clock:leader+kill:same").expect("valid");
        let targets = clocks.iter().map(|fault| (fault.action, fault.target.clone()));
        let expected = [Target::One, Target::Leader].map(|target| (FaultAction::Clock, target));
        assert_eq!(targets.collect::<Vec<_>>(), expected);
        let faults =
            parse_faults("partition,partition:ring,partition:leader>kill:same").expect("valid");
        let targets: Vec<_> = faults.iter().map(|fault| fault.target.clone()).collect();
        let shapes = [Shape::Any, Shape::Ring].map(Target::Shape);
        assert_eq!(targets, [&shapes[..], &[Target::Leader]].concat());
    }

    #[test]
    fn what_is_no_fault_is_explained() {
        for (text, part) in [
            ("explode", "expected kill, pause, restart"),
            ("kill:", "after the colon"),
            ("kill@became", "expected /REGEX/ after @"),
            ("kill@//", "expected /REGEX/ after @"),
            ("kill@/(/", "'kill@/(/'"),
            ("kill,,pause", "''"),
            ("restart+kill", "expected kill, pause, partition, packet, clock or a fault of disks"),
            ("kill+replace", "expected kill, pause, partition, packet, clock or a fault of disks"),
            ("kill+clock", "expected kill, pause, partition, packet, clock or a fault of disks"),
            ("replace>kill", "expected kill, pause, partition, packet, clock or a fault of disks"),
            (
                "kill+power-loss",
                "expected kill, pause, partition, packet, clock or a fault of disks",
            ),
            (
                "kill+kill+kill",
                "expected kill, pause, partition, packet, clock or a fault of disks",
            ),
            ("kill:ring", "a shape of a partition: partition:ring"),
            ("pause+partition", "expected kill, pause, partition, packet, clock or a fault"),
            ("kill:same", "only the second"),
            ("pause+kill:same", "not stopped again"),
            ("kill+pause@/x/", "only the first may wait"),
        ] {
            let error = parse_faults(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
