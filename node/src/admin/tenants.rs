//! `keyward.admin.v1.Tenants`: the `TENANT` commands as messages.

use std::collections::HashMap;
use std::sync::Arc;

use keyward_engine::asks::TenantAsk;
use keyward_proto::admin::node_question::Question;
use keyward_proto::admin::tenants_server::Tenants;
use keyward_proto::admin::{
    CreateTenantRequest, CreateTenantResponse, DeleteTenantRequest, DeleteTenantResponse, GetTenantRequest,
    GetTenantResponse, GetTenantStatsRequest, GetTenantStatsResponse, ListTenantsRequest, ListTenantsResponse,
    SetTenantRequest, SetTenantResponse, Tenant, TenantMemoriesRequest, TenantMemory,
};
use tonic::{Request, Response, Status};

use super::auth::{Admitted, Door, text};
use super::backend::{AdminBackend, Origin};
use crate::insight;

/// Tenants.
pub struct TenantService<B: AdminBackend> {
    door: Arc<Door<B>>,
}

impl<B: AdminBackend> TenantService<B> {
    /// The service behind `door`.
    pub fn new(door: Arc<Door<B>>) -> Self {
        Self { door }
    }

    fn known(&self, name: &str) -> Result<Tenant, Status> {
        let state = self.door.backend().state();
        let known = state.tenants().get(name).map(|tenant| self.described(tenant));
        known.ok_or_else(|| Status::not_found(format!("there is no tenant '{}'", text(name.as_bytes()))))
    }

    async fn tenant(&self, name: &str) -> Result<Tenant, Status> {
        let known = self.known(name)?;
        let mut memories = self.memories(name).await;
        Ok(Tenant { memory: memories.remove(name), ..known })
    }

    /// Without what it has.
    fn described(&self, tenant: &keyward_cluster::Tenant) -> Tenant {
        let mut described = described(tenant);
        for (import, line) in tenant.imports.iter().zip(&mut described.imports) {
            if let Some(why) = self.door.backend().import_waits_for(&tenant.name, import) {
                line.push_str(&format!(" (waiting: {why})"));
            }
        }
        described
    }

    /// What they have, by name; empty: all of them.
    async fn memories(&self, tenant: &str) -> HashMap<String, TenantMemory> {
        let question = Question::Memories(TenantMemoriesRequest { tenant: tenant.to_owned() });
        insight::merged_memories(self.door.backend().ask_every_node(question).await)
    }

    async fn change(&self, caller: &Admitted<B::Login>, argv: &[&[u8]]) -> Result<(), Status> {
        let ask = self.door.backend().tenant_ask(&caller.login, argv)?;
        let origin = Origin { actor: caller.name.clone(), request: None };
        Ok(self.door.backend().change_tenant(ask, origin).await?)
    }
}

/// The words of a request, behind those of the command.
fn argv<'a>(word: &'a [u8], name: &'a str, arguments: &'a [String]) -> Vec<&'a [u8]> {
    let head: [&[u8]; 3] = [b"TENANT", word, name.as_bytes()];
    head.into_iter().chain(arguments.iter().map(String::as_bytes)).collect()
}

#[tonic::async_trait]
impl<B: AdminBackend> Tenants for TenantService<B> {
    async fn list_tenants(
        &self,
        request: Request<ListTenantsRequest>,
    ) -> Result<Response<ListTenantsResponse>, Status> {
        let _caller = self.door.admit(&request, &[b"TENANT", b"LIST"]).await?;
        let mut memories = self.memories("").await;
        let state = self.door.backend().state();
        let with_memory = |tenant: &Arc<keyward_cluster::Tenant>| Tenant {
            memory: memories.remove(&tenant.name),
            ..self.described(tenant)
        };
        Ok(Response::new(ListTenantsResponse { tenants: state.tenants().iter().map(with_memory).collect() }))
    }

    async fn get_tenant(&self, request: Request<GetTenantRequest>) -> Result<Response<GetTenantResponse>, Status> {
        let name = &request.get_ref().name;
        let _caller = self.door.admit(&request, &[b"TENANT", b"GET", name.as_bytes()]).await?;
        Ok(Response::new(GetTenantResponse { tenant: Some(self.tenant(name).await?) }))
    }

    async fn create_tenant(
        &self,
        request: Request<CreateTenantRequest>,
    ) -> Result<Response<CreateTenantResponse>, Status> {
        let CreateTenantRequest { name, arguments } = request.get_ref();
        let argv = argv(b"CREATE", name, arguments);
        let caller = self.door.admit(&request, &argv).await?;
        self.change(&caller, &argv).await?;
        Ok(Response::new(CreateTenantResponse { tenant: self.tenant(name).await.ok() }))
    }

    async fn set_tenant(&self, request: Request<SetTenantRequest>) -> Result<Response<SetTenantResponse>, Status> {
        let SetTenantRequest { name, arguments } = request.get_ref();
        let argv = argv(b"SET", name, arguments);
        let caller = self.door.admit(&request, &argv).await?;
        let ask = self.door.backend().tenant_ask(&caller.login, &argv)?;
        let name = renamed(&ask).unwrap_or_else(|| name.clone());
        self.change(&caller, &argv).await?;
        Ok(Response::new(SetTenantResponse { tenant: self.tenant(&name).await.ok() }))
    }

    async fn delete_tenant(
        &self,
        request: Request<DeleteTenantRequest>,
    ) -> Result<Response<DeleteTenantResponse>, Status> {
        let DeleteTenantRequest { name, purge } = request.get_ref();
        let mut argv = argv(b"DEL", name, &[]);
        argv.extend(purge.then_some(&b"PURGE"[..]));
        let caller = self.door.admit(&request, &argv).await?;
        self.known(name)?;
        self.change(&caller, &argv).await?;
        Ok(Response::new(DeleteTenantResponse {}))
    }

    async fn get_tenant_stats(
        &self,
        request: Request<GetTenantStatsRequest>,
    ) -> Result<Response<GetTenantStatsResponse>, Status> {
        let name = request.get_ref().tenant.clone();
        let asked = if name.is_empty() { "_other" } else { &name };
        let _caller = self.door.admit(&request, &[b"TENANT", b"STATS", asked.as_bytes()]).await?;
        if !name.is_empty() {
            self.known(&name)?;
        }
        let answered = self.door.backend().ask_every_node(Question::TenantStats(request.into_inner())).await;
        Ok(Response::new(insight::stats::merged(answered)))
    }
}

fn renamed(ask: &TenantAsk) -> Option<String> {
    use keyward_engine::asks::TenantEdit;
    let TenantAsk::Set { edits, .. } = ask else { return None };
    edits.iter().find_map(|edit| if let TenantEdit::Name(name) = edit { Some(name.clone()) } else { None })
}

fn described(tenant: &keyward_cluster::Tenant) -> Tenant {
    let grants = |grants: &std::collections::BTreeSet<keyward_cluster::TenantGrant>, preposition: &str| {
        let line = |grant: &keyward_cluster::TenantGrant| {
            let access = if grant.write { "write" } else { "read" };
            format!("{} {preposition} {} {access}", text(&grant.pattern), grant.tenant)
        };
        grants.iter().map(line).collect()
    };
    Tenant {
        name: tenant.name.clone(),
        namespace: tenant.mode == keyward_cluster::TenantMode::Namespace,
        prefixes: tenant.prefixes().map(text).collect(),
        users: tenant.users.iter().map(|user| text(user)).collect(),
        settings: tenant.settings.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        exports: grants(&tenant.exports, "to"),
        imports: grants(&tenant.imports, "from"),
        retired: tenant.retired,
        number: tenant.number.0,
        revision: tenant.revision,
        created: tenant.created,
        memory: None,
    }
}
