//! Finds in a sentence what it speaks of: transactions, and lines of journals. Knows how they are
//! written, not what they mean.

use system::protocol::{Node, TxnId};

/// A piece of a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// Words.
    Text(&'a str),
    /// A transaction.
    Txn(TxnId),
    /// A line of a node's journal, as it is written in the sentence.
    Line(Node, usize, &'a str),
}

/// The pieces of a sentence, in order: put together they are the sentence.
pub(super) fn pieces(sentence: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let (mut told, mut at) = (0, 0);
    let mut inside = false;
    while let Some(first) = sentence[at..].chars().next() {
        let rest = &sentence[at..];
        let found = if inside { None } else { line(rest).or_else(|| transaction(rest)) };
        if let Some((piece, length)) = found {
            if told < at {
                pieces.push(Piece::Text(&sentence[told..at]));
            }
            pieces.push(piece);
            at += length;
            told = at;
            inside = true;
        } else {
            inside = first.is_alphanumeric() || ".-_'".contains(first);
            at += first.len_utf8();
        }
    }
    if told < sentence.len() {
        pieces.push(Piece::Text(&sentence[told..]));
    }
    pieces
}

/// `r2 journal line 17` at the beginning of a text, and how long it is.
fn line(text: &str) -> Option<(Piece<'_>, usize)> {
    let (name, rest) = text.split_once(" journal line ")?;
    let node = name.parse::<Node>().ok()?;
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let number = rest[..digits].parse().ok()?;
    let length = text.len() - rest.len() + digits;
    Some((Piece::Line(node, number, &text[..length]), length))
}

/// `1.17` at the beginning of a text, and how long it is; not a figure such as `1.17 s`.
fn transaction(text: &str) -> Option<(Piece<'_>, usize)> {
    let length = text.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
    let number = text[..length].trim_end_matches('.');
    let rest = &text[number.len()..];
    let unit = [" s", " ms", " µs", "%"].iter().any(|unit| {
        rest.strip_prefix(unit).is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
    });
    let word = rest.chars().next().is_some_and(|next| next.is_alphanumeric() || next == '-');
    let txn = number.parse().ok().filter(|txn: &TxnId| !unit && !word && txn.epoch > 0)?;
    Some((Piece::Txn(txn), number.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_are_taken_apart_and_nothing_is_lost() {
        let found = pieces("AC1: r2 aborted 1.669 (r2 journal line 7111) after 'k1.5' 2.5 s, 3.4.");
        assert_eq!(
            found,
            [
                Piece::Text("AC1: r2 aborted "),
                Piece::Txn(TxnId::new(1, 669)),
                Piece::Text(" ("),
                Piece::Line(Node::Replica(2), 7111, "r2 journal line 7111"),
                Piece::Text(") after 'k1.5' 2.5 s, "),
                Piece::Txn(TxnId::new(3, 4)),
                Piece::Text("."),
            ]
        );
        for text in ["", "k1", "p3-1.2", "größer als 1.2, 1.", "master journal line x"] {
            let whole: String = pieces(text)
                .into_iter()
                .map(|piece| match piece {
                    Piece::Text(text) | Piece::Line(_, _, text) => text.to_owned(),
                    Piece::Txn(txn) => txn.to_string(),
                })
                .collect();
            assert_eq!(whole, text);
        }
    }
}
