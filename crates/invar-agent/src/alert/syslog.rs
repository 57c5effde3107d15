//! The host's syslog, which systemd's journal reads too: datagrams to `/dev/log` (RFC 3164, as
//! syslog(3) writes them).

use std::io;
use std::os::unix::net::UnixDatagram;
use std::sync::{Mutex, PoisonError};

use invar_drift::Severity;

use super::Alert;

const SOCKET: &str = "/dev/log";
/// Facility of security messages (`LOG_AUTHPRIV`).
const FACILITY: u8 = 10;
/// Longest message; daemons cut longer ones anywhere.
const LONGEST: usize = 8192;

/// Connected when first used, and again when the daemon was restarted.
#[derive(Debug, Default)]
pub(super) struct Syslog(Mutex<Option<UnixDatagram>>);

impl Syslog {
    pub(super) fn send(&self, alert: &Alert, line: &str) -> io::Result<()> {
        let level = match alert.severity {
            Severity::Critical => 2,
            Severity::High => 3,
            Severity::Medium => 4,
            Severity::Low => 5,
            Severity::Info => 6,
        };
        let mut line = line;
        if line.len() > LONGEST {
            line = &line[..line.floor_char_boundary(LONGEST)];
        }
        let priority = FACILITY * 8 + level;
        let message = format!("<{priority}>invar-agent[{}]: {line}", std::process::id());
        let mut socket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = &*socket
            && open.send(message.as_bytes()).is_ok()
        {
            return Ok(());
        }
        let open = UnixDatagram::unbound()?;
        open.connect(SOCKET)?;
        open.set_nonblocking(true)?;
        open.send(message.as_bytes())?;
        *socket = Some(open);
        Ok(())
    }
}
