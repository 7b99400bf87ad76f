//! What the cluster file says to the control plane's part, besides GPUs: the ConfigMap `kdc-control`, which
//! `kdc-install apply` writes and nobody else.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::wanted::NAMESPACE;

/// The ConfigMap.
pub const SETTINGS_MAP: &str = "kdc-control";
/// Its key.
pub const SETTINGS_KEY: &str = "settings.json";
/// Longest text that is read.
const MAX_BYTES: usize = 64 * 1024;

/// The settings. What a newer version wrote and this one does not know is left aside.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Settings {
    /// Keep new pods away from nodes beyond the licence.
    pub taint_over_license: bool,
}

impl Settings {
    /// Read the ConfigMap's text; without one, or where it makes no sense, nothing is asked for.
    #[must_use]
    pub fn parse(text: Option<&str>) -> Self {
        let text = text.filter(|text| text.len() <= MAX_BYTES).unwrap_or("{}");
        serde_json::from_str(text).unwrap_or_else(|error| {
            tracing::warn!(
                "ConfigMap {SETTINGS_MAP} can't be read, nothing in it is done: {error}"
            );
            Self::default()
        })
    }

    pub(super) fn map(&self) -> Value {
        let text = serde_json::to_string(self).expect("plain values serialise");
        json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": { "name": SETTINGS_MAP, "namespace": NAMESPACE },
            "data": { SETTINGS_KEY: text },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_asks_for_nothing() {
        for (text, taints) in [
            (Some(r#"{"taintOverLicense":true}"#), true),
            (Some(r#"{"taintOverLicense":true,"later":{}}"#), true),
            (Some(r#"{"taintOverLicense":"yes"}"#), false),
            (Some("{"), false),
            (None, false),
        ] {
            assert_eq!(Settings::parse(text).taint_over_license, taints, "{text:?}");
        }
        let written = Settings { taint_over_license: true }.map();
        let text = written["data"][SETTINGS_KEY].as_str();
        assert!(Settings::parse(text).taint_over_license);
    }
}
