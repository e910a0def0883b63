//! What a client has to be told: where, as whom, how securely, how patiently.

use std::fmt;
use std::time::Duration;

/// How to reach a cluster.
#[derive(Debug, Clone)]
pub struct Options {
    /// Admin addresses of some nodes, as `host:port`. Tried in this order.
    pub addresses: Vec<String>,
    /// Who calls.
    pub credentials: Credentials,
    /// Encrypts and authenticates the connection; without it everything travels in the clear.
    pub tls: Option<Tls>,
    /// How long a call may take, all attempts together.
    pub deadline: Duration,
    /// How long to wait for a connection to one node. Short, since the next one may well answer.
    pub connect_timeout: Duration,
}

impl Options {
    /// Options with the usual patience: 15 s for a call, 2 s for a connection.
    pub fn new<A: Into<String>>(addresses: impl IntoIterator<Item = A>, credentials: Credentials) -> Self {
        Self {
            addresses: addresses.into_iter().map(Into::into).collect(),
            credentials,
            tls: None,
            deadline: Duration::from_secs(15),
            connect_timeout: Duration::from_secs(2),
        }
    }
}

/// A user of the cluster and its password.
#[derive(Clone)]
pub struct Credentials {
    pub(crate) user: String,
    pub(crate) password: String,
}

impl Credentials {
    /// An empty password is right for a user with `nopass`.
    pub fn new(user: impl Into<String>, password: impl Into<String>) -> Self {
        Self { user: user.into(), password: password.into() }
    }
}

/// Without the password: options get printed.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

/// What TLS needs, in PEM.
#[derive(Clone, Default)]
pub struct Tls {
    /// The authority that signed the nodes' certificates.
    pub authority_pem: Vec<u8>,
    /// Our own certificate and key, if the nodes ask for one.
    pub identity_pem: Option<(Vec<u8>, Vec<u8>)>,
    /// The name to expect in a node's certificate, if it is not the host of its address.
    pub server_name: Option<String>,
}

/// Without the key.
impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}
