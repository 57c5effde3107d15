//! The flags of `invar run` and `invar create`, with Docker's names and meaning.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use clap::ValueEnum;
use invar_engine::Network;

/// When a container's image is pulled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum PullPolicy {
    /// When it is not here.
    #[default]
    Missing,
    /// Each time: the tag may have moved.
    Always,
    /// Not at all.
    Never,
}

/// Whose ids a container's users have on the host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Userns {
    /// The same as inside.
    #[default]
    Host,
    /// A range that nobody else has.
    Auto,
}

/// What to run, and how.
#[derive(Debug, Default, clap::Args)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is one flag of the command line"
)]
pub(crate) struct Options {
    /// Name of the container (default: a random one)
    #[arg(long)]
    pub(crate) name: Option<String>,

    /// When to get the image from its registry
    #[arg(long, value_enum, value_name = "WHEN", default_value_t)]
    pub(crate) pull: PullPolicy,

    /// Set an environment variable; NAME alone takes its value from this environment
    #[arg(short, long, value_name = "NAME[=VALUE]", help_heading = "Program")]
    pub(crate) env: Vec<String>,

    /// Read environment variables from a file, one NAME=VALUE a line
    #[arg(long, value_name = "FILE", help_heading = "Program")]
    pub(crate) env_file: Vec<PathBuf>,

    /// Working directory of the program
    #[arg(short, long, value_name = "PATH", help_heading = "Program")]
    pub(crate) workdir: Option<String>,

    /// Run as this user: NAME, UID, or either with :GROUP or :GID
    #[arg(short, long, value_name = "USER[:GROUP]", help_heading = "Program")]
    pub(crate) user: Option<String>,

    /// Run this instead of the image's entrypoint; "" for none
    #[arg(long, value_name = "PROGRAM", help_heading = "Program")]
    pub(crate) entrypoint: Option<String>,

    /// Run an init as process 1 that reaps zombies and passes signals on
    #[arg(long, help_heading = "Program")]
    pub(crate) init: bool,

    /// Keep standard input open
    #[arg(short, long, help_heading = "Program")]
    pub(crate) interactive: bool,

    /// Give the program a terminal
    #[arg(short, long, help_heading = "Program")]
    pub(crate) tty: bool,

    /// Signal that asks the program to stop
    #[arg(long, value_name = "SIGNAL", help_heading = "Program")]
    pub(crate) stop_signal: Option<String>,

    /// Let the container change its own files; they are kept apart from the image and every
    /// change is shown by invar diff
    #[arg(long, overrides_with = "read_only", help_heading = "Files")]
    pub(crate) writable: bool,

    /// Refuse every write to the container's root (the default)
    #[arg(
        long,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        overrides_with = "writable",
        help_heading = "Files"
    )]
    pub(crate) read_only: Option<bool>,

    /// Mount a host path or a named volume. Options: ro, rw, exec (programs on a writable mount
    /// do not run without it)
    #[arg(
        short,
        long,
        value_name = "SOURCE:PATH[:OPTIONS]",
        help_heading = "Files"
    )]
    pub(crate) volume: Vec<String>,

    /// The same in key=value form: type=bind|volume|tmpfs,source=…,target=…[,readonly][,exec]
    #[arg(long, value_name = "KEY=VALUE,…", help_heading = "Files")]
    pub(crate) mount: Vec<String>,

    /// Mount memory as a directory. Options: size=64m, mode=1777, ro, exec
    #[arg(long, value_name = "PATH[:OPTIONS]", help_heading = "Files")]
    pub(crate) tmpfs: Vec<String>,

    /// Network: bridge (the default where the host can), one made with invar network create, none
    /// (loopback only), host (the host's), or container:NAME (that container's)
    #[arg(
        long,
        visible_alias = "net",
        value_name = "NETWORK",
        value_parser = super::networking::network,
        env = "INVAR_NETWORK",
        help_heading = "Network"
    )]
    pub(crate) network: Option<Network>,

    /// Pass a port of the host on to the container; each may be a range. Without HOST any free one
    #[arg(
        short,
        long,
        value_name = "[ADDRESS:][HOST:]CONTAINER[/udp]",
        help_heading = "Network"
    )]
    pub(crate) publish: Vec<String>,

    /// Publish every port the image exposes on a free port of the host
    #[arg(short = 'P', long, help_heading = "Network")]
    pub(crate) publish_all: bool,

    /// One more port for --publish-all
    #[arg(long, value_name = "PORT[/udp]", help_heading = "Network")]
    pub(crate) expose: Vec<String>,

    /// Another name for the container in its network
    #[arg(
        long,
        visible_alias = "net-alias",
        value_name = "NAME",
        help_heading = "Network"
    )]
    pub(crate) network_alias: Vec<String>,

    /// The address it must have in its network
    #[arg(long, value_name = "ADDRESS", help_heading = "Network")]
    pub(crate) ip: Option<Ipv4Addr>,

    /// Ask this name server instead of the host's
    #[arg(long, value_name = "ADDRESS", help_heading = "Network")]
    pub(crate) dns: Vec<IpAddr>,

    /// Look short names up in this domain; "." for none
    #[arg(long, value_name = "DOMAIN", help_heading = "Network")]
    pub(crate) dns_search: Vec<String>,

    /// One more line for /etc/hosts; host-gateway is the host
    #[arg(long, value_name = "NAME:ADDRESS", help_heading = "Network")]
    pub(crate) add_host: Vec<String>,

    /// Most memory: 512m, 2g; -1 for no limit
    #[arg(
        short,
        long,
        value_name = "SIZE",
        allow_hyphen_values = true,
        help_heading = "Limits"
    )]
    pub(crate) memory: Option<String>,

    /// Most processor time, in processors: 0.5, 2
    #[arg(long, value_name = "NUMBER", help_heading = "Limits")]
    pub(crate) cpus: Option<String>,

    /// Most processes and threads (default: 2048); -1 for no limit
    #[arg(
        long,
        value_name = "NUMBER",
        allow_hyphen_values = true,
        help_heading = "Limits"
    )]
    pub(crate) pids_limit: Option<i64>,

    /// Give a capability beyond the default eleven, or ALL
    #[arg(long, value_name = "CAPABILITY", help_heading = "Limits")]
    pub(crate) cap_add: Vec<String>,

    /// Take a capability away, or ALL
    #[arg(long, value_name = "CAPABILITY", help_heading = "Limits")]
    pub(crate) cap_drop: Vec<String>,

    /// apparmor=PROFILE, apparmor=unconfined; no-new-privileges and seccomp=builtin always hold
    #[arg(long, value_name = "OPTION", help_heading = "Limits")]
    pub(crate) security_opt: Vec<String>,

    /// Whose ids its users have on the host: auto (a range of its own), host (the same)
    #[arg(
        long,
        value_enum,
        value_name = "MODE",
        default_value_t,
        help_heading = "Limits"
    )]
    pub(crate) userns: Userns,

    /// Start it again when it ends: no, always, unless-stopped, on-failure[:TIMES] (default: no)
    #[arg(long, value_name = "POLICY")]
    pub(crate) restart: Option<String>,

    #[command(flatten)]
    pub(crate) health: HealthOptions,

    /// Host name inside the container (default: its short id)
    #[arg(short = 'h', long, value_name = "NAME", help_heading = "Program")]
    pub(crate) hostname: Option<String>,

    /// Label the container
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub(crate) label: Vec<String>,

    /// Remove the container when it ends
    #[arg(long)]
    pub(crate) rm: bool,

    /// Write the container's id to this new file
    #[arg(long, value_name = "FILE")]
    pub(crate) cidfile: Option<PathBuf>,

    /// Print help (-h is --hostname, as with Docker)
    #[arg(long, action = clap::ArgAction::HelpLong)]
    pub(crate) help: (),
}

/// How a container's health is found out.
#[derive(Debug, Default, Clone, clap::Args)]
pub(crate) struct HealthOptions {
    /// Shell command that ends with 0 while the container is well, instead of the image's
    #[arg(long, value_name = "COMMAND", help_heading = "Health")]
    pub(crate) health_cmd: Option<String>,

    /// Pause between two checks: 5s, 1m30s (default: 30s)
    #[arg(long, value_name = "TIME", help_heading = "Health")]
    pub(crate) health_interval: Option<String>,

    /// Longest a check may take (default: 30s)
    #[arg(long, value_name = "TIME", help_heading = "Health")]
    pub(crate) health_timeout: Option<String>,

    /// Failures in a row that make it unhealthy (default: 3)
    #[arg(long, value_name = "NUMBER", help_heading = "Health")]
    pub(crate) health_retries: Option<u32>,

    /// Failures do not count for so long after the start (default: 0s)
    #[arg(long, value_name = "TIME", help_heading = "Health")]
    pub(crate) health_start_period: Option<String>,

    /// Pause between two checks during that time (default: 5s)
    #[arg(long, value_name = "TIME", help_heading = "Health")]
    pub(crate) health_start_interval: Option<String>,

    /// Leave the image's health check out
    #[arg(long, help_heading = "Health")]
    pub(crate) no_healthcheck: bool,
}
