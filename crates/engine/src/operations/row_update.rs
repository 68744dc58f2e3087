//! The operation of a write that is complete with its commit: it only lets clients poll, and see `Updating` before
//! `Succeeded`, as Azure shows it (wire.md §2).

use crate::operation::{OpContext, OpError, Operation, Outcome};
use async_trait::async_trait;

/// One for each kind of operation.
pub(crate) struct RowUpdate(pub &'static str);

#[async_trait]
impl Operation for RowUpdate {
    fn kind(&self) -> &'static str {
        self.0
    }

    async fn run(&self, _cx: &OpContext) -> Result<Outcome, OpError> {
        Ok(Outcome::default())
    }
}
