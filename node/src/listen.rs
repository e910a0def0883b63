//! The doors: a listener per data thread on one port, and the threads behind them.
//!
//! The kernel spreads new connections over the listeners (`SO_REUSEPORT`); a connection stays on the thread that
//! accepted it. Ports are taken early, so that a busy one is an error before anything else happened, and opened last.

use crate::backend::Waiting;
use crate::config::Config;
use crate::node::{Node, StartError, worker};
use crate::socket::Sockets;
use crate::worker::{Job, Worker};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, LocalSet};

/// Time between attempts to accept when the process is out of files.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Ports that are taken and not yet served.
pub struct Listeners {
    clients: Vec<TcpListener>,
    admin: TcpListener,
    http: TcpListener,
}

/// Takes every port of the node but the peers'.
pub fn bind(config: &Config) -> Result<Listeners, StartError> {
    let bind = config.bind.to_string();
    let failed = |error| StartError::Listen(bind.clone(), error);
    let address = resolve(&bind).map_err(failed)?;
    let first = listener(address, config.tcp_backlog).map_err(failed)?;
    // With port 0 the others must share what the first was given.
    let address = first.local_addr().map_err(failed)?;
    let mut clients = vec![first];
    for _ in 1..config.threads {
        clients.push(listener(address, config.tcp_backlog).map_err(failed)?);
    }
    let plain = |address: String| {
        let bound = TcpListener::bind(&address).and_then(|listener| listener.set_nonblocking(true).map(|()| listener));
        bound.map_err(|error| StartError::Listen(address, error))
    };
    Ok(Listeners { clients, admin: plain(config.admin_bind.to_string())?, http: plain(config.http_bind.to_string())? })
}

fn resolve(address: &str) -> io::Result<SocketAddr> {
    address.to_socket_addrs()?.next().ok_or_else(|| io::Error::other("the address names no host"))
}

fn listener(address: SocketAddr, backlog: u32) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}

/// The running threads.
pub struct Threads {
    stop: watch::Sender<bool>,
    running: Vec<std::thread::JoinHandle<()>>,
}

impl Threads {
    /// Closes every door and connection, and waits for the threads, for so long at most. False: one of them still runs something.
    pub async fn close(self, patience: Duration) -> bool {
        self.stop.send_replace(true);
        let all = tokio::task::spawn_blocking(move || {
            for thread in self.running {
                if thread.join().is_err() {
                    tracing::error!("a data thread ended in a panic");
                }
            }
        });
        tokio::time::timeout(patience, all).await.is_ok()
    }
}

/// Serves the http port of a node that waits to be invited, which may take days: probes learn that it lives and what it
/// waits for. Other nodes leave it closed until they have loaded, for their probes to be patient until then.
pub fn open_http_early(listeners: &Listeners, waiting: Waiting) -> Result<JoinHandle<()>, StartError> {
    let failed = |error| StartError::Listen("the http port".to_owned(), error);
    let http = listeners.http.try_clone().and_then(tokio::net::TcpListener::from_std).map_err(failed)?;
    Ok(tokio::spawn(crate::http::serve(http, Arc::new(waiting))))
}

/// Opens the doors: from here on clients are served.
pub fn open(node: &Arc<Node>, listeners: Listeners, inboxes: Vec<mpsc::Receiver<Job>>) -> Result<Threads, StartError> {
    let (stop, stopped) = watch::channel(false);
    let mut running = Vec::new();
    for (index, (listener, inbox)) in listeners.clients.into_iter().zip(inboxes).enumerate() {
        let (node, stopped) = (Arc::clone(node), stopped.clone());
        let builder = std::thread::Builder::new().name(format!("keyward-data-{index}"));
        let thread = builder.spawn(move || data_thread(&node, index, listener, inbox, stopped));
        running.push(thread.map_err(StartError::System)?);
    }
    let failed = |error| StartError::Listen("the http port".to_owned(), error);
    let http = tokio::net::TcpListener::from_std(listeners.http).map_err(failed)?;
    tokio::spawn(crate::http::serve(http, Arc::new(crate::backend::Facts(Arc::clone(node)))));
    crate::backend::serve_admin(node, listeners.admin)?;
    Ok(Threads { stop, running })
}

fn data_thread(
    node: &Arc<Node>,
    index: usize,
    listener: TcpListener,
    inbox: mpsc::Receiver<Job>,
    mut stopped: watch::Receiver<bool>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "a data thread cannot start");
            return node.stop.request(None);
        }
    };
    let local = LocalSet::new();
    local.block_on(&runtime, async move {
        let worker = worker(node, index);
        if let Err(error) = serve_sockets(&worker) {
            tracing::error!(%error, "a data thread cannot watch its clients");
            return node.stop.request(None);
        }
        tokio::task::spawn_local(Rc::clone(&worker).answer_inbox(inbox));
        tokio::task::spawn_local(worker.turns.clone().give());
        // What is awaited here is looked at whenever any task of the thread goes on: let it be little.
        let open = tokio::task::spawn_local(async move {
            tokio::select! {
                () = accept(worker, listener) => {}
                _ = stopped.wait_for(|stopped| *stopped) => {}
            }
        });
        if open.await.is_err() {
            tracing::error!("the client port is no longer served");
        }
    });
}

/// From here on, the thread's clients are read from.
fn serve_sockets(worker: &Rc<Worker>) -> io::Result<()> {
    let sockets = Rc::new(Sockets::new()?);
    worker.set_sockets(Rc::clone(&sockets));
    let serving = crate::rounds::serve(Rc::clone(worker), sockets);
    let node = Arc::clone(&worker.node);
    tokio::task::spawn_local(async move {
        if let Err(error) = serving.await {
            tracing::error!(%error, "a data thread cannot watch its clients");
            node.stop.request(None);
        }
    });
    Ok(())
}

async fn accept(worker: Rc<Worker>, listener: TcpListener) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "the client port cannot be served");
            return worker.node.stop.request(None);
        }
    };
    let keepalive = worker.node.config.tcp_keepalive;
    let mut views = worker.node.control.views();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            // Nobody is served here any more: connections are refused.
            _ = views.wait_for(|view| view.removed) => break,
        };
        match accepted {
            // It may yet stay, but whoever comes now would have to go again.
            Ok(_) if worker.node.lease.is_leaving() => {}
            Ok((stream, _)) => {
                if !keepalive.is_zero() {
                    let probes = TcpKeepalive::new().with_time(keepalive).with_interval(keepalive / 3);
                    // Only a convenience: a connection without it still ends when it is used.
                    let _ = SockRef::from(&stream).set_tcp_keepalive(&probes);
                }
                // The client's socket is watched with the others of the thread, not by the runtime.
                if let Ok(stream) = stream.into_std() {
                    tokio::task::spawn_local(Rc::clone(&worker).serve(stream));
                }
                // However many come at once, those who are here have their turns in between.
                tokio::task::yield_now().await;
            }
            Err(error) => {
                tracing::warn!(%error, "the client port cannot accept");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
    drop(listener);
    std::future::pending().await
}

/// SIGTERM and SIGINT since it was made. There is one for the whole life of a process: a signal that comes while nobody waits
/// is kept for whoever waits next, while one that came before another of these was made would be lost.
pub struct Termination(Option<[tokio::signal::unix::Signal; 2]>);

impl Termination {
    /// From here on signals do not end the process by themselves.
    pub fn watch() -> Termination {
        use tokio::signal::unix::{SignalKind, signal};
        match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
            (Ok(terminate), Ok(interrupt)) => Termination(Some([terminate, interrupt])),
            _ => Termination(None),
        }
    }

    /// Returns once one of them has come.
    pub async fn come(&mut self) {
        let Some([terminate, interrupt]) = &mut self.0 else { return std::future::pending().await };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
}
