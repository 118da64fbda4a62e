//! Faults for the processes of any system: what is done, to which nodes, and when. Their names, and
//! nothing of how they are injected.

use std::{fmt, str::FromStr};

use regex_lite::Regex;

use crate::node::NodeName;

/// What is done to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultAction {
    /// SIGKILL of every process of the node, and a start on the same data after a while.
    Kill,
    /// SIGSTOP of every process of the node, and SIGCONT after a while.
    Pause,
    /// SIGTERM, and a start as soon as it has exited.
    Restart,
}

impl FaultAction {
    /// Every action, in the order in which they are documented.
    pub const ALL: [FaultAction; 3] = [FaultAction::Kill, FaultAction::Pause, FaultAction::Restart];

    /// The name in options and histories.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            FaultAction::Kill => "kill",
            FaultAction::Pause => "pause",
            FaultAction::Restart => "restart",
        }
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
/// `kill:leader@/became leader/`.
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
            Target::Node(node) => node.as_str(),
        };
        let text = match target {
            Target::One => action.name().to_owned(),
            _ => format!("{}:{name}", action.name()),
        };
        Fault { text, action, target, trigger: Trigger::Random }
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
        let (head, trigger) = match text.split_once('@') {
            None => (text, Trigger::Random),
            Some((head, pattern)) => {
                let inner = pattern.strip_prefix('/').and_then(|rest| rest.strip_suffix('/'));
                let inner = inner.filter(|inner| !inner.is_empty()).ok_or_else(|| {
                    explain(
                        "expected /REGEX/ after @, as in kill:leader@/became leader/".to_owned(),
                    )
                })?;
                let regex = Regex::new(inner).map_err(|error| explain(error.to_string()))?;
                (head, Trigger::Log(regex))
            }
        };
        let (name, target) = match head.split_once(':') {
            None => (head, Target::One),
            Some((name, target)) => (name, target.parse().map_err(explain)?),
        };
        let action = FaultAction::ALL.into_iter().find(|action| action.name() == name);
        let action = action.ok_or_else(|| {
            explain(
                "this is no fault of processes: expected kill, pause or restart, with a target as \
                 in kill:leader, or all"
                    .to_owned(),
            )
        })?;
        Ok(Fault { text: text.to_owned(), action, target, trigger })
    }
}

/// Parses a list of faults, separated by commas: `kill,pause:leader`. `none` is the empty list, `all` is
/// every action against one node.
///
/// # Errors
/// An element is not a fault; the message says which and what to write.
pub fn parse_faults(text: &str) -> Result<Vec<Fault>, String> {
    let mut faults = Vec::new();
    for part in split(text) {
        match part.trim() {
            "none" => {}
            "all" => {
                faults.extend(FaultAction::ALL.map(|action| Fault::new(action, Target::One)));
            }
            part => faults.push(part.parse()?),
        }
    }
    Ok(faults)
}

/// Splits at commas that are not within a regular expression.
fn split(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut in_regex, mut last) = (0, false, ' ');
    for (at, letter) in text.char_indices() {
        match letter {
            '/' if in_regex && last != '\\' => in_regex = false,
            '/' if last == '@' => in_regex = true,
            ',' if !in_regex => {
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
        assert_eq!(parse_faults("all").expect("valid").len(), 3);
    }

    #[test]
    fn what_is_no_fault_is_explained() {
        for (text, part) in [
            ("explode", "expected kill, pause or restart"),
            ("kill:", "after the colon"),
            ("kill@became", "expected /REGEX/ after @"),
            ("kill@//", "expected /REGEX/ after @"),
            ("kill@/(/", "'kill@/(/'"),
            ("kill,,pause", "''"),
        ] {
            let error = parse_faults(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
