//! Which HAMi this is, from the image its plugin runs.

use std::fmt;

/// A release of HAMi.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Major.
    pub major: u32,
    /// Minor.
    pub minor: u32,
}

impl Version {
    /// The first whose scheduler looks at [`super::CORDON_ANNOTATION`].
    pub const CORDONS: Self = Self { major: 2, minor: 10 };

    /// From an image's name such as `projecthami/hami:v2.8.0`; `None` where it has no such tag.
    #[must_use]
    pub fn of_image(image: &str) -> Option<Self> {
        let name = image.split('@').next()?;
        let (_, tag) = name.rsplit_once('/').unwrap_or(("", name)).1.split_once(':')?;
        let mut numbers = tag.strip_prefix('v').unwrap_or(tag).split(['.', '-']);
        let mut number = || numbers.next().filter(|text| text.len() <= 4)?.parse::<u32>().ok();
        Some(Self { major: number()?, minor: number()? })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_images_tag_tells_the_release_or_nothing() {
        for (image, version) in [
            ("projecthami/hami:v2.8.0", Some((2, 8))),
            ("docker.io/projecthami/hami:v2.10.0-rc1@sha256:00", Some((2, 10))),
            ("localhost:5000/hami:2.7", Some((2, 7))),
            ("localhost:5000/hami", None),
            ("projecthami/hami:latest", None),
            ("", None),
        ] {
            let version = version.map(|(major, minor)| Version { major, minor });
            assert_eq!(Version::of_image(image), version, "{image}");
        }
        assert!(Version { major: 2, minor: 9 } < Version::CORDONS);
    }
}
