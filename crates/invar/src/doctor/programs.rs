//! Programs and engines on this host that Invar works with.

use std::path::Path;
use std::process::{Command, Stdio};

use invar_engine::docker::DockerEngine;
use invar_engine::{Engine as _, EngineError};

use super::{Finding, Group};

pub(super) fn check(findings: &mut Vec<Finding>) {
    let mut group = Group {
        name: "programs",
        findings,
    };
    group.tried(
        "nft",
        nftables(),
        "apt install nftables; bridge networks and published ports need it",
    );
    group.tried(
        "systemd",
        if Path::new("/run/systemd/system").exists() {
            Ok("runs this host")
        } else {
            Err("does not run this host")
        },
        "start containers at boot by running: invar boot",
    );
    group.tried(
        "docker",
        engine(DockerEngine::docker()),
        "not needed; with it, invar also sees Docker's containers",
    );
    group.tried(
        "podman",
        engine(DockerEngine::podman()),
        "not needed; with it (systemctl enable --now podman.socket), invar also sees Podman's \
         containers",
    );
}

/// Has `nft` check a table, which asks the kernel and changes nothing.
fn nftables() -> Result<String, String> {
    let output = Command::new("nft")
        .args(["--check", "add", "table", "inet", "invar_doctor"])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("the program nft: {error}"))?;
    if output.status.success() {
        return Ok("a table was checked by the kernel".to_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(said.lines().next().unwrap_or("nft failed").to_owned())
}

fn engine(found: Result<Option<DockerEngine>, EngineError>) -> Result<String, String> {
    match found {
        Ok(Some(engine)) => {
            let containers = engine.list().map_err(|error| error.to_string())?;
            Ok(format!("answers; {} containers", containers.len()))
        }
        Ok(None) => Err("no daemon listens here".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
