//! Memory: how much, in which modules, with which protection, and what is set aside as huge pages.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Found,
    sight::Sight,
    smbios::{self, Structure},
};

const HUGE_PAGES: &str = "/sys/kernel/mm/hugepages";
const CONTROLLERS: &str = "/sys/devices/system/edac/mc";
/// SMBIOS types: an array of memory, and a module in it.
const ARRAY: u8 = 16;
const MODULE: u8 = 17;

/// The node's memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Memory {
    /// What the kernel manages: less than the modules hold by what firmware and kernel keep.
    pub total_bytes: Found<u64>,
    /// Pools of huge pages, one a size.
    pub huge_pages: Found<Vec<HugePages>>,
    /// When the kernel makes huge pages by itself (`always`, `madvise`, `never`).
    pub transparent_huge_pages: Found<String>,
    /// Modules that are plugged in.
    pub modules: Found<Vec<Module>>,
    /// Slots, empty ones too.
    pub slots: Found<u32>,
    /// Error correction of the memory array (`none`, `single-bit`, `multi-bit`, …).
    pub error_correction: Found<String>,
    /// Errors that the memory controllers counted since boot. Not part of the content hash.
    pub errors: Found<MemoryErrors>,
}

/// A pool of huge pages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HugePages {
    /// Size of one page.
    pub page_bytes: u64,
    /// Pages set aside.
    pub pages: u64,
}

/// A memory module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Module {
    /// Slot (`DIMM_A1`).
    pub slot: Option<String>,
    /// Its size.
    pub size_bytes: u64,
    /// `DDR4`, `DDR5`…
    pub kind: Option<String>,
    /// Megatransfers a second it runs at.
    pub speed_mts: Option<u32>,
    /// Maker.
    pub vendor: Option<String>,
    /// Part number.
    pub part: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
}

/// Counted memory errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MemoryErrors {
    /// Found and put right.
    pub corrected: u64,
    /// Data was lost.
    pub uncorrected: u64,
}

/// Read it all.
pub(super) fn probe(sight: &Sight) -> Memory {
    let structures = smbios::probe(sight, MODULE);
    Memory {
        total_bytes: probe_total(sight),
        huge_pages: probe_huge_pages(sight),
        transparent_huge_pages: sight
            .text("/sys/kernel/mm/transparent_hugepage/enabled")
            .parsed(|text| chosen(&text).ok_or_else(|| format!("`{text}` marks no choice"))),
        slots: count(&structures),
        modules: structures.map(|list| list.iter().filter_map(module).collect()),
        error_correction: probe_correction(sight),
        errors: probe_errors(sight),
    }
}

fn probe_total(sight: &Sight) -> Found<u64> {
    let pick = |text: &str| {
        let total = text.lines().filter(|line| line.starts_with("MemTotal:"));
        total.map(str::to_owned).collect()
    };
    sight.excerpt("/proc/meminfo", pick).parsed(|lines: Vec<String>| parse_total(&lines.concat()))
}

fn count(structures: &Found<Vec<Structure>>) -> Found<u32> {
    match structures {
        Found::Present { value, source } => {
            Found::present(u32::try_from(value.len()).unwrap_or(u32::MAX), source)
        }
        Found::Absent { source } => Found::absent(source),
        Found::Unknown { source, reason } => Found::unknown(source, reason),
    }
}

fn parse_total(text: &str) -> Result<u64, String> {
    let total = || {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        line.split_ascii_whitespace().next()?.parse::<u64>().ok()
    };
    Ok(total().ok_or("/proc/meminfo has no MemTotal")?.saturating_mul(1024))
}

fn probe_huge_pages(sight: &Sight) -> Found<Vec<HugePages>> {
    sight.names(HUGE_PAGES).map(|names| {
        let pool = |name: &String| {
            let kib: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            let pages = sight.number(&format!("{HUGE_PAGES}/{name}/nr_hugepages"));
            Some(HugePages { page_bytes: kib.saturating_mul(1024), pages: *pages.value()? })
        };
        let mut pools: Vec<HugePages> = names.iter().filter_map(pool).collect();
        pools.sort_by_key(|pool| pool.page_bytes);
        pools
    })
}

/// `always [madvise] never` → `madvise`.
pub(super) fn chosen(text: &str) -> Option<String> {
    let (_, rest) = text.split_once('[')?;
    Some(rest.split_once(']')?.0.to_owned())
}

/// A slot with something in it.
fn module(structure: &Structure) -> Option<Module> {
    let size_bytes = match structure.word(0x0c)? {
        // 0: empty. 0xffff: the firmware doesn't know either.
        0 | 0xffff => return None,
        0x7fff => u64::from(structure.double_word(0x1c)? & 0x7fff_ffff) << 20,
        small if small & 0x8000 != 0 => u64::from(small & 0x7fff) << 10,
        mebibytes => u64::from(mebibytes) << 20,
    };
    let speed = |at| match structure.word(at)? {
        0 => None,
        0xffff => structure.double_word(if at == 0x20 { 0x58 } else { 0x54 }),
        speed => Some(u32::from(speed)),
    };
    Some(Module {
        slot: structure.string(0x10),
        size_bytes,
        kind: structure.byte(0x12).and_then(kind_name).map(str::to_owned),
        speed_mts: speed(0x20).or_else(|| speed(0x15)),
        vendor: structure.string(0x17),
        serial: structure.string(0x18),
        part: structure.string(0x1a),
    })
}

fn kind_name(byte: u8) -> Option<&'static str> {
    Some(match byte {
        0x07 => "RAM",
        0x0f => "SDRAM",
        0x12 => "DDR",
        0x13 => "DDR2",
        0x18 => "DDR3",
        0x1a => "DDR4",
        0x1b => "LPDDR",
        0x1c => "LPDDR2",
        0x1d => "LPDDR3",
        0x1e => "LPDDR4",
        0x20 => "HBM",
        0x21 => "HBM2",
        0x22 => "DDR5",
        0x23 => "LPDDR5",
        0x24 => "HBM3",
        _ => return None,
    })
}

fn probe_correction(sight: &Sight) -> Found<String> {
    smbios::probe(sight, ARRAY).parsed(|arrays| {
        let byte = arrays.iter().find_map(|array| array.byte(0x06)).unwrap_or(2);
        Ok(match byte {
            3 => "none",
            4 => "parity",
            5 => "single-bit",
            6 => "multi-bit",
            7 => "crc",
            _ => return Err(format!("the firmware says neither (code {byte})")),
        }
        .to_owned())
    })
}

fn probe_errors(sight: &Sight) -> Found<MemoryErrors> {
    let controllers = sight.names(CONTROLLERS).map(|names| {
        let is_one =
            |name: &String| name.strip_prefix("mc").is_some_and(|rest| rest.parse::<u32>().is_ok());
        names.into_iter().filter(is_one).collect::<Vec<_>>()
    });
    let names = match controllers {
        Found::Present { value, .. } if value.is_empty() => return Found::absent(CONTROLLERS),
        Found::Present { value, .. } => value,
        Found::Absent { source } => return Found::absent(source),
        Found::Unknown { source, reason } => return Found::unknown(source, reason),
    };
    let sum = |file: &str| {
        let count = |name: &String| sight.number(&format!("{CONTROLLERS}/{name}/{file}"));
        names.iter().try_fold(0_u64, |sum, name| Some(sum.saturating_add(*count(name).value()?)))
    };
    match (sum("ce_count"), sum("ue_count")) {
        (Some(corrected), Some(uncorrected)) => {
            Found::present(MemoryErrors { corrected, uncorrected }, CONTROLLERS)
        }
        _ => Found::unknown(CONTROLLERS, "a controller has no counters"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_choice_in_brackets_and_the_total_are_found() {
        assert_eq!(chosen("always [madvise] never").as_deref(), Some("madvise"));
        assert_eq!(chosen("always"), None);
        assert_eq!(parse_total("MemFree: 1 kB\nMemTotal:  4 kB\n"), Ok(4096));
        assert!(parse_total("MemFree: 1 kB\n").is_err());
    }
}
