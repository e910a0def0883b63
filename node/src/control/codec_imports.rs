//! Imports to and from protobuf. See [`super::codec`], which this belongs to.

use keyward_cluster::{Import, ImportChange, ImportEnd, ImportOutcome, ImportPlan, UnixMillis};
use keyward_proto::control as wire;

use super::codec::CodecError;

pub(super) fn change_to(change: &ImportChange) -> wire::ChangeImport {
    use wire::change_import::Step;
    let step = match change {
        ImportChange::Begin(plan) => Step::Begin(plan_to(plan)),
        ImportChange::End { index, how, told } => {
            let end = ImportEnd { at: UnixMillis(0), how: how.clone(), told: told.clone() };
            Step::End(wire::EndImport { index: *index, end: Some(end_to(&end)) })
        }
    };
    wire::ChangeImport { step: Some(step) }
}

pub(super) fn change_from(change: wire::ChangeImport) -> Result<ImportChange, CodecError> {
    use wire::change_import::Step;
    Ok(match change.step.ok_or(CodecError("a step of an import"))? {
        Step::Begin(plan) => ImportChange::Begin(plan_from(plan)?),
        Step::End(wire::EndImport { index, end }) => {
            let ImportEnd { how, told, .. } = end_from(end.ok_or(CodecError("the end of an import"))?)?;
            ImportChange::End { index, how, told }
        }
    })
}

pub(super) fn record_to(import: &Import) -> wire::ImportRecord {
    wire::ImportRecord {
        index: import.index,
        at_unix_ms: import.at.0,
        plan: Some(plan_to(&import.plan)),
        ended: import.ended.as_ref().map(end_to),
    }
}

pub(super) fn record_from(record: wire::ImportRecord) -> Result<Import, CodecError> {
    Ok(Import {
        index: record.index,
        at: UnixMillis(record.at_unix_ms),
        plan: plan_from(record.plan.ok_or(CodecError("from where an import is"))?)?,
        ended: record.ended.map(end_from).transpose()?,
    })
}

fn plan_to(plan: &ImportPlan) -> wire::ImportPlan {
    let prefix = |(from, to): &(Vec<u8>, Vec<u8>)| wire::ImportPrefix { from: from.clone(), to: to.clone() };
    wire::ImportPlan {
        host: plan.host.clone(),
        port: u32::from(plan.port),
        user: plan.user.clone(),
        has_credentials: plan.has_credentials,
        tls: plan.tls,
        server: plan.server.clone(),
        database: plan.database,
        prefixes: plan.prefixes.iter().map(prefix).collect(),
        merge: plan.merge,
        scan: plan.scan,
    }
}

fn plan_from(plan: wire::ImportPlan) -> Result<ImportPlan, CodecError> {
    Ok(ImportPlan {
        host: plan.host,
        port: u16::try_from(plan.port).map_err(|_| CodecError("the port of a source"))?,
        user: plan.user,
        has_credentials: plan.has_credentials,
        tls: plan.tls,
        server: plan.server,
        database: plan.database,
        prefixes: plan.prefixes.into_iter().map(|prefix| (prefix.from, prefix.to)).collect(),
        merge: plan.merge,
        scan: plan.scan,
    })
}

fn end_to(end: &ImportEnd) -> wire::ImportEnd {
    use wire::import_end::How;
    let how = match &end.how {
        ImportOutcome::Finished => How::Finished(wire::Blank {}),
        ImportOutcome::Cancelled => How::Cancelled(wire::Blank {}),
        ImportOutcome::Failed(why) => How::Failed(why.clone()),
    };
    wire::ImportEnd { at_unix_ms: end.at.0, how: Some(how), told: end.told.clone() }
}

fn end_from(end: wire::ImportEnd) -> Result<ImportEnd, CodecError> {
    use wire::import_end::How;
    let how = match end.how.ok_or(CodecError("how an import ended"))? {
        How::Finished(_) => ImportOutcome::Finished,
        How::Cancelled(_) => ImportOutcome::Cancelled,
        How::Failed(why) => ImportOutcome::Failed(why),
    };
    Ok(ImportEnd { at: UnixMillis(end.at_unix_ms), how, told: end.told })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_of_an_import_is_read() {
        let plan = ImportPlan {
            host: "old".to_owned(),
            port: 6379,
            user: "mover".to_owned(),
            has_credentials: true,
            tls: true,
            server: "redis 7.0.15".to_owned(),
            database: Some(0),
            prefixes: vec![(b"a:".to_vec(), b"b:".to_vec())],
            merge: true,
            scan: true,
        };
        let begin = ImportChange::Begin(plan.clone());
        assert_eq!(change_from(change_to(&begin)), Ok(begin));
        for how in [ImportOutcome::Finished, ImportOutcome::Cancelled, ImportOutcome::Failed("why".to_owned())] {
            let end = ImportChange::End { index: 7, how: how.clone(), told: vec![1, 2] };
            assert_eq!(change_from(change_to(&end)), Ok(end));
            let ended = Some(ImportEnd { at: UnixMillis(9), how, told: vec![3] });
            let import = Import { index: 7, at: UnixMillis(8), plan: plan.clone(), ended };
            assert_eq!(record_from(record_to(&import)), Ok(import));
        }
        assert!(change_from(wire::ChangeImport { step: None }).is_err());
    }
}
