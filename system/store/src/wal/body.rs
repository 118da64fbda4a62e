//! The body of a frame: for each record the length (1 byte) and the bytes of its key, the length (4
//! bytes) and the bytes of its value, encoded as in the rows of the tables. Numbers are big-endian.

use crate::{RowError, Schema};

/// Appends a record.
pub(super) fn encode_record<S: Schema>(record: &S::Record, into: &mut Vec<u8>) {
    let key = S::row_key(record);
    let key = key.as_bytes();
    into.push(u8::try_from(key.len()).expect("row keys have at most 17 bytes"));
    into.extend_from_slice(key);
    let len_at = into.len();
    into.extend_from_slice(&[0; 4]);
    S::encode(record, into);
    let len =
        u32::try_from(into.len() - len_at - 4).expect("the limits bound the length of values");
    into[len_at..len_at + 4].copy_from_slice(&len.to_be_bytes());
}

/// Decodes the records of a frame.
pub(super) fn decode<S: Schema>(
    mut body: &[u8],
    records: &mut Vec<S::Record>,
) -> Result<(), RowError> {
    const TRUNCATED: &str = "a record is truncated";
    while let Some((len, rest)) = body.split_first() {
        let (key, rest) = rest.split_at_checked(usize::from(*len)).ok_or(TRUNCATED)?;
        let (len, rest) = rest.split_first_chunk().ok_or(TRUNCATED)?;
        let len = u32::from_be_bytes(*len) as usize;
        let (value, rest) = rest.split_at_checked(len).ok_or(TRUNCATED)?;
        records.push(S::decode(key, value)?);
        body = rest;
    }
    Ok(())
}
