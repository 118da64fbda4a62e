//! Durations as text, for options and reports.

use std::time::Duration;

/// Parses a duration such as `20s`, `500ms`, `2m`, `1h`. A number without a unit is in seconds.
///
/// # Errors
/// The text says what was expected.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let malformed = || {
        format!("'{text}' is not a duration: expected a number and ms, s, m or h, for example 20s")
    };
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().map_err(|_| malformed())?;
    let seconds = match unit.trim() {
        "ms" => number / 1e3,
        "" | "s" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        _ => return Err(malformed()),
    };
    Duration::try_from_secs_f64(seconds)
        .ok()
        .filter(|time| *time <= Duration::from_secs(1_000_000))
        .ok_or_else(malformed)
}

/// Formats a duration as [`parse_duration`] parses it.
#[must_use]
pub fn duration_text(time: Duration) -> String {
    match time.subsec_millis() {
        0 => format!("{}s", time.as_secs()),
        _ => format!("{}ms", time.as_millis()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_parsed_from_their_text() {
        for (text, ms) in
            [("20s", 20_000), ("500ms", 500), ("2m", 120_000), ("3", 3_000), ("1.5s", 1_500)]
        {
            let time = parse_duration(text).expect(text);
            assert_eq!(time, Duration::from_millis(ms));
            assert_eq!(parse_duration(&duration_text(time)), Ok(time));
        }
        for text in ["", "s", "20 parsecs", "-3s", "1e99h", "99999999h", "1..5s"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
