//! A compose file of a stranger: read, or refused with its place. No file it names is there.
#![no_main]

use std::path::Path;

use invar_rollout::compose::{Options, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let options = Options {
        name: Some("fuzz"),
        profiles: &["*".to_owned()],
        environment: &|name| (name.len() == 1).then(|| "${A}".to_owned()),
    };
    if let Ok((project, _)) = parse(Path::new("/nowhere/compose.yaml"), text, &options) {
        let order = project.order().expect("circles are refused when it is read");
        assert_eq!(order.len(), project.services.len());
    }
});
