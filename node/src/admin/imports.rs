//! `keyward.admin.v1.Imports`: another server's data on its way into the cluster. The password of the source passes through and
//! is kept by nobody here.

use std::sync::Arc;
use std::time::Duration;

use keyward_proto::admin::imports_server::Imports;
use keyward_proto::admin::{
    CancelImportRequest, CancelImportResponse, FinishImportRequest, FinishImportResponse, GetImportRequest,
    GetImportResponse, StartImportRequest, StartImportResponse,
};
use tonic::{Request, Response, Status};

use super::auth::Door;
use super::backend::{AdminBackend, Origin};
use crate::config::Secret;
use crate::import::{self, Credentials, CutOver, Tls};
use keyward_cluster::ImportPlan;

/// How long a cut-over waits if the caller does not say.
const WAIT: Duration = Duration::from_secs(30);

/// Prefixes that may be renamed by one import.
const PREFIXES_MAX: usize = 64;

/// The cluster's import.
pub struct ImportService<B: AdminBackend> {
    door: Arc<Door<B>>,
}

impl<B: AdminBackend> ImportService<B> {
    /// The service behind `door`.
    pub fn new(door: Arc<Door<B>>) -> Self {
        Self { door }
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
        let (plan, credentials) = wish(request.get_ref())?;
        let begun = self
            .door
            .backend()
            .start_import(plan, credentials, Origin { actor: caller.name.clone(), request: None })
            .await?;
        Ok(Response::new(StartImportResponse { import: Some(begun) }))
    }

    async fn get_import(&self, request: Request<GetImportRequest>) -> Result<Response<GetImportResponse>, Status> {
        let _caller = self.door.admit(&request, &REPLICAOF).await?;
        let import = self.door.backend().import().await?;
        Ok(Response::new(GetImportResponse { import: Some(import) }))
    }

    async fn finish_import(
        &self,
        request: Request<FinishImportRequest>,
    ) -> Result<Response<FinishImportResponse>, Status> {
        let caller = self.door.admit(&request, &REPLICAOF).await?;
        let FinishImportRequest { wait_ms, pause_source_ms, despite_problems } = *request.get_ref();
        let wait = if wait_ms == 0 { WAIT } else { Duration::from_millis(wait_ms.into()) };
        let pause_source_ms = Some(u64::from(pause_source_ms)).filter(|ms| *ms > 0);
        let how = CutOver { wait: wait.min(import::CUT_OVER_WAIT_MAX), pause_source_ms, despite_problems };
        let ended =
            self.door.backend().finish_import(how, Origin { actor: caller.name.clone(), request: None }).await?;
        Ok(Response::new(FinishImportResponse { import: Some(ended) }))
    }

    async fn cancel_import(
        &self,
        request: Request<CancelImportRequest>,
    ) -> Result<Response<CancelImportResponse>, Status> {
        let caller = self.door.admit(&request, &REPLICAOF).await?;
        let ended = self.door.backend().cancel_import(Origin { actor: caller.name.clone(), request: None }).await?;
        Ok(Response::new(CancelImportResponse { import: Some(ended) }))
    }
}

fn wish(request: &StartImportRequest) -> Result<(ImportPlan, Credentials), Status> {
    let port = u16::try_from(request.port).ok().filter(|port| *port > 0);
    let port = port.ok_or_else(|| Status::invalid_argument("the port of the source is not between 1 and 65535"))?;
    if request.host.is_empty() {
        return Err(Status::invalid_argument("the source has no host"));
    }
    if request.prefixes.len() > PREFIXES_MAX {
        return Err(Status::invalid_argument(format!("at most {PREFIXES_MAX} prefixes are renamed by one import")));
    }
    match (request.tls, request.tls_authorities.as_slice()) {
        (true, pem) => Tls::trusting(pem).map(drop).map_err(Status::invalid_argument)?,
        (false, []) => {}
        (false, _) => return Err(Status::invalid_argument("authorities are of use for a source with TLS only")),
    }
    let password = Some(request.password.as_str()).filter(|password| !password.is_empty()).map(Secret::of);
    let plan = ImportPlan {
        host: request.host.clone(),
        port,
        user: request.username.clone(),
        tls: request.tls,
        database: request.database,
        prefixes: request.prefixes.iter().map(|change| (change.from.clone(), change.to.clone())).collect(),
        merge: request.merge,
        scan: request.scan,
        ..ImportPlan::default()
    };
    Ok((plan, Credentials { password, authorities: request.tls_authorities.clone() }))
}
