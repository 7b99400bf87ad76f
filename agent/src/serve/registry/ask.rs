//! What is asked: from an HTTP request to one of the few things a read-only registry can give.

use hyper::{HeaderMap, Method, Uri, header};
use kdc_bundles::index::Digest;

use super::{catalog::is_tag, refusal::Refusal};

/// Entries in a page unless fewer are asked for, and at most.
const MAX_PAGE: usize = 1000;

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// Is this a registry?
    Base,
    /// Names of the repositories.
    Repositories(Page),
    /// Tags of a repository.
    Tags { name: String, ns: Option<String>, page: Page },
    /// A manifest, by tag or digest.
    Manifest { name: String, ns: Option<String>, reference: String },
    /// A blob.
    Blob { name: String, ns: Option<String>, digest: String },
}

/// A stretch of a sorted list.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Page {
    /// At most so many entries.
    pub(super) most: usize,
    /// Only those after this one.
    pub(super) after: Option<String>,
}

impl Ask {
    pub(super) fn parse(method: &Method, uri: &Uri) -> Result<Self, Refusal> {
        let path = decoded(uri.path()).ok_or(Refusal::NoSuchPlace)?;
        let rest = path.strip_prefix("/v2").ok_or(Refusal::NoSuchPlace)?;
        if *method != Method::GET && *method != Method::HEAD {
            return Err(Refusal::ReadOnly);
        }
        if rest.is_empty() || rest == "/" {
            return Ok(Self::Base);
        }
        let rest = rest.strip_prefix('/').ok_or(Refusal::NoSuchPlace)?;
        let query = Query::parse(uri.query().unwrap_or_default());
        if rest == "_catalog" {
            return Ok(Self::Repositories(query.page()?));
        }
        let mut parts = rest.rsplitn(3, '/');
        let (last, kind, name) = (parts.next(), parts.next(), parts.next());
        let (Some(last), Some(kind), Some(name)) = (last, kind, name) else {
            return Err(Refusal::NoSuchPlace);
        };
        let (name, ns) = (name.to_owned(), query.ns.clone());
        match (kind, last) {
            ("tags", "list") => Ok(Self::Tags { name, ns, page: query.page()? }),
            ("manifests", reference) => {
                if !is_tag(reference) && reference.parse::<Digest>().is_err() {
                    return Err(Refusal::NoManifest { reference: reference.to_owned() });
                }
                Ok(Self::Manifest { name, ns, reference: reference.to_owned() })
            }
            ("blobs", digest) => Ok(Self::Blob { name, ns, digest: digest.to_owned() }),
            _ => Err(Refusal::NoSuchPlace),
        }
    }
}

/// What follows the `?`.
#[derive(Default)]
struct Query {
    ns: Option<String>,
    number: Option<String>,
    last: Option<String>,
}

impl Query {
    fn parse(text: &str) -> Self {
        let mut query = Self::default();
        for pair in text.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let place = match name {
                "ns" => &mut query.ns,
                "n" => &mut query.number,
                "last" => &mut query.last,
                _ => continue,
            };
            *place = decoded(value);
        }
        query
    }

    fn page(&self) -> Result<Page, Refusal> {
        let most = match &self.number {
            None => MAX_PAGE,
            Some(text) => {
                let wrong = |_| Refusal::PageSize { text: text.clone() };
                usize::try_from(text.parse::<u64>().map_err(wrong)?).unwrap_or(MAX_PAGE)
            }
        };
        Ok(Page { most: most.min(MAX_PAGE), after: self.last.clone() })
    }
}

/// Percent-encoding undone; `None` where it is broken.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        let (high, low) = (digit(rest.next())?, digit(rest.next())?);
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(bytes).ok()
}

/// A stretch of a blob: its first byte and its length.
pub(super) type Stretch = (u64, u64);

/// The stretch that the `Range` header asks for; `None` where all is meant: no header, one that makes
/// no sense, several ranges, or one that holds only for another content (`If-Range`).
pub(super) fn stretch(
    headers: &HeaderMap,
    size: u64,
    etag: &str,
) -> Result<Option<Stretch>, Refusal> {
    if headers.get(header::IF_RANGE).is_some_and(|only| only.as_bytes() != etag.as_bytes()) {
        return Ok(None);
    }
    let Some(range) = headers.get(header::RANGE).and_then(|range| range.to_str().ok()) else {
        return Ok(None);
    };
    let Some((first, last)) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-'))
    else {
        return Ok(None);
    };
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let (first, end) = match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => (first, last.saturating_add(1).min(size)),
        (Some(first), None) if last.trim().is_empty() => (first, size),
        (None, Some(most)) if first.trim().is_empty() => (size.saturating_sub(most), size),
        _ => return Ok(None),
    };
    if first >= end {
        return Err(Refusal::Range { size });
    }
    Ok(Some((first, end - first)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(uri: &str) -> Result<Ask, Refusal> {
        Ask::parse(&Method::GET, &uri.parse().unwrap())
    }

    #[test]
    fn a_name_may_have_many_parts_and_the_words_of_the_protocol_in_it() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let name = || "registry.k8s.io/manifests/blobs/x".to_owned();
        for (uri, expected) in [
            (format!("/v2/{}/manifests/1.0", name()), "1.0"),
            (format!("/v2/{}/manifests/{digest}", name()), digest.as_str()),
            (format!("/v2/{}/manifests/{}", name(), digest.replace(':', "%3A")), &digest),
        ] {
            let reference = expected.to_owned();
            assert_eq!(ask(&uri).unwrap(), Ask::Manifest { name: name(), ns: None, reference });
        }
        let found = ask("/v2/pause/tags/list?n=2&ns=a.b%3A5000&last=3").unwrap();
        let page = Page { most: 2, after: Some("3".to_owned()) };
        assert_eq!(found, Ask::Tags { name: "pause".into(), ns: Some("a.b:5000".into()), page });
        for base in ["/v2", "/v2/"] {
            assert_eq!(ask(base).unwrap(), Ask::Base);
        }
    }

    #[test]
    fn what_is_no_registry_request_is_refused() {
        for uri in
            ["/", "/v1/", "/v2x", "/v2/x", "/v2/manifests/1", "/v2/a/uploads/1", "/v2/%zz/b/c"]
        {
            assert!(matches!(ask(uri), Err(Refusal::NoSuchPlace)), "{uri}");
        }
        assert!(matches!(ask("/v2/_catalog?n=-1"), Err(Refusal::PageSize { .. })));
        assert!(matches!(ask("/v2/a/manifests/%2e%2e"), Err(Refusal::NoManifest { .. })));
        let put = Ask::parse(&Method::PUT, &"/v2/a/manifests/1".parse().unwrap());
        assert!(matches!(put, Err(Refusal::ReadOnly)));
    }

    #[test]
    fn ranges_are_as_http_has_them() {
        for (range, expected) in [
            ("bytes=0-0", Some(Some((0, 1)))),
            ("bytes=2-5", Some(Some((2, 4)))),
            ("bytes=2-", Some(Some((2, 8)))),
            ("bytes=-3", Some(Some((7, 3)))),
            ("bytes=-30", Some(Some((0, 10)))),
            ("bytes=8-99", Some(Some((8, 2)))),
            ("bytes=0-18446744073709551615", Some(Some((0, 10)))),
            ("bytes=10-", None),
            ("bytes=-0", None),
            ("bytes=5-2", Some(None)),
            ("bytes=0-1,4-5", Some(None)),
            ("lines=0-1", Some(None)),
        ] {
            let headers = HeaderMap::from_iter([(header::RANGE, range.parse().unwrap())]);
            assert_eq!(stretch(&headers, 10, "\"x\"").ok(), expected, "{range}");
        }
        let only_of = |etag: &'static str| {
            let headers = [(header::RANGE, "bytes=0-1"), (header::IF_RANGE, etag)];
            let headers = headers.map(|(name, value)| (name, value.parse().unwrap()));
            stretch(&HeaderMap::from_iter(headers), 10, "\"x\"").unwrap()
        };
        assert_eq!((only_of("\"x\""), only_of("\"y\"")), (Some((0, 2)), None));
    }
}
