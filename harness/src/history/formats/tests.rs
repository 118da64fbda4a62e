//! Samples of every format, and nonsense of every kind.

use proptest::prelude::*;

use super::*;
use crate::checker::linearizability::{Limits, Packed, Verdict, check_keys};

fn read(text: &str) -> Result<Keys, String> {
    let format = recognise(text.as_bytes()).ok_or("no known format")?;
    let mut keys = Keys::new(format.spec());
    stream_from(&mut text.as_bytes(), format, &mut keys, Path::new("h"))
        .map_err(|error| error.to_string())?;
    Ok(keys)
}

fn valid(text: &str) -> Vec<bool> {
    let keys = read(text).expect("well formed");
    check_keys(&keys, &Limits::default(), true)
        .into_iter()
        .map(|key| matches!(key.verdict, Verdict::Valid(_)))
        .collect()
}

const JSONL: &str = r#"{"index":0,"time":1,"process":0,"type":"invoke","f":"put","key":"a","value":"1"}
{"index":1,"time":2,"process":"nemesis","type":"info","f":"kill","value":{"node":"master"}}
{"index":2,"time":3,"process":0,"type":"ok","f":"put","key":"a","value":"1","version":"1.1"}
{"index":3,"time":4,"process":1,"type":"invoke","f":"get","key":"a"}
{"index":4,"time":5,"process":1,"type":"ok","f":"get","key":"a","value":"1","version":"1.1"}
"#;

const EDN: &str = r#"{:type :invoke, :f :write, :value 3, :time 10, :process 0, :index 0}
{:type :info, :f :start, :process :nemesis, :time 11, :index 1}
{:type :ok, :f :write, :value 3, :time 12, :process 0, :index 2}
#jepsen.history.Op{:index 3, :time 13, :type :invoke, :process 1, :f :cas, :value [3 4]}
{:index 4, :time 14, :type :ok, :process 1, :f :cas, :value [3 4], :extra {:a #{1 2}}}
{:type :invoke, :f :read, :value nil, :process 2} ; a remark
{:type :ok, :f :read, :value 4, :process 2}
"#;

const INDEPENDENT: &str = r#"[{:type :invoke, :f :write, :value [1 3], :process 0}
 {:type :ok, :f :write, :value [1 3], :process 0}
 {:type :invoke, :f :read, :value [2 nil], :process 0}
 {:type :ok, :f :read, :value [2 3], :process 0}
 {:type :invoke, :f :cas, :value [1 [3 5]], :process 0}
 {:type :fail, :f :cas, :value [1 [3 5]], :process 0}]
"#;

const LOG: &str = "INFO  jepsen.util - 0\t:invoke\t:write\t3
INFO  jepsen.util - 1\t:invoke\t:read\tnil
INFO  jepsen.util - :nemesis\t:info\t:start\tnil
INFO  jepsen.util - 0\t:ok\t:write\t3
INFO  jepsen.util - 1\t:ok\t:read\t3
INFO  jepsen.util - 1\t:invoke\t:cas\t[3 4]
INFO  jepsen.util - 1\t:fail\t:cas\t[3 4]
INFO  jepsen.util - 2   :invoke   :read   nil
INFO  jepsen.util - 2   :fail   :read   :timed-out
";

const PORCUPINE: &str = r#"{:process 9, :type :invoke, :f :get, :key "0", :value nil}
{:process 8, :type :invoke, :f :append, :key "0", :value "x 8 0 y"}
{:process 8, :type :ok, :f :append, :key "0", :value "x 8 0 y"}
{:process 9, :type :ok, :f :get, :key "0", :value "x 8 0 y"}
{:process 8, :type :invoke, :f :append, :key "0", :value "x 8 1 y"}
{:process 8, :type :ok, :f :append, :key "0", :value "x 8 1 y"}
{:process 9, :type :invoke, :f :get, :key "0", :value nil}
{:process 9, :type :ok, :f :get, :key "0", :value "x 8 0 yx 8 1 y"}
"#;

#[test]
fn every_format_is_recognised_and_read() {
    for (text, format, verdicts) in [
        (JSONL, Format::Jsonl, vec![true]),
        (EDN, Format::Edn, vec![true]),
        (INDEPENDENT, Format::Edn, vec![true, false]),
        // A cas of what was there found something else.
        (LOG, Format::JepsenLog, vec![false]),
        (PORCUPINE, Format::Porcupine, vec![true]),
    ] {
        assert_eq!(recognise(text.as_bytes()), Some(format), "{text}");
        assert_eq!(valid(text), verdicts, "{text}");
    }
    assert_eq!(valid(&LOG.replace("[3 4]", "[5 4]")), [true]);
    assert_eq!(valid(&PORCUPINE.replace("x 8 0 yx 8 1 y", "x 8 1 yx 8 0 y")), [false]);
    assert_eq!(recognise(b"a,b,c\n1,2,3"), None);
}

#[test]
fn the_place_of_what_is_wrong_is_told() {
    for (text, expected) in [
        (JSONL.replace("\"get\"", "\"jump\""), "h:4:1: 'jump' is no operation"),
        (JSONL.replace("\"time\":4", "\"time\":x"), "h:4:19: expected value"),
        (EDN.replace(":write, :value 3, :time 12", ":jump"), "h:3:1: :jump is no operation"),
        (EDN.replace("[3 4], :extra", "[3 4, :extra"), "h:5:"),
        (INDEPENDENT.replace("}]", "}"), "h:1:1: not closed"),
        (LOG.replace("[3 4]", "[3"), "h:6:36: a cas needs"),
        (LOG.replace("1\t:ok", "7\t:ok"), "h:5:21: process 7 ends what it has not begun"),
        (PORCUPINE.replace(":append", ":jump"), "h:2:1: :jump is no operation"),
        (PORCUPINE.replace("\"x 8 0 y\"", "17"), "h:2:1: :value 17"),
    ] {
        let error = read(&text).err().unwrap_or_else(|| panic!("it is malformed: {text}"));
        assert!(error.starts_with(expected), "{error}\nis not {expected}");
    }
}

#[test]
fn an_end_agrees_with_its_beginning() {
    let last = |text: &str, from: &str, to: &str| {
        let (before, after) = text.rsplit_once(from).expect(from);
        format!("{before}{to}{after}")
    };
    let nil = INDEPENDENT.replace(":fail, :f :cas, :value [1 [3 5]]", ":info, :f :cas");
    assert_eq!(valid(&nil), [true, false]);
    let keyword =
        INDEPENDENT.replace(":fail, :f :cas, :value [1 [3 5]]", ":fail, :f :cas, :value :no");
    assert_eq!(valid(&keyword), [true, false]);
    assert_eq!(valid(&LOG.replace(":fail\t:cas\t[3 4]", ":info\t:cas\t:timed-out")), [true]);
    let unsaid = JSONL.replace(
        "\"value\":\"1\",\"version\":\"1.1\"}\n{\"index\":3",
        "\"version\":\"1.1\"}\n{\"index\":3",
    );
    assert_ne!(unsaid, JSONL);
    assert_eq!(valid(&unsaid), [true]);
    for (text, expected) in [
        (
            last(JSONL, "\"get\"", "\"del\""),
            "h:5:1: process 1 ends del 1 of a, but has begun get of a",
        ),
        (
            last(JSONL, "\"key\":\"a\"", "\"key\":\"b\""),
            "h:5:1: process 1 ends get of b, but has begun get of a",
        ),
        (
            JSONL.replace(
                "\"value\":\"1\",\"version\":\"1.1\"}\n{\"index\":3",
                "\"value\":\"2\"}\n{\"index\":3",
            ),
            "h:3:1: process 0 ends put 2 of a, but has begun put 1 of a",
        ),
        (
            EDN.replace(":ok, :f :write, :value 3", ":ok, :f :write, :value 4"),
            "h:3:1: process 0 ends write 4 of register, but has begun write 3 of register",
        ),
        (
            last(EDN, ":f :read, :value 4", ":f :write, :value 4"),
            "h:7:1: process 2 ends write 4 of register, but has begun read of register",
        ),
        (
            INDEPENDENT.replace(":value [2 3]", ":value [1 3]"),
            "h:4:2: process 0 ends read of 1, but has begun read of 2",
        ),
        (
            INDEPENDENT
                .replace(":fail, :f :cas, :value [1 [3 5]]", ":fail, :f :cas, :value [1 [3 6]]"),
            "h:6:2: process 0 ends cas [3 6 ] of 1, but has begun cas [3 5 ] of 1",
        ),
        (
            LOG.replace("0\t:ok\t:write\t3", "0\t:ok\t:write\t4"),
            "h:4:21: process 0 ends :write 4 of register, but has begun :write 3 of register",
        ),
        (
            LOG.replace("1\t:fail\t:cas", "1\t:ok\t:write"),
            "h:7:21: process 1 ends :write of register, but has begun :cas of register",
        ),
        (
            last(PORCUPINE, ":ok, :f :append, :key \"0\"", ":ok, :f :append, :key \"1\""),
            "h:6:1: process 8 ends append of 1, but has begun append of 0",
        ),
        (
            PORCUPINE.replace(
                ":ok, :f :append, :key \"0\", :value \"x 8 1 y\"",
                ":ok, :f :append, :key \"0\", :value \"x\"",
            ),
            "h:6:1: process 8 ends append x of 0, but has begun append x 8 1 y of 0",
        ),
    ] {
        let error = read(&text).err().unwrap_or_else(|| panic!("it does not agree: {text}"));
        assert_eq!(error, expected, "{text}");
    }
}

#[test]
fn what_is_missing_is_not_guessed() {
    for (text, expected) in [
        (JSONL.replace("\"index\":3", "\"index\":4"), "h:4:1: index 4 where 3 should be: events"),
        (JSONL.replace("\"index\":0,", ""), "h:1:70: missing field `index`"),
        (JSONL.split_once('\n').expect("lines").1.to_owned(), "h:1:1: index 1 where 0 should be"),
        (JSONL.replace("\"time\":4", "\"time\":2"), "h:4:1: time 2 after time 3"),
        (JSONL.replace("\"time\":2,", ""), "h:2:82: missing field `time`"),
        (JSONL.replace(",\"key\":\"a\"}", "}"), "h:4:1: key: want text"),
        (
            JSONL.replace("\"get\",\"key\":\"a\",\"value\":\"1\"", "\"get\",\"key\":\"a\""),
            "h:5:1: a get that is ok needs a value",
        ),
        (EDN.replace(":index 3", ":index 2"), "h:4:1: :index 2 after :index 2"),
        (EDN.replace(":read, :value 4", ":read"), "h:7:1: :ok :read without a :value"),
        (EDN.replace(":write, :value 3, :time 10", ":write"), "h:1:1: :invoke :write without"),
        (
            INDEPENDENT
                .replace(":invoke, :f :read, :value [2 nil]", ":invoke, :f :read, :value nil"),
            "h:3:2: :read with the value nil: some operations of this history name a key",
        ),
        (
            PORCUPINE.replace(":ok, :f :append, :key \"0\", :value", ":ok, :f :append, :value"),
            "h:3:1: an operation without a :key",
        ),
        (EDN.replace(":extra {", ":key {"), "h:5:1: an operation with a :key: Jepsen's are named"),
        (
            PORCUPINE.replace(
                ":ok, :f :get, :key \"0\", :value \"x 8 0 y\"",
                ":ok, :f :get, :key \"0\"",
            ),
            "h:4:1: :ok :get without a :value",
        ),
    ] {
        let error = read(&text).err().unwrap_or_else(|| panic!("something is missing: {text}"));
        assert!(error.starts_with(expected), "{error}\nis not {expected}");
    }
}

/// What comes in pieces of any size reads as what comes at once: the same operations, or the same
/// complaint.
fn reads_alike_in_pieces(bytes: &[u8], format: Format, piece: usize) -> Result<(), TestCaseError> {
    let read = |input: &mut dyn BufRead| {
        let mut keys = Keys::new(format.spec());
        let told = stream_from(input, format, &mut keys, Path::new("h"));
        (told.map_err(|error| error.to_string()), histories(&keys))
    };
    let whole = read(&mut &*bytes);
    let pieces = read(&mut BufReader::with_capacity(piece, bytes));
    prop_assert_eq!(whole, pieces);
    Ok(())
}

fn histories(keys: &Keys) -> Vec<Packed> {
    keys.keys().iter().map(|key| key.history(keys.spec())).collect()
}

/// Some bytes of a sample are replaced, some left out.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let sample = prop::sample::select(vec![JSONL, EDN, INDEPENDENT, LOG, PORCUPINE]);
    let change =
        (0..2000_usize, 0..4_u8, prop::sample::select(b"[]{}()#\"\\:;, \tn0\xff".to_vec()));
    (sample, prop::collection::vec(change, 1..6)).prop_map(|(sample, changes)| {
        let mut bytes = sample.as_bytes().to_vec();
        for (at, how, byte) in changes {
            let at = at % bytes.len();
            match how {
                0 if bytes.len() > 1 => drop(bytes.remove(at)),
                1 => bytes.insert(at, byte),
                2 => bytes.truncate(at + 1),
                _ => bytes[at] = byte,
            }
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100_000, ..ProptestConfig::default() })]

    #[test]
    fn no_input_makes_a_reader_panic(
        bytes in damaged(),
        format in 0..4_usize,
        piece in 1..200_usize,
    ) {
        let formats = [recognise(&bytes), Some(Format::ALL[format])];
        for format in formats.into_iter().flatten() {
            let mut keys = Keys::new(format.spec());
            let read = stream_from(&mut &*bytes, format, &mut keys, Path::new("h"));
            if let Err(error) = read {
                let told = error.to_string();
                prop_assert!(told.starts_with("h:"), "{told}");
            }
            reads_alike_in_pieces(&bytes, format, piece)?;
        }
    }
}
