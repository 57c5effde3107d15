//! What people read before they run anything.
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

use std::process::Command;

fn invar(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_invar"))
        .args(args)
        .env_remove("INVAR_ROOT")
        .env_remove("INVAR_NETWORK")
        .env("COLUMNS", "100")
        .output()
        .unwrap();
    assert!(output.status.success(), "{args:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn help_of_run_exec_and_logs_reads_well() {
    for command in ["run", "exec", "logs", "ps", "network", "port"] {
        insta::assert_snapshot!(command, invar(&[command, "--help"]));
    }
}

#[test]
fn every_container_command_is_listed_and_completed() {
    let help = invar(&["--help"]);
    let completions: Vec<String> = ["bash", "fish", "zsh"]
        .iter()
        .map(|shell| invar(&["completions", shell]))
        .collect();
    for command in [
        "create", "diff", "exec", "images", "import", "inspect", "kill", "load", "logs", "network",
        "pause", "port", "ps", "rename", "restart", "rm", "rmi", "run", "save", "start", "stop",
        "tag", "unpause", "wait",
    ] {
        assert!(
            help.contains(&format!("\n  {command} ")),
            "{command}\n{help}"
        );
        for script in &completions {
            assert!(script.contains(command), "{command}");
        }
    }
}
