//! The management controller, as far as the node itself can see it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Found, sight::Sight, smbios};

/// SMBIOS types: the IPMI interface, and the network interface to the controller (Redfish).
const IPMI: u8 = 38;
const HOST_INTERFACE: u8 = 42;

/// The management controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Bmc {
    /// IPMI devices that the kernel drives (`ipmi0`).
    pub devices: Found<Vec<String>>,
    /// How the firmware says that it is reached over IPMI (`KCS 2.0`).
    pub ipmi: Found<String>,
    /// Kind of network interface between node and controller (`network`).
    pub host_interface: Found<String>,
}

/// Read it all.
pub(super) fn probe(sight: &Sight) -> Bmc {
    let devices = match sight.names("/sys/class/ipmi") {
        Found::Present { value, source } if value.is_empty() => Found::absent(source),
        found => found,
    };
    let ipmi = smbios::probe(sight, IPMI).parsed(|list| {
        let first = list.first().ok_or("an empty list")?;
        let (kind, version) = (first.byte(4).unwrap_or(0), first.byte(5).unwrap_or(0));
        let kind = ["unknown", "KCS", "SMIC", "BT", "SSIF"].get(usize::from(kind));
        let kind = kind.copied().unwrap_or("unknown");
        Ok(format!("{kind} {}.{}", version >> 4, version & 0x0f))
    });
    let host_interface = smbios::probe(sight, HOST_INTERFACE).parsed(|list| {
        let kind = list.first().and_then(|first| first.byte(4)).unwrap_or(0);
        Ok(match kind {
            2 => "KCS".to_owned(),
            0x40 => "network".to_owned(),
            other => format!("type {other:#04x}"),
        })
    });
    Bmc { devices, ipmi, host_interface }
}
