//! The main thread: starts the workers, carries out what the control socket says, ends with grace.

pub(crate) mod changes;
pub(crate) mod handover;
mod leases;
mod status;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::task::{LocalSet, spawn_local};

use crate::access_log::Log;
use crate::acme::{self, Challenges};
use crate::config::Config;
use crate::control::protocol::Refusal;
use crate::control::server;
use crate::error::{GatewayError, Result};
use crate::health;
use crate::listener::Bound;
use crate::metrics::GatewayMetrics;
use crate::state::StateDir;
use crate::tls::Tls;
use crate::traffic::table::Table;
use crate::upgrade::{self, Inherited};
use crate::worker::{Handle, Order, Shared};

/// How a gateway is started.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Where the state file lies; made if it is not there.
    pub state: PathBuf,
    /// The control socket.
    pub control: PathBuf,
    /// Threads that serve connections; none: one for each processor.
    pub workers: Option<usize>,
    /// A file that gets a line of JSON for each request.
    pub access_log: Option<PathBuf>,
    /// Applied at the start, in place of the saved configuration.
    pub config: Option<Config>,
    /// Take the sockets of the gateway that runs, if one does.
    pub take_over: bool,
    /// How long requests may take when the process is told to end.
    pub drain: Duration,
    /// The program and arguments that `upgrade` starts: this gateway's with `take_over`.
    pub successor: Vec<OsString>,
}

/// Runs a gateway until it is told to end. `ready` is called once it serves, with the items of the
/// configuration that are not in force.
pub fn run(options: Options, ready: impl FnOnce(&[Refusal])) -> Result<()> {
    raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(GatewayError::io("start the runtime"))?;
    LocalSet::new().block_on(&runtime, serve(options, ready))
}

/// Each request needs two descriptors; the soft limit is often 1024.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    // Without it there are fewer connections, which the accept loop copes with.
    setrlimit(Resource::Nofile, raised).unwrap_or_default();
}

/// The running gateway, as the control socket's tasks see it. All on one thread.
#[derive(Debug)]
pub(crate) struct Gateway {
    pub(crate) shared: Arc<Shared>,
    options: Options,
    state: StateDir,
    workers: Vec<Handle>,
    listeners: RefCell<BTreeMap<SocketAddr, Bound>>,
    leases: RefCell<HashMap<String, Instant>>,
    refused: RefCell<Vec<Refusal>>,
    /// Set while another process is taking over: nothing may change that it would not know.
    handing_over: Cell<bool>,
    handed_over: Cell<bool>,
    ending: Cell<Option<Duration>>,
    end: Notify,
    control: handover::Control,
    pub(crate) orders: acme::Orders,
}

/// Where certificates that the gateway ordered lie in the state directory.
const ORDERED: &str = "acme";

async fn serve(options: Options, ready: impl FnOnce(&[Refusal])) -> Result<()> {
    let inherited = if options.take_over {
        upgrade::take_over(&options.control, options.drain)?
    } else {
        None
    };
    let (state, control, sockets, predecessor) = if let Some(inherited) = inherited {
        let Inherited {
            lock,
            control,
            sockets,
            predecessor,
        } = inherited;
        let state = StateDir::inherited(&options.state, lock);
        (state, control, sockets, Some(predecessor))
    } else {
        let state = StateDir::open(&options.state)?;
        (state, server::bind(&options.control)?, Vec::new(), None)
    };
    let control = UnixListener::from_std(control)
        .map_err(GatewayError::path("listen on", &options.control))?;
    let gateway = Rc::new(Gateway::new(options, state)?);
    gateway.restore(sockets)?;
    if let Some(predecessor) = predecessor {
        predecessor.taken()?;
    }
    gateway.control.keep(&control);
    ready(&gateway.refused.borrow());

    spawn_local(health::run(Arc::clone(&gateway.shared)));
    spawn_local(leases::run(Rc::clone(&gateway)));
    spawn_local(reload_certificates(Rc::clone(&gateway)));
    spawn_local(acme::run(Rc::clone(&gateway)));
    let accepting = spawn_local(server::run(Rc::clone(&gateway), control));
    let limit = gateway.until_told_to_end().await?;
    if gateway.handed_over.get() {
        accepting.abort();
    }
    gateway.drain(limit).await;
    if !gateway.handed_over.get() {
        // A socket left behind does no harm: the next start removes it.
        drop(fs_err::remove_file(&gateway.options.control));
    }
    Ok(())
}

impl Gateway {
    fn new(options: Options, state: StateDir) -> Result<Self> {
        let log = match &options.access_log {
            None => None,
            Some(path) => {
                let file = fs_err::OpenOptions::new()
                    .create(true)
                    .append(true)
                    .open(path);
                Some(Log::start(file.map_err(GatewayError::path("open", path))?)?)
            }
        };
        let shared = Arc::new(Shared {
            table: ArcSwap::from_pointee(Table::default()),
            metrics: GatewayMetrics::default(),
            tls: Tls::new(options.state.join(ORDERED))?,
            challenges: Challenges::default(),
            log,
        });
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let count = options.workers.unwrap_or(processors).clamp(1, 64);
        let workers = (0..count)
            .map(|number| Handle::start(Arc::clone(&shared), number))
            .collect::<Result<Vec<_>>>()?;
        Ok(Self {
            shared,
            options,
            state,
            workers,
            listeners: RefCell::default(),
            leases: RefCell::default(),
            refused: RefCell::default(),
            handing_over: Cell::new(false),
            handed_over: Cell::new(false),
            ending: Cell::new(None),
            end: Notify::new(),
            control: handover::Control::default(),
            orders: acme::Orders::default(),
        })
    }

    /// Where certificates lie that the gateway ordered.
    pub(crate) fn acme_dir(&self) -> PathBuf {
        self.options.state.join(ORDERED)
    }

    /// Serves what was saved, or what the start says.
    fn restore(&self, sockets: Vec<(SocketAddr, TcpListener)>) -> Result<()> {
        let saved = self.state.load()?.unwrap_or_default();
        let given = self.options.config.clone();
        let is_given = given.is_some();
        self.put_in_force(given.unwrap_or(saved.config), &saved.epochs, sockets);
        if is_given {
            self.save()?;
        }
        Ok(())
    }

    async fn until_told_to_end(&self) -> Result<Duration> {
        let failed = |source| GatewayError::io("watch for signals")(source);
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = self.end.notified() => {}
        }
        Ok(self.ending.get().unwrap_or(self.options.drain))
    }

    /// Ends the process once open requests are done, or after `limit`.
    pub(crate) fn end(&self, limit: Duration) {
        self.ending.set(Some(limit));
        self.end.notify_one();
    }

    async fn drain(&self, limit: Duration) {
        for worker in &self.workers {
            worker.order(Order::Drain(limit));
        }
        // This process's copies; a successor has its own.
        self.listeners.borrow_mut().clear();
        let workers_done = async {
            while !self.workers.iter().all(Handle::is_finished) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let grace = limit + Duration::from_secs(1);
        drop(tokio::time::timeout(grace, workers_done).await);
        if let Some(log) = &self.shared.log {
            log.written(Duration::from_secs(1)).await;
        }
    }
}

/// Certificates are renewed by other programs, which need not tell.
async fn reload_certificates(gateway: Rc<Gateway>) {
    let mut tick = tokio::time::interval(Duration::from_secs(2));
    loop {
        tick.tick().await;
        gateway.load_certificates();
    }
}
