//! Quotes what others sent, in logs and errors: a stranger chooses its size and its characters.

use std::fmt::Write as _;

/// The maximum number of characters that are quoted.
const CHARS_MAX: usize = 200;

/// The start of a text on one line, with control characters escaped.
pub(crate) fn excerpt(text: &str) -> String {
    let mut quoted = String::new();
    let mut chars = text.chars();
    for c in chars.by_ref().take(CHARS_MAX) {
        if c.is_control() {
            quoted.extend(c.escape_default());
        } else {
            quoted.push(c);
        }
    }
    let rest = chars.as_str().len();
    if rest > 0 {
        write!(quoted, "… ({rest} more bytes)").expect("writing to a string cannot fail");
    }
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_quoted_is_bounded_and_on_one_line() {
        assert_eq!(excerpt("a cluster"), "a cluster");
        assert_eq!(excerpt("a\n\u{1b}[2J"), "a\\n\\u{1b}[2J");
        let long = "ü".repeat(1 << 20);
        assert_eq!(excerpt(&long), format!("{}… (2096752 more bytes)", "ü".repeat(200)));
    }
}
