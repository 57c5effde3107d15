//! Open connections and listening sockets, from the tables of `/proc/net` (`proc_pid_net(5)`).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use serde::Deserialize;

use super::html::Page;
use crate::capture::processes::Process;
use crate::error::Result;
use crate::files;
use crate::lines::Lines;

/// Longest table read, and most sockets shown.
const LONGEST: u64 = 8 << 20;
const MOST: usize = 500;
/// Open files looked through of one process.
const MOST_FILES: usize = 4096;
const TABLES: &[&str] = &["tcp", "tcp6", "udp", "udp6"];

struct Socket {
    protocol: &'static str,
    local: SocketAddr,
    remote: SocketAddr,
    state: u8,
    inode: u64,
}

impl Socket {
    fn state(&self) -> &'static str {
        match (self.protocol, self.state) {
            ("udp" | "udp6", _) => "",
            (_, 1) => "connected",
            (_, 2 | 3) => "connecting",
            (_, 10) => "listening",
            _ => "closing",
        }
    }
}

/// The section; nothing when no socket is open.
pub(super) fn write(page: &mut Page, dir: &Path, processes: &[Process]) -> Result<()> {
    let mut networks: Vec<u64> = processes
        .iter()
        .filter_map(|process| process.namespaces.get("net").copied())
        .collect();
    networks.sort_unstable();
    networks.dedup();
    let mut sockets = Vec::new();
    for network in networks {
        for table in TABLES {
            let path = dir.join(format!("net/{network}/{table}"));
            let Ok((bytes, _)) = files::read_start(&path, LONGEST) else {
                continue;
            };
            let text = String::from_utf8_lossy(&bytes).into_owned();
            sockets.extend(text.lines().skip(1).filter_map(|line| parse(table, line)));
        }
    }
    if sockets.is_empty() {
        return Ok(());
    }
    page.element("h2", &format!("Network sockets: {}", sockets.len()));
    let owners = owners(dir, processes)?;
    page.markup(
        "<table class=\"times\"><tr><th>protocol<th>state<th>local<th>remote<th>process</tr>",
    );
    sockets.sort_by_key(|socket| (socket.state != 1, socket.state != 10, socket.local));
    for socket in sockets.iter().take(MOST) {
        let remote = match socket.remote.port() {
            0 => String::new(),
            _ => socket.remote.to_string(),
        };
        let owner = owners.get(&socket.inode).map_or("", String::as_str);
        let local = socket.local.to_string();
        let cells = [socket.protocol, socket.state(), &local, &remote, owner];
        page.row("usual", &cells);
    }
    page.markup("</table>");
    if sockets.len() > MOST {
        let text = format!("{} more are in net/.", sockets.len() - MOST);
        page.element("p", &text);
    }
    Ok(())
}

/// Which process has a socket open, by the socket's number.
fn owners(dir: &Path, processes: &[Process]) -> Result<BTreeMap<u64, String>> {
    #[derive(Deserialize)]
    struct Line {
        target: String,
    }
    let mut owners = BTreeMap::new();
    for process in processes {
        let path = dir.join(format!("proc/{}/open-files.jsonl", process.pid));
        for line in Lines::<Line>::open(&path)?.take(MOST_FILES) {
            let target = line?.target;
            let number = target
                .strip_prefix("socket:[")
                .and_then(|rest| rest.strip_suffix(']')?.parse().ok());
            if let Some(number) = number {
                let owner = format!("{} {}", process.pid, process.name);
                owners.entry(number).or_insert(owner);
            }
        }
    }
    Ok(owners)
}

/// `  0: 0100007F:0050 00000000:0000 0A … uid timeout inode`
fn parse(protocol: &'static str, line: &str) -> Option<Socket> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    Some(Socket {
        protocol,
        local: address(fields.get(1)?)?,
        remote: address(fields.get(2)?)?,
        state: u8::from_str_radix(fields.get(3)?, 16).ok()?,
        inode: fields.get(9)?.parse().ok()?,
    })
}

/// Addresses are words of 32 bits in the host's order.
fn address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| {
        let word = u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    let ip: IpAddr = match address.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        32 => {
            let mut bytes = [0; 16];
            for (index, place) in bytes.chunks_exact_mut(4).enumerate() {
                place.copy_from_slice(&word(index * 8)?);
            }
            Ipv6Addr::from(bytes).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_read_and_other_lines_left_out() {
        let line = " 0: 0100007F:0050 0A00020F:D431 01 00000000:00000000 00:00000000 00000000 \
                    0 0 4711 1 0000 20 4 30 10 -1";
        let socket = parse("tcp", line).unwrap();
        if cfg!(target_endian = "little") {
            assert_eq!(socket.local.to_string(), "127.0.0.1:80");
            assert_eq!(socket.remote.to_string(), "15.2.0.10:54321");
        }
        assert_eq!((socket.state(), socket.inode), ("connected", 4711));
        let mapped = address("0000000000000000FFFF00000100007F:1F90").unwrap();
        if cfg!(target_endian = "little") {
            assert_eq!(mapped.to_string(), "127.0.0.1:8080");
        }
        for text in ["", "x", "0: é: 1 2", "0: 0100007:0050 0:0 01 0 0 0 0 0 1"] {
            assert!(parse("tcp", text).is_none(), "{text}");
        }
    }
}
