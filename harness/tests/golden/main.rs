//! Every check finds the invalid run of its pair invalid and the valid one valid: the records made by
//! hand in `histories/golden/checks`, and the runs of real processes that are kept beside them, each
//! with its expected verdict in `verdict.json`.
//!
//! `cargo test -p harness --test golden -- --ignored` writes the former anew from `runs.rs`.

mod cluster;
mod runs;

use std::{
    fs,
    path::{Path, PathBuf},
};

use harness::checker::{Results, Run, Validity, check, linearizability::Limits};
use serde::{Deserialize, Serialize};

/// What a golden run is known to be: its `verdict.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Expected {
    /// The verdict on the whole run.
    pub(crate) verdict: Validity,
    /// The check that the run is about.
    pub(crate) check: String,
    /// What this check must say, among other things, if it does not find the run valid.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) says: String,
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../histories/golden")
}

#[test]
fn golden_runs_are_judged_as_they_should_be() {
    let [made, valid, caught] = ["checks", "valid", "caught"].map(kept);
    assert!(made.len() >= 16, "a pair for each check, not {made:?}");
    assert!(valid.len() >= 8, "one for each set of faults, not {valid:?}");
    assert!(caught.len() >= 8, "one for each rule that runs of processes expose, not {caught:?}");
    for path in made.into_iter().chain(valid).chain(caught) {
        let text = fs::read_to_string(path.join("verdict.json")).expect("it is there");
        let expected: Expected = serde_json::from_str(&text).expect("written by this test");
        let run = Run::load(&path).unwrap_or_else(|error| panic!("{error}"));
        let results = check(&run, &Limits::default());
        agree(&path, &expected, &results);
    }
}

/// The kept runs of one kind.
fn kept(kind: &str) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(directory().join(kind))
        .expect("the golden runs are kept")
        .map(|entry| entry.expect("it can be listed").path())
        .filter(|path| path.join("verdict.json").exists())
        .collect();
    paths.sort();
    paths
}

fn agree(path: &Path, expected: &Expected, results: &Results) {
    let name = path.display();
    let check_result = results.check(&expected.check).expect("the check exists");
    assert_eq!(results.verdict, expected.verdict, "{name}: {results:#?}");
    assert_eq!(check_result.verdict, expected.verdict, "{name}: {check_result:#?}");
    if expected.verdict != Validity::Valid {
        let mut said = check_result.violations.iter().chain(&check_result.unknown_because);
        assert!(
            said.any(|sentence| sentence.contains(&expected.says)),
            "{name}: {check_result:#?}"
        );
    }
}

#[test]
#[ignore = "writes histories/golden anew"]
fn write() {
    for (name, expected, files) in runs::all() {
        let path = directory().join("checks").join(name);
        if path.exists() {
            fs::remove_dir_all(&path).expect("it may be written");
        }
        files.save(&path);
        let text = serde_json::to_string_pretty(&expected).expect("plain data") + "\n";
        fs::write(path.join("verdict.json"), text).expect("it may be written");
    }
}
