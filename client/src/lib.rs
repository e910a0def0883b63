//! A Keyward cluster from outside, for operators: a typed client of the admin service, and `keywardctl` on
//! top of it.
//!
//! ```no_run
//! # async fn example() -> Result<(), keyward_client::ClientError> {
//! use keyward_client::{AdminClient, Credentials, Options};
//!
//! let options = Options::new(["127.0.0.1:7379", "127.0.0.1:7380"], Credentials::new("default", ""));
//! let client = AdminClient::new(options)?;
//! client.set_user("litellm", &["on", ">secret", "~litellm:*", "+@all"], false).await?;
//! # Ok(())
//! # }
//! ```
//!
//! Any node answers any call, so the client needs no leader: it stays with a node that works and goes on to
//! the next when that one does not. What may be sent twice safely is sent again until a deadline; what may
//! not is sent once. What a command *means* is the cluster's business: nothing is checked here.

mod admin;
mod error;
mod link;
mod options;
mod watch;

pub use admin::AdminClient;
pub use error::ClientError;
pub use keyward_proto::admin as messages;
pub use options::{Credentials, Options, Tls};
pub use watch::ChangeWatch;
