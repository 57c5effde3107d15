//! Asks containers whether they are well, in the background and before a switch.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::config::HealthConfig;
use crate::limits::ms;
use crate::traffic::endpoint::Endpoint;
use crate::traffic::revision::Revision;
use crate::traffic::service::Traffic;
use crate::worker::Shared;

/// How often it is looked whose turn it is.
const TICK: Duration = Duration::from_millis(20);
/// Bytes of an answer in which its first line must be.
const ANSWER: usize = 1024;

/// Whether an endpoint answers as it should.
async fn is_well(address: SocketAddr, config: &HealthConfig) -> bool {
    let limit = ms(config.timeout_ms);
    matches!(
        tokio::time::timeout(limit, ask(address, config)).await,
        Ok(Ok(true))
    )
}

async fn ask(address: SocketAddr, config: &HealthConfig) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(address).await?;
    let Some(path) = &config.path else {
        return Ok(true);
    };
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: {address}\r\nuser-agent: invar-gateway\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = [0; ANSWER];
    let mut length = 0;
    while length < ANSWER {
        let read = stream.read(&mut answer[length..]).await?;
        length += read;
        // "HTTP/1.1 200": the status is all that counts.
        if length >= 12 {
            let status = std::str::from_utf8(&answer[9..12])
                .ok()
                .and_then(|text| text.parse::<u16>().ok());
            let is_http = answer.starts_with(b"HTTP/1.");
            return Ok(is_http && status.is_some_and(|status| (200..400).contains(&status)));
        }
        if read == 0 {
            break;
        }
    }
    Ok(false)
}

/// Asks every endpoint of a revision at once; whether at least one is well. Those that are not are
/// down from here on.
pub(crate) async fn probe(traffic: &Traffic, revision: &Revision) -> bool {
    let config = traffic.config.health.clone().unwrap_or_default();
    let checks: Vec<_> = revision
        .endpoints
        .iter()
        .map(|endpoint| {
            let (endpoint, config) = (Arc::clone(endpoint), config.clone());
            tokio::task::spawn_local(async move {
                let well = is_well(endpoint.address, &config).await;
                endpoint.checked(well, 1, 1);
                well
            })
        })
        .collect();
    let mut any = false;
    for check in checks {
        any |= check.await.unwrap_or(false);
    }
    any
}

#[derive(Debug, Default)]
struct Turns(RefCell<HashMap<u64, Turn>>);

#[derive(Debug)]
struct Turn {
    next: Instant,
    asking: bool,
}

/// Checks all endpoints of services with health checks for as long as the gateway runs.
pub(crate) async fn run(shared: Arc<Shared>) {
    let turns = Rc::new(Turns::default());
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let table = shared.table.load();
        let mut seen = 0;
        for service in table.services.values() {
            let traffic = service.traffic();
            let Some(config) = &traffic.config.health else {
                continue;
            };
            for endpoint in traffic
                .revisions
                .iter()
                .flat_map(|revision| &revision.endpoints)
            {
                seen += 1;
                turns.take(endpoint, config);
            }
        }
        turns.forget_if_more_than(seen);
    }
}

impl Turns {
    /// Begins a check when it is the endpoint's turn.
    fn take(self: &Rc<Self>, endpoint: &Arc<Endpoint>, config: &HealthConfig) {
        let now = Instant::now();
        let mut turns = self.0.borrow_mut();
        let turn = turns.entry(endpoint.id).or_insert(Turn {
            next: now,
            asking: false,
        });
        if turn.asking || now < turn.next {
            return;
        }
        turn.asking = true;
        turn.next = now + ms(config.interval_ms);
        let (turns, endpoint, config) = (Rc::clone(self), Arc::clone(endpoint), config.clone());
        tokio::task::spawn_local(async move {
            let well = is_well(endpoint.address, &config).await;
            endpoint.checked(well, config.unhealthy.max(1), config.healthy.max(1));
            if let Some(turn) = turns.0.borrow_mut().get_mut(&endpoint.id) {
                turn.asking = false;
            }
        });
    }

    /// Endpoints come and go; their turns are forgotten when they pile up.
    fn forget_if_more_than(&self, seen: usize) {
        let mut turns = self.0.borrow_mut();
        if turns.len() > 2 * seen + 64 {
            turns.retain(|_, turn| turn.asking);
        }
    }
}
