//! Names of images, platforms and digests as users and archives write them.
#![no_main]

use invar_image::{Digest, Platform, Reference};

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(reference) = Reference::parse(text) {
        let shown = reference.to_string();
        let again = Reference::parse(&shown).map(|again| again.to_string());
        assert_eq!(again.ok(), Some(shown));
    }
    if let Ok(platform) = Platform::parse(text) {
        assert_eq!(platform.to_string(), text);
    }
    if let Ok(digest) = Digest::parse(text) {
        assert_eq!(digest.hex().len(), 64);
    }
});
