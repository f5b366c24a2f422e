//! Runs `fuzz_targets::webhooks` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_targets::webhooks::run(data));
