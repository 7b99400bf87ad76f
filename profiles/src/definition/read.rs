//! From a definition's text to a proved [`BundleDefinition`].

use std::{collections::BTreeSet, path::Path};

use super::{
    ArtifactDefinition, BundleDefinition, Source, packages::read_packages, source::read_source,
};
use crate::{
    cluster::{read_head_open, read_metadata_name, read_optional},
    fields::{Fields, Place},
    problem::{LoadError, Problems, read_bounded},
    yaml,
};

const KINDS: &[(&str, &str)] = &[
    ("binary", "binary"),
    ("image", "image"),
    ("chart", "chart"),
    ("package", "package"),
    ("file", "file"),
    ("agent", "agent"),
    ("archive", "archive"),
];

pub(crate) const NODE_ROLES: &[(&str, &str)] =
    &[("control-plane", "control-plane"), ("worker", "worker")];

/// Whether there are artifacts of that kind.
pub(crate) fn is_kind(text: &str) -> bool {
    KINDS.iter().any(|(kind, _)| *kind == text)
}

/// Read and prove a definition.
///
/// # Errors
/// When the file can't be read, or with every mistake in it.
pub fn load(path: &Path) -> Result<BundleDefinition, LoadError> {
    let text = read_bounded(path)?;
    parse(&text, &path.display().to_string()).map_err(LoadError::Invalid)
}

/// Prove a definition's text.
///
/// # Errors
/// Every mistake in the text, each with line, field and what would be right.
pub fn parse(text: &str, file_name: &str) -> Result<BundleDefinition, Problems> {
    let mut problems = Problems::new(file_name);
    let tree = yaml::parse(text, &mut problems);
    let definition = tree.and_then(|tree| read_file(&Place::root(&tree), &mut problems));
    problems.finish(definition)
}

fn read_file(root: &Place<'_>, problems: &mut Problems) -> Option<BundleDefinition> {
    let mut file = root.fields(problems)?;
    let metadata = read_head_open(&mut file, "BundleDefinition", problems);
    let (mut name, mut version) = (None, None);
    if let Some(mut metadata) = metadata {
        name = read_metadata_name(&mut metadata, true, problems);
        version = required_text(&mut metadata, "version", "the bundle's version", problems);
        metadata.finish(problems);
    }
    let parameters =
        read_optional(file.optional("parameters"), problems, |place, p| place.text_map(p));
    let artifacts = file
        .required(problems, "artifacts", "a list of artifacts")
        .and_then(|place| read_artifacts(&place, problems));
    let packages = read_optional(file.optional("packages"), problems, read_packages);
    let ignore_images =
        read_optional(file.optional("ignoreImages"), problems, |place, p| place.texts(p));
    file.finish(problems);
    Some(BundleDefinition {
        name: name?,
        version: version?,
        parameters: parameters?,
        artifacts: artifacts?,
        packages: packages?,
        ignore_images: ignore_images?,
    })
}

pub(crate) fn required_text(
    fields: &mut Fields<'_>,
    name: &'static str,
    expected: &str,
    problems: &mut Problems,
) -> Option<String> {
    let place = fields.required(problems, name, expected)?;
    let text = place.text(problems)?;
    if text.is_empty() {
        place.wrong(problems, "this is empty", expected);
        return None;
    }
    Some(text.to_owned())
}

/// `Some(None)` when it is absent, `None` when it is there and wrong.
pub(crate) fn optional_text(
    fields: &mut Fields<'_>,
    name: &'static str,
    problems: &mut Problems,
) -> Option<Option<String>> {
    match fields.optional(name) {
        Some(place) => place.text(problems).map(|text| Some(text.to_owned())),
        None => Some(None),
    }
}

fn read_artifacts(place: &Place<'_>, problems: &mut Problems) -> Option<Vec<ArtifactDefinition>> {
    let places = place.list(problems)?;
    let mut seen = BTreeSet::new();
    let (mut artifacts, mut whole) = (Vec::with_capacity(places.len()), true);
    for place in &places {
        let Some(each) = read_artifact(place, problems) else {
            whole = false;
            continue;
        };
        for artifact in each {
            let id = (artifact.kind.clone(), artifact.name.clone(), artifact.platform.clone());
            if !seen.insert(id) {
                let what =
                    format!("{} `{}` stands here a second time", artifact.kind, artifact.name);
                place.wrong(problems, what, "each kind, name and platform once");
            }
            artifacts.push(artifact);
        }
    }
    whole.then_some(artifacts)
}

/// One artifact; one for each of its platforms.
fn read_artifact(place: &Place<'_>, problems: &mut Problems) -> Option<Vec<ArtifactDefinition>> {
    let mut fields = place.fields(problems)?;
    let name =
        required_text(&mut fields, "name", "a name; for images the full reference", problems);
    let kind = fields
        .required(problems, "kind", "what it is, e.g. `image`")
        .and_then(|place| place.one_of(problems, KINDS));
    let platforms = read_platforms(place, &mut fields, problems);
    let version = optional_text(&mut fields, "version", problems);
    let roles = read_optional(fields.optional("roles"), problems, read_roles);
    let unpack_to = read_unpack_to(&mut fields, place, kind, problems);
    let licence = optional_text(&mut fields, "licence", problems);
    let source = fields
        .required(problems, "source", "one of `path`, `folder`, `oci`, `url`, `registry`, `helm`")
        .and_then(|place| read_source(&place, kind, problems));
    fields.finish(problems);
    let (platforms, source) = (platforms?, source?);
    let stated = matches!(&source, Source::Url { digest: Some(_), .. });
    if stated && platforms.len() > 1 {
        let what = "one digest can't be that of several platforms";
        place.wrong(problems, what, "an artifact for each platform, or no `digest`");
        return None;
    }
    let artifact = ArtifactDefinition {
        name: name?,
        kind: kind?.to_owned(),
        platform: None,
        version: version?,
        roles: roles?,
        unpack_to: unpack_to?,
        licence: licence?,
        source,
    };
    let each = platforms.into_iter().map(|platform| artifact.for_platform(platform));
    Some(each.collect())
}

/// `Some(None)` when it is rightly absent, `None` when it is wrong. Without a kind nothing is known.
pub(crate) fn read_unpack_to(
    fields: &mut Fields<'_>,
    artifact: &Place<'_>,
    kind: Option<&str>,
    problems: &mut Problems,
) -> Option<Option<String>> {
    const EXPECTED: &str = "a folder on the node below `/`, e.g. `/usr/local`";
    let place = fields.optional("unpackTo");
    let is_archive = kind? == "archive";
    let Some(place) = place else {
        if is_archive {
            artifact.wrong(problems, "this archive has no `unpackTo`", EXPECTED);
        }
        return (!is_archive).then_some(None);
    };
    if !is_archive {
        place.wrong(problems, "only archives are unpacked", "`kind: archive`, or no `unpackTo`");
        return None;
    }
    let text = place.text(problems)?;
    let good = text.strip_prefix('/').is_some_and(|below| {
        below.split('/').all(|part| {
            !matches!(part, "" | "." | "..") && part.bytes().all(|byte| byte.is_ascii_graphic())
        })
    });
    if !good {
        place.wrong(problems, format!("`{text}` can't be unpacked to"), EXPECTED);
    }
    good.then(|| Some(text.to_owned()))
}

/// `platform`, `platforms`, or none of them: any.
fn read_platforms(
    artifact: &Place<'_>,
    fields: &mut Fields<'_>,
    problems: &mut Problems,
) -> Option<Vec<Option<String>>> {
    let (one, several) = (fields.optional("platform"), fields.optional("platforms"));
    match (one, several) {
        (None, None) => Some(vec![None]),
        (Some(place), None) => read_platform(&place, problems).map(|one| vec![Some(one)]),
        (None, Some(place)) => {
            let places = place.list(problems)?;
            if places.is_empty() {
                place.wrong(problems, "this is empty", "e.g. `[linux/amd64, linux/arm64]`");
                return None;
            }
            let each: Vec<_> = places.iter().map(|one| read_platform(one, problems)).collect();
            each.into_iter().map(|one| one.map(Some)).collect()
        }
        (Some(_), Some(_)) => {
            let what = "`platform` and `platforms` both stand here";
            artifact.wrong(problems, what, "one of them");
            None
        }
    }
}

/// Roles of nodes.
pub(super) fn read_roles(place: &Place<'_>, problems: &mut Problems) -> Option<Vec<String>> {
    let places = place.list(problems)?;
    let roles: Vec<_> = places.iter().map(|place| place.one_of(problems, NODE_ROLES)).collect();
    roles.into_iter().map(|role| role.map(str::to_owned)).collect()
}

pub(crate) fn read_platform(place: &Place<'_>, problems: &mut Problems) -> Option<String> {
    let text = place.text(problems)?;
    let good = text.split_once('/').is_some_and(|(system, machine)| {
        let word =
            |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
        word(system) && word(machine)
    });
    if !good {
        place.wrong(problems, format!("`{text}` is not a platform"), "e.g. `linux/amd64`");
    }
    good.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_source_is_read() {
        let digest = format!("sha256:{}", "0".repeat(64));
        let text = format!(
            "apiVersion: kdc.dev/v1\nkind: BundleDefinition\nmetadata: {{name: lab-1.20, version: 1.0}}\n\
             parameters: {{kubernetesVersion: v1.20.2}}\nartifacts:\n\
             - {{name: kubelet, kind: binary, platform: linux/amd64, source: {{path: bin/kubelet}}}}\n\
             - {{name: 'k8s.gcr.io/pause:3.2', kind: image, roles: [worker], source: {{oci: {{layout: img}}}}}}\n\
             - {{name: kubeadm, kind: binary, source: {{url: {{url: 'https://x/y', digest: '{digest}'}}}}}}\n\
             - {{name: 'docker.io/x:1', kind: image, source: {{registry: {{image: 'docker.io/x:1'}}}}}}\n"
        );
        let definition = parse(&text, "d.yaml").unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!(definition.version, "1.0");
        let sources: Vec<_> = definition.artifacts.iter().map(|a| a.source.clone()).collect();
        assert_eq!(sources[0], Source::Path("bin/kubelet".into()));
        assert_eq!(sources[1], Source::Oci { layout: "img".into(), reference: None });
        assert_eq!(sources[2], Source::Url { url: "https://x/y".into(), digest: Some(digest) });
        assert_eq!(
            sources[3],
            Source::Registry { image: "docker.io/x:1".to_owned(), digest: None }
        );
    }

    const HEAD: &str = "apiVersion: kdc.dev/v1\nkind: BundleDefinition\n\
                        metadata: {name: site, version: 1}\n";

    #[test]
    fn several_platforms_are_several_artifacts_each_from_its_own_place() {
        let text = format!(
            "{HEAD}artifacts:\n- {{name: tool, kind: binary, platforms: [linux/amd64, linux/arm64], \
             source: {{url: {{url: 'https://x/${{arch}}/tool'}}}}}}\n\
             - {{name: settings, kind: file, source: {{folder: settings}}}}\n\
             - {{name: c, kind: chart, source: {{helm: {{repository: 'oci://x/y', chart: c, version: 1.2.0}}}}}}\n"
        );
        let definition = parse(&text, "d.yaml").unwrap_or_else(|problems| panic!("{problems}"));
        let found: Vec<_> = definition.artifacts.iter().map(|one| &one.source).collect();
        let url = |arch: &str| Source::Url { url: format!("https://x/{arch}/tool"), digest: None };
        let (repository, chart, version) = ("oci://x/y".into(), "c".into(), "1.2.0".into());
        let helm = Source::Helm { repository, chart, version };
        assert_eq!(
            found,
            [&url("amd64"), &url("arm64"), &Source::Folder("settings".into()), &helm]
        );
        assert_eq!(definition.artifacts[1].platform.as_deref(), Some("linux/arm64"));
        assert!(!definition.is_local());
    }

    #[test]
    fn sets_of_packages_are_read() {
        let text = format!(
            "{HEAD}artifacts: []\nignoreImages: ['x/*']\npackages:\n- name: node\n  platform: linux/amd64\n  \
             archives:\n  - {{url: 'https://x/debian', suite: bookworm, components: [main], keyring: k.gpg}}\n  \
             include: [a, 'b (>= 1)']\n  assumeInstalled: {{priorities: [required], packages: [c]}}\n  \
             roles: [worker]\n"
        );
        let definition = parse(&text, "d.yaml").unwrap_or_else(|problems| panic!("{problems}"));
        let set = &definition.packages[0];
        assert_eq!((set.name.as_str(), set.include.len()), ("node", 2));
        assert_eq!(set.archives[0].suite, "bookworm");
        assert_eq!(set.assume_installed.priorities, ["required"]);
        assert_eq!(
            (set.roles.as_slice(), definition.ignore_images.len()),
            (&["worker".to_owned()][..], 1)
        );
        assert!(!definition.is_local());
    }

    #[test]
    fn every_mistake_in_what_is_fetched_is_told_with_its_line() {
        let digest = format!("sha256:{}", "0".repeat(64));
        let text = format!(
            "{HEAD}artifacts:\n\
             - {{name: a, kind: file, platform: linux/amd64, platforms: [linux/arm64], source: {{path: x}}}}\n\
             - {{name: b, kind: file, platforms: [], source: {{path: x}}}}\n\
             - {{name: c, kind: file, platforms: [linux/amd64, linux/arm64], source: {{url: {{url: x, digest: '{digest}'}}}}}}\n\
             - {{name: d, kind: image, source: {{folder: x}}}}\n\
             - {{name: e, kind: chart, source: {{helm: {{repository: x, chart: y}}}}}}\n\
             packages:\n\
             - {{name: n, platform: amd64, archives: [], include: []}}\n\
             - {{name: n, platform: linux/amd64, include: [a], archives: [{{url: x, suite: y, components: [z]}}]}}\n\
             - {{name: o, platform: linux/amd64, include: [a], assumeInstalled: {{priorities: [extra]}}, \
             archives: [{{url: x, suite: y, components: [z], keyring: k, key: k}}]}}\n"
        );
        let problems = parse(&text, "d.yaml").expect_err("mistakes");
        let seen: Vec<(u64, &str)> =
            problems.list().iter().map(|p| (p.line, p.field.as_str())).collect();
        assert_eq!(
            seen,
            [
                (5, "artifacts[0]"),
                (6, "artifacts[1].platforms"),
                (7, "artifacts[2]"),
                (8, "artifacts[3].source"),
                (9, "artifacts[4].source.helm.version"),
                (11, "packages[0].platform"),
                (11, "packages[0].archives"),
                (11, "packages[0].include"),
                (12, "packages[1].archives[0].keyring"),
                (13, "packages[2].archives[0].key"),
                (13, "packages[2].assumeInstalled.priorities[0]"),
            ],
            "{problems}"
        );
    }

    #[test]
    fn the_definitions_that_are_shipped_are_good() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../bundles");
        let mut read = 0;
        for entry in fs_err::read_dir(folder).expect("bundles/") {
            let path = entry.expect("entry").path();
            if path.extension().is_some_and(|extension| extension == "yaml") {
                load(&path).unwrap_or_else(|error| panic!("{error}"));
                read += 1;
            }
        }
        assert!(read > 0, "no definition in {folder}");
    }

    #[test]
    fn every_mistake_in_a_definition_is_told_with_its_line() {
        let text = "apiVersion: kdc.dev/v2\nkind: BundleDefinition\nmetadata: {name: lab}\nartifacts:\n\
                    - {name: a, kind: binnary, source: {path: x}}\n\
                    - {name: a, kind: image, source: {path: x}}\n\
                    - {name: a, kind: file, source: {path: x, url: {url: y}}}\n\
                    - {name: a, kind: file, platform: amd64, source: {url: {url: y, digest: z}}}\n\
                    - {name: b, kind: file, roles: [master], source: {path: x}}\n\
                    - {name: c, kind: file, source: {path: x}}\n\
                    - {name: c, kind: file, source: {path: y}}\n\
                    - {name: d, kind: archive, source: {path: y}}\n\
                    - {name: e, kind: archive, unpackTo: /a/../b, source: {path: y}}\n\
                    - {name: f, kind: file, unpackTo: /opt, source: {path: y}}\n";
        let problems = parse(text, "d.yaml").expect_err("mistakes");
        let seen: Vec<(u64, &str)> =
            problems.list().iter().map(|p| (p.line, p.field.as_str())).collect();
        assert_eq!(
            seen,
            [
                (1, "apiVersion"),
                (3, "metadata.version"),
                (5, "artifacts[0].kind"),
                (6, "artifacts[1].source"),
                (7, "artifacts[2].source"),
                (8, "artifacts[3].platform"),
                (8, "artifacts[3].source.url.digest"),
                (9, "artifacts[4].roles[0]"),
                (11, "artifacts[6]"),
                (12, "artifacts[7]"),
                (13, "artifacts[8].unpackTo"),
                (14, "artifacts[9].unpackTo"),
            ],
            "{problems}"
        );
    }
}
