//! Takes back rights to a disk's bytes that have run out: the SAS is forgotten, and a disk that was only being read is free again.
//! (An upload stays open until it is ended or given a new SAS, as in Azure.)

use super::every;
use crate::{Engine, db_error, new_etag, now_ms};
use lazuli_arm::ArmError;
use lazuli_arm::bodies::disk::{self, DiskState};
use lazuli_meta::WriteError;
use lazuli_meta::model::{Change, Conflict, Expect, Grant, Resource, Write};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const TIMER: Duration = Duration::from_secs(30);

/// Runs until `shutdown` fires.
pub(crate) async fn run(engine: Engine, shutdown: CancellationToken) {
    every(TIMER, &shutdown, || async {
        if let Err(error) = reconcile(&engine, now_ms()).await {
            tracing::warn!(%error, "expired access rights were not taken back; they are looked at again");
        }
    })
    .await;
}

/// Returns how many rights were taken back.
pub(crate) async fn reconcile(engine: &Engine, now_ms: i64) -> Result<usize, ArmError> {
    let mut done = 0;
    for grant in engine.db().expired_grants(now_ms).await.map_err(db_error)? {
        let others = engine.db().grants_of(&grant.resource_key).await.map_err(db_error)?;
        let last = !others.iter().any(|g| g.id != grant.id && g.expires_ms > now_ms);
        let row = engine.db().resource(&grant.resource_key).await.map_err(db_error)?;
        match engine.db().write(Write { fence: None, changes: changes(grant, row, last) }).await {
            Ok(()) => done += 1,
            // Somebody else wrote the disk: the next round decides anew.
            Err(WriteError::Conflict(Conflict::Etag { .. } | Conflict::Missing { .. })) => {}
            Err(WriteError::Conflict(conflict)) => return Err(ArmError::internal(conflict)),
            Err(WriteError::Db(error)) => return Err(db_error(error)),
        }
    }
    Ok(done)
}

fn changes(grant: Grant, row: Option<Resource>, last: bool) -> Vec<Change> {
    let mut changes = vec![Change::DeleteGrant { id: grant.id }];
    if let Some(mut row) = row
        && last
        && disk::state(&row.body) == Some(DiskState::ActiveSas)
    {
        let expect = Expect::Etag(row.etag.clone());
        let idle = disk::idle_state(&row.body);
        disk::set_state(&mut row.body, idle);
        row.etag = new_etag();
        changes.push(Change::PutResource { resource: row, expect });
    }
    changes
}
