//! The command line, and the options it stands for. Passwords are never taken from it: everybody on the
//! machine can read it.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use keyward_client::{ClientError, Credentials, Options, Tls};

const EXIT_CODES: &str = "Exit codes:
  0  done
  1  refused, not found, denied, or not by all nodes
  2  wrong usage
  3  wrong password, or not permitted
  4  no node reachable, or the answer was lost: whether it was done is not known";

/// Talks to a Keyward cluster.
#[derive(Debug, Parser)]
#[command(name = "keywardctl", version, max_term_width = 100, after_help = EXIT_CODES)]
pub struct Arguments {
    #[command(flatten)]
    connection: Connection,

    /// How to print results.
    #[arg(long, short, global = true, value_enum, default_value_t = Output::Table)]
    pub output: Output,

    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Args)]
struct Connection {
    /// Admin address of a node, host:port. Repeat it to name several: the first that answers is used.
    #[arg(long, global = true, env = "KEYWARD_ADDR", value_delimiter = ',', default_value = "127.0.0.1:7379")]
    addr: Vec<String>,

    /// Log in as this user. Its password is read from --password-file, --password-stdin or the environment
    /// variable KEYWARD_PASSWORD, and is empty without any of them.
    #[arg(long, short, global = true, env = "KEYWARD_USER", default_value = "default")]
    user: String,

    /// Read the password from this file.
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "password_stdin")]
    password_file: Option<PathBuf>,

    /// Read the password from standard input.
    #[arg(long, global = true)]
    password_stdin: bool,

    /// Connect with TLS and trust the authority in this PEM file.
    #[arg(long, global = true, value_name = "FILE")]
    tls_ca: Option<PathBuf>,

    /// Our certificate, PEM.
    #[arg(long, global = true, value_name = "FILE", requires = "tls_ca", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// The key to our certificate, PEM.
    #[arg(long, global = true, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// The name to expect in the node's certificate.
    #[arg(long, global = true, value_name = "NAME", requires = "tls_ca")]
    tls_server_name: Option<String>,

    /// Give up after this many seconds.
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 15,
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Columns for people.
    Table,
    /// JSON for scripts; a followed history is one object a line.
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Users and their rules.
    #[command(subcommand)]
    User(UserCommand),
    /// What was denied.
    #[command(subcommand)]
    Acl(AclCommand),
    /// The smallest rules that allow what a user was seen doing, and what of its rights it never used.
    ///
    /// Users are watched while their rule says mode=report, or all of them with the setting record-traffic.
    Advise {
        /// The user.
        name: String,
    },
    /// What is the matter with a user who does not get in or is denied, and what mends it.
    Doctor {
        /// The user.
        name: String,
    },
    /// What each tenant used in a month, all nodes together.
    ///
    /// With --csv by day and node, for whoever writes bills; with --output json the same as JSON.
    Usage {
        /// The month, such as 2026-11; without it, the current one.
        #[arg(long, value_name = "YYYY-MM", default_value = "", value_parser = month)]
        month: String,
        /// Comma-separated values, a line for each day, tenant and node.
        #[arg(long)]
        csv: bool,
    },
    /// Tenants: who owns which keys, and what each may use.
    #[command(subcommand)]
    Tenant(TenantCommand),
    /// The nodes of the cluster.
    #[command(subcommand)]
    Node(NodeCommand),
    /// The cluster as the answering node sees it.
    Status,
    /// Changes to the cluster, oldest first.
    History {
        /// Only changes after this index.
        #[arg(long, value_name = "INDEX", default_value_t = 0)]
        since: u64,
        /// At most so many, the newest.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
        /// Go on printing changes as they happen.
        #[arg(long, short)]
        follow: bool,
    },
    /// Have another node serve the data: a planned move, without an error and without loss.
    Failover {
        /// The next primary, by id or name; without it the cluster chooses.
        #[arg(long, value_name = "NODE")]
        to: Option<String>,
        /// The primary is gone and does not come back: name --to although it may lack acknowledged writes.
        #[arg(long, requires = "to")]
        accept_loss: bool,
        /// The shard group.
        #[arg(long, default_value_t = 0)]
        group: u32,
    },
    /// Spread the primaries of the shard groups evenly over the nodes: planned moves, one after the other.
    Rebalance,
    /// Slots of the shard groups, and moving them.
    #[command(subcommand)]
    Slots(SlotsCommand),
    /// Hand a duty from one node to another.
    #[command(subcommand)]
    Handover(HandoverCommand),
    /// Snapshots of the data.
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
    Import(crate::import::ImportArguments),
    /// Print completions for a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
}

#[derive(Debug, Subcommand)]
pub enum UserCommand {
    /// All users.
    List,
    /// One user.
    Get {
        /// Its name.
        name: String,
    },
    /// Create a user or change it: all rules or none.
    ///
    /// Rules are those of ACL SETUSER. To keep a password out of the list of processes, give rules on
    /// standard input, one a line:  echo '>secret' | keywardctl user set --rules-stdin alice on
    Set {
        /// Start from nothing instead of from what the user has now.
        #[arg(long)]
        reset: bool,
        /// Read more rules from standard input, one a line.
        #[arg(long)]
        rules_stdin: bool,
        /// Its name.
        name: String,
        /// Rules, such as on '~app:*' +@read. Options go before them.
        #[arg(allow_hyphen_values = true, trailing_var_arg = true)]
        rules: Vec<String>,
    },
    /// Delete users and close their connections.
    Delete {
        /// Their names.
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Ask whether a user may run a command, without running it.
    DryRun {
        /// The user.
        name: String,
        /// The command and its arguments.
        #[arg(required = true, allow_hyphen_values = true, trailing_var_arg = true)]
        command: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
pub enum AclCommand {
    /// What was denied, and which logins failed, on every node: newest first.
    Log {
        /// Only of this user.
        #[arg(long, value_name = "NAME", default_value = "")]
        of: String,
        /// At most so many.
        #[arg(long, default_value_t = 100)]
        limit: u32,
    },
}

#[derive(Debug, Subcommand)]
pub enum TenantCommand {
    /// All tenants.
    List,
    /// One tenant.
    Get {
        /// Its name.
        name: String,
    },
    /// What tenants use, on each node and on all together: what TENANT STATS says of one node.
    ///
    /// Keys and memory of all nodes are those that are served, not their copies.
    Stats {
        /// Every figure of this one, by node; without it, the chief ones of each tenant.
        name: Option<String>,
    },
    /// Create a tenant.
    ///
    /// keywardctl tenant create gw prefix gw: user gw-user limit 1gb eviction allkeys-lru
    /// keywardctl tenant create langfuse namespace user langfuse reserve 512mb eviction noeviction
    Create {
        /// Its name.
        name: String,
        /// What TENANT CREATE takes.
        #[arg(required = true, trailing_var_arg = true)]
        arguments: Vec<String>,
    },
    /// Change a tenant: everything or nothing.
    ///
    /// keywardctl tenant set gw limit 2gb nouser old-user
    Set {
        /// Its name.
        name: String,
        /// What TENANT SET takes.
        #[arg(required = true, trailing_var_arg = true)]
        arguments: Vec<String>,
    },
    /// Have one shard group hold all keys of a tenant, whatever their slots, while they are used.
    Move {
        /// Its name.
        name: String,
        /// The shard group.
        #[arg(long, value_name = "GROUP")]
        to: u32,
        /// Do not wait until it is there.
        #[arg(long)]
        no_wait: bool,
    },
    /// Delete a retired tenant with its users.
    Delete {
        /// Its name.
        name: String,
        /// Delete its keys too.
        #[arg(long)]
        purge: bool,
    },
}

#[derive(Debug, Subcommand)]
pub enum SlotsCommand {
    /// Which group has which slots, and what is moved.
    List,
    /// Move slots to another shard group, while they are used.
    ///
    /// keywardctl slots move 0-999 --to 2
    Move {
        /// One slot, or the first and the last of a range, which must be of one group.
        #[arg(value_name = "FIRST-LAST", value_parser = slot_range)]
        slots: (u32, u32),
        /// The shard group.
        #[arg(long, value_name = "GROUP")]
        to: u32,
        /// Do not wait until they are there.
        #[arg(long)]
        no_wait: bool,
    },
    /// End the move that is under way: everything stays where it was.
    Abort,
}

fn month(text: &str) -> Result<String, String> {
    let is_month = |text: &str| {
        let (year, month) = text.split_once('-')?;
        let number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit()).then(|| part.parse::<u32>().ok())?;
        (year.len() == 4 && number(year).is_some() && month.len() == 2).then_some(number(month)?)
    };
    // Nothing is the current one.
    if text.is_empty() || is_month(text).is_some_and(|month| (1..=12).contains(&month)) {
        return Ok(text.to_owned());
    }
    Err("a month looks like 2026-11".to_owned())
}

fn slot_range(text: &str) -> Result<(u32, u32), String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let slot = |text: &str| text.parse().ok().filter(|slot| *slot < 16384);
    match (slot(first), slot(last)) {
        (Some(first), Some(last)) if first <= last => Ok((first, last)),
        _ => Err("slots are numbered from 0 to 16383: say 5, or 0-99".to_owned()),
    }
}

#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// All nodes.
    List,
    /// Take a running node that waits to join into the cluster.
    Add {
        /// Where the other nodes reach it, host:port.
        peer_address: String,
        /// Refuse if the node has another name.
        #[arg(long, default_value = "")]
        name: String,
    },
    /// Retire a node for ever.
    Remove {
        /// Its id or name.
        node: String,
    },
}

#[derive(Debug, Subcommand)]
pub enum HandoverCommand {
    /// Another node serves the data.
    Primary {
        /// The next primary, by id or name; without it the cluster chooses.
        #[arg(long, value_name = "NODE")]
        to: Option<String>,
        /// The shard group.
        #[arg(long, default_value_t = 0)]
        group: u32,
    },
    /// Another node orders the changes.
    Leader {
        /// The next leader, by id or name; without it the cluster chooses.
        #[arg(long, value_name = "NODE")]
        to: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub enum SnapshotCommand {
    /// Save the data now.
    Save {
        /// Return when it is on disk.
        #[arg(long)]
        wait: bool,
        /// On this node, by id or name; without it, on the primary.
        #[arg(long)]
        node: Option<String>,
    },
    /// The snapshots on disk.
    List {
        /// On this node, by id or name; without it, on the primary.
        #[arg(long)]
        node: Option<String>,
    },
}

impl Arguments {
    /// What the client needs to know. Reads the password and certificates.
    pub fn options(&self) -> Result<Options, ClientError> {
        let connection = &self.connection;
        if connection.password_stdin
            && matches!(&self.command, Command::User(UserCommand::Set { rules_stdin: true, .. }))
        {
            let text = "--password-stdin and --rules-stdin cannot both read standard input";
            return Err(ClientError::Options(text.to_owned()));
        }
        let credentials = Credentials::new(&connection.user, connection.password()?);
        let mut options = Options::new(connection.addr.iter().map(|addr| addr.trim()), credentials);
        options.deadline = Duration::from_secs(connection.timeout);
        if let Command::Import(import) = &self.command {
            options.deadline = options.deadline.max(import.deadline().unwrap_or_default());
        }
        options.tls = connection.tls()?;
        Ok(options)
    }
}

impl Connection {
    fn password(&self) -> Result<String, ClientError> {
        let text = if self.password_stdin {
            let mut text = String::new();
            std::io::stdin()
                .read_to_string(&mut text)
                .map_err(|error| ClientError::Options(format!("standard input: {error}")))?;
            text
        } else if let Some(path) = &self.password_file {
            String::from_utf8(read(path)?)
                .map_err(|_| ClientError::Options(format!("{}: a password must be UTF-8", path.display())))?
        } else {
            return Ok(std::env::var("KEYWARD_PASSWORD").unwrap_or_default());
        };
        // Editors and `echo` end a line that the password has not.
        let text = text.strip_suffix('\n').unwrap_or(&text);
        Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
    }

    fn tls(&self) -> Result<Option<Tls>, ClientError> {
        let Some(authority) = &self.tls_ca else { return Ok(None) };
        let identity_pem = match (&self.tls_cert, &self.tls_key) {
            (Some(certificate), Some(key)) => Some((read(certificate)?, read(key)?)),
            _ => None,
        };
        let server_name = self.tls_server_name.clone();
        Ok(Some(Tls { authority_pem: read(authority)?, identity_pem, server_name }))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, ClientError> {
    fs::read(path).map_err(|error| ClientError::Options(format!("{}: {error}", path.display())))
}
