//! Logins of registries, from the file that `docker login` and `skopeo login` write.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use base64::Engine as _;
use serde::Deserialize;
use zeroize::Zeroizing;

/// Largest such file read.
const MAX_CONFIG: u64 = 1024 * 1024;

/// Most that a credential helper may say.
const MAX_ANSWER: u64 = 64 * 1024;

/// How long a credential helper may take; it may ask the user.
const HELPER_PATIENCE: Duration = Duration::from_secs(60);

/// How to say who we are. Never shown.
#[derive(Clone)]
pub(crate) enum Login {
    /// A name and a password.
    Password { user: String, password: Zeroizing<String> },
    /// A token to be changed into others.
    Identity(Zeroizing<String>),
}

impl std::fmt::Debug for Login {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("****")
    }
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct ConfigFile {
    auths: BTreeMap<String, Auth>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Auth {
    auth: Option<Zeroizing<String>>,
    username: Option<String>,
    password: Option<Zeroizing<String>>,
    identitytoken: Option<Zeroizing<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    username: String,
    secret: Zeroizing<String>,
}

/// The login for a repository, if there is one in `stated`, else in `$DOCKER_CONFIG` or
/// `~/.docker`.
pub(super) fn find(
    stated: Option<&Path>,
    registry: &str,
    repository: &str,
) -> Result<Option<Login>, String> {
    let path = match stated {
        Some(path) => path.to_owned(),
        None => match usual_place() {
            Some(path) => path,
            None => return Ok(None),
        },
    };
    let wrong = |what: &dyn std::fmt::Display| format!("`{}`: {what}", path.display());
    let file = match fs_err::File::open(&path) {
        Ok(file) => file,
        Err(error) if stated.is_none() && error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(None);
        }
        Err(error) => return Err(error.to_string()),
    };
    let mut text = Zeroizing::new(Vec::new());
    file.take(MAX_CONFIG).read_to_end(&mut text).map_err(|error| error.to_string())?;
    let config: ConfigFile = serde_json::from_slice(&text).map_err(|error| {
        // Only the place: the message of serde_json can hold a piece of the text.
        wrong(&format!("not readable, line {} column {}", error.line(), error.column()))
    })?;
    pick(&config, registry, repository).map_err(|what| wrong(&what))
}

fn usual_place() -> Option<PathBuf> {
    let folder = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let folder = folder.or_else(|| std::env::home_dir().map(|home| home.join(".docker")));
    folder.map(|folder| folder.join("config.json"))
}

/// The most special entry wins: `host/project/name`, `host/project`, `host`.
fn pick(config: &ConfigFile, registry: &str, repository: &str) -> Result<Option<Login>, String> {
    let mut keys: Vec<String> = Vec::new();
    let mut path = repository;
    loop {
        keys.push(format!("{registry}/{path}"));
        let Some((shorter, _)) = path.rsplit_once('/') else { break };
        path = shorter;
    }
    let host = if registry == "docker.io" { "index.docker.io" } else { registry };
    keys.push(registry.to_owned());
    for form in ["", "https://"] {
        for end in ["", "/", "/v1", "/v1/", "/v2", "/v2/"] {
            keys.push(format!("{form}{host}{end}"));
        }
    }
    for key in &keys {
        if let Some(helper) = config.cred_helpers.get(key) {
            return ask_helper(helper, key);
        }
        if let Some(login) = config.auths.get(key).map(read_auth).transpose()?.flatten() {
            return Ok(Some(login));
        }
    }
    match &config.creds_store {
        Some(helper) => {
            let name = if host == "index.docker.io" { "https://index.docker.io/v1/" } else { host };
            ask_helper(helper, name)
        }
        None => Ok(None),
    }
}

fn read_auth(auth: &Auth) -> Result<Option<Login>, String> {
    if let Some(token) = auth.identitytoken.as_ref().filter(|token| !token.is_empty()) {
        return Ok(Some(Login::Identity(token.clone())));
    }
    if let (Some(user), Some(password)) = (&auth.username, &auth.password) {
        return Ok(Some(Login::Password { user: user.clone(), password: password.clone() }));
    }
    let Some(encoded) = auth.auth.as_ref().filter(|text| !text.is_empty()) else { return Ok(None) };
    let wrong = || "an `auth` is not `user:password` in base64".to_owned();
    let engine = base64::engine::general_purpose::STANDARD;
    let decoded = Zeroizing::new(engine.decode(encoded.trim()).map_err(|_| wrong())?);
    let text = std::str::from_utf8(&decoded).map_err(|_| wrong())?;
    let (user, password) = text.split_once(':').ok_or_else(wrong)?;
    let password = Zeroizing::new(password.trim_end_matches('\0').to_owned());
    Ok(Some(Login::Password { user: user.to_owned(), password }))
}

/// Asks `docker-credential-NAME`, which keeps logins in the system's keyring.
fn ask_helper(name: &str, registry: &str) -> Result<Option<Login>, String> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if !name.bytes().all(good) {
        return Err("a credential helper has a name that is none".to_owned());
    }
    ask_program(&format!("docker-credential-{name}"), registry, HELPER_PATIENCE)
}

/// The registry's name goes in and the login comes out, over pipes.
fn ask_program(program: &str, registry: &str, patience: Duration) -> Result<Option<Login>, String> {
    let failed = |error: std::io::Error| format!("`{program}` can't be asked: {error}");
    let mut child = Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    if let Some(mut input) = child.stdin.take() {
        // One that doesn't read closes the pipe; its answer tells the rest.
        let _ = input.write_all(registry.as_bytes());
    }
    let (sender, receiver) = std::sync::mpsc::channel();
    let output = child.stdout.take();
    std::thread::spawn(move || {
        let mut answer = Zeroizing::new(Vec::new());
        let read = output.map(|output| output.take(MAX_ANSWER).read_to_end(&mut answer));
        // Nobody waits any more after a timeout.
        let _ = sender.send(read.transpose().map(|_| answer));
    });
    let Ok(answer) = receiver.recv_timeout(patience) else {
        child.kill().and_then(|()| child.wait()).map_err(failed)?;
        return Err(format!("`{program}` gave no answer in {} s", patience.as_secs_f32()));
    };
    let answer = answer.map_err(failed)?;
    // A helper that has no login for it says so and fails: then we ask without one.
    if !child.wait().map_err(failed)?.success() {
        return Ok(None);
    }
    let answer: HelperAnswer = serde_json::from_slice(&answer)
        .map_err(|_| format!("`{program}` gives an answer that can't be read"))?;
    Ok(Some(match answer.username.as_str() {
        "<token>" => Login::Identity(answer.secret),
        _ => Login::Password { user: answer.username, password: answer.secret },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(config: &str, registry: &str, repository: &str) -> Option<String> {
        let config = serde_json::from_str(config).unwrap();
        pick(&config, registry, repository).unwrap().map(|login| match login {
            Login::Password { user, password } => format!("{user}:{}", *password),
            Login::Identity(token) => format!("token {}", *token),
        })
    }

    #[test]
    fn each_registry_and_project_has_its_own_login() {
        // "a:1", "b:2:3", "hub:x"
        let config = r#"{"auths": {
            "one.example": {"auth": "YToxCg=="},
            "one.example/team": {"auth": "YjoyOjM="},
            "https://two.example:5000/v2/": {"identitytoken": "t"},
            "https://index.docker.io/v1/": {"auth": "aHViOng="},
            "empty.example": {}}}"#;
        assert_eq!(user(config, "one.example", "app").as_deref(), Some("a:1\n"));
        assert_eq!(user(config, "one.example", "team/app").as_deref(), Some("b:2:3"));
        assert_eq!(user(config, "two.example:5000", "app").as_deref(), Some("token t"));
        assert_eq!(user(config, "docker.io", "library/busybox").as_deref(), Some("hub:x"));
        assert_eq!(user(config, "empty.example", "app"), None);
        assert_eq!(user(config, "three.example", "app"), None);
    }

    #[test]
    fn a_file_that_cant_be_read_is_told_without_its_secrets() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        for text in [r#"{"auths": {"x": {"auth": "c2VjcmV0"}}"#, r#"{"auths": {"x": "c2VjcmV0"}}"#]
        {
            fs_err::write(&path, text).unwrap();
            let error = find(Some(&path), "x", "y").unwrap_err();
            assert!(error.contains("config.json") && !error.contains("c2VjcmV0"), "{error}");
        }
        fs_err::write(&path, r#"{"auths": {"x": {"auth": "c2VjcmV0"}}}"#).unwrap();
        let error = find(Some(&path), "x", "y").unwrap_err();
        assert!(error.contains("base64") && !error.contains("secret"), "{error}");
    }

    #[test]
    fn a_credential_helper_is_asked_over_pipes_and_not_for_ever() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let ask = |name: &str, script: &str| {
            let path = folder.path().join(name);
            fs_err::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            let mode = std::fs::Permissions::from_mode(0o755);
            fs_err::set_permissions(&path, mode).unwrap();
            ask_program(&path.display().to_string(), "x.example", Duration::from_millis(800))
        };
        let script = r#"read registry; echo "{\"Username\": \"$1\", \"Secret\": \"$registry\"}""#;
        match ask("good", script).unwrap() {
            Some(Login::Password { user, password }) => {
                assert_eq!((user.as_str(), password.as_str()), ("get", "x.example"));
            }
            other => panic!("{other:?}"),
        }
        let token = r#"echo '{"Username": "<token>", "Secret": "t"}'"#;
        assert!(matches!(ask("token", token).unwrap(), Some(Login::Identity(_))));
        assert!(ask("none", "echo credentials not found; exit 1").unwrap().is_none());
        assert!(ask("odd", "echo s3cret").unwrap_err().contains("can't be read"));
        assert!(ask("slow", "exec sleep 30").unwrap_err().contains("no answer"));
        assert!(ask_helper("../evil", "x").unwrap_err().contains("name that is none"));
    }
}
