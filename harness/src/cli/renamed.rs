//! Names of earlier versions on the command line: each is accepted, with a warning that states the
//! present name.

use twopc::{Rule, Timings, faults::FaultName};

/// Flags of earlier versions, and their present names.
const FLAGS: &[(&str, &str)] =
    &[("--part", "--shard"), ("--lie", "--misreport-unknown"), ("--gone", "--down")];

/// Writes a warning to standard error for each old name among the arguments.
pub(super) fn warn(arguments: impl IntoIterator<Item = String>) {
    for (old, new) in renamed(arguments) {
        eprintln!("harness: warning: '{old}' is now called '{new}'");
    }
}

/// The old names among the arguments, each with its present name.
fn renamed(arguments: impl IntoIterator<Item = String>) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut option = String::new();
    for argument in arguments {
        let (flag, values) = match argument.split_once('=') {
            Some((flag, values)) if flag.starts_with("--") => (flag, values),
            _ if argument.starts_with("--") => (argument.as_str(), ""),
            _ => ("", argument.as_str()),
        };
        if !flag.is_empty() {
            flag.clone_into(&mut option);
            let new = FLAGS.iter().find(|(old, _)| *old == flag).map(|(_, new)| *new);
            found.extend(new.map(|new| (flag.to_owned(), new.to_owned())));
        }
        for word in values.split(',') {
            found.extend(present_name(&option, word).map(|(old, new)| (old.into(), new.into())));
        }
    }
    found
}

/// The old name in a word of an option's value, and its present name.
fn present_name<'a>(option: &str, word: &'a str) -> Option<(&'a str, &'static str)> {
    let (old, new) = match option {
        "--faults" => {
            let name = word.trim().trim_start_matches("all-but-");
            (name, FaultName::find(name)?.name())
        }
        "--timing" => {
            let name = word.split('=').next()?.trim();
            (name, Timings::present_name(name)?)
        }
        // Rules are given after `--break`, and without an option to `rules`.
        _ => (word, word.parse::<Rule>().ok()?.name()),
    };
    (old != new).then_some((old, new))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_names_are_found_in_every_position() {
        let names = |line: &str| {
            renamed(line.split(' ').map(str::to_owned))
                .into_iter()
                .map(|(old, new)| format!("{old}>{new}"))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            names("--faults kill-master,twin-master --part 1/2"),
            ["twin-master>second-master", "--part>--shard"]
        );
        assert_eq!(names("--faults=all-but-twin-master"), ["twin-master>second-master"]);
        assert_eq!(names("--break master-boot-forces"), ["master-boot-forces>epoch-forced"]);
        assert_eq!(names("rules floor-waits-for-acks --real").len(), 1);
        assert_eq!(names("--timing vote=600,heartbeat_ms=100"), ["vote>vote_timeout_ms"]);
        assert_eq!(names("--faults all --break write-all --seed 3"), Vec::<String>::new());
    }
}
