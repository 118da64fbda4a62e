//! The size limits of keys and values. Every caller that accepts a write from outside checks it
//! here first, so that the store never meets a key or value that it cannot hold.

use thiserror::Error;

/// The longest key, in bytes, which LMDB dictates. The shortest is one byte.
pub const KEY_BYTES_MAX: usize = 511;

/// The size limits of keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest value, in bytes. Default 1 MiB; at most [`Limits::VALUE_BYTES_CEILING`].
    pub value_bytes_max: usize,
}

impl Limits {
    /// The highest limit that can be configured: 1 GiB, well below what LMDB can store in a row.
    pub const VALUE_BYTES_CEILING: usize = 1 << 30;

    /// Checks a key, and the value to be stored under it, if any.
    ///
    /// # Errors
    /// The limit that is exceeded, and the actual size.
    pub fn check(&self, key: &[u8], value: Option<&[u8]>) -> Result<(), LimitError> {
        match key.len() {
            0 => return Err(LimitError::EmptyKey),
            1..=KEY_BYTES_MAX => {}
            len => return Err(LimitError::LongKey { len }),
        }
        let max = self.value_bytes_max.min(Self::VALUE_BYTES_CEILING);
        match value.map_or(0, <[u8]>::len) {
            len if len > max => Err(LimitError::LongValue { len, max }),
            _ => Ok(()),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits { value_bytes_max: 1 << 20 }
    }
}

/// A key or a value that the store does not accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LimitError {
    /// The key has no bytes.
    #[error("the key is empty: a key has 1 to {KEY_BYTES_MAX} bytes")]
    EmptyKey,
    /// The key is too long.
    #[error("the key has {len} bytes: a key has 1 to {KEY_BYTES_MAX} bytes")]
    LongKey {
        /// Its length in bytes.
        len: usize,
    },
    /// The value is too long.
    #[error("the value has {len} bytes: the limit is {max} bytes")]
    LongValue {
        /// Its length in bytes.
        len: usize,
        /// The longest value, in bytes.
        max: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_at_the_limits_pass_and_one_beyond_is_refused() {
        let limits = Limits::default();
        let key = |len: usize| vec![b'k'; len];
        let value = |len: usize| vec![0; len];

        assert_eq!(limits.check(&key(0), None), Err(LimitError::EmptyKey));
        assert_eq!(limits.check(&key(1), None), Ok(()));
        assert_eq!(limits.check(&key(511), Some(&value(1 << 20))), Ok(()));
        assert_eq!(limits.check(&key(512), None), Err(LimitError::LongKey { len: 512 }));
        assert_eq!(
            limits.check(&key(1), Some(&value((1 << 20) + 1))),
            Err(LimitError::LongValue { len: (1 << 20) + 1, max: 1 << 20 })
        );
        assert_eq!(limits.check(&key(1), Some(&value(0))), Ok(()));

        let small = Limits { value_bytes_max: 3 };
        assert_eq!(
            small.check(&key(1), Some(&value(4))).unwrap_err().to_string(),
            "the value has 4 bytes: the limit is 3 bytes"
        );
    }
}
