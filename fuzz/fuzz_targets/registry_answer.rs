//! What a registry or its token server answers, as far as it is text.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| invar_image::fuzzing::registry_answer(bytes));
