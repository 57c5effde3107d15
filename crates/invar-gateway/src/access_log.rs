//! One line of JSON for each request, written by a thread of its own.

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use bytes::{BufMut as _, BytesMut};
use http::Request;
use serde::Serialize;

use crate::connection::Connection;
use crate::error::{GatewayError, Result};
use crate::http::body::Body;

/// Lines of a worker are handed over in blocks of about this size.
pub(crate) const BLOCK: usize = 32 * 1024;
/// Blocks that may wait for a slow disk before lines are dropped and counted.
const BLOCKS: usize = 256;
/// Bytes of a path or host that are written.
const TEXT: usize = 512;

/// What is written about a request.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Entry {
    pub(crate) time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) client: Option<SocketAddr>,
    pub(crate) listener: Option<SocketAddr>,
    pub(crate) protocol: &'static str,
    pub(crate) method: String,
    pub(crate) host: String,
    pub(crate) path: String,
    pub(crate) service: Option<String>,
    pub(crate) revision: Option<String>,
    pub(crate) endpoint: Option<SocketAddr>,
    pub(crate) status: u16,
    /// Until the answer's head, in microseconds.
    pub(crate) head_us: u128,
    pub(crate) total_us: u128,
    pub(crate) sent: u64,
    pub(crate) retries: u32,
    /// Whether the whole answer was sent.
    pub(crate) complete: bool,
}

impl Entry {
    pub(crate) fn of(request: &Request<Body>, host: &str, connection: &Connection) -> Self {
        let protocol = if request.version() == http::Version::HTTP_2 {
            "h2"
        } else {
            "http/1.1"
        };
        Self {
            method: cut(request.method().as_str()),
            host: cut(host),
            path: cut(request.uri().path()),
            protocol,
            ..Self::of_tcp(connection)
        }
    }

    pub(crate) fn of_tcp(connection: &Connection) -> Self {
        Self {
            time: jiff::Timestamp::now().to_string(),
            client: Some(connection.peer),
            listener: Some(connection.listener.address),
            protocol: "tcp",
            ..Self::default()
        }
    }

    /// Appends the line. Serde escapes what could forge one.
    pub(crate) fn write(&self, into: &mut BytesMut) {
        if serde_json::to_writer(into.writer(), self).is_ok() {
            into.put_u8(b'\n');
        }
    }
}

fn cut(text: &str) -> String {
    text.chars().take(TEXT).collect()
}

/// Takes blocks of lines without waiting.
#[derive(Debug)]
pub(crate) struct Log {
    blocks: SyncSender<BytesMut>,
    waiting: Arc<AtomicUsize>,
}

impl Log {
    /// Starts the thread that appends to `file`.
    pub(crate) fn start(file: fs_err::File) -> Result<Self> {
        let (sender, receiver) = sync_channel(BLOCKS);
        let waiting = Arc::new(AtomicUsize::new(0));
        std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn({
                let waiting = Arc::clone(&waiting);
                move || write_all(file, &receiver, &waiting)
            })
            .map_err(GatewayError::io("start the access log's thread"))?;
        Ok(Self {
            blocks: sender,
            waiting,
        })
    }

    /// Hands a block over; false when it was dropped.
    pub(crate) fn put(&self, block: BytesMut) -> bool {
        self.waiting.fetch_add(1, Relaxed);
        let taken = self.blocks.try_send(block).is_ok();
        if !taken {
            self.waiting.fetch_sub(1, Relaxed);
        }
        taken
    }

    /// Waits until what was handed over is written.
    pub(crate) async fn written(&self, limit: Duration) {
        let done = async {
            while self.waiting.load(Relaxed) > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        drop(tokio::time::timeout(limit, done).await);
    }
}

fn write_all(mut file: fs_err::File, blocks: &Receiver<BytesMut>, waiting: &AtomicUsize) {
    for block in blocks {
        // A full disk must not stop traffic; the next block may fit again.
        drop(file.write_all(&block));
        waiting.fetch_sub(1, Relaxed);
    }
}
