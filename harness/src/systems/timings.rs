//! Periods of the nodes of a system under test that are not the usual ones. Knows how they are typed
//! and written into a configuration, not what they are for.

use std::{fmt, str::FromStr};

use system::config;

/// Entries of the configuration's `[timing]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Timings(Vec<(String, u64)>);

impl Timings {
    /// As a table of the configuration file; nothing if there is nothing to say.
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
            Some((name.trim().to_owned(), value.trim().parse().ok()?))
        };
        let entries: Option<Vec<_>> =
            text.split(',').filter(|entry| !entry.trim().is_empty()).map(entry).collect();
        let wrong = || {
            format!("'{text}': want NAME=NUMBER with commas between, as in inquiry_timeout_ms=100")
        };
        let timings = Timings(entries.ok_or_else(wrong)?);
        // What may stand in a configuration is known where it is read.
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
    fn timings_are_read_and_written() {
        let timings: Timings =
            "inquiry_timeout_ms=100,peer_inquiry_after=1".parse().expect("both are known");
        assert_eq!(timings.to_string().parse(), Ok(timings.clone()));
        assert_eq!(timings.table(), "[timing]\ninquiry_timeout_ms = 100\npeer_inquiry_after = 1\n");
        assert_eq!("".parse(), Ok(Timings::default()));
        for (text, part) in [
            ("inquiry_timeout_ms", "want NAME=NUMBER"),
            ("votes=3", "votes"),
            ("vote_timeout_ms=0", "timing.vote_timeout_ms"),
        ] {
            let error = text.parse::<Timings>().expect_err(text);
            assert!(error.contains(part), "{error}");
        }
    }
}
