//! Listening sockets: one a worker and address, so that the kernel spreads new connections.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};

use crate::config::ListenerConfig;
use crate::error::{GatewayError, Result};
use crate::worker::{Handle, Order};

/// Connections that may wait in the kernel's queue of one socket.
const BACKLOG: i32 = 4096;

/// An address that is listened on.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) config: Arc<ListenerConfig>,
    /// Kept beside the workers' copies, to be handed over.
    pub(crate) sockets: Vec<TcpListener>,
}

/// Binds one more socket to an address. Several share it (`SO_REUSEPORT`).
fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket: OwnedFd =
        rustix::net::socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(TcpListener::from(socket))
}

impl Bound {
    /// Listens with at least one socket for each worker, `inherited` ones first.
    pub(crate) fn start(
        config: ListenerConfig,
        mut sockets: Vec<TcpListener>,
        workers: &[Handle],
    ) -> Result<Self> {
        let address = config.address;
        let listen = |source| GatewayError::Listen { address, source };
        if sockets.is_empty() && address.port() != 0 && is_taken(address) {
            return Err(listen(std::io::ErrorKind::AddrInUse.into()));
        }
        while sockets.len() < workers.len() {
            sockets.push(bind(address).map_err(listen)?);
        }
        let bound = Self {
            config: Arc::new(config),
            sockets,
        };
        bound.give_to(workers)?;
        Ok(bound)
    }

    fn give_to(&self, workers: &[Handle]) -> Result<()> {
        let address = self.config.address;
        for (number, socket) in self.sockets.iter().enumerate() {
            let socket = socket
                .try_clone()
                .and_then(|socket| socket.set_nonblocking(true).map(|()| socket))
                .map_err(|source| GatewayError::Listen { address, source })?;
            let worker = &workers[number % workers.len()];
            worker.order(Order::Listen(Arc::clone(&self.config), socket));
        }
        Ok(())
    }

    /// Serves with changed settings on the same sockets; waiting connections stay.
    pub(crate) fn change(&mut self, config: ListenerConfig, workers: &[Handle]) -> Result<()> {
        self.stop(workers);
        self.config = Arc::new(config);
        self.give_to(workers)
    }

    pub(crate) fn stop(&self, workers: &[Handle]) {
        for worker in workers {
            worker.order(Order::StopListening(self.config.address));
        }
    }
}

/// `SO_REUSEPORT` would let a second program of the same user share the address in silence.
fn is_taken(address: SocketAddr) -> bool {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let alone = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .and_then(|socket| {
            sockopt::set_socket_reuseaddr(&socket, true)?;
            rustix::net::bind(&socket, &address)
        });
    alone == Err(rustix::io::Errno::ADDRINUSE)
}
