//! An HTTP/2 client that sends what no library would.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use super::Gateway;

/// HTTP/2 by hand, so that nothing stops what no library would send.
pub(crate) struct Raw(pub(crate) TcpStream);

impl Raw {
    pub(crate) fn connect(gateway: &Gateway) -> Self {
        let mut stream = TcpStream::connect(gateway.address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        stream
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            .unwrap();
        let mut raw = Self(stream);
        raw.frame(4, 0, 0, &[]);
        raw
    }

    pub(crate) fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags];
        frame.extend(stream.to_be_bytes());
        frame.extend_from_slice(payload);
        // A gateway that has had enough may have closed already.
        drop(self.0.write_all(&frame));
    }

    /// Literal fields, never indexed, never compressed (RFC 7541, 6.2.2).
    pub(crate) fn headers(&mut self, stream: u32, ends: bool, fields: &[(&str, &str)]) {
        let mut block = Vec::new();
        for (name, value) in fields {
            block.push(0);
            for text in [name, value] {
                block.push(u8::try_from(text.len()).unwrap());
                block.extend_from_slice(text.as_bytes());
            }
        }
        self.frame(1, if ends { 5 } else { 4 }, stream, &block);
    }

    /// Whether the gateway answers a stream with its first answer being an error of any kind.
    pub(crate) fn is_refused(&mut self) -> bool {
        loop {
            let mut head = [0; 9];
            if self.0.read_exact(&mut head).is_err() {
                return true;
            }
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; usize::try_from(length).unwrap()];
            if self.0.read_exact(&mut payload).is_err() {
                return true;
            }
            match head[3] {
                // Index 8 of the static table is ":status: 200".
                1 => return payload.first() != Some(&0x88),
                3 | 7 => return true,
                _ => {}
            }
        }
    }
}

/// The fields of a good request.
pub(crate) const BASE: [(&str, &str); 4] = [
    (":method", "POST"),
    (":scheme", "http"),
    (":authority", "a"),
    (":path", "/echo"),
];
