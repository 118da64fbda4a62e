//! The frames of a journal: where one begins and ends, and whether it is intact. Does not know what
//! is in them.

use std::io;

/// The first bytes of a journal. The last digit is the version of the format.
pub(crate) const MAGIC: [u8; 8] = *b"2PC-JRN1";

/// Bytes before the body of a frame: its length, its kind, the checksum of these two, and the
/// checksum of the body, four bytes each. The header has a checksum of its own, so that a damaged
/// length is not taken for a frame that is still being written.
pub(crate) const HEADER_BYTES: usize = 16;

/// The longest text of a frame, before compression: a start with a few million records.
pub(crate) const BATCH_BYTES_MAX: usize = 1 << 29;

/// The longest body: text that cannot be compressed grows a little.
const BODY_BYTES_MAX: usize = BATCH_BYTES_MAX + (BATCH_BYTES_MAX >> 8);

/// Whether the compressed stream of a body begins with it or continues the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The body continues the stream of the frame before.
    Continues = 0,
    /// The body begins a stream. The first frame of every process does, since the state of the
    /// compressor ends with its process.
    Begins = 1,
}

/// A frame in a buffer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub(crate) kind: Kind,
    pub(crate) body: &'a [u8],
}

impl Frame<'_> {
    /// The bytes that it takes, header included.
    pub(crate) fn bytes(&self) -> usize {
        HEADER_BYTES + self.body.len()
    }
}

/// The header of a frame with this body.
pub(crate) fn header(kind: Kind, body: &[u8]) -> [u8; HEADER_BYTES] {
    let length = u32::try_from(body.len()).expect("a batch is shorter than BATCH_BYTES_MAX");
    let mut header = [0; HEADER_BYTES];
    header[..4].copy_from_slice(&length.to_le_bytes());
    header[4..8].copy_from_slice(&(kind as u32).to_le_bytes());
    let checksum = crc32fast::hash(&header[..8]);
    header[8..12].copy_from_slice(&checksum.to_le_bytes());
    header[12..].copy_from_slice(&crc32fast::hash(body).to_le_bytes());
    header
}

/// The frame at the beginning of `bytes`, `None` if it is not complete there.
///
/// # Errors
/// The bytes are not the beginning of a frame. The message says why, without the position.
pub(crate) fn parse(bytes: &[u8]) -> Result<Option<Frame<'_>>, &'static str> {
    let Some((header, rest)) = bytes.split_at_checked(HEADER_BYTES) else { return Ok(None) };
    let field =
        |at| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    if field(8) != crc32fast::hash(&header[..8]) {
        return Err("the checksum of the frame's header does not match");
    }
    let kind = match field(4) {
        0 => Kind::Continues,
        1 => Kind::Begins,
        _ => return Err("the kind of the frame is unknown"),
    };
    let length = field(0) as usize;
    if length > BODY_BYTES_MAX {
        return Err("the frame is longer than any batch");
    }
    let Some(body) = rest.get(..length) else { return Ok(None) };
    if field(12) != crc32fast::hash(body) {
        return Err("the checksum of the frame does not match");
    }
    Ok(Some(Frame { kind, body }))
}

/// An error that says what is wrong and at which byte of the file.
pub(crate) fn damaged(at: u64, reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("damaged at byte {at}: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_parsed_whole_or_not_at_all_and_every_damaged_byte_is_noticed() {
        let body = b"some compressed bytes";
        let mut bytes = header(Kind::Begins, body).to_vec();
        bytes.extend_from_slice(body);
        let frame = Frame { kind: Kind::Begins, body };
        assert_eq!((parse(&bytes), frame.bytes()), (Ok(Some(frame)), bytes.len()));
        for end in 0..bytes.len() {
            assert_eq!(parse(&bytes[..end]), Ok(None), "{end} bytes");
        }
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                assert!(parse(&damaged).is_err(), "bit {bit} of byte {at}");
            }
        }
    }
}
