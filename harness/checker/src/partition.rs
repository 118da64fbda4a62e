//! External partitioning: a history that is larger than memory is partitioned by key into temporary
//! files that fit, which are then decided one by one. Linearizability is local, so this loses nothing.
//! Does not know formats or verdicts.
//!
//! A shard of a history is what one of several machines decides: its keys are partitioned, and the operations of the
//! others only counted, so that operations have the same numbers everywhere.
//!
//! A partition holds the events of its keys: a tag, numbers as varints (seven bits a byte, the least
//! significant first), and texts with their lengths before them. The first keys are distributed round
//! robin, so that a few keys with many operations do not share a partition. The others are hashed.

use std::{
    collections::HashMap,
    env,
    fs::File,
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    io::{self, BufRead, BufReader, BufWriter, Read, Write},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use history::{Completion, Invocation, MalformedHistory, Shard, Sink};

/// Number of partitions. Each is an open file.
const PARTITIONS: usize = 256;

/// Number of keys that are distributed round robin.
const ROUND_ROBIN_KEYS: usize = 64 * PARTITIONS;

/// Memory for deciding, in bytes for each operation and for each value that may be new, without the
/// value's text. Measured: vectors that grow by doubling, the packed copy that is decided, the zones.
const OPERATION_BYTES: u64 = 72;
const VALUE_BYTES: u64 = 96;

/// A partition.
#[derive(Debug)]
pub(crate) struct Partition {
    file: BufWriter<File>,
    /// Names of the keys, by number in this partition.
    keys: Vec<Box<str>>,
    /// Number of operations.
    pub(crate) operations: u64,
    values: u64,
    text_bytes: u64,
}

impl Partition {
    /// Estimated memory for deciding the partition, in bytes.
    pub(crate) fn memory(&self) -> u64 {
        self.operations * OPERATION_BYTES + self.values * VALUE_BYTES + self.text_bytes
    }

    /// Number of keys.
    pub(crate) fn keys(&self) -> usize {
        self.keys.len()
    }

    /// The names of the first keys, for messages.
    pub(crate) fn some_keys(&self) -> String {
        let mut names: Vec<&str> = self.keys.iter().map(|name| &**name).take(3).collect();
        let more = self.keys.len() - names.len();
        let rest = format!("{more} more keys");
        if more > 0 {
            names.push(&rest);
        }
        names.join(", ")
    }
}

/// An event of a partition.
pub(crate) enum PartitionEvent<'a> {
    /// A process invoked the operation with this number.
    Invoke { number: u64, process: u64, key: &'a str, invocation: Invocation<'a> },
    /// The operation with this number completed.
    Complete { number: u64, completion: Completion<'a> },
}

/// The partitions of a history, in temporary files. They have no names, so that nothing is left of them however this
/// process ends.
#[derive(Debug)]
pub(crate) struct Partitions {
    partitions: Vec<Partition>,
    /// The keys that are partitioned; others are only counted.
    shard: Shard,
    /// By key: the partition, and the key's number in it.
    key_numbers: HashMap<Box<str>, (u32, u32)>,
    /// By process: its open operation.
    open: HashMap<u64, Open>,
    /// Number of operations of all keys.
    operations: u64,
    /// Whether there are appends, of any key.
    has_appends: bool,
    /// The error that ended the writing.
    write_error: Option<io::Error>,
    /// Where the files are.
    directory: PathBuf,
}

/// The open operation of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Open {
    /// Its partition and its number.
    Own(u32, u64),
    /// It is of a key of another shard.
    Foreign,
    /// An operation of unknown outcome has retired the process.
    Retired,
}

const GET: u8 = 0;
const PUT: u8 = 1;
const DEL: u8 = 2;
const CAS: u8 = 3;
const APPEND: u8 = 4;
const VALUE: u8 = 5;
const DONE: u8 = 6;
const FAIL: u8 = 7;
const MISMATCH: u8 = 8;
const INFO: u8 = 9;

impl Partitions {
    /// Creates empty partitions for the keys of a shard in the directory of a history, which has room for large
    /// files, or else in the system's temporary directory.
    ///
    /// # Errors
    /// No file can be created.
    pub(crate) fn beside(path: &Path, shard: Shard) -> io::Result<Partitions> {
        let beside = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let beside = beside.unwrap_or_else(|| Path::new("."));
        let directory = match tempfile::tempfile_in(beside) {
            Ok(_) => beside.to_owned(),
            Err(_) => tempfile::tempfile().map(|_| env::temp_dir())?,
        };
        Ok(Partitions {
            partitions: Vec::new(),
            shard,
            key_numbers: HashMap::new(),
            open: HashMap::new(),
            operations: 0,
            has_appends: false,
            write_error: None,
            directory,
        })
    }

    /// Flushes the files. The partitions can be read from here on.
    ///
    /// # Errors
    /// A partition could not be written.
    pub(crate) fn close(&mut self) -> io::Result<()> {
        if let Some(error) = self.write_error.take() {
            return Err(error);
        }
        self.open = HashMap::new();
        self.key_numbers = HashMap::new();
        self.partitions.iter_mut().try_for_each(|partition| partition.file.flush())
    }

    /// All partitions.
    pub(crate) fn partitions(&self) -> &[Partition] {
        &self.partitions
    }

    /// Number of operations in all partitions.
    pub(crate) fn operations(&self) -> u64 {
        self.partitions.iter().map(|partition| partition.operations).sum()
    }

    /// Number of operations of all keys, of the shard or not.
    pub(crate) fn all_operations(&self) -> u64 {
        self.operations
    }

    /// Whether the whole history has appends.
    pub(crate) fn has_appends(&self) -> bool {
        self.has_appends
    }

    /// Reads a partition and calls `each` with its events.
    ///
    /// # Errors
    /// The partition cannot be read, or `each` failed.
    pub(crate) fn read(
        &self,
        partition: usize,
        mut each: impl FnMut(PartitionEvent<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        let Partition { keys, file, .. } = &self.partitions[partition];
        let file = FromStart { file: file.get_ref(), offset: 0 };
        let mut input = BufReader::with_capacity(1 << 17, file);
        let (mut first, mut second) = (String::new(), String::new());
        while !input.fill_buf()?.is_empty() {
            let mut tag = [0];
            input.read_exact(&mut tag)?;
            let number = read_number(&mut input)?;
            let [tag] = tag;
            if tag > APPEND {
                let completion = match tag {
                    VALUE => Completion::Ok(Some(read_text(&mut input, &mut first)?)),
                    DONE => Completion::Ok(None),
                    FAIL => Completion::Fail,
                    MISMATCH => Completion::Mismatch,
                    _ => Completion::Info,
                };
                each(PartitionEvent::Complete { number, completion })?;
                continue;
            }
            let process = read_number(&mut input)?;
            let key = usize::try_from(read_number(&mut input)?).map_err(io::Error::other)?;
            let key = keys.get(key).ok_or(io::ErrorKind::InvalidData)?;
            let invocation = match tag {
                GET => Invocation::Get,
                PUT => Invocation::Put(read_text(&mut input, &mut first)?),
                DEL => Invocation::Del,
                CAS => Invocation::Cas(
                    read_optional(&mut input, &mut first)?,
                    read_optional(&mut input, &mut second)?,
                ),
                _ => Invocation::Append(read_text(&mut input, &mut first)?),
            };
            each(PartitionEvent::Invoke { number, process, key, invocation })?;
        }
        Ok(())
    }

    /// The partition of a key, and the key's number in it. Assigns them to a new key.
    fn key_number(&mut self, key: &str) -> io::Result<(u32, u32)> {
        if let Some(key_number) = self.key_numbers.get(key) {
            return Ok(*key_number);
        }
        let at = if self.key_numbers.len() < ROUND_ROBIN_KEYS {
            self.key_numbers.len() % PARTITIONS
        } else {
            usize::try_from(hash(key) % PARTITIONS as u64).map_err(io::Error::other)?
        };
        if at == self.partitions.len() {
            let file = tempfile::tempfile_in(&self.directory)?;
            self.partitions.push(Partition {
                file: BufWriter::with_capacity(1 << 16, file),
                keys: Vec::new(),
                operations: 0,
                values: 0,
                text_bytes: 0,
            });
        }
        let partition = &mut self.partitions[at];
        let number = |count: usize| u32::try_from(count).map_err(io::Error::other);
        let key_number = (number(at)?, number(partition.keys.len())?);
        partition.keys.push(key.into());
        self.key_numbers.insert(key.into(), key_number);
        Ok(key_number)
    }

    fn write_invocation(
        &mut self,
        process: u64,
        key: &str,
        invocation: Invocation<'_>,
    ) -> io::Result<Open> {
        if !is_of(self.shard, key) {
            return Ok(Open::Foreign);
        }
        let (at, key) = self.key_number(key)?;
        let number = self.operations;
        let partition = &mut self.partitions[at as usize];
        partition.operations += 1;
        let (tag, texts) = match invocation {
            Invocation::Get => (GET, [None, None]),
            Invocation::Put(value) => (PUT, [Some(value), None]),
            Invocation::Del => (DEL, [None, None]),
            Invocation::Cas(from, to) => (CAS, [from, to]),
            Invocation::Append(text) => (APPEND, [Some(text), None]),
        };
        for text in texts.into_iter().flatten() {
            partition.values += 1;
            partition.text_bytes += text.len() as u64;
        }
        let file = &mut partition.file;
        file.write_all(&[tag])?;
        for number in [number, process, key.into()] {
            write_number(file, number)?;
        }
        if tag == CAS {
            texts.into_iter().try_for_each(|text| write_optional(file, text))?;
        } else if let [Some(text), _] = texts {
            write_text(file, text)?;
        }
        Ok(Open::Own(at, number))
    }

    fn write_completion(&mut self, open: Open, completion: Completion<'_>) -> io::Result<()> {
        let Open::Own(at, number) = open else { return Ok(()) };
        let partition = &mut self.partitions[at as usize];
        let (tag, text) = match completion {
            Completion::Ok(Some(value)) => (VALUE, Some(value)),
            Completion::Ok(None) => (DONE, None),
            Completion::Fail => (FAIL, None),
            Completion::Mismatch => (MISMATCH, None),
            Completion::Info => (INFO, None),
        };
        let file = &mut partition.file;
        file.write_all(&[tag])?;
        write_number(file, number)?;
        text.map_or(Ok(()), |text| write_text(file, text))
    }

    /// Keeps a write error, and makes the reader stop.
    fn written<T>(&mut self, written: io::Result<T>) -> Result<T, MalformedHistory> {
        written.map_err(|error| {
            let stop = MalformedHistory(format!("the partitions cannot be written: {error}"));
            self.write_error = Some(error);
            stop
        })
    }
}

/// Reads a file from its start, whatever its own position is: several may read it at a time.
struct FromStart<'f> {
    file: &'f File,
    offset: u64,
}

impl Read for FromStart<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(bytes, self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}

impl Sink for Partitions {
    fn invoke(
        &mut self,
        process: u64,
        key: &str,
        invocation: Invocation<'_>,
    ) -> Result<(), MalformedHistory> {
        if let Some(open) = self.open.get(&process) {
            return Err(MalformedHistory::not_idle(process, *open == Open::Retired));
        }
        let written = self.write_invocation(process, key, invocation);
        let open = self.written(written)?;
        self.open.insert(process, open);
        self.has_appends |= matches!(invocation, Invocation::Append(_));
        self.operations += 1;
        Ok(())
    }

    fn complete(
        &mut self,
        process: u64,
        completion: Completion<'_>,
    ) -> Result<(), MalformedHistory> {
        let open = self.open.remove(&process).filter(|open| *open != Open::Retired);
        let open = open.ok_or_else(|| MalformedHistory::not_invoked(process))?;
        if completion == Completion::Info {
            self.open.insert(process, Open::Retired);
        }
        let written = self.write_completion(open, completion);
        self.written(written)
    }
}

/// A number that every process of this program gives to a key, so that machines agree on it.
fn hash(key: &str) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(key)
}

/// Whether a key is one of the shard. The upper half of the number decides: the lower half chooses a partition, and
/// the keys of a shard are to use all of these.
fn is_of(shard: Shard, key: &str) -> bool {
    shard == Shard::WHOLE || shard.has(hash(key) >> 32)
}

fn write_number(out: &mut impl Write, mut number: u64) -> io::Result<()> {
    let mut bytes = [0; 10];
    let mut count = 0;
    loop {
        let more = number >= 0x80;
        bytes[count] = (number & 0x7f) as u8 | if more { 0x80 } else { 0 };
        count += 1;
        number >>= 7;
        if !more {
            return out.write_all(&bytes[..count]);
        }
    }
}

fn read_number(input: &mut impl Read) -> io::Result<u64> {
    let (mut number, mut shift) = (0, 0);
    loop {
        let mut byte = [0];
        input.read_exact(&mut byte)?;
        let [byte] = byte;
        if shift > 63 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
        shift += 7;
    }
}

fn write_text(out: &mut impl Write, text: &str) -> io::Result<()> {
    write_number(out, text.len() as u64)?;
    out.write_all(text.as_bytes())
}

fn read_text<'t>(input: &mut impl Read, text: &'t mut String) -> io::Result<&'t str> {
    let length = read_number(input)?;
    text.clear();
    input.take(length).read_to_string(text)?;
    if text.len() as u64 == length { Ok(text) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

fn write_optional(out: &mut impl Write, text: Option<&str>) -> io::Result<()> {
    write_number(out, text.is_some().into())?;
    text.map_or(Ok(()), |text| write_text(out, text))
}

fn read_optional<'t>(input: &mut impl Read, text: &'t mut String) -> io::Result<Option<&'t str>> {
    if read_number(input)? == 0 { Ok(None) } else { read_text(input, text).map(Some) }
}

#[cfg(test)]
mod tests {
    use history::synthetic::{PlantedViolation, SyntheticOptions, generate};
    use proptest::prelude::*;

    use super::*;
    use crate::{
        Validity,
        file::{FileCheckOptions, check_file},
    };

    fn write_history(path: &Path, keys: u32, violation: Option<PlantedViolation>) {
        let options = SyntheticOptions {
            ops: 5000,
            keys,
            concurrency: 10,
            indeterminate: 0.01,
            puts: 45,
            deletes: 10,
            seed: 3,
            violation,
        };
        let mut out = BufWriter::new(File::create(path).expect("a new file"));
        generate(&options, |event| {
            serde_json::to_writer(&mut out, event)?;
            out.write_all(b"\n")
        })
        .and_then(|()| out.flush())
        .expect("the disk has room");
    }

    #[test]
    fn a_partitioned_history_gets_the_same_report() {
        let directory = tempfile::tempdir().expect("a directory for the test");
        let path = directory.path().join("history.jsonl");
        for violation in [None, Some(PlantedViolation::LostWrite)] {
            write_history(&path, 400, violation);
            let whole = check_file(&path, &FileCheckOptions::default()).expect("well formed");
            let options = FileCheckOptions { memory: Some(40_000), ..FileCheckOptions::default() };
            let partitioned = check_file(&path, &options).expect("well formed");
            assert_eq!((whole.partitions, partitioned.partitions), (1, PARTITIONS));
            // The sentences are equal, since operations keep their numbers.
            assert_eq!(whole.violations, partitioned.violations);
            assert_eq!((whole.keys, whole.operations), (partitioned.keys, partitioned.operations));
            let expected = if violation.is_some() { Validity::Invalid } else { Validity::Valid };
            assert_eq!(
                (whole.verdict, partitioned.verdict),
                (expected, expected),
                "{partitioned:?}"
            );
            let left = directory.path().read_dir().expect("it is there").count();
            assert_eq!(left, 1, "the partitions are removed");
        }
    }

    #[test]
    fn a_key_that_does_not_fit_in_memory_is_unknown() {
        let directory = tempfile::tempdir().expect("a directory for the test");
        let path = directory.path().join("history.jsonl");
        write_history(&path, 1, None);
        let options = FileCheckOptions { memory: Some(40_000), ..FileCheckOptions::default() };
        let report = check_file(&path, &options).expect("well formed");
        assert_eq!((report.verdict, report.operations), (Validity::Unknown, 5000));
        let [reason] = &report.unknown_because[..] else { panic!("{report:?}") };
        assert!(reason.starts_with("k0: deciding 5000 operations takes about"), "{reason}");
    }

    #[test]
    fn errors_name_their_position_in_the_whole_history() {
        let directory = tempfile::tempdir().expect("a directory for the test");
        let path = directory.path().join("history.jsonl");
        write_history(&path, 4, None);
        let mut text = std::fs::read_to_string(&path).expect("it was just written");
        let cut = text.lines().take(700).map(|line| line.len() + 1).sum();
        text.insert_str(cut, "{\"index\":700,\"time\":900000,\"process\":999,\"type\":\"ok\",\"f\":\"del\",\"key\":\"k1\"}\n");
        std::fs::write(&path, text).expect("the disk has room");
        let options = FileCheckOptions { memory: Some(40_000), ..FileCheckOptions::default() };
        let error = check_file(&path, &options).expect_err("it is malformed").to_string();
        assert!(
            error.ends_with(":701:1: process 999 completes an operation it has not invoked"),
            "{error}"
        );
    }

    proptest! {
        #[test]
        fn numbers_and_texts_round_trip(number: u64, text: String) {
            let mut bytes = Vec::new();
            write_number(&mut bytes, number).expect("memory has room");
            write_text(&mut bytes, &text).expect("memory has room");
            let mut input = &bytes[..];
            prop_assert_eq!(read_number(&mut input).expect("it is whole"), number);
            let mut read = String::new();
            prop_assert_eq!(read_text(&mut input, &mut read).expect("it is whole"), &text);
        }
    }
}
