//! Numbers in the values of objects, which are JSON. JSON has few that are exact, so readers write the others as
//! EDN: `{"edn":"1/2"}`. Does not know what they count.

use serde_json::{Value as Json, json};

/// A number in the value of an object.
///
/// ```
/// use history::Number;
/// use serde_json::json;
///
/// assert_eq!(Number::of(&json!(7.0)), Some(Number::Integer(7)));
/// assert_eq!(Number::of(&json!({"edn": "18446744073709551616"})), Some(Number::Integer(1 << 64)));
/// assert_eq!(Number::of(&json!(1.5)), Some(Number::Other));
/// assert_eq!(Number::of(&json!("7")), None);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    /// An integer of at most 96 bits: sums of as many as fit in memory do not overflow.
    Integer(i128),
    /// One that is no integer, or is larger.
    Other,
}

/// The largest integer that counts as one.
const INTEGER_MAX: u128 = 1 << 96;

/// The integers that floating-point numbers tell apart.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

impl Number {
    /// The number that a value is. `None`: it is none.
    #[must_use]
    pub fn of(value: &Json) -> Option<Number> {
        let integer = match value {
            Json::Number(number) => number
                .as_i64()
                .map(i128::from)
                .or_else(|| number.as_u64().map(i128::from))
                .or_else(|| number.as_f64().and_then(whole)),
            _ => {
                let digits = written(value)?;
                digits.parse().ok()
            }
        };
        let is_small = |integer: &i128| integer.unsigned_abs() <= INTEGER_MAX;
        Some(integer.filter(is_small).map_or(Number::Other, Number::Integer))
    }

    /// An integer as a value.
    pub(crate) fn json(integer: i128) -> Json {
        match i64::try_from(integer) {
            Ok(small) => small.into(),
            Err(_) => json!({ "edn": integer.to_string() }),
        }
    }
}

fn whole(number: f64) -> Option<i128> {
    (number.fract() == 0.0 && number.abs() <= EXACT_MAX).then_some(number as i128)
}

/// A number that is written as EDN.
fn written(value: &Json) -> Option<&str> {
    let members = value.as_object().filter(|members| members.len() == 1)?;
    let text = members.get("edn")?.as_str()?;
    let digits = text.strip_prefix('-').unwrap_or(text);
    // No keyword, symbol or character begins like this.
    let is_number = digits.starts_with(|first: char| first.is_ascii_digit());
    (is_number || text.starts_with("##")).then_some(text)
}
