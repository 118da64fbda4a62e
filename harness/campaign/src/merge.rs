//! The shards of a campaign together, as far as they are there.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashSet},
    fs, io,
    path::{Path, PathBuf},
};

use checker::Validity;
use history::Shard;
use serde::{Deserialize, Serialize};

use crate::{
    CampaignError, ShardFailure, ShardSummary,
    attempt::{
        AttemptNote, aside_prefix, entries, file_name, name_of, shard_of, summary_in, write_json,
    },
};

/// The file in the directory of a campaign that says what its shards say together.
pub const MERGED: &str = "merged.json";

/// So many missing shards in a row are told as a range.
const FEW: u64 = 16;

/// What the shards of a campaign say together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Merged {
    /// The greatest verdict. With a shard that is missing, or a reason for doubt, it is at least unknown.
    pub verdict: Validity,
    /// The number of shards.
    pub of: u32,
    /// The commands of the shards, and how many shards each has made. More than one if shards differed. Without a shard,
    /// those of the attempts.
    pub commands: Vec<(String, u32)>,
    /// How much was done, by what is counted.
    pub done: BTreeMap<String, u64>,
    /// What is not valid, by signature: what was found most often comes first.
    pub failures: Vec<FailureGroup>,
    /// The shards that are not there.
    pub missing: Vec<MissingShards>,
    /// Why the shards that are there do not say all that was asked, in sentences.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unknown_because: Vec<String>,
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

/// Shards that are not there, with consecutive numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingShards {
    /// The first number.
    pub first: u32,
    /// The last one.
    pub last: u32,
    /// What is known of them.
    pub why: String,
}

impl MissingShards {
    /// How many they are.
    #[must_use]
    pub fn count(&self) -> u64 {
        u64::from(self.last.saturating_sub(self.first)) + 1
    }
}

/// Reads the shards in the directories of a campaign and merges them. Writes `merged.json` into the first directory.
/// Merging again changes nothing, unless more shards are there.
///
/// # Errors
/// A directory cannot be read or has no shards, or the shards are not those of one campaign.
pub fn merge(directories: &[PathBuf]) -> Result<Merged, CampaignError> {
    let mut found = Found::default();
    for (position, directory) in directories.iter().enumerate() {
        found.add(directory, position == 0)?;
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
    /// By number: the results of a shard, each with its directory from the first directory of the campaign.
    whole: BTreeMap<u32, Vec<(ShardSummary, PathBuf)>>,
    /// By number: attempts that did not complete a shard, in words.
    attempts: BTreeMap<u32, Vec<String>>,
    /// The commands of these attempts.
    attempted: BTreeSet<String>,
}

impl Found {
    /// Adds what is in a directory. The page will be in the first one.
    fn add(&mut self, directory: &Path, is_first: bool) -> Result<(), CampaignError> {
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
                self.add_attempt(shard, &path);
                continue;
            }
            let whole = name_of(shard);
            if name != whole && !name.starts_with(&format!("{whole}.")) {
                continue;
            }
            match summary_in(&path, shard) {
                Ok(Some(summary)) => {
                    let at = if is_first { PathBuf::from(name) } else { absolute(&path) };
                    self.whole.entry(shard.number).or_default().push((summary, at));
                }
                Ok(None) => {}
                Err(error) => {
                    self.attempts.entry(shard.number).or_default().push(error.to_string());
                }
            }
        }
        Ok(())
    }

    fn add_attempt(&mut self, shard: Shard, directory: &Path) {
        let note = AttemptNote::read(directory);
        self.attempts.entry(shard.number).or_default().push(attempt(directory, note.as_ref()));
        self.attempted.extend(note.map(|note| note.command).filter(|text| !text.is_empty()));
    }

    fn merged(mut self, of: u32) -> Merged {
        // Of several results of a shard, the worst counts, and then that of which most was done. The rest of the order
        // is arbitrary, and does not depend on that of the directories.
        for results in self.whole.values_mut() {
            results.sort_by_cached_key(|(summary, at)| {
                let text = serde_json::to_string(summary).unwrap_or_default();
                (Reverse((summary.greatest(), summary.done)), text, at.clone())
            });
        }
        let failures = self.failures();
        let missing = self.missing(of);
        let (commands, unknown_because) = (self.commands(), self.doubts());
        let shards: Vec<ShardSummary> = self
            .whole
            .into_values()
            .filter_map(|results| results.into_iter().next())
            .map(|(summary, _)| summary)
            .collect();
        let mut done: BTreeMap<String, u64> = BTreeMap::new();
        for shard in &shards {
            let total = done.entry(shard.unit.clone()).or_default();
            *total = total.saturating_add(shard.done);
        }
        let is_all = missing.is_empty() && unknown_because.is_empty();
        let least = if is_all { Validity::Valid } else { Validity::Unknown };
        Merged {
            verdict: shards
                .iter()
                .map(ShardSummary::greatest)
                .chain(failures.iter().map(|group| group.verdict))
                .fold(least, Validity::max),
            of,
            commands,
            done,
            failures,
            missing,
            unknown_because,
            seconds: shards.iter().map(|shard| shard.seconds).sum(),
            shards,
        }
    }

    /// Every result of every shard.
    fn results(&self) -> impl Iterator<Item = &(ShardSummary, PathBuf)> {
        self.whole.values().flatten()
    }

    /// The failures of all results: a violation that was seen once was seen. A shard may have several results, and its
    /// directory several copies.
    fn failures(&self) -> Vec<FailureGroup> {
        let mut groups: BTreeMap<String, FailureGroup> = BTreeMap::new();
        let mut seen = HashSet::new();
        for (summary, at) in self.results() {
            for failure in &summary.failures {
                let ShardFailure { verdict, seed, command, why, .. } = failure;
                if !seen.insert((summary.shard, &failure.signature, verdict, seed, command, why)) {
                    continue;
                }
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
        failures.sort_by_key(|group| Reverse((group.verdict, group.failures.len())));
        failures
    }

    /// The commands of the results, the most frequent first, each with the number of its shards.
    fn commands(&self) -> Vec<(String, u32)> {
        let each: BTreeSet<(&str, u32)> = self
            .results()
            .map(|(summary, _)| (summary.work.command.as_str(), summary.shard))
            .collect();
        let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
        for (command, _) in each {
            *counts.entry(command).or_default() += 1;
        }
        if counts.is_empty() {
            counts.extend(self.attempted.iter().map(|command| (command.as_str(), 0)));
        }
        let mut commands: Vec<(String, u32)> =
            counts.into_iter().map(|(command, count)| (command.to_owned(), count)).collect();
        commands.sort_by_key(|(_, count)| Reverse(*count));
        commands
    }

    /// Why the results do not say together what was asked: they are of different work, or something was left out.
    fn doubts(&self) -> Vec<String> {
        let mut doubts = Vec::new();
        if let Some((first, _)) = self.results().next() {
            let different = self.results().find_map(|(summary, _)| {
                Some((summary.shard, summary.work.difference(&first.work)?))
            });
            doubts.extend(different.map(|(shard, difference)| {
                let first = first.shard;
                format!("the shards are not of one work: unlike shard {first}, shard {shard} {difference}")
            }));
        }
        for (summary, _) in self.whole.values().filter_map(|results| results.first()) {
            let ShardSummary { shard, done, planned, unit, .. } = summary;
            if done < planned {
                doubts.push(format!(
                    "shard {shard} stopped after {done} of {planned} {unit}: the others were not done"
                ));
            }
        }
        doubts
    }

    /// The shards that are not there, those of which nothing is known in ranges where they are many.
    fn missing(&self, of: u32) -> Vec<MissingShards> {
        let mut missing = Vec::new();
        let known: BTreeSet<u32> = self.whole.keys().chain(self.attempts.keys()).copied().collect();
        let mut before = 0;
        for number in known {
            missing.extend(never_begun(before + 1, u64::from(number) - 1));
            if !self.whole.contains_key(&number) {
                let attempts = self.attempts.get(&number).map(Vec::as_slice).unwrap_or_default();
                missing.push(MissingShards {
                    first: number,
                    last: number,
                    why: attempts.join("; "),
                });
            }
            before = number.into();
        }
        missing.extend(never_begun(before + 1, of.into()));
        missing
    }
}

/// The shards of a range that nobody has begun: few of them one by one, so that each has its command.
fn never_begun(first: u64, last: u64) -> Vec<MissingShards> {
    let why = || "never begun".to_owned();
    let number = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    if last >= first + FEW {
        return vec![MissingShards { first: number(first), last: number(last), why: why() }];
    }
    let each = (first..=last).map(number);
    each.map(|number| MissingShards { first: number, last: number, why: why() }).collect()
}

impl Merged {
    /// The shard with this number, for a command line.
    #[must_use]
    pub fn shard(&self, number: u32) -> String {
        Shard { number, of: self.of }.to_string()
    }
}

/// What an attempt that did not complete its shard says.
fn attempt(directory: &Path, note: Option<&AttemptNote>) -> String {
    match note {
        Some(AttemptNote { host, failed: Some(why), .. }) => format!("failed on {host}: {why}"),
        Some(AttemptNote { host, process, failed: None, .. }) => {
            format!("begun on {host} by process {process}, and running or killed")
        }
        None => format!("begun, and killed at once: {}", directory.display()),
    }
}

fn absolute(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Attempt, Begun, Work, attempt::write_whole};

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
        let work = Work { command: "harness sim".to_owned(), ..Work::default() };
        match Attempt::begin(campaign, Shard { number, of }, &work) {
            Ok(Begun::Attempt(attempt)) => attempt,
            other => panic!("{other:?}"),
        }
    }

    fn summary(failures: Vec<ShardFailure>) -> ShardSummary {
        ShardSummary {
            shard: 0,
            of: 0,
            work: Work::default(),
            verdict: failures.iter().map(|one| one.verdict).max().unwrap_or(Validity::Valid),
            done: 10,
            planned: 10,
            unit: "seeds".to_owned(),
            failures,
            seconds: 1.0,
            host: String::new(),
        }
    }

    fn publish(campaign: &Path, number: u32, failures: Vec<ShardFailure>) {
        attempt_of(campaign, number, 5).publish(summary(failures)).expect("the disk has room");
    }

    /// Writes a summary as it is into the directory of its shard.
    fn forge(campaign: &Path, summary: &ShardSummary) {
        let shard = summary.shard().expect("a shard");
        let path = campaign.join(name_of(shard));
        fs::create_dir_all(&path).expect("the disk has room");
        write_json(&path.join(ShardSummary::FILE), summary).expect("the disk has room");
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
            merged.missing.iter().map(|one| (one.first, one.why.as_str())).collect();
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
        assert_eq!((merged.verdict, merged.missing[0].first), (Validity::Unknown, 3));
        assert!(merged.missing[0].why.contains("not the summary of a shard"), "{merged:?}");
    }

    #[test]
    fn the_order_of_directories_does_not_matter_and_every_failure_is_told() {
        use Validity::{Invalid, Unknown, Valid};
        let directory = tempfile::tempdir().expect("a directory for the test");
        let (one, two) = (directory.path().join("one"), directory.path().join("two"));
        let empty = directory.path().join("empty");
        fs::create_dir(&empty).expect("the disk has room");
        for number in 1..=5 {
            publish(&one, number, vec![]);
        }
        // Of one shard: valid by its word but with a violation; and unknown, with something else.
        let lists = ShardSummary { verdict: Valid, ..summary(vec![failure("AC1", 7, Invalid)]) };
        forge(&one, &ShardSummary { shard: 2, of: 5, ..lists });
        let unknown = summary(vec![failure("slow", 8, Unknown)]);
        let work = Work { command: "harness sim".to_owned(), ..Work::default() };
        forge(&two, &ShardSummary { shard: 2, of: 5, work, ..unknown });
        let merged_in = |order: [&Path; 3]| {
            let merged = merge(&order.map(Path::to_path_buf)).expect("they are of one campaign");
            let signatures: Vec<String> =
                merged.failures.iter().map(|group| group.signature.clone()).collect();
            (merged.verdict, signatures, merged.shards.clone(), merged.done.clone())
        };
        let merged = merged_in([&one, &two, &empty]);
        assert_eq!(
            (merged.0, &merged.1[..]),
            (Invalid, &["AC1".to_owned(), "slow".to_owned()][..])
        );
        assert_eq!(merged_in([&two, &empty, &one]), merged);
        // Copies of a directory say nothing more.
        assert_eq!(merged_in([&one, &one, &two]), merged);
        // Records are named from the first directory, where the page is.
        let merged = merge(&[empty.clone(), one.clone()]).expect("they are of one campaign");
        let record = merged.failures[0].failures[0].record.clone().expect("a record");
        assert!(empty.join(&record).starts_with(one.canonicalize().expect("it is there")));
    }

    #[test]
    fn shards_of_different_work_and_shards_that_stopped_early_are_unknown() {
        let directory = tempfile::tempdir().expect("a directory for the test");
        let all = [directory.path().to_owned()];
        for number in 1..=5 {
            publish(directory.path(), number, vec![]);
        }
        assert_eq!(merge(&all).expect("all are there").verdict, Validity::Valid);
        let work = |command: &str, version: &str| Work {
            command: command.to_owned(),
            version: version.to_owned(),
            ..Work::default()
        };
        let of = |shard, work| ShardSummary { shard, of: 5, work, ..summary(vec![]) };
        forge(directory.path(), &of(2, work("harness sim --commit votes", "")));
        let merged = merge(&all).expect("all are there");
        let why = "unlike shard 1, shard 2 was made by `harness sim --commit votes`";
        assert_eq!((merged.verdict, merged.commands.len()), (Validity::Unknown, 2));
        assert!(merged.unknown_because[0].ends_with(why), "{merged:?}");
        forge(directory.path(), &of(2, work("harness sim", "2")));
        assert_eq!(merge(&all).expect("all are there").verdict, Validity::Unknown);
        let early = ShardSummary { planned: 20, ..of(2, work("harness sim", "")) };
        forge(directory.path(), &early);
        let merged = merge(&all).expect("all are there");
        assert_eq!(merged.verdict, Validity::Unknown);
        assert_eq!(
            merged.unknown_because,
            ["shard 2 stopped after 10 of 20 seeds: the others were not done"]
        );
    }

    #[test]
    fn numbers_of_any_size_are_merged() {
        let directory = tempfile::tempdir().expect("a directory for the test");
        let all = [directory.path().to_owned()];
        attempt_of(directory.path(), 99, u32::MAX).fail("it had to");
        for shard in [1, 3] {
            let much = ShardSummary { done: u64::MAX - 1, ..summary(vec![]) };
            forge(directory.path(), &ShardSummary { shard, of: u32::MAX, ..much });
        }
        let merged = merge(&all).expect("they are of one campaign");
        assert_eq!(merged.done["seeds"], u64::MAX);
        let missing: Vec<(u32, u32)> =
            merged.missing.iter().map(|one| (one.first, one.last)).collect();
        assert_eq!(missing, [(2, 2), (4, 98), (99, 99), (100, u32::MAX)]);
        let count: u64 = merged.missing.iter().map(MissingShards::count).sum();
        assert_eq!(count, u64::from(u32::MAX) - 2);
    }

    #[test]
    fn without_a_shard_the_command_is_that_of_the_attempts() {
        let directory = tempfile::tempdir().expect("a directory for the test");
        attempt_of(directory.path(), 1, 2).fail("the disk is full");
        let merged = merge(&[directory.path().to_owned()]).expect("an attempt is there");
        assert_eq!(merged.commands, [("harness sim".to_owned(), 0)]);
        assert_eq!((merged.verdict, merged.missing.len()), (Validity::Unknown, 2));
        // One of an earlier version, and one that is damaged, have none.
        let path = directory.path().join(".shard-2-of-2.elsewhere.7");
        fs::create_dir(&path).expect("the disk has room");
        write_whole(&path.join("attempt.json"), br#"{"host":"elsewhere","process":7}"#)
            .expect("the disk has room");
        let merged = merge(&[directory.path().to_owned()]).expect("an attempt is there");
        assert_eq!(merged.commands.len(), 1);
        assert!(merged.missing[1].why.starts_with("begun on elsewhere"), "{merged:?}");
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
