//! Every check finds the invalid run of its pair invalid and the valid one valid: the constructed runs
//! in `histories/golden/checks`, and the runs of real processes beside them, each with its expected
//! verdict in `verdict.json`.
//!
//! `cargo test -p harness --test golden -- --ignored` rewrites the former from `runs.rs`.

mod cluster;
mod runs;

use std::{
    fs,
    path::{Path, PathBuf},
};

use checker::{Limits, Results, Validity};
use serde::{Deserialize, Serialize};
use twopc::checks::{Run, check};

/// The expected result of a golden run: its `verdict.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Expected {
    /// The verdict of all checks together.
    pub(crate) verdict: Validity,
    /// The check that the run is made for.
    pub(crate) check: String,
    /// Part of a sentence that this check must report if the run is not valid.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) says: String,
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../histories/golden")
}

#[test]
fn golden_runs_get_their_expected_verdicts() {
    let [constructed, valid, caught] = ["checks", "valid", "caught"].map(kept);
    assert!(constructed.len() >= 16, "a pair for each check, not {constructed:?}");
    assert!(valid.len() >= 8, "one for each set of faults, not {valid:?}");
    assert!(caught.len() >= 8, "one for each rule that runs of processes expose, not {caught:?}");
    for path in constructed.into_iter().chain(valid).chain(caught) {
        let text = fs::read_to_string(path.join("verdict.json")).expect("it is there");
        let expected: Expected = serde_json::from_str(&text).expect("written by this test");
        let run = Run::load(&path).unwrap_or_else(|error| panic!("{error}"));
        let results = check(&run, &Limits::default());
        assert_expected(&path, &expected, &results);
    }
}

/// The golden runs of one kind.
fn kept(kind: &str) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(directory().join(kind))
        .expect("the golden runs are kept")
        .map(|entry| entry.expect("it can be listed").path())
        .filter(|path| path.join("verdict.json").exists())
        .collect();
    paths.sort();
    paths
}

fn assert_expected(path: &Path, expected: &Expected, results: &Results) {
    let name = path.display();
    let check_result = results.check(&expected.check).expect("the check exists");
    assert_eq!(results.verdict, expected.verdict, "{name}: {results:#?}");
    assert_eq!(check_result.verdict, expected.verdict, "{name}: {check_result:#?}");
    if expected.verdict != Validity::Valid {
        let mut sentences = check_result.violations.iter().chain(&check_result.unknown_because);
        assert!(
            sentences.any(|sentence| sentence.contains(&expected.says)),
            "{name}: {check_result:#?}"
        );
    }
}

#[test]
#[ignore = "rewrites histories/golden"]
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
