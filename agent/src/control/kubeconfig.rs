//! Credentials for an API server, as kubeadm writes them: one file, everything in it or named by it.
//!
//! The library (`kube`) reads it. What is said of a file that can't be used names fields, and never what stands in it.

use std::path::Path;

use kube_client::{
    Client, Config,
    config::{AuthInfo, KubeConfigOptions, Kubeconfig, KubeconfigError},
};
use secrecy::ExposeSecret as _;

use super::error::ControlError;

/// Longest file that is read.
const MAX_BYTES: u64 = 1024 * 1024;

/// A client with the credentials of a file, acting as another user if one is named. Nothing is asked yet.
pub(super) async fn client(
    path: &Path,
    acting_as: Option<&'static str>,
) -> Result<Client, ControlError> {
    let wrong = |reason| ControlError::Kubeconfig { path: path.to_owned(), reason };
    let mut config = understand(path).await.map_err(wrong)?;
    config.auth_info.impersonate = acting_as.map(str::to_owned);
    // Nobody else is asked, whatever this process was told of proxies.
    config.proxy_url = None;
    let unusable = |_| wrong("`client-certificate` or `client-key` can't be used".to_owned());
    Client::try_from(config).map_err(unusable)
}

async fn understand(path: &Path) -> Result<Config, String> {
    let found = fs_err::metadata(path).map_err(|error| error.to_string())?;
    if found.len() > MAX_BYTES {
        return Err(format!("it has {} bytes; at most {MAX_BYTES} are read", found.len()));
    }
    let file = Kubeconfig::read_from(path).map_err(|error| words(&error))?;
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
    let config = config.map_err(|error| words(&error))?;
    if config.cluster_url.scheme_str() != Some("https") || config.accept_invalid_certs {
        return Err("its server is no `https://host:port` with a certificate to check".to_owned());
    }
    if config.root_cert.as_ref().is_none_or(Vec::is_empty) {
        return Err("it has no `certificate-authority`".to_owned());
    }
    has_certificate(&config.auth_info)?;
    Ok(config)
}

/// Only what is in the file counts: no program is run, and nobody else asked, for a proof of who we are.
fn has_certificate(user: &AuthInfo) -> Result<(), String> {
    let certificate = user.client_certificate.is_some() || user.client_certificate_data.is_some();
    let key = user.client_key.is_some()
        || user.client_key_data.as_ref().is_some_and(|key| !key.expose_secret().is_empty());
    match (certificate, key) {
        _ if user.exec.is_some() || user.auth_provider.is_some() => {
            Err("its user runs a program to log in, which is not done here".to_owned())
        }
        (false, _) => Err("it has no `client-certificate`".to_owned()),
        (_, false) => Err("it has no `client-key`".to_owned()),
        (true, true) => Ok(()),
    }
}

/// The library's own words may quote the file.
fn words(error: &KubeconfigError) -> String {
    match error {
        KubeconfigError::ReadConfig(cause, _) => cause.to_string(),
        KubeconfigError::LoadContext(_) | KubeconfigError::LoadClusterOfContext(_) => {
            "it has no context or cluster of the name that it uses".to_owned()
        }
        KubeconfigError::LoadCertificateAuthority(_) | KubeconfigError::ParseCertificates(_) => {
            "`certificate-authority` is no certificate".to_owned()
        }
        KubeconfigError::LoadClientCertificate(_) => {
            "`client-certificate` can't be read".to_owned()
        }
        KubeconfigError::LoadClientKey(_) => "`client-key` can't be read".to_owned(),
        KubeconfigError::MissingClusterUrl | KubeconfigError::ParseClusterUrl(_) => {
            "its server is no `https://host:port`".to_owned()
        }
        _ => "it is no kubeconfig with clusters, users and contexts".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_wrong_with_a_file_is_told_without_what_stands_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.conf");
        let certificate = rcgen::generate_simple_self_signed(Vec::new()).unwrap();
        let pem = |of: &str, der: &[u8]| {
            use base64::{Engine as _, engine::general_purpose::STANDARD};
            let text =
                format!("-----BEGIN {of}-----\n{}\n-----END {of}-----\n", STANDARD.encode(der));
            STANDARD.encode(text)
        };
        let good = pem("CERTIFICATE", certificate.cert.der());
        let key = pem("PRIVATE KEY", &certificate.signing_key.serialize_der());
        let file = |server: &str, authority: &str, user: &str| {
            format!(
                "current-context: c\ncontexts: [{{name: c, context: {{cluster: k, user: u}}}}]\n\
                 clusters: [{{name: k, cluster: {{server: '{server}', certificate-authority-data: '{authority}'}}}}]\n\
                 users: [{{name: u, user: {user}}}]\n"
            )
        };
        let server = "https://1.2.3.4:6443";
        let both = format!("{{client-certificate-data: {good}, client-key-data: {key}}}");
        let exec = "{exec: {apiVersion: client.authentication.k8s.io/v1, command: hunter2}}";
        for (text, why) in [
            ("secret: hunter2".to_owned(), "no kubeconfig"),
            ("clusters: {hunter2".to_owned(), "no kubeconfig"),
            (file(server, &good, "{token: hunter2}"), "no `client-certificate`"),
            (file(server, &good, exec), "runs a program"),
            (
                file(server, &good, &format!("{{client-certificate-data: {good}}}")),
                "no `client-key`",
            ),
            (
                file(server, &good, &both.replace(&key, "aHVudGVyMg==")),
                "`client-key` can't be used",
            ),
            (file(server, "aHVudGVyMg==", &both), "no `certificate-authority`"),
            (file(server, "hunter2!", &both), "`certificate-authority`"),
            (file("http://1.2.3.4:6443", &good, &both), "no `https://host:port`"),
            (file("", &good, &both), "no `https://host:port`"),
            (file(server, &good, &both).replace("context: c", "context: d"), "no context"),
        ] {
            fs_err::write(&path, &text).unwrap();
            let error = client(&path, None).await.err().expect(why);
            assert_eq!(error.code(), "AGENT-080");
            let told = error.to_string();
            assert!(
                told.contains(why) && !told.contains("hunter2") && !told.contains("aHVudGVyMg"),
                "{why}: {told}"
            );
        }
        fs_err::write(&path, file(server, &good, &both)).unwrap();
        assert!(client(&path, Some("kdc-control")).await.is_ok());
        let none = client(&folder.path().join("none"), None).await.err().expect("no file");
        assert!(none.hint().is_some());
    }
}
