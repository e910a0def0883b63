//! Tenants to and from protobuf. See [`super::codec`], which this belongs to.

use keyward_cluster::{Tenant, TenantChange, TenantEdit, TenantGrant, TenantMode, TenantNumber, TenantRefusal};
use keyward_proto::control as wire;
use keyward_proto::control::tenant_refusal::Reason;

use super::codec::CodecError;

pub(super) fn change_to(change: &TenantChange) -> wire::ChangeTenant {
    use wire::change_tenant::Kind;
    let (name, kind) = match change {
        TenantChange::Create { name, mode, edits } => {
            let (namespace, prefixes) = mode_to(mode);
            (name, Kind::Create(wire::CreateTenant { namespace, prefixes, edits: Some(edits_to(edits)) }))
        }
        TenantChange::Set { name, edits } => (name, Kind::Set(edits_to(edits))),
        TenantChange::Rename { name, to } => (name, Kind::Rename(to.clone())),
        TenantChange::Delete { name, purged } => (name, Kind::DeletePurged(*purged)),
    };
    wire::ChangeTenant { name: name.clone(), kind: Some(kind) }
}

pub(super) fn change_from(change: wire::ChangeTenant) -> Result<TenantChange, CodecError> {
    use wire::change_tenant::Kind;
    let name = change.name;
    Ok(match change.kind.ok_or(CodecError("a change of a tenant"))? {
        Kind::Create(create) => TenantChange::Create {
            name,
            mode: mode_from(create.namespace, create.prefixes),
            edits: edits_from(create.edits.unwrap_or_default())?,
        },
        Kind::Set(edits) => TenantChange::Set { name, edits: edits_from(edits)? },
        Kind::Rename(to) => TenantChange::Rename { name, to },
        Kind::DeletePurged(purged) => TenantChange::Delete { name, purged },
    })
}

fn mode_to(mode: &TenantMode) -> (bool, Vec<Vec<u8>>) {
    match mode {
        TenantMode::Namespace => (true, Vec::new()),
        TenantMode::Prefixes(prefixes) => (false, prefixes.iter().cloned().collect()),
    }
}

fn mode_from(namespace: bool, prefixes: Vec<Vec<u8>>) -> TenantMode {
    if namespace { TenantMode::Namespace } else { TenantMode::Prefixes(prefixes.into_iter().collect()) }
}

fn edits_to(edits: &[TenantEdit]) -> wire::TenantEdits {
    use wire::tenant_edit::Edit;
    let edit = |edit: &TenantEdit| match edit {
        TenantEdit::AddPrefix(prefix) => Edit::AddPrefix(prefix.clone()),
        TenantEdit::RemovePrefix(prefix) => Edit::RemovePrefix(prefix.clone()),
        TenantEdit::AddUser(user) => Edit::AddUser(user.clone()),
        TenantEdit::RemoveUser(user) => Edit::RemoveUser(user.clone()),
        TenantEdit::Setting(name, value) => {
            Edit::Setting(wire::SetSetting { name: name.clone(), value: value.clone() })
        }
        TenantEdit::Export(grant, true) => Edit::AddExport(grant_to(grant)),
        TenantEdit::Export(grant, false) => Edit::RemoveExport(grant_to(grant)),
        TenantEdit::Import(grant, true) => Edit::AddImport(grant_to(grant)),
        TenantEdit::Import(grant, false) => Edit::RemoveImport(grant_to(grant)),
        TenantEdit::Retired(retired) => Edit::Retired(*retired),
    };
    wire::TenantEdits { edits: edits.iter().map(|one| wire::TenantEdit { edit: Some(edit(one)) }).collect() }
}

fn edits_from(edits: wire::TenantEdits) -> Result<Vec<TenantEdit>, CodecError> {
    use wire::tenant_edit::Edit;
    let edit = |edit: wire::TenantEdit| {
        Ok(match edit.edit.ok_or(CodecError("an edit of a tenant"))? {
            Edit::AddPrefix(prefix) => TenantEdit::AddPrefix(prefix),
            Edit::RemovePrefix(prefix) => TenantEdit::RemovePrefix(prefix),
            Edit::AddUser(user) => TenantEdit::AddUser(user),
            Edit::RemoveUser(user) => TenantEdit::RemoveUser(user),
            Edit::Setting(setting) => TenantEdit::Setting(setting.name, setting.value),
            Edit::AddExport(grant) => TenantEdit::Export(grant_from(grant), true),
            Edit::RemoveExport(grant) => TenantEdit::Export(grant_from(grant), false),
            Edit::AddImport(grant) => TenantEdit::Import(grant_from(grant), true),
            Edit::RemoveImport(grant) => TenantEdit::Import(grant_from(grant), false),
            Edit::Retired(retired) => TenantEdit::Retired(retired),
        })
    };
    edits.edits.into_iter().map(edit).collect()
}

fn grant_to(grant: &TenantGrant) -> wire::TenantGrant {
    wire::TenantGrant { tenant: grant.tenant.clone(), pattern: grant.pattern.clone(), write: grant.write }
}

fn grant_from(grant: wire::TenantGrant) -> TenantGrant {
    TenantGrant { tenant: grant.tenant, pattern: grant.pattern, write: grant.write }
}

pub(super) fn refusal_to(refusal: &TenantRefusal) -> wire::TenantRefusal {
    let (reason, words): (Reason, Vec<&String>) = match refusal {
        TenantRefusal::Exists(name) => (Reason::Exists, vec![name]),
        TenantRefusal::Unknown(name) => (Reason::Unknown, vec![name]),
        TenantRefusal::Overlap { asked: (prefix, tenant), known: (other, owner) } => {
            (Reason::Overlap, vec![prefix, tenant, other, owner])
        }
        TenantRefusal::UserTaken { user, owner } => (Reason::UserTaken, vec![user, owner]),
        TenantRefusal::NotRetired(name) => (Reason::NotRetired, vec![name]),
        TenantRefusal::NeedsPurge(name) => (Reason::NeedsPurge, vec![name]),
        TenantRefusal::TooMany(what) => (Reason::TooMany, vec![what]),
        TenantRefusal::Invalid(text) => (Reason::Invalid, vec![text]),
    };
    wire::TenantRefusal { reason: reason.into(), words: words.into_iter().cloned().collect() }
}

pub(super) fn refusal_from(refusal: wire::TenantRefusal) -> Result<TenantRefusal, CodecError> {
    let reason = refusal.reason();
    let mut words = refusal.words.into_iter();
    let mut word = || words.next().ok_or(CodecError("why a tenant was refused"));
    Ok(match reason {
        Reason::Exists => TenantRefusal::Exists(word()?),
        Reason::Unknown => TenantRefusal::Unknown(word()?),
        Reason::Overlap => TenantRefusal::Overlap { asked: (word()?, word()?), known: (word()?, word()?) },
        Reason::UserTaken => TenantRefusal::UserTaken { user: word()?, owner: word()? },
        Reason::NotRetired => TenantRefusal::NotRetired(word()?),
        Reason::NeedsPurge => TenantRefusal::NeedsPurge(word()?),
        Reason::TooMany => TenantRefusal::TooMany(word()?),
        Reason::Invalid => TenantRefusal::Invalid(word()?),
        Reason::Unspecified => return Err(CodecError("why a tenant was refused")),
    })
}

pub(super) fn record_to(tenant: &Tenant) -> wire::TenantRecord {
    let (namespace, prefixes) = mode_to(&tenant.mode);
    let setting = |(name, value): (&str, &str)| wire::SettingRecord { name: name.to_owned(), value: value.to_owned() };
    wire::TenantRecord {
        number: tenant.number.0,
        name: tenant.name.clone(),
        namespace,
        prefixes,
        users: tenant.users.iter().cloned().collect(),
        settings: tenant.settings.iter().map(setting).collect(),
        exports: tenant.exports.iter().map(grant_to).collect(),
        imports: tenant.imports.iter().map(grant_to).collect(),
        retired: tenant.retired,
        created: tenant.created,
        revision: tenant.revision,
    }
}

pub(super) fn record_from(tenant: wire::TenantRecord) -> Tenant {
    Tenant {
        number: TenantNumber(tenant.number),
        name: tenant.name,
        mode: mode_from(tenant.namespace, tenant.prefixes),
        users: tenant.users.into_iter().collect(),
        settings: tenant.settings.into_iter().map(|setting| (setting.name, setting.value)).collect(),
        exports: tenant.exports.into_iter().map(grant_from).collect(),
        imports: tenant.imports.into_iter().map(grant_from).collect(),
        retired: tenant.retired,
        created: tenant.created,
        revision: tenant.revision,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_and_tenants_read_back_as_written() {
        let grant = TenantGrant { tenant: "ai".into(), pattern: b"ai:status:*".to_vec(), write: false };
        let edits = vec![
            TenantEdit::AddPrefix(b"a:".to_vec()),
            TenantEdit::RemovePrefix(b"b:".to_vec()),
            TenantEdit::AddUser(b"u".to_vec()),
            TenantEdit::RemoveUser(b"v".to_vec()),
            TenantEdit::Setting("limit".into(), Some("1gb".into())),
            TenantEdit::Setting("limit".into(), None),
            TenantEdit::Export(grant.clone(), true),
            TenantEdit::Export(grant.clone(), false),
            TenantEdit::Import(grant.clone(), true),
            TenantEdit::Import(grant.clone(), false),
            TenantEdit::Retired(true),
        ];
        let prefixes = || TenantMode::Prefixes([b"a:".to_vec()].into_iter().collect());
        for change in [
            TenantChange::Create { name: "t".into(), mode: prefixes(), edits: edits.clone() },
            TenantChange::Create { name: "t".into(), mode: TenantMode::Namespace, edits: Vec::new() },
            TenantChange::Set { name: "t".into(), edits },
            TenantChange::Rename { name: "t".into(), to: "u".into() },
            TenantChange::Delete { name: "t".into(), purged: true },
        ] {
            assert_eq!(change_from(change_to(&change)), Ok(change));
        }
        let tenant = Tenant {
            number: TenantNumber(7),
            name: "t".into(),
            mode: prefixes(),
            users: [b"u".to_vec()].into_iter().collect(),
            settings: [("limit".to_owned(), "1".to_owned())].into_iter().collect(),
            exports: [grant.clone()].into(),
            imports: [grant].into(),
            retired: true,
            created: 3,
            revision: 4,
        };
        assert_eq!(record_from(record_to(&tenant)), tenant);
        let overlap = TenantRefusal::Overlap { asked: ("a".into(), "b".into()), known: ("c".into(), "d".into()) };
        for refusal in [overlap, TenantRefusal::UserTaken { user: "u".into(), owner: "t".into() }] {
            assert_eq!(refusal_from(refusal_to(&refusal)), Ok(refusal));
        }
    }
}
