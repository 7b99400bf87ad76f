//! Walking a [`Tree`] by hand, noting every mistake on the way.
//!
//! A reader asks a map for the fields it knows; whatever it did not ask for is an unknown field,
//! reported by [`Fields::finish`] with the nearest name it did ask for.

use std::{collections::BTreeMap, str::FromStr};

use crate::{
    problem::Problems,
    yaml::{Key, Tree, Value},
};

/// A place in a file: a value and the path that leads to it.
#[derive(Debug, Clone)]
pub struct Place<'t> {
    /// Path (`spec.nodes[1].role`).
    pub path: String,
    /// What stands there.
    pub tree: &'t Tree,
}

/// The fields of one map.
#[derive(Debug)]
pub struct Fields<'t> {
    path: String,
    line: u64,
    entries: &'t [(Key, Tree)],
    known: Vec<&'static str>,
}

impl<'t> Place<'t> {
    /// The whole file.
    #[must_use]
    pub fn root(tree: &'t Tree) -> Self {
        Self { path: String::new(), tree }
    }

    /// Note that this value is wrong.
    pub fn wrong(
        &self,
        problems: &mut Problems,
        what: impl Into<String>,
        expected: impl Into<String>,
    ) {
        problems.add(self.tree.line, &self.path, what, expected);
    }

    fn wrong_type(&self, problems: &mut Problems, expected: &str) {
        let found = match &self.tree.value {
            Value::Null => "nothing".to_owned(),
            Value::Scalar { text, .. } => format!("`{text}`"),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a map".to_owned(),
        };
        self.wrong(problems, format!("{found} stands here"), expected);
    }

    /// The value as text.
    pub fn text(&self, problems: &mut Problems) -> Option<&'t str> {
        match &self.tree.value {
            Value::Scalar { text, .. } => Some(text),
            _ => {
                self.wrong_type(problems, "a text");
                None
            }
        }
    }

    /// The value as anything that parses from text.
    pub fn parse<T: FromStr>(&self, problems: &mut Problems, expected: &str) -> Option<T> {
        let text = self.text(problems)?;
        let parsed = text.parse().ok();
        if parsed.is_none() {
            self.wrong(problems, format!("`{text}` can't be used"), expected);
        }
        parsed
    }

    /// The value as a whole number within bounds; quoted numbers are texts.
    pub fn number(&self, problems: &mut Problems, least: u64, most: u64) -> Option<u64> {
        let number = match &self.tree.value {
            Value::Scalar { text, quoted: false } => text.parse::<u64>().ok(),
            _ => None,
        };
        let good = number.filter(|number| (least..=most).contains(number));
        if good.is_none() {
            self.wrong_type(problems, &format!("a whole number from {least} to {most}"));
        }
        good
    }

    /// The value as `true` or `false`.
    pub fn boolean(&self, problems: &mut Problems) -> Option<bool> {
        let truth = match &self.tree.value {
            Value::Scalar { text, quoted: false } => text.parse::<bool>().ok(),
            _ => None,
        };
        if truth.is_none() {
            self.wrong_type(problems, "`true` or `false`");
        }
        truth
    }

    /// The value as one of a few words.
    pub fn one_of<T: Clone>(&self, problems: &mut Problems, choices: &[(&str, T)]) -> Option<T> {
        let text = self.text(problems)?;
        let found = choices.iter().find(|(word, _)| *word == text).map(|(_, value)| value.clone());
        if found.is_none() {
            let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
            let quoted: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
            let mut expected = quoted.join(" or ");
            if let Some(near) = nearest(text, &words).filter(|_| words.len() > 1) {
                expected = format!("{expected} (did you mean `{near}`?)");
            }
            self.wrong(problems, format!("`{text}` is not known here"), expected);
        }
        found
    }

    /// The value as a list.
    pub fn list(&self, problems: &mut Problems) -> Option<Vec<Place<'t>>> {
        let Value::List(list) = &self.tree.value else {
            self.wrong_type(problems, "a list (lines that start with `-`)");
            return None;
        };
        let place = |(position, tree)| Place { path: format!("{}[{position}]", self.path), tree };
        Some(list.iter().enumerate().map(place).collect())
    }

    /// The value as a list of texts.
    pub fn texts(&self, problems: &mut Problems) -> Option<Vec<String>> {
        let places = self.list(problems)?;
        let texts: Vec<_> = places.iter().map(|place| place.text(problems)).collect();
        texts.into_iter().map(|text| text.map(str::to_owned)).collect()
    }

    /// The value as a map of any keys; a key that comes twice is noted.
    pub fn entries(&self, problems: &mut Problems) -> Option<Vec<(&'t Key, Place<'t>)>> {
        let Value::Map(entries) = &self.tree.value else {
            self.wrong_type(problems, "a map (lines `key: value`)");
            return None;
        };
        let mut first_seen: BTreeMap<&str, u64> = BTreeMap::new();
        let mut places = Vec::with_capacity(entries.len());
        for (key, tree) in entries {
            let path = join(&self.path, &key.name);
            if let Some(line) = first_seen.get(key.name.as_str()) {
                let what = format!("this stands here a second time (first in line {line})");
                problems.add(key.line, &path, what, "each field once");
                continue;
            }
            first_seen.insert(&key.name, key.line);
            places.push((key, Place { path, tree }));
        }
        Some(places)
    }

    /// The value as a map from text to text.
    pub fn text_map(&self, problems: &mut Problems) -> Option<BTreeMap<String, String>> {
        let entries = self.entries(problems)?;
        let mut map = BTreeMap::new();
        for (key, place) in entries {
            map.insert(key.name.clone(), place.text(problems)?.to_owned());
        }
        Some(map)
    }

    /// The value as a map of known fields.
    pub fn fields(&self, problems: &mut Problems) -> Option<Fields<'t>> {
        self.entries(problems)?;
        let Value::Map(entries) = &self.tree.value else { return None };
        Some(Fields { path: self.path.clone(), line: self.tree.line, entries, known: Vec::new() })
    }
}

impl<'t> Fields<'t> {
    /// The field, if it is there and not empty.
    pub fn optional(&mut self, name: &'static str) -> Option<Place<'t>> {
        self.known.push(name);
        let (_, tree) = self.entries.iter().find(|(key, _)| key.name == name)?;
        (tree.value != Value::Null).then(|| Place { path: join(&self.path, name), tree })
    }

    /// The field; that it is missing is noted.
    pub fn required(
        &mut self,
        problems: &mut Problems,
        name: &'static str,
        expected: &str,
    ) -> Option<Place<'t>> {
        let found = self.optional(name);
        if found.is_none() {
            let line = self.entries.iter().find(|(key, _)| key.name == name);
            let line = line.map_or(self.line, |(key, _)| key.line);
            problems.add(line, &join(&self.path, name), "this is missing", expected);
        }
        found
    }

    /// Note every field nobody asked for, with the nearest name somebody did ask for.
    pub fn finish(self, problems: &mut Problems) {
        for (key, _) in self.entries {
            if self.known.contains(&key.name.as_str()) {
                continue;
            }
            let all = self.known.join(", ");
            let expected = match nearest(&key.name, &self.known) {
                Some(near) => format!("`{near}` (did you mean that? known here: {all})"),
                None => format!("one of {all}"),
            };
            let path = join(&self.path, &key.name);
            problems.add(key.line, &path, "there is no such field", expected);
        }
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// The word nearest to `text`, if one is near enough to be meant.
#[must_use]
pub fn nearest<'w>(text: &str, words: &[&'w str]) -> Option<&'w str> {
    let text: String = text.chars().take(64).collect::<String>().to_lowercase();
    let allowed = (text.chars().count() / 3).clamp(1, 3);
    words
        .iter()
        .map(|word| (edits(&text, &word.to_lowercase()), *word))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

/// How many letters must be put in, taken out or replaced to make one word of the other.
fn edits(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (line, from) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for (column, to) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_offered_and_a_far_one_is_not() {
        let words = ["address", "role", "name", "labels"];
        for (text, near) in [
            ("adress", Some("address")),
            ("Role", Some("role")),
            ("label", Some("labels")),
            ("nmae", None),
            ("hostname", None),
        ] {
            assert_eq!(nearest(text, &words), near, "{text}");
        }
    }
}
