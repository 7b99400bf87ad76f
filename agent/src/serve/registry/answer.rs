//! The answers, with the headers that clients rely on.

use std::{convert::Infallible, io};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{HeaderMap, Method, Response, StatusCode, Uri, header, http::response::Builder};
use kdc_bundles::index::Digest;
use serde_json::json;

use super::{
    Shared,
    ask::{Ask, Page, stretch},
    catalog::{Manifest, Repository},
    refusal::Refusal,
};

/// What is sent after the head.
pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Largest manifest served, as registries limit them too.
const MAX_MANIFEST_BYTES: u64 = 4 * 1024 * 1024;

const JSON: &str = "application/json";

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never: Infallible| match never {}).boxed_unsync()
}

fn head(status: StatusCode) -> Builder {
    Response::builder().status(status).header("Docker-Distribution-Api-Version", "registry/2.0")
}

fn finish(builder: Builder, body: Body) -> Response<Body> {
    builder
        .body(body)
        .expect("every header is ASCII: digests, numbers, and media types that are checked")
}

impl Shared {
    /// The answer to one request; a refusal is an answer too.
    pub(super) async fn answer(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Response<Body> {
        let answered = match Ask::parse(method, uri) {
            Ok(ask) => self.give(method, &ask, headers).await,
            Err(refusal) => Err(refusal),
        };
        let answer = answered.unwrap_or_else(|refusal| refuse(&refusal));
        self.pulls.note(method, uri.path(), &answer);
        tracing::info!(%method, %uri, status = answer.status().as_u16(), "served");
        // HTTP's own layer leaves the body of a HEAD out and keeps its length.
        answer
    }

    async fn give(
        &self,
        method: &Method,
        ask: &Ask,
        headers: &HeaderMap,
    ) -> Result<Response<Body>, Refusal> {
        match ask {
            Ask::Base => Ok(json_page(json!({}), None)),
            Ask::Repositories(page) => {
                let (names, more) = page.of(self.catalog.names());
                let next = more.map(|last| format!("/v2/_catalog?n={}&last={last}", page.most));
                Ok(json_page(json!({ "repositories": names }), next))
            }
            Ask::Tags { name, ns, page } => {
                let repository = self.repository(name, ns.as_deref())?;
                let (tags, more) = page.of(repository.tags.keys().map(String::as_str));
                let ns = ns.as_ref().map(|ns| format!("&ns={ns}")).unwrap_or_default();
                let most = page.most;
                let next =
                    more.map(|last| format!("/v2/{name}/tags/list?n={most}&last={last}{ns}"));
                Ok(json_page(json!({ "name": name, "tags": tags }), next))
            }
            Ask::Manifest { name, ns, reference } => {
                let repository = self.repository(name, ns.as_deref())?;
                let found = match reference.parse::<Digest>() {
                    Ok(digest) => repository.manifests.get(&digest),
                    Err(_) => repository.tags.get(reference),
                };
                let unknown = || Refusal::NoManifest { reference: reference.clone() };
                self.manifest(found.ok_or_else(unknown)?, headers).await
            }
            Ask::Blob { name, ns, digest } => {
                let repository = self.repository(name, ns.as_deref())?;
                let unknown = || Refusal::NoBlob { digest: digest.clone() };
                let known = digest.parse::<Digest>().ok().filter(|d| repository.blobs.contains(d));
                self.blob(method, &known.ok_or_else(unknown)?, headers).await
            }
        }
    }

    fn repository(&self, name: &str, ns: Option<&str>) -> Result<&Repository, Refusal> {
        let unknown = || Refusal::NoRepository { name: name.to_owned() };
        self.catalog.find(name, ns).ok_or_else(unknown)
    }

    /// A manifest is read, and so proved, for a HEAD too: what is announced is there.
    async fn manifest(
        &self,
        manifest: &Manifest,
        headers: &HeaderMap,
    ) -> Result<Response<Body>, Refusal> {
        let digest = manifest.digest();
        if holds(headers, digest) {
            return Ok(finish(named(StatusCode::NOT_MODIFIED, digest), full("")));
        }
        let unknown = || Refusal::NoManifest { reference: digest.to_string() };
        let bytes = match manifest {
            Manifest::Made { text, .. } => Bytes::from(text.clone()),
            Manifest::Stored { .. } => {
                let ordinal = self.content.source().index().ordinal(digest);
                let fits = |ordinal: &usize| {
                    manifest.size() <= MAX_MANIFEST_BYTES && self.content.source().has(*ordinal)
                };
                self.content.whole(ordinal.filter(fits).ok_or_else(unknown)?).await?
            }
        };
        let builder = named(StatusCode::OK, digest)
            .header(header::CONTENT_TYPE, manifest.media_type())
            .header(header::CONTENT_LENGTH, bytes.len());
        Ok(finish(builder, full(bytes)))
    }

    async fn blob(
        &self,
        method: &Method,
        digest: &Digest,
        headers: &HeaderMap,
    ) -> Result<Response<Body>, Refusal> {
        let index = self.content.source().index();
        let unknown = || Refusal::NoBlob { digest: digest.to_string() };
        let ordinal = index.ordinal(digest).filter(|place| self.content.source().has(*place));
        let ordinal = ordinal.ok_or_else(unknown)?;
        let size = index.blobs[ordinal].size;
        if holds(headers, digest) {
            return Ok(finish(named(StatusCode::NOT_MODIFIED, digest), full("")));
        }
        let is_head = *method == Method::HEAD;
        let part = if is_head { None } else { stretch(headers, size, &etag(digest))? };
        let status = if part.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
        let (first, length) = part.unwrap_or((0, size));
        let mut builder = named(status, digest)
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .header(header::ACCEPT_RANGES, "bytes")
            .header(header::CONTENT_LENGTH, length);
        if part.is_some() {
            let range = format!("bytes {first}-{}/{size}", first + length - 1);
            builder = builder.header(header::CONTENT_RANGE, range);
        }
        if is_head {
            return Ok(finish(builder, full("")));
        }
        let stream = self.content.stretch(ordinal, (first, length)).await?;
        Ok(finish(builder, StreamBody::new(stream).boxed_unsync()))
    }
}

/// The head of content that its digest names for ever.
fn named(status: StatusCode, digest: &Digest) -> Builder {
    head(status)
        .header("Docker-Content-Digest", digest.as_str())
        .header(header::ETAG, etag(digest))
        .header(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
}

fn etag(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

/// Whether the client says that it has this content already.
fn holds(headers: &HeaderMap, digest: &Digest) -> bool {
    let known = headers.get(header::IF_NONE_MATCH).and_then(|known| known.to_str().ok());
    known.is_some_and(|known| known.split(',').any(|one| one.trim() == etag(digest)))
}

fn json_page(document: serde_json::Value, next: Option<String>) -> Response<Body> {
    let text = document.to_string();
    let mut builder = head(StatusCode::OK)
        .header(header::CONTENT_TYPE, JSON)
        .header(header::CONTENT_LENGTH, text.len());
    if let Some(next) = next {
        builder = builder.header(header::LINK, format!("<{next}>; rel=\"next\""));
    }
    finish(builder, full(text))
}

fn refuse(refusal: &Refusal) -> Response<Body> {
    let text = refusal.to_json();
    let mut builder = head(refusal.status())
        .header(header::CONTENT_TYPE, JSON)
        .header(header::CONTENT_LENGTH, text.len());
    match refusal {
        Refusal::ReadOnly => builder = builder.header(header::ALLOW, "GET, HEAD"),
        Refusal::Range { size } => {
            builder = builder.header(header::CONTENT_RANGE, format!("bytes */{size}"));
        }
        Refusal::Content(error) => {
            tracing::error!(error = error as &dyn std::error::Error, "content can't be served");
        }
        _ => {}
    }
    finish(builder, full(text))
}

impl Page {
    /// This page of a sorted list, and the last entry on it where more follow.
    fn of<'a>(&self, all: impl Iterator<Item = &'a str>) -> (Vec<&'a str>, Option<&'a str>) {
        let after = |entry: &&str| self.after.as_deref().is_none_or(|last| *entry > last);
        let mut rest = all.filter(after);
        let page: Vec<&str> = rest.by_ref().take(self.most).collect();
        let more = rest.next().and_then(|_| page.last().copied());
        (page, more)
    }
}
