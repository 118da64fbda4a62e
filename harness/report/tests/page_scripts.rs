//! Tests the parts of the page's script that need no browser, under Node.js. Without it each test prints
//! that it was skipped; the browser tests still cover the script as a whole.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use checker::Results;
use report::{NoEvidence, RecordedRun};

const TESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/page");

/// Runs Node.js. `None` if it is not installed.
fn node(arguments: &[&Path]) -> Option<(bool, String)> {
    let output = match Command::new("node").args(arguments).output() {
        Ok(output) => output,
        Err(error) => {
            println!("skipped: node is not installed ({error})");
            return None;
        }
    };
    let text =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    Some((output.status.success(), text.concat()))
}

#[test]
fn the_script_passes_its_unit_tests() {
    let mut arguments = vec![Path::new("--test").to_owned()];
    let files = fs::read_dir(TESTS).expect("the tests are in the source tree").flatten();
    arguments.extend(files.map(|file| file.path()).filter(|path| is_test(path)));
    assert!(arguments.len() > 5, "{arguments:?}");
    let arguments: Vec<&Path> = arguments.iter().map(PathBuf::as_path).collect();
    if let Some((passed, output)) = node(&arguments) {
        assert!(passed, "{output}");
    }
}

fn is_test(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(".test.mjs"))
}

/// Directories with a history below a directory.
fn runs(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("it can be listed").flatten() {
        let path = entry.path();
        if path.join("history.jsonl").exists() {
            found.push(path);
        } else if path.is_dir() {
            runs(&path, found);
        }
    }
}

/// A page needs nothing but a history: no journals, no check results.
#[test]
fn pages_without_system_evidence_reproduce_their_histories() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../histories/golden");
    let mut found = Vec::new();
    runs(&golden, &mut found);
    assert!(found.len() > 50, "{found:?}");
    let copies = tempfile::tempdir().expect("a temporary directory");
    let results = Results::new(Vec::new());
    let mut arguments = vec![Path::new(TESTS).join("reproduces-history.mjs")];
    for (number, run) in found.iter().enumerate() {
        let directory = copies.path().join(number.to_string());
        fs::create_dir(&directory).expect("the directory is created");
        for file in ["history.jsonl", "test.json"] {
            fs::copy(run.join(file), directory.join(file)).expect("the file is copied");
        }
        let recorded = history::read(&directory.join("history.jsonl")).expect("a history");
        let operations = history::pair(&recorded.events).expect("operations");
        let run = RecordedRun {
            directory: &directory,
            events: &recorded.events,
            operations: &operations,
            torn: recorded.torn,
            results: &results,
            transactions: None,
        };
        report::write(&run, &NoEvidence).expect("the page is written");
        assert!(!directory.join("in-doubt.svg").exists(), "only a system adds such plots");
        arguments.push(directory);
    }
    let arguments: Vec<&Path> = arguments.iter().map(PathBuf::as_path).collect();
    if let Some((passed, output)) = node(&arguments) {
        assert!(passed, "{output}");
    }
}
