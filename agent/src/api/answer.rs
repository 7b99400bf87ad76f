//! The answers, and the problem documents that refuse.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use hyper::{
    HeaderMap, Method, Response, StatusCode, Uri, header,
    http::{request::Parts, response::Builder},
};
use serde_json::json;
use tokio::sync::{Mutex, Semaphore};

use super::{
    Shown,
    own::{self, About},
    page::{Format, Page},
    stream,
};
use crate::host::{Host as _, Program, SystemHost};

/// What is sent after the head.
pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// How long facts are good for those who ask again.
const FACTS_FOR: Duration = Duration::from_secs(15);

/// How long collecting them may take.
const FACTS_WITHIN_SECS: u64 = 30;

/// Event streams at once.
const MOST_STREAMS: usize = 16;

/// Most bytes of a query or of an event's id.
const MAX_QUERY_BYTES: usize = 256;

/// Why there is no other answer.
#[derive(Debug, PartialEq, Eq)]
enum Refusal {
    NotFound,
    Method,
    Query(&'static str),
    TooManyStreams,
    Facts(String),
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Query(_) => StatusCode::BAD_REQUEST,
            Self::TooManyStreams | Self::Facts(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn detail(&self) -> String {
        match self {
            Self::NotFound => {
                "there is `/metrics`, `/v1/facts`, `/v1/health` and `/v1/events`".to_owned()
            }
            Self::Method => "only GET and HEAD are answered".to_owned(),
            Self::Query(what) => (*what).to_owned(),
            Self::TooManyStreams => format!("{MOST_STREAMS} clients follow the events already"),
            Self::Facts(why) => format!("the facts could not be collected: {why}"),
        }
    }
}

/// Answers requests. Cloned cheaply; all clones share.
#[derive(Clone)]
pub(super) struct Answering {
    shown: Shown,
    /// The program that collects facts: this one.
    agent: String,
    facts: Arc<Mutex<Option<(Instant, Bytes)>>>,
    streams: Arc<Semaphore>,
    room: Arc<std::sync::atomic::AtomicUsize>,
}

impl Answering {
    pub(super) fn new(shown: Shown, agent: &str) -> Self {
        Self {
            shown,
            agent: agent.to_owned(),
            facts: Arc::default(),
            streams: Arc::new(Semaphore::new(MOST_STREAMS)),
            room: Arc::default(),
        }
    }

    /// The answer to one request; a refusal is an answer too.
    pub(super) async fn answer(&self, head: &Parts) -> Response<Body> {
        let about = match head.uri.path() {
            "/metrics" => About::Metrics,
            "/v1/facts" => About::Facts,
            "/v1/health" => About::Health,
            "/v1/events" => About::Events,
            _ => About::Other,
        };
        let answered = self.give(about, &head.method, &head.uri, &head.headers).await;
        self.shown.figures.answers.count(about, answered.is_ok());
        answered.unwrap_or_else(|refusal| refuse(&refusal, head.uri.path()))
    }

    async fn give(
        &self,
        about: About,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Result<Response<Body>, Refusal> {
        if about == About::Other {
            return Err(Refusal::NotFound);
        }
        if !matches!(*method, Method::GET | Method::HEAD) {
            return Err(Refusal::Method);
        }
        match about {
            About::Metrics => {
                let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
                let format = Format::preferred(accept);
                let builder = ok().header(header::CONTENT_TYPE, format.media_type());
                let builder = builder.header(header::VARY, "accept");
                Ok(finish(builder, full(self.metrics(format))))
            }
            About::Facts => Ok(json_answer(self.facts().await?)),
            About::Health => {
                let text = serde_json::to_vec(&self.shown.health()).expect("texts and numbers");
                Ok(json_answer(text))
            }
            About::Events => self.events(uri, headers),
            About::Other => Err(Refusal::NotFound),
        }
    }

    fn metrics(&self, format: Format) -> String {
        use std::sync::atomic::Ordering::Relaxed;
        // As long as the page before, so that it is made in one piece.
        let mut page = Page::new(format, String::with_capacity(self.room.load(Relaxed) + 1024));
        self.shown.samples.tell(&mut page);
        self.shown.gpus.tell(&mut page);
        own::tell(&mut page, &self.shown);
        let text = page.finish();
        self.room.store(text.len(), Relaxed);
        text
    }

    /// Collected by a process of its own: what it asks may hang or crash (a GPU's driver), and what it
    /// needs of memory goes with it. One at a time, and to its end: clients that go away don't let others
    /// start a second one beside it. Who asks meanwhile waits for the same.
    async fn facts(&self) -> Result<Bytes, Refusal> {
        let mut kept = Arc::clone(&self.facts).lock_owned().await;
        if let Some((taken, bytes)) = kept.as_ref()
            && taken.elapsed() < FACTS_FOR
        {
            return Ok(bytes.clone());
        }
        let program = Program::new(&self.agent).args(["facts", "--output", "json"]);
        // Who listens may open no device: GPUs are told as they were published.
        let program = program.args(["--gpus", &self.shown.gpus.path().to_string_lossy()]);
        let program = program.within_secs(FACTS_WITHIN_SECS);
        let collected = tokio::task::spawn_blocking(move || {
            let output = SystemHost::new().run_checked(&program);
            let text = output.map_err(|error| Refusal::Facts(error.to_string()))?.text();
            let bytes = Bytes::from(text);
            *kept = Some((Instant::now(), bytes.clone()));
            Ok(bytes)
        });
        collected.await.map_err(|error| Refusal::Facts(error.to_string()))?
    }

    fn events(&self, uri: &Uri, headers: &HeaderMap) -> Result<Response<Body>, Refusal> {
        let last = last_seen(uri, headers)?;
        let permit = Arc::clone(&self.streams).try_acquire_owned();
        let permit = permit.map_err(|_| Refusal::TooManyStreams)?;
        let builder = ok()
            .header(header::CONTENT_TYPE, "text/event-stream")
            .header("X-Accel-Buffering", "no");
        Ok(finish(builder, stream::follow(self.shown.events.clone(), last, permit)))
    }
}

/// The event that the client saw last: `Last-Event-ID` as browsers send it, or `?after=`.
fn last_seen(uri: &Uri, headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let query = uri.query().unwrap_or_default();
    if query.len() > MAX_QUERY_BYTES {
        return Err(Refusal::Query("the query is too long"));
    }
    let mut after = None;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("after", id)) => after = Some(id.to_owned()),
            _ => return Err(Refusal::Query("the query may hold `after=ID` and nothing else")),
        }
    }
    let Some(value) = headers.get("last-event-id") else { return Ok(after) };
    match value.to_str() {
        Ok(id) if id.len() <= MAX_QUERY_BYTES => Ok(Some(id.to_owned())),
        _ => Err(Refusal::Query("`Last-Event-ID` is none that was given out")),
    }
}

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed_unsync()
}

fn ok() -> Builder {
    Response::builder()
        .header(header::CACHE_CONTROL, "no-store")
        .header(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
}

fn finish(builder: Builder, body: Body) -> Response<Body> {
    builder.body(body).expect("every header is a fixed text")
}

fn json_answer(bytes: impl Into<Bytes>) -> Response<Body> {
    finish(ok().header(header::CONTENT_TYPE, "application/json"), full(bytes))
}

/// RFC 9457. The path is the client's own and goes into JSON alone.
fn refuse(refusal: &Refusal, path: &str) -> Response<Body> {
    let status = refusal.status();
    let path: String = path.chars().take(MAX_QUERY_BYTES).collect();
    let document = json!({
        "type": "about:blank",
        "title": status.canonical_reason().unwrap_or_default(),
        "status": status.as_u16(),
        "detail": refusal.detail(),
        "instance": path,
    });
    let mut builder = ok().status(status).header(header::CONTENT_TYPE, "application/problem+json");
    match refusal {
        Refusal::Method => builder = builder.header(header::ALLOW, "GET, HEAD"),
        Refusal::TooManyStreams | Refusal::Facts(_) => {
            builder = builder.header(header::RETRY_AFTER, "15");
        }
        _ => {}
    }
    finish(builder, full(document.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_event_seen_comes_from_header_or_query_and_nonsense_is_refused() {
        let seen = |uri: &str, header: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            if let Some(value) = header {
                headers.insert("last-event-id", value.parse().unwrap());
            }
            last_seen(&uri.parse().unwrap(), &headers)
        };
        assert_eq!(seen("/v1/events", None), Ok(None));
        assert_eq!(seen("/v1/events?after=ab-7", None), Ok(Some("ab-7".to_owned())));
        assert_eq!(seen("/v1/events?after=ab-7", Some("ab-9")), Ok(Some("ab-9".to_owned())));
        assert!(seen("/v1/events?before=1", None).is_err());
        assert!(seen(&format!("/v1/events?after={}", "x".repeat(300)), None).is_err());
    }
}
