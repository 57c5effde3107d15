//! Ports that clients reach: `"8080:80"`, `"127.0.0.1:8080:80"`, ranges, and the long form.

use std::net::IpAddr;

use super::error::{Result, Warning};
use super::fields::Fields;
use super::model::{Port, PortProtocol};
use super::scalars::{integer, text, wrong};
use super::yaml::{Node, Value};

/// Ports of one range.
const MOST_RANGE: u16 = 256;

/// Reads `ports` of a service.
pub(super) fn read(node: &Node, path: &str, warnings: &mut Vec<Warning>) -> Result<Vec<Port>> {
    let Value::List(items) = &node.value else {
        return Err(wrong(node, path, "a list"));
    };
    let mut ports = Vec::new();
    for item in items {
        if let Value::Map(_) = item.value {
            ports.extend(long(item, path, warnings)?);
        } else if let Some(found) = short(text(item, path)?) {
            if found.is_empty() {
                not_published(item, path, warnings);
            }
            ports.extend(found);
        } else {
            return Err(wrong(item, path, "a port such as 8080:80 (TCP)"));
        }
    }
    Ok(ports)
}

fn not_published(node: &Node, path: &str, warnings: &mut Vec<Warning>) {
    warnings.push(Warning {
        at: node.at.clone(),
        path: path.to_owned(),
        message: "not honoured: a port needs a published port (PUBLISHED:TARGET)".to_owned(),
    });
}

/// `None`: not a port. Empty: a port of the container alone.
fn short(text: &str) -> Option<Vec<Port>> {
    let text = text.strip_suffix("/tcp").unwrap_or(text);
    let Some((rest, target)) = text.rsplit_once(':') else {
        range(text)?;
        return Some(Vec::new());
    };
    let (host_ip, published) = match rest.rsplit_once(':') {
        None => (None, rest),
        Some((ip, published)) => {
            let ip = ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']'));
            let ip = ip.unwrap_or_else(|| rest.rsplit_once(':').map_or("", |(ip, _)| ip));
            (Some(ip.parse::<IpAddr>().ok()?), published)
        }
    };
    let (published, targets) = (range(published)?, range(target)?);
    if published.len() != targets.len() {
        return None;
    }
    let pairs = published.into_iter().zip(targets);
    let port = |(published, target)| Port {
        host_ip,
        published,
        target,
        protocol: PortProtocol::Http,
    };
    Some(pairs.map(port).collect())
}

fn range(text: &str) -> Option<Vec<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse::<u16>().ok()?, last.parse::<u16>().ok()?);
    (first > 0 && first <= last && last - first < MOST_RANGE).then(|| (first..=last).collect())
}

fn long(node: &Node, path: &str, warnings: &mut Vec<Warning>) -> Result<Option<Port>> {
    let mut fields = Fields::of(node, path)?;
    let target = fields
        .read("target", integer::<u16>)?
        .ok_or_else(|| node.at.error(format!("{path}: target is missing")))?;
    let published = fields.read("published", integer::<u16>)?;
    let host_ip = fields.read("host_ip", |node, path| {
        let ip = text(node, path)?;
        ip.parse::<IpAddr>()
            .ok()
            .ok_or_else(|| wrong(node, path, "an IP address"))
    })?;
    if let Some(node) = fields.take("protocol")
        && text(node, path)? != "tcp"
    {
        return Err(wrong(node, &fields.path_of("protocol"), "tcp"));
    }
    let protocol = fields.read("app_protocol", |node, path| {
        Ok(match text(node, path)? {
            "http" | "http1" | "ws" => PortProtocol::Http,
            "http2" | "h2c" | "grpc" => PortProtocol::Http2,
            "tcp" => PortProtocol::Tcp,
            _ => return Err(wrong(node, path, "http, http2, grpc or tcp")),
        })
    })?;
    // How Swarm publishes, and what people read.
    fields.take("mode");
    fields.take("name");
    fields.finish(&[], warnings);
    if published.is_none() {
        not_published(node, path, warnings);
    }
    Ok(published.map(|published| Port {
        host_ip,
        published,
        target,
        protocol: protocol.unwrap_or(PortProtocol::Http),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_ports_are_read_as_docker_reads_them() {
        for (text, expected) in [
            ("8080:80", Some("*:8080>80")),
            ("127.0.0.1:8080:80", Some("127.0.0.1:8080>80")),
            ("[::1]:8080:80/tcp", Some("::1:8080>80")),
            ("80-81:90-91", Some("*:80>90 *:81>91")),
            ("80", Some("")),
            ("80-81:90", None),
            ("0:80", None),
            ("70000:80", None),
            ("80:80/udp", None),
            ("a:80", None),
            ("x:80:80", None),
            ("1-9999:1-9999", None),
        ] {
            let found = short(text).map(|ports| {
                let shown = ports.iter().map(|port| {
                    let ip = port.host_ip.map_or("*".to_owned(), |ip| ip.to_string());
                    format!("{ip}:{}>{}", port.published, port.target)
                });
                shown.collect::<Vec<_>>().join(" ")
            });
            assert_eq!(found.as_deref(), expected, "{text}");
        }
    }
}
