//! A policy of a hurried administrator, and what some process writes to the agent's socket.
#![no_main]

use invar_agent::api::protocol::Request;
use invar_agent::policy::parse;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    // A mistake is named with a line that the text has.
    if let Err(invar_agent::AgentError::Policy { line, .. }) = parse(text, "agent.toml") {
        assert!(line >= 1 && line <= text.split('\n').count());
    }
    if let Ok(request) = serde_json::from_str::<Request>(text) {
        let again = serde_json::to_string(&request).expect("a request is plain data");
        assert_eq!(serde_json::from_str::<Request>(&again).ok(), Some(request));
    }
});
