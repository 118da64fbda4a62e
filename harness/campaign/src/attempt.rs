//! One try to do a shard, and the directory that it writes.
//!
//! `CAMPAIGN/shard-007-of-100/` holds a shard that is whole: `summary.json`, and what it keeps in `runs/`. Until then
//! the attempt writes into `CAMPAIGN/.shard-007-of-100.HOST.PID/`, which a killed attempt leaves behind; the one that
//! completes the shard removes it.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    process,
};

use history::Shard;
use serde::{Deserialize, Serialize};

use crate::{CampaignError, ShardSummary};

/// The description of an attempt in its directory, for who finds only that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AttemptNote {
    pub(crate) host: String,
    pub(crate) process: u32,
    /// Why it failed, if it could still say so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) failed: Option<String>,
}

impl AttemptNote {
    pub(crate) const FILE: &str = "attempt.json";

    fn new(failed: Option<String>) -> AttemptNote {
        AttemptNote { host: host(), process: process::id(), failed }
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
    command: String,
    aside: PathBuf,
}

impl Attempt {
    /// Begins to do a shard of the campaign in a directory, which is created if it does not exist.
    ///
    /// # Errors
    /// The directory cannot be used, or holds shards of other work.
    pub fn begin(campaign: &Path, shard: Shard, command: &str) -> Result<Begun, CampaignError> {
        fs::create_dir_all(campaign).map_err(CampaignError::file(campaign))?;
        require_same_count(campaign, shard)?;
        if let Some(summary) = published(campaign, shard)? {
            if summary.command == command {
                return Ok(Begun::Whole(summary));
            }
            return Err(CampaignError::Refused(format!(
                "{} was made by `{}`: name another directory with --campaign",
                campaign.join(name_of(shard)).display(),
                summary.command
            )));
        }
        let mut attempt = Attempt {
            campaign: campaign.to_owned(),
            shard,
            command: command.to_owned(),
            aside: campaign.join(format!("{}{}.{}", aside_prefix(shard), host(), process::id())),
        };
        // A container has the same process number when it is started again.
        let mut again = 1;
        let first = attempt.aside.clone();
        while let Err(error) = fs::create_dir(&attempt.aside) {
            if error.kind() != io::ErrorKind::AlreadyExists {
                return Err(CampaignError::file(&attempt.aside)(error));
            }
            again += 1;
            attempt.aside = PathBuf::from(format!("{}.{again}", first.display()));
        }
        attempt.note(None)?;
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
    /// is that of another attempt if one was faster.
    ///
    /// # Errors
    /// The summary cannot be written, or the directory cannot be renamed.
    pub fn publish(self, summary: ShardSummary) -> Result<ShardSummary, CampaignError> {
        let summary = ShardSummary {
            shard: self.shard.number,
            of: self.shard.of,
            command: self.command.clone(),
            host: host(),
            ..summary
        };
        write_json(&self.aside.join(ShardSummary::FILE), &summary)?;
        let note = self.aside.join(AttemptNote::FILE);
        fs::remove_file(&note).map_err(CampaignError::file(&note))?;
        let whole = self.campaign.join(name_of(self.shard));
        let counts = match fs::rename(&self.aside, &whole) {
            Ok(()) => summary,
            Err(error) => match published(&self.campaign, self.shard)? {
                Some(faster) => faster,
                None => return Err(CampaignError::file(&whole)(error)),
            },
        };
        // The name is durable once its directory is.
        let synced = File::open(&self.campaign).and_then(|directory| directory.sync_all());
        synced.map_err(CampaignError::file(&self.campaign))?;
        self.remove_others()?;
        Ok(counts)
    }

    /// Leaves a note on why there is no shard.
    pub fn fail(self, why: &str) {
        // The attempt failed, and perhaps because nothing can be written: that is told anyway.
        let _ = self.note(Some(why.to_owned()));
    }

    fn note(&self, failed: Option<String>) -> Result<(), CampaignError> {
        write_json(&self.aside.join(AttemptNote::FILE), &AttemptNote::new(failed))
    }

    /// Removes what attempts that were killed have left.
    fn remove_others(&self) -> Result<(), CampaignError> {
        for path in entries(&self.campaign)? {
            if file_name(&path).starts_with(&aside_prefix(self.shard)) {
                fs::remove_dir_all(&path).map_err(CampaignError::file(&path))?;
            }
        }
        Ok(())
    }
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

/// The summary of a shard that is whole.
pub(crate) fn published(
    campaign: &Path,
    shard: Shard,
) -> Result<Option<ShardSummary>, CampaignError> {
    let directory = campaign.join(name_of(shard));
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
    let write = || -> io::Result<()> {
        let mut text = serde_json::to_vec(value)?;
        text.push(b'\n');
        let mut file = File::create(path)?;
        file.write_all(&text)?;
        file.sync_all()
    };
    write().map_err(CampaignError::file(path))
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

    fn summary(done: u64) -> ShardSummary {
        ShardSummary {
            shard: 0,
            of: 0,
            command: String::new(),
            verdict: Validity::Valid,
            done,
            unit: "seeds".to_owned(),
            failures: Vec::new(),
            seconds: 0.5,
            host: String::new(),
        }
    }

    fn begin(campaign: &Path, number: u32) -> Attempt {
        let shard = Shard { number, of: 12 };
        match Attempt::begin(campaign, shard, "harness sim") {
            Ok(Begun::Attempt(attempt)) => attempt,
            other => panic!("{other:?}"),
        }
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
        let (first, second, other) =
            (begin(&campaign, 3), begin(&campaign, 3), begin(&campaign, 4));
        let counts = first.publish(summary(10)).expect("it is whole");
        assert_eq!((counts.done, counts.shard, counts.of), (10, 3, 12));
        assert_eq!(counts.command, "harness sim");
        // What the killed attempt left is gone, and with it the slower one; the other shard is not touched.
        let left = names(&campaign);
        assert_eq!(left.len(), 2, "{left:?}");
        assert!(left[0].starts_with(".shard-04-of-12.") && left[1] == "shard-03-of-12", "{left:?}");
        let error = second.publish(summary(11)).expect_err("its directory was removed");
        assert!(matches!(error, CampaignError::File { .. }), "{error}");
        other.publish(summary(12)).expect("it is whole");
        let again = Attempt::begin(&campaign, Shard { number: 3, of: 12 }, "harness sim");
        assert!(matches!(again, Ok(Begun::Whole(summary)) if summary.done == 10));
    }

    #[test]
    fn a_slower_attempt_learns_what_counts() {
        let directory = tempfile::tempdir().expect("a directory for the test");
        let (fast, slow) = (begin(directory.path(), 1), begin(directory.path(), 1));
        // The fast one has just been renamed, and has removed nothing yet.
        write_json(
            &fast.aside.join(ShardSummary::FILE),
            &ShardSummary { shard: 1, of: 12, ..summary(1) },
        )
        .expect("the disk has room");
        fs::rename(&fast.aside, directory.path().join("shard-01-of-12")).expect("it is free");
        assert_eq!(slow.publish(summary(2)).expect("the other one counts").done, 1);
        assert_eq!(names(directory.path()), ["shard-01-of-12"]);
    }

    #[test]
    fn shards_of_other_work_are_refused() {
        let directory = tempfile::tempdir().expect("a directory for the test");
        begin(directory.path(), 3).publish(summary(1)).expect("it is whole");
        let begun = |number, of, command: &str| {
            let begun = Attempt::begin(directory.path(), Shard { number, of }, command);
            begun.map(drop).map_err(|error| error.to_string())
        };
        let error = begun(3, 12, "harness rules").expect_err("another command");
        assert!(error.contains("was made by `harness sim`"), "{error}");
        let error = begun(3, 13, "harness sim").expect_err("another number");
        assert!(error.contains("the campaign has 12 shards, and this is shard 3/13"), "{error}");
        fs::write(directory.path().join("shard-03-of-12/summary.json"), "{\"shard\":")
            .expect("the disk has room");
        let error = begun(3, 12, "harness sim").expect_err("a damaged file");
        assert!(error.contains("not the summary of a shard"), "{error}");
    }
}
