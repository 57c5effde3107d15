//! `invar network create`

use std::process::ExitCode;

use anyhow::bail;
use invar_engine::embedded::{EmbeddedEngine, NetworkOptions};

use crate::cli::Cli;
use crate::{creating, printer};

/// Make a network and print its id
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Its addresses: 10.1.2.0/24, `fd00:1::/64`, or both (default: ranges nobody uses)
    #[arg(long, value_name = "RANGE")]
    subnet: Vec<String>,

    /// Give its containers version 6 addresses too
    #[arg(long)]
    ipv6: bool,

    /// Let its containers reach nothing but each other
    #[arg(long)]
    internal: bool,

    /// Label the network
    #[arg(long, value_name = "NAME[=VALUE]")]
    label: Vec<String>,

    /// bridge, the only one there is
    #[arg(short, long, default_value = "bridge", value_parser = ["bridge"])]
    driver: String,

    /// Its name
    name: String,
}

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    let mut options = NetworkOptions {
        ipv6: args.ipv6,
        internal: args.internal,
        ..NetworkOptions::default()
    };
    for range in &args.subnet {
        let place = if range.contains(':') {
            &mut options.subnet6
        } else {
            &mut options.subnet
        };
        if place.replace(range.clone()).is_some() {
            bail!("--subnet: a network has one range of each version");
        }
    }
    for label in &args.label {
        let (name, value) = label.split_once('=').unwrap_or((label, ""));
        options.labels.insert(name.to_owned(), value.to_owned());
    }
    let engine = EmbeddedEngine::open(cli.root())?;
    let id = engine.create_network(&args.name, &options)?;
    printer::line(id)?;
    if !args.internal {
        creating::tell_of_firewall(&engine);
    }
    Ok(ExitCode::SUCCESS)
}
