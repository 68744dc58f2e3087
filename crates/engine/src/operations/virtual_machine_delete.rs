//! Removes a machine: off the host first, then its rows. Disks and interfaces stay unless their `deleteOption` says `Delete`.

use super::virtual_machine::host_error;
use crate::call::Call;
use crate::operation::{OpContext, OpError, Operation, Outcome};
use crate::providers::network_interface::NicInternal;
use crate::providers::virtual_machine::MachineInternal;
use crate::stored::{internal, to_internal};
use crate::{db_error, new_etag};
use async_trait::async_trait;
use lazuli_arm::bodies::disk::{DiskState, set_state};
use lazuli_meta::model::{Change, Expect, Resource};
use serde_json::Value;

pub(crate) struct VirtualMachineDelete;

#[async_trait]
impl Operation for VirtualMachineDelete {
    fn kind(&self) -> &'static str {
        "virtual_machine.delete"
    }

    async fn run(&self, cx: &OpContext) -> Result<Outcome, OpError> {
        let row = cx.resource().await?;
        let state: MachineInternal = internal(&row)?;
        cx.engine.host().delete(state.vm_id, &[]).await.map_err(|e| host_error(e, &row.name))?;
        let (mut changes, mut gone) = (Vec::new(), Vec::new());
        for (key, delete) in parts(&row, &state) {
            changes.extend(release(cx, &key).await?);
            if delete {
                gone.push(key);
            }
        }
        cx.commit(changes).await?;
        for key in gone {
            delete_part(cx, &key).await?;
        }
        Ok(Outcome::deleted())
    }
}

/// Keys of the machine's disks and interfaces, and whether they go with it.
fn parts(row: &Resource, state: &MachineInternal) -> Vec<(String, bool)> {
    let profile = &row.body["properties"]["storageProfile"];
    let mut parts = vec![(state.os_disk.clone(), profile["osDisk"]["deleteOption"] == "Delete")];
    for (lun, key) in &state.data_disks {
        let mut disks = profile["dataDisks"].as_array().into_iter().flatten();
        parts.push((key.clone(), disks.any(|d| d["lun"] == *lun && d["deleteOption"] == "Delete")));
    }
    for key in &state.nics {
        let mut nics = row.body["properties"]["networkProfile"]["networkInterfaces"].as_array().into_iter().flatten();
        let same = |n: &Value| n["id"].as_str().is_some_and(|id| id.eq_ignore_ascii_case(key));
        parts.push((key.clone(), nics.any(|n| same(n) && n["properties"]["deleteOption"] == "Delete")));
    }
    parts
}

/// The part without its tie to the machine.
async fn release(cx: &OpContext, key: &str) -> Result<Option<Change>, OpError> {
    let Some(mut row) = cx.engine.db().resource(key).await.map_err(db_error)? else { return Ok(None) };
    let expect = Expect::Etag(row.etag.clone());
    if row.kind == "microsoft.compute/disks" {
        set_state(&mut row.body, DiskState::Unattached);
        if let Some(body) = row.body.as_object_mut() {
            body.shift_remove("managedBy");
        }
    } else {
        let mut state: NicInternal = internal(&row)?;
        state.machine = None;
        row.internal = to_internal(&state);
    }
    row.etag = new_etag();
    Ok(Some(Change::PutResource { resource: row, expect }))
}

/// Starts the part's own deletion.
async fn delete_part(cx: &OpContext, key: &str) -> Result<(), OpError> {
    while let Some(row) = cx.engine.db().resource(key).await.map_err(db_error)? {
        let Some(provider) = cx.engine.provider_of_kind(&row.kind).cloned() else { break };
        let call = Call::system(&row.subscription);
        if cx.engine.try_delete(&call, &provider, row).await?.is_some() {
            break;
        }
    }
    Ok(())
}
