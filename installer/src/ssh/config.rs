//! `~/.ssh/config`, as far as it says how to reach a node.
//!
//! The parser doesn't know `Match`, and would give such a block's lines to the `Host` before it.
//! So blocks that kdc can't judge are made to match nothing before the text is parsed.

use std::path::{Path, PathBuf};

use ssh2_config::{HostParams, ParseRule, SshConfig};

use super::SshError;

/// Largest configuration file read.
const MAX_CONFIG_BYTES: u64 = 1024 * 1024;

/// What the configuration says about one host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct HostSettings {
    pub(super) host_name: Option<String>,
    pub(super) user: Option<String>,
    pub(super) port: Option<u16>,
    pub(super) identities: Vec<PathBuf>,
    pub(super) identities_only: bool,
    pub(super) jump: Option<Vec<String>>,
    pub(super) known_hosts: Vec<PathBuf>,
}

/// A parsed configuration. The default one is empty.
pub struct SshConfigFile {
    parsed: SshConfig,
    home: PathBuf,
}

impl SshConfigFile {
    /// Read `~/.ssh/config`; one that isn't there says nothing.
    ///
    /// # Errors
    /// The file can't be read or understood.
    pub fn load(home: &Path) -> Result<Self, SshError> {
        use std::io::Read as _;
        let path = home.join(".ssh/config");
        let wrong = |problem: String| SshError::Config { path: path.clone(), problem };
        let mut text = String::new();
        match fs_err::File::open(&path) {
            Ok(file) => {
                file.take(MAX_CONFIG_BYTES)
                    .read_to_string(&mut text)
                    .map_err(|error| wrong(error.to_string()))?;
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(wrong(error.to_string())),
        }
        Self::parse(&text, home).map_err(wrong)
    }

    /// Parse a configuration; `~` and relative `Include` paths are under `home`.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str, home: &Path) -> Result<Self, String> {
        let text = without_match(text);
        let rules = ParseRule::ALLOW_UNKNOWN_FIELDS | ParseRule::ALLOW_UNSUPPORTED_FIELDS;
        SshConfig::default()
            .home_dir(home)
            .parse(&mut text.as_bytes(), rules)
            .map(|parsed| Self { parsed, home: home.to_owned() })
            .map_err(|error| error.to_string())
    }

    /// What it says about a host name as a person would type it.
    pub(super) fn query(&self, name: &str) -> HostSettings {
        let params = self.parsed.query(name);
        let host_name = params.host_name.as_deref().map(|text| text.replace("%h", name));
        let identities = params
            .identity_file
            .iter()
            .flatten()
            .map(|path| self.expand(&path.to_string_lossy(), name))
            .collect();
        HostSettings {
            host_name,
            user: params.user.clone(),
            port: params.port,
            identities,
            identities_only: unsupported(&params, "identitiesonly")
                .first()
                .is_some_and(|v| v == "yes"),
            jump: params.proxy_jump.clone(),
            known_hosts: unsupported(&params, "userknownhostsfile")
                .iter()
                .map(|text| self.expand(text, name))
                .collect(),
        }
    }

    fn expand(&self, text: &str, name: &str) -> PathBuf {
        let home = self.home.display().to_string();
        let text = text.replace("%d", &home).replace("%h", name).replace("%%", "%");
        match text.strip_prefix("~/") {
            Some(rest) => self.home.join(rest),
            None => PathBuf::from(text),
        }
    }
}

fn unsupported(params: &HostParams, field: &str) -> Vec<String> {
    params
        .unsupported_fields
        .iter()
        .chain(&params.ignored_fields)
        .find(|(name, _)| name.eq_ignore_ascii_case(field))
        .map(|(_, values)| values.clone())
        .unwrap_or_default()
}

/// `Match all` becomes `Host *`; any other `Match` becomes a block for no host.
fn without_match(text: &str) -> String {
    let rewrite = |line: &str| {
        let mut words = line.trim().split(|c: char| c.is_whitespace() || c == '=');
        if !words.next().is_some_and(|word| word.eq_ignore_ascii_case("match")) {
            return line.to_owned();
        }
        let all =
            words.find(|word| !word.is_empty()).is_some_and(|w| w.eq_ignore_ascii_case("all"));
        if all { "Host *".to_owned() } else { "Host !*".to_owned() }
    };
    text.lines().map(|line| rewrite(line) + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str, name: &str) -> HostSettings {
        SshConfigFile::parse(text, Path::new("/home/ops")).unwrap().query(name)
    }

    #[test]
    fn the_fields_that_say_how_to_reach_a_host_are_read() {
        let text = "Host cp1\n HostName 192.0.2.7\n User ops\n Port 2200\n IdentityFile ~/.ssh/lab\n \
                    IdentityFile /k/%h\n IdentitiesOnly yes\n ProxyJump ops@jump:2201\n \
                    UserKnownHostsFile ~/.ssh/lab_hosts\nHost *\n User nobody\n Compression yes\n";
        let got = query(text, "cp1");
        assert_eq!(got.host_name.as_deref(), Some("192.0.2.7"));
        assert_eq!(got.user.as_deref(), Some("ops"));
        assert_eq!(got.port, Some(2200));
        assert_eq!(got.identities, ["/home/ops/.ssh/lab", "/k/cp1"].map(PathBuf::from));
        assert!(got.identities_only);
        assert_eq!(got.jump, Some(vec!["ops@jump:2201".to_owned()]));
        assert_eq!(got.known_hosts, [PathBuf::from("/home/ops/.ssh/lab_hosts")]);
        let other = query(text, "w1");
        assert_eq!(
            other,
            HostSettings { user: Some("nobody".to_owned()), ..HostSettings::default() }
        );
    }

    #[test]
    fn a_match_block_never_leaks_into_the_host_before_it() {
        let text = "Host cp1\n Port 1\nMatch exec \"true\"\n User evil\nMatch all\n User all\n";
        let got = query(text, "cp1");
        assert_eq!((got.port, got.user.as_deref()), (Some(1), Some("all")));
    }

    #[test]
    fn included_files_count() {
        let home = tempfile::tempdir().unwrap();
        fs_err::create_dir_all(home.path().join(".ssh/conf.d")).unwrap();
        fs_err::write(home.path().join(".ssh/conf.d/a"), "Host w1\n Port 77\n").unwrap();
        fs_err::write(home.path().join(".ssh/config"), "Include conf.d/*\n").unwrap();
        let config = SshConfigFile::load(home.path()).unwrap();
        assert_eq!(config.query("w1").port, Some(77));
        assert_eq!(SshConfigFile::load(Path::new("/nowhere")).unwrap().query("w1").port, None);
    }
}
