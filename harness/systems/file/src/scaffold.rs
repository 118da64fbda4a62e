//! Writes a system file and a client in Python to begin with.

use std::{
    fs::File,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

/// The client that is written: that of the example.
const CLIENT: &str = include_str!("../example/client.py");

/// The file that is written.
const FILE: &str = include_str!("../example/new.toml");

/// What stands for the name of the system in the file.
const NAME: &str = "NAME";

/// Writes `NAME.toml` and `NAME-client.py` into a directory. Returns their paths.
///
/// # Errors
/// The name cannot be one, or a file exists or cannot be written.
pub fn write(name: &str, directory: &Path) -> io::Result<Vec<PathBuf>> {
    let fits = |letter: char| letter.is_ascii_alphanumeric() || "-_".contains(letter);
    if name.is_empty() || !name.chars().all(fits) {
        let why = format!("'{name}': a name consists of letters, digits, '-' and '_'");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    let file = directory.join(format!("{name}.toml"));
    let client = directory.join(format!("{name}-client.py"));
    let contents = [(&file, FILE.replace(NAME, name)), (&client, CLIENT.to_owned())];
    for (path, _) in &contents {
        if path.exists() {
            let why = format!("{} exists and is not overwritten", path.display());
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
        }
    }
    for (path, text) in contents {
        let named =
            |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        File::create_new(path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(named)?;
    }
    Ok(vec![file, client])
}
