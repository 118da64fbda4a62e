//! Operations with a start and an end: what is read, and what is refused in which words.

use super::{super::*, others::check, read};

const INTERVALS: &str = r#"{"client":"b","op":"read","key":"x","value":1,"start":3.5,"end":1e1,"ok":true}
{"client":"a","op":"write","key":"x","value":1,"start":1,"end":2}
{"client":"a","op":"write","key":"x","value":2,"start":2,"ok":"info"}
{"client":"a","op":"cas","key":"x","value":[1,3],"start":11,"end":12,"ok":"fail"}
{"client":"a","op":"delete","key":"x","start":20,"end":null}
"#;

#[test]
fn operations_with_start_and_end_are_read() {
    let unnamed = |text: &str| -> Vec<String> {
        let events = read(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        let renamed = events.into_iter().map(|event| {
            (0..9).fold(event, |event, n| {
                event.replace(&(NAMED_PROCESSES + n).to_string(), &n.to_string())
            })
        });
        renamed.collect()
    };
    // At equal times, invocations come first. The third operation never ends, nor does the last.
    let expected = [
        "1 \"x\" Put(\"1\")",
        "2 \"x\" Put(\"2\")",
        "1 Ok(None)",
        "0 \"x\" Get",
        "0 Ok(Some(\"1\"))",
        "3 \"x\" Cas(Some(\"1\"), Some(\"3\"))",
        "3 Fail",
        "4 \"x\" Del",
    ];
    assert_eq!(recognise(INTERVALS.as_bytes()), Some(Format::Intervals));
    assert_eq!(unnamed(INTERVALS), expected);
    let array = format!("[{}]", INTERVALS.trim_end().replace('\n', ","));
    assert_eq!(unnamed(&array), expected);

    let csv = "client, operation,key,value,old,new,call,return,status\r\n\
               b,read,x,1,,,3.5,10,ok\r\n\
               a,WRITE,x,1,,,1,2,true\r\n\
               a,write,x,2,,,2,,info\r\n\
               a,cas,x,,1,3,11,12,fail\r\n\
               a,delete,x,,,,20,,\r\n";
    assert_eq!(recognise(csv.as_bytes()), Some(Format::Csv));
    assert_eq!(unnamed(csv), expected.map(|event| event.replace("\"x\"", "x")));

    // One register, a read of nothing, and a text with a comma.
    let csv = "op,value,start,end\nread,,0,1\nread,nil,2,3\nwrite,\"a,b\",4,5\n";
    assert_eq!(
        unnamed(csv),
        [
            "0 register Get",
            "0 Ok(None)",
            "1 register Get",
            "1 Ok(None)",
            "2 register Put(\"a,b\")",
            "2 Ok(None)"
        ]
    );
    // Appended texts are texts, without quotes.
    let appends = "{\"op\":\"append\",\"value\":\"a\",\"start\":0,\"end\":1}\n\
                   {\"op\":\"read\",\"value\":\"a\",\"start\":2,\"end\":3}\n";
    assert_eq!(unnamed(appends)[..1], ["0 register Append(\"a\")"]);
    assert_eq!(unnamed(appends)[3..], ["1 Ok(Some(\"a\"))"]);
}

#[test]
fn operations_can_be_written_as_calls() {
    let csv = |operations: &[&str]| {
        let rows = operations.iter().zip(0..).map(|(operation, at)| {
            format!("c,\"{}\",{},{}\n", operation.replace('"', "\"\""), 2 * at, 2 * at + 1)
        });
        format!("client,operation,call,return\n{}", rows.collect::<String>())
    };
    let events = |operations: &[&str]| -> Vec<String> {
        let text = csv(operations);
        assert_eq!(recognise(text.as_bytes()), Some(Format::Csv));
        let events = read(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        events.iter().filter_map(|event| Some(event.split_once(' ')?.1.to_owned())).collect()
    };
    assert_eq!(
        events(&[
            "write(1)",
            "read() -> 1",
            "read() -> nil",
            "cas(1, 2) -> ok",
            "cas(1, 2) -> fail"
        ]),
        [
            "register Put(\"1\")",
            "Ok(None)",
            "register Get",
            "Ok(Some(\"1\"))",
            "register Get",
            "Ok(None)",
            "register Cas(Some(\"1\"), Some(\"2\"))",
            "Ok(None)",
            "register Cas(Some(\"1\"), Some(\"2\"))",
            "Fail",
        ]
    );
    assert_eq!(
        events(&[
            "put('x', 'a, (b)')",
            "get(\"x\") -> 'a, (b)'",
            "delete(x)",
            "cas(x, nil, 1) -> unknown"
        ]),
        [
            "x Put(\"a, (b)\")",
            "Ok(None)",
            "x Get",
            "Ok(Some(\"a, (b)\"))",
            "x Del",
            "Ok(None)",
            "x Cas(None, Some(\"1\"))",
        ]
    );
    for (operation, reason) in [
        ("put(1, 2, 3)", "expected a call"),
        ("cas(1)", "expected a call"),
        ("get('x'", "expected a call"),
        ("get('x) -> 1", "expected a call"),
        ("get(x) 1", "expected a call"),
        ("get(x) -> 1 2)", "expected a call"),
        ("put('\\n')", "expected a call"),
        ("put(x, )", "expected a call"),
        ("put('x') -> 7", "expected a call"),
        ("get(x)", "a read without a value"),
        ("enqueue(1)", "enqueue is an operation on a queue"),
    ] {
        let error = read(&csv(&[operation])).expect_err(operation);
        assert!(error.starts_with("h:2:1: ") && error.contains(reason), "{error}");
    }
}

#[test]
fn what_is_not_ok_did_not_happen_or_may_have() {
    let text = "{\"op\":\"write\",\"value\":1,\"start\":0,\"end\":1,\"ok\":false}\n";
    for (ambiguous, expected) in [(Ambiguous::Fail, 2), (Ambiguous::Info, 1)] {
        let mut sink = super::EventList::default();
        let path = Path::new("h");
        let summary =
            stream_with(&mut text.as_bytes(), Format::Intervals, ambiguous, &mut sink, path);
        assert_eq!(summary.expect("well formed"), ReadSummary { ambiguous: 1 });
        assert_eq!(sink.events.len(), expected, "{:?}", sink.events);
    }
}

#[test]
fn what_an_operation_returned_is_not_what_it_was_given() {
    let end = |fields: &str| -> Result<String, String> {
        let text = format!("{{{fields},\"start\":0,\"end\":1}}\n");
        let last = read(&text)?.pop().expect("an event");
        Ok(last.split_once(' ').expect("a process").1.to_owned())
    };
    for (fields, expected) in [
        (r#""op":"read","value":null,"output":5"#, "Ok(Some(\"5\"))"),
        (r#""op":"read","output":null"#, "Ok(None)"),
        (r#""op":"read","value":5,"result":5.0"#, "Ok(Some(\"5\"))"),
        (r#""op":"write","input":5,"output":null"#, "Ok(None)"),
        (r#""op":"write","value":5,"result":"ok""#, "Ok(None)"),
        (r#""op":"cas","value":[1,2],"ok":true,"result":true"#, "Ok(None)"),
        // It was answered, and did not happen.
        (r#""op":"cas","value":[1,2],"ok":true,"result":false"#, "Fail"),
        (r#""op":"cas","old":1,"new":2,"output":"fail""#, "Fail"),
        // Nobody knows: it never completes.
        (r#""op":"write","value":5,"result":false"#, "register Put(\"5\")"),
        (r#""op":"write","value":5,"error":"timeout""#, "register Put(\"5\")"),
    ] {
        assert_eq!(end(fields).as_deref(), Ok(expected), "{fields}");
    }
    for (fields, reason) in [
        (r#""op":"read","value":5,"output":6"#, "two values for the same, 5 and 6"),
        (r#""op":"read","value":5,"output":null"#, "two values for the same, 5 and nil"),
        (r#""op":"write","value":5,"input":6"#, "two values for the same, 5 and 6"),
        (r#""op":"write","value":5,"output":6"#, "output 6 of an operation that reads nothing"),
        (r#""op":"write","value":5,"ok":true,"error":"timeout""#, "is ok and has an error"),
    ] {
        let error = end(fields).expect_err(fields);
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn malformed_intervals_are_refused() {
    for (fields, reason) in [
        (
            "\"op\":\"read\",\"value\":1,\"start\":5,\"end\":4",
            "an operation that ends before it starts",
        ),
        (
            "\"op\":\"read\",\"value\":1,\"start\":5,\"ok\":true",
            "an operation that is ok needs an end",
        ),
        ("\"op\":\"read\",\"start\":5,\"end\":6", "a read without a value"),
        ("\"op\":\"write\",\"start\":5,\"end\":6", "a write without a value"),
        ("\"op\":\"cas\",\"value\":1,\"start\":5,\"end\":6", "a cas needs the fields old and new"),
        (
            "\"op\":\"read\",\"value\":1,\"start\":\"noon\",\"end\":6",
            "start \"noon\": expected a number",
        ),
        (
            "\"op\":\"read\",\"value\":1,\"start\":1e-10,\"end\":6",
            "start 1e-10: expected a number with at most",
        ),
        (
            "\"op\":\"read\",\"value\":1,\"start\":1,\"call\":2,\"end\":6",
            "call: the operation has another field",
        ),
        (
            "\"op\":\"read\",\"value\":1,\"start\":1,\"end\":6,\"ok\":7",
            "ok 7: expected true, false, ok, fail",
        ),
        (
            "\"op\":\"enqueue\",\"value\":1,\"start\":1,\"end\":6",
            "enqueue is an operation on a queue",
        ),
        ("\"op\":\"acquire\",\"start\":1,\"end\":6", "operations on registers and on locks"),
        (
            "\"op\":\"read\",\"key\":1,\"value\":1,\"start\":1,\"end\":6",
            "some operations of this history have a key",
        ),
        (
            "\"op\":\"read\",\"key\":1,\"table\":2,\"value\":1,\"start\":1,\"end\":6",
            "the field table may say what an operation is on: call it key, or combine it",
        ),
        ("\"op\":7,\"start\":1,\"end\":6", "op 7: expected a name"),
    ] {
        let text = format!("{{\"op\":\"delete\",\"start\":0,\"end\":1}}\n{{{fields}}}\n");
        let error = read(&text).expect_err(fields);
        assert!(error.starts_with("h:2:") && error.contains(reason), "{error}\nis not {reason}");
    }
    for (text, reason) in [
        ("op,register,value,start,end\nread,x,1,1,2\n", "h:1:1: the field register may say"),
        ("op,start,end\nread,1\n", "h:2:1: 2 columns, but the header has 3"),
        ("op,start,end,value\nread,1,2,\nwrite,1,2,\n", "h:3:1: a write without a value"),
    ] {
        check(text, Format::Csv, Err(reason));
    }
}

#[test]
fn words_for_no_error_are_no_error() {
    for error in ["false", "None", "nil", "NULL", "no", "0", "-", ""] {
        let csv = format!("op,value,start,end,error\nwrite,1,0,1,{error}\n");
        assert_eq!(read(&csv).expect("well formed").len(), 2, "{error}");
        let json = format!(
            "{{\"op\":\"write\",\"value\":1,\"start\":0,\"end\":1,\"error\":\"{error}\"}}\n"
        );
        assert_eq!(read(&json).expect("well formed").len(), 2, "{error}");
    }
    for (error, events) in [("0", 2), ("false", 2), ("null", 2), ("1", 1), ("true", 1)] {
        let json =
            format!("{{\"op\":\"write\",\"value\":1,\"start\":0,\"end\":1,\"error\":{error}}}\n");
        assert_eq!(read(&json).expect("well formed").len(), events, "{error}");
    }
}

#[test]
fn words_of_calls_are_the_values_of_their_format() {
    let events = |text: &str| -> Vec<String> {
        let events = read(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        events.iter().filter_map(|event| Some(event.split_once(' ')?.1.to_owned())).collect()
    };
    let json = |call: &str, fields: &str| {
        events(&format!(
            "{{\"op\":\"{call}\",\"start\":0,\"end\":1}}\n\
             {{\"op\":\"get\",\"start\":2,\"end\":3,{fields}}}\n"
        ))
    };
    assert_eq!(
        json("put('x', '5')", "\"key\":\"x\",\"value\":\"5\""),
        ["\"x\" Put(\"\\\"5\\\"\")", "Ok(None)", "\"x\" Get", "Ok(Some(\"\\\"5\\\"\"))"]
    );
    assert_eq!(
        json("put(x, 5)", "\"key\":\"x\",\"value\":5"),
        ["\"x\" Put(\"5\")", "Ok(None)", "\"x\" Get", "Ok(Some(\"5\"))"]
    );
    assert_eq!(json("put(7, nil)", "\"key\":7,\"value\":null")[0], "7 Del");
    assert_eq!(json("put(7, 'nil')", "\"key\":7,\"value\":null")[0], "7 Put(\"\\\"nil\\\"\")");
    let csv = "op,start,end\n\"put('x', 'nil')\",0,1\n\"get('x') -> 'null'\",2,3\n\
               \"get('x') -> nil\",4,5\n";
    let expected =
        ["x Put(\"nil\")", "Ok(None)", "x Get", "Ok(Some(\"null\"))", "x Get", "Ok(None)"];
    assert_eq!(events(csv), expected);
}

#[test]
fn texts_in_csv_that_differ_in_blanks_only_are_refused() {
    let csv = |written: &str, read: &str| {
        format!("op,key,value,start,end\nwrite,x,{written},0,1\nread,x,{read},2,3\n")
    };
    for (written, read) in [("\" a\"", "a"), (" a", "a"), ("a", "a ")] {
        let reason = "h:3:1: the texts";
        check(&csv(written, read), Format::Csv, Err(reason));
    }
    // Blanks after every comma, or around a word that is in no other place.
    for text in
        [csv(" a", " a"), csv("a", ""), "op, value, start, end\nwrite, 1, 0, 1\n".to_owned()]
    {
        assert!(read(&text).is_ok(), "{text}");
    }
}
