//! `Microsoft.Compute/disks`: decides what a disk is made of and who may reach its bytes; `operations/disk_*.rs` move them.
//!
//! A disk from an image or a copy shares the stored bytes: it is ready with the commit of its row, whatever its size (MD-9).
//! Snapshots are disks in all of this but their body: `snapshot.rs` calls what is here.

pub(super) mod source;

use super::arm_context;
use crate::capture::{Overlay, add_reader, check_machine_off};
use crate::db_error;
use crate::grant::blob_url;
use crate::provider::{ActionPlan, Context, DeletePlan, Plan, Provider, Start, standard_view, unknown_action};
use crate::stored::{DiskInternal, internal, to_internal};
use async_trait::async_trait;
use lazuli_arm::bodies::Fields;
use lazuli_arm::bodies::disk::{self, DiskState, Origin};
use lazuli_arm::{ArmError, ResourceId};
use lazuli_meta::model::{Change, Grant, OperationQuery, OperationState, Resource};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use source::{Owner, fit, take_over};

const KIND: &str = "Microsoft.Compute/disks";
/// `durationInSeconds` is an unsigned 32-bit number on the wire.
const MAX_SECONDS: i64 = 4_294_967_295;

pub(crate) struct Disk;

/// Parameters of `disk.begin_access`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BeginAccess {
    pub write: bool,
    /// A second SAS, for the state of a trusted launch guest.
    #[serde(default)]
    pub guest_state: bool,
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
            Some(old) => update(cx, body, old).await,
            None => create(cx, id, body).await,
        }
    }

    async fn patch(&self, cx: Context<'_>, id: &ResourceId, patch: Value, old: &Resource) -> Result<Plan, ArmError> {
        update(cx, disk::patch(id, &patch, &old.body, &arm_context(cx))?, old).await
    }

    async fn delete(&self, cx: Context<'_>, old: &Resource) -> Result<DeletePlan, ArmError> {
        if let Some(owner) = old.body["managedBy"].as_str() {
            return Err(ArmError::conflict(
                "OperationNotAllowed",
                format!("Disk {} is attached to VM {owner}.", old.name),
            ));
        }
        delete(cx, old).await
    }

    async fn show(&self, cx: Context<'_>, row: &Resource) -> Result<Value, ArmError> {
        show(cx, KIND, row).await
    }

    fn actions(&self) -> &'static [&'static str] {
        &["beginGetAccess", "endGetAccess"]
    }

    async fn action(&self, cx: Context<'_>, row: &Resource, action: &str, body: Value) -> Result<ActionPlan, ArmError> {
        act(cx, row, action, &body).await
    }

    fn delete_rank(&self) -> u8 {
        50
    }
}

async fn create(cx: Context<'_>, id: &ResourceId, mut body: Value) -> Result<Plan, ArmError> {
    let location = body["location"].as_str().unwrap_or_default().to_owned();
    let mut state = DiskInternal { unique_id: unique_id(&body), ..DiskInternal::default() };
    let mut changes = check_disk_access(cx, &body, None).await?;
    let origin = disk::origin(&body).ok_or_else(|| ArmError::internal("a disk without an origin was planned"))?;
    if origin == Origin::Empty {
        state.size_bytes = disk::size_bytes(&body).unwrap_or_default();
    }
    let mut start = None;
    if let Some(source) = source::find(cx, id, &origin, &location).await? {
        state.size_bytes = fit("disk.properties.diskSizeGB", disk::size_bytes(&body), source.found.size_bytes)?;
        disk::set_size(&mut body, state.size_bytes);
        let owner = Owner::new(id, &location, "disk.create", "disk.copy");
        let arrival = take_over(&source, &owner, &mut body, &mut state)?;
        changes.extend(arrival.changes);
        start = arrival.start;
    }
    Ok(Plan { body, internal: to_internal(&state), start, changes })
}

pub(super) fn unique_id(body: &Value) -> String {
    body["properties"]["uniqueId"].as_str().unwrap_or_default().to_owned()
}

/// A disk access resource that is named must be there, in the same region, and stay while it is named.
pub(super) async fn check_disk_access(
    cx: Context<'_>,
    body: &Value,
    old: Option<&Value>,
) -> Result<Vec<Change>, ArmError> {
    let Some(id) = disk::disk_access(body) else { return Ok(vec![]) };
    if old.and_then(disk::disk_access).is_some_and(|o| o.key() == id.key()) {
        return Ok(vec![]);
    }
    cx.engine.authorize_link(&cx.call.caller, &id.to_string(), "Microsoft.Compute/diskAccesses/read").await?;
    let row = cx.engine.db().resource(&id.key()).await.map_err(db_error)?;
    match row.filter(|r| body["location"] == *r.location) {
        Some(row) => Ok(vec![Change::RequireResource { key: row.key }]),
        None => {
            let message = format!("Resource {} is not found in region {}.", id.name(), body["location"]);
            Err(ArmError::new(404, "NotFound", message.replace('"', "'")).target(id.to_string()))
        }
    }
}

/// Nobody may be reading or writing the bytes. A group takes its contents along whatever their state.
pub(super) async fn delete(cx: Context<'_>, old: &Resource) -> Result<DeletePlan, ArmError> {
    if !cx.call.caller.principal.is_empty() && !live_grants(cx, old).await?.is_empty() {
        return Err(ArmError::conflict(
            "OperationNotAllowed",
            format!(
                "There is an active shared access signature outstanding for disk {}. Call EndGetAccess before attaching or \
                 deleting the disk.",
                old.name
            ),
        ));
    }
    Ok(DeletePlan { start: Some(Start { kind: "disk.delete", params: json!({}) }), changes: vec![] })
}

/// The stored body with what is true at this moment.
pub(super) async fn show(cx: Context<'_>, kind: &str, row: &Resource) -> Result<Value, ArmError> {
    let mut view = standard_view(kind, row);
    if let Some(state) = state_now(cx, row).await? {
        view["properties"]["diskState"] = state.as_str().into();
    }
    if disk::is_copying(&row.body)
        && let Some(percent) = copied_percent(cx, row).await?
    {
        disk::set_completion_percent(&mut view, percent);
    }
    Ok(view)
}

/// How far the copy in the background is; never 100 before it has ended.
async fn copied_percent(cx: Context<'_>, row: &Resource) -> Result<Option<f64>, ArmError> {
    let query = OperationQuery {
        resource_key: Some(row.key.clone()),
        state: Some(OperationState::Running),
        ..OperationQuery::default()
    };
    let running = cx.engine.db().operations(&query).await.map_err(db_error)?;
    let Some(copy) = running.into_iter().find(|o| o.kind.ends_with(".copy") && o.progress_total > 0) else {
        return Ok(None);
    };
    let percent = copy.progress_done.clamp(0, copy.progress_total).saturating_mul(100) / copy.progress_total;
    Ok(Some(f64::from(i32::try_from(percent.min(99)).unwrap_or(99))))
}

/// `beginGetAccess`, `endGetAccess`.
pub(super) async fn act(cx: Context<'_>, row: &Resource, action: &str, body: &Value) -> Result<ActionPlan, ArmError> {
    check_made(row)?;
    let start = match action.to_ascii_lowercase().as_str() {
        "begingetaccess" => begin_access(cx, row, body).await?,
        "endgetaccess" => end_access(cx, row).await?,
        _ => return Err(unknown_action(&row.id, action)),
    };
    let mut busy = Resource { provisioning_state: "Updating".into(), ..row.clone() };
    if start.kind == "disk.begin_access" {
        add_reader(&mut busy, &row.key);
    }
    Ok(ActionPlan::Start { start, resource: Some(busy), changes: vec![] })
}

/// Whether a disk is in a state in which it may be copied, imaged or exported, if nobody writes to it.
pub(crate) async fn check_readable(cx: Context<'_>, row: &Resource) -> Result<(), ArmError> {
    let refuse = |why: String| Err(ArmError::conflict("OperationNotAllowed", why).target(row.id.clone()));
    if disk::is_copying(&row.body) {
        return refuse(format!(
            "'{}' cannot be read before its copy is complete: wait until its completionPercent is 100, then retry.",
            row.name
        ));
    }
    let state = state_now(cx, row).await?;
    // Reading beside other readers is allowed (recorded: copies, snapshots and images of a disk in state ActiveSAS). What the
    // disk's machine does is looked at by `capture::Overlay::at_rest`.
    let readable =
        matches!(state, Some(DiskState::Unattached | DiskState::ActiveSas | DiskState::Reserved | DiskState::Attached));
    if row.provisioning_state != "Succeeded" || !readable {
        let shown = state.map_or(row.provisioning_state.as_str(), |s| s.as_str());
        return refuse(format!(
            "Disk '{}' cannot be read as it is in state '{shown}'. Finish its upload or end its access (revoke its SAS), \
             then retry.",
            row.name
        ));
    }
    Ok(())
}

/// What an image is made of must not be reached over a SAS (wire.md §5).
pub(crate) async fn check_no_access(cx: Context<'_>, row: &Resource) -> Result<(), ArmError> {
    if state_now(cx, row).await? != Some(DiskState::ActiveSas) {
        return Ok(());
    }
    let message = format!(
        "Disk '{}' cannot be the source of an image as it is in state 'ActiveSAS'. End its access (revoke its SAS), then retry.",
        row.name
    );
    Err(ArmError::conflict("OperationNotAllowed", message).target(row.id.clone()))
}

/// A SAS that ran out leaves the disk as if it had been revoked; an upload stays open until it is ended.
async fn state_now(cx: Context<'_>, row: &Resource) -> Result<Option<DiskState>, ArmError> {
    let state = disk::state(&row.body);
    if state != Some(DiskState::ActiveSas) || !live_grants(cx, row).await?.is_empty() {
        return Ok(state);
    }
    Ok(Some(disk::idle_state(&row.body)))
}

async fn live_grants(cx: Context<'_>, row: &Resource) -> Result<Vec<Grant>, ArmError> {
    let mut grants = cx.engine.db().grants_of(&row.key).await.map_err(db_error)?;
    grants.retain(|g| g.expires_ms > cx.now_ms);
    Ok(grants)
}

async fn update(cx: Context<'_>, body: Value, old: &Resource) -> Result<Plan, ArmError> {
    check_made(old)?;
    let changes = check_disk_access(cx, &body, Some(&old.body)).await?;
    let mut state: DiskInternal = internal(old)?;
    let before = state.size_bytes;
    resize(&body, old, &mut state)?;
    if state.size_bytes != before {
        check_machine_off(cx, old).await?;
    }
    Ok(Plan { body, internal: to_internal(&state), start: None, changes })
}

/// A disk or snapshot whose creation failed has no bytes: nothing may make it look as if it had.
pub(super) fn check_made(row: &Resource) -> Result<(), ArmError> {
    if !internal::<DiskInternal>(row)?.incomplete {
        return Ok(());
    }
    Err(ArmError::conflict(
        "OperationNotAllowed",
        format!("'{}' cannot be used as its creation failed. Delete it, then create it again.", row.name),
    )
    .target(row.id.clone()))
}

/// A new size; what is added reads as zeros.
pub(super) fn resize(body: &Value, old: &Resource, state: &mut DiskInternal) -> Result<(), ArmError> {
    let Some(bytes) = body["properties"]["diskSizeBytes"].as_u64().filter(|b| *b != state.size_bytes) else {
        return Ok(());
    };
    let refuse = |why: String| Err(ArmError::conflict("OperationNotAllowed", why).target("disk.properties.diskSizeGB"));
    if disk::state(&old.body) == Some(DiskState::Attached) {
        let owner = old.body["managedBy"].as_str().unwrap_or_default();
        return refuse(format!(
            "Cannot resize disk {} while it is attached to running VM {owner}. Resizing a disk of an Azure Virtual Machine \
             requires the virtual machine to be deallocated. Please stop your VM and retry the operation.",
            old.name
        ));
    }
    if disk::is_copying(&old.body) {
        return refuse(format!("'{}' cannot be resized before its copy is complete (completionPercent).", old.name));
    }
    state.size_bytes = bytes;
    Ok(())
}

async fn begin_access(cx: Context<'_>, row: &Resource, body: &Value) -> Result<Start, ArmError> {
    let given = Fields::root("grantAccessData", body)?;
    let access = given.one_of("access", &["Read", "Write"])?.ok_or_else(|| given.missing("access"))?;
    let seconds = given.int_within("durationInSeconds", 1, MAX_SECONDS)?;
    let seconds = seconds.ok_or_else(|| given.missing("durationInSeconds"))?;
    let guest_state = given.bool("getSecureVMGuestStateSAS")?.unwrap_or(false);
    // A snapshot is stored in no file format of its own: what is downloaded is always a VHD.
    given.one_of("fileFormat", &["VHD", "VHDX"])?;
    check_policies(row)?;
    let write = access == "Write";
    if guest_state {
        check_guest_state(row, write)?;
    }
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
        (false, _) => {
            check_readable(cx, row).await?;
            Overlay::at_rest(cx, row, &internal(row)?).await?;
        }
    }
    let params = BeginAccess {
        write,
        guest_state,
        expires_ms: cx.now_ms.saturating_add(seconds * 1000),
        arm_url: cx.call.urls.arm.clone(),
        blob_suffix: cx.call.urls.blob_suffix.clone(),
    };
    Ok(Start { kind: "disk.begin_access", params: serde_json::to_value(params).map_err(ArmError::internal)? })
}

/// Who may reach the bytes from where. There are no private endpoints here.
fn check_policies(row: &Resource) -> Result<(), ArmError> {
    let properties = &row.body["properties"];
    let denied = |name: &str, why: &str| {
        let value = properties[name].as_str().unwrap_or_default();
        Err(ArmError::conflict(
            "OperationNotAllowed",
            format!("Access to disk '{}' is denied by its {name} '{value}'{why}.", row.name),
        ))
    };
    match properties["networkAccessPolicy"].as_str() {
        Some("DenyAll") => denied("networkAccessPolicy", ""),
        Some("AllowPrivate") => {
            denied("networkAccessPolicy", ": its disk access resource has no private endpoint connection")
        }
        _ if properties["publicNetworkAccess"] == "Disabled" => denied("publicNetworkAccess", ""),
        _ => Ok(()),
    }
}

/// `getSecureVMGuestStateSAS` on a disk that has none, or takes none.
fn check_guest_state(row: &Resource, write: bool) -> Result<(), ArmError> {
    let takes = matches!(disk::origin(&row.body), Some(Origin::Upload { guest_state: true, .. }));
    let has = internal::<DiskInternal>(row)?.guest_state.is_some();
    if (write && takes) || (!write && has) {
        return Ok(());
    }
    let why = if write {
        "only a disk with createOption 'UploadPreparedSecure' takes a VM guest state"
    } else {
        "it has no VM guest state"
    };
    Err(ArmError::bad_request(
        "InvalidParameter",
        format!("A SAS for the VM guest state of disk '{}' cannot be given: {why}.", row.name),
    )
    .target("grantAccessData.getSecureVMGuestStateSAS"))
}

/// Idempotent: ending an access that nobody has is no error.
async fn end_access(cx: Context<'_>, row: &Resource) -> Result<Start, ArmError> {
    let grants = cx.engine.db().grants_of(&row.key).await.map_err(db_error)?;
    let blob_url = grants.first().map(|g| blob_url(g, &cx.call.urls)).unwrap_or_default();
    let params = serde_json::to_value(EndAccess { blob_url }).map_err(ArmError::internal)?;
    Ok(Start { kind: "disk.end_access", params })
}
