//! The only door to YAML that people write: text in, a tree out in which every value and every
//! key knows its line.
//!
//! The parser behind it is the one inside serde-saphyr (no unsafe code, nesting limited). Going
//! through events and not through serde is what lets a reader report *every* mistake: serde stops
//! at the first one. Anchors and aliases are refused, which also ends alias bombs. See
//! `docs/decisions/0002-yaml.md`.

use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle};

use crate::problem::Problems;

/// Deepest nesting a file may have; ours need eight.
const MAX_DEPTH: usize = 32;

/// Most values a file may have: 1000 nodes with all their fields stay below 50 000.
const MAX_VALUES: usize = 400_000;

/// A value with the line it starts on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// Line, counted from 1.
    pub line: u64,
    /// What stands there.
    pub value: Value,
}

/// What can stand in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// A text, a number or a truth value; which of them is for the reader to say.
    Scalar {
        /// The text without quotes.
        text: String,
        /// Written in quotes or as a block, so never a number or a truth value.
        quoted: bool,
    },
    /// A list.
    List(Vec<Tree>),
    /// A map in the file's order.
    Map(Vec<(Key, Tree)>),
}

/// A key of a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Line, counted from 1.
    pub line: u64,
    /// The key.
    pub name: String,
}

/// A collection that is still open, with the key that waits for its value.
struct Open {
    line: u64,
    collection: Collection,
}

enum Collection {
    List(Vec<Tree>),
    Map(Vec<(Key, Tree)>, Option<Key>),
}

/// Parse one document. What can't be parsed is noted in `problems`, and then there is no tree.
pub fn parse(text: &str, problems: &mut Problems) -> Option<Tree> {
    let mut builder = Builder { open: Vec::new(), root: None, values: 0 };
    let mut documents = 0;
    for next in Parser::new_from_str(text) {
        let (event, span) = match next {
            Ok(next) => next,
            Err(error) => {
                let line = error.marker().line() as u64;
                problems.add(line, "", format!("this is not YAML: {}", error.info()), "valid YAML");
                return None;
            }
        };
        let line = span.start.line() as u64;
        if matches!(event, Event::DocumentStart(..)) {
            documents += 1;
            if documents > 1 {
                problems.add(line, "", "a second document starts here", "one document a file");
                return None;
            }
        }
        if let Err((what, expected)) = builder.take(event, line) {
            problems.add(line, "", what, expected);
            return None;
        }
    }
    if builder.root.is_none() {
        problems.add(0, "", "the file is empty", "`apiVersion`, `kind`, `metadata` and `spec`");
    }
    builder.root
}

struct Builder {
    open: Vec<Open>,
    root: Option<Tree>,
    values: usize,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, line: u64) -> Result<(), (String, String)> {
        match event {
            Event::Scalar(text, style, _, _) => {
                self.put(Tree { line, value: scalar(&text, style) })
            }
            Event::SequenceStart(..) => self.start(line, Collection::List(Vec::new())),
            Event::MappingStart(..) => self.start(line, Collection::Map(Vec::new(), None)),
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(open) = self.open.pop() else { return Ok(()) };
                let value = match open.collection {
                    Collection::List(list) => Value::List(list),
                    Collection::Map(map, _) => Value::Map(map),
                };
                self.put(Tree { line: open.line, value })
            }
            Event::Alias(_) | Event::UnresolvedAlias(_) => Err((
                "`*` names an anchor, and anchors are not read here".to_owned(),
                "the value itself (in quotes, if it starts with `*`)".to_owned(),
            )),
            _ => Ok(()),
        }
    }

    fn start(&mut self, line: u64, collection: Collection) -> Result<(), (String, String)> {
        if self.open.len() >= MAX_DEPTH {
            return Err((
                "values are nested too deep".to_owned(),
                format!("at most {MAX_DEPTH} levels"),
            ));
        }
        if let Some(Open { collection: Collection::Map(_, waiting @ None), .. }) =
            self.open.last_mut()
        {
            *waiting = None;
            return Err((
                "a list or map stands where a key should".to_owned(),
                "a text".to_owned(),
            ));
        }
        self.open.push(Open { line, collection });
        Ok(())
    }

    fn put(&mut self, tree: Tree) -> Result<(), (String, String)> {
        self.values += 1;
        if self.values > MAX_VALUES {
            return Err((
                "the file holds too many values".to_owned(),
                format!("at most {MAX_VALUES}"),
            ));
        }
        match self.open.last_mut().map(|open| &mut open.collection) {
            None => self.root = Some(tree),
            Some(Collection::List(list)) => list.push(tree),
            Some(Collection::Map(map, waiting)) => match (waiting.take(), tree) {
                (Some(key), tree) => map.push((key, tree)),
                (None, Tree { line, value: Value::Scalar { text, .. } }) => {
                    *waiting = Some(Key { line, name: text });
                }
                (None, Tree { line, .. }) => *waiting = Some(Key { line, name: String::new() }),
            },
        }
        Ok(())
    }
}

fn scalar(text: &str, style: ScalarStyle) -> Value {
    let quoted = !matches!(style, ScalarStyle::Plain);
    if !quoted && matches!(text, "" | "~" | "null" | "Null" | "NULL") {
        return Value::Null;
    }
    Value::Scalar { text: text.to_owned(), quoted }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(text: &str) -> Result<Tree, Problems> {
        let mut problems = Problems::new("x.yaml");
        let tree = parse(text, &mut problems);
        problems.finish(tree)
    }

    #[test]
    fn values_and_keys_know_their_lines() {
        let Value::Map(map) = tree("a: 1\nb:\n  - x\n  - \"2\"\nc:\n").expect("parses").value
        else {
            panic!("a map");
        };
        assert_eq!((map[0].0.line, map[1].0.line, map[1].1.line), (1, 2, 3));
        let Value::List(list) = &map[1].1.value else { panic!("a list") };
        assert_eq!(list[1].line, 4);
        assert_eq!(list[1].value, Value::Scalar { text: "2".to_owned(), quoted: true });
        assert_eq!(map[2].1.value, Value::Null);
    }

    #[test]
    fn what_is_not_one_plain_document_is_refused_with_its_line() {
        let deep = "[".repeat(40) + &"]".repeat(40);
        for (text, line, part) in [
            ("a: [1\nb: 2\n", 2, "not YAML"),
            ("a: 1\n---\nb: 2\n", 2, "second document"),
            ("a: &x 1\nb: *x\n", 2, "anchor"),
            ("", 0, "empty"),
            (deep.as_str(), 1, "too deep"),
            ("? [a]\n: 1\n", 1, "where a key should"),
        ] {
            let problems = tree(text).expect_err(text);
            assert_eq!(problems.list().len(), 1, "{text}");
            assert!(problems.list()[0].what.contains(part), "{text}: {problems}");
            assert_eq!(problems.list()[0].line, line, "{text}: {problems}");
        }
    }
}
