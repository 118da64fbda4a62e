//! Results in the forms that CI services read: JUnit's XML, and the annotations of GitHub Actions.

use std::fmt::Write as _;

use checker::{CheckResult, Validity};
use maud::{Markup, html};

use crate::terminal::escape;

/// A run or a history that was judged.
#[derive(Clone, Debug)]
pub struct Judged {
    /// Its name, such as the directory of the run.
    pub name: String,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// The command that repeats it.
    pub command: Option<String>,
    /// The results of the checks.
    pub checks: Vec<CheckResult>,
}

/// JUnit's XML: a test suite for each run, a test case for each check. What is invalid is a failure, what is
/// unknown is an error.
#[must_use]
pub fn junit(all: &[Judged]) -> String {
    let suites = html! {
        testsuites name="harness" {
            @for judged in all { (suite(judged)) }
        }
    };
    format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{}\n", suites.into_string())
}

fn suite(judged: &Judged) -> Markup {
    let Judged { name, seconds, command, checks } = judged;
    let of = |verdict| checks.iter().filter(|check| check.verdict == verdict).count();
    html! {
        testsuite name=(xml(name)) tests=(checks.len()) failures=(of(Validity::Invalid))
            errors=(of(Validity::Unknown)) time=(format!("{seconds:.3}")) {
            @for check in checks {
                testcase classname=(xml(name)) name=(xml(&check.check)) {
                    @match check.verdict {
                        Validity::Valid => {},
                        Validity::Invalid => failure message=(xml(&headline(check))) { (xml(&text(check))) },
                        Validity::Unknown => error message=(xml(&headline(check))) { (xml(&text(check))) },
                    }
                }
            }
            @if let Some(command) = command { system-out { (xml(&format!("repeat with: {command}"))) } }
        }
    }
}

/// The first sentence on a check that is not valid.
fn headline(check: &CheckResult) -> String {
    let first = check.violations.iter().chain(&check.unknown_because).next();
    first.map_or_else(String::new, |finding| finding.split_first_line().0.text().to_owned())
}

/// All sentences on a check.
fn text(check: &CheckResult) -> String {
    let mut text = String::new();
    for finding in check.violations.iter().chain(&check.unknown_because) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}", finding.text());
    }
    let more = check.violations_total.saturating_sub(check.violations.len());
    if more > 0 {
        let _ = writeln!(text, "and {more} more");
    }
    text
}

/// Text without the characters that XML 1.0 does not have. maud escapes the rest.
fn xml(text: &str) -> String {
    let is_char = |c: char| {
        matches!(c, '\t' | '\n' | '\r') || c >= ' ' && !matches!(c, '\u{fffe}' | '\u{ffff}')
    };
    text.chars().map(|c| if is_char(c) { c } else { '\u{fffd}' }).collect()
}

/// Commands of GitHub Actions, which show an error for each check that is invalid, and a warning for each that is
/// unknown.
#[must_use]
pub fn github(judged: &Judged) -> String {
    let mut commands = String::new();
    for check in &judged.checks {
        let kind = match check.verdict {
            Validity::Valid => continue,
            Validity::Invalid => "error",
            Validity::Unknown => "warning",
        };
        let repeat = judged
            .command
            .as_ref()
            .map_or_else(String::new, |command| format!("\nrepeat with: {command}"));
        let title = format!("{}: {}", check.check, judged.name);
        let message = format!("{}{repeat}", text(check).trim_end());
        let _ = writeln!(commands, "::{kind} title={}::{}", property(&title), data(&message));
    }
    commands
}

/// The text of a command: on one line.
fn data(text: &str) -> String {
    escape(text).replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// The value of a property of a command.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged() -> Judged {
        let mut broken = CheckResult::new("linearizability");
        broken.violation("k<1> & \"k2\"\u{1b}[2J\nline 2: 100%, ok");
        let mut open = CheckResult::new("statistics");
        open.unknown("nothing was tested");
        Judged {
            name: "histories/twopc-all/20260101T000000Z".to_owned(),
            seconds: 1.5,
            command: Some("harness --seed 7".to_owned()),
            checks: vec![CheckResult::new("atomicity"), broken, open],
        }
    }

    #[test]
    fn junit_has_a_suite_for_a_run_and_a_case_for_a_check() {
        let name = "histories/twopc-all/20260101T000000Z";
        let expected = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"harness\"><testsuite name=\"{name}\" \
             tests=\"3\" failures=\"1\" errors=\"1\" time=\"1.500\"><testcase classname=\"{name}\" \
             name=\"atomicity\"></testcase><testcase classname=\"{name}\" name=\"linearizability\"><failure \
             message=\"k&lt;1&gt; &amp; &quot;k2&quot;\u{fffd}[2J\">k&lt;1&gt; &amp; &quot;k2&quot;\u{fffd}[2J\n\
             line 2: 100%, ok\n</failure></testcase><testcase classname=\"{name}\" name=\"statistics\"><error \
             message=\"nothing was tested\">nothing was tested\n</error></testcase><system-out>repeat with: \
             harness --seed 7</system-out></testsuite></testsuites>\n"
        );
        assert_eq!(junit(&[judged()]), expected);
    }

    #[test]
    fn annotations_are_one_line_each() {
        assert_eq!(
            github(&judged()),
            "::error title=linearizability%3A histories/twopc-all/20260101T000000Z::k<1> & \"k2\"\\u001b[2J%0Aline \
             2: 100%25, ok%0Arepeat with: harness --seed 7\n::warning title=statistics%3A \
             histories/twopc-all/20260101T000000Z::nothing was tested%0Arepeat with: harness --seed 7\n"
        );
    }
}
