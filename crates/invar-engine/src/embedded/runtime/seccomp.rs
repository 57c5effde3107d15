//! The system calls a container may use: `seccomp.json` compiled for a set of capabilities.
//!
//! Two filters, because one has a single answer for what it does not allow: the first answers
//! ENOSYS to every call that is not named, the second EPERM to those that are named as refused.
//! The kernel runs the one installed last first and takes the stricter answer (`seccomp(2)`).

use std::collections::{BTreeMap, BTreeSet};

use seccompiler::{BpfProgram, TargetArch};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::{EngineError, Result};

const PROFILE: &str = include_str!("seccomp.json");
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

#[derive(Deserialize)]
struct Profile {
    allow: Vec<Calls>,
    allow_on: BTreeMap<String, Vec<String>>,
    allow_with: BTreeMap<String, Vec<String>>,
    allow_if: Vec<Condition>,
    refuse: Vec<String>,
    refuse_if: Vec<Condition>,
}

#[derive(Deserialize)]
struct Calls {
    calls: Vec<String>,
}

#[derive(Deserialize)]
struct Condition {
    call: String,
    argument: u8,
    is_not: Option<u64>,
    #[serde(default)]
    is_one_of: Vec<u64>,
    has_a_bit_of: Option<u64>,
    unless: Option<String>,
}

/// The filters for a container with these capabilities, in the order of their installation.
pub(in crate::embedded) fn filters(capabilities: &[String]) -> Result<Vec<BpfProgram>> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(|error| failed(&error))?;
    compile(capabilities, arch)
}

fn compile(capabilities: &[String], arch: TargetArch) -> Result<Vec<BpfProgram>> {
    let profile: Profile = serde_json::from_str(PROFILE).map_err(|error| failed(&error))?;
    let has = |capability: &String| capabilities.contains(capability);
    let mut allowed: BTreeSet<&str> = profile
        .allow
        .iter()
        .flat_map(|g| &g.calls)
        .map(String::as_str)
        .collect();
    let own = profile.allow_on.get(name_of(arch));
    allowed.extend(own.into_iter().flatten().map(String::as_str));
    let mut refused: BTreeSet<&str> = profile.refuse.iter().map(String::as_str).collect();
    for (capability, calls) in &profile.allow_with {
        let set = if has(capability) {
            &mut allowed
        } else {
            &mut refused
        };
        set.extend(calls.iter().map(String::as_str));
    }
    refused.retain(|call| !allowed.contains(call));

    let mut allow: Vec<Value> = allowed
        .iter()
        .map(|call| json!({ "syscall": call }))
        .collect();
    allow.extend(profile.allow_if.iter().flat_map(Condition::rules));
    let mut refuse: Vec<Value> = refused
        .iter()
        .map(|call| json!({ "syscall": call }))
        .collect();
    let conditional = profile.refuse_if.iter();
    refuse.extend(
        conditional
            .filter(|condition| !condition.unless.as_ref().is_some_and(has))
            .flat_map(Condition::rules),
    );
    let document = json!({
        "allow": {
            "mismatch_action": { "errno": ENOSYS }, "match_action": "allow", "filter": allow,
        },
        "refuse": {
            "mismatch_action": "allow", "match_action": { "errno": EPERM }, "filter": refuse,
        },
    });
    let text = document.to_string();
    let mut compiled =
        seccompiler::compile_from_json(text.as_bytes(), arch).map_err(|error| failed(&error))?;
    Ok(["allow", "refuse"]
        .into_iter()
        .filter_map(|name| compiled.remove(name))
        .collect())
}

impl Condition {
    /// One rule for each value or bit; any of them fits.
    fn rules(&self) -> Vec<Value> {
        let rule = |operator: Value, value: u64| {
            json!({
                "syscall": self.call,
                "args": [{ "index": self.argument, "type": "dword", "op": operator, "val": value }],
            })
        };
        let bits = (0..u64::BITS).map(|bit| 1_u64 << bit);
        let bits = bits.filter(|bit| self.has_a_bit_of.is_some_and(|mask| mask & bit != 0));
        let equal = self.is_one_of.iter().map(|value| rule(json!("eq"), *value));
        let differs = self.is_not.iter().map(|value| rule(json!("ne"), *value));
        let masked = bits.map(|bit| rule(json!({ "masked_eq": bit }), bit));
        equal.chain(differs).chain(masked).collect()
    }
}

fn name_of(arch: TargetArch) -> &'static str {
    match arch {
        TargetArch::x86_64 => "x86_64",
        TargetArch::aarch64 => "aarch64",
        TargetArch::riscv64 => "riscv64",
    }
}

/// Fails closed: no container starts without its filters.
fn failed(error: &dyn std::fmt::Display) -> EngineError {
    EngineError::Runtime {
        action: "prepare the system call filter, without which nothing may start",
        reason: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_profile_compiles_for_every_architecture() {
        for arch in [TargetArch::x86_64, TargetArch::aarch64] {
            for capabilities in [&[][..], &["CAP_SYS_ADMIN".to_owned(), "CAP_BPF".to_owned()]] {
                let filters = compile(capabilities, arch).unwrap();
                assert_eq!(filters.len(), 2);
                assert!(filters.iter().all(|filter| !filter.is_empty()));
            }
        }
    }

    #[test]
    fn a_capability_moves_its_calls_from_refused_to_allowed() {
        let without = compile(&[], TargetArch::x86_64).unwrap();
        let with = compile(&["CAP_SYS_ADMIN".to_owned()], TargetArch::x86_64).unwrap();
        assert!(with[0].len() > without[0].len());
        assert!(with[1].len() < without[1].len());
    }
}
