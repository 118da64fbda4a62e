//! Upgrades a store of format 4, whose log was one file without salts. The order makes every moment
//! safe: the segments are durable before the commit that needs them; that one commit brings what the old
//! log held, the new format and the salts; the old log is removed, durably, before the first frame. A
//! crash before the commit leaves a store of format 4, one after it a store of the current format with a
//! file too many.

use std::{
    fs,
    io::{self, ErrorKind},
    path::Path,
};

use crate::{
    Schema, StoreError, StoreOptions,
    checkpoint::Checkpointer,
    environment::{self, Environment, sync_directory},
    wal::{self, Anchor, Wal, WalOptions, legacy},
    writer::Shared,
};

/// Upgrades a store whose tables contain its old log up to a generation, and whose later records have
/// been read. Returns its new WAL.
pub(crate) fn upgrade<S: Schema>(
    environment: &Environment,
    checkpointer: &mut Checkpointer,
    shared: &Shared<S>,
    applied: u64,
    options: &StoreOptions,
) -> Result<Wal, StoreError> {
    let dir = environment.dir();
    wal::create(dir, environment.id, options.wal_bytes)?;
    sync_directory(dir).map_err(environment::io(dir, "cannot sync the new WAL"))?;
    let anchor = Anchor::new(applied + 1);
    shared.checkpoint_now(|facts, changed| checkpointer.write::<S>(facts, changed, &anchor))?;
    remove_old_log(dir)?;
    let StoreOptions { exclusive, sync_mode, rules, .. } = *options;
    let options = WalOptions { append: exclusive, sync_mode, rules };
    Ok(Wal::open::<S>(dir, environment.id, anchor, options)?.0)
}

/// Removes the old log of a store that has the current format.
pub(crate) fn remove_old_log(dir: &Path) -> Result<(), StoreError> {
    let path = dir.join(legacy::LOG_FILE);
    let removed: io::Result<()> = match fs::remove_file(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        removed => removed.and_then(|()| sync_directory(dir)),
    };
    removed.map_err(environment::io(&path, "cannot remove the log of the earlier format"))
}
