//! Answering the containers of one network, by datagram and on connections.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use invar_image::state::Database;
use rusqlite::Connection;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::timeout;

use super::super::names::HostResolver;
use super::super::table::NetworkRow;
use super::directory::{Directory, Verdict};
use super::forward::{self, Transport};
use super::limits::{Limits, Use};
use super::message::{Code, Query};
use super::stream;
use crate::error::Result;

/// Bytes of a query; real ones have less than a hundred.
const LONGEST_QUERY: usize = 1232;
/// How long a connection may do nothing.
const IDLE: Duration = Duration::from_secs(5);
/// How long the host's choice of servers is believed.
const SERVERS_LAST: Duration = Duration::from_secs(5);

/// What all queries share.
pub(super) struct Server {
    network: NetworkRow,
    state: Mutex<State>,
    limits: Mutex<Limits>,
}

/// What is read again when it has changed.
struct State {
    database: Database,
    /// `PRAGMA data_version` when the directory was read.
    version: i64,
    directory: Directory,
    servers: Vec<IpAddr>,
    servers_read: Instant,
}

impl Server {
    pub(super) fn new(database: Database, network: NetworkRow) -> Result<Self> {
        let first_version = version(&database.connection())?;
        let directory = Directory::read(&database.connection(), &network)?;
        let state = State {
            version: first_version,
            directory,
            database,
            servers: HostResolver::of_host().servers,
            servers_read: Instant::now(),
        };
        Ok(Self {
            network,
            state: Mutex::new(state),
            limits: Mutex::default(),
        })
    }

    /// Whether nobody is left in the network.
    pub(super) fn is_idle(&self) -> bool {
        let mut state = self.state();
        state.refresh(&self.network);
        self.limits().forget_idle(Instant::now());
        state.directory.is_empty()
    }

    /// Answers datagrams for ever.
    pub(super) async fn datagrams(self: Arc<Self>, socket: UdpSocket) {
        let socket = Arc::new(socket);
        let mut buffer = vec![0; LONGEST_QUERY + 1];
        loop {
            // An error here is that of an answer nobody took.
            let Ok((length, client)) = socket.recv_from(&mut buffer).await else {
                continue;
            };
            if length > LONGEST_QUERY || !self.limits().allow(client.ip(), Instant::now()) {
                continue;
            }
            let bytes = &buffer[..length];
            match self.decide(client.ip(), bytes) {
                Decision::Nothing => {}
                Decision::Answer(answer) => drop(socket.try_send_to(&answer, client)),
                Decision::Ask(question) => {
                    let (server, socket) = (Arc::clone(&self), Arc::clone(&socket));
                    tokio::spawn(async move {
                        let answer = server.ask(*question, Transport::Datagram).await;
                        socket.try_send_to(&answer, client)
                    });
                }
            }
        }
    }

    /// Answers on connections for ever.
    pub(super) async fn connections(self: Arc<Self>, listener: TcpListener) {
        loop {
            let Ok((connection, client)) = listener.accept().await else {
                // No handle is free: some will be.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            if !self.limits().begin(client.ip(), Use::Connection) {
                continue;
            }
            let server = Arc::clone(&self);
            tokio::spawn(async move {
                server.connection(connection, client).await;
                server.limits().end(client.ip(), Use::Connection);
            });
        }
    }

    async fn connection(&self, mut connection: TcpStream, client: SocketAddr) {
        loop {
            let read = stream::read(&mut connection, LONGEST_QUERY);
            let Ok(Ok(bytes)) = timeout(IDLE, read).await else {
                return;
            };
            if !self.limits().allow(client.ip(), Instant::now()) {
                return;
            }
            let answer = match self.decide(client.ip(), &bytes) {
                Decision::Nothing => return,
                Decision::Answer(answer) => answer,
                Decision::Ask(question) => self.ask(*question, Transport::Stream).await,
            };
            let write = stream::write(&mut connection, &answer);
            if !matches!(timeout(IDLE, write).await, Ok(Ok(()))) {
                return;
            }
        }
    }

    fn decide(&self, client: IpAddr, bytes: &[u8]) -> Decision {
        let query = match Query::parse(bytes) {
            Ok(query) => query,
            Err(None) => return Decision::Nothing,
            Err(Some(answer)) => return Decision::Answer(answer),
        };
        let mut state = self.state();
        state.refresh(&self.network);
        match state.directory.decide(&self.network, client, &query) {
            None => Decision::Answer(query.reply(Code::Refused)),
            Some(Verdict::Answer(answer)) => Decision::Answer(answer),
            Some(Verdict::Forward(own)) => {
                let servers = if own.is_empty() {
                    state.servers.clone()
                } else {
                    own
                };
                drop(state);
                if !self.limits().begin(client, Use::Waiting) {
                    return Decision::Answer(query.reply(Code::Failed));
                }
                Decision::Ask(Box::new(Question {
                    client,
                    query,
                    bytes: bytes.to_vec(),
                    servers,
                }))
            }
        }
    }

    /// The answer of a server outside, or that there is none.
    async fn ask(&self, question: Question, transport: Transport) -> Vec<u8> {
        let Question {
            client,
            query,
            bytes,
            servers,
        } = question;
        let answer = forward::ask(&servers, &query, &bytes, transport).await;
        self.limits().end(client, Use::Waiting);
        answer.unwrap_or_else(|| query.reply(Code::Failed))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn limits(&self) -> MutexGuard<'_, Limits> {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What becomes of a message.
enum Decision {
    Nothing,
    Answer(Vec<u8>),
    Ask(Box<Question>),
}

/// A query on its way out.
struct Question {
    client: IpAddr,
    query: Query,
    bytes: Vec<u8>,
    servers: Vec<IpAddr>,
}

impl State {
    /// Reads again what has changed. When that fails, what was known goes on being true.
    fn refresh(&mut self, network: &NetworkRow) {
        let connection = self.database.connection();
        if let Ok(version) = version(&connection)
            && version != self.version
            && let Ok(directory) = Directory::read(&connection, network)
        {
            self.version = version;
            self.directory = directory;
        }
        if self.servers_read.elapsed() > SERVERS_LAST {
            self.servers = HostResolver::of_host().servers;
            self.servers_read = Instant::now();
        }
    }
}

/// A number that changes with every transaction of another connection.
fn version(connection: &Connection) -> Result<i64> {
    Ok(connection.pragma_query_value(None, "data_version", |row| row.get(0))?)
}
