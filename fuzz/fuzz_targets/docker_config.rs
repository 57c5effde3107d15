//! The file that docker keeps credentials in.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| invar_image::fuzzing::docker_config(bytes));
