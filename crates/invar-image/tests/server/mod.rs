//! A small HTTP server that answers what a test tells it to, also what no honest server would.

#![allow(dead_code, reason = "no test file needs all of it")]

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use invar_image::Digest;

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// What to answer.
#[derive(Debug, Clone)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// What `Content-Length` says when that is not the truth.
    pub(crate) length: Option<usize>,
    /// After the body comes more, without end.
    pub(crate) is_endless: bool,
}

impl Response {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.into(),
            length: None,
            is_endless: false,
        }
    }

    pub(crate) fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    fn send(&self, stream: &mut impl Write) -> std::io::Result<()> {
        let mut head = format!("HTTP/1.1 {} Said\r\n", self.status);
        for (name, value) in &self.headers {
            head = format!("{head}{name}: {value}\r\n");
        }
        if !self.is_endless {
            let length = self.length.unwrap_or(self.body.len());
            head = format!("{head}Content-Length: {length}\r\n");
        }
        head.push_str("Connection: close\r\n\r\n");
        stream.write_all(head.as_bytes())?;
        stream.write_all(&self.body)?;
        if self.is_endless {
            std::io::copy(&mut std::io::repeat(0), stream)?;
        }
        stream.flush()
    }
}

/// A server on a free port of this machine, for as long as the test runs.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) port: u16,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub(crate) fn start(answer: impl Fn(&Request) -> Response + Send + Sync + 'static) -> Self {
        Self::start_with(None, answer)
    }

    /// The same with TLS.
    pub(crate) fn start_with(
        tls: Option<Arc<rustls::ServerConfig>>,
        answer: impl Fn(&Request) -> Response + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests: Arc<Mutex<Vec<Request>>> = Arc::default();
        let (answer, log) = (Arc::new(answer), Arc::clone(&requests));
        // Ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (answer, log, tls) = (Arc::clone(&answer), Arc::clone(&log), tls.clone());
                std::thread::spawn(move || serve(stream.unwrap(), tls, &log, &*answer));
            }
        });
        Self { port, requests }
    }

    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Every request so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

fn serve(
    stream: TcpStream,
    tls: Option<Arc<rustls::ServerConfig>>,
    log: &Mutex<Vec<Request>>,
    answer: &dyn Fn(&Request) -> Response,
) {
    // The client may have gone for good reasons; what it says is what is tested.
    match tls {
        None => drop(exchange(stream, log, answer)),
        Some(config) => {
            let connection = rustls::ServerConnection::new(config).unwrap();
            drop(exchange(
                rustls::StreamOwned::new(connection, stream),
                log,
                answer,
            ));
        }
    }
}

fn exchange(
    stream: impl Read + Write,
    log: &Mutex<Vec<Request>>,
    answer: &dyn Fn(&Request) -> Response,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let mut words = line.split(' ');
    let method = words.next().unwrap_or_default().to_owned();
    let path = words.next().unwrap_or_default().to_owned();
    if path.is_empty() {
        // A client that tries TLS first.
        return stream
            .get_mut()
            .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    }
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        headers.push((name.to_ascii_lowercase(), value.to_owned()));
    }
    let mut request = Request {
        method,
        path,
        headers,
        body: Vec::new(),
    };
    let length = request
        .header("content-length")
        .map_or(0, |text| text.parse().unwrap());
    request.body = vec![0; length];
    stream.read_exact(&mut request.body)?;
    log.lock().unwrap().push(request.clone());
    answer(&request).send(stream.get_mut())
}

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// An honest image of one layer.
#[derive(Debug, Clone)]
pub(crate) struct Honest {
    pub(crate) layer: Vec<u8>,
    pub(crate) config: Vec<u8>,
    pub(crate) manifest: Value,
}

impl Honest {
    /// With this one file.
    pub(crate) fn with_file(name: &str, content: &[u8]) -> Self {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, content).unwrap();
        Self::of_tar(&tar.into_inner().unwrap())
    }

    pub(crate) fn of_tar(tar: &[u8]) -> Self {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(tar).unwrap();
        let layer = gzip.finish().unwrap();
        let config = json!({"os": "linux", "architecture": architecture(), "config": {},
            "rootfs": {"type": "layers", "diff_ids": [Digest::of(tar).as_str()]}});
        let config = config.to_string().into_bytes();
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST,
            "config": descriptor(CONFIG, &config), "layers": [descriptor(LAYER, &layer)]});
        Self {
            layer,
            config,
            manifest,
        }
    }

    /// What an honest registry answers.
    pub(crate) fn answer(&self, request: &Request) -> Response {
        let manifest = self.manifest.to_string().into_bytes();
        let digest = Digest::of(&manifest);
        let path = request.path.as_str();
        if path == "/v2/web/manifests/1" || path.ends_with(&format!("manifests/{digest}")) {
            return Response::new(200, manifest).header("Content-Type", MANIFEST);
        }
        for blob in [&self.config, &self.layer] {
            if path.ends_with(&format!("blobs/{}", Digest::of(blob))) {
                return ranged(request, blob);
            }
        }
        Response::new(404, r#"{"errors":[{"code":"NAME_UNKNOWN"}]}"#)
    }

    pub(crate) fn is_layer(&self, request: &Request) -> bool {
        request.path.ends_with(Digest::of(&self.layer).as_str())
    }
}

/// A blob, or the rest of it from where the request says.
pub(crate) fn ranged(request: &Request, blob: &[u8]) -> Response {
    let range = request.header("range").and_then(|range| {
        let start = range.strip_prefix("bytes=")?.strip_suffix('-')?;
        start.parse::<usize>().ok()
    });
    match range {
        None => Response::new(200, blob),
        Some(start) => {
            let range = format!("bytes {start}-{}/{}", blob.len() - 1, blob.len());
            Response::new(206, &blob[start..]).header("Content-Range", range)
        }
    }
}

pub(crate) fn descriptor(media_type: &str, content: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": Digest::of(content).as_str(), "size": content.len()})
}

pub(crate) fn architecture() -> String {
    invar_image::Platform::host().architecture
}
