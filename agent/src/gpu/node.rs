//! The GPUs of this node in one look: asked, their errors counted, judged.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    GpuReport, Settings, Surveyor, Verdict, judge,
    kernel_log::{KERNEL_LOG, KernelLog},
    xid::{SITE_TABLE, TableError, XidLog, XidRecord, XidTable},
};
use crate::facts::Look;

/// What `kdc-gpu.service` counted. It says of which boot it is: numbers of the kernel's log begin anew with each.
pub const XID_LOG: &str = "/var/lib/kdc/gpu/xids.json";

/// Where a look at the GPUs of a node finds what it needs.
#[derive(Debug, Clone)]
pub struct Sources {
    /// How they are asked.
    pub settings: Settings,
    /// The kernel's log.
    pub kernel_log: PathBuf,
    /// What was counted so far.
    pub counted: PathBuf,
    /// The site's own table.
    pub table: PathBuf,
}

impl Sources {
    /// Those of this machine.
    #[must_use]
    pub fn machine() -> Self {
        Self {
            settings: Settings::machine(),
            kernel_log: PathBuf::from(KERNEL_LOG),
            counted: PathBuf::from(XID_LOG),
            table: PathBuf::from(SITE_TABLE),
        }
    }
}

/// The GPUs of a node, their errors since boot, and what is to be done about them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(title = "kdc-agent gpus")]
pub struct NodeGpus {
    /// What they are.
    pub report: GpuReport,
    /// Their errors since boot.
    pub errors: Vec<XidRecord>,
    /// What is to be done about each.
    pub verdicts: Vec<Verdict>,
    /// What could not be looked at.
    pub warnings: Vec<String>,
}

/// Look once. Nothing is written: what the daemon counted is only read.
///
/// # Errors
/// When the site's table of Xids can't be used.
pub fn node_gpus(sources: &Sources) -> Result<NodeGpus, TableError> {
    let table = XidTable::with_site(&sources.table)?;
    let report = Surveyor::new(sources.settings.clone()).survey();
    let mut xids = XidLog::load(&sources.counted, &boot_id(&sources.settings.look));
    let mut warnings = Vec::new();
    if let Err(error) = catch_up(&mut xids, &sources.kernel_log) {
        warnings.push(error);
    }
    let verdicts = judge(&report, &xids, &table);
    Ok(NodeGpus { report, errors: xids.records().to_vec(), verdicts, warnings })
}

/// Take in what the log has and the counts don't.
fn catch_up(xids: &mut XidLog, path: &Path) -> Result<(), String> {
    let said =
        |error: super::kernel_log::LogError| format!("{error}: {}; {}", error.source, error.hint());
    let mut log = KernelLog::open(path, xids.sequence()).map_err(said)?;
    log.read(|record| {
        xids.take_line(record, Duration::ZERO, false);
    })
    .map_err(said)
}

/// The name of this boot.
#[must_use]
pub fn boot_id(look: &Look) -> String {
    look.text("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// The schema of `kdc-agent gpus --output json`, as it is checked in at `agent/schema/gpus.schema.json`.
#[must_use]
pub fn json_schema() -> String {
    let schema = schemars::schema_for!(NodeGpus);
    let mut text = format!("{:#}", schema.as_value());
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/schema/gpus.schema.json");

    #[test]
    fn the_schema_of_gpus_that_is_checked_in_is_the_one_that_is_generated() {
        if std::env::var_os("KDC_WRITE_SCHEMA").is_some() {
            fs_err::write(PATH, json_schema()).expect("write schema");
        }
        let checked_in = fs_err::read_to_string(PATH).expect("schema is checked in");
        assert!(
            checked_in == json_schema(),
            "the schema drifted: run KDC_WRITE_SCHEMA=1 cargo test -p kdc-agent schema"
        );
    }
}
