//! Deploys a template; see [`crate::deployments`].

use crate::deployments;
use crate::operation::{OpContext, OpError, Operation, Outcome};
use async_trait::async_trait;

pub(crate) struct DeploymentRun;

#[async_trait]
impl Operation for DeploymentRun {
    fn kind(&self) -> &'static str {
        deployments::RUN
    }

    async fn run(&self, cx: &OpContext) -> Result<Outcome, OpError> {
        deployments::run(cx).await
    }

    async fn undo(&self, cx: &OpContext) -> Result<Outcome, OpError> {
        deployments::undo(cx).await
    }
}
