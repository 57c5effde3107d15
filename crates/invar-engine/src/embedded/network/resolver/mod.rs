//! The resolver of a network: one small process that tells its containers each other's addresses,
//! and asks the host's servers for every other name.
//!
//! ```text
//!  container ──port 53 of the gateway──▶ rules ──▶ resolver ─ a name of the network: state.db
//!                                                          └ any other: the host's servers
//! ```
//!
//! It listens on a port of its own, so that neither a name server of the host nor a published
//! port 53 is in its way. It is started with the first container of a network and ends some
//! seconds after the last; a lock that ends with it says whether it runs. When it was killed, the
//! next command that looks starts another on the same port.
//!
//! Every message is a stranger's: sizes, rates and numbers are bounded for each container, only
//! containers of the network are answered, and what goes out is what came in under an id of ours.

mod directory;
mod forward;
mod limits;
pub(in crate::embedded) mod message;
mod serve;
mod stream;

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt as _;
use invar_sys::process::{command, inherit, inherited, read_only_self};

use self::serve::Server;
use super::table::{self, NetworkRow};
use super::{Networks, lock};
use crate::embedded::layout::{self, Layout};
use crate::embedded::runtime::program;
use crate::error::{EngineError, Result};

/// Where it listens if nothing else does; host firewalls can be told to let it pass.
const PREFERRED_PORT: u16 = 10053;
/// How often it looks whether anybody is left.
const LOOK: Duration = Duration::from_secs(2);

/// Makes sure that a network's resolver runs; its port. The lock on bridges and rules must be
/// held, and the bridge be there.
pub(super) fn ensure(networks: &Networks, network: &NetworkRow) -> Result<u16> {
    if let (true, Some(port)) = (
        is_running(&networks.layout, network)?,
        network.resolver_port,
    ) {
        return Ok(port);
    }
    let port = start(&networks.layout, network).map_err(|error| EngineError::Runtime {
        action: "start the resolver of the network",
        reason: error.to_string(),
    })?;
    if network.resolver_port != Some(port) {
        networks.with(|connection| table::set_resolver_port(connection, &network.id, port))?;
    }
    Ok(port)
}

/// Whether a network's resolver runs.
pub(super) fn is_running(layout: &Layout, network: &NetworkRow) -> Result<bool> {
    let path = lock_path(layout, network);
    match fs::File::options().append(true).open(&path) {
        Ok(file) => invar_sys::lock::is_locked(&file)
            .map_err(|source| EngineError::io("look at the lock", &path, source)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(EngineError::io("open", &path, source)),
    }
}

/// Removes what a network's resolver leaves on disk.
pub(super) fn forget(layout: &Layout, network: &NetworkRow) {
    // Nothing but a name; it is made again when missing.
    fs::remove_file(lock_path(layout, network)).ok();
}

fn lock_path(layout: &Layout, network: &NetworkRow) -> PathBuf {
    layout.networks().join(format!("{}.resolver", network.id))
}

/// Executes this program as a resolver; the port it listens on.
fn start(layout: &Layout, network: &NetworkRow) -> std::io::Result<u16> {
    let (mut ours, theirs) = UnixStream::pair()?;
    let theirs = OwnedFd::from(theirs);
    let file = read_only_self()?;
    inherit(theirs.as_fd())?;
    let mut resolver = command(file.as_fd());
    resolver
        .arg("resolver")
        .arg(program::number(&theirs))
        .arg(layout.root())
        .arg(&network.id)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    // Not waited for: it outlives this command.
    drop(resolver.spawn()?);
    drop(theirs);
    let mut answer = String::new();
    ours.read_to_string(&mut answer)?;
    answer
        .trim_end()
        .parse()
        .map_err(|_not_a_port| std::io::Error::other(answer))
}

/// The role `resolver READY ROOT NETWORK`.
pub(in crate::embedded) fn main(args: &[String]) -> ExitCode {
    let [ready, root, network] = args else {
        return ExitCode::FAILURE;
    };
    let Ok(ready) = inherited(ready) else {
        return ExitCode::FAILURE;
    };
    let mut ready = UnixStream::from(ready);
    match run(&mut ready, Path::new(root), network) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The command that waits for the port shows it; later there is nobody to tell.
            write!(ready, "{error}").ok();
            ExitCode::FAILURE
        }
    }
}

fn run(ready: &mut UnixStream, root: &Path, network: &str) -> Result<()> {
    let failed = |error: std::io::Error| EngineError::Runtime {
        action: "set the resolver up",
        reason: error.to_string(),
    };
    invar_sys::signal::unblock_all().map_err(failed)?;
    rustix::process::setsid().map_err(|errno| failed(errno.into()))?;
    let layout = Layout::new(root);
    let networks = Networks::open_alone(&layout)?;
    let network = networks.with(|connection| table::find(connection, network))?;
    let Some(claim) = claim(&layout, &network)? else {
        return Err(failed(std::io::Error::other("another one runs already")));
    };
    let (datagrams, connections, port) = listen(&network).map_err(failed)?;
    // A connection of its own: it sees what all others change, also those of this process.
    let database = invar_image::state::Database::open(root)?;
    let server = Arc::new(Server::new(database, network.clone())?);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed)?;
    runtime.block_on(async {
        let datagrams = tokio::net::UdpSocket::from_std(datagrams).map_err(failed)?;
        let connections = tokio::net::TcpListener::from_std(connections).map_err(failed)?;
        tokio::spawn(Arc::clone(&server).datagrams(datagrams));
        tokio::spawn(Arc::clone(&server).connections(connections));
        write!(ready, "{port}").map_err(failed)?;
        ready.shutdown(std::net::Shutdown::Both).map_err(failed)?;
        let others_wait = until_idle(&networks, &server).await;
        // Whoever comes next finds it gone.
        drop(claim);
        drop(others_wait);
        Ok(())
    })
}

/// Takes the lock that says that a resolver runs.
fn claim(layout: &Layout, network: &NetworkRow) -> Result<Option<fs::File>> {
    layout::make_private(&layout.networks())?;
    let path = lock_path(layout, network);
    let file = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&path)
        .map_err(|source| EngineError::io("open", &path, source))?;
    let is_mine = invar_sys::lock::try_lock(&file)
        .map_err(|source| EngineError::io("lock", &path, source))?;
    Ok(is_mine.then_some(file))
}

/// On the port the rules know, else on the usual one, else on any.
fn listen(network: &NetworkRow) -> std::io::Result<(UdpSocket, TcpListener, u16)> {
    let gateway = network.subnet.gateway();
    let mut last = None;
    for port in [network.resolver_port, Some(PREFERRED_PORT), Some(0)] {
        let Some(port) = port else { continue };
        match listen_on(gateway, port) {
            Ok(listening) => return Ok(listening),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| std::io::Error::other("no port is free")))
}

fn listen_on(gateway: Ipv4Addr, port: u16) -> std::io::Result<(UdpSocket, TcpListener, u16)> {
    let connections = TcpListener::bind(SocketAddr::from((gateway, port)))?;
    let port = connections.local_addr()?.port();
    let datagrams = UdpSocket::bind(SocketAddr::from((gateway, port)))?;
    connections.set_nonblocking(true)?;
    datagrams.set_nonblocking(true)?;
    Ok((datagrams, connections, port))
}

/// Returns when nobody was left twice in a row. A container that comes meanwhile is seen: it is in
/// the database before the lock is taken that is held here.
async fn until_idle(networks: &Networks, server: &Arc<Server>) -> fs::File {
    let mut was_idle = false;
    loop {
        tokio::time::sleep(LOOK).await;
        // Containers whose shims were killed count no longer.
        networks.sweep_all().ok();
        let is_idle = server.is_idle();
        if is_idle && was_idle {
            // While somebody starts a container this waits its turn.
            let Ok(lock) = lock() else { continue };
            if server.is_idle() {
                return lock;
            }
        }
        was_idle = is_idle;
    }
}
