//! `invar port`

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;

use invar_engine::{Endpoint, PublishedPort};

use crate::cli::Cli;
use crate::exit::failure;
use crate::{engines, printer, privilege};

/// Show where the host passes on to a container, one line a port and address
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or id
    container: String,

    /// Only this port of the container: 80, 53/udp
    #[arg(value_name = "PORT[/PROTOCOL]")]
    port: Option<String>,
}

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    privilege::require_root()?;
    let found = engines::find(cli.root(), &args.container)?;
    let places = &found.container.endpoints;
    let mut lines = Vec::new();
    for place in places {
        for port in &place.ports {
            let inside = format!("{}/{}", port.container, port.protocol.as_str());
            let is_asked = args.port.as_ref().is_none_or(|asked| {
                *asked == inside || inside.strip_suffix("/tcp") == Some(asked.as_str())
            });
            if !is_asked {
                continue;
            }
            lines.extend(addresses(port, place).map(|outside| match args.port {
                Some(_) => outside.to_string(),
                None => format!("{inside} -> {outside}"),
            }));
        }
    }
    if let (Some(port), true) = (&args.port, lines.is_empty()) {
        return Err(failure(
            format!("{} does not publish its port {port:?}", args.container),
            format!("see what it publishes with: invar port {}", args.container),
        ));
    }
    printer::lines(lines.into_iter())?;
    Ok(ExitCode::SUCCESS)
}

/// Docker writes a line for each version of IP.
fn addresses(port: &PublishedPort, place: &Endpoint) -> impl Iterator<Item = SocketAddr> {
    let everywhere = [
        place.address.map(|_| IpAddr::from(Ipv4Addr::UNSPECIFIED)),
        place.address6.map(|_| IpAddr::from(Ipv6Addr::UNSPECIFIED)),
    ];
    let addresses = match port.address {
        Some(address) => [Some(address), None],
        None => everywhere,
    };
    let host = port.host;
    addresses
        .into_iter()
        .flatten()
        .map(move |address| SocketAddr::new(address, host))
}
