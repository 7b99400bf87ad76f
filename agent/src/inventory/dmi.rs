//! Who made the machine, by what its firmware says; and the firmware itself.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Found, sight::Sight, smbios::is_placeholder};

const ID: &str = "/sys/class/dmi/id";
const EFI: &str = "/sys/firmware/efi";
/// The variable's name ends with the GUID of variables that the UEFI specification defines.
const SECURE_BOOT: &str =
    "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";

/// The machine as its maker names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Machine {
    /// Maker.
    pub vendor: Found<String>,
    /// Product.
    pub product: Found<String>,
    /// The product's version.
    pub version: Found<String>,
    /// Serial number; only root may read it.
    pub serial: Found<String>,
    /// System UUID, which BMCs report too; only root may read it.
    pub uuid: Found<String>,
    /// Maker of the board.
    pub board_vendor: Found<String>,
    /// Board.
    pub board: Found<String>,
    /// The board's serial number; only root may read it.
    pub board_serial: Found<String>,
    /// The chassis' serial number; only root may read it.
    pub chassis_serial: Found<String>,
    /// The owner's tag.
    pub asset_tag: Found<String>,
}

/// What runs before the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Firmware {
    /// `uefi` or `bios`.
    pub boot: Found<String>,
    /// Only signed kernels boot.
    pub secure_boot: Found<bool>,
    /// Maker of the BIOS.
    pub bios_vendor: Found<String>,
    /// Version of the BIOS.
    pub bios_version: Found<String>,
    /// Date of the BIOS.
    pub bios_date: Found<String>,
    /// Microcode revision of the first CPU.
    pub microcode: Found<String>,
}

fn identity(sight: &Sight, name: &str) -> Found<String> {
    sight.text(&format!("{ID}/{name}")).parsed(|text| match is_placeholder(&text) {
        true => Err(format!("the maker left the placeholder `{text}`")),
        false => Ok(text),
    })
}

/// Read the machine's identity.
pub(super) fn probe_machine(sight: &Sight) -> Machine {
    let read = |name| identity(sight, name);
    Machine {
        vendor: read("sys_vendor"),
        product: read("product_name"),
        version: read("product_version"),
        serial: read("product_serial"),
        uuid: read("product_uuid"),
        board_vendor: read("board_vendor"),
        board: read("board_name"),
        board_serial: read("board_serial"),
        chassis_serial: read("chassis_serial"),
        asset_tag: read("chassis_asset_tag"),
    }
}

/// Read what there is to know of the firmware.
pub(super) fn probe_firmware(sight: &Sight) -> Firmware {
    let uefi = sight.exists(EFI);
    let secure_boot = match (uefi, sight.bytes(SECURE_BOOT)) {
        (false, _) => Found::absent(EFI),
        // Four bytes of attributes, then the value.
        (true, found) => found.parsed(|bytes| match bytes[..] {
            [_, _, _, _, value] => Ok(value == 1),
            _ => Err(format!("the variable has {} bytes and not 5", bytes.len())),
        }),
    };
    Firmware {
        boot: Found::present(if uefi { "uefi" } else { "bios" }.to_owned(), EFI),
        secure_boot,
        bios_vendor: identity(sight, "bios_vendor"),
        bios_version: identity(sight, "bios_version"),
        bios_date: identity(sight, "bios_date"),
        microcode: sight.text("/sys/devices/system/cpu/cpu0/microcode/version"),
    }
}
