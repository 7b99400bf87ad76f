//! libFuzzer's door to [`kdc_fuzz::tar`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kdc_fuzz::tar(data));
