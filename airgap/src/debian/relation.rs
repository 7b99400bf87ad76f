//! Relations between packages: `a (>= 1) | b, c:any`.

use std::{cmp::Ordering, fmt};

use super::version;

/// Longest field read.
const MAX_FIELD: usize = 256 * 1024;

/// What a relation asks of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operator {
    Earlier,
    EarlierOrEqual,
    Equal,
    LaterOrEqual,
    Later,
}

/// One package that is named, with what its version has to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) name: String,
    /// `any`, `amd64`.
    pub(crate) machine: Option<String>,
    pub(crate) bound: Option<(Operator, String)>,
}

impl Operator {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            // `<` and `>` alone mean these, for historical reasons.
            "<<" => Self::Earlier,
            "<=" | "<" => Self::EarlierOrEqual,
            "=" => Self::Equal,
            ">=" | ">" => Self::LaterOrEqual,
            ">>" => Self::Later,
            _ => return None,
        })
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Earlier => "<<",
            Self::EarlierOrEqual => "<=",
            Self::Equal => "=",
            Self::LaterOrEqual => ">=",
            Self::Later => ">>",
        }
    }

    fn allows(self, order: Ordering) -> bool {
        match self {
            Self::Earlier => order.is_lt(),
            Self::EarlierOrEqual => order.is_le(),
            Self::Equal => order.is_eq(),
            Self::LaterOrEqual => order.is_ge(),
            Self::Later => order.is_gt(),
        }
    }
}

impl Named {
    /// Whether a package of that version will do.
    pub(crate) fn takes(&self, found: &str) -> bool {
        self.bound
            .as_ref()
            .is_none_or(|(operator, bound)| operator.allows(version::compare(found, bound)))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{}` is no relation", text.chars().take(100).collect::<String>());
        let text = text.trim();
        let (name, bound) = match text.split_once('(') {
            None => (text, None),
            Some((name, rest)) => {
                let inside = rest.trim_end().strip_suffix(')').ok_or_else(wrong)?.trim();
                let end = inside.find(|letter| !"<>=".contains(letter)).ok_or_else(wrong)?;
                let (operator, version) = inside.split_at(end);
                let operator = Operator::parse(operator).ok_or_else(wrong)?;
                (name.trim(), Some((operator, version.trim().to_owned())))
            }
        };
        let (name, machine) = match name.split_once(':') {
            Some((name, machine)) => (name, Some(machine.to_owned())),
            None => (name, None),
        };
        let good = |text: &str| {
            !text.is_empty()
                && text.bytes().all(|byte| byte.is_ascii_graphic() && !b"()[]<>|,:".contains(&byte))
        };
        let version_good = bound.as_ref().is_none_or(|(_, version)| {
            !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_graphic())
        });
        if !good(name) || !version_good || machine.as_deref().is_some_and(|text| !good(text)) {
            return Err(wrong());
        }
        Ok(Self { name: name.to_owned(), machine, bound })
    }
}

impl fmt::Display for Named {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.name)?;
        match &self.bound {
            Some((operator, version)) => write!(formatter, " ({} {version})", operator.as_str()),
            None => Ok(()),
        }
    }
}

/// A field: groups that all have to hold, of alternatives of which one has to.
pub(crate) fn parse(field: &str) -> Result<Vec<Vec<Named>>, String> {
    if field.len() > MAX_FIELD {
        return Err(format!("a relation of {} bytes is too long", field.len()));
    }
    let groups = field.split(',').filter(|group| !group.trim().is_empty());
    groups.map(|group| group.split('|').map(Named::parse).collect()).collect()
}

/// Alternatives as they are written.
pub(crate) fn shown(group: &[Named]) -> String {
    group.iter().map(ToString::to_string).collect::<Vec<_>>().join(" | ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn groups_and_alternatives_are_told_apart() {
        let groups = parse("libc6 (>= 2.34), a:any | b (<< 2:1-1),\n c(=1) ,").unwrap();
        let texts: Vec<_> = groups.iter().map(|group| shown(group)).collect();
        assert_eq!(texts, ["libc6 (>= 2.34)", "a | b (<< 2:1-1)", "c (= 1)"]);
        assert_eq!(groups[1][0].machine.as_deref(), Some("any"));
        assert!(groups[1][1].takes("2:0.9") && !groups[1][1].takes("2:1-1"));
        assert!(groups[1][0].takes("anything"));
    }

    #[test]
    fn what_is_no_relation_is_refused() {
        for bad in
            ["a (", "a (>= )", "a (>= 1", "a b", "a [amd64]", "a <!nocheck>", "a (1)", "|", "a:"]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_judged_without_a_panic(text in ".{0,60}") {
            let _ = parse(&text);
        }
    }
}
