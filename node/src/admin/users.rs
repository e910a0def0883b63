//! `keyward.admin.v1.Users`: the `ACL` commands as messages. What users look like is read off `ACL GETUSER`, so this
//! file and the Redis protocol can never disagree.

use std::collections::HashMap;
use std::sync::Arc;

use keyward_acl::UserOutcome;
use keyward_cluster::{Outcome, RequestId};
use keyward_proto::admin::users_server::Users;
use keyward_proto::admin::{
    DeleteUserRequest, DeleteUserResponse, DryRunRequest, DryRunResponse, GetUserRequest, GetUserResponse,
    ListUsersRequest, ListUsersResponse, Permissions, SetUserRequest, SetUserResponse, User,
};
use keyward_proto::resp::{ReplyLimits, Value, parse_reply};
use tonic::{Request, Response, Status};

use super::auth::{Admitted, Door, text, without_code};
use super::backend::{AdminBackend, Origin};

/// Users and their rules.
pub struct UserService<B: AdminBackend> {
    door: Arc<Door<B>>,
}

impl<B: AdminBackend> UserService<B> {
    /// The service behind `door`.
    pub fn new(door: Arc<Door<B>>) -> Self {
        Self { door }
    }

    /// What the node answers to a command that only reads.
    fn ask(&self, login: &B::Login, argv: &[&[u8]]) -> Result<Value, Status> {
        let reply = self.door.backend().answer(login, argv);
        match parse_reply(&reply, &ReplyLimits::default()) {
            Ok(Some((value, _))) => Ok(value),
            _ => Err(Status::internal("the node answered itself with something that is no reply")),
        }
    }

    /// The user as it is now; `None` if there is none.
    fn user(&self, login: &B::Login, name: &[u8], line: String) -> Result<Option<User>, Status> {
        let Value::Map(fields) = self.ask(login, &[b"ACL", b"GETUSER", name])? else {
            return Ok(None);
        };
        let mut user = User { name: text(name), line, ..described(fields) };
        if let Some(known) = self.door.backend().state().directory().get(name) {
            user.revision = known.revision;
            user.created = known.created;
        }
        Ok(Some(user))
    }

    /// The lines of `ACL LIST`, by name.
    fn lines(&self, login: &B::Login) -> Result<HashMap<Vec<u8>, String>, Status> {
        let lines = list(self.ask(login, &[b"ACL", b"LIST"])?);
        Ok(lines
            .into_iter()
            .filter_map(|line| {
                let name = line.split(|&byte| byte == b' ').nth(1)?.to_vec();
                Some((name, text(&line)))
            })
            .collect())
    }

    /// One user with its line.
    fn user_with_line(&self, login: &B::Login, name: &[u8]) -> Result<Option<User>, Status> {
        let line = self.lines(login)?.remove(name).unwrap_or_default();
        self.user(login, name, line)
    }

    async fn propose(&self, caller: &Admitted<B::Login>, argv: &[&[u8]], request_id: &[u8]) -> Result<Outcome, Status> {
        let change = self.door.backend().user_change(&caller.login, argv)?;
        let origin = Origin { actor: caller.name.clone(), request: request_of(request_id)? };
        match self.door.backend().propose_users(change, origin).await? {
            Outcome::Refused(refusal) => Err(Status::failed_precondition(refusal.to_string())),
            outcome => Ok(outcome),
        }
    }
}

#[tonic::async_trait]
impl<B: AdminBackend> Users for UserService<B> {
    async fn list_users(&self, request: Request<ListUsersRequest>) -> Result<Response<ListUsersResponse>, Status> {
        let caller = self.door.admit(&request, &[b"ACL", b"LIST"]).await?;
        // Read first: a change that comes while we look is then seen again by who watches from here.
        let applied_index = self.door.backend().state().applied_index();
        let mut lines = self.lines(&caller.login)?;
        let mut users = Vec::new();
        for name in list(self.ask(&caller.login, &[b"ACL", b"USERS"])?) {
            let line = lines.remove(&name).unwrap_or_default();
            users.extend(self.user(&caller.login, &name, line)?);
        }
        Ok(Response::new(ListUsersResponse { users, applied_index }))
    }

    async fn get_user(&self, request: Request<GetUserRequest>) -> Result<Response<GetUserResponse>, Status> {
        let name = request.get_ref().name.as_bytes();
        let caller = self.door.admit(&request, &[b"ACL", b"GETUSER", name]).await?;
        match self.user_with_line(&caller.login, name)? {
            Some(user) => Ok(Response::new(GetUserResponse { user: Some(user) })),
            None => Err(Status::not_found(format!("no user is called '{}'", text(name)))),
        }
    }

    async fn set_user(&self, request: Request<SetUserRequest>) -> Result<Response<SetUserResponse>, Status> {
        let message = request.get_ref();
        let name = message.name.as_bytes();
        let mut argv: Vec<&[u8]> = vec![b"ACL", b"SETUSER", name];
        argv.extend(message.reset.then_some(&b"reset"[..]));
        argv.extend(message.rules.iter().map(String::as_bytes));
        let caller = self.door.admit(&request, &argv).await?;
        let outcome = self.propose(&caller, &argv, &message.request_id).await?;
        let (created, changed) = match outcome {
            Outcome::User(UserOutcome::Set { created, changed, .. }) => (created, changed),
            _ => (false, false),
        };
        let user = self.user_with_line(&caller.login, name)?;
        Ok(Response::new(SetUserResponse { user, changed, created }))
    }

    async fn delete_user(&self, request: Request<DeleteUserRequest>) -> Result<Response<DeleteUserResponse>, Status> {
        let message = request.get_ref();
        let mut argv: Vec<&[u8]> = vec![b"ACL", b"DELUSER"];
        argv.extend(message.names.iter().map(String::as_bytes));
        let caller = self.door.admit(&request, &argv).await?;
        if message.names.is_empty() {
            return Err(Status::invalid_argument("name the users to delete"));
        }
        let outcome = self.propose(&caller, &argv, &message.request_id).await?;
        let deleted = match outcome {
            Outcome::User(UserOutcome::Deleted { count, .. }) => count,
            _ => 0,
        };
        Ok(Response::new(DeleteUserResponse { deleted }))
    }

    async fn dry_run(&self, request: Request<DryRunRequest>) -> Result<Response<DryRunResponse>, Status> {
        let message = request.get_ref();
        let mut argv: Vec<&[u8]> = vec![b"ACL", b"DRYRUN", message.user.as_bytes()];
        argv.extend(message.command.iter().map(String::as_bytes));
        let caller = self.door.admit(&request, &argv).await?;
        if message.command.is_empty() {
            return Err(Status::invalid_argument("name the command to try"));
        }
        match self.ask(&caller.login, &argv)? {
            Value::Error(error) => {
                let error = text(&error);
                let unknown_user = error == format!("ERR User '{}' not found", message.user);
                let code = if unknown_user { Status::not_found } else { Status::invalid_argument };
                Err(code(without_code(&error).to_owned()))
            }
            Value::Simple(_) => Ok(Response::new(DryRunResponse { allowed: true, reason: String::new() })),
            reason => {
                let reason = text(&bytes(reason));
                Ok(Response::new(DryRunResponse { allowed: false, reason }))
            }
        }
    }
}

/// The caller's request id, if it sent one.
fn request_of(bytes: &[u8]) -> Result<Option<RequestId>, Status> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let id = bytes.try_into().map_err(|_| Status::invalid_argument("a request id has sixteen bytes"))?;
    Ok(Some(RequestId(u128::from_be_bytes(id))))
}

/// The fields of `ACL GETUSER`.
fn described(fields: Vec<(Value, Value)>) -> User {
    let mut user = User::default();
    let mut rights = Vec::new();
    for (field, value) in fields {
        match bytes(field).as_slice() {
            b"flags" => {
                let flags = list(value);
                user.enabled = flags.iter().any(|flag| flag == b"on");
                user.nopass = flags.iter().any(|flag| flag == b"nopass");
            }
            b"passwords" => user.password_hashes = list(value).iter().map(|hash| text(hash)).collect(),
            b"selectors" => {
                let selectors = elements(value).into_iter().filter_map(|selector| match selector {
                    Value::Map(fields) => Some(permissions(fields)),
                    _ => None,
                });
                user.selectors = selectors.collect();
            }
            name => rights.push((Value::Bulk(name.to_vec()), value)),
        }
    }
    user.permissions = Some(permissions(rights));
    user
}

fn permissions(fields: Vec<(Value, Value)>) -> Permissions {
    let mut permissions = Permissions::default();
    for (field, value) in fields {
        let value = text(&bytes(value));
        match bytes(field).as_slice() {
            b"commands" => permissions.commands = value,
            b"keys" => permissions.keys = value,
            b"channels" => permissions.channels = value,
            b"databases" => permissions.databases = value,
            // A newer node may say more than this message holds.
            _ => {}
        }
    }
    permissions
}

/// The texts of an array or set.
fn list(value: Value) -> Vec<Vec<u8>> {
    elements(value).into_iter().map(bytes).collect()
}

fn elements(value: Value) -> Vec<Value> {
    match value {
        Value::Array(elements) | Value::Set(elements) => elements,
        _ => Vec::new(),
    }
}

/// The bytes of a text, however it was spelled.
fn bytes(value: Value) -> Vec<u8> {
    match value {
        Value::Bulk(bytes) | Value::Simple(bytes) | Value::Verbatim { text: bytes, .. } => bytes,
        _ => Vec::new(),
    }
}
