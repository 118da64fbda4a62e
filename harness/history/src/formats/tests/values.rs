//! Values through every format and back: equal values are read as equal texts however they are
//! written, and different values as different ones.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::{super::*, read};

/// A value with the equality that formats should have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Model {
    Nil,
    Bool(bool),
    Integer(i64),
    /// An odd number of halves: never an integer.
    Halves(i32),
    /// A float with the value of an integer.
    Float(i32),
    Text(String),
    Keyword(String),
    Char(char),
    List(Vec<Model>),
    Set(BTreeSet<Model>),
    Map(BTreeMap<Model, Model>),
    Tagged(String, Box<Model>),
}

/// Ways to write the same value.
#[derive(Clone, Copy, Debug)]
struct Spelling {
    /// Reverses maps and sets, and chooses among notations.
    variant: bool,
    json: bool,
}

impl Spelling {
    fn write(self, model: &Model) -> String {
        let Spelling { variant, json } = self;
        match model {
            Model::Nil if json => "null".to_owned(),
            Model::Nil => "nil".to_owned(),
            Model::Bool(value) => value.to_string(),
            Model::Integer(number) if variant && json => format!("{number}.0E+0"),
            Model::Integer(number) if variant => format!("{number}N"),
            Model::Integer(number) => number.to_string(),
            Model::Halves(halves) => {
                let sign = if *halves < 0 { "-" } else { "" };
                let whole = halves.unsigned_abs() / 2;
                let tenths = 10 * whole + 5;
                if variant { format!("{sign}{whole}.50") } else { format!("{sign}{tenths}e-1") }
            }
            Model::Float(whole) => {
                if variant {
                    format!("{whole}.00")
                } else {
                    format!("{whole}e0")
                }
            }
            Model::Text(text) => self.text(text),
            Model::Keyword(name) => format!(":{name}"),
            Model::Char(letter) => {
                let code = format!("\\u{:04x}", u32::from(*letter));
                if variant { code } else { format!("\\{letter}") }
            }
            Model::List(values) => {
                let written = self.all(values.iter());
                if variant && !json { format!("({written})") } else { format!("[{written}]") }
            }
            Model::Set(values) => {
                let values = values.iter().map(|value| self.write(value)).collect();
                format!("#{{{}}}", self.joined(values))
            }
            Model::Map(entries) => {
                let colon = if json { ":" } else { " " };
                let entries = entries
                    .iter()
                    .map(|(key, value)| format!("{}{colon}{}", self.write(key), self.write(value)));
                format!("{{{}}}", self.joined(entries.collect()))
            }
            Model::Tagged(tag, value) => format!("#{tag} {}", self.write(value)),
        }
    }

    fn text(self, text: &str) -> String {
        let escaped: String = text
            .chars()
            .map(|letter| match letter {
                '"' => "\\\"".to_owned(),
                '\\' => "\\\\".to_owned(),
                '\n' => "\\n".to_owned(),
                '\t' => "\\t".to_owned(),
                other if self.variant || other.is_control() => {
                    let mut units = [0; 2];
                    let units = other.encode_utf16(&mut units);
                    units.iter().map(|unit| format!("\\u{unit:04X}")).collect()
                }
                other => other.to_string(),
            })
            .collect();
        format!("\"{escaped}\"")
    }

    fn all<'m>(self, values: impl Iterator<Item = &'m Model>) -> String {
        let written: Vec<String> = values.map(|value| self.write(value)).collect();
        if self.json { written.join(",") } else { written.join(" ") }
    }

    /// Entries of a map or elements of a set, which have no order.
    fn joined(self, mut entries: Vec<String>) -> String {
        if self.variant {
            entries.reverse();
        }
        entries.join(if self.json { "," } else { " " })
    }
}

/// Small alphabets, so that equal values and values that look alike are frequent.
fn leaf(json: bool) -> BoxedStrategy<Model> {
    let text = prop::sample::select(vec![
        "", "7", "a", "[7 1]", "nil", "\"", "\\", "\n\t", "é𝄞", "{:n 1}",
    ]);
    let common = prop_oneof![
        Just(Model::Nil),
        any::<bool>().prop_map(Model::Bool),
        (-2..8_i64).prop_map(Model::Integer),
        any::<i64>().prop_map(Model::Integer),
        (-2..3_i32).prop_map(|halves| Model::Halves(2 * halves + 1)),
        text.prop_map(|text| Model::Text(text.to_owned())),
    ];
    if json {
        return common.boxed();
    }
    prop_oneof![
        common,
        (0..8_i32).prop_map(Model::Float),
        prop::sample::select(vec!["a", "nil", "n/a", "7"])
            .prop_map(|name| Model::Keyword(name.to_owned())),
        prop::sample::select(vec!['a', '7', '[', 'é']).prop_map(Model::Char),
    ]
    .boxed()
}

fn model(json: bool) -> BoxedStrategy<Model> {
    leaf(json)
        .prop_recursive(3, 16, 4, move |inner| {
            let list = prop::collection::vec(inner.clone(), 0..4).prop_map(Model::List);
            let name = prop::sample::select(vec!["a", "b", "n"])
                .prop_map(|name| Model::Text(name.to_owned()));
            let object =
                prop::collection::btree_map(name, inner.clone(), 0..3).prop_map(Model::Map);
            if json {
                return prop_oneof![list, object].boxed();
            }
            let map = prop::collection::btree_map(inner.clone(), inner.clone(), 0..3)
                .prop_map(Model::Map);
            let set = prop::collection::btree_set(inner.clone(), 0..4).prop_map(Model::Set);
            let tagged = (prop::sample::select(vec!["inst", "a/b"]), inner)
                .prop_map(|(tag, value)| Model::Tagged(tag.to_owned(), Box::new(value)));
            prop_oneof![list, object, map, set, tagged].boxed()
        })
        .boxed()
}

/// A value to write. A list of two would be taken for a key and a value.
fn written(json: bool) -> impl Strategy<Value = Model> {
    model(json).prop_map(|model| match model {
        Model::List(mut values) if values.len() == 2 => {
            values.push(Model::Nil);
            Model::List(values)
        }
        other => other,
    })
}

/// A history in which the first value is written and the second one read, in a format.
fn history(format: Format, written: &str, read: &str) -> String {
    match format {
        Format::Edn => format!(
            "{{:process 0, :type :invoke, :f :write, :value {written}}}\n\
             {{:process 0, :type :ok, :f :write, :value {written}}}\n\
             {{:process 1, :type :invoke, :f :read}}\n\
             {{:process 1, :type :ok, :f :read, :value {read}}}\n"
        ),
        Format::JepsenLog | Format::JepsenText => {
            let start = if format == Format::JepsenLog { "I [w] jepsen.util: " } else { "" };
            format!(
                "{start}0\t:invoke\t:write\t{written}\n{start}0\t:ok\t:write\t{written}\n\
                 {start}1\t:invoke\t:read\tnil\n{start}1\t:ok\t:read\t{read}\n"
            )
        }
        Format::Json => format!(
            "[{{\"process\": 0, \"type\": \"invoke\", \"f\": \"write\", \"value\": {written}}},\n\
             {{\"process\": 0, \"type\": \"ok\", \"f\": \"write\", \"value\": {written}}},\n\
             {{\"process\": 1, \"type\": \"invoke\", \"f\": \"read\"}},\n\
             {{\"process\": 1, \"type\": \"ok\", \"f\": \"read\", \"value\": {read}}}]\n"
        ),
        _ => format!(
            "{{\"client\": 1, \"op\": \"read\", \"value\": {read}, \"start\": 5, \"end\": 6}}\n\
             {{\"client\": 0, \"op\": \"write\", \"value\": {written}, \"start\": 1, \"end\": 2.5}}\n"
        ),
    }
}

/// What was written and read, as the sink took them. A write of nothing is a delete.
fn through(format: Format, written: &str, read_back: &str) -> Result<[String; 2], TestCaseError> {
    let text = history(format, written, read_back);
    prop_assert_eq!(recognise(text.as_bytes()), Some(format), "{}", text);
    let events = read(&text).map_err(|error| TestCaseError::fail(format!("{error}\n{text}")))?;
    let [written, _, _, read] = events.as_slice() else {
        return Err(TestCaseError::fail(format!("{events:?}")));
    };
    let written = written.split_once(' ').map_or("", |(_, rest)| rest);
    let written = written.split_once(' ').map_or("", |(_, rest)| rest);
    let read = read.split_once(' ').map_or("", |(_, rest)| rest);
    let value = |text: &str, name: &str| {
        text.strip_prefix(name).and_then(|rest| rest.strip_suffix(')')).map(str::to_owned)
    };
    let written = value(written, "Put(").or_else(|| (written == "Del").then(String::new));
    let read = value(read, "Ok(Some(").map(|read| read[..read.len() - 1].to_owned());
    Ok([written.unwrap_or_default(), read.unwrap_or_default()])
}

/// Writes and reads two values in a format, each written in one of two ways.
fn compare(format: Format, models: [&Model; 2], variants: [bool; 2]) -> Result<(), TestCaseError> {
    let json = matches!(format, Format::Json | Format::Intervals);
    let [written, read] =
        [0, 1].map(|at| Spelling { variant: variants[at], json }.write(models[at]));
    let [written, read] = through(format, &written, &read)?;
    prop_assert_eq!(written == read, models[0] == models[1], "{} and {}", written, read);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn edn_values_are_equal_exactly_if_they_are_read_as_equal(
        a in written(false), b in model(false), variants: [bool; 2],
    ) {
        for format in [Format::Edn, Format::JepsenLog, Format::JepsenText] {
            compare(format, [&a, &a], variants)?;
            compare(format, [&a, &b], variants)?;
        }
    }

    #[test]
    fn json_values_are_equal_exactly_if_they_are_read_as_equal(
        a in written(true), b in model(true), variants: [bool; 2],
    ) {
        for format in [Format::Json, Format::Intervals] {
            compare(format, [&a, &a], variants)?;
            compare(format, [&a, &b], variants)?;
        }
    }

    #[test]
    fn a_value_that_was_read_is_written_as_the_same_value(a in model(false), variant: bool) {
        let written = Spelling { variant, json: false }.write(&a);
        let value = edn::parse(&written).map_err(TestCaseError::fail)?;
        let normal = value.to_string();
        prop_assert_eq!(edn::parse(&normal).map_err(TestCaseError::fail)?, value);
    }
}

/// The value that a format reads.
fn value(format: Format, text: &str) -> Option<String> {
    format.value(text).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn numbers_of_edn_are_equal_within_their_kind() {
    let same = [
        ["7", "7N"],
        ["7", "+7"],
        ["0", "-0"],
        ["1.0", "1.00"],
        ["1.0", "10e-1"],
        ["0.0", "-0.0"],
        ["1.5M", "1.50M"],
        ["2/4", "1/2"],
        ["4/2", "2"],
        ["##NaN", "##NaN"],
        ["1e999", "##Inf"],
        ["123456789012345678901234567890", "123456789012345678901234567890N"],
        ["\\a", "\\u0061"],
        ["0x1F", "31"],
        ["(1 2)", "[1 2]"],
        ["#:a{:b 1}", "{:a/b 1}"],
        ["[1 #_2 3 #_4]", "[1,3]"],
        ["\"\\u00e9\\t\\101\\b\\f\"", "\"é\t\\101\u{8}\u{c}\""],
        ["\"\\uD834\\uDD1E\"", "\"𝄞\""],
    ];
    for [a, b] in same {
        assert_eq!(value(Format::Edn, a), value(Format::Edn, b), "{a} {b}");
    }
    let different = [
        "1",
        "1.0",
        "1M",
        "1/2",
        "-1",
        "\"1\"",
        ":1",
        "\\1",
        "[1]",
        "#{1}",
        "{1 1}",
        "#a 1",
        "#b 1",
        "true",
        "a",
        "#\"1\"",
        "##Inf",
        "##-Inf",
        "##NaN",
        "[[1]]",
        "[1 1]",
        "\"[1]\"",
        "[]",
        "#{}",
        "{}",
        "123456789012345678901234567890",
        "123456789012345678901234567891",
        "\"\"",
        "#inst \"1\"",
    ];
    for (at, a) in different.iter().enumerate() {
        for b in &different[at + 1..] {
            assert_ne!(value(Format::Edn, a), value(Format::Edn, b), "{a} {b}");
        }
    }
}

#[test]
fn numbers_of_json_are_compared_exactly() {
    let same = [
        ["1", "1.0"],
        ["1", "10e-1"],
        ["0", "-0.0"],
        ["1e3", "1000"],
        ["0.1", "1e-1"],
        ["1.50", "1.5"],
        ["1e500", "10e499"],
        ["\"\\u0041\"", "\"A\""],
        ["{\"a\":1,\"b\":2}", "{\"b\":2,\"a\":1.0}"],
        ["18446744073709551617", "18446744073709551617.0"],
    ];
    for [a, b] in same {
        assert_eq!(value(Format::Json, a), value(Format::Json, b), "{a} {b}");
    }
    let different = [
        "1",
        "-1",
        "0.1",
        "\"1\"",
        "[1]",
        "{\"a\":1}",
        "true",
        "\"true\"",
        "9007199254740992",
        "9007199254740993",
        "9007199254740993.5",
        "18446744073709551616",
        "18446744073709551617",
        "0.3",
        "0.30000000000000004",
        "1e500",
        "1e501",
        "\"null\"",
        "[]",
        "{}",
    ];
    for (at, a) in different.iter().enumerate() {
        for b in &different[at + 1..] {
            assert_ne!(value(Format::Json, a), value(Format::Json, b), "{a} {b}");
        }
    }
}

#[test]
fn a_value_of_json_is_understood_as_it_is_printed() {
    for (json, printed) in [("[1, 2]", "[1 2]"), ("{\"a\": [null]}", "{\"a\" [nil]}"), ("1.0", "1")]
    {
        assert_eq!(value(Format::Json, json).as_deref(), Some(printed));
        assert_eq!(value(Format::Json, printed).as_deref(), Some(printed));
    }
    assert_eq!(value(Format::Json, "a"), value(Format::Json, "\"a\""));
    assert_ne!(value(Format::Edn, "a"), value(Format::Edn, "\"a\""));
}

#[test]
fn what_is_no_value_is_refused() {
    for (text, reason) in [
        ("007", "'007' is not a number"),
        ("0x+f", "'0x+f' is not a number"),
        ("[1 2 ...]", "a value that was cut"),
        ("1/0", "'1/0' is not a number"),
        ("1.2.3", "'1.2.3' is not a number"),
        ("#{1 1N}", "a set that contains 1 twice"),
        ("{:a 1 :a 2}", "a map that contains the key :a twice"),
        ("{:a}", "a map with a key without a value"),
        ("\"\\q\"", "unknown escape"),
        ("\"\\ud834\"", "half of a character"),
        ("\"\\400\"", "an octal escape past"),
        ("\"\\u00g0\"", "four hexadecimal digits"),
        ("\\neewline", "is not a character"),
        ("##Info", "expected ##NaN"),
        ("^{:a 1} [1]", "is Clojure's, but not EDN"),
        ("[1", "not closed"),
        ("1 2", "expected one EDN value"),
        ("", "expected one EDN value"),
        (&"[".repeat(100), "nested too deeply"),
    ] {
        let error = Format::Edn.value(text).expect_err(text);
        assert!(error.contains(reason), "{error}\nis not {reason}");
    }
    for text in ["", "1, 2", "{\"a\":1,\"a\":2}", "01", &"[".repeat(100)] {
        assert!(Format::Json.value(text).is_err(), "{text}");
    }
    // Tags before an event are of records. Any number of them needs no stack.
    let tagged = "#a ".repeat(1_000_000) + "{:process :nemesis}";
    assert_eq!(read(&tagged), Ok(Vec::new()));
    assert!(read(&"#a ".repeat(1_000_000)).is_err());
    let nested = "[".repeat(100) + &"]".repeat(100);
    for format in [Format::Edn, Format::Json] {
        let error = format.value(&nested).expect_err("it is deep");
        assert!(error.contains("nested too deeply"), "{error}");
    }
}
