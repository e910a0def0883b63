//! Users to and from protobuf: names, and rules as canonical text with hashed passwords.

use keyward_acl::{Rule, UserChange, UserName, UserOutcome, UserRecord};
use keyward_proto::control as wire;

use super::codec::CodecError;

pub(crate) fn change_to(change: &UserChange) -> wire::stamped_change::Change {
    use wire::stamped_change::Change as Wire;
    match change {
        UserChange::Set { name, rules } => Wire::SetUser(user_to(name, rules)),
        UserChange::Delete { names } => {
            Wire::DeleteUsers(wire::DeleteUsers { names: names.iter().map(|name| name.as_bytes().to_vec()).collect() })
        }
        UserChange::ReplaceAll { users } => Wire::ReplaceUsers(wire::ReplaceUsers { users: users_to(users) }),
        UserChange::Import { source, users } => {
            Wire::ImportUsers(wire::ImportUsers { source: source.clone(), users: users_to(users) })
        }
    }
}

pub(crate) fn change_from(change: wire::stamped_change::Change) -> Result<UserChange, CodecError> {
    use wire::stamped_change::Change as Wire;
    match change {
        Wire::SetUser(user) => {
            let (name, rules) = user_from(user)?;
            Ok(UserChange::Set { name, rules })
        }
        Wire::DeleteUsers(delete) => {
            let names = delete.names.iter().map(|name| name_from(name)).collect::<Result<_, _>>()?;
            Ok(UserChange::Delete { names })
        }
        Wire::ReplaceUsers(replace) => Ok(UserChange::ReplaceAll { users: users_from(replace.users)? }),
        Wire::ImportUsers(import) => Ok(UserChange::Import { source: import.source, users: users_from(import.users)? }),
        _ => Err(CodecError("a change of users")),
    }
}

fn users_to(users: &[(UserName, Vec<Rule>)]) -> Vec<wire::SetUser> {
    users.iter().map(|(name, rules)| user_to(name, rules)).collect()
}

fn users_from(users: Vec<wire::SetUser>) -> Result<Vec<(UserName, Vec<Rule>)>, CodecError> {
    users.into_iter().map(user_from).collect()
}

fn user_to(name: &UserName, rules: &[Rule]) -> wire::SetUser {
    wire::SetUser { name: name.as_bytes().to_vec(), rules: rules.iter().map(|rule| rule.to_text()).collect() }
}

fn user_from(user: wire::SetUser) -> Result<(UserName, Vec<Rule>), CodecError> {
    let mut rules = Vec::with_capacity(user.rules.len());
    for text in &user.rules {
        rules.extend(Rule::parse(text).map_err(|_| CodecError("a rule"))?);
    }
    Ok((name_from(&user.name)?, rules))
}

fn name_from(name: &[u8]) -> Result<UserName, CodecError> {
    UserName::new(name).map_err(|_| CodecError("a user name"))
}

pub(crate) fn outcome_to(outcome: &UserOutcome) -> wire::UserOutcome {
    use wire::user_outcome::Outcome as Wire;
    let outcome = match outcome {
        UserOutcome::Set { created, changed } => Wire::Set(wire::UserSet { created: *created, changed: *changed }),
        UserOutcome::Deleted { count } => Wire::Deleted(wire::UsersDeleted { count: *count }),
        UserOutcome::Replaced { created, changed, deleted } => {
            Wire::Replaced(wire::UsersReplaced { created: *created, changed: *changed, deleted: *deleted })
        }
    };
    wire::UserOutcome { outcome: Some(outcome) }
}

pub(crate) fn outcome_from(outcome: wire::UserOutcome) -> Result<UserOutcome, CodecError> {
    use wire::user_outcome::Outcome as Wire;
    Ok(match outcome.outcome.ok_or(CodecError("the outcome of a change of users"))? {
        Wire::Set(set) => UserOutcome::Set { created: set.created, changed: set.changed },
        Wire::Deleted(deleted) => UserOutcome::Deleted { count: deleted.count },
        Wire::Replaced(replaced) => {
            UserOutcome::Replaced { created: replaced.created, changed: replaced.changed, deleted: replaced.deleted }
        }
    })
}

pub(crate) fn record_to(user: &UserRecord) -> wire::UserRecord {
    wire::UserRecord {
        name: user.name.clone(),
        rules: user.rules.clone(),
        revision: user.revision,
        created: user.created,
        credentials_revision: user.credentials_revision,
        withdrawn_revision: user.withdrawn_revision,
        imported_from: user.imported_from.clone(),
    }
}

pub(crate) fn record_from(user: wire::UserRecord) -> Result<UserRecord, CodecError> {
    Ok(UserRecord {
        name: user.name,
        rules: user.rules,
        revision: user.revision,
        created: user.created,
        credentials_revision: user.credentials_revision,
        withdrawn_revision: user.withdrawn_revision,
        imported_from: user.imported_from,
    })
}
