//! Names of images as container runtimes write them out: registry, repository, tag or digest.

use std::fmt;

/// An image's name with nothing left out: `busybox` is `docker.io/library/busybox:latest`.
///
/// ```
/// use kdc_agent::image_name::ImageName;
/// let name = ImageName::parse("busybox:1.37").expect("a name");
/// assert_eq!((name.registry.as_str(), name.tag.as_deref()), ("docker.io", Some("1.37")));
/// assert_eq!(name.to_string(), "docker.io/library/busybox:1.37");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageName {
    /// `registry.k8s.io`, `10.0.0.1:5000`.
    pub registry: String,
    /// `library/busybox`.
    pub path: String,
    /// `1.37`; without one and without a digest it is `latest`.
    pub tag: Option<String>,
    /// `sha256:…`, as it stands there.
    pub digest: Option<String>,
}

impl ImageName {
    /// Its parts; `None` where it is empty. Whether a registry would allow them is not looked at.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest.to_owned())),
            None => (text, None),
        };
        let (name, tag) = match name.rsplit_once(':') {
            // `host:5000/name` has a colon too.
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag.to_owned())),
            _ => (name, None),
        };
        let is_host = |part: &str| part.contains(['.', ':']) || part == "localhost";
        let (registry, path) = match name.split_once('/') {
            Some((host, path)) if is_host(host) => (host, path),
            _ => ("docker.io", name),
        };
        let registry = if registry == "index.docker.io" { "docker.io" } else { registry };
        let official = registry == "docker.io" && !path.contains('/');
        let path = if official { format!("library/{path}") } else { path.to_owned() };
        let tag = tag.or_else(|| digest.is_none().then(|| "latest".to_owned()));
        let good = !registry.is_empty() && !path.is_empty() && !path.ends_with('/');
        good.then(|| Self { registry: registry.to_owned(), path, tag, digest })
    }

    /// Its repository, registry included.
    #[must_use]
    pub fn repository(&self) -> String {
        format!("{}/{}", self.registry, self.path)
    }
}

impl fmt::Display for ImageName {
    /// As containerd keeps it: where there is a digest, the tag is left out.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.repository())?;
        match (&self.digest, &self.tag) {
            (Some(digest), _) => write!(formatter, "@{digest}"),
            (None, Some(tag)) => write!(formatter, ":{tag}"),
            (None, None) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_written_out_as_containerd_keeps_it() {
        for (text, registry, expected) in [
            ("registry.k8s.io/pause:3.10", "registry.k8s.io", "registry.k8s.io/pause:3.10"),
            ("busybox", "docker.io", "docker.io/library/busybox:latest"),
            ("index.docker.io/a/b:1", "docker.io", "docker.io/a/b:1"),
            ("localhost:5000/a/b", "localhost:5000", "localhost:5000/a/b:latest"),
            ("quay.io/x/y@sha256:ab", "quay.io", "quay.io/x/y@sha256:ab"),
            ("quay.io/x/y:v1@sha256:ab", "quay.io", "quay.io/x/y@sha256:ab"),
        ] {
            let name = ImageName::parse(text).unwrap();
            assert_eq!((name.registry.as_str(), name.to_string()), (registry, expected.to_owned()));
        }
        for bad in ["", ":1", "@sha256:ab", "quay.io/"] {
            assert_eq!(ImageName::parse(bad), None, "{bad}");
        }
    }
}
