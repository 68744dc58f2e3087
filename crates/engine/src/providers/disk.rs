//! `Microsoft.Compute/disks`: decides what a disk is made of and who may reach its bytes; `operations/disk_*.rs` move them.
//!
//! A disk from an image or a copy shares the stored bytes: it is ready with the commit of its row, whatever its size (MD-9).

use super::arm_context;
use super::virtual_machine::resolve_image;
use crate::content::reference;
use crate::db_error;
use crate::grant::blob_url;
use crate::provider::{ActionPlan, Context, DeletePlan, Plan, Provider, Start, standard_view, unknown_action};
use crate::sources::{SourceDisk, disk_or_snapshot};
use crate::stored::{DiskInternal, internal, to_internal};
use async_trait::async_trait;
use lazuli_arm::bodies::Fields;
use lazuli_arm::bodies::disk::{self, DiskState, Origin};
use lazuli_arm::{ArmError, ResourceId};
use lazuli_meta::model::{Change, Grant, Resource};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const KIND: &str = "Microsoft.Compute/disks";
/// `durationInSeconds` is an unsigned 32-bit number on the wire.
const MAX_SECONDS: i64 = 4_294_967_295;

pub(crate) struct Disk;

/// Parameters of `disk.begin_access`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BeginAccess {
    pub write: bool,
    pub expires_ms: i64,
    /// How the caller reaches this server ([`crate::call::Urls`]).
    pub arm_url: String,
    pub blob_suffix: Option<String>,
}

/// Parameters of `disk.end_access`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct EndAccess {
    /// URL of the uploaded blob without its signature, for messages.
    pub blob_url: String,
}

#[async_trait]
impl Provider for Disk {
    fn resource_type(&self) -> &'static str {
        KIND
    }

    async fn put(
        &self,
        cx: Context<'_>,
        id: &ResourceId,
        body: Value,
        old: Option<&Resource>,
    ) -> Result<Plan, ArmError> {
        let body = disk::put(id, &body, old.map(|o| &o.body), &arm_context(cx))?;
        match old {
            Some(old) => update(body, old),
            None => create(cx, id, body).await,
        }
    }

    async fn patch(&self, cx: Context<'_>, id: &ResourceId, patch: Value, old: &Resource) -> Result<Plan, ArmError> {
        update(disk::patch(id, &patch, &old.body, &arm_context(cx))?, old)
    }

    async fn delete(&self, _cx: Context<'_>, old: &Resource) -> Result<DeletePlan, ArmError> {
        if let Some(owner) = old.body["managedBy"].as_str() {
            return Err(ArmError::conflict(
                "OperationNotAllowed",
                format!("Disk {} is attached to VM {owner}. Detach it or delete the VM, then retry.", old.name),
            ));
        }
        Ok(DeletePlan { start: Some(Start { kind: "disk.delete", params: json!({}) }), changes: vec![] })
    }

    async fn show(&self, cx: Context<'_>, row: &Resource) -> Result<Value, ArmError> {
        let mut view = standard_view(KIND, row);
        if let Some(state) = state_now(cx, row).await? {
            view["properties"]["diskState"] = state.as_str().into();
        }
        Ok(view)
    }

    async fn action(&self, cx: Context<'_>, row: &Resource, action: &str, body: Value) -> Result<ActionPlan, ArmError> {
        let start = match action.to_ascii_lowercase().as_str() {
            "begingetaccess" => begin_access(cx, row, &body).await?,
            "endgetaccess" => end_access(cx, row).await?,
            _ => return Err(unknown_action(&row.id, action)),
        };
        let busy = Resource { provisioning_state: "Updating".into(), ..row.clone() };
        Ok(ActionPlan::Start { start, resource: Some(busy), changes: vec![] })
    }

    fn delete_rank(&self) -> u8 {
        50
    }
}

async fn create(cx: Context<'_>, id: &ResourceId, mut body: Value) -> Result<Plan, ArmError> {
    let location = body["location"].as_str().unwrap_or_default().to_owned();
    let mut state = DiskInternal {
        unique_id: body["properties"]["uniqueId"].as_str().unwrap_or_default().to_owned(),
        ..DiskInternal::default()
    };
    let mut changes = Vec::new();
    match disk::origin(&body).ok_or_else(|| ArmError::internal("a disk without an origin was planned"))? {
        Origin::Empty => state.size_bytes = disk::size_bytes(&body).unwrap_or_default(),
        Origin::Upload { .. } => {}
        Origin::Image { lun: Some(_), .. } => {
            return Err(ArmError::bad_request(
                "OperationNotSupported",
                "Parameter 'disk.properties.creationData.galleryImageReference.lun' is not supported: this server's image \
                 versions have no data disks yet.",
            ));
        }
        Origin::Image { id: image, lun: None } => {
            let image = resolve_image(cx, &image.to_string(), &location).await?;
            describe(&mut body, "osType", &json!(image.os_type));
            describe(&mut body, "hyperVGeneration", &json!(image.generation));
            changes.push(Change::RequireResource { key: image.version_id.to_ascii_lowercase() });
            state.size_bytes = fit(&mut body, image.os_disk.size_bytes)?;
            state.base = Some(image.os_disk);
        }
        Origin::Copy(source) => {
            let SourceDisk { found, row } = disk_or_snapshot(cx, &source, &location).await?;
            for name in ["osType", "hyperVGeneration"] {
                describe(&mut body, name, &row.body["properties"][name]);
            }
            body["properties"]["creationData"]["sourceUniqueId"] = row.body["properties"]["uniqueId"].clone();
            changes.push(Change::RequireResource { key: row.key });
            state.size_bytes = fit(&mut body, found.size_bytes)?;
            state.base = found.base;
        }
    }
    if let Some(base) = &state.base {
        changes.push(Change::PutContentRef(reference(&id.key(), &location, &base.manifest)));
    }
    Ok(Plan { body, internal: to_internal(&state), start: None, changes })
}

/// What the source says, where the client said nothing.
fn describe(body: &mut Value, name: &str, value: &Value) {
    if body["properties"].get(name).is_none_or(Value::is_null) && !value.is_null() {
        body["properties"][name] = value.clone();
    }
}

/// The new disk's size: the source's, or more if the client asked for it.
fn fit(body: &mut Value, source_bytes: u64) -> Result<u64, ArmError> {
    let wanted = disk::size_bytes(body);
    let rounded = |bytes: u64| disk::gib_of(bytes);
    match wanted {
        Some(wanted) if rounded(wanted) < rounded(source_bytes) => Err(ArmError::invalid_parameter(
            "disk.properties.diskSizeGB",
            format!(
                "The disk size of {} GB is smaller than the size of its source, {} GB.",
                rounded(wanted),
                rounded(source_bytes)
            ),
        )),
        Some(wanted) if rounded(wanted) > rounded(source_bytes) => {
            disk::set_size(body, wanted);
            Ok(wanted)
        }
        _ => {
            disk::set_size(body, source_bytes);
            Ok(source_bytes)
        }
    }
}

/// Whether a disk's stored bytes are all there is of it, so that they may be copied, imaged or exported.
pub(crate) async fn check_readable(cx: Context<'_>, row: &Resource) -> Result<(), ArmError> {
    let refuse = |why: String| Err(ArmError::conflict("OperationNotAllowed", why).target(row.id.clone()));
    let state = state_now(cx, row).await?;
    if row.provisioning_state != "Succeeded" || state != Some(DiskState::Unattached) {
        let shown = state.map_or(row.provisioning_state.as_str(), |s| s.as_str());
        return refuse(format!(
            "Disk '{}' cannot be read as it is in state '{shown}'. Finish its upload or end its access (revoke its SAS), \
             detach it from its VM, then retry.",
            row.name
        ));
    }
    if internal::<DiskInternal>(row)?.written {
        return refuse(format!(
            "Disk '{}' was used by a VM. This server cannot yet copy, image or export the changes that a VM made to a disk.",
            row.name
        ));
    }
    Ok(())
}

/// A SAS that ran out leaves the disk as if it had been revoked; an upload stays open until it is ended.
async fn state_now(cx: Context<'_>, row: &Resource) -> Result<Option<DiskState>, ArmError> {
    let state = disk::state(&row.body);
    if state != Some(DiskState::ActiveSas) || !live_grants(cx, row).await?.is_empty() {
        return Ok(state);
    }
    Ok(Some(DiskState::Unattached))
}

async fn live_grants(cx: Context<'_>, row: &Resource) -> Result<Vec<Grant>, ArmError> {
    let mut grants = cx.engine.db().grants_of(&row.key).await.map_err(db_error)?;
    grants.retain(|g| g.expires_ms > cx.now_ms);
    Ok(grants)
}

fn update(body: Value, old: &Resource) -> Result<Plan, ArmError> {
    let mut state: DiskInternal = internal(old)?;
    if let Some(bytes) = body["properties"]["diskSizeBytes"].as_u64()
        && bytes != state.size_bytes
    {
        if state.written {
            return Err(ArmError::conflict(
                "OperationNotAllowed",
                format!("Disk '{}' was used by a VM: this server cannot yet resize such a disk.", old.name),
            )
            .target("disk.properties.diskSizeGB"));
        }
        state.size_bytes = bytes;
    }
    Ok(Plan { body, internal: to_internal(&state), ..Plan::default() })
}

async fn begin_access(cx: Context<'_>, row: &Resource, body: &Value) -> Result<Start, ArmError> {
    let given = Fields::root("grantAccessData", body)?;
    let access = given.one_of("access", &["Read", "Write"])?.ok_or_else(|| given.missing("access"))?;
    let seconds = given.int_within("durationInSeconds", 1, MAX_SECONDS)?;
    let seconds = seconds.ok_or_else(|| given.missing("durationInSeconds"))?;
    if row.body["properties"]["networkAccessPolicy"] == "DenyAll" {
        return Err(ArmError::conflict(
            "OperationNotAllowed",
            format!("Access to disk '{}' is denied by its networkAccessPolicy 'DenyAll'.", row.name),
        ));
    }
    let write = access == "Write";
    match (write, state_now(cx, row).await?) {
        (true, Some(DiskState::ReadyToUpload | DiskState::ActiveUpload)) | (false, Some(DiskState::ActiveSas)) => {}
        (true, state) => {
            return Err(ArmError::conflict(
                "OperationNotAllowed",
                format!(
                    "Write access cannot be granted to disk '{}' in state '{}': only a disk with createOption 'Upload' can be \
                     written, until its upload is finished.",
                    row.name,
                    state.map_or("unknown", DiskState::as_str)
                ),
            ));
        }
        (false, Some(DiskState::Attached)) => {
            let owner = row.body["managedBy"].as_str().unwrap_or_default();
            return Err(ArmError::conflict(
                "OperationNotAllowed",
                format!("Access not permitted because disk {} is currently attached to running VM {owner}.", row.name),
            ));
        }
        (false, _) => check_readable(cx, row).await?,
    }
    let params = BeginAccess {
        write,
        expires_ms: cx.now_ms.saturating_add(seconds * 1000),
        arm_url: cx.call.urls.arm.clone(),
        blob_suffix: cx.call.urls.blob_suffix.clone(),
    };
    Ok(Start { kind: "disk.begin_access", params: serde_json::to_value(params).map_err(ArmError::internal)? })
}

/// Idempotent: ending an access that nobody has is no error.
async fn end_access(cx: Context<'_>, row: &Resource) -> Result<Start, ArmError> {
    let grants = cx.engine.db().grants_of(&row.key).await.map_err(db_error)?;
    let blob_url = grants.first().map(|g| blob_url(g, &cx.call.urls)).unwrap_or_default();
    let params = serde_json::to_value(EndAccess { blob_url }).map_err(ArmError::internal)?;
    Ok(Start { kind: "disk.end_access", params })
}
