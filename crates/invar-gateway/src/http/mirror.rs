//! Copies of requests for a revision on trial, whose answers nobody sees.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, request::Parts};

use super::body::Body;
use crate::traffic::endpoint;
use crate::traffic::revision::{Claim, Revision};
use crate::traffic::service::Traffic;
use crate::upstream;
use crate::worker::Worker;

/// A request being copied while its body goes by.
#[derive(Debug)]
pub(crate) struct Copying {
    worker: Rc<Worker>,
    traffic: Arc<Traffic>,
    revision: Arc<Revision>,
    parts: Parts,
    body: BytesMut,
    most: usize,
    overflowed: bool,
}

impl Copying {
    /// Begins a copy when this request is among those to copy.
    pub(crate) fn begin(
        worker: &Rc<Worker>,
        traffic: &Arc<Traffic>,
        parts: &Parts,
        most: usize,
    ) -> Option<Self> {
        let revision = traffic.mirror_of(&parts.method)?;
        let mut parts = parts.clone();
        let marker = HeaderValue::from_static("1");
        parts.headers.insert("x-invar-mirror", marker);
        Some(Self {
            worker: Rc::clone(worker),
            traffic: Arc::clone(traffic),
            revision: Arc::clone(revision),
            parts,
            body: BytesMut::new(),
            most,
            overflowed: false,
        })
    }

    pub(crate) fn add(&mut self, data: &Bytes) {
        if self.overflowed || self.body.len() + data.len() > self.most {
            self.overflowed = true;
            self.body = BytesMut::new();
        } else {
            self.body.extend_from_slice(data);
        }
    }

    /// The request is whole: sends the copy, unless a limit stands against it.
    pub(crate) fn send(self) {
        let metrics = &self.revision.metrics;
        let endpoint = endpoint::choose(&self.revision.endpoints, &[]);
        let slot = self.worker.mirror_slot();
        let (Some(endpoint), Some(slot), false) = (endpoint, slot, self.overflowed) else {
            metrics.mirror_skipped.fetch_add(1, Relaxed);
            return;
        };
        metrics.mirrored.fetch_add(1, Relaxed);
        let claim = Claim::tentative(Arc::clone(&self.revision));
        tokio::task::spawn_local(async move {
            let body = Body::whole(self.body.freeze());
            let policy = &self.traffic.config.policy;
            let protocol = self.traffic.config.protocol;
            let sent =
                upstream::send(&self.worker, &endpoint, protocol, policy, &self.parts, body).await;
            let failed = match sent {
                Ok(upstream::Sent::Response(response)) => {
                    let status = response.status().as_u16();
                    let mut body = response.into_body();
                    while let Some(Ok(_)) = next(&mut body).await {}
                    status >= 500
                }
                Ok(upstream::Sent::Switched(..)) => false,
                Err(_) => true,
            };
            let failures = &self.revision.metrics.mirror_failed;
            failures.fetch_add(u64::from(failed), Relaxed);
            drop((slot, claim));
        });
    }
}

async fn next(body: &mut Body) -> Option<Result<http_body::Frame<Bytes>, super::body::BodyError>> {
    std::future::poll_fn(|cx| http_body::Body::poll_frame(std::pin::Pin::new(&mut *body), cx)).await
}
