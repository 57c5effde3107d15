//! `invar network inspect`

use std::process::ExitCode;

use invar_engine::EngineError;
use invar_engine::embedded::{EmbeddedEngine, NetworkInfo};
use serde_json::{Map, Value, json};

use crate::cli::Cli;
use crate::exit::{self, FAILED};
use crate::printer;

/// Show everything about networks, as a JSON array in Docker's form
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Names or ids
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<String>,
}

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    let all = EmbeddedEngine::open(cli.root())?.networks()?;
    let mut found = Vec::new();
    let mut code = ExitCode::SUCCESS;
    for name in &args.networks {
        let by_name = all.iter().find(|network| network.name == *name);
        let by_id = || {
            let fits = |network: &&NetworkInfo| !name.is_empty() && network.id.starts_with(name);
            let mut fits = all.iter().filter(fits);
            fits.next().filter(|_| fits.next().is_none())
        };
        if let Some(network) = by_name.or_else(by_id) {
            found.push(describe(network));
        } else {
            exit::report(&EngineError::NetworkNotFound { name: name.clone() }.into());
            code = ExitCode::from(FAILED);
        }
    }
    printer::json(&found)?;
    Ok(code)
}

fn describe(network: &NetworkInfo) -> Value {
    let mut ranges = vec![json!({ "Subnet": network.subnet, "Gateway": network.gateway })];
    if let Some(subnet) = &network.subnet6 {
        ranges.push(json!({ "Subnet": subnet, "Gateway": network.gateway6 }));
    }
    let containers: Map<String, Value> = network
        .containers
        .iter()
        .map(|(id, name, place)| {
            let address = place
                .address
                .map(|(address, prefix)| format!("{address}/{prefix}"));
            let address6 = place
                .address6
                .map(|(address, prefix)| format!("{address}/{prefix}"));
            let value = json!({
                "Name": name,
                "MacAddress": place.mac,
                "IPv4Address": address.unwrap_or_default(),
                "IPv6Address": address6.unwrap_or_default(),
            });
            (id.as_str().to_owned(), value)
        })
        .collect();
    json!({
        "Name": network.name,
        "Id": network.id,
        "Created": network.created_at,
        "Scope": "local",
        "Driver": "bridge",
        "EnableIPv4": true,
        "EnableIPv6": network.subnet6.is_some(),
        "IPAM": { "Driver": "default", "Config": ranges },
        "Internal": network.internal,
        "Containers": containers,
        "Options": { "com.docker.network.bridge.name": network.bridge },
        "Labels": network.labels,
    })
}
