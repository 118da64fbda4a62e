//! The text formats. Plume's and PolySI's has an access a line, `r(key,value,session,transaction)`; -1 as
//! the transaction of a write says that it failed. AWDIT's tests have sessions between lines of `=`, and
//! transactions between lines of `-`.

use std::{collections::HashMap, io::BufRead};

use ahash::RandomState;

use super::{
    super::{FormatError, lines, pairing::PairingSink},
    Access, SessionTransaction, Sessions,
};
use crate::Outcome;

/// Whether a line is an access as Plume writes it.
pub(in super::super) fn is_plume(line: &[u8]) -> bool {
    str::from_utf8(line).is_ok_and(|line| plume_access(line).is_some())
}

/// Whether a line is one of AWDIT's tests.
pub(in super::super) fn is_awdit(line: &[u8]) -> bool {
    let is_access = || str::from_utf8(line).is_ok_and(|line| awdit_access(line).is_some());
    is_separator(line, b'=') || is_separator(line, b'-') || is_access()
}

/// The access, session and transaction of a line; the transaction is `None` if it failed.
fn plume_access(line: &str) -> Option<(Access, u64, Option<u64>)> {
    let line = line.trim();
    let (f, rest) = line.split_at_checked(1)?;
    let fields = rest.trim_start().strip_prefix('(')?.strip_suffix(')')?;
    let mut numbers = fields.split(',').map(str::trim);
    let [key, value, session] = [numbers.next()?, numbers.next()?, numbers.next()?];
    let transaction = match numbers.next()? {
        "-1" => None,
        number => Some(number.parse().ok()?),
    };
    let is_write = match f {
        "w" => true,
        "r" => false,
        _ => return None,
    };
    let access = Access { is_write, key: key.parse().ok()?, value: Some(value.parse().ok()?) };
    numbers.next().is_none().then_some((access, session.parse().ok()?, transaction))
}

/// Reads Plume's and PolySI's text.
pub(in super::super) fn stream_plume(
    input: &mut dyn BufRead,
    pairs: &mut PairingSink<'_>,
) -> Result<(), FormatError> {
    let mut sessions = Sessions::default();
    let mut session_numbers: HashMap<u64, usize, RandomState> = HashMap::default();
    // By transaction: session and position.
    let mut places: HashMap<u64, (usize, usize), RandomState> = HashMap::default();
    lines(input, |number, line, _| {
        if line.trim_ascii().is_empty() {
            return Ok(());
        }
        let malformed = |reason: String| FormatError::new(number, 1, reason);
        let access = str::from_utf8(line).ok().and_then(plume_access);
        let Some((access, session, transaction)) = access else {
            return Err(malformed(
                "expected r(key,value,session,transaction) or w(...) with numbers".to_owned(),
            ));
        };
        let at = *session_numbers.entry(session).or_insert_with(|| {
            sessions.add(session, None);
            sessions.names.len() - 1
        });
        let Some(transaction) = transaction else {
            if access.is_write {
                let (accesses, outcome) = (vec![access], Outcome::Fail);
                sessions.transactions[at].push(SessionTransaction { accesses, outcome });
            }
            return Ok(());
        };
        let next = (at, sessions.transactions[at].len());
        let (of, place) = *places.entry(transaction).or_insert(next);
        if of != at {
            return Err(malformed(format!(
                "transaction {transaction} is in session {session}, and before it was in session {}",
                sessions.names[of].0
            )));
        }
        if (of, place) == next {
            let (accesses, outcome) = (Vec::new(), Outcome::Ok);
            sessions.transactions[at].push(SessionTransaction { accesses, outcome });
        }
        sessions.transactions[at][place].accesses.push(access);
        Ok(())
    })?;
    sessions.zero_is_initial();
    sessions.pass_on(pairs).map_err(|error| FormatError::new(1, 1, error.to_string()))
}

fn is_separator(line: &[u8], of: u8) -> bool {
    let line = line.trim_ascii();
    !line.is_empty() && line.iter().all(|byte| *byte == of)
}

fn awdit_access(line: &str) -> Option<Access> {
    let mut words = line.split_ascii_whitespace();
    let is_write = match words.next()? {
        "w" => true,
        "r" => false,
        _ => return None,
    };
    let [key, value] = [words.next()?.parse().ok()?, words.next()?.parse().ok()?];
    words.next().is_none().then_some(Access { is_write, key, value: Some(value) })
}

/// Reads AWDIT's tests. They write what registers hold at first, so every value is a written one.
pub(in super::super) fn stream_awdit(
    input: &mut dyn BufRead,
    pairs: &mut PairingSink<'_>,
) -> Result<(), FormatError> {
    let mut sessions = Sessions::default();
    let mut transactions = Vec::new();
    let mut accesses = Vec::new();
    let end_transaction = |accesses: &mut Vec<Access>, all: &mut Vec<SessionTransaction>| {
        if !accesses.is_empty() {
            let accesses = std::mem::take(accesses);
            all.push(SessionTransaction { accesses, outcome: Outcome::Ok });
        }
    };
    let mut end_session = |all: &mut Vec<SessionTransaction>| {
        if !all.is_empty() {
            let number = sessions.names.len() as u64;
            *sessions.add(number, None) = std::mem::take(all);
        }
    };
    lines(input, |number, line, _| {
        if is_separator(line, b'=') || is_separator(line, b'-') {
            end_transaction(&mut accesses, &mut transactions);
            if is_separator(line, b'=') {
                end_session(&mut transactions);
            }
            return Ok(());
        }
        if line.trim_ascii().is_empty() {
            return Ok(());
        }
        let access = str::from_utf8(line).ok().and_then(awdit_access).ok_or_else(|| {
            FormatError::new(
                number,
                1,
                "expected 'r key value' or 'w key value' with numbers, a line of - between \
                 transactions, or of = between sessions",
            )
        })?;
        accesses.push(access);
        Ok(())
    })?;
    end_transaction(&mut accesses, &mut transactions);
    end_session(&mut transactions);
    sessions.pass_on(pairs).map_err(|error| FormatError::new(1, 1, error.to_string()))
}
