use proptest::prelude::*;
use rand::SeedableRng as _;

use super::*;

const OWNER: Owner = Owner { mode: 0o755, uid: 0, gid: 0 };

fn disk() -> Image {
    Image::new(OWNER, NameDurability::Posix)
}

fn name(name: &str) -> &OsStr {
    OsStr::new(name)
}

/// A disk with one file whose name is durable.
fn with_file() -> (Image, u64) {
    let mut disk = disk();
    let file = disk.create(ROOT, name("f"), NewInode::File, OWNER).expect("a new name");
    disk.sync(ROOT, false).expect("the root is there");
    (disk, file)
}

#[test]
fn a_power_loss_undoes_unsynced_writes() -> Result<(), Errno> {
    let (mut disk, file) = with_file();
    disk.write(file, 0, b"synced")?;
    disk.sync(file, false)?;
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
    let file = disk.create(ROOT, name("f"), NewInode::File, OWNER)?;
    disk.write(file, 0, b"x")?;
    disk.sync(file, false)?;
    assert_eq!(disk.clone().lose_power(None).entries, 1);
    let mut lost = disk.clone();
    lost.lose_power(None);
    assert_eq!(lost.lookup(ROOT, name("f")), Err(Errno::ENOENT));
    disk.sync(ROOT, false)?;
    disk.lose_power(None);
    assert_eq!(disk.read(disk.lookup(ROOT, name("f"))?, 0, 9)?, b"x");
    Ok(())
}

#[test]
fn a_rename_across_directories_is_atomic() -> Result<(), Errno> {
    let mut disk = disk();
    let making = disk.create(ROOT, name("making"), NewInode::Directory, OWNER)?;
    let file = disk.create(making, name("data"), NewInode::File, OWNER)?;
    disk.write(file, 0, b"x")?;
    disk.sync(file, false)?;
    disk.rename((making, name("data")), (ROOT, name("data")), true)?;
    disk.remove(ROOT, name("making"), true)?;
    for seed in 0..64 {
        let mut after = disk.clone();
        after.lose_power(Some(&mut ChaCha8Rng::seed_from_u64(seed)));
        let there = after.lookup(ROOT, name("data")).is_ok();
        let before =
            after.lookup(ROOT, name("making")).is_ok_and(|d| after.lookup(d, name("data")).is_ok());
        assert!(!(there && before), "seed {seed}");
    }
    disk.sync(ROOT, false)?;
    disk.lose_power(None);
    assert_eq!(disk.entries(ROOT)?.len(), 3);
    assert_eq!(disk.read(disk.lookup(ROOT, name("data"))?, 0, 9)?, b"x");
    Ok(())
}

#[test]
fn invalid_operations_fail_as_in_a_file_system() -> Result<(), Errno> {
    let (mut disk, file) = with_file();
    let directory = disk.create(ROOT, name("d"), NewInode::Directory, OWNER)?;
    disk.create(directory, name("in"), NewInode::File, OWNER)?;
    assert_eq!(disk.create(ROOT, name("f"), NewInode::Directory, OWNER), Err(Errno::EEXIST));
    assert_eq!(disk.remove(ROOT, name("f"), true), Err(Errno::ENOTDIR));
    assert_eq!(disk.remove(ROOT, name("d"), false), Err(Errno::EISDIR));
    assert_eq!(disk.remove(ROOT, name("d"), true), Err(Errno::ENOTEMPTY));
    assert_eq!(disk.rename((ROOT, name("f")), (ROOT, name("d")), true), Err(Errno::EISDIR));
    assert_eq!(disk.rename((ROOT, name("d")), (ROOT, name("f")), true), Err(Errno::ENOTDIR));
    assert_eq!(disk.lookup(file, name("x")), Err(Errno::ENOTDIR));
    assert_eq!(disk.write(directory, 0, b"x"), Err(Errno::EISDIR));
    assert_eq!(disk.sync(99, false), Err(Errno::ENOENT));
    Ok(())
}

#[test]
fn pages_of_a_failed_sync_stay_visible_and_no_later_sync_saves_them() -> Result<(), Errno> {
    let (mut disk, file) = with_file();
    disk.write(file, 0, b"first")?;
    disk.write(file, PAGE_BYTES, b"second")?;
    assert_eq!(disk.fail_sync(file), 2);
    assert_eq!(disk.read(file, 0, 5)?, b"first");
    disk.write(file, PAGE_BYTES, b"again")?;
    disk.sync(file, false)?;
    let mut after = disk.clone();
    let lost = after.lose_power(Some(&mut ChaCha8Rng::seed_from_u64(1)));
    assert_eq!((lost.pages, lost.kept), ([("f".to_owned(), 1)].into(), 0));
    assert_eq!(after.read(file, 0, 5)?, [0; 5]);
    assert_eq!(after.read(file, PAGE_BYTES, 5)?, b"again");
    // Written again, it is saved.
    disk.write(file, 0, b"first")?;
    disk.sync(file, true)?;
    assert_eq!(disk.lose_power(None), LostWrites::default());
    Ok(())
}

#[test]
fn on_ext4_a_sync_that_commits_makes_earlier_names_durable_in_order() -> Result<(), Errno> {
    let with_names = || -> Result<(Image, u64), Errno> {
        let mut disk = Image::new(OWNER, NameDurability::Ext4);
        let file = disk.create(ROOT, name("f"), NewInode::File, OWNER)?;
        disk.write(file, 0, b"x")?;
        disk.sync(file, true)?;
        for later in ["a", "b", "c"] {
            disk.create(ROOT, name(later), NewInode::File, OWNER)?;
        }
        Ok((disk, file))
    };
    let names = |disk: &Image| disk.entries(ROOT).map(|entries| entries.len() - 2);
    // The first sync has committed the name of its file.
    let (mut disk, file) = with_names()?;
    assert_eq!((disk.lose_power(None).entries, names(&disk)), (3, Ok(1)));
    // Nothing but data that had their place.
    let (mut disk, file_again) = with_names()?;
    assert_eq!(file, file_again);
    disk.write(file, 0, b"y")?;
    disk.sync(file, true)?;
    assert_eq!((disk.lose_power(None).entries, names(&disk)), (3, Ok(1)));
    // Data that need a place.
    let (mut disk, file) = with_names()?;
    disk.write(file, PAGE_BYTES, b"y")?;
    disk.sync(file, true)?;
    assert_eq!((disk.lose_power(None).entries, names(&disk)), (0, Ok(4)));
    for seed in 0..32 {
        let (mut disk, _) = with_names()?;
        disk.lose_power(Some(&mut ChaCha8Rng::seed_from_u64(seed)));
        let there = ["a", "b", "c"].map(|later| disk.lookup(ROOT, name(later)).is_ok());
        assert!(there.is_sorted_by(|earlier, later| earlier >= later), "seed {seed}: {there:?}");
    }
    Ok(())
}

#[test]
fn a_full_disk_takes_no_new_pages_and_a_link_needs_none() -> Result<(), Errno> {
    let (mut disk, file) = with_file();
    disk.write(file, 0, b"x")?;
    disk.set_free_pages(Some(1));
    assert_eq!(disk.write(file, 0, &[1; 3 * PAGE_BYTES as usize]), Err(Errno::ENOSPC));
    disk.write(file, 10, &[1; PAGE_BYTES as usize])?;
    assert_eq!(disk.write(file, 2 * PAGE_BYTES, b"x"), Err(Errno::ENOSPC));
    assert_eq!(disk.reserve(file, 0, 3 * PAGE_BYTES, false), Err(Errno::ENOSPC));
    assert_eq!(disk.create(ROOT, name("g"), NewInode::File, OWNER), Err(Errno::ENOSPC));
    disk.link(file, ROOT, name("link"))?;
    assert_eq!(disk.attributes(file)?.links, 2);
    disk.set_size(file, 0)?;
    assert_eq!(disk.capacity().1, 2);
    disk.remove(ROOT, name("f"), false)?;
    disk.remove(ROOT, name("link"), false)?;
    disk.sync(ROOT, false)?;
    disk.forget(file);
    assert_eq!(disk.attributes(file), Err(Errno::ENOENT));
    disk.set_free_pages(None);
    disk.create(ROOT, name("g"), NewInode::File, OWNER)?;
    Ok(())
}

#[test]
fn flipped_bits_and_restored_snapshots_survive_a_power_loss() -> Result<(), Errno> {
    let (mut disk, file) = with_file();
    disk.write(file, 0, b"synced")?;
    disk.sync(file, false)?;
    disk.write(file, PAGE_BYTES, b"not")?;
    let copy = disk.snapshot();
    assert!(disk.snapshot().reads_like(&copy));
    let bit = FlippedBit { file: "f".to_owned(), offset: 5, bit: 0 };
    let unsynced = FlippedBit { offset: PAGE_BYTES, ..bit.clone() };
    disk.flip(&[bit.clone(), unsynced]);
    assert!(!disk.snapshot().reads_like(&copy));
    assert_eq!(disk.read(file, 0, 6)?, b"syncee");
    assert_eq!(disk.read(file, PAGE_BYTES, 3)?, b"not");
    disk.lose_power(None);
    assert_eq!(disk.read(file, 0, 99)?, b"syncee");
    disk.flip(&[bit]);
    assert_eq!(disk.read(file, 0, 99)?, b"synced");
    disk.restore(copy);
    disk.lose_power(None);
    assert_eq!(disk.read(file, PAGE_BYTES, 3)?, b"not");
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    for _ in 0..20 {
        let drawn = disk.draw_bit(&mut rng, |_| true).expect("something is synced");
        assert!(drawn.offset < 2 * PAGE_BYTES, "{drawn:?}");
    }
    assert_eq!(disk.draw_bit(&mut rng, |file| file != "f"), None);
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
                    disk.sync(file, false).expect("it is there");
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
