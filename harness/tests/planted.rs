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
        file::{FileReport, Reading, check_file},
    },
    history::synthetic::{Options, Plant, generate},
};

fn decide(plant: Option<Plant>, keys: u32, directory: &Path) -> FileReport {
    let ops = env::var("PLANTED_OPS").map_or(50_000, |ops| ops.parse().expect("a number"));
    let options = Options {
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
    check_file(&path, &Reading { certify: true, ..Reading::default() }).expect("well formed")
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
