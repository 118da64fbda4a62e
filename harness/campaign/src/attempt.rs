//! One try to do a shard, and the directory that it writes.
//!
//! `CAMPAIGN/shard-007-of-100/` holds a shard that is whole: `summary.json`, and what it keeps in `runs/`. Until then
//! the attempt writes into `CAMPAIGN/.shard-007-of-100.HOST.PID/`, and holds the lock of the note in there. The kernel
//! releases a lock however its holder dies, so what is not locked was left behind, and whoever completes the shard
//! removes it. Where the file system has no locks, nothing is removed.
//!
//! Of two attempts that complete a shard, the slower one is discarded, unless it has found what is worse: then it
//! becomes `CAMPAIGN/shard-007-of-100.HOST.PID/`.

use std::{
    cmp::Reverse,
    fs::{self, File, OpenOptions},
    io::{self, Seek as _, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process,
};

use history::Shard;
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use serde::{Deserialize, Serialize};

use crate::{CampaignError, ShardSummary, Work};

/// The description of an attempt in its directory, for who finds only that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AttemptNote {
    pub(crate) host: String,
    pub(crate) process: u32,
    /// The command of the campaign.
    #[serde(default)]
    pub(crate) command: String,
    /// Why it failed, if it could still say so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) failed: Option<String>,
}

impl AttemptNote {
    const FILE: &str = "attempt.json";

    /// The note in the directory of an attempt, if the attempt came to write it.
    pub(crate) fn read(directory: &Path) -> Option<AttemptNote> {
        let text = fs::read(directory.join(AttemptNote::FILE)).ok()?;
        serde_json::from_slice(&text).ok()
    }
}

/// What there is to do for a shard.
#[derive(Debug)]
pub enum Begun {
    /// Nothing: it is there, with this summary.
    Whole(ShardSummary),
    /// All of it.
    Attempt(Attempt),
}

/// A try to do a shard.
#[derive(Debug)]
pub struct Attempt {
    campaign: PathBuf,
    shard: Shard,
    work: Work,
    aside: PathBuf,
    /// The note. It is locked as long as somebody works on this.
    note: Note,
}

impl Attempt {
    /// Begins to do a shard of the campaign in a directory, which is created if it does not exist.
    ///
    /// # Errors
    /// The directory cannot be used, or holds shards of other work.
    pub fn begin(campaign: &Path, shard: Shard, work: &Work) -> Result<Begun, CampaignError> {
        fs::create_dir_all(campaign).map_err(CampaignError::file(campaign))?;
        require_same_count(campaign, shard)?;
        if let Some(summary) = result(campaign, shard)? {
            require_same_work(&campaign.join(name_of(shard)), &summary, work)?;
            return Ok(Begun::Whole(summary));
        }
        require_work_of_others(campaign, work)?;
        let (aside, note) = create_aside(campaign, shard)?;
        let campaign = campaign.to_owned();
        let mut attempt = Attempt { campaign, shard, work: work.clone(), aside, note };
        attempt.write_note(None)?;
        Ok(Begun::Attempt(attempt))
    }

    /// The directory for what the shard keeps.
    #[must_use]
    pub fn store(&self) -> PathBuf {
        self.aside.join("runs")
    }

    /// A path below the directory of the attempt as the summary names it.
    #[must_use]
    pub fn within<'p>(&self, path: &'p Path) -> &'p Path {
        path.strip_prefix(&self.aside).unwrap_or(path)
    }

    /// The shard is whole: writes its summary, and gives the directory its name. Returns the summary that counts, which
    /// is that of another attempt if one was faster and found nothing less.
    ///
    /// # Errors
    /// The summary cannot be written, or the directory cannot be renamed.
    pub fn publish(self, summary: ShardSummary) -> Result<ShardSummary, CampaignError> {
        let summary = ShardSummary {
            shard: self.shard.number,
            of: self.shard.of,
            work: self.work.clone(),
            host: host(),
            ..summary
        };
        write_json(&self.aside.join(ShardSummary::FILE), &summary)?;
        let whole = self.campaign.join(name_of(self.shard));
        match fs::rename(&self.aside, &whole) {
            Ok(()) => {
                let note = whole.join(AttemptNote::FILE);
                fs::remove_file(&note).map_err(CampaignError::file(&note))?;
            }
            Err(error) => match summary_in(&whole, self.shard)? {
                Some(faster) => keep_if_worse(&self.campaign, &self.aside, &summary, &faster)?,
                None => return Err(CampaignError::file(&whole)(error)),
            },
        }
        // The name is durable once its directory is.
        let synced = File::open(&self.campaign).and_then(|directory| directory.sync_all());
        synced.map_err(CampaignError::file(&self.campaign))?;
        self.remove_abandoned()?;
        Ok(result(&self.campaign, self.shard)?.unwrap_or(summary))
    }

    /// Leaves a note on why there is no shard.
    pub fn fail(mut self, why: &str) {
        // The attempt failed, and perhaps because nothing can be written: that is told anyway.
        let _ = self.write_note(Some(why.to_owned()));
    }

    fn write_note(&mut self, failed: Option<String>) -> Result<(), CampaignError> {
        let command = self.work.command.clone();
        let note = AttemptNote { host: host(), process: process::id(), command, failed };
        self.note.write(&note).map_err(CampaignError::file(&self.aside.join(AttemptNote::FILE)))
    }

    /// Removes what attempts at this shard have left that were killed.
    fn remove_abandoned(&self) -> Result<(), CampaignError> {
        for path in entries(&self.campaign)? {
            if !file_name(&path).starts_with(&aside_prefix(self.shard)) {
                continue;
            }
            // Without a lock it may be one that somebody works on.
            let Ok(Some(Note { lock: Some(_lock), .. })) = Note::lock(&path) else { continue };
            if AttemptNote::read(&path).is_some_and(|note| note.command != self.work.command) {
                continue;
            }
            // One that was killed just before it was renamed has found something all the same.
            let whole = self.campaign.join(name_of(self.shard));
            match (summary_in(&path, self.shard), summary_in(&whole, self.shard)?) {
                (Ok(Some(found)), Some(known)) => {
                    keep_if_worse(&self.campaign, &path, &found, &known)?;
                }
                _ => fs::remove_dir_all(&path).map_err(CampaignError::file(&path))?,
            }
        }
        Ok(())
    }
}

/// Creates the directory of an attempt, with its note, and locks it.
fn create_aside(campaign: &Path, shard: Shard) -> Result<(PathBuf, Note), CampaignError> {
    let first = campaign.join(format!("{}{}.{}", aside_prefix(shard), host(), process::id()));
    let (mut path, mut again) = (first.clone(), 1);
    loop {
        let created = match kept(campaign, &path).exists() {
            true => Ok(None),
            false => fs::create_dir(&path).and_then(|()| Note::lock(&path)),
        };
        match created {
            Ok(Some(note)) => return Ok((path, note)),
            // The name is in use, or whoever completes the shard has removed it before it was locked.
            Ok(None) => {}
            // A container has the same process number when it is started again.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(CampaignError::file(&path)(error)),
        }
        again += 1;
        path = PathBuf::from(format!("{}.{again}", first.display()));
    }
}

/// The file with the note of an attempt, locked.
#[derive(Debug)]
struct Note {
    file: File,
    /// `None` where the file system has no locks.
    lock: Option<Flock<File>>,
}

impl Note {
    /// Locks the note in the directory of an attempt, which may be one that has none yet. `None` if somebody works on
    /// the attempt, or if it is gone.
    fn lock(directory: &Path) -> io::Result<Option<Note>> {
        let path = directory.join(AttemptNote::FILE);
        let mut options = OpenOptions::new();
        let opened = options.read(true).write(true).create(true).truncate(false).open(&path);
        let file = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let lock = match Flock::lock(file.try_clone()?, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Some(lock),
            Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
            Err((_, Errno::ENOLCK | Errno::EOPNOTSUPP | Errno::ENOSYS)) => None,
            Err((_, error)) => return Err(error.into()),
        };
        // The name may refer to another file by now, or to none.
        let opened = file.metadata()?;
        let is_same = fs::metadata(&path)
            .is_ok_and(|found| (found.dev(), found.ino()) == (opened.dev(), opened.ino()));
        Ok(is_same.then_some(Note { file, lock }))
    }

    fn write(&mut self, note: &AttemptNote) -> io::Result<()> {
        let text = serde_json::to_vec(note)?;
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.file.write_all(&text)?;
        self.file.sync_all()
    }
}

/// Gives what an attempt has found a name that a merge reads, if it is worse than what counts; removes it otherwise.
fn keep_if_worse(
    campaign: &Path,
    aside: &Path,
    found: &ShardSummary,
    counts: &ShardSummary,
) -> Result<(), CampaignError> {
    if found.greatest() <= counts.greatest() {
        return fs::remove_dir_all(aside).map_err(CampaignError::file(aside));
    }
    let kept = kept(campaign, aside);
    fs::rename(aside, &kept).map_err(CampaignError::file(&kept))
}

/// Where an attempt is kept that has found what is worse than what counts.
fn kept(campaign: &Path, aside: &Path) -> PathBuf {
    campaign.join(file_name(aside).trim_start_matches('.'))
}

/// Shards of two numbers of shards do not make one campaign.
fn require_same_count(campaign: &Path, shard: Shard) -> Result<(), CampaignError> {
    let others = entries(campaign)?;
    let other = others.iter().find_map(|path| {
        let named = shard_of(file_name(path).trim_start_matches('.'))?;
        (named.of != shard.of).then_some(named.of)
    });
    match other {
        None => Ok(()),
        Some(of) => Err(CampaignError::Refused(format!(
            "{}: the campaign has {of} shards, and this is shard {shard}: name another directory with --campaign",
            campaign.display()
        ))),
    }
}

/// Nor do shards of different work. One shard that is there says what the work is: the others were compared with it.
fn require_work_of_others(campaign: &Path, work: &Work) -> Result<(), CampaignError> {
    let all = entries(campaign)?;
    let found = all.iter().find_map(|path| {
        let shard = shard_of(file_name(path))?;
        // One that cannot be read is done again, and no reason to refuse this one.
        Some((path, summary_in(path, shard).ok()??))
    });
    found.map_or(Ok(()), |(path, summary)| require_same_work(path, &summary, work))
}

fn require_same_work(
    path: &Path,
    summary: &ShardSummary,
    work: &Work,
) -> Result<(), CampaignError> {
    match summary.work.difference(work) {
        None => Ok(()),
        Some(difference) => Err(CampaignError::Refused(format!(
            "{} {difference}: name another directory with --campaign",
            path.display()
        ))),
    }
}

/// The result of a shard that counts: of several, the one that has found what is worst.
fn result(campaign: &Path, shard: Shard) -> Result<Option<ShardSummary>, CampaignError> {
    let mut counts = summary_in(&campaign.join(name_of(shard)), shard)?;
    if counts.is_none() {
        return Ok(None);
    }
    for path in entries(campaign)? {
        if file_name(&path).starts_with(&format!("{}.", name_of(shard))) {
            let found = summary_in(&path, shard)?;
            counts =
                [counts, found].into_iter().flatten().min_by_key(|one| Reverse(one.greatest()));
        }
    }
    Ok(counts)
}

/// The summary in the directory of a shard; `None` if there is no such directory.
pub(crate) fn summary_in(
    directory: &Path,
    shard: Shard,
) -> Result<Option<ShardSummary>, CampaignError> {
    let path = directory.join(ShardSummary::FILE);
    let text = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && !directory.exists() => {
            return Ok(None);
        }
        read => read.map_err(CampaignError::file(&path))?,
    };
    let summary: ShardSummary = serde_json::from_slice(&text).map_err(|error| {
        CampaignError::Refused(format!(
            "{}: not the summary of a shard: {error}; remove {} to do the shard again",
            path.display(),
            directory.display()
        ))
    })?;
    if summary.shard() != Some(shard) {
        return Err(CampaignError::Refused(format!(
            "{}: the summary of shard {}/{} is in the directory of shard {shard}",
            path.display(),
            summary.shard,
            summary.of
        )));
    }
    Ok(Some(summary))
}

/// The name of the directory of a shard. Names sort like numbers.
pub(crate) fn name_of(Shard { number, of }: Shard) -> String {
    let width = of.to_string().len();
    format!("shard-{number:0width$}-of-{of}")
}

/// The beginning of the names of the directories of attempts.
pub(crate) fn aside_prefix(shard: Shard) -> String {
    format!(".{}.", name_of(shard))
}

/// The shard whose directory has a name, or begins it.
pub(crate) fn shard_of(name: &str) -> Option<Shard> {
    let (number, rest) = name.strip_prefix("shard-")?.split_once("-of-")?;
    let of = rest.split('.').next()?;
    Shard::new(number.parse().ok()?, of.parse().ok()?)
}

/// The paths in a directory, sorted.
pub(crate) fn entries(directory: &Path) -> Result<Vec<PathBuf>, CampaignError> {
    let listed = fs::read_dir(directory).and_then(|entries| {
        entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()
    });
    let mut paths = listed.map_err(CampaignError::file(directory))?;
    paths.sort_unstable();
    Ok(paths)
}

pub(crate) fn file_name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

/// Writes a value as a line of JSON, durably.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), CampaignError> {
    let text = serde_json::to_vec(value).map_err(io::Error::from);
    let mut text = text.map_err(CampaignError::file(path))?;
    text.push(b'\n');
    write_whole(path, &text)
}

/// Writes a file, durably, so that whoever reads it finds what was there before or all of this.
///
/// # Errors
/// The file cannot be written.
pub fn write_whole(path: &Path, contents: &[u8]) -> Result<(), CampaignError> {
    let aside = path.with_file_name(format!(".{}.{}", file_name(path), process::id()));
    let write = || -> io::Result<()> {
        let mut file = File::create(&aside)?;
        file.write_all(contents)?;
        file.sync_all()?;
        fs::rename(&aside, path)
    };
    write().map_err(|error| {
        // It is of no use, and perhaps was never there.
        let _ = fs::remove_file(&aside);
        CampaignError::file(path)(error)
    })
}

/// The name of this machine.
fn host() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    // It becomes part of a file name.
    let name: String = name.trim().chars().filter(|c| !['/', '.'].contains(c)).collect();
    if name.is_empty() { "unknown".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use checker::Validity;

    use super::*;
    use crate::ShardFailure;

    fn summary(done: u64) -> ShardSummary {
        ShardSummary {
            shard: 0,
            of: 0,
            work: Work::default(),
            verdict: Validity::Valid,
            done,
            planned: done,
            unit: "seeds".to_owned(),
            failures: Vec::new(),
            seconds: 0.5,
            host: String::new(),
        }
    }

    /// One that has found something.
    fn invalid(done: u64) -> ShardSummary {
        let failure = ShardFailure {
            signature: "AC1".to_owned(),
            verdict: Validity::Invalid,
            seed: Some(done),
            command: "harness sim".to_owned(),
            directory: None,
            why: "it failed".to_owned(),
        };
        ShardSummary { failures: vec![failure], ..summary(done) }
    }

    fn work(command: &str) -> Work {
        Work { command: command.to_owned(), ..Work::default() }
    }

    fn begin_work(campaign: &Path, number: u32, command: &str) -> Attempt {
        let shard = Shard { number, of: 12 };
        match Attempt::begin(campaign, shard, &work(command)) {
            Ok(Begun::Attempt(attempt)) => attempt,
            other => panic!("{other:?}"),
        }
    }

    fn begin(campaign: &Path, number: u32) -> Attempt {
        begin_work(campaign, number, "harness sim")
    }

    fn names(campaign: &Path) -> Vec<String> {
        let paths = entries(campaign).expect("it is there");
        paths.iter().map(|path| file_name(path).to_owned()).collect()
    }

    #[test]
    fn a_shard_is_whole_or_missing_and_the_first_whole_attempt_counts() {
        let directory = tempfile::tempdir().expect("a directory for the test");
        let campaign = directory.path().join("campaign");
        let killed = begin(&campaign, 3);
        fs::create_dir(killed.store()).expect("the disk has room");
        assert!(names(&campaign).iter().all(|name| name.starts_with(".shard-03-of-12.")));
        // The kernel releases the lock of one that was killed. One that was killed at once has no note, either.
        drop(killed);
        fs::create_dir(campaign.join(".shard-03-of-12.elsewhere.7")).expect("the disk has room");
        let (first, second, other) =
            (begin(&campaign, 3), begin(&campaign, 3), begin(&campaign, 4));
        let counts = first.publish(summary(10)).expect("it is whole");
        assert_eq!((counts.done, counts.shard, counts.of), (10, 3, 12));
        assert_eq!(counts.work.command, "harness sim");
        // What the killed attempts left is gone; what somebody works on, and another shard, is not touched.
        let left = names(&campaign);
        assert_eq!(left.len(), 3, "{left:?}");
        assert!(left[0].starts_with(".shard-03-of-12.") && left[2] == "shard-03-of-12", "{left:?}");
        assert!(left[1].starts_with(".shard-04-of-12."), "{left:?}");
        assert_eq!(second.publish(summary(11)).expect("the other one counts").done, 10);
        other.publish(summary(12)).expect("it is whole");
        assert_eq!(names(&campaign), ["shard-03-of-12", "shard-04-of-12"]);
        let shard = campaign.join("shard-03-of-12");
        assert_eq!(names(&shard), ["summary.json"]);
        let again = Attempt::begin(&campaign, Shard { number: 3, of: 12 }, &work("harness sim"));
        assert!(matches!(again, Ok(Begun::Whole(summary)) if summary.done == 10));
    }

    #[test]
    fn a_slower_attempt_that_found_a_violation_is_kept_and_counts() {
        let directory = tempfile::tempdir().expect("a directory for the test");
        let campaign = directory.path();
        let (fast, slow, last) = (begin(campaign, 1), begin(campaign, 1), begin(campaign, 1));
        fs::create_dir(slow.store()).expect("the disk has room");
        assert_eq!(fast.publish(summary(1)).expect("it is whole").done, 1);
        let counts = slow.publish(invalid(2)).expect("it is worse");
        assert_eq!((counts.done, counts.greatest()), (2, Validity::Invalid));
        let kept = names(campaign).into_iter().find(|name| name.starts_with("shard-01-of-12."));
        assert!(campaign.join(kept.expect("it is kept")).join("runs").is_dir());
        assert_eq!(last.publish(summary(3)).expect("the worst one counts").done, 2);
        assert_eq!(names(campaign).len(), 2, "{:?}", names(campaign));
        let again = Attempt::begin(campaign, Shard { number: 1, of: 12 }, &work("harness sim"));
        assert!(matches!(again, Ok(Begun::Whole(summary)) if summary.done == 2));
        // One that was killed between its summary and its name has found something all the same.
        let (whole, killed) = (begin(campaign, 2), begin(campaign, 2));
        let found = ShardSummary { shard: 2, of: 12, ..invalid(4) };
        write_json(&killed.aside.join(ShardSummary::FILE), &found).expect("the disk has room");
        drop(killed);
        assert_eq!(whole.publish(summary(5)).expect("it is whole").done, 4);
    }

    #[test]
    fn shards_of_other_work_are_refused() {
        let directory = tempfile::tempdir().expect("a directory for the test");
        let campaign = directory.path();
        let other = begin_work(campaign, 3, "harness rules");
        begin(campaign, 3).publish(summary(1)).expect("it is whole");
        let begun = |number, of, command: &str| {
            let begun = Attempt::begin(campaign, Shard { number, of }, &work(command));
            begun.map(drop).map_err(|error| error.to_string())
        };
        for number in [3, 4] {
            let error = begun(number, 12, "harness rules").expect_err("another command");
            assert!(error.contains("was made by `harness sim`"), "{error}");
        }
        begun(4, 12, "harness sim").expect("the same command");
        let error = begun(3, 13, "harness sim").expect_err("another number");
        assert!(error.contains("the campaign has 12 shards, and this is shard 3/13"), "{error}");
        let newer = Work { version: "2".to_owned(), ..work("harness sim") };
        let error = Attempt::begin(campaign, Shard { number: 5, of: 12 }, &newer);
        let error = error.expect_err("another version").to_string();
        assert!(error.contains("not by '2'"), "{error}");
        // What another command has left is not for this one to remove.
        drop(other);
        begin(campaign, 4).publish(summary(1)).expect("it is whole");
        assert!(names(campaign).iter().any(|name| name.starts_with(".shard-03-of-12.")));
        fs::write(campaign.join("shard-03-of-12/summary.json"), "{\"shard\":")
            .expect("the disk has room");
        let error = begun(3, 12, "harness sim").expect_err("a damaged file");
        assert!(error.contains("not the summary of a shard"), "{error}");
    }

    #[test]
    fn a_file_is_replaced_as_a_whole() {
        let directory = tempfile::tempdir().expect("a directory for the test");
        let path = directory.path().join("merged.json");
        write_whole(&path, b"before").expect("the disk has room");
        let before = fs::metadata(&path).expect("it is there").ino();
        write_whole(&path, b"after").expect("the disk has room");
        // It is another file: whoever reads the one that was there is not disturbed.
        assert_ne!(fs::metadata(&path).expect("it is there").ino(), before);
        assert_eq!(names(directory.path()), ["merged.json"]);
        assert!(write_whole(&directory.path().join("none/file"), b"").is_err());
    }
}
