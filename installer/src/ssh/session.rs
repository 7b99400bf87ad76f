//! One open connection to one agent.
//!
//! A reader task hands each answer to whoever asked; a writer task keeps frames whole when a caller
//! gives up half-way. Both end with the connection.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use kdc_agent::wire::{
    Event, Failure, Hello, Message, Outcome, Reply, Request, RequestBody,
    frame::{Decoder, encode},
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, timeout},
};

use super::{
    AgentBinary, SshError, Target, deadline,
    dial::dial,
    error::At,
    lane::{Heard, LaneReader, LaneWriter, Opener, Tail},
    stage::{self, Place, Staging},
};

/// Events that may wait for a caller before the node is slowed down.
const EVENTS_WAITING: usize = 1024;

/// How long a closing session waits for the agent to end.
const CLOSE: Duration = Duration::from_secs(3);

/// An open session: logged in, agent started, greeted. Requests may be made concurrently.
pub struct Session {
    pub(super) node: String,
    pub(super) at: At,
    pub(super) user: String,
    pub(super) opener: Opener,
    pub(super) place: Place,
    pub(super) round_trip: Duration,
    pub(super) keyring: Arc<super::Keyring>,
    hello: Hello,
    uploaded: bool,
    shared: Arc<Shared>,
    outgoing: Option<mpsc::Sender<Bytes>>,
    reader: JoinHandle<()>,
}

/// What callers and the reader task share.
#[derive(Default)]
struct Shared(Mutex<State>);

#[derive(Default)]
struct State {
    last_id: u64,
    waiting: HashMap<u64, Waiting>,
    /// How the connection ended, once it has.
    ended: Option<String>,
    /// It ended since what came was no message: connecting again would only hear it again.
    is_garbled: bool,
}

struct Waiting {
    reply: oneshot::Sender<Result<Reply, Failure>>,
    /// Events with this run id go to this request.
    topic: Option<String>,
    events: mpsc::Sender<Event>,
}

impl Session {
    /// Connect, prove the host key, log in, stage and start the agent, and greet it.
    ///
    /// # Errors
    /// Each way it can fail has its own [`SshError`].
    pub async fn open(target: &Target, agent: &AgentBinary) -> Result<Self, SshError> {
        let (opener, at, user, keyring) = match target {
            Target::Ssh { node, reach, jump, keyring } => {
                let link = dial(node, reach, jump.as_deref(), keyring).await?;
                (Opener::Ssh(Arc::new(link)), reach.at(node), reach.user.clone(), keyring)
            }
            Target::Local { node, keyring } => {
                let user = nix::unistd::User::from_uid(nix::unistd::Uid::current());
                let user = user.ok().flatten().map_or_else(|| "me".to_owned(), |user| user.name);
                let at = At { node: node.clone(), address: "this machine".to_owned() };
                (Opener::Local, at, user, keyring)
            }
        };
        let staging = Staging { opener: &opener, at: &at, user: &user, keyring };
        let started = stage::start(&staging, agent).await?;
        tracing::info!(
            node = target.node(),
            version = started.hello.agent_version,
            uploaded = started.uploaded,
            round_trip_ms = started.round_trip.as_millis(),
            "the agent answers"
        );
        let shared = Arc::new(Shared::default());
        let (outgoing, frames) = mpsc::channel(4);
        tokio::spawn(write_frames(started.writer, frames));
        let reader = Reader {
            lane: started.reader,
            decoder: started.decoder,
            shared: Arc::clone(&shared),
            opener: opener.clone(),
        };
        Ok(Self {
            node: target.node().to_owned(),
            at,
            user,
            keyring: Arc::clone(keyring),
            hello: started.hello,
            place: started.place,
            round_trip: started.round_trip,
            uploaded: started.uploaded,
            opener,
            shared,
            outgoing: Some(outgoing),
            reader: tokio::spawn(reader.run()),
        })
    }

    /// Like [`Session::open`], trying again with growing pauses while the node can't be reached
    /// (a cut link, a reboot), for at most `patience`.
    ///
    /// # Errors
    /// The last failure, or at once one that trying again does not help.
    pub async fn reconnect(
        target: &Target,
        agent: &AgentBinary,
        patience: Duration,
    ) -> Result<Self, SshError> {
        let started = Instant::now();
        let mut pause = Duration::from_millis(250);
        loop {
            let error = match Self::open(target, agent).await {
                Ok(session) => return Ok(session),
                Err(error) => error,
            };
            if !error.is_link() || started.elapsed() + pause > patience {
                return Err(error);
            }
            // Many nodes come back at once after a switch reboots: spread them.
            tokio::time::sleep(pause.mul_f64(rand::random_range(0.7..1.3))).await;
            pause = (pause * 2).min(Duration::from_secs(10));
        }
    }

    /// Node name.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The agent's greeting.
    #[must_use]
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// True when the agent had to be uploaded; false when a checked copy was there.
    #[must_use]
    pub fn uploaded(&self) -> bool {
        self.uploaded
    }

    /// True while the connection stands.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.shared.lock().ended.is_none()
    }

    /// Ask the agent one thing. Has a deadline by kind of request.
    ///
    /// # Errors
    /// [`SshError::Agent`] with the agent's own words, or the connection was lost.
    pub async fn request(&self, body: RequestBody) -> Result<Reply, SshError> {
        self.request_watched(body, |_| {}).await
    }

    /// Ask, and see the events on the way to the answer (`Accept` and other long requests). Giving
    /// up (dropping the future) is safe: a late answer is thrown away.
    ///
    /// # Errors
    /// As [`Session::request`].
    pub async fn request_watched(
        &self,
        body: RequestBody,
        mut on_event: impl FnMut(Event) + Send,
    ) -> Result<Reply, SshError> {
        let (name, topic, limit) = deadline::manners(&body);
        let (node, asked) = (self.node.as_str(), std::time::Instant::now());
        let (reply, mut answer) = oneshot::channel();
        let (events, mut stream) = mpsc::channel(EVENTS_WAITING);
        let id = self.enlist(Waiting { reply, topic, events }, name)?;
        let _forget = Forget { shared: &self.shared, id };
        let frame = encode(&Request { id, body }).map_err(|error| SshError::Unexpected {
            node: self.node.clone(),
            during: name.to_owned(),
            detail: error.to_string(),
        })?;
        let asking = async {
            let sent = match &self.outgoing {
                Some(outgoing) => outgoing.send(Bytes::from(frame)).await.is_ok(),
                None => false,
            };
            if !sent {
                return None;
            }
            loop {
                tokio::select! {
                    biased;
                    Some(event) = stream.recv() => on_event(event),
                    said = &mut answer => break said.ok(),
                }
            }
        };
        let said = match limit {
            None => asking.await,
            Some(limit) => timeout(limit, asking).await.map_err(|_| SshError::Deadline {
                node: self.node.clone(),
                during: name.to_owned(),
                secs: limit.as_secs(),
            })?,
        };
        let took_ms = asked.elapsed().as_millis();
        match said {
            Some(Ok(reply)) => {
                tracing::debug!(node, request = name, took_ms, "answered");
                Ok(reply)
            }
            Some(Err(failure)) => {
                tracing::info!(node, request = name, took_ms, code = failure.code, "refused");
                Err(SshError::Agent { node: self.node.clone(), failure: Box::new(failure) })
            }
            None => Err(self.lost(name)),
        }
    }

    /// Follow a run from the event after `after` until it ends.
    ///
    /// # Errors
    /// As [`Session::request`]; after [`SshError::Lost`] reconnect and attach again.
    pub async fn attach(
        &self,
        run: &str,
        after: u64,
        on_event: impl FnMut(Event) + Send,
    ) -> Result<Outcome, SshError> {
        let body = RequestBody::Attach { run: run.to_owned(), after };
        match self.request_watched(body, on_event).await? {
            Reply::Ended { outcome } => Ok(outcome),
            other => Err(SshError::Unexpected {
                node: self.node.clone(),
                during: format!("following run {run}"),
                detail: format!("{other:?}").chars().take(80).collect(),
            }),
        }
    }

    /// End the session: the agent ends, the connection closes.
    pub async fn close(mut self) {
        // The writer task ends the agent's input once nobody can send any more.
        self.outgoing = None;
        // An agent that doesn't end by itself is cut off with the connection.
        drop(timeout(CLOSE, &mut self.reader).await);
        if let Opener::Ssh(link) = &self.opener {
            let goodbye = link.handle.disconnect(russh::Disconnect::ByApplication, "", "en");
            drop(timeout(CLOSE, goodbye).await);
        }
    }

    /// The error for a connection that ended.
    pub(super) fn lost(&self, during: &str) -> SshError {
        let state = self.shared.lock();
        let (node, during) = (self.node.clone(), during.to_owned());
        let detail = state.ended.clone().unwrap_or_default();
        if state.is_garbled {
            let detail = detail.trim_start_matches(": ").to_owned();
            return SshError::Unexpected { node, during, detail };
        }
        SshError::Lost { node, during, detail }
    }

    fn enlist(&self, waiting: Waiting, name: &str) -> Result<u64, SshError> {
        let mut state = self.shared.lock();
        if state.ended.is_some() {
            drop(state);
            return Err(self.lost(name));
        }
        state.last_id += 1;
        let id = state.last_id;
        state.waiting.insert(id, waiting);
        Ok(id)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Shared {
    /// A panic elsewhere leaves the state whole: no update spans two locks.
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Strikes a request off the list when its caller is done or gave up.
struct Forget<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.shared.lock().waiting.remove(&self.id);
    }
}

async fn write_frames(mut lane: LaneWriter, mut frames: mpsc::Receiver<Bytes>) {
    while let Some(frame) = frames.recv().await {
        // The reader notices a lost connection and tells every caller why.
        if lane.send(frame).await.is_err() {
            break;
        }
    }
    lane.finish().await;
}

struct Reader {
    lane: LaneReader,
    decoder: Decoder,
    shared: Arc<Shared>,
    opener: Opener,
}

impl Reader {
    async fn run(mut self) {
        let why = self.read().await;
        let mut state = self.shared.lock();
        state.ended = Some(why);
        // Dropping the senders wakes every caller.
        state.waiting.clear();
    }

    /// Hand out messages until the lane ends; says how it ended.
    async fn read(&mut self) -> String {
        let mut said = Tail::default();
        loop {
            loop {
                match self.decoder.take::<Message>() {
                    Ok(Some(message)) => self.hand_out(message).await,
                    Ok(None) => break,
                    Err(error) => {
                        self.shared.lock().is_garbled = true;
                        return format!(": {error}");
                    }
                }
            }
            match self.lane.next().await {
                Heard::Out(bytes) => self.decoder.feed(&bytes),
                Heard::Err(bytes) => said.push(&bytes),
                Heard::End(how) if how.is_empty() => return self.opener.last_words(),
                Heard::End(how) if said.text().is_empty() => {
                    return format!(": the agent ended: {how}");
                }
                Heard::End(how) => return format!(": the agent ended: {how}: {}", said.text()),
            }
        }
    }

    async fn hand_out(&self, message: Message) {
        match message {
            Message::Reply { id, result } => {
                if let Some(waiting) = self.shared.lock().waiting.remove(&id) {
                    // Whoever gave up in this very moment doesn't want it.
                    drop(waiting.reply.send(result));
                }
            }
            Message::Event(event) => {
                let listeners: Vec<_> = {
                    let state = self.shared.lock();
                    let topic = Some(event.run.as_str());
                    let of_run = state.waiting.values().filter(|one| one.topic.as_deref() == topic);
                    of_run.map(|one| one.events.clone()).collect()
                };
                for listener in listeners {
                    drop(listener.send(event.clone()).await);
                }
            }
        }
    }
}
