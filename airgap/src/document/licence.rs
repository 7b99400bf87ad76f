//! Licences: SPDX expressions, checked, since half of what people write as one is none.

use spdx::{Expression, LicenseItem};

/// A licence as somebody stated it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Licence {
    /// An SPDX expression; with the licences in it that are not on SPDX's list (`LicenseRef-…`).
    Expression {
        /// As it was stated.
        text: String,
        /// Names of licences that only whoever stated them knows.
        references: Vec<String>,
    },
    /// A text that is none.
    Other {
        /// As it was stated.
        text: String,
        /// What is wrong with it.
        what: String,
    },
    /// Nobody said anything.
    Unknown,
}

impl Licence {
    /// Judges what was stated.
    #[must_use]
    pub fn of(stated: Option<&str>) -> Self {
        let Some(text) = stated.map(str::trim).filter(|text| !text.is_empty()) else {
            return Self::Unknown;
        };
        let text = text.to_owned();
        match Expression::parse(&text) {
            Err(error) => Self::Other { what: error.reason.to_string(), text },
            Ok(expression) => {
                let mut references: Vec<_> = expression
                    .requirements()
                    .filter_map(|found| match &found.req.license {
                        LicenseItem::Spdx { .. } => None,
                        other => Some(other.to_string()),
                    })
                    .collect();
                references.sort();
                references.dedup();
                Self::Expression { text, references }
            }
        }
    }

    /// The expression, where it is one.
    #[must_use]
    pub fn expression(&self) -> Option<&str> {
        match self {
            Self::Expression { text, .. } => Some(text),
            Self::Other { .. } | Self::Unknown => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_is_told_from_what_only_looks_like_one() {
        for good in ["Apache-2.0", "MIT OR Apache-2.0", "GPL-2.0-only WITH Classpath-exception-2.0"]
        {
            assert_eq!(Licence::of(Some(good)).expression(), Some(good));
        }
        for bad in ["Apache 2", "GPL", "MIT/X11", "see LICENSE"] {
            let found = Licence::of(Some(bad));
            assert!(matches!(found, Licence::Other { .. }), "{bad}: {found:?}");
        }
        for none in [None, Some(""), Some(" ")] {
            assert_eq!(Licence::of(none), Licence::Unknown);
        }
    }

    #[test]
    fn licences_of_somebody_s_own_are_listed() {
        let found = Licence::of(Some("MIT AND LicenseRef-vendor-1 AND LicenseRef-a"));
        let Licence::Expression { references, .. } = found else { panic!("{found:?}") };
        assert_eq!(references, ["LicenseRef-a", "LicenseRef-vendor-1"]);
    }
}
