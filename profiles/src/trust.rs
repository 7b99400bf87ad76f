//! The trust file (`kind: Trust`): the public keys a site takes bundles from.
//!
//! A builder changes his key by signing with the old and the new one for a while; a site adds the new
//! key in that time and retires the old one later. Retired keys stay in the file: a bundle that only
//! they signed is then refused with the reason, and nobody adds such a key again by mistake.

use std::path::Path;

use crate::{
    cluster::read_kind,
    fields::{Fields, Place},
    moment,
    problem::{LoadError, Problems, read_bounded},
    yaml,
};

/// Most keys in a file.
pub const MAX_KEYS: usize = 100;

const ID: &str = "16 upper-case hex digits, as `bundle key new` shows them";

/// A trust file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TrustFile {
    /// The keys, in the file's order; no two share an id.
    pub keys: Vec<TrustEntry>,
}

/// One key of a site.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TrustEntry {
    /// The key's id, as it is shown everywhere.
    pub id: String,
    /// Its line of base64, as in the `.pub` file.
    pub key: String,
    /// Whose it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Counts from then on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Moment>,
    /// Counts until then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_after: Option<Moment>,
    /// Never counts again.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub retired: bool,
}

/// A moment in UTC, to the second: `2026-01-02T03:04:05Z`, the one spelling, so that the order of
/// texts is the order of time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Moment(String);

/// A text that is not a [`Moment`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a time in UTC like `2026-01-02T03:04:05Z`, or a day like `2026-01-02`")]
pub struct MomentError;

impl std::str::FromStr for Moment {
    type Err = MomentError;

    /// A day alone is its first second.
    fn from_str(text: &str) -> Result<Self, MomentError> {
        let whole = if text.len() == 10 { format!("{text}T00:00:00Z") } else { text.to_owned() };
        // Year 0 is in the calendar, and in no key.
        let is_one = moment::parse(&whole).is_some() && !whole.starts_with("0000");
        if is_one { Ok(Self(whole)) } else { Err(MomentError) }
    }
}

impl std::fmt::Display for Moment {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl TrustEntry {
    /// Why the key doesn't count at `now`, as what follows "key … "; nothing where it does.
    #[must_use]
    pub fn refusal(&self, now: &Moment) -> Option<String> {
        if self.retired {
            return Some("was retired".to_owned());
        }
        if let Some(from) = self.not_before.as_ref().filter(|from| now < *from) {
            return Some(format!("is not valid before {from} (now {now})"));
        }
        let until = self.not_after.as_ref().filter(|until| now > *until)?;
        Some(format!("expired at {until} (now {now})"))
    }
}

/// Whether a text is meant as a trust file rather than as one public key.
#[must_use]
pub fn is_trust_file(text: &str) -> bool {
    text.trim_start().starts_with('{')
        || text.lines().any(|line| line.starts_with("kind:") || line.starts_with("apiVersion:"))
}

/// Read and prove a trust file.
///
/// # Errors
/// When the file can't be read, or with every mistake in it.
pub fn load(path: &Path) -> Result<TrustFile, LoadError> {
    let text = read_bounded(path)?;
    parse(&text, &path.display().to_string()).map_err(LoadError::Invalid)
}

/// Prove a trust file's text.
///
/// # Errors
/// Every mistake in the text, each with line, field and what would be right.
pub fn parse(text: &str, file_name: &str) -> Result<TrustFile, Problems> {
    let mut problems = Problems::new(file_name);
    let tree = yaml::parse(text, &mut problems);
    let file = tree.and_then(|tree| read_file(&Place::root(&tree), &mut problems));
    problems.finish(file)
}

fn read_file(root: &Place<'_>, problems: &mut Problems) -> Option<TrustFile> {
    let mut file = root.fields(problems)?;
    read_kind(&mut file, "Trust", problems);
    let keys = file.required(problems, "keys", "a list of keys");
    file.finish(problems);
    let places = keys?.list(problems)?;
    if places.len() > MAX_KEYS {
        root.wrong(problems, format!("{} keys stand here", places.len()), "at most 100");
        return None;
    }
    let mut keys: Vec<TrustEntry> = Vec::new();
    for place in &places {
        let Some(entry) = read_entry(place, problems) else { continue };
        if keys.iter().any(|other| other.id == entry.id) {
            let what = format!("the key `{}` stands here a second time", entry.id);
            place.wrong(problems, what, "each id once");
        }
        keys.push(entry);
    }
    Some(TrustFile { keys })
}

fn read_entry(place: &Place<'_>, problems: &mut Problems) -> Option<TrustEntry> {
    let mut fields = place.fields(problems)?;
    let id = fields.required(problems, "id", ID).and_then(|place| read_id(&place, problems));
    let key = "the key's line of base64 (`RW…`)";
    let key = fields.required(problems, "key", key).and_then(|place| place.text(problems));
    let comment = fields.optional("comment").map(|place| place.text(problems));
    let not_before = read_moment(&mut fields, "notBefore", problems);
    let not_after = read_moment(&mut fields, "notAfter", problems);
    let retired = fields.optional("retired").map(|place| place.boolean(problems));
    fields.finish(problems);
    let entry = TrustEntry {
        id: id?,
        key: key?.to_owned(),
        comment: lift(comment)?.map(str::to_owned),
        not_before: lift(not_before)?,
        not_after: lift(not_after)?,
        retired: lift(retired)?.unwrap_or(false),
    };
    if entry.not_before.is_some()
        && entry.not_after.is_some()
        && entry.not_before >= entry.not_after
    {
        place.wrong(problems, "`notAfter` is not after `notBefore`", "a key that counts some time");
    }
    Some(entry)
}

/// `None` when the field was there and wrong.
fn lift<T>(field: Option<Option<T>>) -> Option<Option<T>> {
    field.map_or(Some(None), |value| value.map(Some))
}

fn read_id(place: &Place<'_>, problems: &mut Problems) -> Option<String> {
    let text = place.text(problems)?;
    let good = text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F'));
    if !good {
        place.wrong(problems, format!("`{text}` is not a key id"), ID);
    }
    good.then(|| text.to_owned())
}

fn read_moment(
    fields: &mut Fields<'_>,
    name: &'static str,
    problems: &mut Problems,
) -> Option<Option<Moment>> {
    let expected = "a time in UTC like `2026-01-02T03:04:05Z`, or a day like `2026-01-02`";
    fields.optional(name).map(|place| place.parse(problems, expected))
}

impl TrustFile {
    /// The file's text.
    #[must_use]
    pub fn to_text(&self) -> String {
        #[derive(serde::Serialize)]
        #[serde(rename_all = "camelCase")]
        struct File<'a> {
            api_version: &'static str,
            kind: &'static str,
            keys: &'a [TrustEntry],
        }
        let api_version = crate::cluster::API_VERSION;
        let file = File { api_version, kind: "Trust", keys: &self.keys };
        let yaml = serde_yaml::to_string(&file).expect("texts and lists can be written");
        format!(
            "# The keys whose bundles this site takes; `kdc-install bundle trust` edits it.\n{yaml}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "apiVersion: kdc.dev/v1\nkind: Trust\nkeys:\n";

    fn entry(id: &str) -> TrustEntry {
        TrustEntry {
            id: id.to_owned(),
            key: "RWQf".to_owned(),
            comment: Some("build: team".to_owned()),
            not_before: Some("2026-01-01".parse().unwrap()),
            not_after: None,
            retired: false,
        }
    }

    #[test]
    fn what_is_written_reads_back_and_json_reads_too() {
        let old = TrustEntry { retired: true, comment: None, ..entry("00000000000000E1") };
        let file = TrustFile { keys: vec![entry("0123456789012345"), old] };
        let text = file.to_text();
        assert!(is_trust_file(&text));
        assert_eq!(parse(&text, "t").unwrap_or_else(|p| panic!("{p}\n{text}")), file);
        let json = r#"{"apiVersion":"kdc.dev/v1","kind":"Trust","keys":[
            {"id":"0123456789ABCDEF","key":"RW","notAfter":"2026-02-03T04:05:06Z"}]}"#;
        let file = parse(json, "t").unwrap_or_else(|p| panic!("{p}"));
        assert!(is_trust_file(json));
        assert_eq!(file.keys[0].not_after.as_ref().unwrap().to_string(), "2026-02-03T04:05:06Z");
    }

    #[test]
    fn a_public_key_is_no_trust_file() {
        for text in ["untrusted comment: kind: Trust\nRWQf6LRC\n", "RWQf6LRC", ""] {
            assert!(!is_trust_file(text), "{text:?}");
        }
    }

    #[test]
    fn every_mistake_is_named_with_its_line() {
        let id = "id: \"0123456789ABCDEF\"";
        for (entries, expected) in [
            ("- {key: RW}".to_owned(), "t:4: keys[0].id: this is missing"),
            ("- {id: abc, key: RW}".to_owned(), "`abc` is not a key id"),
            (format!("- {{{id}}}"), "keys[0].key: this is missing"),
            (format!("- {{{id}, key: RW}}\n- {{{id}, key: RX}}"), "t:5: keys[1]: the key"),
            (format!("- {{{id}, key: RW, notAfter: 2026-02-30}}"), "keys[0].notAfter"),
            (format!("- {{{id}, key: RW, retired: perhaps}}"), "`true` or `false`"),
            (format!("- {{{id}, key: RW, expires: 2026-01-01}}"), "there is no such field"),
            (
                format!("- {{{id}, key: RW, notBefore: 2026-01-02, notAfter: 2026-01-02}}"),
                "not after `notBefore`",
            ),
        ] {
            let problems = parse(&format!("{FILE}{entries}\n"), "t").unwrap_err().to_string();
            assert!(problems.contains(expected), "{problems}");
        }
        let many: String =
            (0..=MAX_KEYS).map(|n| format!("- {{id: \"{n:016}\", key: RW}}\n")).collect();
        assert!(parse(&format!("{FILE}{many}"), "t").is_err());
        assert!(parse("kind: Trust\nkeys: []\n", "t").is_err(), "without apiVersion");
    }

    #[test]
    fn moments_are_real_and_have_one_spelling() {
        for (text, good) in [
            ("2026-11-23T09:00:00Z", true),
            ("2024-02-29", true),
            ("2100-02-29", false),
            ("2026-13-01", false),
            ("2026-00-01", false),
            ("2026-01-01T24:00:00Z", false),
            ("2026-01-01T00:00:00+01:00", false),
            ("2026-01-01 00:00:00Z", false),
            ("\u{e4}026-01-0", false),
            ("", false),
        ] {
            assert_eq!(text.parse::<Moment>().is_ok(), good, "{text:?}");
        }
    }

    #[test]
    fn a_key_counts_from_its_first_to_its_last_moment_unless_retired() {
        let now = |text: &str| text.parse::<Moment>().unwrap();
        let key = TrustEntry { not_after: Some(now("2026-12-31")), ..entry("0") };
        assert_eq!(key.refusal(&now("2026-01-01")), None);
        assert_eq!(key.refusal(&now("2026-12-31")), None);
        let early = key.refusal(&now("2025-12-31T23:59:59Z")).unwrap();
        assert!(early.contains("not valid before 2026-01-01T00:00:00Z"), "{early}");
        let late = key.refusal(&now("2026-12-31T00:00:01Z")).unwrap();
        assert!(late.contains("expired at 2026-12-31T00:00:00Z"), "{late}");
        let retired = TrustEntry { retired: true, ..key };
        assert_eq!(retired.refusal(&now("2026-06-01")).unwrap(), "was retired");
    }
}
