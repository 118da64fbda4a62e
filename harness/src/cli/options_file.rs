//! `--options FILE`: options of a test run from a TOML file. A name is that of an option without its dashes, and a
//! list stands for its elements, separated by commas. What is on the command line as well counts there:
//!
//! ```toml
//! faults = ["master-uncertainty", "partition"]
//! time-limit = "60s"
//! concurrency = 20
//! fail-fast = true
//! ```

use std::{ffi::OsString, fs, path::Path};

use anyhow::{Context as _, anyhow, bail};
use clap::{Args as _, Command};
use toml::{Table, Value};

use super::test::TestArgs;

/// The name of the option on the command line.
const OPTIONS: &str = "--options";

/// Replaces each `--options FILE` among the arguments by what the file says.
///
/// # Errors
/// The file cannot be read, or does not hold options; the message names it.
pub(super) fn expand(arguments: Vec<OsString>) -> anyhow::Result<Vec<OsString>> {
    let mut expanded = Vec::with_capacity(arguments.len());
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let text = argument.to_str().unwrap_or_default();
        let path = match text.strip_prefix(OPTIONS) {
            Some("") => match rest.next() {
                Some(path) => path.clone(),
                // The parser says what is missing.
                None => {
                    expanded.push(argument.clone());
                    continue;
                }
            },
            Some(value) if value.starts_with('=') => value[1..].into(),
            _ => {
                expanded.push(argument.clone());
                continue;
            }
        };
        let path = Path::new(&path);
        let named = || format!("{OPTIONS} {}", path.display());
        let text = fs::read_to_string(path).with_context(named)?;
        expanded.extend(options_of(&text, &arguments).with_context(named)?);
    }
    Ok(expanded)
}

/// The options in a text that the command line does not have.
fn options_of(text: &str, given: &[OsString]) -> anyhow::Result<Vec<OsString>> {
    let table: Table = text.parse().map_err(|error: toml::de::Error| anyhow!("{error}"))?;
    let known = TestArgs::augment_args(Command::new("test"));
    let mut options = Vec::new();
    for (name, value) in table {
        let option = known.get_arguments().find(|option| option.get_long() == Some(&name));
        let Some(option) = option.filter(|_| name != "options") else {
            bail!("unknown option '{name}': `harness test --help` lists the options");
        };
        let names = option.get_long_and_visible_aliases().unwrap_or_default();
        let is_given = |argument: &OsString| {
            let argument = argument.to_str().unwrap_or_default();
            let flag = argument.split_once('=').map_or(argument, |(flag, _)| flag);
            flag.strip_prefix("--").is_some_and(|flag| names.contains(&flag))
        };
        if given.iter().any(is_given) {
            continue;
        }
        if option.get_action().takes_values() {
            let value = as_text(&value).with_context(|| format!("option '{name}'"))?;
            options.push(format!("--{name}={value}").into());
        } else {
            match value {
                Value::Boolean(true) => options.push(format!("--{name}").into()),
                Value::Boolean(false) => {}
                other => {
                    bail!("option '{name}': expected true or false, not a {}", other.type_str())
                }
            }
        }
    }
    Ok(options)
}

/// A value as on the command line.
fn as_text(value: &Value) -> anyhow::Result<String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Integer(number) => Ok(number.to_string()),
        Value::Float(number) => Ok(number.to_string()),
        Value::Array(elements) => {
            let elements: anyhow::Result<Vec<String>> = elements.iter().map(as_text).collect();
            Ok(elements?.join(","))
        }
        other => bail!("expected a text, a number or a list, not {}", other.type_str()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(text: &str, given: &[&str]) -> Result<Vec<String>, String> {
        let given: Vec<OsString> = given.iter().map(OsString::from).collect();
        let options = options_of(text, &given).map_err(|error| format!("{error:#}"))?;
        Ok(options.into_iter().map(|option| option.into_string().expect("it was text")).collect())
    }

    #[test]
    fn a_file_stands_for_options_that_the_command_line_does_not_have() {
        let text = "faults = [\"kill-master\", \"partition\"]\ntime-limit = \"5s\"\nseed = 7\nfail-fast = true\n\
                    relay = false\nrate = 1.5";
        let all = options(text, &[]).expect("options");
        for option in [
            "--faults=kill-master,partition",
            "--time-limit=5s",
            "--seed=7",
            "--fail-fast",
            "--rate=1.5",
        ] {
            assert!(all.iter().any(|it| it == option), "{option}: {all:?}");
        }
        assert_eq!(all.len(), 5, "{all:?}");
        let fewer = options(text, &["--seed", "8", "--time=1s", "--faults=none"]).expect("options");
        assert_eq!(fewer, ["--fail-fast", "--rate=1.5"]);
        for (text, reason) in [
            ("fault = \"none\"", "unknown option 'fault'"),
            ("options = \"x\"", "unknown option 'options'"),
            ("fail-fast = 1", "expected true or false"),
            ("seed = true", "option 'seed': expected a text"),
            ("[faults]\na = 1", "not table"),
            ("faults", "TOML parse error"),
        ] {
            let error = options(text, &[]).expect_err(text);
            assert!(error.contains(reason), "{error}");
        }
    }
}
