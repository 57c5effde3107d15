//! An image archive: its members, manifests, indexes and configurations.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| invar_image::fuzzing::archive(bytes));
