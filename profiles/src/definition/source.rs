//! Reading where an artifact comes from.

use std::path::PathBuf;

use super::{
    Source,
    read::{optional_text, required_text},
};
use crate::{
    fields::{Fields, Place},
    problem::Problems,
};

/// Kinds of sources, and which kinds of artifacts may come from each.
const SOURCES: &[(&str, &[&str])] = &[
    ("path", &["binary", "chart", "package", "file", "agent", "archive"]),
    ("folder", &["file", "archive"]),
    ("oci", &["image"]),
    ("url", &["binary", "chart", "package", "file", "agent", "archive"]),
    ("registry", &["image"]),
    ("helm", &["chart"]),
];

/// The one source that stands there.
pub(super) fn read_source(
    place: &Place<'_>,
    kind: Option<&str>,
    problems: &mut Problems,
) -> Option<Source> {
    let mut fields = place.fields(problems)?;
    let mut given: Vec<_> = SOURCES
        .iter()
        .filter_map(|(name, kinds)| Some((*name, *kinds, fields.optional(name)?)))
        .collect();
    fields.finish(problems);
    let (Some((name, kinds, inner)), true) = (given.pop(), given.is_empty()) else {
        let all: Vec<_> = SOURCES.iter().map(|(name, _)| format!("`{name}`")).collect();
        let what =
            if given.is_empty() { "no source stands here" } else { "several sources stand here" };
        place.wrong(problems, what, format!("exactly one of {}", all.join(", ")));
        return None;
    };
    if let Some(kind) = kind.filter(|kind| !kinds.contains(kind)) {
        let fitting: Vec<_> = SOURCES
            .iter()
            .filter(|(_, kinds)| kinds.contains(&kind))
            .map(|(name, _)| format!("`{name}`"))
            .collect();
        let what = format!("{kind} artifacts can't come from `{name}`");
        place.wrong(problems, what, fitting.join(" or "));
        return None;
    }
    match name {
        "path" => Some(Source::Path(read_path(&inner, problems)?)),
        "folder" => Some(Source::Folder(read_path(&inner, problems)?)),
        _ => {
            let mut fields = inner.fields(problems)?;
            let source = read_fields(name, &mut fields, problems);
            fields.finish(problems);
            source
        }
    }
}

fn read_path(place: &Place<'_>, problems: &mut Problems) -> Option<PathBuf> {
    Some(PathBuf::from(place.text(problems)?))
}

fn read_fields(name: &str, fields: &mut Fields<'_>, problems: &mut Problems) -> Option<Source> {
    match name {
        "oci" => {
            let layout = required_text(fields, "layout", "a folder or tar", problems);
            let reference = optional_text(fields, "reference", problems);
            Some(Source::Oci { layout: layout?.into(), reference: reference? })
        }
        "url" => {
            let url = required_text(fields, "url", "`https://…` or `file:///…`", problems);
            let digest = read_digest(fields, problems);
            Some(Source::Url { url: url?, digest: digest? })
        }
        "registry" => {
            let image = required_text(fields, "image", "a full reference", problems);
            let digest = read_digest(fields, problems);
            Some(Source::Registry { image: image?, digest: digest? })
        }
        _ => {
            let expected = "`https://…` or `oci://…`";
            let repository = required_text(fields, "repository", expected, problems);
            let chart = required_text(fields, "chart", "the chart's name", problems);
            let version = required_text(fields, "version", "its exact version", problems);
            Some(Source::Helm { repository: repository?, chart: chart?, version: version? })
        }
    }
}

/// `Some(None)` when none is stated.
fn read_digest(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<Option<String>> {
    let Some(place) = fields.optional("digest") else { return Some(None) };
    let text = place.text(problems)?;
    if !is_digest(text) {
        let expected = "`sha256:` and 64 lower-case hex digits, or no `digest` (unresolved)";
        place.wrong(problems, format!("`{text}` is not a digest"), expected);
        return None;
    }
    Some(Some(text.to_owned()))
}

/// Whether it is `sha256:` and 64 lower-case hex digits.
pub(crate) fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hex| {
        hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    })
}
