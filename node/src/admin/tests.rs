//! The admin port from the outside: a real server on a real socket, in front of a node made of plain values.

use std::sync::Mutex;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keyward_acl::{Rule, UserChange, UserName};
use keyward_cluster::{Addresses, Change, ClusterId, Founder, GroupId, NodeId, Outcome, Stamped, State, UnixMillis};
use keyward_proto::admin as pb;
use keyward_proto::admin::cluster_client::ClusterClient;
use keyward_proto::admin::snapshots_client::SnapshotsClient;
use keyward_proto::admin::users_client::UsersClient;
use tokio::sync::oneshot;
use tokio_stream::StreamExt as _;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};

use super::*;

/// A node: `admin` may do anything, `reader` may only list, `default` needs no password.
struct Fake {
    state: watch::Sender<Arc<State>>,
    /// Users whose sessions would be closed by now.
    gone: Mutex<Vec<String>>,
}

impl Fake {
    fn new() -> Arc<Self> {
        let (state, _) = watch::channel(Arc::new(State::new()));
        let fake = Self { state, gone: Mutex::new(Vec::new()) };
        let addresses = Addresses { admin: "a:1".to_owned(), ..Addresses::default() };
        let founder = Founder { name: "one".to_owned(), addresses };
        fake.apply("node:one", Change::FormCluster { cluster_id: ClusterId([7; 16]), founder, groups: 1, nodes: 1 });
        Arc::new(fake)
    }

    fn apply(&self, actor: &str, change: Change) -> Outcome {
        let mut state = State::clone(&self.state.borrow());
        let stamped = Stamped {
            at: UnixMillis(1000),
            actor: actor.to_owned(),
            source: Origin::SOURCE.to_owned(),
            request: None,
            change,
        };
        let outcome = state.apply(state.applied_index() + 1, &stamped);
        self.state.send_replace(Arc::new(state));
        outcome
    }
}

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

#[tonic::async_trait]
impl AdminBackend for Fake {
    type Login = String;

    fn login(&self, user: &[u8], password: &[u8], _peer: &str) -> Option<String> {
        let right = user == b"default" || password == b"secret";
        right.then(|| String::from_utf8(user.to_vec()).unwrap())
    }

    fn renew(&self, login: &String) -> Option<String> {
        (!self.gone.lock().unwrap().contains(login)).then(|| login.clone())
    }

    fn permit(&self, login: &String, argv: &[&[u8]], _peer: &str) -> Result<(), AdminFailure> {
        match (login.as_str(), argv) {
            ("reader", [b"ACL", b"LIST"]) | ("admin" | "default", _) => Ok(()),
            _ => {
                let text = "NOPERM User reader has no permissions to run the 'x' command";
                Err(AdminFailure::Denied(text.to_owned()))
            }
        }
    }

    fn answer(&self, _login: &String, argv: &[&[u8]]) -> Vec<u8> {
        let state = self.state();
        let reply = match argv {
            [_, b"GETUSER", name] if state.directory().get(name).is_some() => [
                "%7\r\n+flags\r\n~2\r\n+on\r\n+nopass\r\n+passwords\r\n*1\r\n$2\r\nab\r\n",
                "+commands\r\n$9\r\n-@all +ok\r\n+keys\r\n$2\r\n~a\r\n+channels\r\n$0\r\n\r\n+databases\r\n$6\r\nalldbs\r\n",
                "+selectors\r\n*1\r\n%2\r\n+commands\r\n$5\r\n-@all\r\n+keys\r\n$2\r\n~b\r\n",
            ]
            .concat(),
            [_, b"GETUSER", _] => "_\r\n".to_owned(),
            [_, b"USERS"] if state.directory().get(b"alice").is_some() => {
                format!("*1\r\n{}", bulk("alice"))
            }
            [_, b"LIST"] if state.directory().get(b"alice").is_some() => {
                format!("*1\r\n{}", bulk("user alice on ~a"))
            }
            [_, b"DRYRUN", b"alice", b"get", ..] => "+OK\r\n".to_owned(),
            [_, b"DRYRUN", b"alice", ..] => bulk("User alice has no permissions"),
            [_, b"DRYRUN", ..] => "-ERR User 'bob' not found\r\n".to_owned(),
            _ => "*0\r\n".to_owned(),
        };
        reply.into_bytes()
    }

    fn tenant_ask(&self, _login: &String, _argv: &[&[u8]]) -> Result<keyward_engine::asks::TenantAsk, AdminFailure> {
        Err(AdminFailure::Invalid("ERR tenants are tested on whole nodes".to_owned()))
    }

    async fn change_tenant(&self, _ask: keyward_engine::asks::TenantAsk, _origin: Origin) -> Result<(), AdminFailure> {
        Err(AdminFailure::Invalid("ERR tenants are tested on whole nodes".to_owned()))
    }

    fn user_change(&self, _login: &String, argv: &[&[u8]]) -> Result<UserChange, AdminFailure> {
        let invalid = |text: &str| AdminFailure::Invalid(text.to_owned());
        let name = |name: &[u8]| UserName::new(name).map_err(|_| invalid("ERR name"));
        match argv {
            [_, b"SETUSER", user, rules @ ..] => {
                let parse = |rule: &&[u8]| match *rule {
                    b"bogus" => Err(invalid("ERR Error in ACL SETUSER modifier 'bogus': Syntax error")),
                    rule => Rule::parse(rule).map_err(|_| invalid("ERR rule")),
                };
                let rules = rules.iter().map(parse).collect::<Result<Vec<_>, _>>()?.concat();
                Ok(UserChange::Set { name: name(user)?, rules })
            }
            [_, b"DELUSER", names @ ..] => {
                let names = names.iter().map(|user| name(user)).collect::<Result<_, _>>()?;
                Ok(UserChange::Delete { names })
            }
            _ => Err(invalid("ERR unexpected")),
        }
    }

    async fn propose_users(&self, change: UserChange, origin: Origin) -> Result<Outcome, AdminFailure> {
        Ok(self.apply(&origin.actor, Change::User(change)))
    }

    fn import_waits_for(&self, _: &str, _: &keyward_cluster::TenantGrant) -> Option<String> {
        None
    }

    fn state(&self) -> Arc<State> {
        self.state.borrow().clone()
    }

    async fn state_past(&self, index: u64) -> Arc<State> {
        let mut states = self.state.subscribe();
        let state = states.wait_for(|state| state.applied_index() > index).await;
        state.expect("the fake outlives its readers").clone()
    }

    fn node_id(&self) -> Option<NodeId> {
        Some(NodeId::FOUNDER)
    }

    async fn control(&self) -> Result<ControlStatus, AdminFailure> {
        let member = Member { voter: true, applied_index: Some(self.state().applied_index()) };
        let members = [(NodeId::FOUNDER, member)].into();
        Ok(ControlStatus { leader: Some(NodeId::FOUNDER), term: 3, members, standings: Vec::new() })
    }

    fn readiness(&self) -> Result<(), String> {
        Ok(())
    }

    async fn add_node(&self, _: &str, _: Option<&str>, _: Origin) -> Result<NodeId, AdminFailure> {
        Err(AdminFailure::Unavailable("nobody waits there".to_owned()))
    }

    async fn remove_node(&self, _: NodeId, _: Origin) -> Result<(), AdminFailure> {
        Ok(())
    }

    async fn transfer_leadership(&self, to: Option<NodeId>) -> Result<NodeId, AdminFailure> {
        Ok(to.unwrap_or(NodeId::FOUNDER))
    }

    async fn move_primary(&self, _: GroupId, _: Option<NodeId>, _: bool, _: Origin) -> Result<(), AdminFailure> {
        Ok(())
    }

    async fn change_move(&self, _: keyward_cluster::MoveChange, _: Origin) -> Result<(), AdminFailure> {
        Ok(())
    }

    async fn save(&self, wait: bool) -> Result<Option<SnapshotFile>, AdminFailure> {
        let file = SnapshotFile { name: "dump.rdb".to_owned(), bytes: 9, saved_unix_ms: 5 };
        Ok(wait.then_some(file))
    }

    async fn snapshots(&self) -> Result<SnapshotList, AdminFailure> {
        let files = self.save(true).await?.into_iter().collect();
        Ok(SnapshotList { files, ..SnapshotList::default() })
    }

    async fn start_import(
        &self,
        _plan: keyward_cluster::ImportPlan,
        _credentials: crate::import::Credentials,
        _origin: Origin,
    ) -> Result<pb::Import, AdminFailure> {
        Err(AdminFailure::Refused("no import here".to_owned()))
    }

    async fn import(&self) -> Result<pb::Import, AdminFailure> {
        Err(AdminFailure::NotFound("no import here".to_owned()))
    }

    async fn finish_import(&self, _how: crate::import::CutOver, _origin: Origin) -> Result<pb::Import, AdminFailure> {
        Err(AdminFailure::NotFound("no import here".to_owned()))
    }

    async fn ask_every_node(&self, _: keyward_proto::admin::node_question::Question) -> Vec<crate::insight::Answered> {
        Vec::new()
    }

    fn advise(&self, _: &[u8], _: &[crate::insight::Answered]) -> Option<pb::AdviseResponse> {
        None
    }

    fn diagnose(
        &self,
        _: &str,
        _: Vec<crate::insight::Answered>,
        _: pb::ListDenialsResponse,
        _: pb::ListDenialsResponse,
    ) -> pb::DiagnoseResponse {
        pb::DiagnoseResponse::default()
    }

    async fn cancel_import(&self, _origin: Origin) -> Result<pb::Import, AdminFailure> {
        Err(AdminFailure::NotFound("no import here".to_owned()))
    }
}

/// A running server, and a way to it.
struct Running {
    fake: Arc<Fake>,
    channel: Channel,
    stop: oneshot::Sender<()>,
    served: tokio::task::JoinHandle<Result<(), Error>>,
}

async fn start() -> Running {
    let fake = Fake::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let backend = Arc::clone(&fake);
    let served = tokio::spawn(async move {
        let shutdown = async {
            let _ = stopped.await;
        };
        serve(listener, backend, None, shutdown).await
    });
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
    Running { fake, channel, stop, served }
}

impl Running {
    fn users(&self) -> UsersClient<Channel> {
        UsersClient::new(self.channel.clone())
    }

    fn cluster(&self) -> ClusterClient<Channel> {
        ClusterClient::new(self.channel.clone())
    }

    fn snapshots(&self) -> SnapshotsClient<Channel> {
        SnapshotsClient::new(self.channel.clone())
    }
}

fn as_user<T>(credentials: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let value = format!("Basic {}", STANDARD.encode(credentials));
    request.metadata_mut().insert("authorization", value.parse().unwrap());
    request
}

fn as_admin<T>(message: T) -> Request<T> {
    as_user("admin:secret", message)
}

fn set_user(rules: &[&str]) -> pb::SetUserRequest {
    let rules = rules.iter().map(|rule| (*rule).to_owned()).collect();
    pb::SetUserRequest { name: "alice".to_owned(), rules, ..pb::SetUserRequest::default() }
}

#[tokio::test]
async fn nobody_calls_without_a_login() {
    let server = start().await;
    let anonymous = server.users().list_users(pb::ListUsersRequest {}).await.unwrap_err();
    assert_eq!(anonymous.code(), Code::Unauthenticated);
    let wrong = as_user("admin:guess", pb::ListUsersRequest {});
    assert_eq!(server.users().list_users(wrong).await.unwrap_err().code(), Code::Unauthenticated);
    let nopass = as_user("default:", pb::ListUsersRequest {});
    assert!(server.users().list_users(nopass).await.is_ok());
}

#[tokio::test]
async fn a_call_needs_the_right_to_the_redis_command() {
    let server = start().await;
    let allowed = as_user("reader:secret", pb::ListUsersRequest {});
    assert!(server.users().list_users(allowed).await.is_ok());
    let refused = as_user("reader:secret", set_user(&["on"]));
    let status = server.users().set_user(refused).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert_eq!(status.message(), "User reader has no permissions to run the 'x' command");
    assert!(server.fake.state().directory().get(b"alice").is_none());
}

#[tokio::test]
async fn users_are_set_read_tried_and_deleted() {
    let server = start().await;
    let mut users = server.users();
    let response = users.set_user(as_admin(set_user(&["on", "~a"]))).await.unwrap().into_inner();
    assert!(response.created && response.changed);

    let listed = users.list_users(as_admin(pb::ListUsersRequest {})).await.unwrap().into_inner();
    let alice = &listed.users[0];
    assert_eq!(response.user.as_ref(), Some(alice));
    assert_eq!((alice.name.as_str(), alice.line.as_str()), ("alice", "user alice on ~a"));
    assert!(alice.enabled && alice.nopass);
    assert_eq!(alice.password_hashes, ["ab"]);
    assert_eq!((alice.revision, alice.created, listed.applied_index), (2, 2, 2));
    let permissions = alice.permissions.clone().unwrap();
    assert_eq!((permissions.commands.as_str(), permissions.keys.as_str()), ("-@all +ok", "~a"));
    assert_eq!(alice.selectors[0].keys, "~b");

    let dry_run = |user: &str, command: &str| pb::DryRunRequest {
        user: user.to_owned(),
        command: vec![command.to_owned(), "k".to_owned()],
    };
    let allowed = users.dry_run(as_admin(dry_run("alice", "get"))).await.unwrap().into_inner();
    assert!(allowed.allowed);
    let denied = users.dry_run(as_admin(dry_run("alice", "set"))).await.unwrap().into_inner();
    assert_eq!((denied.allowed, denied.reason.as_str()), (false, "User alice has no permissions"));
    let unknown = users.dry_run(as_admin(dry_run("bob", "get"))).await.unwrap_err();
    assert_eq!((unknown.code(), unknown.message()), (Code::NotFound, "User 'bob' not found"));

    let names = vec!["alice".to_owned()];
    let delete = pb::DeleteUserRequest { names, ..pb::DeleteUserRequest::default() };
    let deleted = users.delete_user(as_admin(delete)).await.unwrap().into_inner().deleted;
    assert_eq!(deleted, 1);
    let get = pb::GetUserRequest { name: "alice".to_owned() };
    assert_eq!(users.get_user(as_admin(get)).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn senseless_requests_are_invalid() {
    let server = start().await;
    let mut users = server.users();
    let status = users.set_user(as_admin(set_user(&["bogus"]))).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(status.message(), "Error in ACL SETUSER modifier 'bogus': Syntax error");
    let odd_id = pb::SetUserRequest { request_id: vec![1; 15], ..set_user(&["on"]) };
    assert_eq!(users.set_user(as_admin(odd_id)).await.unwrap_err().code(), Code::InvalidArgument);
    let nobody = pb::DeleteUserRequest::default();
    assert_eq!(users.delete_user(as_admin(nobody)).await.unwrap_err().code(), Code::InvalidArgument);
    let nowhere = pb::AddNodeRequest { peer_address: "here".to_owned(), name: String::new() };
    let status = server.cluster().add_node(as_admin(nowhere)).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn the_cluster_describes_itself() {
    let server = start().await;
    let mut cluster = server.cluster();
    let status = cluster.get_status(as_admin(pb::GetStatusRequest {})).await.unwrap().into_inner();
    assert_eq!((status.node_id, status.leader_id, status.term, status.ready), (1, 1, 3, true));
    assert_eq!(status.groups[0].primary_node, 1);
    let node = &status.nodes[0];
    assert_eq!((node.role(), node.primary, node.answering), (pb::ControlRole::Leader, true, true));

    let unknown = as_admin(pb::TransferLeadershipRequest { to_node: 9 });
    let refused = cluster.transfer_leadership(unknown).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);

    let mut snapshots = server.snapshots();
    let saved = snapshots.save(as_admin(pb::SaveRequest { wait: true })).await.unwrap();
    let listed = snapshots.list_snapshots(as_admin(pb::ListSnapshotsRequest {})).await.unwrap();
    assert_eq!(saved.into_inner().snapshot.as_ref(), listed.into_inner().snapshots.first());
}

#[tokio::test]
async fn changes_are_listed_and_watched() {
    let server = start().await;
    let mut cluster = server.cluster();
    let watch = as_admin(pb::WatchChangesRequest { since: Some(0) });
    let mut changes = cluster.watch_changes(watch).await.unwrap().into_inner();
    let first = changes.next().await.unwrap().unwrap().change.unwrap();
    assert_eq!((first.index, first.actor.as_str()), (1, "node:one"));

    server.users().set_user(as_admin(set_user(&["on"]))).await.unwrap();
    let second = changes.next().await.unwrap().unwrap().change.unwrap();
    assert_eq!((second.index, second.summary.as_str()), (2, "set user alice"));
    assert_eq!((second.actor.as_str(), second.source.as_str()), ("admin", "admin"));

    let list = |since, limit| as_admin(pb::ListChangesRequest { since, limit });
    let newest = cluster.list_changes(list(0, 1)).await.unwrap().into_inner();
    assert_eq!((&newest.changes[0], newest.changes.len(), newest.truncated), (&second, 1, true));
    let none = cluster.list_changes(list(2, 0)).await.unwrap().into_inner();
    assert_eq!((none.changes.len(), none.truncated, none.applied_index), (0, false, 2));

    server.fake.gone.lock().unwrap().push("admin".to_owned());
    server.fake.apply("x", Change::SetSetting { name: "a".to_owned(), value: Some("b".to_owned()) });
    let end = changes.next().await.unwrap().unwrap_err();
    assert_eq!(end.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn a_watch_from_before_the_history_is_refused() {
    let server = start().await;
    for number in 0..State::HISTORY_MAX {
        let value = Some(number.to_string());
        server.fake.apply("x", Change::SetSetting { name: "a".to_owned(), value });
    }
    let watch = |since| as_admin(pb::WatchChangesRequest { since: Some(since) });
    let status = server.cluster().watch_changes(watch(0)).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange);
    assert!(server.cluster().watch_changes(watch(1)).await.is_ok());
}

#[tokio::test]
async fn a_stopping_node_ends_its_watches() {
    let server = start().await;
    let watch = as_admin(pb::WatchChangesRequest { since: None });
    let mut changes = server.cluster().watch_changes(watch).await.unwrap().into_inner();
    server.stop.send(()).unwrap();
    assert_eq!(changes.next().await.unwrap().unwrap_err().code(), Code::Unavailable);
    server.served.await.unwrap().unwrap();
}

#[tokio::test]
async fn tools_find_health_and_the_schema() {
    let server = start().await;
    let request = tonic_health::pb::HealthCheckRequest { service: String::new() };
    let mut health = tonic_health::pb::health_client::HealthClient::new(server.channel.clone());
    let response = health.check(request).await.unwrap().into_inner();
    assert_eq!(response.status, tonic_health::pb::health_check_response::ServingStatus::Serving as i32);

    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::{ServerReflectionRequest, server_reflection_response::MessageResponse};
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut reflection = ServerReflectionClient::new(server.channel.clone());
    let stream = reflection.server_reflection_info(tokio_stream::once(request)).await.unwrap();
    let response = stream.into_inner().next().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(services)) = response.message_response else {
        panic!("asked for services, got something else");
    };
    let names: Vec<&str> = services.service.iter().map(|service| service.name.as_str()).collect();
    for name in ["keyward.admin.v1.Users", "keyward.admin.v1.Cluster", "keyward.admin.v1.Snapshots"] {
        assert!(names.contains(&name), "{name} is listed");
    }
}
