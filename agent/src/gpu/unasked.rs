//! GPUs that could not be asked, and what stands in their fields then.

use super::report::{Ecc, Gpu, GpuState, Live, Mig, Pcie, RetiredPages, RowRemaps};
use crate::inventory::Found;

impl Gpu {
    /// A GPU of which nothing is known but that there is one; `source` was tried, and `reason` is what came of it.
    #[must_use]
    pub fn unasked(index: Option<u32>, state: GpuState, source: &str, reason: &str) -> Self {
        let text = || Found::unknown(source, reason);
        Self {
            state,
            index: index.map_or_else(
                || Found::unknown(source, reason),
                |index| Found::present(index, source),
            ),
            pci: text(),
            uuid: text(),
            model: text(),
            serial: text(),
            kernel_driver: text(),
            compute_capability: text(),
            persistence: Found::unknown(source, reason),
            mig: Mig {
                mode: Found::unknown(source, reason),
                instances: Found::unknown(source, reason),
            },
            ecc: Ecc::unasked(source, reason),
            retired_pages: RetiredPages {
                single_bit: Found::unknown(source, reason),
                double_bit: Found::unknown(source, reason),
                pending: Found::unknown(source, reason),
            },
            row_remaps: RowRemaps::unasked(source, reason),
            nvlinks: Found::unknown(source, reason),
            recovery_action: Found::unknown(source, reason),
            live: Live::unasked(source, reason),
            processes: Found::unknown(source, reason),
        }
    }
}

impl Ecc {
    fn unasked(source: &str, reason: &str) -> Self {
        let count = || Found::unknown(source, reason);
        Self {
            mode: Found::unknown(source, reason),
            corrected_volatile: count(),
            uncorrected_volatile: count(),
            corrected_aggregate: count(),
            uncorrected_aggregate: count(),
        }
    }
}

impl RowRemaps {
    /// Of a GPU that could not be asked.
    pub(super) fn unasked(source: &str, reason: &str) -> Self {
        Self {
            correctable: Found::unknown(source, reason),
            uncorrectable: Found::unknown(source, reason),
            pending: Found::unknown(source, reason),
            failed: Found::unknown(source, reason),
        }
    }
}

impl Live {
    /// Of a GPU that could not be asked.
    pub(super) fn unasked(source: &str, reason: &str) -> Self {
        let number = || Found::unknown(source, reason);
        Self {
            memory: Found::unknown(source, reason),
            gpu_percent: number(),
            memory_percent: number(),
            encoder_percent: number(),
            decoder_percent: number(),
            sm_clock_mhz: number(),
            memory_clock_mhz: number(),
            power_milliwatts: number(),
            power_limit_milliwatts: number(),
            energy_millijoules: Found::unknown(source, reason),
            temperature_celsius: number(),
            memory_temperature_celsius: Found::unknown(source, reason),
            throttle_reasons: Found::unknown(source, reason),
            pcie: Pcie {
                generation: number(),
                generation_max: number(),
                width: number(),
                width_max: number(),
                replays: number(),
            },
        }
    }
}
