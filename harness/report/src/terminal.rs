//! Text from a record, made safe for a terminal. Keys, values, errors and logs may hold anything: an escape
//! sequence in them could move the cursor, hide a violation, or forge a verdict. Such characters are shown
//! as `\u001b`, which is an escape in JSON strings as well, so that JSON output stays equal.

use std::{
    borrow::Cow,
    fmt::{self, Write as _},
    io,
};

use anstyle::Style;

/// Whether a terminal may do something else than show the character: control characters, and those that
/// change the direction of the text around them.
fn is_unsafe(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn escape_if(text: &str, escaped: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&escaped) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '\n' if escaped(c) => safe.push_str("\\n"),
            c if escaped(c) => {
                write!(safe, "\\u{:04x}", u32::from(c)).expect("writing to a string cannot fail");
            }
            c => safe.push(c),
        }
    }
    Cow::Owned(safe)
}

/// Escapes what a terminal would not show. Lines stay lines, and tabs stay.
#[must_use]
pub fn escape(text: &str) -> Cow<'_, str> {
    escape_if(text, |c| is_unsafe(c) && !matches!(c, '\n' | '\t'))
}

/// Escapes what a terminal would not show, and line ends: for a text that must not begin another line.
#[must_use]
pub fn escape_line(text: &str) -> Cow<'_, str> {
    escape_if(text, is_unsafe)
}

/// A writer to a terminal or a file that [escapes](escape) all that is written. What is written to it cannot
/// have styles: those are control characters, and a record could bring its own. Only this crate adds styles.
#[derive(Debug)]
pub struct Escaped<W> {
    out: W,
    /// The start of a character whose other bytes were not written yet.
    partial: Vec<u8>,
}

impl<W: io::Write> Escaped<W> {
    /// Escapes what is written to `out`.
    pub fn new(out: W) -> Self {
        Escaped { out, partial: Vec::new() }
    }
}

impl<W: io::Write> Escaped<W> {
    /// Writes a text with its styles.
    pub(crate) fn write_styled(&mut self, text: &StyledText) -> io::Result<()> {
        self.out.write_all(text.as_bytes())
    }
}

impl<W: io::Write> io::Write for Escaped<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut all = std::mem::take(&mut self.partial);
        all.extend_from_slice(bytes);
        let mut rest = &all[..];
        loop {
            match str::from_utf8(rest) {
                Ok(text) => {
                    self.out.write_all(escape(text).as_bytes())?;
                    return Ok(bytes.len());
                }
                Err(error) => {
                    let (valid, invalid) = rest.split_at(error.valid_up_to());
                    let text = str::from_utf8(valid).expect("it is valid up to there");
                    self.out.write_all(escape(text).as_bytes())?;
                    let Some(length) = error.error_len() else {
                        self.partial = invalid.to_vec();
                        return Ok(bytes.len());
                    };
                    self.out.write_all("\u{fffd}".as_bytes())?;
                    rest = &invalid[length..];
                }
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Text with styles. All that is written to it is escaped; only [`StyledText::styled`] adds styles.
#[derive(Debug, Default)]
pub(crate) struct StyledText {
    text: String,
}

impl StyledText {
    /// Writes a text in a style.
    pub(crate) fn styled(&mut self, style: Style, text: impl fmt::Display) -> fmt::Result {
        write!(self.text, "{style}")?;
        write!(self, "{text}")?;
        write!(self.text, "{style:#}")
    }

    /// The text with its styles.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

impl fmt::Write for StyledText {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.text.push_str(&escape(text));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn what_a_terminal_would_not_show_is_escaped() {
        assert_eq!(escape("k1 =\tü\n"), "k1 =\tü\n");
        assert_eq!(
            escape("\u{1b}[2J\r\u{7f}\u{9b}\u{202e}\0"),
            "\\u001b[2J\\u000d\\u007f\\u009b\\u202e\\u0000"
        );
        assert_eq!(escape_line("a\nvalid: b"), "a\\nvalid: b");
    }

    #[test]
    fn a_writer_escapes_characters_that_arrive_in_parts() {
        let mut out = Vec::new();
        let mut escaped = Escaped::new(&mut out);
        for bytes in [&b"a\xc2"[..], b"\x9b", b"\x1b[8m\n", b"\xffz\xc3", b"\xbc"] {
            escaped.write_all(bytes).expect("a vector takes all");
        }
        escaped.flush().expect("a vector takes all");
        assert_eq!(String::from_utf8_lossy(&out), "a\\u009b\\u001b[8m\n\u{fffd}zü");
    }

    #[test]
    fn styles_come_from_the_program_alone() {
        let mut text = StyledText::default();
        let bold = Style::new().bold();
        text.styled(bold, "a\u{1b}[0m").expect("writing to a string cannot fail");
        assert_eq!(text.text, "\u{1b}[1ma\\u001b[0m\u{1b}[0m");
    }
}
