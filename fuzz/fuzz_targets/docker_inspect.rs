//! What a Docker daemon says of a container.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| invar_engine::docker::fuzzing::describe(bytes));
