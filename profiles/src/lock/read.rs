//! From a lock's text to a proved [`BundleLock`].

use std::path::Path;

use super::{BundleLock, LockedArtifact, LockedBlob};
use crate::{
    cluster::{read_head_open, read_metadata_name, read_optional},
    definition::{
        NODE_ROLES, is_digest, is_kind, optional_text, read_platform, read_unpack_to, required_text,
    },
    fields::{Fields, Place},
    problem::{LoadError, Problems, read_at_most},
    yaml,
};

/// Largest lock read, 16 MiB: about 20 000 packages.
pub const MAX_LOCK_BYTES: u64 = 16 * 1024 * 1024;

const SCHEMES: &[&str] = &["https:", "http:", "file:", "oci:", "path:", "folder:", "layout:"];

/// Read and prove a lock.
///
/// # Errors
/// When the file can't be read, or with every mistake in it.
pub fn load(path: &Path) -> Result<BundleLock, LoadError> {
    let text = read_at_most(path, MAX_LOCK_BYTES)?;
    parse(&text, &path.display().to_string()).map_err(LoadError::Invalid)
}

/// Prove a lock's text.
///
/// # Errors
/// Every mistake in the text, each with line, field and what would be right.
pub fn parse(text: &str, file_name: &str) -> Result<BundleLock, Problems> {
    let mut problems = Problems::new(file_name);
    let tree = yaml::parse(text, &mut problems);
    let lock = tree.and_then(|tree| read_file(&Place::root(&tree), &mut problems));
    problems.finish(lock)
}

fn read_file(root: &Place<'_>, problems: &mut Problems) -> Option<BundleLock> {
    let mut file = root.fields(problems)?;
    let metadata = read_head_open(&mut file, "BundleLock", problems);
    let (mut name, mut version) = (None, None);
    if let Some(mut metadata) = metadata {
        name = read_metadata_name(&mut metadata, true, problems);
        version = required_text(&mut metadata, "version", "the bundle's version", problems);
        metadata.finish(problems);
    }
    let definition = read_digest(&mut file, "definition", problems);
    let created = file
        .required(problems, "created", "a time, e.g. `2026-01-02T03:04:05Z`")
        .and_then(|place| read_time(&place, problems));
    let parameters =
        read_optional(file.optional("parameters"), problems, |place, p| place.text_map(p));
    let artifacts = file
        .required(problems, "artifacts", "a list of artifacts")
        .and_then(|place| read_artifacts(&place, problems));
    file.finish(problems);
    Some(BundleLock {
        name: name?,
        version: version?,
        definition: definition?,
        created: created?,
        parameters: parameters?,
        artifacts: artifacts?,
    })
}

fn read_artifacts(place: &Place<'_>, problems: &mut Problems) -> Option<Vec<LockedArtifact>> {
    let places = place.list(problems)?;
    let mut artifacts: Vec<LockedArtifact> = Vec::with_capacity(places.len());
    for place in &places {
        let Some(artifact) = read_artifact(place, problems) else { continue };
        // Two sets of packages may need the same one; it is the same one then.
        let again =
            artifacts.iter().rev().take_while(|one| one.name == artifact.name).find(|one| {
                let LockedArtifact { kind, platform, entry, digest, .. } = one;
                (kind, platform) == (&artifact.kind, &artifact.platform)
                    && (kind != "package" || *entry == artifact.entry || *digest != artifact.digest)
            });
        if again.is_some() {
            let what = format!("{} `{}` stands here a second time", artifact.kind, artifact.name);
            place.wrong(problems, what, "each kind, name and platform once");
        }
        artifacts.push(artifact);
    }
    (artifacts.len() == places.len()).then_some(artifacts)
}

fn read_artifact(place: &Place<'_>, problems: &mut Problems) -> Option<LockedArtifact> {
    let mut fields = place.fields(problems)?;
    let kind = required_text(&mut fields, "kind", "what it is", problems);
    if let Some(kind) = kind.as_deref().filter(|kind| !is_kind(kind)) {
        place.wrong(problems, format!("`{kind}` is no kind of artifact"), "e.g. `image`");
    }
    let name = required_text(&mut fields, "name", "a name", problems);
    let platform = match fields.optional("platform") {
        Some(place) => read_platform(&place, problems).map(Some),
        None => Some(None),
    };
    let version = optional_text(&mut fields, "version", problems);
    let licence = optional_text(&mut fields, "licence", problems);
    let roles = read_optional(fields.optional("roles"), problems, |place, problems| {
        let places = place.list(problems)?;
        let roles: Vec<_> = places.iter().map(|one| one.one_of(problems, NODE_ROLES)).collect();
        roles.into_iter().map(|role| role.map(str::to_owned)).collect()
    });
    let unpack_to = read_unpack_to(&mut fields, place, kind.as_deref(), problems);
    let entry = required_text(&mut fields, "entry", "the digest of an entry", problems);
    let uri =
        fields.required(problems, "uri", "an address").and_then(|place| read_uri(&place, problems));
    let media_type = required_text(&mut fields, "mediaType", "a media type", problems);
    let digest = read_digest(&mut fields, "digest", problems);
    let size = read_size(&mut fields, problems);
    let blobs = read_optional(fields.optional("blobs"), problems, |place, problems| {
        let places = place.list(problems)?;
        let blobs: Vec<_> = places.iter().map(|place| read_blob(place, problems)).collect();
        blobs.into_iter().collect()
    });
    fields.finish(problems);
    Some(LockedArtifact {
        kind: kind?,
        name: name?,
        platform: platform?,
        version: version?,
        licence: licence?,
        roles: roles?,
        unpack_to: unpack_to?,
        entry: entry?,
        uri: uri?,
        media_type: media_type?,
        digest: digest?,
        size: size?,
        blobs: blobs?,
    })
}

fn read_blob(place: &Place<'_>, problems: &mut Problems) -> Option<LockedBlob> {
    let mut fields = place.fields(problems)?;
    let digest = read_digest(&mut fields, "digest", problems);
    let size = read_size(&mut fields, problems);
    fields.finish(problems);
    Some(LockedBlob { digest: digest?, size: size? })
}

fn read_size(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<u64> {
    fields.required(problems, "size", "a number of bytes")?.number(problems, 0, 1 << 40)
}

fn read_digest(
    fields: &mut Fields<'_>,
    name: &'static str,
    problems: &mut Problems,
) -> Option<String> {
    let expected = "`sha256:` and 64 lower-case hex digits";
    let place = fields.required(problems, name, expected)?;
    let text = place.text(problems)?;
    if !is_digest(text) {
        place.wrong(problems, format!("`{text}` is not a digest"), expected);
        return None;
    }
    Some(text.to_owned())
}

fn read_uri(place: &Place<'_>, problems: &mut Problems) -> Option<String> {
    let text = place.text(problems)?;
    if !SCHEMES.iter().any(|scheme| text.starts_with(scheme)) {
        place.wrong(problems, format!("`{text}` is no address known here"), SCHEMES.join(" or "));
        return None;
    }
    Some(text.to_owned())
}

/// `2026-01-02T03:04:05Z`, and nothing that only looks like it.
fn read_time(place: &Place<'_>, problems: &mut Problems) -> Option<String> {
    let text = place.text(problems)?;
    let shape = text.bytes().zip(b"0000-00-00T00:00:00Z").all(|(found, wanted)| match wanted {
        b'0' => found.is_ascii_digit(),
        _ => found == *wanted,
    });
    let part = |range: std::ops::Range<usize>| text.get(range)?.parse::<u32>().ok();
    let bounds = [(5..7, 1, 12), (8..10, 1, 31), (11..13, 0, 23), (14..16, 0, 59), (17..19, 0, 60)];
    let sane = bounds.into_iter().all(|(range, least, most)| {
        part(range).is_some_and(|number| (least..=most).contains(&number))
    });
    if text.len() != 20 || !shape || !sane {
        place.wrong(problems, format!("`{text}` is not a time"), "e.g. `2026-01-02T03:04:05Z`");
        return None;
    }
    Some(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mistake_in_a_lock_is_told_with_its_field() {
        let good = super::super::tests::sample().to_text();
        let digest = format!("sha256:{}", "a".repeat(64));
        for (from, to, field) in [
            ("kind: BundleLock", "kind: BundleDefinition", "kind"),
            (&format!("sha256:{}", "d".repeat(64)), "sha256:12", "definition"),
            ("2026-01-02T03:04:05Z", "2026-13-02T03:04:05Z", "created"),
            ("2026-01-02T03:04:05Z", "yesterday", "created"),
            ("kind: binary", "kind: binnary", "artifacts[0]"),
            ("https://example.org/tool", "gopher://example.org", "artifacts[0].uri"),
            ("size: 7", "size: -7", "artifacts[0].size"),
            ("size: 9", "size: many", "artifacts[1].blobs[0].size"),
            ("- worker", "- master", "artifacts[0].roles[0]"),
            (&digest, "a", "artifacts[0].digest"),
            ("name: tool", "name: tool\n  extra: 1", "artifacts[0].extra"),
        ] {
            let text = good.replacen(from, to, 1);
            assert_ne!(text, good, "{from}");
            let problems = parse(&text, "x").expect_err(to);
            assert!(
                problems.list().iter().any(|problem| problem.field == field),
                "{to}: {problems}"
            );
        }
    }

    #[test]
    fn only_a_package_of_two_sets_stands_twice_and_then_it_is_the_same() {
        let lock = super::super::tests::sample();
        let mut twice = lock.clone();
        twice.artifacts = vec![lock.artifacts[0].clone(), lock.artifacts[0].clone()];
        assert!(parse(&twice.to_text(), "x").is_err(), "a binary");
        for one in &mut twice.artifacts {
            one.kind = "package".to_owned();
        }
        assert!(parse(&twice.to_text(), "x").is_err(), "the same entry");
        twice.artifacts[1].entry = "other".to_owned();
        parse(&twice.to_text(), "x").unwrap_or_else(|problems| panic!("{problems}"));
        twice.artifacts[1].digest = format!("sha256:{}", "b".repeat(64));
        assert!(parse(&twice.to_text(), "x").is_err(), "another content");
    }
}
