//! RDMA devices: InfiniBand, and RDMA over Ethernet.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::inventory::{Found, disk::pci_address, sight::Sight};

const DEVICES: &str = "/sys/class/infiniband";
const MAX_DEVICES: usize = 256;
const MAX_PORTS: usize = 64;

/// One RDMA device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rdma {
    /// Device (`mlx5_0`).
    pub name: String,
    /// GUID of the node.
    pub node_guid: Found<String>,
    /// Firmware version.
    pub firmware: Found<String>,
    /// Board.
    pub board: Found<String>,
    /// PCI device it is.
    pub pci_address: Found<String>,
    /// Its ports.
    pub ports: Found<Vec<RdmaPort>>,
}

/// A port of an RDMA device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RdmaPort {
    /// Number.
    pub number: String,
    /// `InfiniBand` or `Ethernet`.
    pub link_layer: Found<String>,
    /// `ACTIVE`, `DOWN`, …
    pub state: Found<String>,
    /// Rate as the driver words it (`100 Gb/sec (4X EDR)`).
    pub rate: Found<String>,
}

/// All devices; absent where there is none.
pub(super) fn probe(sight: &Sight) -> Found<Vec<Rdma>> {
    match sight.names(DEVICES) {
        Found::Present { value, source } if value.is_empty() => Found::absent(source),
        found => found
            .map(|names| names.iter().take(MAX_DEVICES).map(|name| device(sight, name)).collect()),
    }
}

fn device(sight: &Sight, name: &str) -> Rdma {
    let folder = format!("{DEVICES}/{name}");
    let read = |file: &str| sight.text(&format!("{folder}/{file}"));
    let port = |number: &String| {
        let read = |file: &str| sight.text(&format!("{folder}/ports/{number}/{file}"));
        RdmaPort {
            number: number.clone(),
            link_layer: read("link_layer"),
            // `4: ACTIVE`.
            state: read("state").map(|text| text.rsplit(' ').next().unwrap_or_default().to_owned()),
            rate: read("rate"),
        }
    };
    Rdma {
        node_guid: read("node_guid"),
        firmware: read("fw_ver"),
        board: read("board_id"),
        pci_address: sight.link(&folder).parsed(|link| {
            let address = pci_address(&link).ok_or("it hangs on no PCI device")?;
            Ok(address.to_owned())
        }),
        ports: sight
            .names(&format!("{folder}/ports"))
            .map(|numbers| numbers.iter().take(MAX_PORTS).map(port).collect()),
        name: name.to_owned(),
    }
}
