//! The report on evidence with hostile records.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| invar_evidence::fuzzing::report(bytes));
