//! A container: a hyper server that says who it is and does what the path asks for.
//!
//! `/slow/MS` answers late, `/bytes/N` with N bytes, `/status/N` with a status, `/echo` with the
//! request's body, `/head` with the request's head, `/ws` is a WebSocket that sends frames back,
//! `/drip/N` a chunk each 10 ms, `/reflect` sends each part back as it comes, `/trailers` ends with trailers.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What one container has seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) requests: AtomicU64,
    pub(crate) connections: AtomicU64,
    pub(crate) mirrored: AtomicU64,
    pub(crate) websocket_closes: AtomicU64,
    /// Answers 503 to health checks and everything else.
    pub(crate) is_ill: AtomicBool,
}

/// A running container.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    pub(crate) seen: Arc<Seen>,
    runtime: Option<Runtime>,
}

impl Upstream {
    pub(crate) fn start(name: &'static str) -> Self {
        Self::at(name, SocketAddr::from(([127, 0, 0, 1], 0)), false)
    }

    pub(crate) fn http2(name: &'static str) -> Self {
        Self::at(name, SocketAddr::from(([127, 0, 0, 1], 0)), true)
    }

    pub(crate) fn at(name: &'static str, address: SocketAddr, http2: bool) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let seen = Arc::new(Seen::default());
        let listener = std::net::TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(accept(listener, name, Arc::clone(&seen), http2));
        Self {
            address,
            seen,
            runtime: Some(runtime),
        }
    }

    pub(crate) fn requests(&self) -> u64 {
        self.seen.requests.load(SeqCst)
    }

    /// Ends it as SIGKILL would: every connection breaks.
    pub(crate) fn kill(mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn accept(listener: std::net::TcpListener, name: &'static str, seen: Arc<Seen>, http2: bool) {
    let listener = TcpListener::from_std(listener).unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        seen.connections.fetch_add(1, SeqCst);
        let seen = Arc::clone(&seen);
        let service = service_fn(move |request| answer(name, Arc::clone(&seen), request));
        tokio::spawn(async move {
            // Clients and gateways leave as they like.
            if http2 {
                let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                drop(
                    builder
                        .serve_connection(TokioIo::new(stream), service)
                        .await,
                );
            } else {
                let builder = hyper::server::conn::http1::Builder::new();
                let served = builder.serve_connection(TokioIo::new(stream), service);
                drop(served.with_upgrades().await);
            }
        });
    }
}

async fn answer(
    name: &'static str,
    seen: Arc<Seen>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    if seen.is_ill.load(SeqCst) {
        return Ok(status(StatusCode::SERVICE_UNAVAILABLE, text("ill")));
    }
    if request.uri().path() == "/health" {
        return Ok(Response::new(text("well")));
    }
    if request.headers().contains_key("x-invar-mirror") {
        seen.mirrored.fetch_add(1, SeqCst);
    } else {
        seen.requests.fetch_add(1, SeqCst);
    }
    let path = request.uri().path().to_owned();
    let (kind, argument) = path[1..].split_once('/').unwrap_or((&path[1..], "0"));
    let number: u64 = argument.parse().unwrap_or(0);
    let mut response = match kind {
        "slow" => {
            tokio::time::sleep(Duration::from_millis(number)).await;
            Response::new(text(name))
        }
        "bytes" => Response::new(text(&"x".repeat(usize::try_from(number).unwrap()))),
        "status" => {
            let code = StatusCode::from_u16(u16::try_from(number).unwrap()).unwrap();
            status(code, text(name))
        }
        "echo" => match request.into_body().collect().await {
            Ok(body) => Response::new(Full::new(body.to_bytes()).boxed_unsync()),
            Err(_) => status(StatusCode::BAD_REQUEST, text("broken body")),
        },
        "head" => Response::new(text(&format!(
            "{} {}\n{:?}",
            request.method(),
            request.uri(),
            request.headers()
        ))),
        "reflect" => Response::new(reflect(request.into_body())),
        "drip" => Response::new(drip(number)),
        "trailers" => Response::new(with_trailers()),
        "ws" => websocket(&seen, request),
        _ => Response::new(text(name)),
    };
    response
        .headers_mut()
        .insert("x-revision", HeaderValue::from_static(name));
    Ok(response)
}

fn text(text: &str) -> Body {
    Full::new(Bytes::copy_from_slice(text.as_bytes())).boxed_unsync()
}

fn status(code: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response
}

fn drip(count: u64) -> Body {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        for _ in 0..count {
            tokio::time::sleep(Duration::from_millis(10)).await;
            if sender
                .send(Ok(Frame::data(Bytes::from_static(b"drop"))))
                .await
                .is_err()
            {
                return;
            }
        }
    });
    StreamBody::new(Receiver(receiver)).boxed_unsync()
}

/// Sends each part back as it comes.
fn reflect(mut body: Incoming) -> Body {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        while let Some(Ok(frame)) = body.frame().await {
            if sender.send(Ok(frame)).await.is_err() {
                return;
            }
        }
    });
    StreamBody::new(Receiver(receiver)).boxed_unsync()
}

fn with_trailers() -> Body {
    let (sender, receiver) = tokio::sync::mpsc::channel(2);
    let trailers = HeaderMap::from_iter([(
        "grpc-status".parse().unwrap(),
        HeaderValue::from_static("0"),
    )]);
    sender
        .try_send(Ok(Frame::data(Bytes::from_static(b"data"))))
        .unwrap();
    sender.try_send(Ok(Frame::trailers(trailers))).unwrap();
    StreamBody::new(Receiver(receiver)).boxed_unsync()
}

/// A body that is fed by a channel.
pub(crate) struct Receiver(
    pub(crate) tokio::sync::mpsc::Receiver<Result<Frame<Bytes>, Infallible>>,
);

impl futures_util::Stream for Receiver {
    type Item = Result<Frame<Bytes>, Infallible>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.0.poll_recv(cx)
    }
}

/// Accepts, then sends every frame back as it came, without its mask.
fn websocket(seen: &Arc<Seen>, request: Request<Incoming>) -> Response<Body> {
    if request
        .headers()
        .get("upgrade")
        .is_none_or(|value| value != "websocket")
    {
        return status(StatusCode::UPGRADE_REQUIRED, text("no websocket"));
    }
    let seen = Arc::clone(seen);
    tokio::spawn(async move {
        let Ok(upgraded) = hyper::upgrade::on(request).await else {
            return;
        };
        let mut stream = TokioIo::new(upgraded);
        while let Some((opcode, payload)) = read_frame(&mut stream).await {
            if opcode == 8 {
                seen.websocket_closes.fetch_add(1, SeqCst);
                break;
            }
            let mut frame = vec![0x80 | opcode, u8::try_from(payload.len()).unwrap()];
            frame.extend(payload);
            if stream.write_all(&frame).await.is_err() {
                break;
            }
        }
    });
    let mut response = status(StatusCode::SWITCHING_PROTOCOLS, text(""));
    let headers = response.headers_mut();
    headers.insert("connection", HeaderValue::from_static("upgrade"));
    headers.insert("upgrade", HeaderValue::from_static("websocket"));
    response
}

async fn read_frame(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 6];
    stream.read_exact(&mut head).await.ok()?;
    let mut payload = vec![0; usize::from(head[1] & 0x7f)];
    stream.read_exact(&mut payload).await.ok()?;
    for (index, byte) in payload.iter_mut().enumerate() {
        *byte ^= head[2 + index % 4];
    }
    Some((head[0] & 0x0f, payload))
}
