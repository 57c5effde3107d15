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
        EngineError::NetworkNotFound { name } => {
            format!(
                "list the networks with: invar network ls; make it with: invar network create {name}"
            )
        }
        EngineError::NetworkInUse { .. } => {
            "stop those containers first: invar stop NAME".to_owned()
        }
        EngineError::PortTaken { .. } => {
            "see who has it with: ss -lntup, invar ps; or publish another port of the host"
                .to_owned()
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
        &["--link"],
        "containers of a network made with invar network create find each other by name",
    ),
    (
        &["--ip6", "--mac-address", "--dns-option"],
        "version 6 and hardware addresses follow from --ip; resolver options are the host's",
    ),
    (
        &["--device", "--device-cgroup-rule"],
        "host devices are kept out of containers; let a service on the host own the device and \
         share a socket or a directory with -v",
    ),
    (
        &["--gpus"],
        "graphics processors are host devices, and those are kept out of containers",
    ),
    (
        &["--log-driver", "--log-opt"],
        "logs are kept by Invar, at most 32 MiB a container, and read with: invar logs",
    ),
    (
        &["--ipc", "--pid", "--uts", "--cgroupns"],
        "every container has its own namespaces; only --network host is shared on request",
    ),
    (
        &["--cgroup-parent"],
        "every container's group is below invar/; limit it with -m, --cpus and --pids-limit",
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
            "-c",
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
        &["--detach-keys", "--sig-proxy", "-a", "--attach"],
        "without -d a container is attached and gets the signals; start it with -d and use: invar \
         attach",
    ),
    (
        &["--group-add"],
        "name the group with the user: --user USER:GROUP; groups the image's /etc/group lists are \
         given anyway",
    ),
    (
        &["--volumes-from"],
        "name the volumes themselves: -v NAME:PATH; the other container's are in: invar inspect",
    ),
    (
        &["--volume-driver", "--storage-opt"],
        "volumes are directories below the state root; mount what another driver gives on the \
         host, and share it with -v",
    ),
    (
        &["--label-file", "--annotation"],
        "set each with --label NAME=VALUE",
    ),
    (
        &["--domainname"],
        "give the whole name: --hostname NAME.DOMAIN",
    ),
    (
        &["--stop-timeout"],
        "say it when it is stopped: invar stop -t SECONDS",
    ),
    (
        &["--runtime", "--isolation"],
        "containers are run by Invar itself; there is no other runtime to choose",
    ),
    (
        &["--oom-score-adj", "--memory-swappiness", "--kernel-memory"],
        "limit memory with -m; what goes beyond is killed inside the container",
    ),
    (
        &[
            "--blkio-weight",
            "--blkio-weight-device",
            "--device-read-bps",
            "--device-read-iops",
            "--device-write-bps",
            "--device-write-iops",
        ],
        "limits on disk traffic are not there yet",
    ),
    (
        &["--cpu-rt-period", "--cpu-rt-runtime", "--cpuset-mems"],
        "limit processor time with --cpus",
    ),
    (
        &["--disable-content-trust"],
        "leave it out: content is always checked against its digest",
    ),
];

/// Commands people know from Docker which Invar answers differently.
const DOCKER_COMMANDS: &[(&[&str], &str)] = &[
    (
        &["build", "buildx", "builder"],
        "build images with another tool, and bring them in with: invar load",
    ),
    (
        &["commit"],
        "a container is never made into an image: build a new one; to keep what was changed, use: \
         invar capture",
    ),
    (
        &["export"],
        "write its files as a tar stream: invar cp NAME:/ - > NAME.tar",
    ),
    (&["info"], "ask what this host can do: invar doctor"),
    (&["version"], "invar --version"),
    (
        &[
            "compose", "stack", "swarm", "service", "node", "secret", "config",
        ],
        "describe the services in a compose.yaml, and bring them up with: invar deploy",
    ),
    (
        &["volume"],
        "a named volume is made by the first -v NAME:PATH, and is a directory below the state \
         root's volumes/",
    ),
    (&["search"], "search on the registry's own pages"),
    (
        &["context"],
        "containers run on this machine; run invar on the other one over ssh",
    ),
    (
        &["checkpoint"],
        "memory is not kept across a stop; to freeze a container, use: invar pause",
    ),
    (&["trust", "plugin", "manifest"], "there is no such command"),
];

/// The message and next step for a command of Docker that Invar does not have.
pub(crate) fn docker_command(error: &clap::Error) -> Option<(String, &'static str)> {
    if error.kind() != clap::error::ErrorKind::InvalidSubcommand {
        return None;
    }
    let Some(ContextValue::String(given)) = error.get(ContextKind::InvalidSubcommand) else {
        return None;
    };
    DOCKER_COMMANDS
        .iter()
        .find(|(commands, _)| commands.contains(&given.as_str()))
        .map(|(_, hint)| (format!("invar has no command {given}"), *hint))
}

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
