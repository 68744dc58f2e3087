//! Removes a machine: off the host first, then its rows. Disks and interfaces stay unless their `deleteOption` says `Delete`.

use super::virtual_machine::host_error;
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
        let mut changes = Vec::new();
        let profile = &row.body["properties"]["storageProfile"];
        let deleted = |entry: &Value| entry["deleteOption"] == "Delete";
        changes.extend(release_disk(cx, &state.os_disk, deleted(&profile["osDisk"])).await?);
        for (lun, key) in &state.data_disks {
            let entries = profile["dataDisks"].as_array().into_iter().flatten();
            let entry = entries.into_iter().find(|d| d["lun"] == *lun).cloned().unwrap_or_default();
            changes.extend(release_disk(cx, key, deleted(&entry)).await?);
        }
        for key in &state.nics {
            changes.extend(release_nic(cx, key).await?);
        }
        Ok(Outcome { changes, ..Outcome::deleted() })
    }
}

async fn release_disk(cx: &OpContext, key: &str, delete: bool) -> Result<Option<Change>, OpError> {
    let Some(mut row) = cx.engine.db().resource(key).await.map_err(db_error)? else { return Ok(None) };
    if row.provisioning_state == "Deleting" {
        return Ok(None);
    }
    let expect = Expect::Etag(row.etag.clone());
    set_state(&mut row.body, DiskState::Unattached);
    if let Some(body) = row.body.as_object_mut() {
        body.shift_remove("managedBy");
    }
    row.etag = new_etag();
    let resource = row;
    if delete {
        return Ok(Some(super::delete_later(resource, expect, "disk.delete")));
    }
    Ok(Some(Change::PutResource { resource, expect }))
}

async fn release_nic(cx: &OpContext, key: &str) -> Result<Option<Change>, OpError> {
    let Some(row) = cx.engine.db().resource(key).await.map_err(db_error)? else { return Ok(None) };
    let mut state: NicInternal = internal(&row)?;
    state.machine = None;
    let expect = Expect::Etag(row.etag.clone());
    let resource = Resource { internal: to_internal(&state), etag: new_etag(), ..row };
    Ok(Some(Change::PutResource { resource, expect }))
}
