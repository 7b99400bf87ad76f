//! Names of images, the long way: registry, repository, tag, digest.

use std::fmt;

use kdc_bundles::index::Digest;

/// A full image name. Short names are written out as every runtime does: `busybox` is
/// `docker.io/library/busybox:latest`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    /// `registry.k8s.io`, `docker.io`, `10.0.0.1:5000`.
    pub registry: String,
    /// `library/busybox`.
    pub repository: String,
    /// `1.37`; absent where only a digest is stated.
    pub tag: Option<String>,
    /// The digest stated.
    pub digest: Option<Digest>,
}

/// A text that names no image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not the name of an image; expected e.g. `registry.example/project/name:1.2`")]
pub struct ReferenceError(String);

impl std::str::FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let wrong = || ReferenceError(text.chars().take(200).collect());
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest.parse().map_err(|_| wrong())?)),
            None => (text, None),
        };
        let (name, tag) = match name.rsplit_once(':') {
            // `host:5000/name` has a colon too.
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag.to_owned())),
            _ => (name, None),
        };
        let (registry, repository) = match name.split_once('/') {
            Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => (host, rest),
            _ => ("docker.io", name),
        };
        let registry = if registry == "index.docker.io" { "docker.io" } else { registry };
        let official = registry == "docker.io" && !repository.contains('/');
        let repository =
            if official { format!("library/{repository}") } else { repository.to_owned() };
        let tag = tag.or_else(|| digest.is_none().then(|| "latest".to_owned()));
        let good = is_host(registry)
            && is_repository(&repository)
            && tag.as_deref().is_none_or(is_tag)
            && text.len() <= 512;
        good.then(|| Self { registry: registry.to_owned(), repository, tag, digest })
            .ok_or_else(wrong)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(formatter, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(formatter, "@{digest}")?;
        }
        Ok(())
    }
}

fn is_host(text: &str) -> bool {
    let good =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b':' | b'[' | b']');
    !text.is_empty() && text.bytes().all(good)
}

fn is_repository(text: &str) -> bool {
    let edge = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let inner = |byte: &u8| edge(byte) || matches!(byte, b'.' | b'_' | b'-');
    text.split('/').all(|part| {
        let bytes = part.as_bytes();
        bytes.iter().all(inner) && bytes.first().is_some_and(edge) && bytes.last().is_some_and(edge)
    })
}

fn is_tag(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.len() <= 128
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|byte| word(byte) || matches!(byte, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_written_out_as_runtimes_do() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (text, full) in [
            ("busybox", "docker.io/library/busybox:latest".to_owned()),
            ("busybox:1.37", "docker.io/library/busybox:1.37".to_owned()),
            ("team/app", "docker.io/team/app:latest".to_owned()),
            ("index.docker.io/library/x:1", "docker.io/library/x:1".to_owned()),
            ("localhost/app:1", "localhost/app:1".to_owned()),
            ("10.0.0.1:5000/a/b:1", "10.0.0.1:5000/a/b:1".to_owned()),
            ("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10".to_owned()),
            (&format!("ghcr.io/a/b@{digest}"), format!("ghcr.io/a/b@{digest}")),
            (&format!("ghcr.io/a/b:1@{digest}"), format!("ghcr.io/a/b:1@{digest}")),
        ] {
            assert_eq!(text.parse::<Reference>().unwrap().to_string(), full);
        }
    }

    #[test]
    fn what_could_reach_elsewhere_in_a_registry_is_no_name() {
        for bad in [
            "",
            ":1",
            "a b",
            "A/b",
            "x/../y:1",
            "x//y",
            "x:",
            "x@sha256:12",
            "http://x/y",
            "x:a/b?c",
            "-x",
            "ghcr.io/",
            "ghcr.io/a:\u{e4}",
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad}");
        }
    }
}
