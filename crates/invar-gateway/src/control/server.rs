//! The gateway's side of the control socket.

use std::cell::Cell;
use std::io;
use std::os::unix::net::UnixListener as StdListener;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use rustix::fs::Mode;
use rustix::process::{geteuid, umask};
use serde::Serialize;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::spawn_local;

use super::protocol::{Answer, MOST_LINE, Request};
use crate::error::{GatewayError, Result};
use crate::gateway::Gateway;
use crate::gateway::changes::{HowToSwitch, explain};
use crate::gateway::handover::Handover;
use crate::limits::ms;
use crate::upgrade;

/// Connections at once.
const MOST_CONNECTIONS: usize = 64;

/// Makes the socket, mode 0600. What a killed gateway left behind is removed.
pub(crate) fn bind(path: &Path) -> Result<StdListener> {
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        let taken = io::ErrorKind::AddrInUse.into();
        return Err(GatewayError::path("listen on", path)(taken));
    }
    match fs_err::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(GatewayError::path("remove", path)(error));
        }
        _ => {}
    }
    let before = umask(Mode::RWXG | Mode::RWXO | Mode::XUSR);
    let bound = StdListener::bind(path);
    umask(before);
    bound
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
        .map_err(GatewayError::path("listen on", path))
}

/// Answers on the socket for as long as the gateway runs.
pub(crate) async fn run(gateway: Rc<Gateway>, listener: UnixListener) {
    let open = Rc::new(Cell::new(0_usize));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        if open.get() >= MOST_CONNECTIONS || !is_allowed(&stream) {
            continue;
        }
        open.set(open.get() + 1);
        let (gateway, open) = (Rc::clone(&gateway), Rc::clone(&open));
        spawn_local(async move {
            serve(&gateway, stream).await;
            open.set(open.get() - 1);
        });
    }
}

/// The gateway's own user and root. The mode of the socket says the same; a socket whose mode
/// someone changed does not get around this.
fn is_allowed(stream: &UnixStream) -> bool {
    stream
        .peer_cred()
        .is_ok_and(|peer| peer.uid() == 0 || peer.uid() == geteuid().as_raw())
}

async fn serve(gateway: &Rc<Gateway>, stream: UnixStream) {
    let mut stream = BufReader::new(stream);
    let mut handover = None;
    loop {
        let mut line = Vec::new();
        let most = u64::try_from(MOST_LINE).unwrap_or(u64::MAX);
        let read = (&mut stream).take(most).read_until(b'\n', &mut line).await;
        if read.is_err() || !line.ends_with(b"\n") {
            break;
        }
        let answer = match serde_json::from_slice(&line) {
            Err(error) => failure(&GatewayError::Protocol(error.to_string())),
            Ok(Request::Handover { drain_ms }) => match Handover::begin(gateway) {
                Err(error) => failure(&error),
                Ok(begun) => {
                    if upgrade::hand_over(&begun, stream.get_ref()).await.is_err() {
                        break;
                    }
                    handover = Some((begun, drain_ms));
                    continue;
                }
            },
            Ok(Request::Taken) => match handover.take() {
                None => failure(&GatewayError::Protocol(
                    "nothing was handed over".to_owned(),
                )),
                Some((begun, drain_ms)) => {
                    begun.finish(ms(drain_ms));
                    success(&"draining")
                }
            },
            Ok(request) => answer(gateway, request).await,
        };
        let Ok(mut answer) = answer else { break };
        answer.push(b'\n');
        if stream.get_mut().write_all(&answer).await.is_err() {
            break;
        }
    }
}

type Encoded = serde_json::Result<Vec<u8>>;

async fn answer(gateway: &Rc<Gateway>, request: Request) -> Encoded {
    match request {
        Request::Apply { config } => reply(gateway.apply(*config)),
        Request::Revision {
            service,
            revision,
            endpoints,
        } => reply(gateway.add_revision(&service, &revision, endpoints)),
        Request::Forget { service, revision } => {
            reply(gateway.forget_revision(&service, &revision))
        }
        Request::Switch {
            service,
            to,
            drain_ms,
            exclusive_ms,
            force,
        } => {
            let how = HowToSwitch {
                drain: ms(drain_ms),
                exclusive: exclusive_ms.map(ms),
                force,
            };
            reply(gateway.switch(&service, &to, how).await)
        }
        Request::Canary {
            service,
            canary,
            drain_ms,
        } => reply(gateway.set_canary(&service, canary, ms(drain_ms))),
        Request::Renew { service } => reply(gateway.renew(&service)),
        Request::Pause { service, limit_ms } => reply(gateway.pause(&service, ms(limit_ms))),
        Request::Resume { service } => reply(gateway.resume(&service)),
        Request::Drain {
            service,
            revision,
            wait_ms,
        } => {
            let status = gateway.drain_status(&service, &revision, ms(wait_ms));
            reply(status.await)
        }
        Request::Config => success(&gateway.shared.table.load().in_force()),
        Request::Status => success(&gateway.status()),
        Request::Metrics => {
            let table = gateway.shared.table.load();
            success(&gateway.shared.metrics.render(&table))
        }
        Request::Reload => success(&gateway.reload()),
        Request::Shutdown { drain_ms } => {
            gateway.end(ms(drain_ms));
            success(&"draining")
        }
        Request::Upgrade => reply(gateway.start_successor()),
        Request::Handover { .. } | Request::Taken => {
            failure(&GatewayError::Protocol("out of order".to_owned()))
        }
    }
}

fn reply<T: Serialize>(result: Result<T>) -> Encoded {
    match result {
        Ok(result) => success(&result),
        Err(error) => failure(&error),
    }
}

fn success<T: Serialize>(result: &T) -> Encoded {
    serde_json::to_vec(&Answer {
        ok: true,
        result: Some(result),
        error: None,
    })
}

fn failure(error: &GatewayError) -> Encoded {
    serde_json::to_vec(&Answer::<()> {
        ok: false,
        result: None,
        error: Some(explain(error)),
    })
}
