//! The kept histories of transactions, a smallest one for each anomaly: it is reported by its name, the
//! strongest levels are what they should be, and its twin without the anomaly is strictly serializable.

use std::path::{Path, PathBuf};

use checker::{
    Validity,
    certificate::{Certificates, Verified, verify_file},
    file::{FileCheckOptions, check_file},
    levels::Level,
    transactions::TransactionReport,
};

fn path(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"));
    directory.join("../../histories/golden/transactions").join(format!("{name}.edn"))
}

fn check(name: &str, claim: Option<&str>) -> (Validity, TransactionReport) {
    let claim: Option<Level> = claim.map(|claim| claim.parse().expect("a level"));
    let options = FileCheckOptions { claim, ..FileCheckOptions::default() };
    let report = check_file(&path(name), &options).unwrap_or_else(|error| panic!("{error}"));
    (report.verdict, report.transactions.expect("it consists of transactions"))
}

/// The anomalies, their names as they are reported, and the strongest levels that are left.
const KEPT: [(&str, &str, &[&str]); 20] = [
    ("g0", "G0", &[]),
    ("g0-versions", "G0", &[]),
    ("incompatible-versions", "incompatible-versions", &["strong-read-uncommitted"]),
    ("g1a", "G1a", &["strong-read-uncommitted"]),
    ("g1b", "G1b", &["strong-read-uncommitted"]),
    ("g1c", "G1c", &["strong-read-uncommitted"]),
    ("internal", "internal", &[]),
    ("duplicate-elements", "duplicate-elements", &[]),
    ("incompatible-order", "incompatible-order", &["strong-read-uncommitted"]),
    ("garbage-read", "garbage-read", &["strong-read-uncommitted"]),
    ("future-read", "future-read", &["strong-read-uncommitted"]),
    ("dirty-update", "dirty-update", &["strong-read-uncommitted"]),
    ("lost-update", "lost-update", &["strong-read-committed"]),
    ("g-single", "G-single", &["strong-cursor-stability"]),
    ("g-single-process", "G-single-process", &["serializable", "strong-cursor-stability"]),
    (
        "g-single-realtime",
        "G-single-realtime",
        &["strong-session-serializable", "strong-cursor-stability"],
    ),
    ("g-nonadjacent", "G-nonadjacent", &["strong-consistent-view"]),
    ("long-fork", "long-fork", &["strong-consistent-view"]),
    ("g2-item", "G2-item", &["strong-snapshot-isolation"]),
    (
        "lost-write",
        "G-single-realtime",
        &["strong-session-serializable", "strong-cursor-stability"],
    ),
];

#[test]
fn each_anomaly_is_reported_by_name_and_its_twin_has_none() {
    for (file, name, strongest) in KEPT {
        let (verdict, report) = check(file, None);
        let names: Vec<&str> = report.anomalies.iter().map(|anomaly| &*anomaly.name).collect();
        assert!(names.contains(&name), "{file}: {names:?}");
        assert_eq!(report.strongest, strongest, "{file}");
        let is_lost = file == "lost-write";
        assert_eq!(verdict == Validity::Invalid, is_lost, "{file}: only reported without a claim");
        let (verdict, _) = check(file, Some("strict-serializable"));
        assert_eq!(verdict, Validity::Invalid, "{file}");
        for level in strongest {
            let (verdict, _) = check(file, Some(level));
            assert_eq!(verdict == Validity::Valid, !is_lost, "{file} as {level}");
        }
        let twin = format!("{file}-valid");
        let (verdict, report) = check(&twin, Some("strict-serializable"));
        assert_eq!(verdict, Validity::Valid, "{twin}: {report:#?}");
        assert_eq!(report.anomalies, [], "{twin}");
        assert_eq!(report.strongest, ["strict-serializable"], "{twin}");
    }
}

#[test]
fn every_kept_history_is_tested() {
    let directory = path("g0").parent().expect("a directory").to_owned();
    let files = std::fs::read_dir(directory).expect("it can be listed");
    let count = files.filter(|file| {
        let path = file.as_ref().expect("it can be listed").path();
        path.extension().is_some_and(|extension| extension == "edn")
    });
    assert_eq!(count.count(), 2 * KEPT.len());
}

#[test]
fn a_certificate_is_accepted_and_a_changed_one_is_not() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("certificate");
    let certificates = Certificates::create(&file).expect("created");
    let options = FileCheckOptions { certificates: Some(&certificates), ..Default::default() };
    let history = path("lost-update-valid");
    check_file(&history, &options).expect("well formed");
    certificates.finish().expect("written");
    let written = std::fs::read_to_string(&file).expect("written");
    assert_eq!(written, "{\"level\":\"strict-serializable\",\"order\":[0,1,2,3]}\n");
    let verified = |text: &str| {
        std::fs::write(&file, text).expect("written");
        verify_file(&history, None, None, None, &file).unwrap_or_else(|error| panic!("{error}"))
    };
    assert_eq!(verified(&written), Verified::Accepted { keys: 1, operations: 4 });
    for (order, why) in [
        ("[0,2,1,3]", "transaction 2: does not read x as it is then"),
        ("[0,1,3]", "transaction 3: does not read x as it is then"),
        ("[0,1,2]", "transaction 3: is ok and missing from the order"),
        ("[0,1,2,3,3]", "transaction 3: is twice in the order"),
        ("[0,1,2,3,4]", "transaction 4: is not in the history"),
    ] {
        let Verified::Rejected { key, reason } = verified(&written.replace("[0,1,2,3]", order))
        else {
            panic!("{order} is no order");
        };
        assert_eq!(format!("{key}: {reason}"), why);
    }
    // A stale read is serializable; the order does not show more.
    let stale = path("g-single-realtime");
    let verified = |level: &str| {
        let text = format!("{{\"level\":\"{level}\",\"order\":[1,0,2]}}\n");
        std::fs::write(&file, text).expect("written");
        verify_file(&stale, None, None, None, &file).unwrap_or_else(|error| panic!("{error}"))
    };
    assert!(matches!(verified("serializable"), Verified::Accepted { .. }));
    assert!(matches!(verified("strict-serializable"), Verified::Rejected { .. }));
}

#[test]
fn every_edge_of_a_cycle_is_proven_by_two_operations() {
    let (_, report) = check("g-single", None);
    let text = &report.anomalies[0].text;
    assert!(text.contains("rw: T1 read y = [], before T0 appended 1 to it"), "{text}");
    assert!(text.contains("wr: T0 appended 1 to x, and T1 read it: x = [1]"), "{text}");
    let (_, report) = check("g-single-realtime", None);
    let text = &report.anomalies[0].text;
    assert!(
        text.contains("real time: T0 returned (event 1) before T1 was invoked (event 2)"),
        "{text}"
    );
    let (_, report) = check("g0-versions", None);
    let text = &report.anomalies[0].text;
    let why = "ww: T0 wrote x = 1 (version 1), and T1 wrote x = 2 (version 2): so says the system";
    assert!(text.contains(why), "{text}");
    let told = "the system itself told the versions of 4 of 4 values that were written, so the order of \
                writes is certain as far as they are right";
    assert_eq!(report.told_versions.as_deref(), Some(told));
    let (_, report) = check("incompatible-versions", None);
    let text = &report.anomalies[0].text;
    let why = "the system told T0 that x = 1 is version 1, and T1 that it is version 2";
    assert!(text.starts_with(why), "{text}");
    let (_, report) = check("lost-write", None);
    let lost = "T0 appended 1 to x and was acknowledged (event 1); T1, invoked later (event 2), read x \
                without it, and no read returned it";
    assert_eq!(report.lost, [lost]);
}
