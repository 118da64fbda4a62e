//! Every kind of planted violation is found in a long history and explained with at most eight
//! operations. Without it the history is valid and its certificates are correct. `PLANTED_OPS=1000000`
//! makes the histories longer.

use std::{
    env,
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};

use checker::{
    Validity,
    certificate::{Certificates, Verified, verify_file},
    file::{FileCheckOptions, FileReport, check_file},
};
use history::synthetic::{PlantedViolation, SyntheticOptions, generate};

fn check(violation: Option<PlantedViolation>, keys: u32, directory: &Path) -> FileReport {
    let ops = env::var("PLANTED_OPS").map_or(50_000, |ops| ops.parse().expect("a number"));
    let options = SyntheticOptions {
        ops,
        keys,
        concurrency: 10,
        indeterminate: 0.01,
        puts: 45,
        deletes: 10,
        seed: 7,
        violation,
    };
    let path = directory.join("history.jsonl");
    let mut out = BufWriter::new(File::create(&path).expect("a new file"));
    generate(&options, |event| {
        serde_json::to_writer(&mut out, event)?;
        out.write_all(b"\n")
    })
    .and_then(|()| out.flush())
    .expect("the disk has room");
    let certificate = directory.join("certificate.jsonl");
    let certificates = Certificates::create(&certificate).expect("a new file");
    let options =
        FileCheckOptions { certificates: Some(&certificates), ..FileCheckOptions::default() };
    let report = check_file(&path, &options).expect("well formed");
    certificates.finish().expect("the disk has room");
    // The violation is on k0, which then has no certificate.
    let verified = verify_file(&path, None, None, None, &certificate).expect("well formed");
    let keys = keys as usize;
    match (violation, verified) {
        (None, Verified::Accepted { keys: accepted, .. }) => assert_eq!(accepted, keys),
        (Some(_), Verified::Rejected { key, reason }) => {
            assert_eq!((&*key, &*reason), ("k0", "the key has no certificate"));
        }
        (_, verified) => panic!("{violation:?}: {verified:?}"),
    }
    report
}

#[test]
fn every_planted_violation_is_found() {
    let directory = tempfile::tempdir().expect("a directory for the test");
    for keys in [1, 16] {
        for violation in PlantedViolation::ALL {
            let report = check(Some(violation), keys, directory.path());
            assert_eq!(report.verdict, Validity::Invalid, "{violation} on {keys} keys");
            let [sentence] = &report.violations[..] else { panic!("only k0: {report:#?}") };
            let shown = sentence.lines().count() - 1;
            assert!((1..=8).contains(&shown), "{violation} on {keys} keys: {sentence}");
            assert_eq!(report.certified, keys as usize - 1);
        }
        let report = check(None, keys, directory.path());
        assert_eq!((report.verdict, report.certified), (Validity::Valid, keys as usize));
    }
}
