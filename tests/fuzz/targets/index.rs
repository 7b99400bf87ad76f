//! libFuzzer's door to [`kdc_fuzz::index`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kdc_fuzz::index(data));
