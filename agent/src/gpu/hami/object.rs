//! JSON objects whose members keep their order and their bytes, so that what is not ours comes out as it went in.

use serde::de::IgnoredAny;
use serde_json::{Deserializer, Value};

/// Most members of one object, and most items of a list.
const MAX_MEMBERS: usize = 20_000;

/// An object. Names are compared as Go's decoder does: whatever the case of their letters.
#[derive(Debug, Clone, Default)]
pub(super) struct Object {
    /// Names, and values as they are written.
    members: Vec<(String, String)>,
    /// The whole as it was read, while nothing in it was changed.
    raw: Option<String>,
}

/// What is left of a text, while its punctuation is walked by hand and its values are left to the parser.
struct Walk<'t> {
    rest: &'t str,
}

impl<'t> Walk<'t> {
    fn space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
    }

    fn take(&mut self, sign: char) -> Result<(), String> {
        self.space();
        match self.rest.strip_prefix(sign) {
            Some(rest) => self.rest = rest,
            None => {
                let found: String = self.rest.chars().take(20).collect();
                return Err(format!("`{sign}` is missing before `{}`", found.escape_debug()));
            }
        }
        Ok(())
    }

    fn next_is(&mut self, sign: char) -> bool {
        self.space();
        self.rest.starts_with(sign)
    }

    /// The text of one whole value.
    fn value(&mut self) -> Result<&'t str, String> {
        self.space();
        let mut values = Deserializer::from_str(self.rest).into_iter::<IgnoredAny>();
        match values.next() {
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(error.to_string()),
            None => return Err("it ends too early".to_owned()),
        }
        let (value, rest) = self.rest.split_at(values.byte_offset());
        self.rest = rest;
        Ok(value)
    }

    fn end(&mut self) -> Result<(), String> {
        self.space();
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err("something follows after its end".to_owned())
        }
    }
}

/// The texts of a list's items.
pub(super) fn items(text: &str) -> Result<Vec<&str>, String> {
    let mut walk = Walk { rest: text };
    let mut items = Vec::new();
    walk.take('[')?;
    while !walk.next_is(']') {
        if !items.is_empty() {
            walk.take(',')?;
        }
        items.push(walk.value()?);
        if items.len() > MAX_MEMBERS {
            return Err(format!("it has more than {MAX_MEMBERS} items"));
        }
    }
    walk.take(']')?;
    walk.end()?;
    Ok(items)
}

impl Object {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut walk = Walk { rest: text };
        let mut members = Vec::new();
        walk.take('{')?;
        while !walk.next_is('}') {
            if !members.is_empty() {
                walk.take(',')?;
            }
            let name: String =
                serde_json::from_str(walk.value()?).map_err(|_| "a name is no text".to_owned())?;
            walk.take(':')?;
            members.push((name, walk.value()?.to_owned()));
            if members.len() > MAX_MEMBERS {
                return Err(format!("it has more than {MAX_MEMBERS} members"));
            }
        }
        walk.take('}')?;
        walk.end()?;
        Ok(Self { members, raw: Some(text.trim().to_owned()) })
    }

    /// The text of every value of that name, in order.
    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.members
            .iter()
            .filter(move |(known, _)| same(known, name))
            .map(|(_, value)| value.as_str())
    }

    /// The value that Go's decoder takes: the last.
    pub(super) fn value(&self, name: &str) -> Option<Value> {
        let last = self.all(name).last()?;
        // Deeper than the parser goes is nothing that we or HAMi read.
        Some(serde_json::from_str(last).unwrap_or(Value::Null))
    }

    pub(super) fn remove(&mut self, name: &str) {
        let before = self.members.len();
        self.members.retain(|(known, _)| !same(known, name));
        if self.members.len() != before {
            self.raw = None;
        }
    }

    /// Set a member, by its text, where it stands, or at the end; others of its name go.
    pub(super) fn set(&mut self, name: &str, value: String) {
        let place = self
            .members
            .iter()
            .position(|(known, _)| same(known, name))
            .unwrap_or(self.members.len());
        self.remove(name);
        self.raw = None;
        self.members.insert(place.min(self.members.len()), (name.to_owned(), value));
    }

    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    fn lines(&self, colon: &str) -> Vec<String> {
        let line = |(name, value): &(String, String)| {
            format!("{}{colon}{value}", Value::from(name.as_str()))
        };
        self.members.iter().map(line).collect()
    }

    /// Its text: as it was read, where nothing was changed.
    pub(super) fn to_text(&self) -> String {
        self.raw.clone().unwrap_or_else(|| format!("{{{}}}", self.lines(":").join(",")))
    }

    /// Its text, a member a line.
    pub(super) fn to_lines(&self) -> String {
        format!("{{\n{}\n}}\n", self.lines(": ").join(",\n"))
    }
}

/// Go folds letters beyond ASCII too, but no name of HAMi's has such.
pub(super) fn same(left: &str, right: &str) -> bool {
    left.eq_ignore_ascii_case(right)
}
