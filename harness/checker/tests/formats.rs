//! Histories of every format get their expected verdicts, and an exported history gets that of its
//! original.

use std::{fs, io, path::Path};

use checker::{
    Limits, Observations, Spec, Validity, Verdict,
    file::{FileCheckOptions, check_file},
};
use history::{
    Event,
    export::{ExportFormat, export},
    formats::{Format, detect, recognise, stream_from},
    synthetic::{PlantedViolation, SyntheticOptions, generate},
};

/// The verdict on each key: whether it is linearizable.
fn linearizable(text: &str) -> Vec<bool> {
    let format = recognise(text.as_bytes()).expect("a known format");
    let mut observations = Observations::new(Spec::of_format(format));
    stream_from(&mut text.as_bytes(), format, &mut observations, Path::new("h"))
        .expect("well formed");
    checker::check_keys(&observations, &Limits::default(), true)
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
fn histories_of_every_format_get_their_verdicts() {
    for (text, format, verdicts) in [
        (JSONL, Format::Jsonl, vec![true]),
        (EDN, Format::Edn, vec![true]),
        (INDEPENDENT, Format::Edn, vec![true, false]),
        // A failed cas did not happen. What it found is no fact.
        (LOG, Format::JepsenLog, vec![true]),
        (PORCUPINE, Format::Porcupine, vec![true]),
    ] {
        assert_eq!(recognise(text.as_bytes()), Some(format), "{text}");
        assert_eq!(linearizable(text), verdicts, "{text}");
    }
    assert_eq!(linearizable(&LOG.replace("1\t:fail\t:cas", "1\t:ok\t:cas")), [true]);
    assert_eq!(
        linearizable(&LOG.replace("1\t:fail\t:cas", "1\t:ok\t:cas").replace("[3 4]", "[5 4]")),
        [false]
    );
    assert_eq!(linearizable(&PORCUPINE.replace("x 8 0 yx 8 1 y", "x 8 1 yx 8 0 y")), [false]);
}

#[test]
fn completions_may_omit_fields() {
    let cas = ":fail, :f :cas, :value [1 [3 5]]";
    assert_eq!(linearizable(&INDEPENDENT.replace(cas, ":info, :f :cas")), [true, false]);
    let keyword = INDEPENDENT.replace(cas, ":fail, :f :cas, :value :no");
    assert_eq!(linearizable(&keyword), [true, false]);
    let timed_out = LOG.replace(":fail\t:cas\t[3 4]", ":info\t:cas\t:timed-out");
    assert_eq!(linearizable(&timed_out), [true]);
    let omitted = JSONL.replace(
        "\"value\":\"1\",\"version\":\"1.1\"}\n{\"index\":3",
        "\"version\":\"1.1\"}\n{\"index\":3",
    );
    assert_ne!(omitted, JSONL);
    assert_eq!(linearizable(&omitted), [true]);
}

#[test]
fn an_exported_history_gets_the_verdict_of_its_original() {
    let directory = tempfile::tempdir().expect("a directory for the test");
    let [original, exported] =
        ["history.jsonl", "exported"].map(|name| directory.path().join(name));
    for violation in PlantedViolation::ALL.into_iter().map(Some).chain([None]) {
        let options = SyntheticOptions {
            ops: 2000,
            keys: 3,
            concurrency: 6,
            indeterminate: 0.02,
            puts: 40,
            deletes: 15,
            seed: 5,
            violation,
        };
        let mut text = String::new();
        generate(&options, |event: &Event| {
            text.push_str(&serde_json::to_string(event)?);
            text.push('\n');
            io::Result::Ok(())
        })
        .expect("nothing is written");
        fs::write(&original, text).expect("the disk has room");
        let expected = if violation.is_some() { Validity::Invalid } else { Validity::Valid };
        for (target, format) in
            [(ExportFormat::Edn, Format::Edn), (ExportFormat::Porcupine, Format::Porcupine)]
        {
            let mut out = Vec::new();
            export(&original, target, &mut out).expect("it can be exported");
            fs::write(&exported, out).expect("the disk has room");
            assert_eq!(detect(&exported).expect("a known format"), format);
            let report = check_file(&exported, &FileCheckOptions::default()).expect("well formed");
            assert_eq!((report.verdict, report.keys), (expected, 3), "{violation:?} {target:?}");
        }
    }
}
