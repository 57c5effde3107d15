//! Next steps that are the same whatever the command: for errors of the engine and the image
//! store, and for flags of Docker that Invar does not have.

use std::ffi::{OsStr, OsString};

use clap::error::{ContextKind, ContextValue};
use invar_engine::EngineError;
use invar_evidence::EvidenceError;
use invar_image::ImageError;

use crate::{exit, registries};

/// What to do about an error, when that does not depend on the command.
pub(crate) fn next_step(error: &anyhow::Error) -> Option<String> {
    if let Some(hint) = exit::find::<EvidenceError>(error).and_then(of_evidence) {
        return Some(hint);
    }
    if let Some(error) = exit::find::<EngineError>(error) {
        return of_engine(error);
    }
    exit::find::<ImageError>(error).and_then(of_image)
}

fn of_evidence(error: &EvidenceError) -> Option<String> {
    let text = match error {
        EvidenceError::NotFound { .. } => "list the evidence with: invar evidence ls".to_owned(),
        EvidenceError::BrokeOff { id, .. } => {
            format!("finish it with: invar evidence resume {id}")
        }
        EvidenceError::NotSealed { id } => format!("seal it with: invar evidence resume {id}"),
        EvidenceError::Busy { .. } => "wait until the other process is done".to_owned(),
        _ => return None,
    };
    Some(text)
}

fn of_engine(error: &EngineError) -> Option<String> {
    let text = match error {
        EngineError::NotFound { .. } => "list the containers with: invar ps -a".to_owned(),
        EngineError::NameTaken { name, .. } => {
            format!("choose another --name, or remove it first: invar rm -f {name}")
        }
        EngineError::WrongState { name, needed, .. } => match *needed {
            "running" => format!("start it with: invar start {name}"),
            "paused" => format!("pause it with: invar pause {name}"),
            _ => format!("stop it with: invar stop {name}"),
        },
        EngineError::ProgramNotFound { .. } => {
            "check the spelling, and that the image has it in the container's PATH".to_owned()
        }
        EngineError::Image(error) => return of_image(error),
        _ => return None,
    };
    Some(text)
}

fn of_image(error: &ImageError) -> Option<String> {
    match error {
        ImageError::NotFound { .. } => Some(
            "list the images with: invar images; add one with: invar pull NAME, invar import NAME \
             ROOTFS.tar, or: invar load -i ARCHIVE"
                .to_owned(),
        ),
        _ => registries::next_step(error),
    }
}

/// Flags people know from Docker which Invar answers differently, or not yet.
const DOCKER_FLAGS: &[(&[&str], &str)] = &[
    (
        &["--privileged"],
        "give the one capability it needs with --cap-add NAME; there is no switch that drops all \
         protection",
    ),
    (
        &["--security-opt"],
        "seccomp, no_new_privs and masked paths are always on; --cap-add NAME also allows the \
         system calls that belong to a capability",
    ),
    (
        &["-p", "--publish", "-P", "--publish-all", "--expose"],
        "published ports are not there yet; --network host shares the host's network",
    ),
    (
        &["--link", "--network-alias", "--ip", "--dns", "--add-host"],
        "container networks are not there yet; --network is none or host",
    ),
    (
        &["--restart"],
        "restart policies are not there yet; let a systemd unit run: invar run --rm …",
    ),
    (
        &["--device", "--device-cgroup-rule", "--gpus"],
        "host devices are not there yet",
    ),
    (
        &["--health-cmd", "--health-interval", "--no-healthcheck"],
        "health checks are not there yet",
    ),
    (
        &["--log-driver", "--log-opt"],
        "logs are kept by Invar and read with: invar logs",
    ),
    (
        &[
            "--userns",
            "--ipc",
            "--pid",
            "--uts",
            "--cgroupns",
            "--cgroup-parent",
        ],
        "every container has its own namespaces; only --network host is shared on request",
    ),
    (
        &[
            "--memory-swap",
            "--memory-reservation",
            "--oom-kill-disable",
            "--shm-size",
        ],
        "limit memory with -m; the finer memory settings are not there yet",
    ),
    (
        &[
            "--cpuset-cpus",
            "--cpu-shares",
            "--cpu-quota",
            "--cpu-period",
        ],
        "limit processor time with --cpus",
    ),
    (
        &["--ulimit", "--sysctl"],
        "set it in the program's own entrypoint; it is not there yet",
    ),
    (
        &["--platform"],
        "get the image for another machine first: invar pull --platform OS/ARCH IMAGE",
    ),
    (
        &["--detach-keys", "--sig-proxy", "--attach"],
        "without -d a container is attached and gets the signals; detaching later is not there",
    ),
];

/// The message and next step for a flag of Docker that Invar does not have.
pub(crate) fn docker_flag(error: &clap::Error) -> Option<(String, &'static str)> {
    if error.kind() != clap::error::ErrorKind::UnknownArgument {
        return None;
    }
    let Some(ContextValue::String(given)) = error.get(ContextKind::InvalidArg) else {
        return None;
    };
    let flag = given.split('=').next().unwrap_or(given);
    DOCKER_FLAGS
        .iter()
        .find(|(flags, _)| flags.contains(&flag))
        .map(|(_, hint)| (format!("invar has no {flag}"), *hint))
}

/// Whether the command line asks to run a program, so that a wrong one is 125 as with Docker: the
/// caller must be able to tell it from the program's own 2.
pub(crate) fn runs_a_program(args: impl Iterator<Item = OsString>) -> bool {
    let mut args = args.skip(1);
    while let Some(arg) = args.next() {
        if arg == "--root" {
            args.next();
        } else if !arg.as_encoded_bytes().starts_with(b"-") {
            let commands = ["run", "create", "exec"].map(OsStr::new);
            return commands.contains(&arg.as_os_str());
        }
    }
    false
}
