//! The node behind the admin port: what the services ask for, asked of the rooms that have it. The one file of this
//! folder that knows them.

use std::sync::Arc;
use std::time::Duration;

use keyward_acl::{LogContext, LogEvent, LogReason, UserChange};
use keyward_cluster::{Change, GroupId, ImportPlan, MoveChange, NodeId, Outcome, State, TenantGrant, TenantRefusal};
use keyward_engine::args::Args;
use keyward_engine::asks::{Ask, TenantAsk};
use keyward_engine::command::Run;
use keyward_engine::error::CommandError;
use keyward_engine::reply::{Protocol, Reply};
use keyward_engine::scope::Reach;
use keyward_engine::session::{Login, Session, Surroundings};
use keyward_engine::table::Resolved;
use keyward_proto::admin as pb;
use keyward_proto::admin::node_question::Question;
use keyward_proto::admin::{AdviseResponse, DiagnoseResponse, ListDenialsResponse};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::{Certificate, Identity, ServerTlsConfig};

use super::auth::without_code;
use super::backend::{AdminBackend, AdminFailure, ControlStatus, Member, Origin, SnapshotFile, SnapshotList};
use crate::backend::Facts;
use crate::config::Config;
use crate::control::{self, ControlError, InviteError};
use crate::gate::{Conditions, KeyBuffer, LeaseState, Refusal, admit};
use crate::http::HttpFacts;
use crate::import;
use crate::insight::audit::AuditEvent;
use crate::insight::shares::Doer;
use crate::insight::{self, Answered};
use crate::node::{Node, now_ms};
use crate::tenants::ChangeError;
use crate::view::View;

/// What a look at the cluster waits for the leader.
const STANDINGS_TIMEOUT: Duration = Duration::from_millis(500);

/// How long a new leader is waited for.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long somebody may take to come in sync before a group is handed over: as long as until a leader has heard of it.
const READY_WAIT: Duration = Duration::from_secs(2);

/// How long the view of a change may take to be compiled, and how often to look.
const VISIBLE_TIMEOUT: Duration = Duration::from_secs(1);
const VISIBLE_PAUSE: Duration = Duration::from_millis(1);

/// The node, as the admin services see it.
pub struct NodeBackend {
    node: Arc<Node>,
}

impl NodeBackend {
    /// The admin port's view of `node`.
    pub fn new(node: Arc<Node>) -> Self {
        Self { node }
    }

    /// A session like a client's, for one command.
    fn session(&self, login: Option<Login>, peer: &str) -> Session {
        Session::new(0, peer.to_owned(), self.node.config.admin_bind.to_string(), now_ms(), login)
    }

    /// Waits, briefly, until requests here see the change `index`: it is applied, but the view of it is compiled by
    /// another task, and the answer to this call is read off that view.
    async fn wait_visible(&self, index: u64) {
        let deadline = Instant::now() + VISIBLE_TIMEOUT;
        while self.node.views.load().1.index < index && Instant::now() < deadline {
            sleep(VISIBLE_PAUSE).await;
        }
    }

    /// Notes a refusal in ACL LOG.
    fn note(&self, reason: LogReason, object: &[u8], username: &[u8], session: &Session) {
        let client = crate::clients::info(session, now_ms());
        let client_info = client.as_bytes();
        let owner = &crate::acl_log::owner(session);
        let event = LogEvent { owner, reason, context: LogContext::Toplevel, object, username, client_info };
        self.node.acl_log.lock().record(&event, now_ms().unsigned_abs());
    }

    /// Runs `run` on what the command table makes of `argv`, with what a handler may look at.
    fn with_command<T>(
        &self,
        argv: &[&[u8]],
        run: impl FnOnce(Resolved<'static>, &Surroundings<'_>) -> Result<T, CommandError>,
    ) -> Result<T, CommandError> {
        let resolved = self.node.table.resolve(argv)?;
        let (_, view) = self.node.views.load();
        run(resolved, &self.surroundings(&view))
    }

    fn surroundings<'v>(&self, view: &'v View) -> Surroundings<'v> {
        Surroundings {
            table: self.node.table,
            reach: Reach::Everything,
            walls: self.node.config.walls(),
            directory: view.state.directory(),
            policy_version: view.index,
            now_us: now_ms() * 1000,
            random: crate::random::bytes,
            databases: self.node.config.databases,
            value_bytes_max: self.node.live.hot().value_bytes_max,
            pattern_bytes_max: self.node.live.hot().limits.pattern_bytes_max,
            new_users_get_channels: self.node.live.hot().new_users_get_channels,
            topology: &view.topology,
            serves: self.node.lease_state() == LeaseState::InForce,
            tenancy: &view.tenancy,
            position: self.node.replication.log.position(),
        }
    }
}

#[tonic::async_trait]
impl AdminBackend for NodeBackend {
    type Login = Login;

    fn login(&self, user: &[u8], password: &[u8], peer: &str) -> Option<Login> {
        let (_, view) = self.node.views.load();
        match view.state.directory().authenticate(user, password) {
            Ok(known) => view.login(known.name.as_bytes()).cloned(),
            Err(failure) => {
                let cause = failure.cause();
                self.node.audit.note(
                    AuditEvent::Auth,
                    || Doer::stranger(peer),
                    now_ms(),
                    |line| {
                        let line = line.bytes("user", user).word("client", peer).word("door", Origin::SOURCE);
                        line.word("outcome", "failure").word("cause", cause)
                    },
                );
                tracing::warn!(client = %peer, user = %user.escape_ascii(), cause, "admin login failed");
                self.note(LogReason::Auth, b"AUTH", user, &self.session(None, peer));
                None
            }
        }
    }

    fn renew(&self, login: &Login) -> Option<Login> {
        self.node.views.load().1.renew(&login.user)
    }

    fn permit(&self, login: &Login, argv: &[&[u8]], peer: &str) -> Result<(), AdminFailure> {
        self.permit_call(login, argv, peer, None)
    }

    fn permit_call(&self, login: &Login, argv: &[&[u8]], peer: &str, call: Option<&str>) -> Result<(), AdminFailure> {
        let row = self.node.table.resolve(argv).map_err(|error| AdminFailure::Invalid(error.to_string()))?.row;
        let session = self.session(Some(login.clone()), peer);
        let detail = self.node.live.hot().detail;
        // No admin call touches data, so where that is served and whether it fits does not matter here.
        let conditions = Conditions { lease: self.node.lease_state(), ..Conditions::fair(detail) };
        let mut buffer = KeyBuffer::new();
        let note = |event, outcome: &str| {
            let doer = || match event {
                AuditEvent::Denial => Doer::of(&session),
                _ => Doer::of_administrator(&session),
            };
            self.node.audit.note(event, doer, now_ms(), |line| {
                let line = line.bytes("user", session.user_name()).word("client", peer).word("door", Origin::SOURCE);
                let line = match call {
                    Some(call) => line.word("call", call),
                    None => line,
                };
                line.word("command", row.full_name).word("outcome", outcome)
            });
        };
        match admit(self.node.table, row, argv, &session, &conditions, &mut buffer) {
            // What an admin call tells is about everybody.
            Ok(_) if login.policy.is_confined_for(row.id) => {
                note(AuditEvent::Denial, "denied");
                let user = &login.user.name;
                Err(AdminFailure::Denied(format!(
                    "NOPERM User {user} does not hold every key (~*), as admin calls need"
                )))
            }
            Ok(_) => {
                note(AuditEvent::Admin, "allowed");
                Ok(())
            }
            // No rule speaks against it: another node may do it now, and this one later.
            Err(refusal @ (Refusal::LeaseOver | Refusal::Loading | Refusal::Busy)) => {
                Err(AdminFailure::Unavailable(refusal.text(detail)))
            }
            Err(refusal) => {
                note(AuditEvent::Denial, "denied");
                if let Refusal::Denied(denial) = &refusal {
                    self.note(denial.log_reason(), &denial.object, session.user_name(), &session);
                }
                Err(AdminFailure::Denied(refusal.text(detail)))
            }
        }
    }

    fn answer(&self, login: &Login, argv: &[&[u8]]) -> Vec<u8> {
        let mut session = self.session(Some(login.clone()), "");
        let mut reply = Reply::new(Protocol::Resp3);
        let answered = self.with_command(argv, |resolved, surroundings| match resolved.row.run {
            Run::OnSession(handler) => handler(&mut session, surroundings, Args::new(argv, resolved.words), &mut reply),
            _ => Err(CommandError::err("this command is not answered here")),
        });
        if let Err(error) = answered {
            reply.command_error(&error);
        }
        reply.bytes
    }

    fn user_change(&self, login: &Login, argv: &[&[u8]]) -> Result<UserChange, AdminFailure> {
        let session = self.session(Some(login.clone()), "");
        let asked = self.with_command(argv, |resolved, surroundings| match resolved.row.run {
            Run::Ask(handler) => handler(&session, surroundings, Args::new(argv, resolved.words)),
            _ => Err(CommandError::err("this command changes no user")),
        });
        match asked {
            Ok(Ask::ChangeUsers { change, .. }) => Ok(change),
            Ok(_) => Err(AdminFailure::Invalid("this command changes no user".to_owned())),
            Err(error) => Err(AdminFailure::Invalid(error.to_string())),
        }
    }

    async fn propose_users(&self, change: UserChange, origin: Origin) -> Result<Outcome, AdminFailure> {
        let request = origin.request;
        let proposed = self.node.control.propose_as(Change::User(change), door(origin), request);
        let committed = proposed.await?;
        self.wait_visible(committed.index).await;
        Ok(committed.outcome)
    }

    fn tenant_ask(&self, login: &Login, argv: &[&[u8]]) -> Result<TenantAsk, AdminFailure> {
        let asked = self.with_command(argv, |resolved, surroundings| match resolved.row.run {
            Run::Ask(handler) => {
                let session = self.session(Some(login.clone()), "");
                handler(&session, surroundings, Args::new(argv, resolved.words))
            }
            _ => Err(CommandError::Syntax),
        });
        match asked {
            Ok(Ask::Tenant(ask)) => Ok(ask),
            Ok(_) => Err(AdminFailure::Invalid("this command changes no tenant".to_owned())),
            Err(CommandError::Text(text)) if text.starts_with("NOPERM") => Err(AdminFailure::Denied(text.into_owned())),
            Err(error) => Err(AdminFailure::Invalid(error.to_string())),
        }
    }

    async fn change_tenant(&self, ask: TenantAsk, origin: Origin) -> Result<(), AdminFailure> {
        let Origin { actor, .. } = origin;
        crate::tenants::change(&self.node, ask, actor, Origin::SOURCE.to_owned()).await.map_err(|error| {
            let text = without_code(&error.to_string()).to_owned();
            match error {
                ChangeError::Unavailable(_) => AdminFailure::Unavailable(text),
                ChangeError::Refused(TenantRefusal::Unknown(_)) => AdminFailure::NotFound(text),
                ChangeError::Refused(TenantRefusal::Invalid(_)) => AdminFailure::Invalid(text),
                ChangeError::Refused(_) => AdminFailure::Refused(text),
            }
        })
    }

    fn import_waits_for(&self, tenant: &str, import: &TenantGrant) -> Option<String> {
        let (_, view) = self.node.views.load();
        let tenant = view.tenancy.named(tenant.as_bytes())?;
        view.tenancy.waits_for(tenant, &crate::tenants::grant(import))
    }

    fn state(&self) -> Arc<State> {
        Arc::clone(&self.node.views.load().1.state)
    }

    async fn state_past(&self, index: u64) -> Arc<State> {
        let mut views = self.node.control.views();
        // The borrow of a view must not live across the second wait, so only the state leaves the first.
        let found = views.wait_for(|view| view.index > index).await.map(|view| Arc::clone(&view.state));
        match found {
            Ok(state) => state,
            // The control plane has ended, and nothing more will ever be applied.
            Err(_) => std::future::pending().await,
        }
    }

    fn node_id(&self) -> Option<NodeId> {
        self.node.control.view().node
    }

    async fn control(&self) -> Result<ControlStatus, AdminFailure> {
        let status = self.node.control.status().await?;
        let members = status.nodes.into_iter().map(|node| {
            let member = Member { voter: node.voter, applied_index: node.applied_index };
            (node.info.id, member)
        });
        let members = members.collect();
        let standings = timeout(STANDINGS_TIMEOUT, self.node.control.standings()).await;
        let standings = standings.ok().and_then(Result::ok).unwrap_or_default();
        Ok(ControlStatus { leader: status.leader, term: status.term, members, standings })
    }

    fn readiness(&self) -> Result<(), String> {
        // What probes are told: a node must not be ready for one door and not for another.
        Facts(Arc::clone(&self.node)).ready()
    }

    async fn add_node(&self, peer_address: &str, name: Option<&str>, origin: Origin) -> Result<NodeId, AdminFailure> {
        tracing::info!(peer_address, actor = origin.actor, "inviting a node");
        let invited = self.node.control.invite(peer_address.to_owned(), name.map(str::to_owned)).await;
        invited.map_err(|error| match error {
            InviteError::Refused(text) => AdminFailure::Refused(text),
            InviteError::Late(text) => AdminFailure::Unknown(text),
            InviteError::Unavailable(text) => AdminFailure::Unavailable(text),
        })
    }

    async fn remove_node(&self, node: NodeId, origin: Origin) -> Result<(), AdminFailure> {
        match self.node.control.remove_node(node, door(origin)).await?.outcome {
            Outcome::Refused(refusal) => Err(AdminFailure::Refused(refusal.to_string())),
            _ => Ok(()),
        }
    }

    async fn transfer_leadership(&self, to: Option<NodeId>) -> Result<NodeId, AdminFailure> {
        let mut views = self.node.control.views();
        let before = self.node.control.view().leader;
        if let Some(leader) = before.filter(|leader| to == Some(*leader)) {
            return Ok(leader);
        }
        self.node.control.transfer_leadership(to).await?;
        let arrived = views.wait_for(|view| match to {
            Some(to) => view.leader == Some(to),
            None => view.leader.is_some() && view.leader != before,
        });
        let leader = match timeout(HANDOVER_TIMEOUT, arrived).await {
            Ok(Ok(view)) => view.leader,
            _ => None,
        };
        leader.ok_or_else(|| AdminFailure::Unknown("no new leader was seen in time".to_owned()))
    }

    async fn move_primary(
        &self,
        group: GroupId,
        to: Option<NodeId>,
        accept_loss: bool,
        origin: Origin,
    ) -> Result<(), AdminFailure> {
        if accept_loss && to.is_none() {
            return Err(AdminFailure::Invalid("whoever accepts loss names the node that is to serve".to_owned()));
        }
        if accept_loss {
            tracing::warn!(group = group.0, to = ?to, actor = origin.actor, "an unclean failover was asked for");
        }
        self.node.control.move_primary(group, to, (accept_loss, READY_WAIT), origin.actor).await?;
        Ok(())
    }

    async fn change_move(&self, change: MoveChange, origin: Origin) -> Result<(), AdminFailure> {
        match self.node.control.propose(Change::Move(change), door(origin)).await?.outcome {
            Outcome::Refused(refusal) => Err(AdminFailure::Refused(refusal.to_string())),
            _ => Ok(()),
        }
    }

    async fn save(&self, wait: bool) -> Result<Option<SnapshotFile>, AdminFailure> {
        if !wait {
            let text = "a save is running already";
            let begun = self.node.snapshots.request();
            return if begun { Ok(None) } else { Err(AdminFailure::Refused(text.to_owned())) };
        }
        crate::snapshot::save(&self.node).await.map_err(AdminFailure::Refused)?;
        let files = self.snapshots().await?.files;
        Ok(files.into_iter().max_by_key(|file| file.saved_unix_ms))
    }

    async fn snapshots(&self) -> Result<SnapshotList, AdminFailure> {
        let (folder, name) = (self.node.config.data_dir.clone(), self.node.config.dbfilename.clone());
        let listed = tokio::task::spawn_blocking(move || snapshot_files(&folder, &name)).await;
        let failed = |error: String| AdminFailure::Unavailable(format!("the data folder cannot be read: {error}"));
        let files = listed.map_err(|error| failed(error.to_string()))?.map_err(|error| failed(error.to_string()))?;
        let snapshots = &self.node.snapshots;
        let last_save_ms = u64::try_from(snapshots.last_save_ms()).unwrap_or(0);
        Ok(SnapshotList {
            files,
            saving: snapshots.is_running(),
            last_save_unix_ms: Some(last_save_ms).filter(|ms| *ms > 0),
            last_error: (!snapshots.last_succeeded()).then(|| "see the log of the node".to_owned()),
        })
    }

    async fn start_import(
        &self,
        plan: ImportPlan,
        credentials: import::Credentials,
        origin: Origin,
    ) -> Result<pb::Import, AdminFailure> {
        let node = Arc::clone(&self.node);
        patiently(origin, move |asker| import::start(&node, plan, credentials, asker)).await
    }

    async fn import(&self) -> Result<pb::Import, AdminFailure> {
        import::status(&self.node).await.ok_or_else(|| AdminFailure::NotFound("there was no import".to_owned()))
    }

    async fn finish_import(&self, how: import::CutOver, origin: Origin) -> Result<pb::Import, AdminFailure> {
        let node = Arc::clone(&self.node);
        patiently(origin, move |asker| import::cut_over(&node, how, asker)).await
    }

    async fn ask_every_node(&self, question: Question) -> Vec<Answered> {
        insight::ask_every_node(&self.node, question).await
    }

    fn advise(&self, user: &[u8], answered: &[Answered]) -> Option<AdviseResponse> {
        insight::advise(&self.node, user, answered)
    }

    fn diagnose(
        &self,
        user: &str,
        answered: Vec<Answered>,
        denials: ListDenialsResponse,
        nameless: ListDenialsResponse,
    ) -> DiagnoseResponse {
        insight::diagnose(&self.node, user, answered, denials, nameless)
    }

    async fn cancel_import(&self, origin: Origin) -> Result<pb::Import, AdminFailure> {
        let node = Arc::clone(&self.node);
        patiently(origin, move |asker| import::cancel(&node, asker)).await
    }
}

/// Does what waits, on a thread that may.
async fn patiently<T: Send + 'static>(
    origin: Origin,
    work: impl FnOnce(&import::Asker) -> Result<T, import::Refused> + Send + 'static,
) -> Result<T, AdminFailure> {
    let (actor, source, runtime) = (origin.actor, Origin::SOURCE.to_owned(), Handle::current());
    let done = tokio::task::spawn_blocking(move || work(&import::Asker { actor, source, runtime })).await;
    done.map_err(|error| AdminFailure::Unknown(format!("the import did not answer: {error}")))?.map_err(Into::into)
}

impl From<import::Refused> for AdminFailure {
    fn from(refused: import::Refused) -> Self {
        let text = refused.to_string();
        match refused {
            import::Refused::Sentence(_) => Self::Refused(text),
            import::Refused::Late(_) => Self::Unknown(text),
            import::Refused::None => Self::NotFound(text),
        }
    }
}

/// TLS for the admin port from the files that the configuration names; `None` if it names none. The error is a sentence.
pub fn tls(config: &Config) -> Result<Option<ServerTlsConfig>, String> {
    let read = |path: &std::path::Path| {
        std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
    };
    let tls = match (&config.admin_tls_cert, &config.admin_tls_key, &config.admin_tls_client_ca) {
        (None, None, None) => return Ok(None),
        (Some(certificate), Some(key), _) => {
            ServerTlsConfig::new().identity(Identity::from_pem(read(certificate)?, read(key)?))
        }
        _ => {
            return Err("the admin port needs admin-tls-cert and admin-tls-key, both or neither".to_owned());
        }
    };
    match &config.admin_tls_client_ca {
        None => Ok(Some(tls)),
        Some(authority) => Ok(Some(tls.client_ca_root(Certificate::from_pem(read(authority)?)))),
    }
}

/// The data snapshots in a folder: files that begin with the configured name and are not being written.
fn snapshot_files(folder: &std::path::Path, name: &str) -> std::io::Result<Vec<SnapshotFile>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        let file_name = entry.file_name().to_string_lossy().into_owned();
        if !metadata.is_file() || !file_name.starts_with(name) || file_name.ends_with(".tmp") {
            continue;
        }
        let saved = metadata.modified()?.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let saved_unix_ms = saved.as_millis() as u64;
        files.push(SnapshotFile { name: file_name, bytes: metadata.len(), saved_unix_ms });
    }
    Ok(files)
}

/// The origin as the control plane records it.
fn door(origin: Origin) -> control::Origin {
    control::Origin { actor: origin.actor, source: Origin::SOURCE.to_owned() }
}

impl From<ControlError> for AdminFailure {
    fn from(error: ControlError) -> Self {
        let text = error.to_string();
        match error {
            ControlError::NoLeader | ControlError::Stopped => Self::Unavailable(text),
            ControlError::Unknown => Self::Unknown(text),
            ControlError::Refused(_) => Self::Refused(text),
        }
    }
}
