//! The client and `keywardctl` against servers that misbehave on purpose.
#![allow(clippy::unwrap_used)] // all of this file is a test; the lint only recognizes functions marked so

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use keyward_client::messages as pb;
use keyward_client::messages::cluster_server::{Cluster, ClusterServer};
use keyward_client::messages::users_server::{Users, UsersServer};
use keyward_client::{AdminClient, ClientError, Credentials, Options};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::Server;
use tonic::{Request, Response, Status};

/// What a server is to do wrong, and what it saw.
#[derive(Default)]
struct Script {
    /// Calls still to be answered with `UNAVAILABLE`.
    unavailable: AtomicU32,
    /// Calls still to be left without an answer.
    hanging: AtomicU32,
    /// Calls that arrived.
    calls: AtomicU32,
    /// Changes a watch sends before it breaks; later watches go on where the caller says.
    watched: u64,
}

impl Script {
    async fn play<T>(&self, request: &Request<T>) -> Result<(), Status> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        if take_one(&self.hanging) {
            std::future::pending::<()>().await;
        }
        if take_one(&self.unavailable) {
            return Err(Status::unavailable("no leader is known"));
        }
        // default with an empty password, and alice:secret.
        match request.metadata().get("authorization").and_then(|value| value.to_str().ok()) {
            Some("Basic ZGVmYXVsdDo=" | "Basic YWxpY2U6c2VjcmV0") => Ok(()),
            _ => Err(Status::unauthenticated("wrong user name or password, or the user is off")),
        }
    }
}

fn take_one(counter: &AtomicU32) -> bool {
    counter.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

struct Service(Arc<Script>);

fn alice() -> pb::User {
    let permissions = pb::Permissions {
        commands: "-@all +get".to_owned(),
        keys: "~a:*".to_owned(),
        databases: "alldbs".to_owned(),
        ..pb::Permissions::default()
    };
    pb::User {
        name: "alice\x1b".to_owned(),
        enabled: true,
        password_hashes: vec!["ab".to_owned()],
        permissions: Some(permissions),
        revision: 7,
        ..pb::User::default()
    }
}

#[tonic::async_trait]
impl Users for Service {
    async fn list_users(
        &self,
        request: Request<pb::ListUsersRequest>,
    ) -> Result<Response<pb::ListUsersResponse>, Status> {
        self.0.play(&request).await?;
        Ok(Response::new(pb::ListUsersResponse { users: vec![alice()], applied_index: 7 }))
    }

    async fn get_user(&self, request: Request<pb::GetUserRequest>) -> Result<Response<pb::GetUserResponse>, Status> {
        self.0.play(&request).await?;
        Err(Status::not_found(format!("no user is called '{}'", request.get_ref().name)))
    }

    async fn set_user(&self, request: Request<pb::SetUserRequest>) -> Result<Response<pb::SetUserResponse>, Status> {
        self.0.play(&request).await?;
        let message = request.into_inner();
        assert_eq!(message.request_id.len(), 16);
        // The rules come back in the line, so that tests see what was sent.
        let line = format!("{} {}", message.reset, message.rules.join(" "));
        let user = Some(pb::User { line, ..alice() });
        Ok(Response::new(pb::SetUserResponse { user, changed: true, created: true }))
    }

    async fn delete_user(
        &self,
        request: Request<pb::DeleteUserRequest>,
    ) -> Result<Response<pb::DeleteUserResponse>, Status> {
        self.0.play(&request).await?;
        Ok(Response::new(pb::DeleteUserResponse { deleted: request.get_ref().names.len() as u64 }))
    }

    async fn dry_run(&self, request: Request<pb::DryRunRequest>) -> Result<Response<pb::DryRunResponse>, Status> {
        self.0.play(&request).await?;
        let allowed = request.get_ref().command[0] == "get";
        Ok(Response::new(pb::DryRunResponse { allowed, reason: "no".to_owned() }))
    }
}

#[tonic::async_trait]
impl Cluster for Service {
    async fn get_status(
        &self,
        request: Request<pb::GetStatusRequest>,
    ) -> Result<Response<pb::GetStatusResponse>, Status> {
        self.0.play(&request).await?;
        let nodes = vec![node()];
        Ok(Response::new(pb::GetStatusResponse { node_id: 1, nodes, ..Default::default() }))
    }

    async fn list_nodes(
        &self,
        request: Request<pb::ListNodesRequest>,
    ) -> Result<Response<pb::ListNodesResponse>, Status> {
        self.0.play(&request).await?;
        Ok(Response::new(pb::ListNodesResponse { nodes: vec![node()] }))
    }

    async fn add_node(&self, request: Request<pb::AddNodeRequest>) -> Result<Response<pb::AddNodeResponse>, Status> {
        self.0.play(&request).await?;
        Err(Status::unimplemented("not here"))
    }

    async fn remove_node(
        &self,
        request: Request<pb::RemoveNodeRequest>,
    ) -> Result<Response<pb::RemoveNodeResponse>, Status> {
        self.0.play(&request).await?;
        Ok(Response::new(pb::RemoveNodeResponse {}))
    }

    async fn transfer_leadership(
        &self,
        request: Request<pb::TransferLeadershipRequest>,
    ) -> Result<Response<pb::TransferLeadershipResponse>, Status> {
        self.0.play(&request).await?;
        let leader_id = request.get_ref().to_node;
        Ok(Response::new(pb::TransferLeadershipResponse { leader_id }))
    }

    async fn move_primary(
        &self,
        request: Request<pb::MovePrimaryRequest>,
    ) -> Result<Response<pb::MovePrimaryResponse>, Status> {
        self.0.play(&request).await?;
        Ok(Response::new(pb::MovePrimaryResponse { group: None }))
    }

    async fn move_keys(&self, request: Request<pb::MoveKeysRequest>) -> Result<Response<pb::MoveKeysResponse>, Status> {
        self.0.play(&request).await?;
        Ok(Response::new(pb::MoveKeysResponse { r#move: None }))
    }

    async fn abort_move(
        &self,
        request: Request<pb::AbortMoveRequest>,
    ) -> Result<Response<pb::AbortMoveResponse>, Status> {
        self.0.play(&request).await?;
        Ok(Response::new(pb::AbortMoveResponse { r#move: None }))
    }

    async fn list_changes(
        &self,
        request: Request<pb::ListChangesRequest>,
    ) -> Result<Response<pb::ListChangesResponse>, Status> {
        self.0.play(&request).await?;
        let changes = vec![change(1)];
        Ok(Response::new(pb::ListChangesResponse { changes, ..Default::default() }))
    }

    type WatchChangesStream = ReceiverStream<Result<pb::WatchChangesResponse, Status>>;

    async fn watch_changes(
        &self,
        request: Request<pb::WatchChangesRequest>,
    ) -> Result<Response<Self::WatchChangesStream>, Status> {
        self.0.play(&request).await?;
        let since = request.get_ref().since.unwrap_or(0);
        let (sender, receiver) = mpsc::channel(16);
        for index in since..since + self.0.watched {
            // The last one again, as a node does that knows less precisely where the caller was.
            let response = pb::WatchChangesResponse { change: Some(change(index)) };
            sender.send(Ok(response)).await.unwrap();
        }
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

fn node() -> pb::Node {
    pb::Node { id: 1, name: "one".to_owned(), role: 3, answering: true, ..Default::default() }
}

fn change(index: u64) -> pb::Change {
    pb::Change { index, at_unix_ms: 1000, summary: "set user alice".to_owned(), ..Default::default() }
}

async fn serve(script: Script) -> (SocketAddr, Arc<Script>, JoinHandle<()>) {
    let script = Arc::new(script);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Server::builder()
        .add_service(UsersServer::new(Service(script.clone())))
        .add_service(ClusterServer::new(Service(script.clone())));
    let served = tokio::spawn(async move {
        router.serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap();
    });
    (address, script, served)
}

/// An address nobody listens on.
async fn dead_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

fn client(addresses: &[SocketAddr]) -> AdminClient {
    let addresses = addresses.iter().map(SocketAddr::to_string);
    let mut options = Options::new(addresses, Credentials::new("default", ""));
    options.deadline = Duration::from_secs(4);
    AdminClient::new(options).unwrap()
}

#[tokio::test]
async fn a_dead_node_is_passed_by() {
    let (address, _, _) = serve(Script::default()).await;
    let users = client(&[dead_address().await, address]).list_users().await.unwrap();
    assert_eq!(users.users, [alice()]);
}

#[tokio::test]
async fn a_hanging_node_leaves_time_for_another() {
    let (hanging, _, _) = serve(Script { hanging: 9.into(), ..Script::default() }).await;
    let (address, _, _) = serve(Script::default()).await;
    assert!(client(&[hanging, address]).status().await.is_ok());
}

#[tokio::test]
async fn a_cluster_without_leader_is_asked_again() {
    let (address, script, _) = serve(Script { unavailable: 3.into(), ..Script::default() }).await;
    let response = client(&[address]).set_user("alice", &["on", "~a"], true).await.unwrap();
    assert_eq!(response.user.unwrap().line, "true on ~a");
    assert_eq!(script.calls.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn what_must_not_happen_twice_is_sent_once() {
    let (address, script, _) = serve(Script { hanging: 1.into(), ..Script::default() }).await;
    let error = client(&[address]).remove_node(1).await.unwrap_err();
    assert!(matches!(error, ClientError::Unknown(_)), "{error:?}");
    assert_eq!(script.calls.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_refusal_is_final() {
    let (address, script, _) = serve(Script::default()).await;
    let error = client(&[address]).get_user("bob").await.unwrap_err();
    assert_eq!(error, ClientError::NotFound("no user is called 'bob'".to_owned()));
    assert_eq!(script.calls.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn nobody_there_is_said_within_the_deadline() {
    let address = dead_address().await;
    let error = client(&[address]).status().await.unwrap_err();
    let text = format!("no node can be reached: {address} (Connection refused (os error 111))");
    assert_eq!(error, ClientError::Unreachable(text));
}

#[tokio::test]
async fn a_watch_goes_on_when_its_stream_ends() {
    let (address, script, _) = serve(Script { watched: 3, ..Script::default() }).await;
    let mut watch = client(&[address]).watch_changes(4);
    for index in 5..10 {
        assert_eq!(watch.next().await.unwrap().index, index);
    }
    assert!(script.calls.load(Ordering::SeqCst) > 1);
}

#[test]
fn options_that_make_no_sense_are_refused() {
    for (address, user) in [("localhost", "a"), ("http://x:1", "a"), (":1", "a"), ("x:1", "a:b")] {
        let options = Options::new([address], Credentials::new(user, ""));
        assert!(matches!(AdminClient::new(options), Err(ClientError::Options(_))), "{address}");
    }
    let nowhere = Options::new(Vec::<String>::new(), Credentials::new("a", ""));
    assert!(AdminClient::new(nowhere).is_err());
    let shown = format!("{:?}", Options::new(["x:1"], Credentials::new("a", "secret")));
    assert!(!shown.contains("secret"));
}

/// Runs `keywardctl` with nothing inherited from whoever runs the test.
async fn ctl(address: SocketAddr, arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keywardctl"));
    command.env_clear().arg("--addr").arg(address.to_string()).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let input = input.to_owned();
    let run = move || {
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    tokio::task::spawn_blocking(run).await.unwrap()
}

fn text(output: &Output) -> (&str, Option<i32>) {
    (str::from_utf8(&output.stdout).unwrap(), output.status.code())
}

#[tokio::test]
async fn tables_are_for_people() {
    let (address, _, _) = serve(Script::default()).await;
    let users = ctl(address, &["user", "list"], "").await;
    let expected = concat!(
        "NAME         STATE  PASSWORDS  KEYS  CHANNELS  COMMANDS    MORE\n",
        "alice\\u{1b}  on     1          ~a:*  -         -@all +get\n",
    );
    assert_eq!(text(&users), (expected, Some(0)));
    let history = ctl(address, &["history"], "").await;
    let expected = concat!(
        "INDEX  TIME                      ACTOR  SOURCE  CHANGE\n",
        "1      1970-01-01T00:00:01.000Z                 set user alice\n",
    );
    assert_eq!(text(&history), (expected, Some(0)));
}

#[tokio::test]
async fn json_is_for_scripts() {
    let (address, _, _) = serve(Script::default()).await;
    let nodes = ctl(address, &["node", "list", "--output", "json"], "").await;
    let nodes: serde_json::Value = serde_json::from_slice(&nodes.stdout).unwrap();
    assert_eq!(nodes["nodes"][0]["role"], "leader");
    assert_eq!(nodes["nodes"][0]["id"], 1);
    assert_eq!(nodes["nodes"][0]["reachable"], serde_json::Value::Null);
}

#[tokio::test]
async fn rules_may_look_like_options() {
    let (address, _, _) = serve(Script::default()).await;
    let arguments = ["-o", "json", "user", "set", "--reset", "alice", "-@all", "+get", "~a:*"];
    let set = ctl(address, &arguments, "").await;
    let set: serde_json::Value = serde_json::from_slice(&set.stdout).unwrap();
    assert_eq!(set["user"]["line"], "true -@all +get ~a:*");
    let arguments = ["-o", "json", "user", "set", "--rules-stdin", "alice", "on"];
    let set = ctl(address, &arguments, ">secret\n(~b +@read)\n").await;
    let set: serde_json::Value = serde_json::from_slice(&set.stdout).unwrap();
    assert_eq!(set["user"]["line"], "false on >secret (~b +@read)");
}

#[tokio::test]
async fn exit_codes_tell_scripts_what_happened() {
    let (address, _, _) = serve(Script::default()).await;
    let code = |output: Output| output.status.code();
    assert_eq!(code(ctl(address, &["user", "dry-run", "alice", "get", "k"], "").await), Some(0));
    assert_eq!(code(ctl(address, &["user", "dry-run", "alice", "set", "-x"], "").await), Some(1));
    assert_eq!(code(ctl(address, &["user", "get", "bob"], "").await), Some(1));
    assert_eq!(code(ctl(address, &["user", "frobnicate"], "").await), Some(2));
    let login = ["--user", "alice", "--password-stdin", "user", "list"];
    assert_eq!(code(ctl(address, &login, "secret\n").await), Some(0));
    let wrong = ctl(address, &login, "guess\n").await;
    let sentence = "keywardctl: wrong user name or password, or the user is off\n";
    assert_eq!((str::from_utf8(&wrong.stderr).unwrap(), code(wrong.clone())), (sentence, Some(3)));
    let dead = dead_address().await;
    assert_eq!(code(ctl(dead, &["--timeout", "1", "status"], "").await), Some(4));
}

#[tokio::test]
async fn completions_need_no_cluster() {
    for shell in ["bash", "zsh", "fish"] {
        let script = ctl(dead_address().await, &["completions", shell], "").await;
        assert_eq!(script.status.code(), Some(0));
        assert!(text(&script).0.contains("dry-run"), "{shell}");
    }
}
