//! [`Found`]: a value with the place it came from; "not there" and "could not look" are two answers.
//!
//! An operator who reads "no ECC" must know whether the machine said so or nobody could ask.
//! In JSON: `{"value": 64, "source": "/sys/…"}`, `{"absent": true, "source": "/sys/…"}` or
//! `{"unknown": "permission denied", "source": "/sys/…"}`.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, ser::SerializeMap as _};

/// What a probe found, and where it looked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found<T> {
    /// The value that was there.
    Present {
        /// What was read.
        value: T,
        /// File, call or table it was read from.
        source: String,
    },
    /// The place was looked at, and the machine has no such thing.
    Absent {
        /// Place that shows that there is none.
        source: String,
    },
    /// The place could not be looked at, or what it held made no sense.
    Unknown {
        /// Place that was tried.
        source: String,
        /// Why nothing can be said.
        reason: String,
    },
}

impl<T> Found<T> {
    /// A value that was read at `source`.
    pub fn present(value: T, source: impl Into<String>) -> Self {
        Self::Present { value, source: source.into() }
    }

    /// `source` shows that there is none.
    pub fn absent(source: impl Into<String>) -> Self {
        Self::Absent { source: source.into() }
    }

    /// `source` could not be looked at.
    pub fn unknown(source: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Unknown { source: source.into(), reason: reason.into() }
    }

    /// The value, where there is one.
    pub fn value(&self) -> Option<&T> {
        match self {
            Self::Present { value, .. } => Some(value),
            Self::Absent { .. } | Self::Unknown { .. } => None,
        }
    }

    /// Where it was looked for.
    pub fn source(&self) -> &str {
        match self {
            Self::Present { source, .. }
            | Self::Absent { source }
            | Self::Unknown { source, .. } => source,
        }
    }

    /// Why nothing can be said, where nothing can be said.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Unknown { reason, .. } => Some(reason),
            Self::Present { .. } | Self::Absent { .. } => None,
        }
    }

    /// Read the value as something else, from the same place.
    pub fn map<U>(self, as_what: impl FnOnce(T) -> U) -> Found<U> {
        match self {
            Self::Present { value, source } => Found::Present { value: as_what(value), source },
            Self::Absent { source } => Found::Absent { source },
            Self::Unknown { source, reason } => Found::Unknown { source, reason },
        }
    }

    /// Read the value as something else; what makes no sense becomes unknown with the reason.
    pub fn parsed<U>(self, parse: impl FnOnce(T) -> Result<U, String>) -> Found<U> {
        match self {
            Self::Present { value, source } => match parse(value) {
                Ok(value) => Found::Present { value, source },
                Err(reason) => Found::Unknown { source, reason },
            },
            Self::Absent { source } => Found::Absent { source },
            Self::Unknown { source, reason } => Found::Unknown { source, reason },
        }
    }
}

impl<T: Serialize> Serialize for Found<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        match self {
            Self::Present { value, .. } => map.serialize_entry("value", value)?,
            Self::Absent { .. } => map.serialize_entry("absent", &true)?,
            Self::Unknown { reason, .. } => map.serialize_entry("unknown", reason)?,
        }
        map.serialize_entry("source", self.source())?;
        map.end()
    }
}

/// The three forms in one, as they are written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, bound = "T: Deserialize<'de>")]
struct Written<T> {
    #[serde(default = "Option::default")]
    value: Option<T>,
    #[serde(default)]
    absent: bool,
    unknown: Option<String>,
    source: String,
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Found<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Written { value, absent, unknown, source } = Written::deserialize(deserializer)?;
        match (value, absent, unknown) {
            (Some(value), false, None) => Ok(Self::Present { value, source }),
            (None, true, None) => Ok(Self::Absent { source }),
            (None, false, Some(reason)) => Ok(Self::Unknown { source, reason }),
            _ => Err(serde::de::Error::custom(
                "exactly one of `value`, `absent: true` and `unknown` is needed",
            )),
        }
    }
}

impl<T: JsonSchema> JsonSchema for Found<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("Found_{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let value = generator.subschema_for::<T>();
        json_schema!({
            "oneOf": [
                {
                    "type": "object",
                    "properties": { "value": value, "source": { "type": "string" } },
                    "required": ["value", "source"],
                    "additionalProperties": false,
                },
                {
                    "type": "object",
                    "properties": { "absent": { "const": true }, "source": { "type": "string" } },
                    "required": ["absent", "source"],
                    "additionalProperties": false,
                },
                {
                    "type": "object",
                    "properties": {
                        "unknown": { "type": "string" },
                        "source": { "type": "string" },
                    },
                    "required": ["unknown", "source"],
                    "additionalProperties": false,
                },
            ],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_answer_is_written_in_its_own_form_and_read_back_as_it_was() {
        for (found, text) in [
            (Found::present(64_u64, "/sys/a"), r#"{"value":64,"source":"/sys/a"}"#),
            (Found::absent("/sys/a"), r#"{"absent":true,"source":"/sys/a"}"#),
            (Found::unknown("/sys/a", "no right"), r#"{"unknown":"no right","source":"/sys/a"}"#),
        ] {
            assert_eq!(serde_json::to_string(&found).unwrap(), text);
            assert_eq!(serde_json::from_str::<Found<u64>>(text).unwrap(), found);
        }
    }

    #[test]
    fn two_answers_or_none_are_refused() {
        for text in [
            r#"{"source":"/sys/a"}"#,
            r#"{"absent":false,"source":"/sys/a"}"#,
            r#"{"value":1,"absent":true,"source":"/sys/a"}"#,
            r#"{"value":1,"unknown":"x","source":"/sys/a"}"#,
            r#"{"value":1}"#,
            r#"{"value":1,"source":"/sys/a","more":1}"#,
        ] {
            assert!(serde_json::from_str::<Found<u64>>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_unknown_and_not_absent() {
        let text = Found::present("x".to_owned(), "/sys/a");
        let number = text.parsed(|text| text.parse::<u8>().map_err(|cause| cause.to_string()));
        assert_eq!(number.reason(), Some("invalid digit found in string"));
        assert_eq!(number.source(), "/sys/a");
        assert_eq!(Found::<u8>::absent("/a").map(u16::from), Found::absent("/a"));
    }
}
