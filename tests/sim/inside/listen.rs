//! The doors of a simulated node: the place of `node/src/listen.rs`. One data thread, which is a few tasks of the host; no admin
//! port, no probes, no signals.

use crate::backend::Waiting;
use crate::config::Config;
use crate::node::{Node, StartError, worker};
use crate::socket::Sockets;
use crate::worker::Job;
use crate::world::{self, net};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Ports that are taken and not yet served.
pub struct Listeners {
    clients: net::Door,
}

/// Takes the clients' port.
pub fn bind(config: &Config) -> Result<Listeners, StartError> {
    let bind = config.bind.to_string();
    let clients = net::listen(&bind).map_err(|error| StartError::Listen(bind, error))?;
    Ok(Listeners { clients })
}

/// The tasks that serve clients.
pub struct Threads(Vec<JoinHandle<()>>);

impl Threads {
    /// Ends them.
    pub async fn close(self, _: Duration) -> bool {
        self.0.iter().for_each(JoinHandle::abort);
        true
    }
}

/// Simulated nodes are not invited.
pub fn open_http_early(_: &Listeners, _: Waiting) -> Result<JoinHandle<()>, StartError> {
    Err(StartError::Config("simulated nodes are not invited".to_owned()))
}

/// Opens the doors: from here on clients are served.
pub fn open(node: &Arc<Node>, listeners: Listeners, inboxes: Vec<mpsc::Receiver<Job>>) -> Result<Threads, StartError> {
    let worker = worker(node, 0);
    let sockets = Sockets::new().map_err(StartError::System)?;
    worker.set_sockets(Rc::new(sockets));
    let mut tasks: Vec<JoinHandle<()>> =
        inboxes.into_iter().map(|inbox| tokio::task::spawn_local(Rc::clone(&worker).answer_inbox(inbox))).collect();
    tasks.push(tokio::task::spawn_local(worker.turns.clone().give()));
    let listener = net::open(listeners.clients).map_err(StartError::System)?;
    tasks.push(tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::task::spawn_local(Rc::clone(&worker).serve(stream));
        }
    }));
    world::serves(node);
    Ok(Threads(tasks))
}

/// Never: a simulated node is stopped by name, or crashes.
pub struct Termination;

impl Termination {
    /// Signals of the process are not the node's.
    pub fn watch() -> Termination {
        Termination
    }

    /// Never returns.
    pub async fn come(&mut self) {
        std::future::pending().await
    }
}
