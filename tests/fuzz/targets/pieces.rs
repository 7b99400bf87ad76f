//! libFuzzer's door to [`kdc_fuzz::pieces`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kdc_fuzz::pieces(data));
