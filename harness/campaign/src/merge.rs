//! The shards of a campaign together, as far as they are there.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use checker::Validity;
use history::Shard;
use serde::{Deserialize, Serialize};

use crate::{
    CampaignError, ShardFailure, ShardSummary,
    attempt::{AttemptNote, aside_prefix, entries, file_name, published, shard_of, write_json},
};

/// The file in the directory of a campaign that says what its shards say together.
pub const MERGED: &str = "merged.json";

/// What the shards of a campaign say together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Merged {
    /// The greatest verdict. With a shard that is missing it is at least unknown.
    pub verdict: Validity,
    /// The number of shards.
    pub of: u32,
    /// The commands of the shards, and how many shards each has made. More than one if shards differed.
    pub commands: Vec<(String, u32)>,
    /// How much was done, by what is counted.
    pub done: BTreeMap<String, u64>,
    /// What is not valid, by signature: what was found most often comes first.
    pub failures: Vec<FailureGroup>,
    /// The shards that are not there.
    pub missing: Vec<MissingShard>,
    /// How long the shards took together.
    pub seconds: f64,
    /// The shards, by number.
    pub shards: Vec<ShardSummary>,
}

/// Failures that are alike.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FailureGroup {
    /// What they have in common.
    pub signature: String,
    /// The greatest verdict.
    pub verdict: Validity,
    /// The failures, each with the shard that found it. By seed, then by shard.
    pub failures: Vec<FoundFailure>,
}

/// A failure, and where it was found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FoundFailure {
    /// The number of the shard.
    pub shard: u32,
    /// The directory of its record, from where the merged page is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<PathBuf>,
    /// What was found.
    #[serde(flatten)]
    pub failure: ShardFailure,
}

/// A shard that is not there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingShard {
    /// Its number.
    pub shard: u32,
    /// What is known of it.
    pub why: String,
}

/// Reads the shards in the directories of a campaign and merges them. Writes `merged.json` into the first directory.
/// Merging again changes nothing, unless more shards are there.
///
/// # Errors
/// A directory cannot be read or has no shards, or the shards are not those of one campaign.
pub fn merge(directories: &[PathBuf]) -> Result<Merged, CampaignError> {
    let mut found = Found::default();
    for directory in directories {
        found.add(directory)?;
    }
    let Some((of, _)) = found.of else {
        let names: Vec<String> =
            directories.iter().map(|directory| directory.display().to_string()).collect();
        return Err(CampaignError::Refused(format!(
            "{}: no shard of a campaign is there: expected directories such as shard-1-of-4",
            names.join(", ")
        )));
    };
    let merged = found.merged(of);
    if let Some(first) = directories.first() {
        write_json(&first.join(MERGED), &merged)?;
    }
    Ok(merged)
}

/// The seeds that failed in a campaign that was merged, ascending.
///
/// # Errors
/// The campaign was not merged, or what was written then cannot be read.
pub fn failed_seeds(campaign: &Path) -> Result<Vec<u64>, CampaignError> {
    let path = campaign.join(MERGED);
    let text = fs::read(&path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => CampaignError::Refused(format!(
            "{} is not there: `harness merge {}` writes it",
            path.display(),
            campaign.display()
        )),
        _ => CampaignError::file(&path)(error),
    })?;
    let merged: Merged = serde_json::from_slice(&text).map_err(|error| {
        CampaignError::Refused(format!("{}: not a merged campaign: {error}", path.display()))
    })?;
    let failures = merged.failures.iter().flat_map(|group| &group.failures);
    let mut seeds: Vec<u64> = failures.filter_map(|found| found.failure.seed).collect();
    seeds.sort_unstable();
    seeds.dedup();
    Ok(seeds)
}

/// What is in the directories.
#[derive(Default)]
struct Found {
    /// The number of shards, and the directory that says so.
    of: Option<(u32, PathBuf)>,
    /// By number: a shard that is whole, and its directory from the first directory of the campaign.
    whole: BTreeMap<u32, (ShardSummary, PathBuf)>,
    /// By number: attempts that did not complete a shard, in words.
    attempts: BTreeMap<u32, Vec<String>>,
}

impl Found {
    fn add(&mut self, directory: &Path) -> Result<(), CampaignError> {
        let is_first = self.of.is_none();
        for path in entries(directory)? {
            let name = file_name(&path);
            let Some(shard) = shard_of(name.trim_start_matches('.')) else { continue };
            match &self.of {
                Some((of, other)) if *of != shard.of => {
                    return Err(CampaignError::Refused(format!(
                        "{} has shards of {of}, and {} is one of {}: they are not of one campaign",
                        other.display(),
                        path.display(),
                        shard.of
                    )));
                }
                Some(_) => {}
                None => self.of = Some((shard.of, directory.to_owned())),
            }
            if name.starts_with(&aside_prefix(shard)) {
                self.attempts.entry(shard.number).or_default().push(attempt(&path));
                continue;
            }
            match published(directory, shard) {
                Ok(Some(summary)) => {
                    // From the first directory, which has the page.
                    let at = if is_first { PathBuf::from(name) } else { absolute(&path) };
                    self.add_whole(summary, at);
                }
                Ok(None) => {}
                Err(error) => {
                    self.attempts.entry(shard.number).or_default().push(error.to_string());
                }
            }
        }
        Ok(())
    }

    /// Adds a shard. Of two results for one shard the greater verdict counts: a violation that was seen once was seen.
    fn add_whole(&mut self, summary: ShardSummary, at: PathBuf) {
        let known = self.whole.get(&summary.shard);
        if known.is_none_or(|(known, _)| known.verdict < summary.verdict) {
            self.whole.insert(summary.shard, (summary, at));
        }
    }

    fn merged(mut self, of: u32) -> Merged {
        let mut groups: BTreeMap<String, FailureGroup> = BTreeMap::new();
        let mut commands: BTreeMap<String, u32> = BTreeMap::new();
        let mut done: BTreeMap<String, u64> = BTreeMap::new();
        for (summary, at) in self.whole.values() {
            *commands.entry(summary.command.clone()).or_default() += 1;
            *done.entry(summary.unit.clone()).or_default() += summary.done;
            for failure in &summary.failures {
                let signature = &failure.signature;
                let group = groups.entry(signature.clone()).or_insert_with(|| FailureGroup {
                    signature: signature.clone(),
                    verdict: failure.verdict,
                    failures: Vec::new(),
                });
                group.verdict = group.verdict.max(failure.verdict);
                group.failures.push(FoundFailure {
                    shard: summary.shard,
                    record: failure.directory.as_ref().map(|directory| at.join(directory)),
                    failure: failure.clone(),
                });
            }
        }
        let mut failures: Vec<FailureGroup> = groups.into_values().collect();
        for group in &mut failures {
            group.failures.sort_by_key(|found| (found.failure.seed, found.shard));
        }
        failures.sort_by_key(|group| std::cmp::Reverse((group.verdict, group.failures.len())));
        let missing: Vec<MissingShard> = (1..=of)
            .filter(|number| !self.whole.contains_key(number))
            .map(|shard| {
                let attempts = self.attempts.remove(&shard).unwrap_or_default();
                let why = match attempts.is_empty() {
                    true => "never begun".to_owned(),
                    false => attempts.join("; "),
                };
                MissingShard { shard, why }
            })
            .collect();
        let shards: Vec<ShardSummary> =
            self.whole.into_values().map(|(summary, _)| summary).collect();
        let least = if missing.is_empty() { Validity::Valid } else { Validity::Unknown };
        let mut commands: Vec<(String, u32)> = commands.into_iter().collect();
        commands.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        Merged {
            // A summary is believed no better than the failures that it lists.
            verdict: shards
                .iter()
                .map(|shard| shard.verdict)
                .chain(failures.iter().map(|group| group.verdict))
                .fold(least, Validity::max),
            of,
            commands,
            done,
            failures,
            missing,
            seconds: shards.iter().map(|shard| shard.seconds).sum(),
            shards,
        }
    }
}

impl Merged {
    /// The shard with this number, for a command line.
    #[must_use]
    pub fn shard(&self, number: u32) -> String {
        Shard { number, of: self.of }.to_string()
    }
}

/// What an attempt that did not complete its shard says.
fn attempt(directory: &Path) -> String {
    let note = fs::read(directory.join(AttemptNote::FILE)).map_err(drop);
    let note = note.and_then(|text| serde_json::from_slice::<AttemptNote>(&text).map_err(drop));
    match note {
        Ok(AttemptNote { host, failed: Some(why), .. }) => format!("failed on {host}: {why}"),
        Ok(AttemptNote { host, process, failed: None }) => {
            format!("begun on {host} by process {process}, and running or killed")
        }
        Err(()) => format!("begun, and killed at once: {}", directory.display()),
    }
}

fn absolute(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Attempt, Begun};

    fn failure(signature: &str, seed: u64, verdict: Validity) -> ShardFailure {
        ShardFailure {
            signature: signature.to_owned(),
            verdict,
            seed: Some(seed),
            command: format!("harness sim --seeds {seed}..{}", seed + 1),
            directory: Some("runs/sim/1".into()),
            why: "it failed".to_owned(),
        }
    }

    fn attempt_of(campaign: &Path, number: u32, of: u32) -> Attempt {
        match Attempt::begin(campaign, Shard { number, of }, "harness sim") {
            Ok(Begun::Attempt(attempt)) => attempt,
            other => panic!("{other:?}"),
        }
    }

    fn publish(campaign: &Path, number: u32, failures: Vec<ShardFailure>) {
        let summary = ShardSummary {
            shard: 0,
            of: 0,
            command: String::new(),
            verdict: failures.iter().map(|one| one.verdict).max().unwrap_or(Validity::Valid),
            done: 10,
            unit: "seeds".to_owned(),
            failures,
            seconds: 1.0,
            host: String::new(),
        };
        attempt_of(campaign, number, 5).publish(summary).expect("the disk has room");
    }

    #[test]
    fn shards_are_merged_as_far_as_they_are_there_and_again() {
        use Validity::{Invalid, Unknown};
        let directory = tempfile::tempdir().expect("a directory for the test");
        let campaign = directory.path().join("one");
        publish(&campaign, 1, vec![]);
        publish(&campaign, 2, vec![failure("AC1", 27, Invalid), failure("R1", 29, Invalid)]);
        publish(&campaign, 4, vec![failure("AC1", 3, Invalid), failure("slow", 4, Unknown)]);
        attempt_of(&campaign, 3, 5).fail("no space is left");
        let all = [campaign.clone()];
        let merged = merge(&all).expect("they are of one campaign");
        let groups: Vec<(&str, Vec<Option<u64>>)> = merged
            .failures
            .iter()
            .map(|group| {
                let seeds = group.failures.iter().map(|found| found.failure.seed).collect();
                (group.signature.as_str(), seeds)
            })
            .collect();
        let expected =
            [("AC1", vec![Some(3), Some(27)]), ("R1", vec![Some(29)]), ("slow", vec![Some(4)])];
        assert_eq!(groups, expected);
        assert_eq!((merged.verdict, merged.done["seeds"], merged.of), (Invalid, 30, 5));
        assert_eq!(merged.commands, [("harness sim".to_owned(), 3)]);
        let record = merged.failures[1].failures[0].record.as_deref();
        assert_eq!(record, Some(Path::new("shard-2-of-5/runs/sim/1")));
        let missing: Vec<(u32, &str)> =
            merged.missing.iter().map(|one| (one.shard, one.why.as_str())).collect();
        assert_eq!((missing[0].0, missing[1]), (3, (5, "never begun")));
        assert!(
            missing[0].1.starts_with("failed on ") && missing[0].1.ends_with("no space is left")
        );
        assert_eq!(failed_seeds(&campaign).expect("it was merged"), [3, 4, 27, 29]);

        // Again, and with the rest from another machine, of which one shard is known.
        let written = || fs::read(campaign.join(MERGED)).expect("it was written");
        let before = written();
        assert_eq!(merge(&all).expect("nothing changed"), merged);
        assert_eq!(written(), before);
        let other = directory.path().join("two");
        publish(&other, 3, vec![]);
        publish(&other, 1, vec![]);
        let both = merge(&[campaign.clone(), other.clone()]).expect("they are of one campaign");
        assert_eq!(both.missing.len(), 1, "{:?}", both.missing);
        assert_eq!((both.shards.len(), both.done["seeds"]), (4, 40));
        publish(&other, 5, vec![]);
        let both = merge(&[campaign, other]).expect("they are of one campaign");
        assert_eq!((both.missing.len(), both.verdict), (0, Invalid));
    }

    #[test]
    fn a_missing_shard_is_no_valid_one() {
        let directory = tempfile::tempdir().expect("a directory for the test");
        publish(directory.path(), 2, vec![]);
        let all = [directory.path().to_owned()];
        assert_eq!(merge(&all).expect("one is there").verdict, Validity::Unknown);
        for number in [1, 3, 4, 5] {
            publish(directory.path(), number, vec![]);
        }
        assert_eq!(merge(&all).expect("all are there").verdict, Validity::Valid);
        // One that lists a violation is not valid, whatever it says of itself.
        let path = directory.path().join("shard-2-of-5/summary.json");
        let text = fs::read_to_string(&path).expect("it is there");
        let mut summary: ShardSummary = serde_json::from_str(&text).expect("JSON");
        summary.failures.push(failure("AC1", 7, Validity::Invalid));
        let forged = serde_json::to_string(&summary).expect("JSON");
        fs::write(&path, forged).expect("there is room");
        assert_eq!(merge(&all).expect("all are there").verdict, Validity::Invalid);
        fs::write(&path, text).expect("there is room");
        // One whose summary cannot be read is missing, and named.
        fs::write(directory.path().join("shard-3-of-5/summary.json"), "").expect("there is room");
        let merged = merge(&all).expect("the others are there");
        assert_eq!((merged.verdict, merged.missing[0].shard), (Validity::Unknown, 3));
        assert!(merged.missing[0].why.contains("not the summary of a shard"), "{merged:?}");
    }

    #[test]
    fn what_is_no_campaign_is_refused() {
        let directory = tempfile::tempdir().expect("a directory for the test");
        let error = |all: &[&Path]| {
            let all: Vec<PathBuf> = all.iter().map(|path| path.to_path_buf()).collect();
            merge(&all).expect_err("no campaign").to_string()
        };
        let (one, two) = (directory.path().join("one"), directory.path().join("two"));
        assert!(error(&[&one]).starts_with(&one.display().to_string()));
        assert!(error(&[directory.path()]).contains("no shard of a campaign is there"));
        publish(&one, 1, vec![]);
        attempt_of(&two, 1, 6).fail("it had to");
        let text = error(&[&one, &two]);
        assert!(text.contains("has shards of 5") && text.contains("is one of 6"), "{text}");
        let text = failed_seeds(&one).expect_err("not merged").to_string();
        assert!(text.contains("`harness merge "), "{text}");
    }
}
