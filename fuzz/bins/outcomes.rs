//! Runs `fuzz_targets::outcomes` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_targets::outcomes::run(data));
