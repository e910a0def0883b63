//! Finds a node that answers, and goes on to the next when it does not. Knows no method of any service.

use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

use base64::Engine as _;
use tokio::time::{Instant, sleep, timeout};
use tonic::metadata::MetadataValue;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Response, Status};

use crate::error::ClientError;
use crate::options::{Options, Tls};

/// The first pause between rounds over all nodes; it doubles up to [`PAUSE_MAX`].
const PAUSE_FIRST: Duration = Duration::from_millis(50);
/// An election takes one to two seconds: asking more often than this finds nothing new.
const PAUSE_MAX: Duration = Duration::from_millis(800);
/// How often an idle connection is probed, so that a watch notices a node that vanished.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(5);
/// Answers hold every user with every rule; a caller that asks for them has room for them.
pub(crate) const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Whether a call may be sent again when nobody knows what became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// It changes nothing, or carries a request id.
    Safe,
    /// Only if it certainly was not carried out.
    Unsafe,
}

/// Connections to the nodes of one cluster.
pub(crate) struct Links {
    nodes: Vec<Node>,
    authorization: MetadataValue<tonic::metadata::Ascii>,
    deadline: Duration,
    /// Which node answered last, and its connection.
    current: Mutex<(usize, Option<Channel>)>,
}

struct Node {
    address: String,
    endpoint: Endpoint,
}

impl fmt::Debug for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses: Vec<&str> = self.nodes.iter().map(|node| node.address.as_str()).collect();
        f.debug_struct("Links").field("addresses", &addresses).finish_non_exhaustive()
    }
}

impl Links {
    pub(crate) fn new(options: &Options) -> Result<Self, ClientError> {
        if options.addresses.is_empty() {
            return Err(ClientError::Options("no address of any node is given".to_owned()));
        }
        let nodes = options
            .addresses
            .iter()
            .map(|address| Ok(Node { address: address.clone(), endpoint: endpoint(address, options)? }))
            .collect::<Result<Vec<Node>, ClientError>>()?;
        Ok(Self {
            nodes,
            authorization: basic_authorization(options)?,
            deadline: options.deadline,
            current: Mutex::new((0, None)),
        })
    }

    /// Sends `message` with `send` until it is answered, refused, or the deadline is over.
    pub(crate) async fn call<M, R, S, F>(&self, repeat: Repeat, message: M, send: S) -> Result<R, ClientError>
    where
        M: Clone,
        S: Fn(Channel, Request<M>) -> F,
        F: Future<Output = Result<Response<R>, Status>>,
    {
        let deadline = Instant::now() + self.deadline;
        let mut pause = PAUSE_FIRST;
        let mut attempts = 0;
        loop {
            let (channel, address) = match self.channel(deadline).await {
                Ok(found) => found,
                Err(error) => {
                    self.pause(&mut pause, deadline).await.ok_or(error)?;
                    continue;
                }
            };
            let mut request = Request::new(message.clone());
            request.metadata_mut().insert("authorization", self.authorization.clone());
            let patience = self.attempt_timeout(deadline);
            let error = match timeout(patience, send(channel, request)).await {
                Ok(Ok(response)) => return Ok(response.into_inner()),
                Ok(Err(status)) if !is_worth_repeating(&status) => {
                    return Err(ClientError::from_status(&status));
                }
                Ok(Err(status)) if repeat == Repeat::Unsafe => {
                    return Err(unsure(&address, &status));
                }
                Ok(Err(status)) => ClientError::Unreachable(sentence(&address, &status)),
                Err(_) if repeat == Repeat::Unsafe => {
                    return Err(ClientError::Unknown(format!("{address} did not answer in time")));
                }
                Err(_) => ClientError::Unreachable(format!("{address} did not answer in time")),
            };
            self.leave(&address);
            attempts += 1;
            // Each node is asked once without delay; only then is there reason to wait.
            if attempts % self.nodes.len() == 0 || Instant::now() >= deadline {
                self.pause(&mut pause, deadline).await.ok_or(error)?;
            }
        }
    }

    /// Waits before the next round; `None` if the deadline would be over.
    async fn pause(&self, pause: &mut Duration, deadline: Instant) -> Option<()> {
        let wait = pause.mul_f64(0.5 + 0.5 * random_fraction());
        if Instant::now() + wait >= deadline {
            return None;
        }
        sleep(wait).await;
        *pause = (*pause * 2).min(PAUSE_MAX);
        Some(())
    }

    /// A node that hangs must leave time for another one.
    fn attempt_timeout(&self, deadline: Instant) -> Duration {
        let left = deadline.saturating_duration_since(Instant::now());
        if self.nodes.len() > 1 { left.min(self.deadline.div_f64(2.0)) } else { left }
    }

    /// A connection, to the node that worked last if it still does, and that node's address.
    async fn channel(&self, deadline: Instant) -> Result<(Channel, String), ClientError> {
        let (preferred, known) = self.current();
        if let Some(channel) = known {
            return Ok((channel, self.nodes[preferred].address.clone()));
        }
        let mut failures = Vec::new();
        for at in 0..self.nodes.len() {
            let at = (preferred + at) % self.nodes.len();
            let node = &self.nodes[at];
            let left = deadline.saturating_duration_since(Instant::now());
            match timeout(left, node.endpoint.connect()).await {
                Ok(Ok(channel)) => {
                    self.set_current(at, Some(channel.clone()));
                    return Ok((channel, node.address.clone()));
                }
                Ok(Err(error)) => failures.push(format!("{} ({})", node.address, root_cause(&error))),
                Err(_) => failures.push(format!("{} (timed out)", node.address)),
            }
        }
        Err(ClientError::Unreachable(format!("no node can be reached: {}", failures.join(", "))))
    }

    /// Prefers the node after `address` from now on, unless somebody else already moved on.
    fn leave(&self, address: &str) {
        let (at, _) = self.current();
        if self.nodes[at].address == address {
            self.set_current((at + 1) % self.nodes.len(), None);
        }
    }

    fn current(&self) -> (usize, Option<Channel>) {
        self.current.lock().expect("nobody panics while holding this lock").clone()
    }

    fn set_current(&self, at: usize, channel: Option<Channel>) {
        *self.current.lock().expect("nobody panics while holding this lock") = (at, channel);
    }
}

fn endpoint(address: &str, options: &Options) -> Result<Endpoint, ClientError> {
    let scheme = if options.tls.is_some() { "https" } else { "http" };
    let invalid = || ClientError::Options(format!("'{address}' is not an address like host:port"));
    let has_port = address
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok());
    if !has_port {
        return Err(invalid());
    }
    let endpoint = Endpoint::from_shared(format!("{scheme}://{address}"))
        .map_err(|_| invalid())?
        .connect_timeout(options.connect_timeout)
        .http2_keep_alive_interval(KEEP_ALIVE_EVERY)
        .keep_alive_timeout(KEEP_ALIVE_EVERY)
        .tcp_nodelay(true)
        .user_agent(concat!("keyward-client/", env!("CARGO_PKG_VERSION")))
        .map_err(|_| invalid())?;
    match &options.tls {
        None => Ok(endpoint),
        Some(tls) => endpoint
            .tls_config(tls_config(tls))
            .map_err(|error| ClientError::Options(format!("TLS: {}", root_cause(&error)))),
    }
}

fn tls_config(tls: &Tls) -> ClientTlsConfig {
    let mut config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&tls.authority_pem));
    if let Some((certificate, key)) = &tls.identity_pem {
        config = config.identity(Identity::from_pem(certificate, key));
    }
    if let Some(name) = &tls.server_name {
        config = config.domain_name(name);
    }
    config
}

fn basic_authorization(options: &Options) -> Result<MetadataValue<tonic::metadata::Ascii>, ClientError> {
    let credentials = &options.credentials;
    if credentials.user.contains(':') {
        let text = "a user whose name contains ':' cannot log in here: basic credentials end the name there";
        return Err(ClientError::Options(text.to_owned()));
    }
    let plain = format!("{}:{}", credentials.user, credentials.password);
    let encoded = base64::engine::general_purpose::STANDARD.encode(plain);
    let mut value = MetadataValue::try_from(format!("Basic {encoded}"))
        .expect("base64 consists of characters that metadata may hold");
    value.set_sensitive(true);
    Ok(value)
}

/// Whether another node, or the same a little later, may well answer otherwise.
fn is_worth_repeating(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable | Code::Aborted | Code::DeadlineExceeded | Code::Cancelled => true,
        // The connection broke, rather than the node answering with this code.
        Code::Unknown | Code::Internal => std::error::Error::source(status).is_some(),
        _ => false,
    }
}

/// A node that says `UNAVAILABLE` itself has done nothing; a broken connection says nothing.
fn unsure(address: &str, status: &Status) -> ClientError {
    let said_by_node = std::error::Error::source(status).is_none();
    if said_by_node && status.code() == Code::Unavailable {
        ClientError::Unreachable(sentence(address, status))
    } else {
        ClientError::Unknown(sentence(address, status))
    }
}

fn sentence(address: &str, status: &Status) -> String {
    match std::error::Error::source(status) {
        Some(source) => format!("{address}: {}", root_cause(source)),
        None => format!("{address}: {}", status.message()),
    }
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

/// Sixteen random bytes: one request, however often it is sent.
pub(crate) fn new_request_id() -> Vec<u8> {
    let mut id = vec![0; 16];
    getrandom::fill(&mut id).expect("the operating system gives random bytes");
    id
}

/// Between 0 and 1, so that clients do not come back all at once.
fn random_fraction() -> f64 {
    let mut byte = [0];
    getrandom::fill(&mut byte).expect("the operating system gives random bytes");
    f64::from(byte[0]) / 255.0
}
