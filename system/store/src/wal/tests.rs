//! The WAL on a disk that crashes, rots, loses writes, and holds what a client wants it to hold. A crash
//! keeps any subset of the pages that were written since the last sync.

use std::{fs, path::PathBuf};

use tempfile::TempDir;

use super::{
    page::{Page, read, write_header},
    *,
};
use crate::{RowError, RowKey, Write};

const ID: StoreId = StoreId(7);

/// Records that are just a row key and a value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Raw;

type Record = (Vec<u8>, Vec<u8>);

impl Schema for Raw {
    type Record = Record;
    type Facts = ();
    type Key = Vec<u8>;
    type Value = Vec<u8>;
    type Version = u64;

    fn apply((): &mut (), _: &Record) -> Option<Write<Self>> {
        None
    }

    fn growth(_: &Record) -> Option<usize> {
        None
    }

    fn restore((): &mut (), _: Record) {}

    fn records((): &()) -> impl Iterator<Item = &Record> {
        [].into_iter()
    }

    fn row_key((key, _): &Record) -> RowKey {
        RowKey::new(key[0], &key[1..])
    }

    fn encode((_, value): &Record, into: &mut Vec<u8>) {
        into.extend_from_slice(value);
    }

    fn decode(row_key: &[u8], value: &[u8]) -> Result<Record, RowError> {
        Ok((row_key.to_vec(), value.to_vec()))
    }

    fn version_to_bytes(version: u64) -> [u8; 16] {
        u128::from(version).to_be_bytes()
    }

    fn version_from_bytes(bytes: [u8; 16]) -> Option<u64> {
        u128::from_be_bytes(bytes).try_into().ok()
    }
}

/// A record of about this many bytes.
fn record(n: u64, bytes: usize) -> Record {
    (b"b".to_vec(), [&n.to_be_bytes()[..], &vec![b'v'; bytes]].concat())
}

/// The content of both segments.
type Content = [Vec<u8>; 2];

/// The directory of a WAL, and the anchor that its tables would hold.
struct Disk {
    dir: TempDir,
    anchor: Anchor,
    rules: Rules,
}

impl Disk {
    fn new(pages: u64, rules: Rules) -> Disk {
        let dir = TempDir::new().expect("temporary directory");
        create(dir.path(), ID, pages * PAGE as u64).expect("a WAL");
        Disk { dir, anchor: Anchor::new(0), rules }
    }

    fn open(&self) -> Result<(Wal, Vec<Record>), StoreError> {
        let options = WalOptions { append: true, sync_mode: SyncMode::All, rules: self.rules };
        Wal::open::<Raw>(self.dir.path(), ID, self.anchor, options)
    }

    fn wal(&self) -> Wal {
        let mut wal = self.open().expect("a WAL").0;
        wal.begin().expect("writable");
        wal
    }

    fn records(&self) -> Vec<Record> {
        self.open().expect("a WAL").1
    }

    fn paths(&self) -> [PathBuf; 2] {
        SEGMENT_FILES.map(|name| self.dir.path().join(name))
    }

    fn content(&self) -> Content {
        self.paths().map(|path| fs::read(path).expect("readable"))
    }

    fn set(&self, content: &Content) {
        for (path, bytes) in self.paths().iter().zip(content) {
            fs::write(path, bytes).expect("writable");
        }
    }

    /// The tables take over everything.
    fn checkpoint(&mut self, wal: &mut Wal) {
        self.anchor = wal.next_anchor();
        wal.start_next_generation(&self.anchor).expect("writable");
        wal.set_next_salt(&self.anchor);
    }

    /// The damage that opening reports.
    fn damage(&self) -> Option<String> {
        match self.open() {
            Err(error @ StoreError::Damaged { .. }) => Some(error.to_string()),
            Err(error) => panic!("{error}"),
            Ok(_) => None,
        }
    }
}

fn append(wal: &mut Wal, records: &[Record]) {
    assert!(wal.prepare_frame::<Raw>(records), "the frame fits");
    wal.append_frame().expect("written");
}

/// The pages of two contents that differ: the segment and the offset.
fn changed(before: &Content, after: &Content) -> Vec<(usize, usize)> {
    let pages = |slot: usize| (0..after[slot].len()).step_by(PAGE).map(move |at| (slot, at));
    let differ = |(slot, at): &(usize, usize)| {
        before[*slot][*at..*at + PAGE] != after[*slot][*at..*at + PAGE]
    };
    (0..2).flat_map(pages).filter(differ).collect()
}

/// Every content that a crash may leave between two syncs: any subset of the pages that changed.
fn crashes(before: &Content, after: &Content) -> Vec<Content> {
    let pages = changed(before, after);
    let keep = |subset: u32| {
        let mut content = before.clone();
        for (n, (slot, at)) in pages.iter().enumerate() {
            if subset & 1 << n != 0 {
                content[*slot][*at..*at + PAGE].copy_from_slice(&after[*slot][*at..*at + PAGE]);
            }
        }
        content
    };
    (0..1 << pages.len()).map(keep).collect()
}

/// Appends frames of several sizes over several generations, and seals them. The tables take over a
/// generation when the next one has a few frames. Calls `between` for each write, with the content
/// before and after, and the numbers of the records that are durable and that are written.
fn history(rules: Rules, mut between: impl FnMut(&Disk, &Content, &Content, &[u64], &[u64])) {
    let mut disk = Disk::new(9, rules);
    let mut wal = disk.wal();
    let mut durable = Vec::new();
    let mut checkpoint: Option<(u64, Anchor)> = None;
    for n in 1..25 {
        let next = [record(n, n as usize % 4 * 3000)];
        let mut fits = wal.prepare_frame::<Raw>(&next);
        if let Some((last, anchor)) = checkpoint.filter(|(last, _)| !fits || n > last + 2) {
            disk.anchor = anchor;
            wal.set_next_salt(&anchor);
            durable.retain(|n| *n > last);
            checkpoint = None;
        }
        if !fits {
            let anchor = wal.next_anchor();
            wal.start_next_generation(&anchor).expect("writable");
            checkpoint = Some((n - 1, anchor));
            fits = wal.prepare_frame::<Raw>(&next);
        }
        assert!(fits, "a segment is large enough for each");
        let before = disk.content();
        wal.append_frame().expect("written");
        let mut written = durable.clone();
        written.push(n);
        between(&disk, &before, &disk.content(), &durable, &written);
        durable = written;
        if n % 3 == 0 && wal.is_unsealed() {
            let before = disk.content();
            wal.seal().expect("written");
            between(&disk, &before, &disk.content(), &durable, &durable);
        }
    }
}

fn numbers(records: &[Record]) -> Vec<u64> {
    let number = |(_, value): &Record| u64::from_be_bytes(*value.first_chunk().expect("8 bytes"));
    records.iter().map(number).collect()
}

#[test]
fn a_crash_keeps_what_was_durable_and_appending_continues() {
    let (mut states, mut both) = (0, 0);
    history(Rules::ALL, |disk, before, after, durable, written| {
        for crash in crashes(before, after) {
            disk.set(&crash);
            let found = numbers(&disk.records());
            assert!(found == durable || found == written, "{found:?}: {durable:?}, {written:?}");
            both += usize::from(found == durable && found != written);
            states += 1;

            // A frame of another size in the place of the torn one, which is lost in turn.
            let mut wal = disk.wal();
            let erased = disk.content();
            if !wal.prepare_frame::<Raw>(&[record(99, 10)]) {
                continue;
            }
            wal.append_frame().expect("written");
            for crash in crashes(&erased, &disk.content()) {
                disk.set(&crash);
                let after = numbers(&disk.records());
                let expected = [&found[..], &[99]].concat();
                assert!(after == found || after == expected, "{after:?}: {found:?} and 99");
            }
        }
        disk.set(after);
    });
    assert!(states > 90 && both > 50, "{states} states, {both} of them torn");
}

#[test]
fn a_crash_while_a_torn_frame_is_erased_leaves_a_torn_frame() {
    let disk = Disk::new(9, Rules::ALL);
    append(&mut disk.wal(), &[record(1, 10)]);
    let before = disk.content();
    append(&mut disk.wal(), &[record(2, 9000)]);
    let mut torn = disk.content();
    let lost = changed(&before, &torn)[0];
    torn[lost.0][lost.1..lost.1 + PAGE].fill(0);
    disk.set(&torn);
    disk.wal();
    let erased = disk.content();
    assert_eq!(changed(&torn, &erased).len(), 2, "the two pages that were left");
    for crash in crashes(&torn, &erased) {
        disk.set(&crash);
        assert_eq!(numbers(&disk.records()), [1]);
    }
}

#[test]
fn a_frame_that_does_not_fit_is_not_written() {
    let mut disk = Disk::new(5, Rules::ALL);
    let mut wal = disk.wal();
    append(&mut wal, &[record(1, PAGE)]);
    assert!(!wal.prepare_frame::<Raw>(&[record(2, 10)]), "two pages are left for a seal");
    wal.seal().expect("there is room");
    assert!(!wal.is_unsealed());
    disk.checkpoint(&mut wal);
    append(&mut wal, &[record(3, 10)]);
    assert_eq!(numbers(&disk.records()), [3]);
    disk.checkpoint(&mut wal);
    append(&mut wal, &[record(4, 10)]);
    // The rest of the generation that was there before is ignored.
    assert_eq!(numbers(&disk.records()), [4]);
}

#[test]
fn both_segments_are_read_while_the_tables_lack_the_first() {
    let mut disk = Disk::new(9, Rules::ALL);
    let mut wal = disk.wal();
    append(&mut wal, &[record(1, 10)]);
    wal.start_next_generation(&wal.next_anchor()).expect("writable");
    append(&mut wal, &[record(2, 10)]);
    let (mut wal, records) = disk.open().expect("a WAL");
    assert_eq!(numbers(&records), [1, 2]);
    assert!(wal.fills_both_segments() && !wal.is_empty());
    disk.checkpoint(&mut wal);
    assert!(wal.is_empty());
    append(&mut wal, &[record(3, 10)]);
    assert_eq!(numbers(&disk.records()), [3]);
}

/// Flips one bit in every page of what `history` has written, and one in many places of each page that
/// was written last. Returns descriptions of damage that was not noticed although records are missing
/// or wrong, and the number of times it was noticed.
fn rot(rules: Rules) -> (Vec<String>, usize) {
    let (mut silent, mut noticed) = (Vec::new(), 0);
    history(rules, |disk, before, after, _, written| {
        let last = changed(before, after);
        for slot in 0..2 {
            for at in (PAGE..after[slot].len()).step_by(PAGE) {
                let page = &after[slot][at..at + PAGE];
                let is_of = |(number, salt)| {
                    matches!(read(page, number, salt, Rules::ALL), Page::Current(..))
                };
                if !(disk.anchor.applied + 1..).zip(disk.anchor.salts).any(is_of) {
                    continue;
                }
                let places: &[usize] = if last.contains(&(slot, at)) {
                    &[0, 4, 15, 20, 31, 33, 39, 50, 4095]
                } else {
                    &[60]
                };
                for place in places {
                    let mut rotten = after.clone();
                    rotten[slot][at + place] ^= 0x10;
                    disk.set(&rotten);
                    match disk.open() {
                        Err(StoreError::Damaged { .. }) => noticed += 1,
                        Err(error) => panic!("{error}"),
                        Ok((_, records)) => {
                            let whole = written.last().map(|n| record(*n, *n as usize % 4 * 3000));
                            if numbers(&records) != written || records.last() != whole.as_ref() {
                                silent.push(format!("record {written:?}, page {at}, byte {place}"));
                            }
                        }
                    }
                }
            }
        }
        disk.set(after);
    });
    (silent, noticed)
}

#[test]
fn rot_is_reported_or_loses_nothing() {
    let (silent, noticed) = rot(Rules::ALL);
    assert!(silent.is_empty(), "{silent:?}");
    assert!(noticed > 150, "{noticed}");
    let (silent, _) = rot(Rules::ALL.without(Rule::PageChecksum));
    assert!(!silent.is_empty(), "checksums catch it");
}

#[test]
fn rot_in_a_seal_loses_nothing() {
    let disk = Disk::new(9, Rules::ALL);
    let mut wal = disk.wal();
    append(&mut wal, &[record(1, 10)]);
    let before = disk.content();
    wal.seal().expect("written");
    let sealed = disk.content();
    append(&mut wal, &[record(2, 10)]);
    let followed = disk.content();
    let pages = changed(&before, &sealed);
    assert_eq!(pages.len(), SEAL_PAGES);
    for (slot, at) in pages {
        for (content, expected) in [(&sealed, &[1][..]), (&followed, &[1, 2])] {
            let mut rotten = content.clone();
            rotten[slot][at + 70] ^= 1;
            disk.set(&rotten);
            assert_eq!(numbers(&disk.records()), expected);
            append(&mut disk.wal(), &[record(3, 10)]);
            assert_eq!(numbers(&disk.records()), [expected, &[3]].concat());
        }
    }
}

#[test]
fn rot_in_pages_that_are_not_needed_is_no_damage_of_a_later_generation() {
    let rules = Rules::ALL;
    for page in [1, 2, 5] {
        let mut disk = Disk::new(16, rules);
        let mut wal = disk.wal();
        for n in 0..4 {
            append(&mut wal, &[record(n, 100)]);
        }
        disk.checkpoint(&mut wal);
        append(&mut wal, &[record(4, 100)]);
        drop(wal);
        let mut content = disk.content();
        content[slot(1)][page * PAGE + 17] ^= 1;
        disk.set(&content);
        // The tables contain that generation, so its pages are read by nobody.
        assert_eq!(numbers(&disk.records()), [4]);
        let mut wal = disk.wal();
        disk.checkpoint(&mut wal);
        assert!(disk.records().is_empty(), "page {page}");
        for n in 5..10 {
            append(&mut wal, &[record(n, 100)]);
            assert_eq!(numbers(&disk.records()), (5..=n).collect::<Vec<_>>(), "page {page}");
        }
    }
}

/// The last frame is durable and acknowledged, and the medium forgets it. Whether that is noticed, some
/// time later.
fn a_lost_write_is_noticed(rules: Rules) -> bool {
    let disk = Disk::new(9, rules);
    let mut wal = disk.wal();
    append(&mut wal, &[record(1, 10)]);
    let before = disk.content();
    append(&mut wal, &[record(2, 10)]);
    let lost = changed(&before, &disk.content());
    if wal.is_unsealed() {
        wal.seal().expect("written");
    }
    let mut content = disk.content();
    for (slot, at) in lost {
        content[slot][at..at + PAGE].fill(0);
    }
    disk.set(&content);
    disk.damage().is_some()
}

#[test]
fn a_seal_shows_that_the_last_frame_was_durable() {
    assert!(a_lost_write_is_noticed(Rules::ALL));
    assert!(!a_lost_write_is_noticed(Rules::ALL.without(Rule::SealWhenIdle)));
}

/// The last frame of a generation is lost, and the next generation goes on. Whether that is noticed.
fn a_gap_between_segments_is_noticed(rules: Rules, how: fn(&mut [u8])) -> bool {
    let disk = Disk::new(9, rules);
    let mut wal = disk.wal();
    append(&mut wal, &[record(1, 10)]);
    let before = disk.content();
    append(&mut wal, &[record(2, 10)]);
    let lost = changed(&before, &disk.content());
    wal.start_next_generation(&wal.next_anchor()).expect("writable");
    append(&mut wal, &[record(3, 10)]);
    assert_eq!(numbers(&disk.records()), [1, 2, 3]);
    let mut content = disk.content();
    lost.iter().for_each(|(slot, at)| how(&mut content[*slot][*at..*at + PAGE]));
    disk.set(&content);
    disk.damage().is_some()
}

#[test]
fn the_chain_crosses_segments() {
    let zero: fn(&mut [u8]) = |page| page.fill(0);
    let rot: fn(&mut [u8]) = |page| page[100] ^= 1;
    for how in [zero, rot] {
        assert!(a_gap_between_segments_is_noticed(Rules::ALL, how));
        let broken = Rules::ALL.without(Rule::ChainAcrossSegments);
        assert!(!a_gap_between_segments_is_noticed(broken, how));
    }
}

/// Whether a frame is still read after a start if nothing but the anchor was made durable before it.
fn a_new_generation_is_read(rules: Rules) -> bool {
    let mut disk = Disk::new(9, rules);
    let mut wal = disk.wal();
    append(&mut wal, &[record(1, 10)]);
    disk.checkpoint(&mut wal);
    append(&mut wal, &[record(2, 10)]);
    disk.open().is_ok_and(|(_, records)| numbers(&records) == [2])
}

#[test]
fn the_salt_of_a_segment_is_durable_before_its_first_frame() {
    assert!(a_new_generation_is_read(Rules::ALL));
    assert!(!a_new_generation_is_read(Rules::ALL.without(Rule::SaltBeforeSegment)));
}

/// A page as somebody would forge it who knows everything but the salt: it continues the log that ends at
/// `end`, and its checksum is right.
fn forged(wal: &Wal, frame: u64, body: &[u8]) -> Vec<u8> {
    let mut page = vec![0; PAGE];
    page[PAGE - PAYLOAD..PAGE - PAYLOAD + body.len()].copy_from_slice(body);
    let header = Header {
        generation: wal.generation,
        salt: Salt(0),
        frame,
        index: 0,
        previous: wal.end.chain,
        body_bytes: u32::try_from(body.len()).expect("short"),
    };
    write_header(&mut page, &header);
    page
}

/// A client's value is full of forged pages, and the medium leaves them where the next frame goes, as a
/// file system would that hands out blocks without clearing them. Whether a forged record is read.
fn a_forged_record_is_read(rules: Rules) -> bool {
    let disk = Disk::new(40, rules);
    let mut wal = disk.wal();
    append(&mut wal, &[record(1, 10)]);
    let mut body = Vec::new();
    body::encode_record::<Raw>(&record(666, 1), &mut body);

    // Through the front door: at every alignment that a value can have, for the frame that holds it and
    // for those after it.
    for shift in [0, 8, 17, 40, 2000, PAGE - 30, PAGE - 9] {
        let mut value = vec![0; shift];
        (1..6).for_each(|later| value.extend(forged(&wal, wal.end.frame + later, &body)));
        append(&mut wal, &[(b"v".to_vec(), value)]);
        let found = disk.records();
        assert!(found.iter().all(|(key, _)| key != b"b" || numbers(&found)[0] == 1));
        assert_eq!(found.iter().filter(|(key, _)| key == b"b").count(), 1, "shift {shift}");
        if !wal.prepare_frame::<Raw>(&[record(0, 6 * PAGE)]) {
            break;
        }
    }

    // By the medium.
    let mut content = disk.content();
    let at = usize::try_from(wal.end.offset).expect("small");
    content[slot(wal.generation)][at..at + PAGE].copy_from_slice(&forged(
        &wal,
        wal.end.frame,
        &body,
    ));
    disk.set(&content);
    disk.open().is_ok_and(|(_, records)| records.contains(&record(666, 1)))
}

#[test]
fn bytes_of_a_client_never_become_records() {
    assert!(!a_forged_record_is_read(Rules::ALL));
    assert!(a_forged_record_is_read(Rules::ALL.without(Rule::PageSalt)));
}

#[test]
fn a_wal_ahead_of_the_tables_or_of_another_store_is_refused() {
    let mut disk = Disk::new(9, Rules::ALL);
    let mut wal = disk.wal();
    let first = disk.anchor;
    append(&mut wal, &[record(1, 10)]);
    disk.checkpoint(&mut wal);
    append(&mut wal, &[record(2, 10)]);
    disk.checkpoint(&mut wal);
    append(&mut wal, &[record(3, 10)]);
    let later = std::mem::replace(&mut disk.anchor, first);
    let damage = disk.damage().expect("the tables have lost two checkpoints");
    assert!(damage.contains("continues from generation 2, but the tables contain"), "{damage}");

    disk.anchor = later;
    assert_eq!(numbers(&disk.records()), [3]);
    let options = WalOptions { append: true, sync_mode: SyncMode::All, rules: Rules::ALL };
    let other = Wal::open::<Raw>(disk.dir.path(), StoreId(8), later, options);
    assert!(matches!(other, Err(StoreError::Swapped { found: ID, .. })), "{other:?}");
    let [one, two] = disk.content();
    disk.set(&[two.clone(), one.clone()]);
    assert!(disk.damage().expect("exchanged").contains("the other segment"));
    for (bytes, expected) in [(&b""[..], "empty"), (b"letter", "does not name the store")] {
        disk.set(&[one.clone(), bytes.to_vec()]);
        let error = disk.open().expect_err("not a segment").to_string();
        assert!(error.contains(expected), "{error}");
    }
    fs::remove_file(&disk.paths()[0]).expect("removable");
    let error = disk.open().expect_err("missing file");
    assert!(matches!(error, StoreError::DataLost { state: "missing", .. }), "{error}");
}

#[test]
fn a_salt_is_not_shown() {
    let disk = Disk::new(5, Rules::ALL);
    let shown = format!("{:?} {:?}", disk.anchor, disk.wal());
    for salt in disk.anchor.salts {
        assert!(!shown.contains(&salt.0.to_string()), "{shown}");
    }
}
