//! The records of evidence, one kind at a time.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| invar_evidence::fuzzing::records(bytes));
