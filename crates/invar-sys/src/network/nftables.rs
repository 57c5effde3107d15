//! Asks the packet filter (`nfnetlink`) what it has; rules are written by the `nft` program.

use std::io;

use rustix::net::netlink::NETFILTER;

use super::message::{Message, Socket};

/// `NFPROTO_INET`: rules for both versions of IP.
const INET: u8 = 1;
/// `NFTA_CHAIN_TABLE` and `NFTA_CHAIN_NAME`.
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;

/// Whether a table of the family `inet` has a chain of this name.
pub fn has_chain(table: &str, chain: &str) -> io::Result<bool> {
    let kind = (libc::NFNL_SUBSYS_NFTABLES << 8) | libc::NFT_MSG_GETCHAIN;
    let kind = u16::try_from(kind).expect("kinds of messages have sixteen bits");
    // `struct nfgenmsg`: family, version, resource.
    let message = Message::new(kind, 0)
        .fixed(&[INET, 0, 0, 0])
        .text(CHAIN_TABLE, table)
        .text(CHAIN_NAME, chain);
    match Socket::open(Some(NETFILTER))?.ask(message) {
        Ok(answers) => Ok(!answers.is_empty()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
