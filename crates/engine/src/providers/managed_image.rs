//! `Microsoft.Compute/images`: decides which disks a managed image is made of; `operations/managed_image_create.rs` settles
//! their bytes.
//!
//! ```text
//! PUT new    sources are checked and referenced in the same transaction ─> managed_image.create
//! PUT, PATCH tags                                                       ─> managed_image.update
//! DELETE     references go, bytes are freed                             ─> managed_image.delete
//! ```
//! An image has references of its own: its sources may be deleted as soon as it exists, and disks made from it outlive it
//! (MI-2, MD-9).

use super::arm_context;
use crate::provider::{Context, DeletePlan, Plan, Provider, Start};
use crate::sources::{self, FoundDisk, SourceDisk, disk_or_snapshot};
use crate::stored::{ManagedImageInternal, internal, to_internal};
use async_trait::async_trait;
use lazuli_arm::bodies::disk;
use lazuli_arm::bodies::managed_image::{self, DiskSource, MachineDisk, Place, Source};
use lazuli_arm::{ArmError, ResourceId};
use lazuli_meta::model::{Change, Resource};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub(crate) const KIND: &str = "Microsoft.Compute/images";

pub(crate) struct ManagedImage;

/// Parameters of `managed_image.create`: the disks, in the image's region.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Parts {
    pub os: FoundDisk,
    /// By LUN.
    pub data: BTreeMap<u32, FoundDisk>,
}

#[async_trait]
impl Provider for ManagedImage {
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
        let body = managed_image::put(id, &body, old.map(|o| &o.body), &arm_context(cx))?;
        plan(cx, id, body, old).await
    }

    async fn patch(&self, cx: Context<'_>, id: &ResourceId, patch: Value, old: &Resource) -> Result<Plan, ArmError> {
        let body = managed_image::patch(id, &patch, &old.body, &arm_context(cx))?;
        plan(cx, id, body, Some(old)).await
    }

    async fn delete(&self, _cx: Context<'_>, _old: &Resource) -> Result<DeletePlan, ArmError> {
        Ok(DeletePlan { start: Some(Start { kind: "managed_image.delete", params: json!({}) }), changes: vec![] })
    }

    fn views(&self) -> &'static [&'static str] {
        &["build"]
    }

    async fn view(&self, cx: Context<'_>, row: &Resource, name: &str) -> Result<Option<Value>, ArmError> {
        if !name.eq_ignore_ascii_case("build") {
            return Ok(None);
        }
        crate::build_record::view(cx.engine, row).await
    }

    fn delete_rank(&self) -> u8 {
        45
    }
}

async fn plan(cx: Context<'_>, id: &ResourceId, mut body: Value, old: Option<&Resource>) -> Result<Plan, ArmError> {
    let state: ManagedImageInternal = old.map_or_else(|| Ok(ManagedImageInternal::default()), internal)?;
    if state.os_disk.is_some() {
        let start = Start { kind: "managed_image.update", params: json!({}) };
        return Ok(Plan { body, internal: to_internal(&state), start: Some(start), changes: vec![] });
    }
    // New, or an attempt that failed before the sources were read: that is made anew.
    let location = body["location"].as_str().unwrap_or_default().to_owned();
    let mut gathered = Gathered { cx, id, location, sources: vec![] };
    let parts = match managed_image::source(&body) {
        Some(Source::Disks { os, data }) => gathered.of_disks(&mut body, &os, &data).await?,
        Some(Source::VirtualMachine(machine)) => gathered.of_machine(&mut body, &machine).await?,
        None => return Err(ArmError::internal("an image without a source was planned")),
    };
    let mut changes: Vec<Change> = gathered.sources.into_iter().map(|key| Change::RequireResource { key }).collect();
    for disk in std::iter::once(&parts.os).chain(parts.data.values()) {
        changes.extend(disk.references(&id.key(), &gathered.location));
    }
    let start = Start { kind: "managed_image.create", params: to_internal(&parts) };
    Ok(Plan { body, internal: to_internal(&state), start: Some(start), changes })
}

/// Collects the rows that must still be there when the image's row is committed.
struct Gathered<'a> {
    cx: Context<'a>,
    id: &'a ResourceId,
    location: String,
    sources: Vec<String>,
}

impl Gathered<'_> {
    async fn of_disks(
        &mut self,
        body: &mut Value,
        os: &DiskSource,
        data: &[(u32, DiskSource)],
    ) -> Result<Parts, ArmError> {
        let (os, os_row) = self.disk(os).await?;
        if let Some(row) = &os_row {
            check_os_disk(body, row)?;
            let generation = row.body["properties"]["hyperVGeneration"].as_str();
            managed_image::settle_generation(body, generation, &row.id)?;
        } else {
            managed_image::settle_generation(body, None, "")?;
        }
        let mut parts = Parts { os, data: BTreeMap::new() };
        for (lun, source) in data {
            parts.data.insert(*lun, self.disk(source).await?.0);
        }
        Ok(parts)
    }

    /// MI-3: the machine is generalized, and with that off; its disks are read when the image is made.
    async fn of_machine(&mut self, body: &mut Value, id: &ResourceId) -> Result<Parts, ArmError> {
        self.check_subscription(id)?;
        let machine = sources::virtual_machine(self.cx, id, &self.location).await?;
        check_security_type(&machine.row.body["properties"]["securityProfile"]["securityType"])?;
        if !machine.generalized {
            return Err(ArmError::conflict(
                "OperationNotAllowed",
                format!(
                    "The operation 'Create Image' requires the Virtual Machine '{}' to be Generalized.",
                    machine.row.name
                ),
            ));
        }
        let shown = |disk: &SourceDisk, caching: &str| MachineDisk {
            id: disk.row.id.clone(),
            caching: caching.to_owned(),
            storage_account_type: disk.row.body["sku"]["name"].as_str().unwrap_or("Standard_LRS").to_owned(),
        };
        let data: Vec<_> = machine.data.iter().map(|(lun, caching, disk)| (*lun, shown(disk, caching))).collect();
        managed_image::describe_machine(body, &machine.os_type, &shown(&machine.os, &machine.os_caching), &data);
        managed_image::settle_generation(body, Some(&machine.generation), &machine.row.id)?;
        let disks = std::iter::once(&machine.os).chain(machine.data.iter().map(|(.., disk)| disk));
        self.sources.extend(disks.map(|disk| disk.row.key.clone()));
        self.sources.push(machine.row.key);
        let data = machine.data.into_iter().map(|(lun, _, disk)| (lun, disk.found)).collect();
        Ok(Parts { os: machine.os.found, data })
    }

    async fn disk(&mut self, source: &DiskSource) -> Result<(FoundDisk, Option<Resource>), ArmError> {
        let (found, row) = match &source.place {
            Place::Resource(id) => {
                self.check_subscription(id)?;
                let SourceDisk { found, row } = disk_or_snapshot(self.cx, id, &self.location).await?;
                check_security_type(&row.body["properties"]["securityProfile"]["securityType"])?;
                self.sources.push(row.key.clone());
                (found, Some(row))
            }
            Place::Blob(uri) => (sources::blob(self.cx, uri, None, &self.location).await?, None),
        };
        Ok((grown(found, source.size_gib)?, row))
    }

    /// An image and its sources belong to one subscription (MI-5).
    fn check_subscription(&self, source: &ResourceId) -> Result<(), ArmError> {
        if source.subscription.eq_ignore_ascii_case(&self.id.subscription) {
            return Ok(());
        }
        Err(ArmError::bad_request(
            "InvalidParameter",
            format!(
                "The source '{source}' is in another subscription than the image. Managed images cannot be shared across \
                 subscriptions: use an image version of a compute gallery."
            ),
        )
        .target(source.to_string()))
    }
}

/// The disk as large as the image is to have it.
fn grown(mut found: FoundDisk, size_gib: Option<u64>) -> Result<FoundDisk, ArmError> {
    let own = disk::gib_of(found.size_bytes);
    match size_gib {
        Some(wanted) if wanted < own => Err(ArmError::invalid_parameter(
            "image.properties.storageProfile.diskSizeGB",
            format!("The disk size of {wanted} GB is smaller than the size of its source, {own} GB."),
        )),
        Some(wanted) if wanted > own => {
            found.size_bytes = wanted << 30;
            Ok(found)
        }
        _ => Ok(found),
    }
}

/// What the OS disk knows of itself must be what the image says of it.
fn check_os_disk(body: &Value, row: &Resource) -> Result<(), ArmError> {
    let wanted = managed_image::os_type(body);
    match row.body["properties"]["osType"].as_str() {
        Some(found) if !found.eq_ignore_ascii_case(wanted) => Err(ArmError::invalid_parameter(
            "image.properties.storageProfile.osDisk.osType",
            format!(
                "The value '{wanted}' of parameter 'osType' is invalid: the source '{}' has OS type '{found}'.",
                row.id
            ),
        )),
        _ => check_architecture(row),
    }
}

/// Arm64 is for galleries only (MI-7).
fn check_architecture(row: &Resource) -> Result<(), ArmError> {
    if row.body["properties"]["supportedCapabilities"]["architecture"] != "Arm64" {
        return Ok(());
    }
    Err(ArmError::bad_request(
        "BadRequest",
        format!("Managed Images are not supported for architecture Arm64, which the source '{}' has.", row.id),
    )
    .target(row.id.clone()))
}

/// MI-7, in the recorded words.
pub(crate) fn check_security_type(security_type: &Value) -> Result<(), ArmError> {
    match security_type.as_str() {
        Some(found) if !found.is_empty() && !found.eq_ignore_ascii_case("Standard") => Err(ArmError::bad_request(
            "BadRequest",
            format!("Managed Images are not supported for virtual machines with security type {found}."),
        )),
        _ => Ok(()),
    }
}
