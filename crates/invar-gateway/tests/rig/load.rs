//! Load that counts every request that did not get its whole answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::JoinHandle;

use super::client::Http;

/// Clients that run until told to stop.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    pub(crate) done: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    pub(crate) fn new() -> Self {
        Self {
            stop: Arc::default(),
            done: Arc::default(),
            clients: Vec::new(),
        }
    }

    /// One more client, which calls `turn` again and again and notes what goes wrong.
    pub(crate) fn client(&mut self, mut turn: impl FnMut() -> Result<(), String> + Send + 'static) {
        let (stop, done) = (Arc::clone(&self.stop), Arc::clone(&self.done));
        self.clients.push(std::thread::spawn(move || {
            let mut failures = Vec::new();
            while !stop.load(SeqCst) && failures.len() < 100 {
                match turn() {
                    Ok(()) => {
                        done.fetch_add(1, SeqCst);
                    }
                    Err(failure) => failures.push(failure),
                }
            }
            failures
        }));
    }

    /// Clients that keep their connection until the server says that it closes it.
    pub(crate) fn keep_alive(&mut self, count: usize, address: SocketAddr, path: &'static str) {
        for _ in 0..count {
            let mut kept: Option<Http> = None;
            self.client(move || {
                let result = (|| {
                    let mut connection = match kept.take() {
                        Some(connection) => connection,
                        None => Http::connect(address)?,
                    };
                    let reply = connection.get(path)?;
                    if !reply.closes {
                        kept = Some(connection);
                    }
                    Ok::<_, std::io::Error>(reply)
                })();
                check(path, result)
            });
        }
    }

    /// Clients with a new connection for each request.
    pub(crate) fn short(&mut self, count: usize, address: SocketAddr, path: &'static str) {
        for _ in 0..count {
            self.client(move || {
                let result = Http::connect(address).and_then(|mut connection| connection.get(path));
                check(path, result)
            });
        }
    }

    /// Clients that send bodies and want them back.
    pub(crate) fn posting(&mut self, count: usize, address: SocketAddr) {
        for number in 0..count {
            let body = vec![b'a' + u8::try_from(number % 26).unwrap(); 10_000];
            let mut kept: Option<Http> = None;
            self.client(move || {
                let result = (|| {
                    let mut connection = match kept.take() {
                        Some(connection) => connection,
                        None => Http::connect(address)?,
                    };
                    let reply = connection.post("/echo", &body)?;
                    if !reply.closes {
                        kept = Some(connection);
                    }
                    Ok::<_, std::io::Error>(reply)
                })();
                if result
                    .as_ref()
                    .is_ok_and(|reply| reply.status == 200 && reply.body != body)
                {
                    return Err("another body came back".to_owned());
                }
                check("/echo", result)
            });
        }
    }

    /// Stops all clients; the number of good requests and what went wrong.
    pub(crate) fn finish(self) -> (u64, Vec<String>) {
        self.stop.store(true, SeqCst);
        let failures = self
            .clients
            .into_iter()
            .flat_map(|client| client.join().unwrap())
            .collect();
        (self.done.load(SeqCst), failures)
    }
}

fn check(path: &str, result: std::io::Result<super::client::Reply>) -> Result<(), String> {
    match result {
        Ok(reply) if reply.status == 200 => Ok(()),
        Ok(reply) => Err(format!("{path}: {} {}", reply.status, reply.text())),
        Err(error) => Err(format!("{path}: {error}")),
    }
}
