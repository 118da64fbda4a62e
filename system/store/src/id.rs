//! The identity of a store.

use std::{fmt, str::FromStr};

/// The identity of a store, drawn at random when it is created. It distinguishes the files of
/// different stores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreId(pub u64);

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for StoreId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        u64::from_str_radix(text, 16)
            .map(StoreId)
            .map_err(|_| format!("invalid store id '{text}': expected 16 hexadecimal digits"))
    }
}
