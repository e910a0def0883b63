//! `keyward.admin.v1.Insight`: questions about every node. Who may ask is told by the Redis command that shows the same of
//! one node.

use std::sync::Arc;

use keyward_proto::admin as pb;
use keyward_proto::admin::insight_server::Insight;
use keyward_proto::admin::node_question::Question;
use tonic::{Request, Response, Status};

use super::auth::{Door, text};
use super::backend::AdminBackend;
use crate::insight::{self, calendar};
use crate::node::now_ms;

/// What goes on.
pub struct InsightService<B: AdminBackend> {
    door: Arc<Door<B>>,
}

impl<B: AdminBackend> InsightService<B> {
    /// The service behind `door`.
    pub fn new(door: Arc<Door<B>>) -> Self {
        Self { door }
    }
}

#[tonic::async_trait]
impl<B: AdminBackend> Insight for InsightService<B> {
    async fn list_denials(
        &self,
        request: Request<pb::ListDenialsRequest>,
    ) -> Result<Response<pb::ListDenialsResponse>, Status> {
        let _caller = self.door.admit(&request, &[b"ACL", b"LOG"]).await?;
        let asked = request.into_inner();
        let limit = asked.limit;
        let answered = self.door.backend().ask_every_node(Question::Denials(asked)).await;
        Ok(Response::new(insight::merged_denials(answered, limit)))
    }

    async fn get_usage(&self, request: Request<pb::GetUsageRequest>) -> Result<Response<pb::GetUsageResponse>, Status> {
        let _caller = self.door.admit(&request, &[b"TENANT", b"STATS", b"_other"]).await?;
        let mut asked = request.into_inner();
        if asked.month.is_empty() {
            asked.month = calendar::day(now_ms().div_euclid(calendar::DAY_MS))[..7].to_owned();
        }
        if !calendar::is_month(&asked.month) {
            return Err(Status::invalid_argument("a month looks like 2026-11"));
        }
        let answered = self.door.backend().ask_every_node(Question::Usage(asked)).await;
        Ok(Response::new(insight::merged_usage(answered)))
    }

    async fn advise(&self, request: Request<pb::AdviseRequest>) -> Result<Response<pb::AdviseResponse>, Status> {
        let user = request.get_ref().user.clone();
        let _caller = self.door.admit(&request, &[b"ACL", b"GETUSER", user.as_bytes()]).await?;
        let backend = self.door.backend();
        let answered = backend.ask_every_node(Question::Traffic(request.into_inner())).await;
        let advice = backend.advise(user.as_bytes(), &answered);
        advice.map(Response::new).ok_or_else(|| unknown(&user))
    }

    async fn diagnose(&self, request: Request<pb::DiagnoseRequest>) -> Result<Response<pb::DiagnoseResponse>, Status> {
        let user = request.get_ref().user.clone();
        let _caller = self.door.admit(&request, &[b"ACL", b"GETUSER", user.as_bytes()]).await?;
        let backend = self.door.backend();
        let of = |user: &str| Question::Denials(pb::ListDenialsRequest { limit: 0, user: user.to_owned() });
        let (standings, denials, nameless) = tokio::join!(
            backend.ask_every_node(Question::Standing(request.into_inner())),
            backend.ask_every_node(of(&user)),
            backend.ask_every_node(of("default")),
        );
        let (denials, nameless) = (insight::merged_denials(denials, 0), insight::merged_denials(nameless, 0));
        Ok(Response::new(backend.diagnose(&user, standings, denials, nameless)))
    }
}

fn unknown(user: &str) -> Status {
    Status::not_found(format!("no user is called '{}'", text(user.as_bytes())))
}
