//! Finds references to transactions and journal lines in a sentence, by how they are written.

use system::protocol::{Node, TxnId};

/// A part of a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Segment<'a> {
    /// Plain text.
    Text(&'a str),
    /// A transaction.
    Txn(TxnId),
    /// A line of a node's journal, with the text that names it.
    Line(Node, usize, &'a str),
}

/// Splits a sentence into segments. Their concatenation is the sentence.
pub(super) fn segments(sentence: &str) -> Vec<Segment<'_>> {
    let mut segments = Vec::new();
    let (mut emitted, mut at) = (0, 0);
    let mut inside_word = false;
    while let Some(first) = sentence[at..].chars().next() {
        let rest = &sentence[at..];
        let found = if inside_word { None } else { line(rest).or_else(|| transaction(rest)) };
        if let Some((segment, length)) = found {
            if emitted < at {
                segments.push(Segment::Text(&sentence[emitted..at]));
            }
            segments.push(segment);
            at += length;
            emitted = at;
            inside_word = true;
        } else {
            inside_word = first.is_alphanumeric() || ".-_'".contains(first);
            at += first.len_utf8();
        }
    }
    if emitted < sentence.len() {
        segments.push(Segment::Text(&sentence[emitted..]));
    }
    segments
}

/// Parses `r2 journal line 17` at the beginning of a text. Returns the length of the match as well.
fn line(text: &str) -> Option<(Segment<'_>, usize)> {
    let (name, rest) = text.split_once(" journal line ")?;
    let node = name.parse::<Node>().ok()?;
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let number = rest[..digits].parse().ok()?;
    let length = text.len() - rest.len() + digits;
    Some((Segment::Line(node, number, &text[..length]), length))
}

/// Parses `1.17` at the beginning of a text, but not a quantity such as `1.17 s`. Returns the length of
/// the match as well.
fn transaction(text: &str) -> Option<(Segment<'_>, usize)> {
    let length = text.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
    let number = text[..length].trim_end_matches('.');
    let rest = &text[number.len()..];
    let unit = [" s", " ms", " µs", "%"].iter().any(|unit| {
        rest.strip_prefix(unit).is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
    });
    let word = rest.chars().next().is_some_and(|next| next.is_alphanumeric() || next == '-');
    let txn = number.parse().ok().filter(|txn: &TxnId| !unit && !word && txn.epoch > 0)?;
    Some((Segment::Txn(txn), number.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_segments_of_a_sentence_add_up_to_it() {
        let found =
            segments("AC1: r2 aborted 1.669 (r2 journal line 7111) after 'k1.5' 2.5 s, 3.4.");
        assert_eq!(
            found,
            [
                Segment::Text("AC1: r2 aborted "),
                Segment::Txn(TxnId::new(1, 669)),
                Segment::Text(" ("),
                Segment::Line(Node::Replica(2), 7111, "r2 journal line 7111"),
                Segment::Text(") after 'k1.5' 2.5 s, "),
                Segment::Txn(TxnId::new(3, 4)),
                Segment::Text("."),
            ]
        );
        for text in ["", "k1", "p3-1.2", "größer als 1.2, 1.", "master journal line x"] {
            let whole: String = segments(text)
                .into_iter()
                .map(|segment| match segment {
                    Segment::Text(text) | Segment::Line(_, _, text) => text.to_owned(),
                    Segment::Txn(txn) => txn.to_string(),
                })
                .collect();
            assert_eq!(whole, text);
        }
    }
}
