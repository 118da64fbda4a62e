//! Packs columns of integers for the page: variable-length integers behind a JSON header, gzipped and
//! encoded as base64, so that HTML can embed them. The page's script decodes them.

use std::io::{self, Write as _};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use flate2::{Compression, write::GzEncoder};
use serde::Serialize;

/// Columns under construction.
#[derive(Debug, Default)]
pub(super) struct Columns {
    names: Vec<(String, usize)>,
    bytes: Vec<u8>,
}

impl Columns {
    /// Adds a column of numbers, for numbers that are small.
    pub(super) fn values(&mut self, name: &str, numbers: impl IntoIterator<Item = i64>) {
        let mut count = 0;
        for number in numbers {
            self.put(number);
            count += 1;
        }
        self.names.push((name.to_owned(), count));
    }

    /// Adds a column of numbers as differences, for numbers of which each is close to its predecessor.
    /// A `+` before its name marks such a column for the decoder.
    pub(super) fn deltas(&mut self, name: &str, numbers: impl IntoIterator<Item = i64>) {
        let mut last = 0_i64;
        self.values(
            &format!("+{name}"),
            numbers.into_iter().map(|number| {
                let delta = number.wrapping_sub(last);
                last = number;
                delta
            }),
        );
    }

    /// Writes a signed number in zigzag LEB128: the sign in the lowest bit, then seven bits a byte, the
    /// lowest first.
    fn put(&mut self, number: i64) {
        let mut rest = ((number << 1) ^ (number >> 63)).cast_unsigned();
        while rest >= 0x80 {
            self.bytes.push((rest & 0x7f) as u8 | 0x80);
            rest >>= 7;
        }
        self.bytes.push(rest as u8);
    }

    /// Packs the columns behind a header, which must be a JSON object. The result is base64: it needs
    /// no escaping in HTML.
    ///
    /// # Errors
    /// The header cannot be serialised.
    pub(super) fn pack(self, head: &impl Serialize) -> io::Result<String> {
        #[derive(Serialize)]
        struct Header<'a, T> {
            columns: &'a [(String, usize)],
            #[serde(flatten)]
            head: &'a T,
        }
        let head = serde_json::to_vec(&Header { columns: &self.names, head })?;
        let length = u32::try_from(head.len()).map_err(io::Error::other)?;
        let mut out = GzEncoder::new(Vec::new(), Compression::new(6));
        out.write_all(&length.to_le_bytes())?;
        out.write_all(&head)?;
        out.write_all(&self.bytes)?;
        Ok(STANDARD.encode(out.finish()?))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use serde_json::json;

    use super::*;

    #[test]
    fn packed_columns_decode_to_the_same_numbers() {
        let mut columns = Columns::default();
        columns.values("a", [0, -1, 1, 63, -64, 64, i64::MAX, i64::MIN]);
        columns.deltas("t", [1_000_000, 1_000_001, 999_999]);
        let text = columns.pack(&json!({ "name": "</script>" })).expect("it serialises");
        assert!(!text.contains('<'));
        let bytes = STANDARD.decode(text).expect("it is base64");
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(&*bytes).read_to_end(&mut plain).expect("it is gzip");
        let (length, rest) = plain.split_at(4);
        let length = u32::from_le_bytes(length.try_into().expect("four bytes")) as usize;
        let head: serde_json::Value = serde_json::from_slice(&rest[..length]).expect("JSON");
        assert_eq!(head, json!({ "columns": [["a", 8], ["+t", 3]], "name": "</script>" }));
        let mut numbers = Vec::new();
        let (mut number, mut shift) = (0_u64, 0);
        for byte in &rest[length..] {
            number |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                numbers.push((number >> 1).cast_signed() ^ -((number & 1).cast_signed()));
                (number, shift) = (0, 0);
            }
        }
        assert_eq!(
            numbers,
            [0, -1, 1, 63, -64, 64, i64::MAX, i64::MIN, 1_000_000, 1, -2],
            "a delta column holds differences"
        );
    }
}
