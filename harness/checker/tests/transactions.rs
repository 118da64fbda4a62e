//! Small histories of transactions, judged by hand: what was acknowledged and is lost, what no history shows, and
//! what no order certifies.

use std::{fs, path::Path};

use checker::{
    Validity,
    certificate::Certificates,
    file::{FileCheckOptions, FileReport, check_file},
    levels::Level,
};

use Validity::{Invalid, Unknown, Valid};

/// Transactions one after the other, of `process | invoked | completed` each, as EDN.
fn sequential(transactions: &[&str]) -> String {
    let event = |process: &str, kind: &str, steps: &str| {
        format!("{{:process {process}, :type :{kind}, :f :txn, :value [{steps}]}}\n")
    };
    let both = |transaction: &&str| {
        let mut parts = transaction.split('|').map(str::trim);
        let mut part = || parts.next().expect("three parts");
        let (process, invoked, completed) = (part(), part(), part());
        event(process, "invoke", invoked) + &event(process, "ok", completed)
    };
    transactions.iter().map(both).collect()
}

/// Appends that are acknowledged.
fn append(element: u8) -> String {
    format!("0 | [:append :x {element}] | [:append :x {element}]")
}

/// A read of the list.
fn read(process: u8, list: &str) -> String {
    format!("{process} | [:r :x nil] | [:r :x {list}]")
}

fn check_at(path: &Path, claim: Option<&str>, certificates: Option<&Certificates>) -> FileReport {
    let claim = claim.map(|claim| claim.parse::<Level>().expect(claim));
    let options = FileCheckOptions { claim, certificates, ..FileCheckOptions::default() };
    check_file(path, &options).unwrap_or_else(|error| panic!("{error}"))
}

fn check(text: &str, claim: Option<&str>) -> FileReport {
    let directory = tempfile::tempdir().expect("a directory for the test");
    let path = directory.path().join("history.edn");
    fs::write(&path, text).expect("the disk has room");
    check_at(&path, claim, None)
}

/// The appends that are lost after these elements were appended and these lists were read.
fn lost(appended: &[u8], reads: &[(u8, &str)]) -> Vec<String> {
    let appends = appended.iter().map(|element| append(*element));
    let reads = reads.iter().map(|(process, list)| read(*process, list));
    let transactions: Vec<String> = appends.chain(reads).collect();
    let transactions: Vec<&str> = transactions.iter().map(String::as_str).collect();
    let report = check(&sequential(&transactions), None);
    let lost = report.transactions.expect("it consists of transactions").lost;
    assert_eq!(report.verdict == Invalid, !lost.is_empty(), "{lost:?}");
    lost
}

#[test]
fn an_acknowledged_append_is_lost_if_no_process_finds_it_in_its_last_read() {
    for (appended, reads, expected) in [
        (&[1][..], &[(0, "[1]"), (0, "nil")][..], 1),
        (&[1, 2], &[(0, "[1 2]"), (0, "[1]")], 1),
        (&[1, 2], &[(0, "[1 1]")], 1),
        (&[1, 2, 3], &[(0, "[2 1]"), (0, "[1 2]")], 1),
        (&[1, 1, 2], &[(0, "[]")], 2),
        (&[1, 2], &[(0, "[2]")], 1),
        // Another process finds it, or the one that missed it does later.
        (&[1, 2], &[(0, "[1 2]"), (1, "[1]")], 0),
        (&[1, 2], &[(0, "[1]"), (0, "[1 2]")], 0),
        (&[1, 2], &[(0, "[2 1]"), (1, "[1 2]")], 0),
        (&[1, 1, 2], &[(0, "[1 2]")], 0),
        // Nobody has looked.
        (&[1], &[], 0),
    ] {
        let found = lost(appended, reads);
        assert_eq!(found.len(), expected, "{appended:?} {reads:?} {found:?}");
    }
    let seen = lost(&[1], &[(0, "[1]"), (0, "nil")]);
    assert!(seen[0].contains("it had been read before"), "{seen:?}");
}

#[test]
fn an_append_during_or_after_a_read_is_not_lost() {
    let text = "{:process 0, :type :invoke, :f :txn, :value [[:append :x 1]]}\n\
                {:process 1, :type :invoke, :f :txn, :value [[:r :x nil]]}\n\
                {:process 0, :type :ok, :f :txn, :value [[:append :x 1]]}\n\
                {:process 1, :type :ok, :f :txn, :value [[:r :x []]]}\n";
    assert_eq!(check(text, None).verdict, Valid);
    // An append of unknown outcome was never acknowledged.
    let text = "{:process 0, :type :invoke, :f :txn, :value [[:append :x 1]]}\n\
                {:process 0, :type :info, :f :txn, :value [[:append :x 1]]}\n\
                {:process 1, :type :invoke, :f :txn, :value [[:r :x nil]]}\n\
                {:process 1, :type :ok, :f :txn, :value [[:r :x []]]}\n";
    assert_eq!(check(text, Some("durable")).verdict, Valid);
}

#[track_caller]
fn assert_durable(transactions: &[&str], verdict: Validity, words: &str) {
    let report = check(&sequential(transactions), Some("durable"));
    assert_eq!(report.verdict, verdict, "{:?}", report.unknown_because);
    let why = report.unknown_because.join("\n");
    assert!(why.contains(words), "'{words}' is not in '{why}'");
}

#[test]
fn durability_that_no_read_shows_is_unknown() {
    let [write, append] = ["0 | [:w :x 1] | [:w :x 1]", "0 | [:append :x 1] | [:append :x 1]"];
    let registers = "the durability of registers cannot be judged";
    assert_durable(&[write, "0 | [:r :x nil] | [:r :x nil]"], Unknown, registers);
    assert_durable(&[write, "0 | [:r :x nil] | [:r :x 1]"], Unknown, registers);
    assert_durable(&[append], Unknown, "1 acknowledged appends are to keys that no transaction");
    let other = "0 | [:r :y nil] | [:r :y []]";
    assert_durable(&[append, other], Unknown, "1 acknowledged appends");
    assert_durable(&[append, "0 | [:r :x nil] | [:r :x [1]]"], Valid, "");
    // What is lost is, whatever was not read besides.
    let both = "0 | [:append :x 1] [:append :y 1] | [:append :x 1] [:append :y 1]";
    assert_durable(&[both, other], Invalid, "1 acknowledged appends");
}

/// Transactions that left an order which explains all but a key of which nobody knows whose elements it has.
const UNEXPLAINED: [&[&str]; 3] = [
    &[
        "0 | [:append :x 1] | [:append :x 1]",
        "0 | [:append :x 1] | [:append :x 1]",
        "0 | [:r :x nil] | [:r :x [7]]",
    ],
    &["0 | [:w :x 1] | [:w :x 1]", "0 | [:w :x 1] | [:w :x 1]", "0 | [:r :x nil] | [:r :x 7]"],
    &[
        "0 | [:r :x nil] [:r :x nil] [:append :x 3] | [:r :x nil] [:r :x [6 4 3]] [:append :x 3]",
        "0 | [:append :x 5] [:append :x 5] [:append :x 6] | [:append :x 5] [:append :x 5] [:append :x 6]",
    ],
];

#[test]
fn what_an_order_does_not_explain_is_not_certified() {
    let directory = tempfile::tempdir().expect("a directory for the test");
    let certify = |transactions: &[&str]| {
        let path = directory.path().join("history.edn");
        fs::write(&path, sequential(transactions)).expect("the disk has room");
        let file = directory.path().join("certificate");
        let certificates = Certificates::create(&file).expect("the disk has room");
        let report = check_at(&path, None, Some(&certificates));
        certificates.finish().expect("the disk has room");
        let is_told = report.notes.iter().any(|note| note.contains("certified"));
        (is_told, fs::read_to_string(&file).expect("it was written"))
    };
    for transactions in UNEXPLAINED {
        assert_eq!(certify(transactions), (false, String::new()), "{transactions:?}");
    }
    // A key that nobody read needs no explanation.
    let unread = ["0 | [:append :x 1] | [:append :x 1]"; 2];
    assert!(certify(&unread).0);
}

#[test]
fn reads_that_found_nothing_are_causally_consistent() {
    let text = sequential(&["0 | [:r :x nil] | [:r :x nil]"]);
    let report = check(&text, Some("causal-consistency"));
    assert_eq!((report.verdict, report.unknown_because), (Valid, Vec::new()));
}
