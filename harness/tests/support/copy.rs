//! Copies a directory. Knows nothing of what is in it.

use std::{fs, path::Path};

/// Copies a directory with all that is in it.
pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("it may be made");
    for entry in fs::read_dir(from).expect("it can be listed").flatten() {
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(&path, &to).expect("it may be copied");
        }
    }
}
