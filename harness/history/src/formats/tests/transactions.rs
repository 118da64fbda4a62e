//! Transactions in the formats that have them.

use super::*;

/// The transactions of a text, or the error.
fn transactions(text: &str) -> Result<Vec<String>, String> {
    let format = recognise(text.as_bytes()).ok_or("unknown format")?;
    let mut sink = TransactionList::default();
    stream_from(&mut text.as_bytes(), format, &mut sink, Path::new("h"))
        .map_err(|error| error.to_string())?;
    Ok(sink.0)
}

const EDN: &str = "\
{:type :invoke, :f :txn, :value [[:append x 1] [:r y nil]], :process 0, :index 0}
{:type :info, :f :kill, :process :nemesis, :index 1}
{:type :ok, :f :txn, :value [[:append x 1] [:r y [1 2]]], :process 0, :index 2}
{:type :invoke, :f :txn, :value [[:w x 1]], :process 1, :index 3}
{:type :fail, :f :txn, :value nil, :process 1, :index 4}
";

#[test]
fn jepsens_transactions_are_read() {
    let read = transactions(EDN).expect("well formed");
    let expected =
        ["0 invoke append x 1 r y nil", "0 Ok append x 1 r y [1 2]", "1 invoke w x 1", "1 Fail"];
    assert_eq!(read, expected);
}

#[test]
fn transactions_as_json_are_read_with_numbers_and_with_texts() {
    let elle = r#"{"index":0,"type":"invoke","process":0,"time":9,"f":"txn","value":[["append",9,1],["r",9,null]]}
{"index":7,"type":"ok","process":0,"time":3,"f":"txn","value":[["append",9,1],["r",9,[1]]]}
"#;
    let read = transactions(elle).expect("gaps in the indices are those of an excerpt");
    assert_eq!(read, ["0 invoke append 9 1 r 9 nil", "0 Ok append 9 1 r 9 [1]"]);
    assert_eq!(recognise(elle.as_bytes()), Some(Format::Json));

    let own = r#"{"index":0,"time":0,"process":0,"type":"invoke","f":"txn","value":[["w","x","1"]]}
{"index":1,"time":1,"process":0,"type":"info","f":"txn","error":"timeout: r1"}
{"index":2,"time":1,"pro"#;
    assert_eq!(recognise(own.as_bytes()), Some(Format::Jsonl));
    let read = transactions(own).expect("a torn last line is ignored");
    assert_eq!(read, ["0 invoke w \"x\" \"1\"", "0 Info"]);
    // Nothing but the newline is missing of the last event.
    let whole = own.replace("\n{\"index\":2,\"time\":1,\"pro", "");
    assert_eq!(transactions(&whole).expect("well formed"), read);
    let gap = own.replace("\"index\":1", "\"index\":3");
    let error = transactions(&gap).expect_err("a gap");
    assert_eq!(error, "h:2:1: index 3, expected 1: events are missing");
}

#[test]
fn versions_beside_the_value_are_those_of_its_steps() {
    let own = r#"{"index":0,"time":0,"process":0,"type":"invoke","f":"txn","value":[["r","x",null],["w","x","1"]]}
{"index":1,"time":1,"process":0,"type":"ok","f":"txn","value":[["r","x",null],["w","x","1"]],"versions":[null,7]}
"#;
    let expected = [r#"0 invoke r "x" nil w "x" "1""#, r#"0 Ok r "x" nil w "x" "1" @7"#];
    assert_eq!(transactions(own).expect("well formed"), expected);
    let with_numbers = own.replace("\"1\"", "1");
    assert_eq!(recognise(with_numbers.as_bytes()), Some(Format::Json));
    let expected = ["0 invoke r \"x\" nil w \"x\" 1", "0 Ok r \"x\" nil w \"x\" 1 @7"];
    assert_eq!(transactions(&with_numbers).expect("well formed"), expected);
    let edn = "{:type :invoke, :f :txn, :value [[:w x 1]], :process 0}\n\
               {:type :ok, :f :txn, :value [[:w x 1]], :versions [7], :process 0}\n";
    assert_eq!(transactions(edn).expect("well formed"), ["0 invoke w x 1", "0 Ok w x 1 @7"]);

    for text in [own, &with_numbers] {
        for (versions, reason) in [
            ("[7]", "versions: 1 for 2 steps; expected one for each"),
            ("[null,-7]", "versions"),
            ("[null,\"7\"]", "versions"),
            ("7", "versions"),
        ] {
            let wrong = text.replace("[null,7]", versions);
            let error = transactions(&wrong).expect_err(versions);
            assert!(error.starts_with("h:2:") && error.contains(reason), "{error}");
        }
    }
}

#[test]
fn the_value_tells_a_transaction_whatever_its_name() {
    let fork = "{:type :invoke, :f :read, :value [[:r 1 nil] [:r 2 nil]], :process 3}\n\
                {:type :ok, :f :read, :value [[:r 1 4] [:r 2 nil]], :process 3}\n";
    let read = transactions(fork).expect("well formed");
    assert_eq!(read, ["3 invoke r 1 nil r 2 nil", "3 Ok r 1 4 r 2 nil"]);
}

#[test]
fn completions_that_disagree_are_refused() {
    for (completed, reason) in [
        (
            "[[:append x 2] [:r y [1 2]]]",
            "completes the transaction [[append x 2] [r y]], but invoked",
        ),
        ("[[:append x 1]]", "completes the transaction [[append x 1]], but invoked"),
        ("[1 2]", "a transaction with the value [1 2]: expected a list of [:append key element]"),
        ("nil", "a transaction with the value nil: expected"),
    ] {
        let text = EDN.replace("[[:append x 1] [:r y [1 2]]]", completed);
        let error = transactions(&text).expect_err(completed);
        assert!(error.starts_with("h:3:1: ") && error.contains(reason), "{error}");
    }
    let error =
        transactions(&EDN.replace("[:w x 1]", "[:w x nil]")).expect_err("nothing is written");
    assert_eq!(error, "h:4:1: w of x without a value");
}

#[test]
fn what_does_not_take_transactions_refuses_them() {
    let error = read(EDN).expect_err("a list of operations");
    assert!(
        error.starts_with("h:1:1: [[:append x 1] [:r y nil]] is a transaction, and"),
        "{error}"
    );
}
