//! Addresses: which are fetched, and from where instead.

use reqwest::Url;

use super::{FetchError, Fetcher};

/// A host to ask instead of another: `host=https://other.host/prefix`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// The host in definitions and locks (`docker.io`, `deb.example.org:8080`).
    pub host: String,
    /// Where its content is had from.
    pub url: Url,
}

/// A text that is no mirror.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a mirror; expected `HOST=https://HOST/PATH`")]
pub struct MirrorError(String);

impl std::str::FromStr for Mirror {
    type Err = MirrorError;

    fn from_str(text: &str) -> Result<Self, MirrorError> {
        let wrong = || MirrorError(text.to_owned());
        let (host, url) = text.split_once('=').ok_or_else(wrong)?;
        let url = Url::parse(url).map_err(|_| wrong())?;
        let plain = url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
        let good = matches!(url.scheme(), "https" | "http") && url.has_host() && plain;
        let host_good = !host.is_empty() && !host.contains(['/', '@', ' ']);
        if !good || !host_good {
            return Err(wrong());
        }
        Ok(Self { host: host.to_owned(), url })
    }
}

/// An address from a definition, a lock or an index.
pub(crate) fn parse_address(text: &str) -> Result<Url, FetchError> {
    let refused = |why| FetchError::Address { url: text.to_owned(), why };
    let url = Url::parse(text).map_err(|_| refused("it is not an address"))?;
    if !url.username().is_empty() || url.password().is_some() {
        let mut plain = url;
        // Both can't fail on an address that has a user.
        let _ = (plain.set_username(""), plain.set_password(None));
        let why = "it carries a login; a definition is no place for one";
        return Err(FetchError::Address { url: plain.to_string(), why });
    }
    match url.scheme() {
        "https" | "http" if url.has_host() => Ok(url),
        "file" => Ok(url),
        _ => Err(refused("only https:, http: and file: addresses are")),
    }
}

/// An address as errors show it: what stands after `?` may be a secret.
pub(crate) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    url.to_string()
}

/// `host`, or `host:port` where the port is not the usual one.
pub(crate) fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Whether the address is this machine's.
pub(crate) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let host = host.trim_matches(['[', ']']);
    host == "localhost"
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl Fetcher {
    /// The mirror of a host.
    pub(crate) fn mirror(&self, host: &str) -> Option<&Url> {
        self.mirrors.iter().find(|mirror| mirror.host == host).map(|mirror| &mirror.url)
    }

    /// The address to ask for `url`.
    pub(crate) fn mirrored(&self, url: &Url) -> Url {
        let Some(mirror) = self.mirror(&host(url)) else { return url.clone() };
        let mut mirrored = mirror.clone();
        mirrored.set_path(&format!("{}{}", mirror.path().trim_end_matches('/'), url.path()));
        mirrored.set_query(url.query());
        mirrored
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_is_a_host_and_an_address() {
        let mirror: Mirror = "docker.io=https://mirror.example:5000/hub".parse().unwrap();
        assert_eq!((mirror.host.as_str(), mirror.url.path()), ("docker.io", "/hub"));
        for bad in ["docker.io", "=https://x", "a/b=https://x", "a=ftp://x", "a=https://u@x", "a=x"]
        {
            assert!(bad.parse::<Mirror>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_address_with_a_login_or_of_another_kind_is_refused_without_telling_the_login() {
        for bad in ["ftp://x/y", "x", "https://user:secret@x/y", "data:text/plain,x"] {
            let error = parse_address(bad).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
        assert_eq!(shown(&parse_address("https://x/y?token=1").unwrap()), "https://x/y");
    }

    #[test]
    fn this_machine_is_known_by_its_names() {
        for (url, own) in [
            ("http://127.0.0.1:5000/", true),
            ("http://[::1]/", true),
            ("http://localhost/", true),
            ("http://127.example.org/", false),
            ("http://10.0.0.1/", false),
        ] {
            assert_eq!(is_loopback(&Url::parse(url).unwrap()), own, "{url}");
        }
    }
}
