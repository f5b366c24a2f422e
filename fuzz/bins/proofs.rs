//! Runs `fuzz_targets::proofs` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_targets::proofs::run(data));
