//! Timing parameters of the nodes that differ from the defaults: how they are given on the command
//! line and written into a configuration file.

use std::{fmt, str::FromStr};

use system::config;

/// Entries of the `[timing]` section of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Timings(Vec<(String, u64)>);

/// Parameters of earlier versions, and their present names.
const RENAMED: &[(&str, &str)] = &[
    ("vote", "vote_timeout_ms"),
    ("resend", "retransmit_ms"),
    ("inquire", "inquiry_timeout_ms"),
    ("peers_after", "peer_inquiry_after"),
    ("read_wait", "read_wait_ms"),
    ("read_slack", "read_slack_ms"),
    ("heartbeat", "heartbeat_ms"),
    ("silent_heartbeats", "missed_heartbeats_max"),
    ("floor_batch", "watermark_batch"),
];

impl Timings {
    /// The present name of a parameter of an earlier version.
    #[must_use]
    pub fn present_name(name: &str) -> Option<&'static str> {
        RENAMED.iter().find(|(old, _)| *old == name).map(|(_, new)| *new)
    }

    /// The section of the configuration file; empty if every parameter has its default.
    #[must_use]
    pub fn table(&self) -> String {
        let entries: String =
            self.0.iter().map(|(name, value)| format!("{name} = {value}\n")).collect();
        if entries.is_empty() { entries } else { format!("[timing]\n{entries}") }
    }
}

impl fmt::Display for Timings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries: Vec<_> =
            self.0.iter().map(|(name, value)| format!("{name}={value}")).collect();
        f.write_str(&entries.join(","))
    }
}

impl FromStr for Timings {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let entry = |entry: &str| {
            let (name, value) = entry.split_once('=')?;
            let name = name.trim();
            let name = Timings::present_name(name).unwrap_or(name);
            Some((name.to_owned(), value.trim().parse().ok()?))
        };
        let entries: Option<Vec<_>> =
            text.split(',').filter(|entry| !entry.trim().is_empty()).map(entry).collect();
        let malformed =
            || format!("'{text}': expected NAME=NUMBER,..., for example inquiry_timeout_ms=100");
        let timings = Timings(entries.ok_or_else(malformed)?);
        // The parser of the configuration knows the names and their ranges.
        let sample = "cluster = \"c\"\nmaster = \"h:1\"\nreplicas = [\"h:2\"]\n";
        let sample = format!("{sample}{}", timings.table());
        match config::ClusterConfig::parse(&sample, "timing".as_ref()) {
            Ok(_) => Ok(timings),
            Err(
                config::ConfigError::Syntax { why, .. } | config::ConfigError::Value { why, .. },
            ) => Err(format!("'{text}': {why}")),
            Err(error @ config::ConfigError::Read { .. }) => Err(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timings_are_parsed_from_their_text() {
        let timings: Timings =
            "inquiry_timeout_ms=100,peer_inquiry_after=1".parse().expect("both parameters exist");
        assert_eq!(timings.to_string().parse(), Ok(timings.clone()));
        assert_eq!(timings.table(), "[timing]\ninquiry_timeout_ms = 100\npeer_inquiry_after = 1\n");
        assert_eq!("".parse(), Ok(Timings::default()));
        let old: Timings = "inquire=100,peers_after=1".parse().expect("old names are accepted");
        assert_eq!(old, timings);
        for (text, part) in [
            ("inquiry_timeout_ms", "expected NAME=NUMBER"),
            ("votes=3", "votes"),
            ("vote_timeout_ms=0", "timing.vote_timeout_ms"),
        ] {
            let error = text.parse::<Timings>().expect_err(text);
            assert!(error.contains(part), "{error}");
        }
    }
}
