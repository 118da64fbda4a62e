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
