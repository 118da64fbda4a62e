use proptest::prelude::*;
use rand::SeedableRng as _;

use super::*;

const OWNER: Owner = Owner { mode: 0o755, uid: 0, gid: 0 };

fn disk() -> Image {
    Image::new(OWNER)
}

fn name(name: &str) -> &OsStr {
    OsStr::new(name)
}

/// A disk with one file whose name is durable.
fn with_file() -> (Image, u64) {
    let mut disk = disk();
    let file = disk.create(ROOT, name("f"), false, OWNER).expect("a new name");
    disk.sync(ROOT).expect("the root is there");
    (disk, file)
}

#[test]
fn a_power_loss_undoes_unsynced_writes() -> Result<(), Errno> {
    let (mut disk, file) = with_file();
    disk.write(file, 0, b"synced")?;
    disk.sync(file)?;
    disk.write(file, 3, b"new")?;
    disk.write(file, 9000, b"far")?;
    assert_eq!(disk.read(file, 0, 6)?, b"synnew");
    let lost = disk.lose_power(None);
    assert_eq!(lost.pages, [("f".to_owned(), 2)].into());
    assert_eq!(disk.read(file, 0, 99)?, b"synced");
    assert_eq!(disk.lose_power(None), LostWrites::default());
    Ok(())
}

#[test]
fn a_name_becomes_durable_only_with_its_directory() -> Result<(), Errno> {
    let mut disk = disk();
    let file = disk.create(ROOT, name("f"), false, OWNER)?;
    disk.write(file, 0, b"x")?;
    disk.sync(file)?;
    assert_eq!(disk.clone().lose_power(None).entries, 1);
    let mut lost = disk.clone();
    lost.lose_power(None);
    assert_eq!(lost.lookup(ROOT, name("f")), Err(Errno::ENOENT));
    disk.sync(ROOT)?;
    disk.lose_power(None);
    assert_eq!(disk.read(disk.lookup(ROOT, name("f"))?, 0, 9)?, b"x");
    Ok(())
}

#[test]
fn a_rename_across_directories_is_atomic() -> Result<(), Errno> {
    let mut disk = disk();
    let making = disk.create(ROOT, name("making"), true, OWNER)?;
    let file = disk.create(making, name("data"), false, OWNER)?;
    disk.write(file, 0, b"x")?;
    disk.sync(file)?;
    disk.rename((making, name("data")), (ROOT, name("data")))?;
    disk.remove(ROOT, name("making"), true)?;
    for seed in 0..64 {
        let mut after = disk.clone();
        after.lose_power(Some(&mut ChaCha8Rng::seed_from_u64(seed)));
        let there = after.lookup(ROOT, name("data")).is_ok();
        let before =
            after.lookup(ROOT, name("making")).is_ok_and(|d| after.lookup(d, name("data")).is_ok());
        assert!(!(there && before), "seed {seed}");
    }
    disk.sync(ROOT)?;
    disk.lose_power(None);
    assert_eq!(disk.entries(ROOT)?.len(), 3);
    assert_eq!(disk.read(disk.lookup(ROOT, name("data"))?, 0, 9)?, b"x");
    Ok(())
}

#[test]
fn invalid_operations_fail_as_in_a_file_system() -> Result<(), Errno> {
    let (mut disk, file) = with_file();
    let directory = disk.create(ROOT, name("d"), true, OWNER)?;
    disk.create(directory, name("in"), false, OWNER)?;
    assert_eq!(disk.create(ROOT, name("f"), true, OWNER), Err(Errno::EEXIST));
    assert_eq!(disk.remove(ROOT, name("f"), true), Err(Errno::ENOTDIR));
    assert_eq!(disk.remove(ROOT, name("d"), false), Err(Errno::EISDIR));
    assert_eq!(disk.remove(ROOT, name("d"), true), Err(Errno::ENOTEMPTY));
    assert_eq!(disk.rename((ROOT, name("f")), (ROOT, name("d"))), Err(Errno::EISDIR));
    assert_eq!(disk.rename((ROOT, name("d")), (ROOT, name("f"))), Err(Errno::ENOTDIR));
    assert_eq!(disk.lookup(file, name("x")), Err(Errno::ENOTDIR));
    assert_eq!(disk.write(directory, 0, b"x"), Err(Errno::EISDIR));
    assert_eq!(disk.sync(99), Err(Errno::ENOENT));
    Ok(())
}

/// An operation on the file.
#[derive(Clone, Debug)]
enum Step {
    Write(u64, Vec<u8>),
    Resize(u64),
    Sync,
    PowerLoss,
    PartialPowerLoss(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let at = || 0..5 * PAGE_BYTES;
    let data = || {
        prop_oneof![
            prop::collection::vec(1u8.., 0..64),
            (1u8.., 4000usize..9000).prop_map(|(byte, length)| vec![byte; length]),
        ]
    };
    prop::collection::vec(
        prop_oneof![
            4 => (at(), data()).prop_map(|(at, data)| Step::Write(at, data)),
            1 => at().prop_map(Step::Resize),
            2 => Just(Step::Sync),
            1 => Just(Step::PowerLoss),
            2 => any::<u64>().prop_map(Step::PartialPowerLoss),
        ],
        1..40,
    )
}

/// One page of `bytes`, padded with zeros.
fn page(bytes: &[u8], page: usize) -> Vec<u8> {
    let at = |n: usize| bytes.get(n).copied().unwrap_or(0);
    let start = page * PAGE_BYTES as usize;
    (start..start + PAGE_BYTES as usize).map(at).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 128 } else { 1024 }))]

    /// Compares the disk with a vector of bytes and a copy of it that is taken at each sync.
    #[test]
    fn a_file_has_what_was_written_and_after_a_power_loss_what_was_synced(steps in steps()) {
        let (mut disk, file) = with_file();
        let (mut now, mut durable) = (Vec::<u8>::new(), Vec::<u8>::new());
        for step in steps {
            match step {
                Step::Write(at, data) => {
                    disk.write(file, at, &data).expect("there is room");
                    let at = usize::try_from(at).expect("small");
                    if !data.is_empty() {
                        now.resize(now.len().max(at + data.len()), 0);
                        now[at..at + data.len()].copy_from_slice(&data);
                    }
                }
                Step::Resize(size) => {
                    disk.set_size(file, size).expect("it is there");
                    now.resize(usize::try_from(size).expect("small"), 0);
                }
                Step::Sync => {
                    disk.sync(file).expect("it is there");
                    durable = now.clone();
                }
                Step::PowerLoss => {
                    disk.lose_power(None);
                    now = durable.clone();
                }
                Step::PartialPowerLoss(seed) => {
                    disk.lose_power(Some(&mut ChaCha8Rng::seed_from_u64(seed)));
                    let left = disk.read(file, 0, usize::MAX).expect("it is there");
                    let shortest = now.len().min(durable.len());
                    prop_assert!((shortest..=now.len().max(durable.len())).contains(&left.len()));
                    for n in 0..=left.len() / PAGE_BYTES as usize {
                        // Each page is either the new or the synced one, up to the size.
                        let truncated = |bytes: &[u8]| page(&bytes[..bytes.len().min(left.len())], n);
                        let is = page(&left, n);
                        prop_assert!(is == truncated(&now) || is == truncated(&durable), "page {n}");
                    }
                    now = left.clone();
                    durable = left;
                }
            }
            prop_assert_eq!(&disk.read(file, 0, usize::MAX).expect("it is there"), &now);
            prop_assert_eq!(disk.attributes(file).expect("it is there").size, now.len() as u64);
            let mut after = disk.clone();
            after.lose_power(None);
            prop_assert_eq!(&after.read(file, 0, usize::MAX).expect("it is there"), &durable);
        }
    }
}
