//! libFuzzer's door to [`kdc_fuzz::audit`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kdc_fuzz::audit(data));
