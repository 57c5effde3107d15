//! Messages on a connection: each with its length in front (RFC 1035, section 4.2.2).
//!
//! Written for a socket that is read and written when it is ready, which needs no more of the
//! runtime than the rest does.

use tokio::io;
use tokio::net::TcpStream;

/// Reads one message of at most so many bytes.
pub(super) async fn read(connection: &mut TcpStream, most: usize) -> io::Result<Vec<u8>> {
    let mut length = [0; 2];
    read_exact(connection, &mut length).await?;
    let length = usize::from(u16::from_be_bytes(length));
    if length > most {
        return Err(io::Error::other("the message is too long"));
    }
    let mut message = vec![0; length];
    read_exact(connection, &mut message).await?;
    Ok(message)
}

async fn read_exact(connection: &mut TcpStream, mut into: &mut [u8]) -> io::Result<()> {
    while !into.is_empty() {
        connection.readable().await?;
        match connection.try_read(into) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(length) => into = &mut into[length..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes one message.
pub(super) async fn write(connection: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend(message);
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        connection.writable().await?;
        match connection.try_write(rest) {
            Ok(length) => rest = &rest[length..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
