//! Histories that are larger than memory are first parted by key into temporary files, each small
//! enough, which are then decided by themselves. Linearizability is local, so nothing is lost by it.
//! Knows operations and keys, neither formats nor verdicts.
//!
//! A part holds the events of its keys, packed: a tag, numbers of seven bits a byte, texts with
//! their lengths before them. The first keys that appear have parts of their own by turns, so that
//! a few keys of many operations never share one; the rest are spread.

use std::{
    collections::HashMap,
    env,
    fs::File,
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    io::{self, BufRead, BufReader, BufWriter, Read, Write},
    path::Path,
};

use tempfile::TempDir;

use super::linearizability::{Ask, End, MalformedHistory};
use crate::history::formats::Sink;

/// So many parts, each an open file.
const PARTS: usize = 256;

/// So many keys have a part by turns.
const KEYS_BY_TURNS: usize = 64 * PARTS;

/// What deciding takes in memory for each operation and for each value that may be a new one,
/// beside its text, in bytes, measured: vectors that grow by doubling, the packed copy that is
/// decided, the zones.
const OPERATION_BYTES: u64 = 72;
const VALUE_BYTES: u64 = 96;

/// One part.
#[derive(Debug)]
pub(super) struct Part {
    file: Option<BufWriter<File>>,
    /// The keys, by their numbers in this part.
    keys: Vec<Box<str>>,
    /// Operations in it.
    pub(super) operations: u64,
    values: u64,
    text_bytes: u64,
}

impl Part {
    /// What it takes in memory to decide it, about, in bytes.
    pub(super) fn memory(&self) -> u64 {
        self.operations * OPERATION_BYTES + self.values * VALUE_BYTES + self.text_bytes
    }

    /// How many keys it has.
    pub(super) fn keys(&self) -> usize {
        self.keys.len()
    }

    /// Some of its keys, in words.
    pub(super) fn some_keys(&self) -> String {
        let mut names: Vec<&str> = self.keys.iter().map(|name| &**name).take(3).collect();
        let more = self.keys.len() - names.len();
        let rest = format!("{more} more keys");
        if more > 0 {
            names.push(&rest);
        }
        names.join(", ")
    }
}

/// What is read of a part.
pub(super) enum Record<'a> {
    /// The operation of this number, of this process.
    Invoke { number: u64, process: u64, key: &'a str, ask: Ask<'a> },
    /// It ended.
    End { number: u64, end: End<'a> },
}

/// The parts of a history, in a directory that goes away with them.
#[derive(Debug)]
pub(super) struct Parts {
    parts: Vec<Part>,
    /// Part, and the key's number in it.
    places: HashMap<Box<str>, (u32, u32)>,
    /// Part and number of the operation under way of each process; none if it is retired.
    under_way: HashMap<u64, Option<(u32, u64)>>,
    operations: u64,
    /// Why a part cannot be written.
    broken: Option<io::Error>,
    directory: TempDir,
}

const GET: u8 = 0;
const PUT: u8 = 1;
const DEL: u8 = 2;
const CAS: u8 = 3;
const APPEND: u8 = 4;
const FOUND: u8 = 5;
const DONE: u8 = 6;
const FAIL: u8 = 7;
const DIFFERS: u8 = 8;
const INFO: u8 = 9;

impl Parts {
    /// Empty parts beside a history, where there is room for such things, or else where temporary
    /// files are kept.
    ///
    /// # Errors
    /// There is no place for them.
    pub(super) fn beside(path: &Path) -> io::Result<Parts> {
        let beside = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let named = || {
            let mut builder = tempfile::Builder::new();
            builder.prefix(".parts-");
            builder
        };
        let directory = named()
            .tempdir_in(beside.unwrap_or_else(|| Path::new(".")))
            .or_else(|_| named().tempdir_in(env::temp_dir()))?;
        Ok(Parts {
            parts: Vec::new(),
            places: HashMap::new(),
            under_way: HashMap::new(),
            operations: 0,
            broken: None,
            directory,
        })
    }

    /// Ends the writing.
    ///
    /// # Errors
    /// A part could not be written.
    pub(super) fn close(&mut self) -> io::Result<()> {
        if let Some(error) = self.broken.take() {
            return Err(error);
        }
        self.under_way = HashMap::new();
        self.places = HashMap::new();
        for part in &mut self.parts {
            if let Some(mut file) = part.file.take() {
                file.flush()?;
            }
        }
        Ok(())
    }

    /// Every part.
    pub(super) fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// How many operations there are in all.
    pub(super) fn operations(&self) -> u64 {
        self.operations
    }

    /// Reads a part.
    ///
    /// # Errors
    /// It cannot be read, or whoever wants it does not.
    pub(super) fn read(
        &self,
        part: usize,
        mut each: impl FnMut(Record<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        let keys = &self.parts[part].keys;
        let mut input = BufReader::with_capacity(1 << 17, File::open(self.path(part))?);
        let (mut first, mut second) = (String::new(), String::new());
        while !input.fill_buf()?.is_empty() {
            let mut tag = [0];
            input.read_exact(&mut tag)?;
            let number = read_number(&mut input)?;
            let [tag] = tag;
            if tag > APPEND {
                let end = match tag {
                    FOUND => End::Ok(Some(read_text(&mut input, &mut first)?)),
                    DONE => End::Ok(None),
                    FAIL => End::Fail,
                    DIFFERS => End::Differs,
                    _ => End::Info,
                };
                each(Record::End { number, end })?;
                continue;
            }
            let process = read_number(&mut input)?;
            let key = usize::try_from(read_number(&mut input)?).map_err(io::Error::other)?;
            let key = keys.get(key).ok_or(io::ErrorKind::InvalidData)?;
            let ask = match tag {
                GET => Ask::Get,
                PUT => Ask::Put(read_text(&mut input, &mut first)?),
                DEL => Ask::Del,
                CAS => Ask::Cas(
                    read_maybe(&mut input, &mut first)?,
                    read_maybe(&mut input, &mut second)?,
                ),
                _ => Ask::Append(read_text(&mut input, &mut first)?),
            };
            each(Record::Invoke { number, process, key, ask })?;
        }
        Ok(())
    }

    fn path(&self, part: usize) -> std::path::PathBuf {
        self.directory.path().join(part.to_string())
    }

    /// The part of a key, and the key's number in it.
    fn place(&mut self, key: &str) -> io::Result<(u32, u32)> {
        if let Some(place) = self.places.get(key) {
            return Ok(*place);
        }
        let at = if self.places.len() < KEYS_BY_TURNS {
            self.places.len() % PARTS
        } else {
            let hasher = BuildHasherDefault::<DefaultHasher>::default();
            usize::try_from(hasher.hash_one(key) % PARTS as u64).map_err(io::Error::other)?
        };
        if at == self.parts.len() {
            let file = File::create_new(self.path(at))?;
            self.parts.push(Part {
                file: Some(BufWriter::with_capacity(1 << 16, file)),
                keys: Vec::new(),
                operations: 0,
                values: 0,
                text_bytes: 0,
            });
        }
        let part = &mut self.parts[at];
        let number = |count: usize| u32::try_from(count).map_err(io::Error::other);
        let place = (number(at)?, number(part.keys.len())?);
        part.keys.push(key.into());
        self.places.insert(key.into(), place);
        Ok(place)
    }

    fn write_invoke(&mut self, process: u64, key: &str, ask: Ask<'_>) -> io::Result<u32> {
        let (at, key) = self.place(key)?;
        let number = self.operations;
        let part = &mut self.parts[at as usize];
        part.operations += 1;
        let (tag, texts) = match ask {
            Ask::Get => (GET, [None, None]),
            Ask::Put(value) => (PUT, [Some(value), None]),
            Ask::Del => (DEL, [None, None]),
            Ask::Cas(from, to) => (CAS, [from, to]),
            Ask::Append(text) => (APPEND, [Some(text), None]),
        };
        for text in texts.into_iter().flatten() {
            part.values += 1;
            part.text_bytes += text.len() as u64;
        }
        let file = part.file()?;
        file.write_all(&[tag])?;
        for number in [number, process, key.into()] {
            write_number(file, number)?;
        }
        if tag == CAS {
            texts.into_iter().try_for_each(|text| write_maybe(file, text))?;
        } else if let [Some(text), _] = texts {
            write_text(file, text)?;
        }
        Ok(at)
    }

    fn write_end(&mut self, (at, number): (u32, u64), end: End<'_>) -> io::Result<()> {
        let part = &mut self.parts[at as usize];
        let (tag, text) = match end {
            End::Ok(Some(found)) => (FOUND, Some(found)),
            End::Ok(None) => (DONE, None),
            End::Fail => (FAIL, None),
            End::Differs => (DIFFERS, None),
            End::Info => (INFO, None),
        };
        let file = part.file()?;
        file.write_all(&[tag])?;
        write_number(file, number)?;
        text.map_or(Ok(()), |text| write_text(file, text))
    }

    /// Keeps why the parts cannot be written, and tells the reader to stop.
    fn broken<T>(&mut self, written: io::Result<T>) -> Result<T, MalformedHistory> {
        written.map_err(|error| {
            let told = MalformedHistory(format!("the parts cannot be written: {error}"));
            self.broken = Some(error);
            told
        })
    }
}

impl Part {
    fn file(&mut self) -> io::Result<&mut BufWriter<File>> {
        self.file.as_mut().ok_or_else(|| io::Error::other("the part is closed"))
    }
}

impl Sink for Parts {
    fn invoke(&mut self, process: u64, key: &str, ask: Ask<'_>) -> Result<(), MalformedHistory> {
        if let Some(known) = self.under_way.get(&process) {
            return Err(MalformedHistory::begun(process, known.is_none()));
        }
        let written = self.write_invoke(process, key, ask);
        let at = self.broken(written)?;
        self.under_way.insert(process, Some((at, self.operations)));
        self.operations += 1;
        Ok(())
    }

    fn end(&mut self, process: u64, end: End<'_>) -> Result<(), MalformedHistory> {
        let Some(Some(place)) = self.under_way.remove(&process) else {
            return Err(MalformedHistory::not_begun(process));
        };
        if end == End::Info {
            self.under_way.insert(process, None);
        }
        let written = self.write_end(place, end);
        self.broken(written)
    }
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

fn write_maybe(out: &mut impl Write, text: Option<&str>) -> io::Result<()> {
    write_number(out, text.is_some().into())?;
    text.map_or(Ok(()), |text| write_text(out, text))
}

fn read_maybe<'t>(input: &mut impl Read, text: &'t mut String) -> io::Result<Option<&'t str>> {
    if read_number(input)? == 0 { Ok(None) } else { read_text(input, text).map(Some) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        checker::{
            Validity,
            file::{Reading, check_file},
        },
        history::synthetic::{Plant, SyntheticOptions, generate},
    };

    fn written(path: &Path, keys: u32, plant: Option<Plant>) {
        let options = SyntheticOptions {
            ops: 5000,
            keys,
            concurrency: 10,
            indeterminate: 0.01,
            puts: 45,
            deletes: 10,
            seed: 3,
            plant,
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
    fn a_parted_history_is_judged_as_a_whole_one_is() {
        let directory = tempfile::tempdir().expect("a directory for the test");
        let path = directory.path().join("history.jsonl");
        for plant in [None, Some(Plant::LostWrite)] {
            written(&path, 400, plant);
            let whole = check_file(&path, &Reading::default()).expect("well formed");
            let reading = Reading { memory: Some(40_000), ..Reading::default() };
            let parted = check_file(&path, &reading).expect("well formed");
            assert_eq!((whole.parts, parted.parts), (1, PARTS));
            // Word for word: the operations keep their numbers.
            assert_eq!(whole.violations, parted.violations);
            assert_eq!((whole.keys, whole.operations), (parted.keys, parted.operations));
            let expected = if plant.is_some() { Validity::Invalid } else { Validity::Valid };
            assert_eq!((whole.verdict, parted.verdict), (expected, expected), "{parted:?}");
            let left = directory.path().read_dir().expect("it is there").count();
            assert_eq!(left, 1, "the parts are gone");
        }
    }

    #[test]
    fn a_key_that_does_not_fit_is_not_guessed_at() {
        let directory = tempfile::tempdir().expect("a directory for the test");
        let path = directory.path().join("history.jsonl");
        written(&path, 1, None);
        let reading = Reading { memory: Some(40_000), ..Reading::default() };
        let report = check_file(&path, &reading).expect("well formed");
        assert_eq!((report.verdict, report.operations), (Validity::Unknown, 5000));
        let [doubt] = &report.unknown_because[..] else { panic!("{report:?}") };
        assert!(doubt.starts_with("k0: 5000 operations would take about"), "{doubt}");
    }

    #[test]
    fn what_is_malformed_is_told_with_its_place_in_the_whole() {
        let directory = tempfile::tempdir().expect("a directory for the test");
        let path = directory.path().join("history.jsonl");
        written(&path, 4, None);
        let mut text = std::fs::read_to_string(&path).expect("it was just written");
        let cut = text.lines().take(700).map(|line| line.len() + 1).sum();
        text.insert_str(cut, "{\"index\":700,\"time\":900000,\"process\":999,\"type\":\"ok\",\"f\":\"del\",\"key\":\"k1\"}\n");
        std::fs::write(&path, text).expect("the disk has room");
        let reading = Reading { memory: Some(40_000), ..Reading::default() };
        let error = check_file(&path, &reading).expect_err("it is malformed").to_string();
        assert!(error.ends_with(":701:1: process 999 ends what it has not begun"), "{error}");
    }

    proptest! {
        #[test]
        fn numbers_and_texts_are_read_as_written(number: u64, text: String) {
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
