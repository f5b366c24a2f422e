//! Runs `fuzz_targets::forms` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_targets::forms::run(data));
