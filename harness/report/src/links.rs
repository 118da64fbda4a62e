//! Renders findings with links to what they refer to.
//!
//! A finding without references is a plain sentence of a check, or comes from a `results.json` that was
//! written before findings had references. For these, [`recognized`] finds transactions and journal lines
//! by how sentences name them.

use checker::{Citation, Finding, Reference};
use maud::{Markup, html};

/// A finding with links. `page` is the address of the page of the run, empty on that page itself.
pub(crate) fn linked(finding: &Finding, page: &str) -> Markup {
    let finding = recognized(finding);
    html! {
        @for (text, reference) in finding.segments() {
            @match reference {
                None | Some(Reference::Node(_)) => { (text) }
                Some(Reference::Transaction(id)) => {
                    a.transaction href=(format!("{page}#transaction={id}")) { (text) }
                }
                Some(Reference::JournalLine { node, line }) => {
                    a.line href=(format!("{page}#line={node}:{line}")) { (text) }
                }
                Some(Reference::Operation { index }) => {
                    a.operation href=(format!("{page}#index={index}")) { (text) }
                }
                Some(Reference::Key(key)) => {
                    a.key href=(format!("{page}#key={key}")) { (text) }
                }
            }
        }
    }
}

/// The finding itself if it has references. Otherwise the same sentence with those that can be recognised
/// in it.
pub(super) fn recognized(finding: &Finding) -> Finding {
    if !finding.citations().is_empty() {
        return finding.clone();
    }
    let text = finding.text();
    let mut citations: Vec<Citation> = Vec::new();
    let mut at = 0;
    let mut inside_word = false;
    while let Some(first) = text[at..].chars().next() {
        let rest = &text[at..];
        let found =
            if inside_word { None } else { journal_line(rest).or_else(|| transaction(rest)) };
        if let Some((reference, length)) = found {
            citations.push(Citation { range: at..at + length, reference });
            at += length;
            inside_word = true;
        } else {
            inside_word = first.is_alphanumeric() || ".-_'".contains(first);
            at += first.len_utf8();
        }
    }
    Finding::new(text, citations)
}

/// The first transaction that a sentence names.
pub(super) fn first_transaction(text: &str) -> Option<String> {
    let finding = recognized(&text.into());
    finding.references().find_map(|reference| match reference {
        Reference::Transaction(id) => Some(id.clone()),
        _ => None,
    })
}

/// Recognises `r2 journal line 17` at the beginning of a text. Returns its length as well.
fn journal_line(text: &str) -> Option<(Reference, usize)> {
    let (node, rest) = text.split_once(" journal line ")?;
    let is_name = node.starts_with(|c: char| c.is_ascii_alphabetic())
        && node.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let line = rest[..digits].parse().ok().filter(|_| is_name)?;
    let length = text.len() - rest.len() + digits;
    Some((Reference::JournalLine { node: node.to_owned(), line }, length))
}

/// Recognises `1.17` at the beginning of a text, but not a quantity such as `1.17 s`. Returns its length
/// as well.
fn transaction(text: &str) -> Option<(Reference, usize)> {
    let length = text.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
    let id = text[..length].trim_end_matches('.');
    let rest = &text[id.len()..];
    let is_quantity = [" s", " ms", " µs", "%"].iter().any(|unit| {
        rest.strip_prefix(unit).is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
    });
    let goes_on = rest.chars().next().is_some_and(|next| next.is_alphanumeric() || next == '-');
    let (epoch, _) = numeric_identifier(id).filter(|_| !is_quantity && !goes_on)?;
    (epoch > 0).then(|| (Reference::Transaction(id.to_owned()), id.len()))
}

/// The parts of an identifier that consists of two numbers, such as `1.17`. They determine its text, and
/// are small enough to be exact in JavaScript.
pub(super) fn numeric_identifier(id: &str) -> Option<(i64, i64)> {
    const MAX: i64 = 1 << 53;
    let (major, minor) = id.split_once('.')?;
    let parts: (i64, i64) = (major.parse().ok()?, minor.parse().ok()?);
    let canonical = format!("{}.{}", parts.0, parts.1) == id;
    let exact = (0..=MAX).contains(&parts.0) && (0..=MAX).contains(&parts.1);
    (canonical && exact).then_some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_recognised_in_a_plain_sentence() {
        let text = "AC1: r2 aborted 1.669 (r2 journal line 7111) after 'k1.5' 2.5 s, 3.4.";
        let found = recognized(&text.into());
        let line = Reference::JournalLine { node: "r2".to_owned(), line: 7111 };
        assert_eq!(
            found.segments(),
            [
                ("AC1: r2 aborted ", None),
                ("1.669", Some(&Reference::Transaction("1.669".to_owned()))),
                (" (", None),
                ("r2 journal line 7111", Some(&line)),
                (") after 'k1.5' 2.5 s, ", None),
                ("3.4", Some(&Reference::Transaction("3.4".to_owned()))),
                (".", None),
            ]
        );
        for text in ["", "k1", "p3-1.2", "größer als 1.2, 1.", "master journal line x"] {
            let found = recognized(&text.into());
            let sentence: String = found.segments().into_iter().map(|(text, _)| text).collect();
            assert_eq!(sentence, text);
        }
    }

    #[test]
    fn references_of_a_finding_are_used_as_they_are() {
        let key = Citation { range: 0..2, reference: Reference::Key("k1".to_owned()) };
        let finding = Finding::new("k1 after 1.7", [key]);
        assert_eq!(recognized(&finding), finding);
        let html = linked(&finding, "report.html").into_string();
        assert_eq!(html, "<a class=\"key\" href=\"report.html#key=k1\">k1</a> after 1.7");
    }

    #[test]
    fn only_canonical_numbers_make_a_numeric_identifier() {
        assert_eq!(numeric_identifier("1.17"), Some((1, 17)));
        for other in ["", "1", "1.", "01.2", "1.02", "1.2.3", "+1.2", "1.-2", "1.99999999999999999"]
        {
            assert_eq!(numeric_identifier(other), None, "{other}");
        }
    }
}
