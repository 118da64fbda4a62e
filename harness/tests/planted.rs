//! Every kind of violation that can be planted is found in a long history, and told with at most
//! eight operations; without it the history is valid and its certificates stand.
//! `PLANTED_OPS=1000000` makes the histories longer.

use std::{
    env,
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};

use harness::{
    checker::{
        Validity,
        certificate::{Certificates, Verified, verify_file},
        file::{FileReport, Reading, check_file},
    },
    history::synthetic::{Plant, SyntheticOptions, generate},
};

fn decide(plant: Option<Plant>, keys: u32, directory: &Path) -> FileReport {
    let ops = env::var("PLANTED_OPS").map_or(50_000, |ops| ops.parse().expect("a number"));
    let options = SyntheticOptions {
        ops,
        keys,
        concurrency: 10,
        indeterminate: 0.01,
        puts: 45,
        deletes: 10,
        seed: 7,
        plant,
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
    let reading = Reading { certificates: Some(&certificates), ..Reading::default() };
    let report = check_file(&path, &reading).expect("well formed");
    certificates.finish().expect("the disk has room");
    // Only k0 can be bad, and then it has no certificate.
    let verified = verify_file(&path, None, None, &certificate).expect("well formed");
    let keys = keys as usize;
    match (plant, verified) {
        (None, Verified::Accepted { keys: accepted, .. }) => assert_eq!(accepted, keys),
        (Some(_), Verified::Refused { key, reason }) => {
            assert_eq!((&*key, &*reason), ("k0", "it has no certificate"));
        }
        (_, verified) => panic!("{plant:?}: {verified:?}"),
    }
    report
}

#[test]
fn every_planted_violation_is_found() {
    let directory = tempfile::tempdir().expect("a directory for the test");
    for keys in [1, 16] {
        for plant in Plant::ALL {
            let report = decide(Some(plant), keys, directory.path());
            assert_eq!(report.verdict, Validity::Invalid, "{plant} on {keys} keys");
            let [violation] = &report.violations[..] else { panic!("only k0: {report:#?}") };
            let shown = violation.lines().count() - 1;
            assert!((1..=8).contains(&shown), "{plant} on {keys} keys: {violation}");
            assert_eq!(report.certified, keys as usize - 1);
        }
        let report = decide(None, keys, directory.path());
        assert_eq!((report.verdict, report.certified), (Validity::Valid, keys as usize));
    }
}
