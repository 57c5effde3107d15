//! A layer's bytes, compressed or not: what is accepted must come back byte for byte.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| invar_image::fuzzing::layer(bytes));
