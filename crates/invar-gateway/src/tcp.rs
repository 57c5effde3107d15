//! Plain TCP: a connection is a request that lasts.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use bytes::BytesMut;
use http::HeaderMap;
use tokio::net::TcpStream;

use crate::access_log::Entry;
use crate::connection::Connection;
use crate::http::flight::Flight;
use crate::lease;
use crate::limits::ms;
use crate::stream::Stream;
use crate::traffic::endpoint;
use crate::traffic::service::Service;
use crate::tunnel::{Side, Tunnel};
use crate::upstream;
use crate::worker::Worker;

/// The status in metrics and logs of a connection that was made, and of one that could not be.
const CONNECTED: u16 = 200;
const NOT_CONNECTED: u16 = 503;

/// Joins a client with a container of the listener's service.
pub(crate) async fn serve(worker: &Rc<Worker>, connection: &Connection, stream: Stream) {
    let Some(service) = find_service(worker, connection) else {
        worker.shared.metrics.refused.fetch_add(1, Relaxed);
        return;
    };
    let started = Instant::now();
    let claimed = service
        .claim(&HeaderMap::new(), connection.limits.queued)
        .await;
    let Ok(claimed) = claimed else {
        worker.shared.metrics.refused.fetch_add(1, Relaxed);
        return;
    };
    let mut flight = Flight::new(worker, claimed.claim, claimed.traffic, started);
    if worker.logs() {
        let mut entry = Box::new(Entry::of_tcp(connection));
        entry.service = Some(service.name.to_string());
        flight.entry = Some(entry);
    }
    let Some(upstream) = dial(&mut flight).await else {
        flight.answered(NOT_CONNECTED);
        flight.completed();
        return;
    };
    flight.answered(CONNECTED);
    flight.becomes_tunnel();
    let client = Side::new(stream, BytesMut::new());
    let upstream = Side::new(Stream::Tcp(upstream), BytesMut::new());
    let mut tunnel = Tunnel::new(client, upstream, None);
    let idle = ms(flight.traffic.config.policy.tunnel_idle_ms);
    tokio::select! {
        _end = tunnel.run(idle) => {}
        () = lease::over(worker, flight.revision()) => {}
    }
    flight.sent = tunnel.to_client.moved;
    flight.completed();
}

fn find_service(worker: &Worker, connection: &Connection) -> Option<Arc<Service>> {
    let name = connection.listener.service.as_ref()?;
    let table = worker.shared.table.load();
    table.services.get(name).map(Arc::clone)
}

/// Connects to an endpoint, to another one where that fails.
async fn dial(flight: &mut Flight) -> Option<TcpStream> {
    let traffic = Arc::clone(&flight.traffic);
    let policy = &traffic.config.policy;
    let revision = Arc::clone(flight.revision());
    let mut tried = Vec::new();
    for _ in 0..=policy.retries {
        let endpoint = endpoint::choose(&revision.endpoints, &tried)?;
        flight.goes_to(Arc::clone(&endpoint));
        if let Ok(stream) = upstream::connect(&endpoint, ms(policy.connect_ms)).await {
            endpoint.succeeded();
            return Some(stream);
        }
        endpoint.failed(policy);
        revision.metrics.upstream_errors.fetch_add(1, Relaxed);
        flight.retries += 1;
        if revision.endpoints.len() > 1 {
            tried.push(endpoint.id);
        }
    }
    None
}
