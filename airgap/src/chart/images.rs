//! Which images charts and manifests will ask for.
//!
//! A chart says it only when it is rendered with the site's values, which nobody knows while a bundle
//! is built. So everything that looks like an image counts: in the default values, written out in
//! templates, in the annotation that Artifact Hub made usual. That is rather too much than too little
//! (an image of a component that is turned off): the definition says which ones are left out on
//! purpose.

use std::collections::BTreeSet;

use kdc_bundles::index::Digest;
use serde::Deserialize as _;
use serde_yaml::Value;

use super::archive::{About, Chart};
use crate::registry::Reference;

/// Most documents in one file.
const MAX_DOCUMENTS: usize = 10_000;

/// An image that is named somewhere.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Mention {
    pub(crate) image: Reference,
    /// Its version is left open: any one of the repository will do.
    pub(crate) any_tag: bool,
    /// The file and field that name it.
    pub(crate) place: String,
}

/// An image of a definition.
#[derive(Debug, Clone)]
pub(crate) struct Defined {
    pub(crate) image: Reference,
    /// What it is locked to, if it is.
    pub(crate) digest: Option<Digest>,
}

impl Mention {
    /// Whether that image is what is asked for.
    pub(crate) fn is_met_by(&self, defined: &Defined) -> bool {
        let (asked, found) = (&self.image, &defined.image);
        if (&asked.registry, &asked.repository) != (&found.registry, &found.repository) {
            return false;
        }
        let same_digest = asked.digest.as_ref().is_some_and(|digest| {
            found.digest.as_ref() == Some(digest) || defined.digest.as_ref() == Some(digest)
        });
        self.any_tag || same_digest || (asked.tag.is_some() && asked.tag == found.tag)
    }

    /// Whether the definition says to leave it out.
    pub(crate) fn is_ignored_by(&self, pattern: &str) -> bool {
        let own = self.image.to_string();
        // As people write them: `nginx:*` is `docker.io/library/nginx:*`.
        let short = ["docker.io/", "docker.io/library/"].map(|prefix| own.strip_prefix(prefix));
        match pattern.strip_suffix('*') {
            Some(beginning) => [Some(own.as_str())]
                .into_iter()
                .chain(short)
                .flatten()
                .any(|name| name.starts_with(beginning)),
            None => {
                pattern == own || pattern.parse().is_ok_and(|image: Reference| image == self.image)
            }
        }
    }

    /// The image as it has to be added to the definition.
    pub(crate) fn shown(&self) -> String {
        if self.any_tag {
            return format!("{}/{} (any version)", self.image.registry, self.image.repository);
        }
        self.image.to_string()
    }
}

/// Everything that a chart's files name.
pub(crate) fn of_chart(chart: &Chart) -> Result<Vec<Mention>, String> {
    let mut found = Found::default();
    for (name, text) in &chart.files {
        let file = name.rsplit(['/', '!']).next().unwrap_or_default();
        if name.contains("/templates/") {
            found.lines(text, name);
        } else if file == "values.yaml" {
            let values: Value = serde_yaml::from_str(text)
                .map_err(|error| format!("`{name}` in it is no YAML: {error}"))?;
            let about = name
                .strip_suffix("values.yaml")
                .and_then(|folder| chart.files.get(&format!("{folder}Chart.yaml")));
            let about = about.and_then(|text| serde_yaml::from_str::<About>(text).ok());
            let version = about.and_then(|about| about.app_version).and_then(|one| scalar(&one));
            found.default_tag = version;
            found.walk(&values, name);
        } else if file == "Chart.yaml" {
            let about: About = serde_yaml::from_str(text)
                .map_err(|error| format!("`{name}` in it can't be read: {error}"))?;
            if let Some(Value::String(list)) = about.annotations.get("artifacthub.io/images") {
                let place = format!("{name}: artifacthub.io/images");
                let list: Value = serde_yaml::from_str(list)
                    .map_err(|error| format!("{place} is no YAML: {error}"))?;
                found.default_tag = None;
                found.walk(&list, &place);
            }
        }
    }
    Ok(found.mentions.into_iter().collect())
}

/// Everything that a manifest names.
pub(crate) fn of_manifest(text: &str, name: &str) -> Vec<Mention> {
    let mut found = Found::default();
    let documents: Result<Vec<Value>, _> = serde_yaml::Deserializer::from_str(text)
        .take(MAX_DOCUMENTS)
        .map(Value::deserialize)
        .collect();
    match documents {
        Ok(documents) => documents.iter().for_each(|document| found.walk(document, name)),
        // Not plain YAML, a template perhaps: what stands in a line of its own still counts.
        Err(_) => found.lines(text, name),
    }
    found.mentions.into_iter().collect()
}

#[derive(Default)]
struct Found {
    mentions: BTreeSet<Mention>,
    /// The tag of images that have none, as charts mean it.
    default_tag: Option<String>,
}

impl Found {
    fn add(&mut self, text: &str, any_tag: bool, place: &str) {
        if let Ok(image) = text.parse::<Reference>() {
            self.mentions.insert(Mention { image, any_tag, place: place.to_owned() });
        }
    }

    /// `image: name` in lines that no template fills.
    fn lines(&mut self, text: &str, name: &str) {
        for (number, line) in text.lines().enumerate() {
            let line = line.trim_start().trim_start_matches("- ");
            let Some(value) = line.strip_prefix("image:") else { continue };
            let value = value.split(" #").next().unwrap_or_default();
            let value = value.trim().trim_matches(['"', '\'']);
            if !value.contains("{{") && !value.is_empty() {
                self.add(value, false, &format!("{name} line {}", number + 1));
            }
        }
    }

    fn walk(&mut self, value: &Value, place: &str) {
        match value {
            Value::Mapping(map) => {
                self.map(map, place);
                for (key, value) in map {
                    let key = scalar(key).unwrap_or_default();
                    let separator = if place.contains(": ") { "." } else { ": " };
                    self.walk(value, &format!("{place}{separator}{key}"));
                }
            }
            Value::Sequence(list) => {
                for (number, value) in list.iter().enumerate() {
                    self.walk(value, &format!("{place}[{number}]"));
                }
            }
            Value::Tagged(tagged) => self.walk(&tagged.value, place),
            _ => {}
        }
    }

    fn map(&mut self, map: &serde_yaml::Mapping, place: &str) {
        let text = |key: &str| map.get(key).and_then(scalar).filter(|text| !text.is_empty());
        let tag = text("tag").or_else(|| text("imageTag"));
        if let Some(image) = text("image") {
            let whole = has_tag(&image);
            match (&tag, whole) {
                (Some(tag), false) => self.add(&format!("{image}:{tag}"), false, place),
                _ => self.add(&image, false, place),
            }
        }
        let known = map.contains_key("tag")
            || map.contains_key("registry")
            || map.contains_key("digest")
            || map.contains_key("pullPolicy")
            || place.to_ascii_lowercase().ends_with("image");
        if let Some(repository) = text("repository").filter(|_| known) {
            self.parts(map, &repository, tag, place);
        }
        // Operators are told by environment which images to start.
        if let (Some(name), Some(value)) = (text("name"), text("value"))
            && name.to_ascii_uppercase().contains("IMAGE")
            && value.contains('/')
            && has_tag(&value)
        {
            self.add(&value, false, place);
        }
    }

    /// `registry`, `repository`, `tag`, `digest`.
    fn parts(
        &mut self,
        map: &serde_yaml::Mapping,
        repository: &str,
        tag: Option<String>,
        place: &str,
    ) {
        let text = |key: &str| map.get(key).and_then(scalar).filter(|text| !text.is_empty());
        let mut image = match text("registry") {
            Some(registry) => format!("{}/{repository}", registry.trim_end_matches('/')),
            None => repository.to_owned(),
        };
        let tag = tag.or_else(|| self.default_tag.clone());
        let digest = text("digest")
            .or_else(|| text("sha"))
            .map(|digest| if digest.contains(':') { digest } else { format!("sha256:{digest}") });
        let any_tag = tag.is_none() && digest.is_none() && !has_tag(&image);
        if let Some(tag) = tag.filter(|_| !has_tag(&image)) {
            image = format!("{image}:{tag}");
        }
        if let Some(digest) = digest {
            image = format!("{image}@{digest}");
        }
        self.add(&image, any_tag, place);
    }
}

fn has_tag(image: &str) -> bool {
    image.contains('@') || image.rsplit('/').next().is_some_and(|name| name.contains(':'))
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.trim().to_owned()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(mentions: &[Mention]) -> Vec<String> {
        mentions.iter().map(|one| format!("{} <- {}", one.shown(), one.place)).collect()
    }

    fn chart(files: &[(&str, &str)]) -> Chart {
        let files = files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
        Chart { name: "app".to_owned(), version: "1".to_owned(), files: files.collect() }
    }

    #[test]
    fn values_templates_and_annotations_of_a_chart_name_images() {
        let about = "name: app\nversion: 1.0.0\nappVersion: v2.3\nannotations:\n  \
                     artifacthub.io/images: |\n    - name: x\n      image: quay.io/a/hook:1\n";
        let values = "image: {repository: ghcr.io/a/app, tag: ''}\n\
                      sidecar: {image: {registry: quay.io, repository: b/side, tag: 1.5}}\n\
                      plain: {image: busybox}\nsource: {repository: 'https://git.example/x'}\n\
                      old: {image: a/old, imageTag: '7'}\nempty: {image: ''}\n";
        let template =
            "    spec:\n      - image: \"k8s.gcr.io/x:1\"\n        image: {{ .Values.image }}\n";
        let found = of_chart(&chart(&[
            ("app/Chart.yaml", about),
            ("app/values.yaml", values),
            ("app/templates/d.yaml", template),
        ]));
        let found = shown(&found.unwrap());
        assert_eq!(
            found,
            [
                "docker.io/a/old:7 <- app/values.yaml: old",
                "docker.io/library/busybox:latest <- app/values.yaml: plain",
                "ghcr.io/a/app:v2.3 <- app/values.yaml: image",
                "k8s.gcr.io/x:1 <- app/templates/d.yaml line 2",
                "quay.io/a/hook:1 <- app/Chart.yaml: artifacthub.io/images[0]",
                "quay.io/b/side:1.5 <- app/values.yaml: sidecar.image",
            ]
        );
    }

    #[test]
    fn manifests_name_images_in_containers_and_environments() {
        let text = "kind: Deployment\nspec:\n  containers:\n  - image: quay.io/a/b:1\n    env:\n    \
                    - {name: RELATED_IMAGE_X, value: 'quay.io/a/c:2'}\n    - {name: X, value: 'a/b:1'}\n\
                    ---\nkind: Pod\nspec: {initContainers: [{image: 'quay.io/a/d@sha256:\
                    aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'}]}\n";
        let found = of_manifest(text, "m.yaml");
        let images: Vec<_> = found.iter().map(|one| one.image.repository.as_str()).collect();
        assert_eq!(images, ["a/b", "a/c", "a/d"]);
        let template = of_manifest("x: {{ y }}\n  image: a/b:1 # why\n", "t.yaml");
        assert_eq!(shown(&template), ["docker.io/a/b:1 <- t.yaml line 2"]);
    }

    #[test]
    fn a_mention_is_met_by_its_image_and_left_out_by_a_pattern() {
        let digest = Digest::of(b"x");
        let mention = |text: &str, any_tag| Mention {
            image: text.parse().unwrap(),
            any_tag,
            place: String::new(),
        };
        let defined =
            |text: &str| Defined { image: text.parse().unwrap(), digest: Some(digest.clone()) };
        for (asked, any, has, met) in [
            ("busybox", false, "docker.io/library/busybox:latest", true),
            ("a/b:1", false, "docker.io/a/b:1", true),
            ("a/b:1", false, "a/b:2", false),
            ("a/b", true, "a/b:2", true),
            ("quay.io/a/b:1", false, "a/b:1", false),
            (&format!("a/b@{digest}"), false, "a/b:7", true),
            (&format!("a/b:7@{}", Digest::of(b"y")), false, "a/b:7", true),
            (&format!("a/b@{}", Digest::of(b"y")), false, "a/b:7", false),
        ] {
            assert_eq!(mention(asked, any).is_met_by(&defined(has)), met, "{asked} by {has}");
        }
        for (pattern, ignored) in
            [("a/b:1", true), ("docker.io/a/*", true), ("docker.io/a/b:1", true), ("a/b", false)]
        {
            assert_eq!(mention("a/b:1", false).is_ignored_by(pattern), ignored, "{pattern}");
        }
        for (image, pattern, ignored) in [
            ("nginx:1", "nginx:*", true),
            ("a/b:1", "a/*", true),
            ("quay.io/a/b:1", "a/*", false),
            ("a/nginx:1", "nginx:*", false),
        ] {
            assert_eq!(mention(image, false).is_ignored_by(pattern), ignored, "{image} {pattern}");
        }
    }
}
