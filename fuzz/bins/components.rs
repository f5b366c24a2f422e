//! Runs `fuzz_targets::components` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_targets::components::run(data));
