//! Bounds of what a line holds, whoever filled it.

use serde_json::Value;

/// Longest text in a line.
const MOST_TEXT: usize = 1000;
/// Most members of a list or an object.
const MOST_MEMBERS: usize = 24;
/// Deepest nesting.
const MOST_DEPTH: usize = 8;

/// Cut a text to its bound, at a character, without what a terminal would obey.
#[must_use]
pub(super) fn text(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    let mut cut = String::new();
    for character in text.chars().map(plain) {
        if cut.len() + character.len_utf8() > MOST_TEXT {
            cut.push('…');
            break;
        }
        cut.push(character);
    }
    cut
}

/// Cut a body to its bounds.
#[must_use]
pub(super) fn bounded(value: &Value) -> Value {
    at_depth(value, 0)
}

fn at_depth(value: &Value, depth: usize) -> Value {
    match value {
        Value::String(long) => Value::String(text(long)),
        Value::Array(_) | Value::Object(_) if depth >= MOST_DEPTH => Value::String("…".to_owned()),
        Value::Array(list) => Value::Array(
            list.iter().take(MOST_MEMBERS).map(|one| at_depth(one, depth + 1)).collect(),
        ),
        Value::Object(map) => {
            let pairs = map.iter().take(MOST_MEMBERS);
            Value::Object(pairs.map(|(key, one)| (text(key), at_depth(one, depth + 1))).collect())
        }
        other => other.clone(),
    }
}
