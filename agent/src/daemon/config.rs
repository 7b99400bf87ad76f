//! `/etc/kdc/agent.yaml` and its drop-ins: what an operator may tell the daemon.
//!
//! Nothing has to be there. Files are read in order, `agent.yaml` first and then `agent.d/*.yaml` by
//! name; a later file's value takes the place of an earlier one's. Every mistake in all of them is
//! told at once, with file, line and field. A set of files with a mistake changes nothing: the
//! daemon goes on with what it had ([`super::state`]).

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use kdc_profiles::{
    fields::{Fields, Place},
    healing::{self, SelfHealing},
    problem::Problems,
    yaml,
};

use super::events;
use crate::heal::watch::Thresholds;

/// Folder with `agent.yaml` and `agent.d`.
pub const CONFIG_DIR: &str = "/etc/kdc";

/// Where the API listens unless told otherwise: loopback, beside the registry's port and for the same
/// reason below 512. No user's program can answer in the agent's place while it is away.
pub const API_PORT: u16 = 328;

/// Most bytes of one file, and most drop-ins.
const MAX_FILE_BYTES: u64 = 64 * 1024;
const MAX_DROP_INS: usize = 64;

/// What the daemon goes by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where the API listens.
    pub address: SocketAddr,
    /// Who may ask it, where that is not loopback.
    pub tls: Option<TlsFiles>,
    /// Between two samples.
    pub interval: Duration,
    /// Events that are kept for those who come back.
    pub events_kept: usize,
    /// Whether labels are written for node-feature-discovery.
    pub labels: Labels,
    /// From when on what is watched is told.
    pub watch: Thresholds,
    /// How far the node may mend itself.
    pub healing: SelfHealing,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], API_PORT)),
            tls: None,
            interval: Duration::from_secs(1),
            events_kept: events::KEPT,
            labels: Labels::Auto,
            watch: Thresholds::default(),
            healing: SelfHealing::default(),
        }
    }
}

/// Files in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The API's certificate, with what leads to its authority.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Authorities whose clients may ask.
    pub clients: PathBuf,
}

/// Whether labels are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Labels {
    /// Where node-feature-discovery's folder is.
    Auto,
    /// The folder is made where it is missing.
    Always,
    /// Not at all; those written before are removed.
    Never,
}

/// Why the files could not be taken.
#[derive(Debug)]
pub struct ConfigError {
    /// The mistakes, file by file.
    pub files: Vec<Problems>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, problems) in self.files.iter().enumerate() {
            write!(formatter, "{}{problems}", if place > 0 { "\n" } else { "" })?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

impl ConfigError {
    /// Stable code, listed in `docs/errors.md`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        "AGENT-054"
    }

    /// The one next thing to try.
    #[must_use]
    pub fn hint(&self) -> String {
        "correct the file, then `systemctl reload kdc-agent`; until then the daemon goes on as before"
            .to_owned()
    }
}

/// A value, and the file and line that it came from.
#[derive(Debug, Clone)]
struct Said<T> {
    value: T,
    file: usize,
    line: u64,
}

/// What the files said so far.
#[derive(Debug, Default)]
struct Merged {
    address: Option<Said<SocketAddr>>,
    certificate: Option<Said<PathBuf>>,
    key: Option<Said<PathBuf>>,
    clients: Option<Said<PathBuf>>,
    interval: Option<Said<Duration>>,
    events_kept: Option<Said<usize>>,
    labels: Option<Said<Labels>>,
    watch: Thresholds,
    healing: Vec<healing::Said>,
}

/// Read the files in a folder and prove them.
///
/// # Errors
/// Every mistake in every file.
pub fn load(folder: &Path) -> Result<Settings, ConfigError> {
    let mut files = Vec::new();
    let mut texts = Vec::new();
    for path in paths(folder, &mut files) {
        let mut problems = Problems::new(&path.display().to_string());
        match read(&path) {
            Ok(text) => texts.push((path.display().to_string(), text)),
            Err(cause) => {
                problems.add(0, "", format!("can't be read: {cause}"), "a readable file");
                files.push(problems);
            }
        }
    }
    match parse(&texts) {
        Ok(settings) if files.is_empty() => Ok(settings),
        Ok(_) => Err(ConfigError { files }),
        Err(mut error) => {
            files.append(&mut error.files);
            Err(ConfigError { files })
        }
    }
}

fn paths(folder: &Path, problems: &mut Vec<Problems>) -> Vec<PathBuf> {
    let drop_ins = folder.join("agent.d");
    let mut paths: Vec<PathBuf> = match fs_err::read_dir(&drop_ins) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
        Err(_) => Vec::new(),
    };
    paths.retain(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.ends_with(".yaml") && !name.starts_with('.')
    });
    paths.sort_unstable();
    if paths.len() > MAX_DROP_INS {
        let mut many = Problems::new(&drop_ins.display().to_string());
        let what = format!("there are {} files", paths.len());
        many.add(0, "", what, format!("at most {MAX_DROP_INS}"));
        problems.push(many);
        paths.truncate(MAX_DROP_INS);
    }
    let first = folder.join("agent.yaml");
    if fs_err::symlink_metadata(&first).is_ok() {
        paths.insert(0, first);
    }
    paths
}

fn read(path: &Path) -> std::io::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    fs_err::File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(std::io::Error::other(format!("it is longer than {MAX_FILE_BYTES} bytes")));
    }
    Ok(text)
}

/// Merge and prove the texts of files, by name, in their order.
///
/// # Errors
/// Every mistake in every file.
pub fn parse(files: &[(String, String)]) -> Result<Settings, ConfigError> {
    let mut merged = Merged::default();
    let mut all: Vec<Problems> = files.iter().map(|(name, _)| Problems::new(name)).collect();
    for (number, (_, text)) in files.iter().enumerate() {
        merged.read(number, text, &mut all[number]);
    }
    let settings = merged.prove(&mut all);
    let bad: Vec<Problems> =
        all.into_iter().filter_map(|problems| problems.finish(Some(())).err()).collect();
    if bad.is_empty() { Ok(settings) } else { Err(ConfigError { files: bad }) }
}

/// A value that stands in the file takes the place of an earlier file's.
fn take<T>(
    to: &mut Option<Said<T>>,
    file: usize,
    place: Option<Place<'_>>,
    read: impl FnOnce(&Place<'_>) -> Option<T>,
) {
    if let Some(place) = place
        && let Some(value) = read(&place)
    {
        *to = Some(Said { value, file, line: place.tree.line });
    }
}

/// The map in a field, if it is there.
fn map<'t>(
    fields: &mut Fields<'t>,
    name: &'static str,
    problems: &mut Problems,
) -> Option<Fields<'t>> {
    fields.optional(name)?.fields(problems)
}

fn absolute(place: &Place<'_>, problems: &mut Problems) -> Option<PathBuf> {
    let path = PathBuf::from(place.text(problems)?);
    if path.is_absolute() {
        return Some(path);
    }
    place.wrong(problems, format!("`{}` is not absolute", path.display()), "a path from `/` on");
    None
}

impl Merged {
    fn read(&mut self, file: usize, text: &str, problems: &mut Problems) {
        // A file of comments alone says nothing, and that is no mistake.
        if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
            return;
        }
        let Some(tree) = yaml::parse(text, problems) else { return };
        let Some(mut fields) = Place::root(&tree).fields(problems) else { return };
        if let Some(mut api) = map(&mut fields, "api", problems) {
            take(&mut self.address, file, api.optional("address"), |place| {
                place.parse(problems, "an address with a port, such as `127.0.0.1:328`")
            });
            if let Some(mut tls) = map(&mut api, "tls", problems) {
                let certificate = tls.optional("certificate");
                take(&mut self.certificate, file, certificate, |place| absolute(place, problems));
                take(&mut self.key, file, tls.optional("key"), |place| absolute(place, problems));
                let clients = tls.optional("clientAuthorities");
                take(&mut self.clients, file, clients, |place| absolute(place, problems));
                tls.finish(problems);
            }
            api.finish(problems);
        }
        if let Some(mut metrics) = map(&mut fields, "metrics", problems) {
            take(&mut self.interval, file, metrics.optional("intervalMs"), |place| {
                place.number(problems, 100, 60_000).map(Duration::from_millis)
            });
            metrics.finish(problems);
        }
        if let Some(mut events) = map(&mut fields, "events", problems) {
            take(&mut self.events_kept, file, events.optional("keep"), |place| {
                place.number(problems, 1, 4096).and_then(|number| usize::try_from(number).ok())
            });
            events.finish(problems);
        }
        if let Some(mut labels) = map(&mut fields, "labels", problems) {
            take(&mut self.labels, file, labels.optional("nodeFeatures"), |place| {
                let choices =
                    [("auto", Labels::Auto), ("always", Labels::Always), ("never", Labels::Never)];
                place.one_of(problems, &choices)
            });
            labels.finish(problems);
        }
        if let Some(watch) = fields.optional("watch") {
            self.watch.take(&watch, problems);
        }
        if let Some(place) = fields.optional("selfHealing") {
            self.healing.push(healing::Said::read(&place, problems));
        }
        fields.finish(problems);
    }

    fn prove(self, problems: &mut [Problems]) -> Settings {
        let plain = Settings::default();
        let tls = match (self.certificate, self.key, self.clients) {
            (None, None, None) => None,
            (Some(certificate), Some(key), Some(clients)) => Some(TlsFiles {
                certificate: certificate.value,
                key: key.value,
                clients: clients.value,
            }),
            (certificate, key, clients) => {
                if let Some(said) = certificate.or(key).or(clients) {
                    let what = "only a part of what TLS needs is given";
                    let expected = "`certificate`, `key` and `clientAuthorities`";
                    problems[said.file].add(said.line, "api.tls", what, expected);
                }
                None
            }
        };
        if let Some(said) = &self.address
            && !said.value.ip().is_loopback()
            && tls.is_none()
        {
            let what = format!("`{}` can be reached from elsewhere", said.value);
            let expected = "`api.tls` with `certificate`, `key` and `clientAuthorities` beside it, or a \
                            loopback address";
            problems[said.file].add(said.line, "api.address", what, expected);
        }
        let mut healing = plain.healing;
        self.healing.into_iter().for_each(|said| said.lay_over(&mut healing));
        let value = |said: Option<Said<usize>>| said.map(|said| said.value);
        Settings {
            address: self.address.map_or(plain.address, |said| said.value),
            tls,
            interval: self.interval.map_or(plain.interval, |said| said.value),
            events_kept: value(self.events_kept).unwrap_or(plain.events_kept),
            labels: self.labels.map_or(plain.labels, |said| said.value),
            watch: self.watch,
            healing,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(texts: &[&str]) -> Result<Settings, String> {
        let name = |(place, text): (usize, &&str)| (format!("{place}.yaml"), (*text).to_owned());
        let files: Vec<_> = texts.iter().enumerate().map(name).collect();
        parse(&files).map_err(|error| error.to_string())
    }

    #[test]
    fn later_files_take_the_place_of_earlier_ones_field_by_field() {
        assert_eq!(of(&[]).unwrap(), Settings::default());
        assert_eq!(of(&["# nothing yet\n\n"]).unwrap(), Settings::default());
        let settings = of(&[
            "api: {address: '127.0.0.1:9000'}\nmetrics: {intervalMs: 500}\n",
            "metrics:\n  intervalMs: 2000\nlabels: {nodeFeatures: never}\n",
            "events: {keep: 10}\n",
        ])
        .unwrap();
        assert_eq!(settings.address, "127.0.0.1:9000".parse().unwrap());
        assert_eq!(settings.interval, Duration::from_secs(2));
        assert_eq!((settings.events_kept, settings.labels), (10, Labels::Never));
        let tls = "api:\n  address: 0.0.0.0:9443\n  tls: {certificate: /a, key: /b, clientAuthorities: /c}\n";
        assert_eq!(of(&[tls]).unwrap().tls.unwrap().clients, Path::new("/c"));
        let healing = of(&[
            "selfHealing: {mode: repair, perSubject: 2}\n",
            "selfHealing: {mode: report, kinds: {sysctl: repair}}\n",
        ])
        .unwrap()
        .healing;
        assert_eq!((healing.mode, healing.per_subject), (healing::Mode::Report, 2));
        assert_eq!(healing.mode_of(healing::Kind::Sysctl), healing::Mode::Repair);
        // Authorities may stand in a file of their own.
        let split = of(&[
            "api: {tls: {certificate: /a, key: /b}}\n",
            "api: {tls: {clientAuthorities: /c}}\n",
        ]);
        assert!(split.unwrap().tls.is_some());
    }

    #[test]
    fn every_mistake_is_told_with_file_line_and_field() {
        let error = of(&[
            "api:\n  address: nowhere\n  adress: x\nmetrics: {intervalMs: 5}\n",
            "labels: {nodeFeatures: allways}\nevents: 7\n",
        ])
        .unwrap_err();
        for part in [
            "0.yaml:2: api.address: `nowhere`",
            "0.yaml:3: api.adress",
            "0.yaml:4: metrics.intervalMs",
            "1.yaml:1: labels.nodeFeatures: `allways`",
            "did you mean `always`?",
            "1.yaml:2: events",
        ] {
            assert!(error.contains(part), "{part} in {error}");
        }
    }

    #[test]
    fn another_address_than_loopback_needs_tls_with_client_certificates() {
        for (text, part) in [
            (
                "api:\n  address: 10.0.0.5:328\n",
                "0.yaml:2: api.address: `10.0.0.5:328` can be reached",
            ),
            ("api:\n  address: '[::]:328'\n", "can be reached from elsewhere"),
            ("api: {tls: {certificate: /a, key: /b}}\n", "only a part of what TLS needs"),
            (
                "api: {tls: {certificate: a, key: /b, clientAuthorities: /c}}\n",
                "`a` is not absolute",
            ),
        ] {
            let error = of(&[text]).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
        assert!(of(&["api: {address: '[::1]:328'}\n"]).is_ok());
    }

    #[test]
    fn drop_ins_are_read_by_name_and_what_is_unreadable_is_a_mistake() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(load(folder.path()).unwrap(), Settings::default());
        fs_err::create_dir(folder.path().join("agent.d")).unwrap();
        let put = |name: &str, text: &str| fs_err::write(folder.path().join(name), text).unwrap();
        put("agent.yaml", "events: {keep: 1}\n");
        put("agent.d/20.yaml", "events: {keep: 3}\n");
        put("agent.d/10.yaml", "events: {keep: 2}\n");
        put("agent.d/.hidden.yaml", "nonsense: [");
        put("agent.d/30.yml", "nonsense: [");
        assert_eq!(load(folder.path()).unwrap().events_kept, 3);
        put("agent.d/40.yaml", &"#".repeat(100_000));
        let error = load(folder.path()).unwrap_err();
        assert!(error.to_string().contains("40.yaml: can't be read: it is longer"), "{error}");
        assert_eq!(error.code(), "AGENT-054");
        assert!(error.hint().contains("reload"));
    }

    proptest! {
        /// Whatever stands in a file, the answer is settings or mistakes.
        #[test]
        fn no_text_breaks_the_reader(text in "(api|metrics|events|labels|tls|keep|[a-z{}:\\[\\] \n&*!-]){0,40}") {
            let _ = of(&[&text]);
        }
    }
}
