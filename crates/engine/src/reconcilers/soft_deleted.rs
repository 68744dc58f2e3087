//! Purges soft-deleted image versions whose retention is over.

use super::every;
use crate::call::Call;
use crate::providers::soft_deleted_version::{KIND, SoftDeletedInternal};
use crate::stored::internal;
use crate::{Engine, now_ms};
use lazuli_arm::ArmError;
use lazuli_meta::model::ResourceQuery;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const TIMER: Duration = Duration::from_secs(10 * 60);

/// Runs until `shutdown` fires.
pub(crate) async fn run(engine: Engine, shutdown: CancellationToken) {
    every(TIMER, &shutdown, async || match reconcile(&engine, now_ms()).await {
        Ok(0) => {}
        Ok(purged) => tracing::info!(versions = purged, "the retention of soft-deleted image versions is over"),
        Err(error) => {
            tracing::warn!(%error, "soft-deleted image versions were not purged; they are looked at again")
        }
    })
    .await;
}

/// Begins the deletion of what is due. Returns how many deletions were begun.
pub(crate) async fn reconcile(engine: &Engine, now_ms: i64) -> Result<usize, ArmError> {
    let query = ResourceQuery { kind: Some(KIND.to_ascii_lowercase()), ..ResourceQuery::default() };
    let mut begun = 0;
    for row in engine.all_rows(query).await? {
        let state: SoftDeletedInternal = internal(&row)?;
        let Some(provider) = engine.provider_of_kind(&row.kind).cloned() else { continue };
        if state.purge_ms > now_ms || row.provisioning_state == "Deleting" {
            continue;
        }
        // Whoever was faster (a restore, another server) has decided; the next round sees what is left.
        if engine.try_delete(&Call::system(&row.subscription), &provider, row).await?.is_some() {
            begun += 1;
        }
    }
    Ok(begun)
}
