//! How the licence stands, as metrics: what `kdc-license.service` fetched last. It is no part of the health, and of
//! nothing that says whether the node is ready or alive.

use std::{
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use super::page::{Kind, Page};
use crate::{
    control::license::node::{DOCUMENT, MAX_DOCUMENT, NodeDocument},
    license::State,
};

/// What of it is kept: the document itself lists every node.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Figures {
    state: State,
    suspect: bool,
    at: i64,
    expires_at: Option<i64>,
    limit: Option<u32>,
    used: Option<u32>,
    beyond: u64,
    here: bool,
}

/// Inode, length and time of a file that was read, and what it said.
type Seen = ((u64, u64, i64), Option<Figures>);

/// Reads the document, and remembers what it need not read again.
#[derive(Debug, Clone)]
pub(crate) struct License {
    path: Arc<PathBuf>,
    seen: Arc<Mutex<Option<Seen>>>,
}

impl Default for License {
    fn default() -> Self {
        Self::at(Path::new(DOCUMENT))
    }
}

impl License {
    /// At another place.
    pub(crate) fn at(path: &Path) -> Self {
        Self { path: Arc::new(path.to_owned()), seen: Arc::default() }
    }

    fn figures(&self) -> Option<Figures> {
        let found = fs_err::metadata(&*self.path).ok()?;
        let now = (found.ino(), found.len(), found.mtime_nsec());
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, figures)) = seen.as_ref()
            && *known == now
        {
            return figures.clone();
        }
        let figures = (found.len() <= MAX_DOCUMENT).then(|| read(&self.path)).flatten();
        *seen = Some((now, figures.clone()));
        figures
    }

    /// The families; none where nobody told how it stands.
    pub(crate) fn tell(&self, page: &mut Page) {
        let Some(figures) = self.figures() else { return };
        let help = "How the licence stands: 1 for the state it is in.";
        page.family("kdc_license_state", Kind::Gauge, help);
        for state in State::ALL {
            page.sample(&[("state", state.as_str())], state == figures.state);
        }
        let mut gauge = |name, help, number: Option<f64>| {
            if let Some(number) = number {
                page.single(name, Kind::Gauge, help, number);
            }
        };
        let help = "When licence or trial ends, in Unix time; absent without an end.";
        gauge("kdc_license_expiry_timestamp_seconds", help, figures.expires_at.map(|at| at as f64));
        let help = "Nodes that are allowed; absent where any number is.";
        gauge("kdc_license_nodes_limit", help, figures.limit.map(f64::from));
        let help = "Nodes that count.";
        gauge("kdc_license_nodes_used", help, figures.used.map(f64::from));
        let help = "Nodes beyond the licence.";
        gauge("kdc_license_nodes_beyond", help, Some(figures.beyond as f64));
        let help = "Whether this node is beyond the licence.";
        gauge("kdc_license_node_beyond", help, Some(f64::from(u8::from(figures.here))));
        let help = "Whether the clock that the licence is judged by is doubtful.";
        gauge("kdc_license_clock_suspect", help, Some(f64::from(u8::from(figures.suspect))));
        let help = "When the leader judged it, in Unix time.";
        gauge("kdc_license_judged_timestamp_seconds", help, Some(figures.at as f64));
    }
}

fn read(path: &Path) -> Option<Figures> {
    let bytes = fs_err::read(path).ok()?;
    let NodeDocument { node, published, .. } = serde_json::from_slice(&bytes).ok()?;
    let standing = &published.standing;
    Some(Figures {
        state: standing.state,
        suspect: standing.clock.doubt.is_some(),
        at: published.at.unix(),
        expires_at: standing.expires_at.map(|at| at.unix()),
        limit: standing.max_nodes,
        used: standing.nodes(),
        beyond: published.beyond.len() as u64,
        here: published.beyond.contains_key(&node),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::api::page::Format;

    fn document() -> Value {
        json!({
            "v": 1, "node": "w1",
            "published": {
                "v": 1, "at": "2026-11-24T00:00:00Z",
                "standing": {
                    "state": "over-limit", "basis": "over-limit", "reason": "too many",
                    "clock": { "now": "2026-11-24T00:00:00Z" },
                    "license": { "id": "lic-1", "serial": 1, "type": "subscription", "customer": "Example GmbH" },
                    "expiresAt": "2027-01-01T00:00:00Z", "maxNodes": 1, "over": ["w1"], "excess": {},
                    "count": { "leftOut": [], "counted": [
                        { "name": "cp1", "enrolledAt": "2026-11-01T00:00:00Z" },
                        { "name": "w1", "enrolledAt": "2026-11-02T00:00:00Z" },
                    ] },
                },
                "beyond": { "w1": "the newest" },
            },
        })
    }

    fn told(license: &License) -> String {
        let mut page = Page::new(Format::OpenMetrics, String::new());
        license.tell(&mut page);
        page.finish()
    }

    #[test]
    fn every_state_is_a_series_and_nobody_s_name_is_in_any() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("license.json");
        let license = License::at(&path);
        assert!(!told(&license).contains("kdc_license"), "nobody told how it stands");
        fs_err::write(&path, document().to_string()).unwrap();
        let page = told(&license);
        for line in [
            "kdc_license_state{state=\"over-limit\"} 1",
            "kdc_license_state{state=\"valid\"} 0",
            "kdc_license_expiry_timestamp_seconds 1798761600",
            "kdc_license_nodes_limit 1",
            "kdc_license_nodes_used 2",
            "kdc_license_node_beyond 1",
            "kdc_license_clock_suspect 0",
            "kdc_license_judged_timestamp_seconds 1795478400",
        ] {
            assert!(page.lines().any(|known| known == line), "{line}: {page}");
        }
        assert!(!page.contains("Example") && !page.contains("lic-1"), "{page}");
        let states = page.lines().filter(|line| line.starts_with("kdc_license_state{")).count();
        assert_eq!(states, State::ALL.len());
        // What makes no sense says nothing.
        fs_err::write(&path, "{").unwrap();
        assert!(!told(&license).contains("kdc_license"));
    }
}
