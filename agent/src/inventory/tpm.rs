//! Trusted platform modules.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Found, sight::Sight};

const TPMS: &str = "/sys/class/tpm";

/// One TPM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Tpm {
    /// Device (`tpm0`).
    pub name: String,
    /// 1 or 2.
    pub major_version: Found<u64>,
    /// What the firmware calls it.
    pub description: Found<String>,
}

/// All there are; absent where there is none.
pub(super) fn probe(sight: &Sight) -> Found<Vec<Tpm>> {
    let tpm = |name: &String| Tpm {
        name: name.clone(),
        major_version: sight.number(&format!("{TPMS}/{name}/tpm_version_major")),
        description: sight.text(&format!("{TPMS}/{name}/device/description")),
    };
    match sight.names(TPMS) {
        Found::Present { value, source } if value.is_empty() => Found::absent(source),
        found => found.map(|names| names.iter().take(16).map(tpm).collect()),
    }
}
