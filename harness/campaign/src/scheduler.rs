//! Which shard this process is to do, as schedulers say it in the environment of each task.
//!
//! | scheduler | index of the task | first index | number of tasks |
//! |---|---|---|---|
//! | Slurm job array | `SLURM_ARRAY_TASK_ID` | `SLURM_ARRAY_TASK_MIN`, in steps of `SLURM_ARRAY_TASK_STEP` | `SLURM_ARRAY_TASK_COUNT` |
//! | Kubernetes indexed job | `JOB_COMPLETION_INDEX` | 0 | `HARNESS_SHARDS` |
//! | AWS Batch array job | `AWS_BATCH_JOB_ARRAY_INDEX` | 0 | `AWS_BATCH_JOB_ARRAY_SIZE` |
//! | GNU parallel | `PARALLEL_SEQ` | 1 | `HARNESS_SHARDS` |

use history::Shard;

use crate::CampaignError;

/// The number of shards, where the scheduler does not say it.
const SHARDS: &str = "HARNESS_SHARDS";

/// What a scheduler says in the environment.
struct Scheduler {
    name: &'static str,
    index: &'static str,
    first: First,
    count: &'static str,
}

/// The index of the first task.
enum First {
    Number(u64),
    /// In this variable; the distance between two indices is in the other, 1 where that is not set.
    Variable(&'static str, &'static str),
}

const SCHEDULERS: [Scheduler; 4] = [
    Scheduler {
        name: "Slurm",
        index: "SLURM_ARRAY_TASK_ID",
        first: First::Variable("SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_STEP"),
        count: "SLURM_ARRAY_TASK_COUNT",
    },
    Scheduler {
        name: "Kubernetes",
        index: "JOB_COMPLETION_INDEX",
        first: First::Number(0),
        count: SHARDS,
    },
    Scheduler {
        name: "AWS Batch",
        index: "AWS_BATCH_JOB_ARRAY_INDEX",
        first: First::Number(0),
        count: "AWS_BATCH_JOB_ARRAY_SIZE",
    },
    Scheduler {
        name: "GNU parallel",
        index: "PARALLEL_SEQ",
        first: First::Number(1),
        count: SHARDS,
    },
];

/// The names of the variables that hold an index, for messages.
#[must_use]
pub fn index_variables() -> Vec<&'static str> {
    SCHEDULERS.iter().map(|scheduler| scheduler.index).collect()
}

/// The shard that a scheduler asks for; `None` if none does. `variable` looks up the environment.
///
/// # Errors
/// A scheduler says something that is no shard, or two schedulers contradict each other; in words.
pub fn shard(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Shard>, CampaignError> {
    let mut found: Option<(&Scheduler, Shard)> = None;
    for scheduler in SCHEDULERS.iter().filter(|scheduler| variable(scheduler.index).is_some()) {
        let shard = scheduler.shard(&variable)?;
        match found {
            Some((other, another)) if another != shard => {
                return Err(CampaignError::Refused(format!(
                    "{} says shard {another} and {} says shard {shard}: give --shard I/N",
                    other.name, scheduler.name
                )));
            }
            _ => found = Some((scheduler, shard)),
        }
    }
    Ok(found.map(|(_, shard)| shard))
}

impl Scheduler {
    fn shard(&self, variable: &impl Fn(&str) -> Option<String>) -> Result<Shard, CampaignError> {
        let number = |name: &str| {
            let text = variable(name).ok_or_else(|| {
                let index = variable(self.index).unwrap_or_default();
                CampaignError::Refused(format!(
                    "{} says {}={index}, and {name} is not set: set it, or give --shard I/N",
                    self.name, self.index
                ))
            })?;
            text.trim().parse::<u64>().map_err(|_| {
                CampaignError::Refused(format!("{name}={text}: expected a number, at least 0"))
            })
        };
        let (index, count) = (number(self.index)?, number(self.count)?);
        let (first, step) = match self.first {
            First::Number(first) => (first, 1),
            First::Variable(first, step) if variable(step).is_some() => {
                (number(first)?, number(step)?)
            }
            First::Variable(first, _) => (number(first)?, 1),
        };
        let position = || {
            let offset = index.checked_sub(first)?;
            let is_in_step = step > 0 && offset % step == 0;
            let position = is_in_step.then(|| offset / step)?;
            Shard::new(u32::try_from(position).ok()?.checked_add(1)?, u32::try_from(count).ok()?)
        };
        position().ok_or_else(|| {
            CampaignError::Refused(format!(
                "{} says {}={index}, which is none of {count} indices from {first} in steps of {step}: use an array \
                 without gaps, or give --shard I/N",
                self.name, self.index
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard_of(variables: &str) -> Result<Option<String>, String> {
        let variables: Vec<(&str, &str)> =
            variables.split_whitespace().filter_map(|one| one.split_once('=')).collect();
        let variable = |name: &str| {
            let found = variables.iter().find(|(one, _)| *one == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let shard = shard(variable).map_err(|error| error.to_string())?;
        Ok(shard.map(|shard| shard.to_string()))
    }

    #[test]
    fn every_scheduler_says_which_shard_it_is() {
        for (variables, shard) in [
            ("SLURM_ARRAY_TASK_ID=7 SLURM_ARRAY_TASK_MIN=1 SLURM_ARRAY_TASK_COUNT=100", "7/100"),
            ("SLURM_ARRAY_TASK_ID=0 SLURM_ARRAY_TASK_MIN=0 SLURM_ARRAY_TASK_COUNT=4", "1/4"),
            (
                "SLURM_ARRAY_TASK_ID=18 SLURM_ARRAY_TASK_MIN=10 SLURM_ARRAY_TASK_COUNT=3 \
                 SLURM_ARRAY_TASK_STEP=4",
                "3/3",
            ),
            ("JOB_COMPLETION_INDEX=0 HARNESS_SHARDS=100", "1/100"),
            ("JOB_COMPLETION_INDEX=99 HARNESS_SHARDS=100", "100/100"),
            ("AWS_BATCH_JOB_ARRAY_INDEX=3 AWS_BATCH_JOB_ARRAY_SIZE=5", "4/5"),
            ("PARALLEL_SEQ=1 HARNESS_SHARDS=10", "1/10"),
            // Two that agree.
            ("PARALLEL_SEQ=2 JOB_COMPLETION_INDEX=1 HARNESS_SHARDS=10", "2/10"),
        ] {
            assert_eq!(shard_of(variables), Ok(Some(shard.to_owned())), "{variables}");
        }
        assert_eq!(shard_of("HARNESS_SHARDS=3"), Ok(None));
    }

    #[test]
    fn what_is_no_shard_is_refused_with_the_variable() {
        for (variables, reason) in [
            ("PARALLEL_SEQ=3", "HARNESS_SHARDS is not set"),
            (
                "PARALLEL_SEQ=0 HARNESS_SHARDS=3",
                "PARALLEL_SEQ=0, which is none of 3 indices from 1",
            ),
            ("JOB_COMPLETION_INDEX=3 HARNESS_SHARDS=3", "none of 3 indices from 0"),
            (
                "JOB_COMPLETION_INDEX=x HARNESS_SHARDS=3",
                "JOB_COMPLETION_INDEX=x: expected a number",
            ),
            // An array of some of the indices does not say how many there are in all.
            (
                "SLURM_ARRAY_TASK_ID=7 SLURM_ARRAY_TASK_MIN=1 SLURM_ARRAY_TASK_COUNT=3",
                "none of 3 indices from 1",
            ),
            ("SLURM_ARRAY_TASK_ID=7 SLURM_ARRAY_TASK_COUNT=9", "SLURM_ARRAY_TASK_MIN is not set"),
            (
                "PARALLEL_SEQ=2 AWS_BATCH_JOB_ARRAY_INDEX=3 AWS_BATCH_JOB_ARRAY_SIZE=5 HARNESS_SHARDS=9",
                "AWS Batch says shard 4/5 and GNU parallel says shard 2/9",
            ),
        ] {
            let error = shard_of(variables).expect_err(variables);
            assert!(error.contains(reason), "{variables}: {error}");
        }
    }
}
