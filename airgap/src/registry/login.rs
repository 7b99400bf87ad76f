//! Being let in by a registry: Basic, or a token from where the registry sends us for one.

use std::{cell::RefCell, collections::BTreeMap, path::PathBuf};

use base64::Engine as _;
use reqwest::{
    Url,
    header::{AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE},
};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::config::{self, Login};
use crate::fetch::{FetchError, Fetcher, parse_address};

/// Largest token read.
const MAX_TOKEN: usize = 1024 * 1024;

/// A repository of a registry, as far as logins go.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Repository {
    /// Whose login is used: the registry's, or its mirror's.
    pub(crate) registry: String,
    /// `library/busybox`.
    pub(crate) name: String,
}

impl Repository {
    /// The error for a login that failed.
    pub(crate) fn refused(&self, what: impl Into<String>) -> FetchError {
        FetchError::Login {
            registry: self.registry.clone(),
            repository: self.name.clone(),
            what: what.into(),
        }
    }
}

/// Where logins are read, and what they became.
#[derive(Debug)]
pub(crate) struct Logins {
    config: Option<PathBuf>,
    headers: RefCell<BTreeMap<Repository, HeaderValue>>,
}

impl Logins {
    pub(crate) fn new(config: Option<PathBuf>) -> Self {
        Self { config, headers: RefCell::default() }
    }

    /// What to send with a question about the repository.
    pub(crate) fn header(&self, repository: &Repository) -> Option<HeaderValue> {
        self.headers.borrow().get(repository).cloned()
    }
}

#[derive(Deserialize)]
struct Token {
    token: Option<Zeroizing<String>>,
    access_token: Option<Zeroizing<String>>,
}

impl Fetcher {
    /// Answers a registry that wants to know who asks.
    pub(crate) async fn log_in(
        &self,
        repository: &Repository,
        headers: &HeaderMap,
    ) -> Result<(), FetchError> {
        let logins = self.logins();
        let login = config::find(logins.config.as_deref(), &repository.registry, &repository.name)
            .map_err(|what| repository.refused(what))?;
        let challenges = headers.get_all(WWW_AUTHENTICATE).iter();
        let challenges: Vec<_> =
            challenges.filter_map(|text| Challenge::parse(text.to_str().ok()?)).collect();
        let find = |scheme: &str| {
            challenges.iter().find(|challenge| challenge.scheme.eq_ignore_ascii_case(scheme))
        };
        let header = if let Some(challenge) = find("bearer") {
            self.token(repository, challenge, login.as_ref()).await?
        } else if find("basic").is_some() {
            match login {
                Some(Login::Password { user, password }) => basic(&user, &password),
                Some(Login::Identity(_)) => {
                    return Err(repository.refused("it takes a password, there is only a token"));
                }
                None => return Err(repository.refused("no login for it is known")),
            }
        } else {
            return Err(repository.refused("it asks for a login in a way that is not known"));
        };
        logins.headers.borrow_mut().insert(repository.clone(), header);
        Ok(())
    }

    async fn token(
        &self,
        repository: &Repository,
        challenge: &Challenge,
        login: Option<&Login>,
    ) -> Result<HeaderValue, FetchError> {
        let realm = challenge.parameters.get("realm").map(String::as_str).unwrap_or_default();
        let mut url = parse_address(realm)?;
        // A login is not sent over an open line.
        if url.scheme() != "https" && !super::is_open_line_fine(&url) {
            return Err(repository.refused(format!("it sends us to {realm}, which is not https")));
        }
        let service = challenge.parameters.get("service").cloned().unwrap_or_default();
        let scope = format!("repository:{}:pull", repository.name);
        let request = match login {
            Some(Login::Identity(token)) => {
                let fields = [
                    ("grant_type", "refresh_token"),
                    ("service", service.as_str()),
                    ("client_id", "kdc-install"),
                    ("scope", scope.as_str()),
                    ("refresh_token", token.as_str()),
                ];
                let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
                let request = self.client().post(url.clone());
                request.header(reqwest::header::CONTENT_TYPE, kind).body(form(&fields))
            }
            other => {
                url.query_pairs_mut().append_pair("service", &service).append_pair("scope", &scope);
                let request = self.client().get(url.clone());
                match other {
                    Some(Login::Password { user, password }) => {
                        request.header(AUTHORIZATION, basic(user, password))
                    }
                    _ => request,
                }
            }
        };
        let bytes = self.read_token(repository, request, &url).await?;
        let wrong = || repository.refused("it gives a token that can't be read");
        let token: Token = serde_json::from_slice(&bytes).map_err(|_| wrong())?;
        let token = token.token.or(token.access_token).filter(|token| !token.is_empty());
        let text = Zeroizing::new(format!("Bearer {}", *token.ok_or_else(wrong)?));
        let mut header = HeaderValue::from_str(&text).map_err(|_| wrong())?;
        header.set_sensitive(true);
        Ok(header)
    }

    async fn read_token(
        &self,
        repository: &Repository,
        request: reqwest::RequestBuilder,
        url: &Url,
    ) -> Result<Zeroizing<Vec<u8>>, FetchError> {
        let mut response = self.answer(request, url).await?;
        if !response.status().is_success() {
            let host = url.host_str().unwrap_or_default();
            return Err(repository.refused(format!("{host} answers {}", response.status())));
        }
        let mut bytes = Zeroizing::new(Vec::new());
        let mut pace = self.pace();
        while let Some(chunk) = pace.next(&mut response, url).await? {
            if bytes.len() + chunk.len() > MAX_TOKEN {
                return Err(repository.refused("it gives a token without end"));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }
}

fn basic(user: &str, password: &str) -> HeaderValue {
    let pair = Zeroizing::new(format!("{user}:{password}"));
    let engine = base64::engine::general_purpose::STANDARD;
    let text = Zeroizing::new(format!("Basic {}", engine.encode(pair.as_bytes())));
    let mut header = HeaderValue::from_str(&text).expect("base64 is printable");
    header.set_sensitive(true);
    header
}

/// Fields as a form's body.
fn form(fields: &[(&str, &str)]) -> String {
    let mut url = Url::parse("http://form/").expect("a constant");
    url.query_pairs_mut().extend_pairs(fields);
    url.query().unwrap_or_default().to_owned()
}

/// One `WWW-Authenticate`: a scheme and its parameters.
#[derive(Debug, PartialEq, Eq)]
struct Challenge {
    scheme: String,
    parameters: BTreeMap<String, String>,
}

impl Challenge {
    fn parse(text: &str) -> Option<Self> {
        let (scheme, mut rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        let mut parameters = BTreeMap::new();
        while let Some((name, value)) = rest.split_once('=') {
            let (value, after) = match value.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"')?,
                None => value.split_at(value.find(',').unwrap_or(value.len())),
            };
            let name = name.trim_matches([' ', ',']).to_ascii_lowercase();
            parameters.insert(name, value.to_owned());
            rest = after;
        }
        (!scheme.is_empty()).then(|| Self { scheme: scheme.to_owned(), parameters })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_has_a_scheme_and_parameters() {
        let text = r#"Bearer realm="https://auth.example/token",service=x, scope="a:b,c:pull""#;
        let challenge = Challenge::parse(text).unwrap();
        assert_eq!(challenge.scheme, "Bearer");
        assert_eq!(challenge.parameters["realm"], "https://auth.example/token");
        assert_eq!(challenge.parameters["service"], "x");
        assert_eq!(challenge.parameters["scope"], "a:b,c:pull");
        assert_eq!(Challenge::parse("Basic").unwrap().scheme, "Basic");
        assert_eq!(Challenge::parse(r#"Bearer realm="x"#), None);
        assert_eq!(Challenge::parse(" "), None);
    }
}
