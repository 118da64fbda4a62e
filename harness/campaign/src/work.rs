//! What the shards of a campaign are shards of: a command, the harness that executes it, and the files that it reads.
//! Shards of different work say nothing together.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    CampaignError,
    attempt::{entries, file_name},
};

/// How much of a file is read at a time.
const BLOCK_BYTES: usize = 1 << 16;

/// The work of a campaign: the same for all of its shards.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// The command, without the options that say which shard it does.
    pub command: String,
    /// The version of the harness.
    #[serde(default)]
    pub version: String,
    /// The files that the command reads.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<Input>,
}

/// A file that a command reads, as it was then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// The path.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// A number that every machine computes from what is in it.
    pub digest: String,
}

impl Work {
    /// The work of a command that reads these files, and those in these directories.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn of(command: &str, version: &str, inputs: &[PathBuf]) -> Result<Work, CampaignError> {
        let mut found = Vec::new();
        for path in inputs {
            add_inputs(path, &mut found)?;
        }
        Ok(Work { command: command.to_owned(), version: version.to_owned(), inputs: found })
    }

    /// What this work was made by or of, where that differs from the other.
    pub(crate) fn difference(&self, other: &Work) -> Option<String> {
        if self.command != other.command {
            return Some(format!("was made by `{}`", self.command));
        }
        if self.version != other.version {
            let (this, that) = (&self.version, &other.version);
            return Some(format!("was made by version '{this}' of the harness, not by '{that}'"));
        }
        let is_gone = |input: &&Input| !other.inputs.contains(input);
        let changed = self.inputs.iter().find(is_gone).map(|input| &input.path);
        let is_new = |input: &&Input| !self.inputs.contains(input);
        let path = changed.or(other.inputs.iter().find(is_new).map(|input| &input.path))?;
        Some(format!("was made when {} was another file", path.display()))
    }
}

/// Adds a file, or the files in a directory, in the order of their names.
fn add_inputs(path: &Path, found: &mut Vec<Input>) -> Result<(), CampaignError> {
    if !path.is_dir() {
        found.push(Input::of(path).map_err(CampaignError::file(path))?);
        return Ok(());
    }
    // Hidden files are of tools, and links to directories are to what is here anyway.
    let is_other =
        |path: &Path| file_name(path).starts_with('.') || path.is_symlink() && path.is_dir();
    let inside = entries(path)?;
    inside.iter().filter(|path| !is_other(path)).try_for_each(|path| add_inputs(path, found))
}

impl Input {
    fn of(path: &Path) -> io::Result<Input> {
        // What is no file, such as a pipe, can be read only once, and not here.
        if !fs::metadata(path)?.is_file() {
            return Ok(Input { path: path.to_owned(), bytes: 0, digest: String::new() });
        }
        let mut file = File::open(path)?;
        let (mut bytes, mut digest) = (0, 0);
        let mut block = vec![0; BLOCK_BYTES];
        loop {
            let count = fill(&mut file, &mut block)?;
            digest = digested(digest, &block[..count]);
            bytes += count as u64;
            if count < block.len() {
                return Ok(Input {
                    path: path.to_owned(),
                    bytes,
                    digest: format!("{digest:016x}"),
                });
            }
        }
    }
}

/// Reads until the block is full, or the file ends.
fn fill(file: &mut File, block: &mut [u8]) -> io::Result<usize> {
    let mut count = 0;
    while count < block.len() {
        match file.read(&mut block[count..]) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

/// Continues a digest. It tells files apart that somebody has changed, not those that somebody has forged, and is as
/// fast as a file of many gigabytes asks for.
fn digested(digest: u64, block: &[u8]) -> u64 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    block.chunks(8).fold(digest, |digest, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        (digest.rotate_left(23) ^ u64::from_le_bytes(word)).wrapping_mul(FACTOR)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_differs_in_its_command_its_version_and_what_is_in_its_files() {
        let directory = tempfile::tempdir().expect("a directory for the test");
        let file = directory.path().join("history.jsonl");
        let write = |path: &Path, text: &str| fs::write(path, text).expect("the disk has room");
        // More than a block, and different in one byte near its end.
        let text = "x".repeat(BLOCK_BYTES + 11);
        write(&file, &text);
        let of = |command: &str, version: &str| {
            let inputs = [directory.path().to_owned()];
            Work::of(command, version, &inputs).expect("they can be read")
        };
        let first = of("harness check", "1");
        assert_eq!(first.inputs[0].bytes, text.len() as u64);
        assert_eq!(first.difference(&of("harness check", "1")), None);
        let differs = |other: &Work| first.difference(other).expect("it differs");
        assert_eq!(differs(&of("harness sim", "1")), "was made by `harness check`");
        assert!(differs(&of("harness check", "2")).contains("version '1'"));
        write(&file, &format!("{}y", &text[1..]));
        assert!(differs(&of("harness check", "1")).contains("history.jsonl was another file"));
        write(&file, &text);
        write(&directory.path().join(".hidden"), "of a tool");
        assert_eq!(first.difference(&of("harness check", "1")), None);
        write(&directory.path().join("more.jsonl"), "");
        assert!(differs(&of("harness check", "1")).contains("more.jsonl was another file"));
        assert!(Work::of("", "", &[directory.path().join("none")]).is_err());
    }
}
