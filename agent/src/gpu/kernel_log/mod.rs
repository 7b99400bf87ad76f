//! What the kernel's log says of GPUs: the driver writes every error (Xid) there, also where NVML is gone.

mod parse;
mod reader;

pub use parse::{GpuMessage, LogXid, Record, Severity, parse_message, parse_record, slot};
pub use reader::{KERNEL_LOG, KernelLog, LogError};
