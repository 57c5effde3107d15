//! A thread that serves connections: its own runtime, its own listening sockets, its own pool.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use bytes::BytesMut;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use tokio::task::{JoinHandle as Task, LocalSet, spawn_local};

use crate::access_log::{BLOCK, Entry, Log};
use crate::acme::Challenges;
use crate::config::ListenerConfig;
use crate::connection::{self, Connection};
use crate::error::{GatewayError, Result};
use crate::metrics::GatewayMetrics;
use crate::tls::Tls;
use crate::traffic::table::Table;
use crate::upstream::pool::Pool;

/// What all workers see.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) table: ArcSwap<Table>,
    pub(crate) metrics: GatewayMetrics,
    pub(crate) tls: Tls,
    pub(crate) challenges: Challenges,
    pub(crate) log: Option<Log>,
}

/// What a worker is told.
#[derive(Debug)]
pub(crate) enum Order {
    Listen(Arc<ListenerConfig>, std::net::TcpListener),
    StopListening(SocketAddr),
    /// Take no new connections, finish the open ones, end.
    Drain(Duration),
}

/// A running worker.
#[derive(Debug)]
pub(crate) struct Handle {
    orders: mpsc::UnboundedSender<Order>,
    thread: JoinHandle<()>,
}

impl Handle {
    pub(crate) fn start(shared: Arc<Shared>, number: usize) -> Result<Self> {
        let (orders, receiver) = mpsc::unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(GatewayError::io("start a worker's runtime"))?;
        let thread = std::thread::Builder::new()
            .name(format!("worker-{number}"))
            .spawn(move || LocalSet::new().block_on(&runtime, run(shared, receiver)))
            .map_err(GatewayError::io("start a worker's thread"))?;
        Ok(Self { orders, thread })
    }

    /// A worker that is gone needs no orders.
    pub(crate) fn order(&self, order: Order) {
        drop(self.orders.send(order));
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }
}

/// State of one worker, seen by all its tasks and by no other thread.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) pool: Pool,
    /// Notifies all when the worker begins to drain.
    pub(crate) drain: Notify,
    draining: Cell<Option<(Instant, Duration)>>,
    open: Cell<usize>,
    closed: Notify,
    mirrors: Cell<usize>,
    /// Lines of the access log and how many.
    lines: RefCell<(BytesMut, u64)>,
    date: RefCell<(u64, Rc<str>)>,
}

impl Worker {
    fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            pool: Pool::default(),
            drain: Notify::new(),
            draining: Cell::new(None),
            open: Cell::new(0),
            closed: Notify::new(),
            mirrors: Cell::new(0),
            lines: RefCell::default(),
            date: RefCell::new((0, "".into())),
        }
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.get().is_some()
    }

    /// When draining began and how long it may take.
    pub(crate) fn drain_deadline(&self) -> Option<(Instant, Duration)> {
        self.draining.get()
    }

    pub(crate) fn logs(&self) -> bool {
        self.shared.log.is_some()
    }

    pub(crate) fn log(&self, entry: &Entry) {
        let mut lines = self.lines.borrow_mut();
        entry.write(&mut lines.0);
        lines.1 += 1;
        if lines.0.len() >= BLOCK {
            self.hand_over(std::mem::take(&mut lines));
        }
    }

    fn hand_over(&self, (block, count): (BytesMut, u64)) {
        if let Some(log) = &self.shared.log
            && !log.put(block)
        {
            let dropped = &self.shared.metrics.log_lines_dropped;
            dropped.fetch_add(count, Relaxed);
        }
    }

    fn flush_log(&self) {
        let lines = std::mem::take(&mut *self.lines.borrow_mut());
        if lines.1 > 0 {
            self.hand_over(lines);
        }
    }

    /// The `Date` of answers, made once a second.
    pub(crate) fn date(&self) -> Rc<str> {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let mut date = self.date.borrow_mut();
        if date.0 != now {
            let text = jiff::Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S GMT");
            *date = (now, text.to_string().into());
        }
        Rc::clone(&date.1)
    }

    /// One of the mirrored requests that may run at once.
    pub(crate) fn mirror_slot(self: &Rc<Self>) -> Option<MirrorSlot> {
        let most = self.shared.table.load().config.limits.mirrors;
        let running = self.mirrors.get();
        (running < most).then(|| {
            self.mirrors.set(running + 1);
            MirrorSlot(Rc::clone(self))
        })
    }
}

/// Held while a mirrored request runs.
#[derive(Debug)]
pub(crate) struct MirrorSlot(Rc<Worker>);

impl Drop for MirrorSlot {
    fn drop(&mut self) {
        self.0.mirrors.set(self.0.mirrors.get().saturating_sub(1));
    }
}

/// Spawns hyper's tasks on the worker's own thread.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LocalExecutor;

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        drop(spawn_local(async {
            drop(future.await);
        }));
    }
}

async fn run(shared: Arc<Shared>, mut orders: mpsc::UnboundedReceiver<Order>) {
    let worker = Rc::new(Worker::new(shared));
    let mut listening: HashMap<SocketAddr, Vec<Task<()>>> = HashMap::new();
    let mut tick = tokio::time::interval(Duration::from_millis(500));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let limit = loop {
        let order = tokio::select! {
            order = orders.recv() => order,
            _ = tick.tick() => {
                worker.flush_log();
                sweep(&worker);
                continue;
            }
        };
        match order {
            Some(Order::Listen(config, socket)) => {
                let address = config.address;
                let task = spawn_local(accept(Rc::clone(&worker), config, socket));
                listening.entry(address).or_default().push(task);
            }
            Some(Order::StopListening(address)) => {
                for task in listening.remove(&address).unwrap_or_default() {
                    task.abort();
                }
            }
            Some(Order::Drain(limit)) => break limit,
            None => break Duration::ZERO,
        }
    };
    worker.draining.set(Some((Instant::now(), limit)));
    worker.drain.notify_waiters();
    let done = async {
        for task in listening.into_values().flatten() {
            drop(task.await);
        }
        until_closed(&worker).await;
    };
    drop(tokio::time::timeout(limit, done).await);
    worker.flush_log();
}

async fn until_closed(worker: &Worker) {
    loop {
        let closed = worker.closed.notified();
        if worker.open.get() == 0 {
            return;
        }
        closed.await;
    }
}

fn sweep(worker: &Worker) {
    let table = worker.shared.table.load();
    let endpoints: HashSet<u64> = table
        .services
        .values()
        .flat_map(|service| service.traffic().revisions.clone())
        .flat_map(|revision| {
            revision
                .endpoints
                .iter()
                .map(|endpoint| endpoint.id)
                .collect::<Vec<_>>()
        })
        .collect();
    worker.pool.sweep(|endpoint| endpoints.contains(&endpoint));
}

/// Accepts until the worker drains, and then what waits in the kernel's queue: those clients have
/// been told that they are connected.
async fn accept(worker: Rc<Worker>, config: Arc<ListenerConfig>, socket: std::net::TcpListener) {
    let Ok(listener) = TcpListener::from_std(socket) else {
        return;
    };
    let mut drain = std::pin::pin!(worker.drain.notified());
    loop {
        let metrics = &worker.shared.metrics;
        let limits = Arc::clone(&worker.shared.table.load().limits);
        let open = metrics.open_connections.load(Relaxed);
        if usize::try_from(open).unwrap_or(usize::MAX) >= limits.connections {
            // Further clients wait in the kernel's queue.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        }
        let accepted = if worker.is_draining() {
            match tokio::time::timeout(Duration::from_millis(1), listener.accept()).await {
                Ok(accepted) => accepted,
                Err(_) => return,
            }
        } else {
            tokio::select! {
                accepted = listener.accept() => accepted,
                () = drain.as_mut() => continue,
            }
        };
        let Ok((stream, peer)) = accepted else {
            // Out of descriptors, or a client that left at once: neither must stop the listener.
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        };
        metrics.connections.fetch_add(1, Relaxed);
        let counted = Counted::new(&worker);
        let connection = Connection::new(peer, Arc::clone(&config), limits);
        let worker = Rc::clone(&worker);
        spawn_local(async move {
            connection::serve(worker, connection, stream).await;
            drop(counted);
        });
    }
}

/// Counts an open connection.
struct Counted(Rc<Worker>);

impl Counted {
    fn new(worker: &Rc<Worker>) -> Self {
        worker.open.set(worker.open.get() + 1);
        worker.shared.metrics.open_connections.fetch_add(1, Relaxed);
        Self(Rc::clone(worker))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let worker = &self.0;
        worker.open.set(worker.open.get().saturating_sub(1));
        worker.shared.metrics.open_connections.fetch_sub(1, Relaxed);
        if worker.open.get() == 0 {
            worker.closed.notify_waiters();
        }
    }
}
