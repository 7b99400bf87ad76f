//! Field values: numbers that NVML gives by number, most of which have no function of their own.

use nvml_wrapper::{
    Device, enums::device::SampleValue, error::NvmlError,
    struct_wrappers::device::FieldValueSample, structs::device::FieldId,
};

use super::in_words;
use crate::inventory::Found;

pub(super) const RETIRED_SINGLE_BIT: u32 = 29;
pub(super) const RETIRED_DOUBLE_BIT: u32 = 30;
pub(super) const RETIRED_PENDING: u32 = 31;
pub(super) const MEMORY_TEMPERATURE: u32 = 82;
pub(super) const NVLINK_COUNT: u32 = 91;
pub(super) const REMAPPED_CORRECTABLE: u32 = 142;
pub(super) const REMAPPED_UNCORRECTABLE: u32 = 143;
pub(super) const REMAP_PENDING: u32 = 144;
pub(super) const REMAP_FAILURE: u32 = 145;
pub(super) const RECOVERY_ACTION: u32 = 230;

/// Why a number isn't there.
#[derive(Clone)]
enum Missing {
    NotSupported,
    Because(String),
}

/// The answer to one question about several fields.
pub(super) struct Fields(Vec<(u32, Result<u64, Missing>)>);

impl Fields {
    /// Ask for all of them in one call.
    pub(super) fn ask(device: &Device<'_>, ids: &[u32]) -> Self {
        let asked: Vec<FieldId> = ids.iter().copied().map(FieldId).collect();
        let answers = match device.field_values_for(&asked) {
            Ok(answers) => answers.into_iter().map(number).collect(),
            Err(error) => vec![Err(missing(&error)); ids.len()],
        };
        Self(ids.iter().copied().zip(answers).collect())
    }

    /// One of them.
    pub(super) fn get(&self, id: u32) -> Found<u64> {
        let source = format!("nvmlDeviceGetFieldValues {id}");
        match self.0.iter().find(|(known, _)| *known == id) {
            Some((_, Ok(value))) => Found::present(*value, source),
            Some((_, Err(Missing::NotSupported))) => Found::absent(source),
            Some((_, Err(Missing::Because(reason)))) => Found::unknown(source, reason.clone()),
            None => Found::unknown(source, "it was not asked for"),
        }
    }

    /// One that is yes or no.
    pub(super) fn is_set(&self, id: u32) -> Found<bool> {
        self.get(id).map(|value| value != 0)
    }
}

fn missing(error: &NvmlError) -> Missing {
    match error {
        NvmlError::NotSupported => Missing::NotSupported,
        NvmlError::InvalidArg => Missing::Because("this driver doesn't know the field".to_owned()),
        other => Missing::Because(in_words(other)),
    }
}

fn number(answer: Result<FieldValueSample, NvmlError>) -> Result<u64, Missing> {
    match answer.and_then(|sample| sample.value).map_err(|error| missing(&error))? {
        SampleValue::U32(value) => Ok(u64::from(value)),
        SampleValue::U64(value) => Ok(value),
        SampleValue::I64(value) => u64::try_from(value)
            .map_err(|_| Missing::Because(format!("NVML answered {value}, which is below zero"))),
        SampleValue::F64(value) => {
            Err(Missing::Because(format!("NVML answered {value}, which is no whole number")))
        }
    }
}
