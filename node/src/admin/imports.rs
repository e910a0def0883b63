//! `keyward.admin.v1.Imports`: another server's data on its way into this node. The password of the source passes through and
//! is kept by nobody here.

use std::sync::Arc;
use std::time::Duration;

use keyward_proto::admin::imports_server::Imports;
use keyward_proto::admin::{
    CancelImportRequest, CancelImportResponse, FinishImportRequest, FinishImportResponse, GetImportRequest,
    GetImportResponse, Import, ImportReport, StartImportRequest, StartImportResponse,
};
use tonic::{Request, Response, Status};

use super::auth::Door;
use super::backend::AdminBackend;
use crate::config::Secret;
use crate::import::{self, CutOver, Method, Options, SourceAddress, Tls};

/// How long a cut-over waits if the caller does not say.
const WAIT: Duration = Duration::from_secs(30);

/// Prefixes that may be renamed by one import.
const PREFIXES_MAX: usize = 64;

/// Imports of this node.
pub struct ImportService<B: AdminBackend> {
    door: Arc<Door<B>>,
}

impl<B: AdminBackend> ImportService<B> {
    /// The service behind `door`.
    pub fn new(door: Arc<Door<B>>) -> Self {
        Self { door }
    }

    fn message(&self, status: import::Status) -> Option<Import> {
        Some(message(self.door.backend().node_id().map_or(0, |node| node.0), status))
    }
}

/// The command that does the same.
const REPLICAOF: [&[u8]; 3] = [b"REPLICAOF", b"NO", b"ONE"];

#[tonic::async_trait]
impl<B: AdminBackend> Imports for ImportService<B> {
    async fn start_import(
        &self,
        request: Request<StartImportRequest>,
    ) -> Result<Response<StartImportResponse>, Status> {
        let port = request.get_ref().port.to_string();
        let argv: [&[u8]; 3] = [b"REPLICAOF", request.get_ref().host.as_bytes(), port.as_bytes()];
        let caller = self.door.admit(&request, &argv).await?;
        let options = options(request.get_ref())?;
        tracing::info!(source = %options.source, actor = caller.name, "an import was asked for");
        let begun = self.door.backend().start_import(options).await?;
        Ok(Response::new(StartImportResponse { import: self.message(begun) }))
    }

    async fn get_import(&self, request: Request<GetImportRequest>) -> Result<Response<GetImportResponse>, Status> {
        let _caller = self.door.admit(&request, &REPLICAOF).await?;
        let status = self.door.backend().import()?;
        Ok(Response::new(GetImportResponse { import: self.message(status) }))
    }

    async fn finish_import(
        &self,
        request: Request<FinishImportRequest>,
    ) -> Result<Response<FinishImportResponse>, Status> {
        let _caller = self.door.admit(&request, &REPLICAOF).await?;
        let FinishImportRequest { wait_ms, pause_source_ms, despite_problems } = *request.get_ref();
        let wait = if wait_ms == 0 { WAIT } else { Duration::from_millis(wait_ms.into()) };
        let pause_source_ms = Some(u64::from(pause_source_ms)).filter(|ms| *ms > 0);
        let how = CutOver { wait: wait.min(import::CUT_OVER_WAIT_MAX), pause_source_ms, despite_problems };
        let ended = self.door.backend().finish_import(how).await?;
        Ok(Response::new(FinishImportResponse { import: self.message(ended) }))
    }

    async fn cancel_import(
        &self,
        request: Request<CancelImportRequest>,
    ) -> Result<Response<CancelImportResponse>, Status> {
        let _caller = self.door.admit(&request, &REPLICAOF).await?;
        let ended = self.door.backend().cancel_import().await?;
        Ok(Response::new(CancelImportResponse { import: self.message(ended) }))
    }
}

fn options(request: &StartImportRequest) -> Result<Options, Status> {
    let port = u16::try_from(request.port).ok().filter(|port| *port > 0);
    let port = port.ok_or_else(|| Status::invalid_argument("the port of the source is not between 1 and 65535"))?;
    if request.host.is_empty() {
        return Err(Status::invalid_argument("the source has no host"));
    }
    if request.prefixes.len() > PREFIXES_MAX {
        return Err(Status::invalid_argument(format!("at most {PREFIXES_MAX} prefixes are renamed by one import")));
    }
    let tls = match (request.tls, request.tls_authorities.as_slice()) {
        (true, pem) => Some(Tls::trusting(pem).map_err(Status::invalid_argument)?),
        (false, []) => None,
        (false, _) => return Err(Status::invalid_argument("authorities are of use for a source with TLS only")),
    };
    let given = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    Ok(Options {
        source: SourceAddress {
            host: request.host.clone(),
            port,
            user: given(&request.username),
            password: given(&request.password).map(|password| Secret::of(&password)),
            tls,
        },
        database: request.database,
        prefixes: request.prefixes.iter().map(|change| (change.from.clone(), change.to.clone())).collect(),
        merge: request.merge,
        scan: request.scan,
    })
}

fn message(node_id: u64, status: import::Status) -> Import {
    Import {
        node_id,
        source: status.source,
        server: status.server,
        phase: status.phase.to_string(),
        method: match status.method {
            Method::Stream => "stream",
            Method::Scan => "scan",
        }
        .to_owned(),
        error: status.error,
        started_unix_ms: status.started_ms,
        ended_unix_ms: status.ended_ms,
        keys: status.keys,
        keys_expected: status.keys_expected,
        bytes: status.bytes,
        bytes_expected: status.bytes_expected,
        commands: status.commands,
        stream_bytes: status.stream_bytes,
        offset: status.offset,
        lag_bytes: status.lag_bytes,
        lag_ms: status.lag_ms,
        copies: status.copies,
        passes: status.passes,
        pass_ms: status.pass_ms,
        pass_changes: status.pass_changes,
        reconnects: status.reconnects,
        removed: status.removed,
        problems: status.problems,
        problem_texts: status.problem_texts,
        notes: status.notes,
        report: status.report.map(|report| ImportReport {
            offset: report.offset,
            source_offset: report.source_offset,
            source_keys: report.source_keys,
            keys: report.keys,
            source_paused: report.source_paused,
            quiet: report.quiet,
            took_ms: report.took_ms,
        }),
    }
}
