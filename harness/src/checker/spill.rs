//! Histories that are larger than memory: our own files are first parted by key into temporary
//! files, each small enough, which are then decided one after the other. Linearizability is local,
//! so nothing is lost by it. Knows lines and keys, nothing of verdicts.

use std::{
    fs::File,
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    io::{self, BufRead, BufReader, BufWriter, Write},
    path::{Path, PathBuf},
};

use serde::Deserialize;
use tempfile::TempDir;

/// A history takes about this share of its file's size in memory: two lines of a hundred bytes are
/// one operation of twenty and, every other time, a value of some sixty.
const FILE_BYTES_PER_BYTE: u64 = 3;

/// The most parts: each is an open file.
const PARTS_MAX: u64 = 256;

/// The parts of a history, by key, in a directory that goes away with them.
#[derive(Debug)]
pub(super) struct Parts {
    /// The parts that are not empty.
    pub(super) files: Vec<PathBuf>,
    _directory: TempDir,
}

/// How many parts a file of so many bytes must be parted into, so that each fits into so many
/// bytes of memory. One: it need not be parted.
#[must_use]
pub(super) fn parts_for(file_bytes: u64, memory_bytes: u64) -> u64 {
    let needed = file_bytes / FILE_BYTES_PER_BYTE;
    if needed <= memory_bytes {
        return 1;
    }
    // Keys are not all of one size: parts of half the memory leave room for that.
    (2 * needed).div_ceil(memory_bytes.max(1)).min(PARTS_MAX)
}

/// What of a line says where it belongs.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow, default)]
    key: Option<std::borrow::Cow<'a, str>>,
}

/// Parts a history of our own format by key. A line that is not understood goes into the first
/// part as it is, where whoever reads it will say what is wrong with it.
///
/// # Errors
/// The file cannot be read, or the parts cannot be written beside it.
pub(super) fn part(path: &Path, parts: u64) -> io::Result<Parts> {
    let beside = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = tempfile::Builder::new()
        .prefix(".parts-")
        .tempdir_in(beside.unwrap_or_else(|| Path::new(".")))?;
    let mut files: Vec<(PathBuf, BufWriter<File>, bool)> = (0..parts)
        .map(|number| {
            let path = directory.path().join(format!("{number}.jsonl"));
            let file = BufWriter::with_capacity(1 << 17, File::create_new(&path)?);
            Ok((path, file, false))
        })
        .collect::<io::Result<_>>()?;
    let hasher = BuildHasherDefault::<DefaultHasher>::default();
    let mut input = BufReader::with_capacity(1 << 18, File::open(path)?);
    let mut line = Vec::new();
    loop {
        line.clear();
        // What a kill leaves of the last line is left out.
        if input.read_until(b'\n', &mut line)? == 0 || line.last() != Some(&b'\n') {
            break;
        }
        let at = match serde_json::from_slice::<Line<'_>>(&line) {
            // What the nemesis did concerns no key.
            Ok(Line { key: None }) => continue,
            Ok(Line { key: Some(key) }) => hasher.hash_one(&*key) % parts,
            Err(_) => 0,
        };
        let at = usize::try_from(at).expect("at most 256 parts");
        let (_, file, used) = &mut files[at];
        file.write_all(&line)?;
        *used = true;
    }
    let mut kept = Vec::new();
    for (path, mut file, used) in files {
        file.flush()?;
        if used {
            kept.push(path);
        }
    }
    Ok(Parts { files: kept, _directory: directory })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        checker::{
            Validity,
            file::{Reading, check_file},
        },
        history::synthetic::{Options, Plant, generate},
    };

    #[test]
    fn a_parted_history_is_judged_as_a_whole_one_is() {
        let directory = tempfile::tempdir().expect("a directory for the test");
        for plant in [None, Some(Plant::LostWrite)] {
            let path = directory.path().join(format!("{}.jsonl", plant.is_some()));
            let options = Options {
                ops: 5000,
                keys: 40,
                concurrency: 10,
                indeterminate: 0.01,
                puts: 45,
                deletes: 10,
                seed: 3,
                plant,
            };
            let mut out = BufWriter::new(File::create_new(&path).expect("a new file"));
            generate(&options, |event| {
                serde_json::to_writer(&mut out, event)?;
                out.write_all(b"\n")
            })
            .and_then(|()| out.flush())
            .expect("the disk has room");
            let whole = check_file(&path, &Reading::default()).expect("well formed");
            let reading = Reading { memory: Some(40_000), ..Reading::default() };
            let parted = check_file(&path, &reading).expect("well formed");
            assert!(parted.parts > 4, "{parted:?}");
            assert_eq!((whole.parts, whole.verdict), (1, parted.verdict));
            assert_eq!((whole.keys, whole.operations), (parted.keys, parted.operations));
            assert_eq!(whole.violations.len(), parted.violations.len());
            let expected = if plant.is_some() { Validity::Invalid } else { Validity::Valid };
            assert_eq!(whole.verdict, expected);
        }
    }
}
