//! An exported archive of evidence and the signature beside it.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| invar_evidence::fuzzing::archive(bytes));
