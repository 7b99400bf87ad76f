//! The few things that are asked of the API server, as JSON, each bounded in time and size; and what it tells by itself.
//!
//! `kube` does the talking: credentials, TLS, connections, and the protocol of watches (`docs/decisions/0015-hami.md`).

use std::{path::Path, time::Duration};

use futures_util::Stream;
use http_body_util::{BodyExt as _, Limited};
use hyper::{Method, Request, header};
use kube_client::{
    Client,
    api::{Api, ApiResource, DynamicObject},
    client::Body,
};
use kube_runtime::watcher::{self, watcher};
use serde_json::{Value, json};

use super::{
    error::{ApiCause, ControlError},
    kubeconfig,
};

/// Longest wait for one answer.
const ANSWER: Duration = Duration::from_secs(20);
/// Objects asked for at once.
const PAGE: u32 = 200;
/// Largest answer that is read: a page of nodes with many images has some MiB.
const MAX_ANSWER: usize = 32 * 1024 * 1024;
/// User that the controller acts as: its rights are those of this one, whatever its credentials may do.
pub const USER: &str = "kdc-control";

/// Kinds of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `ConfigMap`
    ConfigMap,
    /// `Node`
    Node,
    /// `Pod`
    Pod,
    /// `Event`; those of nodes, which lie in `default`.
    Event,
    /// `Lease`
    Lease,
    /// `Namespace`
    Namespace,
}

/// How a patch is laid over what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patch {
    /// Members are replaced, `null` removes, lists are replaced whole.
    Merge,
    /// Lists are merged by what identifies their items.
    Strategic,
}

/// The API server, with the right to ask it.
#[derive(Clone)]
pub struct ApiServer {
    client: Client,
    /// Namespace of HAMi, of what is wanted and of the lease.
    namespace: String,
}

impl ApiServer {
    /// With the credentials of a kubeconfig, acting as another user if one is named. Nothing is asked yet.
    ///
    /// # Errors
    /// When the file can't be used.
    pub async fn with(
        path: &Path,
        namespace: &str,
        acting_as: Option<&'static str>,
    ) -> Result<Self, ControlError> {
        let client = kubeconfig::client(path, acting_as).await?;
        Ok(Self { client, namespace: namespace.to_owned() })
    }

    /// Namespace of everything but nodes and their events.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    fn path(&self, kind: Kind) -> String {
        let of = |plural: &str| format!("/api/v1/namespaces/{}/{plural}", self.namespace);
        match kind {
            Kind::Node => "/api/v1/nodes".to_owned(),
            Kind::Namespace => "/api/v1/namespaces".to_owned(),
            Kind::Event => "/api/v1/namespaces/default/events".to_owned(),
            Kind::ConfigMap => of("configmaps"),
            Kind::Pod => of("pods"),
            Kind::Lease => {
                format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases", self.namespace)
            }
        }
    }

    fn path_of(&self, kind: Kind, name: &str) -> String {
        format!("{}/{}", self.path(kind), escaped(name))
    }

    /// One object; `None`: there is none.
    ///
    /// # Errors
    /// When it is refused, or does not answer.
    pub async fn get(&self, kind: Kind, name: &str) -> Result<Option<Value>, ControlError> {
        let what = format!("reading {kind:?} {name}");
        match self.ask(what, Method::GET, &self.path_of(kind, name), None).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.refused_with() == Some(404) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Every object of a kind, a page at a time, each made smaller at once.
    ///
    /// # Errors
    /// When it is refused, or does not answer.
    pub async fn list<T>(
        &self,
        kind: Kind,
        labels: Option<&str>,
        small: impl Fn(&Value) -> T,
    ) -> Result<Vec<T>, ControlError> {
        let labels =
            labels.map(|labels| format!("&labelSelector={}", escaped(labels))).unwrap_or_default();
        let mut all = Vec::new();
        let mut from = String::new();
        loop {
            let path = format!("{}?limit={PAGE}{labels}{from}", self.path(kind));
            let page = self.ask(format!("listing {kind:?}s"), Method::GET, &path, None).await?;
            all.extend(page["items"].as_array().into_iter().flatten().map(&small));
            match page["metadata"]["continue"].as_str().filter(|token| !token.is_empty()) {
                Some(token) => from = format!("&continue={}", escaped(token)),
                None => return Ok(all),
            }
        }
    }

    /// Make an object.
    ///
    /// # Errors
    /// When it is refused, or does not answer.
    pub async fn create(&self, kind: Kind, object: &Value) -> Result<(), ControlError> {
        self.create_at(&self.path(kind), object).await
    }

    /// Make an object of whatever kind, at a path such as `/api/v1/namespaces`.
    ///
    /// # Errors
    /// When it is refused, or does not answer.
    pub async fn create_at(&self, path: &str, object: &Value) -> Result<(), ControlError> {
        let what =
            format!("creating {} {}", text(&object["kind"]), text(&object["metadata"]["name"]));
        self.ask(what, Method::POST, path, Some(("application/json", object))).await.map(drop)
    }

    /// Put an object whose `resourceVersion` says from what it was made.
    ///
    /// # Errors
    /// When it is refused (409: somebody else wrote in between), or does not answer.
    pub async fn replace(&self, kind: Kind, object: &Value) -> Result<(), ControlError> {
        let name = text(&object["metadata"]["name"]);
        let what = format!("writing {kind:?} {name}");
        let path = self.path_of(kind, name);
        self.ask(what, Method::PUT, &path, Some(("application/json", object))).await.map(drop)
    }

    /// Change parts of an object, or of its `status` where `part` says so.
    ///
    /// # Errors
    /// When it is refused, or does not answer.
    pub async fn patch(
        &self,
        kind: Kind,
        (name, part): (&str, Option<&str>),
        (how, patch): (Patch, &Value),
    ) -> Result<(), ControlError> {
        let what = format!("changing {kind:?} {name}");
        let part = part.map(|part| format!("/{part}")).unwrap_or_default();
        let path = format!("{}{part}", self.path_of(kind, name));
        let of = match how {
            Patch::Merge => "application/merge-patch+json",
            Patch::Strategic => "application/strategic-merge-patch+json",
        };
        self.ask(what, Method::PATCH, &path, Some((of, patch))).await.map(drop)
    }

    /// Delete exactly that pod. One that is gone, or is another by now, is no error.
    ///
    /// # Errors
    /// When it is refused, or does not answer.
    pub async fn delete_pod(&self, name: &str, uid: &str) -> Result<(), ControlError> {
        let options =
            json!({ "apiVersion": "v1", "kind": "DeleteOptions", "preconditions": { "uid": uid } });
        let (what, path) = (format!("deleting Pod {name}"), self.path_of(Kind::Pod, name));
        match self.ask(what, Method::DELETE, &path, Some(("application/json", &options))).await {
            Err(error) if !matches!(error.refused_with(), Some(404 | 409)) => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// All objects of a kind, or those that are chosen, and from then on every change of them. Cut streams, bookmarks and
    /// a history that is gone (410) are the library's to deal with.
    pub(super) fn watch(
        &self,
        kind: Kind,
        chosen: watcher::Config,
    ) -> impl Stream<Item = watcher::Result<watcher::Event<DynamicObject>>> + Send + use<> {
        let resource = ApiResource {
            group: String::new(),
            version: "v1".to_owned(),
            api_version: "v1".to_owned(),
            kind: format!("{kind:?}"),
            plural: format!("{kind:?}s").to_lowercase(),
        };
        let api = match kind {
            Kind::Node => Api::all_with(self.client.clone(), &resource),
            _ => Api::namespaced_with(self.client.clone(), &self.namespace, &resource),
        };
        watcher(api, chosen.page_size(PAGE))
    }

    async fn ask(
        &self,
        what: String,
        method: Method,
        path: &str,
        body: Option<(&str, &Value)>,
    ) -> Result<Value, ControlError> {
        match tokio::time::timeout(ANSWER, self.exchange(method, path, body)).await {
            Ok(answer) => answer.map_err(|source| ControlError::Api { what, source }),
            Err(_) => Err(ControlError::Silent { what, seconds: ANSWER.as_secs() }),
        }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, &Value)>,
    ) -> Result<Value, ApiCause> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, concat!("kdc-agent/", env!("CARGO_PKG_VERSION")));
        let bytes = match body {
            Some((kind, value)) => {
                request = request.header(header::CONTENT_TYPE, kind);
                serde_json::to_vec(value).map_err(ApiCause::unreachable)?
            }
            None => Vec::new(),
        };
        let request = request.body(Body::from(bytes)).map_err(ApiCause::unreachable)?;
        let response = self.client.send(request).await.map_err(ApiCause::unreachable)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|error| ApiCause::Unreachable(error.to_string()))?.to_bytes();
        let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
        if status.is_success() && answer.is_object() {
            return Ok(answer);
        }
        let message: String = text(&answer["message"]).chars().take(300).collect();
        Err(ApiCause::Refused { status: status.as_u16(), message })
    }
}

/// A part of a path or query.
fn escaped(text: &str) -> String {
    let plain =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    let one =
        |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(one).collect()
}

/// A text, empty where there is none.
pub(super) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_into_a_path_stays_one_part_of_it() {
        assert_eq!(escaped("w1.example-a_b"), "w1.example-a_b");
        assert_eq!(escaped("../a?b=c&d e"), "..%2Fa%3Fb%3Dc%26d%20e");
    }

    /// Credentials for an API server at that port of this machine.
    async fn server_at(port: u16) -> (tempfile::TempDir, ApiServer) {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        let certificate = parameters.self_signed(&key).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let pem = |name: &str, of: &str, der: &[u8]| {
            let text =
                format!("-----BEGIN {of}-----\n{}\n-----END {of}-----\n", STANDARD.encode(der));
            fs_err::write(folder.path().join(name), text).unwrap();
        };
        pem("crt", "CERTIFICATE", certificate.der());
        pem("key", "PRIVATE KEY", &key.serialize_der());
        let file = format!(
            "current-context: c\ncontexts: [{{name: c, context: {{cluster: k, user: u}}}}]\n\
             clusters: [{{name: k, cluster: {{server: 'https://127.0.0.1:{port}', certificate-authority: crt}}}}]\n\
             users: [{{name: u, user: {{client-certificate: crt, client-key: key}}}}]\n"
        );
        let path = folder.path().join("admin.conf");
        fs_err::write(&path, file).unwrap();
        let server = ApiServer::with(&path, "kube-system", None).await.unwrap();
        (folder, server)
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_not_there_and_who_never_answers_are_told_apart() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (_folder, server) = server_at(port).await;
        let silent = server.get(Kind::Node, "w1").await.unwrap_err();
        assert_eq!(silent.code(), "AGENT-082");
        assert_eq!(silent.to_string(), "reading Node w1: no answer within 20 s");
        drop(listener);
        let gone = server.get(Kind::Node, "w1").await.unwrap_err();
        assert_eq!(gone.code(), "AGENT-081");
        assert!(gone.hint().is_some() && !gone.is_conflict());
    }
}
