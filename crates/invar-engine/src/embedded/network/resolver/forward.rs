//! Passing a query on to the servers that the host asks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io;
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::message::Query;
use super::stream;

/// How long one server may take; resolvers of C libraries wait five seconds for all.
const PATIENCE: Duration = Duration::from_secs(2);
/// Bytes of an answer by datagram; more than any server sends.
const LONGEST_DATAGRAM: usize = 8 << 10;
/// Datagrams looked at before a server is given up: others may be forged.
const MOST_DATAGRAMS: usize = 16;
const PORT: u16 = 53;

/// How a query came, and goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Datagram,
    Stream,
}

/// The first answer that one of the servers gives.
pub(super) async fn ask(
    servers: &[IpAddr],
    query: &Query,
    bytes: &[u8],
    transport: Transport,
) -> Option<Vec<u8>> {
    for server in servers {
        let server = SocketAddr::new(*server, PORT);
        let asked = async {
            match transport {
                Transport::Datagram => by_datagram(server, query, bytes).await,
                Transport::Stream => by_stream(server, query, bytes).await,
            }
        };
        if let Ok(Ok(answer)) = timeout(PATIENCE, asked).await {
            return Some(answer);
        }
    }
    None
}

/// From a port and with an id that nobody can guess, so that an answer is the server's own.
async fn by_datagram(server: SocketAddr, query: &Query, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let from: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((from, 0)).await?;
    socket.connect(server).await?;
    let id = rand::random();
    socket.send(&with_id(bytes, id)).await?;
    let mut answer = vec![0; LONGEST_DATAGRAM];
    for _ in 0..MOST_DATAGRAMS {
        let length = socket.recv(&mut answer).await?;
        if query.is_answered_by(&answer[..length], id) {
            return Ok(with_id(&answer[..length], query.id));
        }
    }
    Err(io::Error::other("no datagram was the answer"))
}

async fn by_stream(server: SocketAddr, query: &Query, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut connection = TcpStream::connect(server).await?;
    let id = rand::random();
    stream::write(&mut connection, &with_id(bytes, id)).await?;
    let answer = stream::read(&mut connection, usize::from(u16::MAX)).await?;
    if query.is_answered_by(&answer, id) {
        return Ok(with_id(&answer, query.id));
    }
    Err(io::Error::other("the answer is of another question"))
}

fn with_id(message: &[u8], id: u16) -> Vec<u8> {
    let mut message = message.to_vec();
    if let Some(place) = message.first_chunk_mut() {
        *place = id.to_be_bytes();
    }
    message
}
