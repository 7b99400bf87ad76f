//! `/v1/events` as server-sent events: what was missed first, then what happens.

use std::{convert::Infallible, fmt::Write as _, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::answer::Body;
use crate::daemon::events::Events;

/// A comment is sent after so long without an event: who reads knows that the line stands, and a
/// reader that has gone is noticed.
const BREATH: Duration = Duration::from_secs(15);

struct Follower {
    events: Events,
    news: watch::Receiver<u64>,
    last: Option<String>,
    greeted: bool,
    _permit: OwnedSemaphorePermit,
}

/// A body that tells what came after `last`, and goes on for as long as the client reads.
pub(super) fn follow(events: Events, last: Option<String>, permit: OwnedSemaphorePermit) -> Body {
    let news = events.watch();
    let follower = Follower { events, news, last, greeted: false, _permit: permit };
    let frames = stream::unfold(follower, |mut follower| async {
        let text = follower.next().await?;
        Some((Ok::<_, Infallible>(Frame::data(Bytes::from(text))), follower))
    });
    StreamBody::new(frames).boxed_unsync()
}

impl Follower {
    /// What is to be sent next; nothing where nobody will push events any more.
    async fn next(&mut self) -> Option<String> {
        if !self.greeted {
            self.greeted = true;
            // How soon a client is to come back, and that the stream stands.
            return Some(format!("retry: 3000\n\n{}", self.unseen()));
        }
        loop {
            match tokio::time::timeout(BREATH, self.news.changed()).await {
                Err(_) => return Some(":\n\n".to_owned()),
                Ok(Err(_)) => return None,
                Ok(Ok(())) => {
                    let text = self.unseen();
                    if !text.is_empty() {
                        return Some(text);
                    }
                }
            }
        }
    }

    fn unseen(&mut self) -> String {
        self.news.mark_unchanged();
        let told = self.events.after(self.last.as_deref());
        let mut text = String::new();
        if told.missed {
            text.push_str("event: missed\ndata: {\"reason\":\"events in between are gone\"}\n\n");
        }
        for event in &told.events {
            let json = serde_json::to_string(&**event).expect("texts and numbers");
            let _ = write!(text, "id: {}\nevent: {}\ndata: {json}\n\n", event.id, event.kind);
        }
        if let Some(event) = told.events.last() {
            self.last = Some(event.id.clone());
        } else if told.missed || self.last.is_none() {
            // Nothing is kept yet: what comes is all new.
            self.last = Some(self.events.newest_id());
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Semaphore;

    use super::*;

    async fn read(body: &mut Body) -> String {
        let frame = body.frame().await.unwrap().unwrap();
        String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap()
    }

    fn permit() -> OwnedSemaphorePermit {
        Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_gets_what_it_missed_then_what_happens_and_a_breath_in_between() {
        let events = Events::new(2);
        let mut body = follow(events.clone(), None, permit());
        assert_eq!(read(&mut body).await, "retry: 3000\n\n");
        assert_eq!(read(&mut body).await, ":\n\n", "time passes");
        events.push("one", "a\nb", &[]);
        let first = read(&mut body).await;
        assert!(first.contains("event: one\ndata: {") && first.contains("a\\nb"), "{first}");
        assert_eq!(first.matches('\n').count(), 4, "a line break can't leave its text: {first}");
        let id = first.strip_prefix("id: ").unwrap().split_once('\n').unwrap().0.to_owned();
        drop(body);
        for reason in ["c", "d", "e"] {
            events.push("two", reason, &[]);
        }
        let mut body = follow(events.clone(), Some(id), permit());
        let text = read(&mut body).await;
        assert!(text.contains("event: missed\n") && !text.contains("\"c\""), "{text}");
        assert_eq!(text.matches("event: two").count(), 2, "{text}");
        assert_eq!(read(&mut body).await, ":\n\n", "each event once");
        events.push("three", "f", &[]);
        assert_eq!(read(&mut body).await.matches("event:").count(), 1);
    }
}
