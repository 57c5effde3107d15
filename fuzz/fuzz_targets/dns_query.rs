//! What a container sends to the resolver of its network.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| invar_engine::embedded::fuzzing::query(bytes));
