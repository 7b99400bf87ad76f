//! libFuzzer's door to [`kdc_fuzz::kernel_log`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kdc_fuzz::kernel_log(data));
