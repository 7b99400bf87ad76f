//! Package URLs: the names by which scanners look things up (`pkg:deb/debian/curl@8.5.0-2?arch=amd64`).

use kdc_bundles::index::ArtifactKind;

use super::Item;

/// The package URL of an artifact.
pub(super) fn of(item: &Item<'_>) -> String {
    let planned = item.planned;
    let architecture = planned.platform.as_deref().and_then(|platform| platform.split('/').nth(1));
    match planned.kind {
        ArtifactKind::Package => {
            let control = item.control();
            let name = control.map_or(planned.name.as_str(), |control| &control.package);
            let architecture =
                control.map(|control| control.architecture.as_str()).or(architecture);
            let version = item.version();
            let vendor = match version {
                Some(version) if version.contains("ubuntu") => "ubuntu",
                _ => "debian",
            };
            join("deb", &[vendor, name], version, &[("arch", architecture)])
        }
        ArtifactKind::Image => image(item, architecture),
        ArtifactKind::Chart => {
            let name = planned.name.rsplit('/').next().unwrap_or(&planned.name);
            join("helm", &[name], item.version(), &[("download_url", planned.uri.as_deref())])
        }
        _ => {
            let checksum = item.digest.as_str();
            let address = planned.uri.as_deref().filter(|uri| uri.contains("://"));
            let more =
                [("arch", architecture), ("checksum", Some(checksum)), ("download_url", address)];
            join("generic", &[&planned.name], item.version(), &more)
        }
    }
}

/// An image is its manifest's digest; registry and tag say where it was.
fn image(item: &Item<'_>, architecture: Option<&str>) -> String {
    let reference = item.planned.name.split('@').next().unwrap_or_default();
    let (repository, tag) = match reference.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, Some(tag)),
        _ => (reference, None),
    };
    let name = repository.rsplit('/').next().unwrap_or(repository).to_lowercase();
    let more = [("arch", architecture), ("repository_url", Some(repository)), ("tag", tag)];
    join("oci", &[&name], Some(item.digest.as_str()), &more)
}

fn join(
    kind: &str,
    path: &[&str],
    version: Option<&str>,
    qualifiers: &[(&str, Option<&str>)],
) -> String {
    let path: Vec<_> = path.iter().map(|part| encode(part)).collect();
    let mut text = format!("pkg:{kind}/{}", path.join("/"));
    if let Some(version) = version {
        text.push_str(&format!("@{}", encode(version)));
    }
    let given = qualifiers.iter().filter_map(|(name, value)| Some((name, (*value)?)));
    let given: Vec<_> = given.map(|(name, value)| format!("{name}={}", encode(value))).collect();
    if !given.is_empty() {
        text.push_str(&format!("?{}", given.join("&")));
    }
    text
}

/// Percent-encoding of everything but letters, digits and `.-_~`.
pub(super) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            other => encoded.push_str(&format!("%{other:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use kdc_bundles::index::Digest;

    use super::*;
    use crate::plan::Planned;

    fn planned(kind: ArtifactKind, name: &str, version: Option<&str>) -> Planned {
        Planned {
            kind,
            name: name.to_owned(),
            platform: Some("linux/arm64".to_owned()),
            version: version.map(str::to_owned),
            roles: Vec::new(),
            unpack_to: None,
            licence: None,
            source: None,
            uri: Some("https://example.org/a b".to_owned()),
            media_type: String::new(),
            parts: Vec::new(),
        }
    }

    #[test]
    fn each_kind_has_the_name_that_scanners_know() {
        let digest = Digest::of(b"");
        let (hex, generic) = (digest.hex().to_owned(), "arch=arm64&checksum=sha256%3A");
        for (kind, name, version, expected) in [
            (
                ArtifactKind::Package,
                "libc6",
                Some("2.36-9+deb12u1"),
                "pkg:deb/debian/libc6@2.36-9%2Bdeb12u1?arch=arm64".to_owned(),
            ),
            (
                ArtifactKind::Package,
                "tzdata",
                Some("1-0ubuntu2"),
                "pkg:deb/ubuntu/tzdata@1-0ubuntu2?arch=arm64".to_owned(),
            ),
            (
                ArtifactKind::Image,
                "registry.k8s.io:5000/coredns/CoreDNS:v1",
                None,
                format!(
                    "pkg:oci/coredns@sha256%3A{hex}?arch=arm64&\
                 repository_url=registry.k8s.io%3A5000%2Fcoredns%2FCoreDNS&tag=v1"
                ),
            ),
            (
                ArtifactKind::Image,
                "example.org:5000/a",
                None,
                format!(
                    "pkg:oci/a@sha256%3A{hex}?arch=arm64&repository_url=example.org%3A5000%2Fa"
                ),
            ),
            (
                ArtifactKind::Chart,
                "cilium",
                Some("1.2"),
                "pkg:helm/cilium@1.2?download_url=https%3A%2F%2Fexample.org%2Fa%20b".to_owned(),
            ),
            (
                ArtifactKind::Binary,
                "kubelet",
                Some("v1"),
                format!(
                    "pkg:generic/kubelet@v1?{generic}{hex}&download_url=https%3A%2F%2Fexample.org%2Fa%20b"
                ),
            ),
        ] {
            let planned = planned(kind, name, version);
            let item = Item { planned: &planned, digest: &digest, control: None };
            assert_eq!(of(&item), expected);
        }
    }
}
