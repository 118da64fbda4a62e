//! Pages of the entries, in key order, each as of one moment.

use std::{mem, ops::Bound};

use heed::{RoTxn, WithoutTls};

use crate::{
    Schema, Store, StoreError, codec, memtable::Change, schema::Versioned, store::is_replaced,
};

/// A key, and its entry or how that is damaged. A change of the key may hide the damage.
type Row<S> = (<S as Schema>::Key, Result<Versioned<S>, StoreError>);

/// What an entry takes of a page besides its key and its value, in bytes.
const ENTRY_BYTES: usize = 64;

/// A page of entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryPage<S: Schema> {
    /// The live keys, ascending, with their versions and values.
    pub entries: Vec<(S::Key, S::Version, S::Value)>,
    /// The next live key of the range, if there is one.
    pub end: Option<S::Key>,
}

impl<S: Schema> Default for EntryPage<S> {
    fn default() -> Self {
        EntryPage { entries: Vec::new(), end: None }
    }
}

/// How large a page may be. It always has room for one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageSize {
    /// The number of entries.
    pub entries_max: usize,
    /// The bytes of keys and values, and 64 for each entry.
    pub bytes_max: usize,
}

impl PageSize {
    pub(crate) fn room(self) -> Room {
        Room { is_empty: true, left: self }
    }
}

/// The room that is left on a page.
pub(crate) struct Room {
    is_empty: bool,
    left: PageSize,
}

impl Room {
    /// Takes the room of an entry. Returns whether there is enough.
    pub(crate) fn take(&mut self, key: &[u8], value: &[u8]) -> bool {
        let bytes = key.len() + value.len() + ENTRY_BYTES;
        let PageSize { entries_max, bytes_max } = self.left;
        if !self.is_empty && (entries_max == 0 || bytes_max < bytes) {
            return false;
        }
        self.is_empty = false;
        self.left = PageSize {
            entries_max: entries_max.saturating_sub(1),
            bytes_max: bytes_max.saturating_sub(bytes),
        };
        true
    }
}

impl<S: Schema> Store<S> {
    /// The entries of a range, in key order, after every record appended so far: from `start` on, below `to`,
    /// and as many as the page has room for.
    ///
    /// # Errors
    /// An entry is damaged, the store cannot be read, or an earlier write failed.
    pub fn page(
        &self,
        start: Bound<&S::Key>,
        to: Option<&S::Key>,
        size: PageSize,
    ) -> Result<EntryPage<S>, StoreError> {
        self.shared.check()?;
        // One more live entry than the page has tells where it ends.
        let changed = self.shared.changes_in(start, to, size.entries_max.max(1) + 1);
        // Start the read transaction after copying the changes: an entry that is checkpointed in between is
        // then found twice, rather than not at all.
        let txn = self.environment.read()?;
        let mut rows = self.rows(&txn, start, to)?;
        let mut page = EntryPage::default();
        let mut room = size.room();
        let mut changed = changed.into_iter().peekable();
        let mut row = rows.next().transpose()?;
        loop {
            // If both have a key, the tables have an earlier write of it, or the same.
            let is_changed = match (&row, changed.peek()) {
                (None, None) => break,
                (Some((key, _)), Some((changed, _))) => changed <= key,
                (row, _) => row.is_none(),
            };
            let (key, found) = if is_changed {
                let Some((key, Change { version, value, .. })) = changed.next() else { break };
                if row.as_ref().is_some_and(|(stored, _)| *stored == key) {
                    row = rows.next().transpose()?;
                }
                let Some(value) = value else { continue };
                (key, (version, value))
            } else {
                let next = rows.next().transpose()?;
                let Some((key, entry)) = mem::replace(&mut row, next) else { break };
                (key, entry?)
            };
            let (version, value) = found;
            if !room.take(key.as_ref(), value.as_ref()) {
                page.end = Some(key);
                break;
            }
            page.entries.push((key, version, value));
        }
        Ok(page)
    }

    /// The rows of a range in the tables. A row whose bytes are damaged has kept its place, but its key may
    /// have not: one just outside the range counts as one inside.
    fn rows<'a>(
        &'a self,
        txn: &'a RoTxn<'_, WithoutTls>,
        start: Bound<&S::Key>,
        to: Option<&'a S::Key>,
    ) -> Result<impl Iterator<Item = Result<Row<S>, StoreError>> + 'a, StoreError> {
        let failed = || self.environment.error("cannot read");
        let entries = &self.environment.entries;
        let before = match start {
            Bound::Unbounded => Ok(None),
            Bound::Included(from) => entries.get_lower_than(txn, from.as_ref()),
            Bound::Excluded(after) => entries.get_lower_than_or_equal_to(txn, after.as_ref()),
        };
        if let Some((key, row)) = before.map_err(failed())?
            && !self.is_intact_or_replaced(txn, key, row)
        {
            return Err(self.damaged_row(key, row));
        }
        let range = (start.map(AsRef::as_ref), Bound::<&[u8]>::Unbounded);
        let all = entries.range(txn, &range).map_err(failed())?;
        let rows = all.map_while(move |row| {
            let (key, row) = match row.map_err(failed()) {
                Ok(row) => row,
                Err(error) => return Some(Err(error)),
            };
            match codec::decode_entry::<S>(key, row) {
                Ok(_) if to.is_some_and(|to| key >= to.as_ref()) => None,
                Ok(entry) => Some(Ok(Some((S::Key::from(key), Ok(entry))))),
                // Of no use any more.
                Err(_) if self.is_intact_or_replaced(txn, key, row) => Some(Ok(None)),
                Err(_) => Some(Ok(Some((S::Key::from(key), Err(self.damaged_row(key, row)))))),
            }
        });
        Ok(rows.filter_map(Result::transpose))
    }

    fn is_intact_or_replaced(&self, txn: &RoTxn<'_, WithoutTls>, key: &[u8], row: &[u8]) -> bool {
        let is_changed = |key: &S::Key| self.shared.changed(key).is_some();
        codec::version_of_entry::<S>(key, row).is_some()
            || is_replaced::<S>(&self.environment, txn, key, row, is_changed)
    }

    /// The error for a damaged row: it names the key whose entry it was.
    fn damaged_row(&self, key: &[u8], row: &[u8]) -> StoreError {
        let before = codec::key_before_rot::<S>(key, row);
        self.environment.damaged_entry(before.as_deref().unwrap_or(key), "its row is damaged")
    }
}
