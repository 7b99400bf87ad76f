//! Logging in: keys of the SSH agent, key files, then password and keyboard-interactive.

use std::time::Duration;

use russh::{
    MethodKind, MethodSet,
    client::{AuthResult, KeyboardInteractiveAuthResponse},
    keys::{
        Algorithm, PrivateKeyWithHashAlg, PublicKey,
        agent::{AgentIdentity, client::AgentClient},
    },
};
use secrecy::ExposeSecret as _;
use tokio::{
    net::UnixStream,
    time::{error::Elapsed, timeout},
};

use super::{
    Keyring, Reach, SecretKind, SshError,
    dial::Link,
    error::At,
    known_hosts::fingerprint,
    secret::{KeyFile, public_part},
};

/// One answer of the server must come by then (some look users up slowly).
const ANSWER: Duration = Duration::from_secs(30);

/// The SSH agent must answer by then; a hardware key waits for a touch.
const AGENT: Duration = Duration::from_secs(30);

/// Keys offered at most: OpenSSH's server hangs up at the sixth failure.
const MAX_OFFERS: usize = 5;

/// Rounds of questions answered at most.
const MAX_ROUNDS: usize = 6;

struct Login<'a> {
    link: &'a mut Link,
    node: &'a str,
    reach: &'a Reach,
    keyring: &'a Keyring,
    at: &'a At,
    tried: Vec<String>,
    accepts: Option<MethodSet>,
    /// The most telling trouble with our own means, reported when nothing else worked.
    trouble: Option<SshError>,
    offers: usize,
}

/// Log in on a connection whose host key is proved.
pub(super) async fn login(
    link: &mut Link,
    node: &str,
    reach: &Reach,
    keyring: &Keyring,
    at: &At,
) -> Result<(), SshError> {
    let mut login = Login {
        link,
        node,
        reach,
        keyring,
        at,
        tried: Vec::new(),
        accepts: None,
        trouble: None,
        offers: 0,
    };
    if login.with_keys().await? || login.with_password().await? {
        return Ok(());
    }
    Err(login.refused())
}

impl Login<'_> {
    async fn with_keys(&mut self) -> Result<bool, SshError> {
        let mut agent = self.agent().await;
        let held = match &mut agent {
            Some(agent) => {
                timeout(AGENT, agent.request_identities()).await.ok().and_then(Result::ok)
            }
            None => None,
        };
        let held = held.unwrap_or_default();
        let files: Vec<_> =
            self.reach.identities.iter().map(|path| (path, public_part(path))).collect();
        let named = |identity: &AgentIdentity| {
            let key = identity.public_key();
            files.iter().any(|(_, public)| {
                public.as_ref().is_some_and(|public| public.key_data() == key.key_data())
            })
        };
        let (first, rest): (Vec<_>, Vec<_>) = held.iter().partition(|identity| named(identity));
        let rest = if self.reach.identities_only { Vec::new() } else { rest };
        if let Some(agent) = &mut agent {
            for identity in first.iter().chain(&rest) {
                if !self.may_offer_key() {
                    break;
                }
                if self.offer_held(agent, identity).await? {
                    return Ok(true);
                }
            }
        }
        let in_agent = |public: &PublicKey| {
            first.iter().any(|identity| identity.public_key().key_data() == public.key_data())
        };
        for (path, public) in &files {
            if !public.as_ref().is_some_and(in_agent)
                && self.may_offer_key()
                && self.offer_file(path).await?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn agent(&self) -> Option<AgentClient<UnixStream>> {
        let socket = self.keyring.agent_socket.as_ref()?;
        timeout(AGENT, AgentClient::connect_uds(socket)).await.ok()?.ok()
    }

    fn may_offer_key(&self) -> bool {
        self.offers < MAX_OFFERS
            && !self.link.handle.is_closed()
            && self.accepts.as_ref().is_none_or(|accepts| accepts.contains(&MethodKind::PublicKey))
    }

    async fn offer_held(
        &mut self,
        agent: &mut AgentClient<UnixStream>,
        identity: &AgentIdentity,
    ) -> Result<bool, SshError> {
        let public = identity.public_key().into_owned();
        self.tried.push(format!("key {} of the SSH agent", fingerprint(&public)));
        self.offers += 1;
        let hash = if matches!(public.algorithm(), Algorithm::Rsa { .. }) {
            self.link.handle.best_supported_rsa_hash().await.ok().flatten().flatten()
        } else {
            None
        };
        let user = self.reach.user.clone();
        let handle = &mut self.link.handle;
        let offer = async {
            match identity {
                AgentIdentity::PublicKey { key, .. } => {
                    handle.authenticate_publickey_with(user, key.clone(), hash, agent).await
                }
                AgentIdentity::Certificate { certificate, .. } => {
                    handle
                        .authenticate_certificate_with(user, certificate.clone(), hash, agent)
                        .await
                }
            }
        };
        match timeout(AGENT + ANSWER, offer).await {
            Ok(Ok(result)) => Ok(self.took(result)),
            // The agent declined to sign: another key may still do.
            Ok(Err(_)) => Ok(false),
            Err(_) => Err(self.silent()),
        }
    }

    async fn offer_file(&mut self, path: &std::path::Path) -> Result<bool, SshError> {
        let (at, own_path) = (self.at.clone(), path.to_owned());
        let trouble = match &*self.keyring.key(path, self.node).await {
            KeyFile::Open(key) => {
                self.tried.push(format!("key file {}", path.display()));
                self.offers += 1;
                let key = PrivateKeyWithHashAlg::new(std::sync::Arc::clone(key), None);
                let user = self.reach.user.clone();
                let offer = self.link.handle.authenticate_publickey(user, key);
                let outcome = timeout(ANSWER, offer).await;
                return self.settle(outcome);
            }
            KeyFile::WrongPassphrase => {
                SshError::Passphrase { at, path: own_path, problem: "wrong passphrase" }
            }
            KeyFile::NoPassphrase => {
                SshError::Passphrase { at, path: own_path, problem: "it needs a passphrase" }
            }
            KeyFile::Unusable(problem) => {
                SshError::KeyFile { at, path: own_path, problem: problem.clone() }
            }
        };
        self.trouble.get_or_insert(trouble);
        Ok(false)
    }

    async fn with_password(&mut self) -> Result<bool, SshError> {
        if self.accepts.is_none() && !self.link.handle.is_closed() {
            let user = self.reach.user.clone();
            let outcome = timeout(ANSWER, self.link.handle.authenticate_none(user)).await;
            if self.settle(outcome)? {
                return Ok(true);
            }
        }
        let may = |method| self.accepts.as_ref().is_some_and(|accepts| accepts.contains(&method));
        let (plain, asking) = (may(MethodKind::Password), may(MethodKind::KeyboardInteractive));
        if !plain && !asking || self.link.handle.is_closed() {
            return Ok(false);
        }
        let kind = SecretKind::Password { user: self.reach.user.clone() };
        let Some(password) = self.keyring.secret(kind.clone(), self.node).await else {
            return Ok(false);
        };
        let mut done = false;
        if plain {
            self.tried.push("password".to_owned());
            let (user, text) = (self.reach.user.clone(), password.expose_secret().to_owned());
            let offer = self.link.handle.authenticate_password(user, text);
            let outcome = timeout(ANSWER, offer).await;
            done = self.settle(outcome)?;
        }
        if !done && asking && !self.link.handle.is_closed() {
            self.tried.push("keyboard-interactive".to_owned());
            done = self.answer_questions(password.expose_secret()).await?;
        }
        if !done {
            self.keyring.forget(&kind).await;
        }
        Ok(done)
    }

    /// Answers only hidden questions, and only with the password: never a question it can't know.
    async fn answer_questions(&mut self, password: &str) -> Result<bool, SshError> {
        use KeyboardInteractiveAuthResponse as Response;
        let user = self.reach.user.clone();
        let handle = &mut self.link.handle;
        let start = handle.authenticate_keyboard_interactive_start(user, None::<String>);
        let mut said = timeout(ANSWER, start).await;
        for _ in 0..MAX_ROUNDS {
            let answers = match said {
                Ok(Ok(Response::Success)) => return Ok(true),
                Ok(Ok(Response::InfoRequest { prompts, .. }))
                    if prompts.len() <= 1 && prompts.iter().all(|prompt| !prompt.echo) =>
                {
                    vec![password.to_owned(); prompts.len()]
                }
                Ok(Ok(_) | Err(_)) => return Ok(false),
                Err(_) => return Err(self.silent()),
            };
            let handle = &mut self.link.handle;
            said = timeout(ANSWER, handle.authenticate_keyboard_interactive_respond(answers)).await;
        }
        Ok(false)
    }

    fn settle(
        &mut self,
        outcome: Result<Result<AuthResult, russh::Error>, Elapsed>,
    ) -> Result<bool, SshError> {
        match outcome {
            Ok(Ok(result)) => Ok(self.took(result)),
            // The connection is gone, or this key can't sign: `refused` says so in the end.
            Ok(Err(_)) => Ok(false),
            Err(_) => Err(self.silent()),
        }
    }

    fn took(&mut self, result: AuthResult) -> bool {
        match result {
            AuthResult::Success => true,
            AuthResult::Failure { remaining_methods, .. } => {
                self.accepts = Some(remaining_methods);
                false
            }
        }
    }

    fn silent(&self) -> SshError {
        SshError::Deadline {
            node: self.at.node.clone(),
            during: "logging in".to_owned(),
            secs: ANSWER.as_secs(),
        }
    }

    fn refused(self) -> SshError {
        if let Some(trouble) = self.trouble {
            return trouble;
        }
        let words = self.link.last_words.lock().ok().and_then(|words| words.clone());
        let accepts = match (words, &self.accepts) {
            (Some(words), _) => format!("no more (it hung up: {words})"),
            (None, Some(accepts)) if !accepts.is_empty() => {
                accepts.iter().map(<&str>::from).collect::<Vec<_>>().join(", ")
            }
            (None, _) => "no more (it hung up)".to_owned(),
        };
        SshError::LoginRefused { at: self.at.clone(), tried: self.tried, accepts }
    }
}
