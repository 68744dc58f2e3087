//! A new machine's data disks: attached ones, blank ones, and those that its image brings (one a LUN, whether the body names
//! it or not).

use super::image::ImageSource;
use super::{Builder, DISK};
use crate::provider::Context;
use crate::providers::arm_context;
use crate::stored::{DiskInternal, Stored, to_internal};
use crate::{db_error, new_etag};
use lazuli_arm::bodies::disk::{self, DiskState};
use lazuli_arm::bodies::virtual_machine::data_disk_entry;
use lazuli_arm::{ArmError, ResourceId};
use lazuli_meta::model::{Change, ContentRef, Expect, Resource};
use serde_json::{Value, json};
use uuid::Uuid;

/// A data disk of an image.
#[derive(Debug, Clone)]
pub(crate) struct ImageDataDisk {
    pub lun: u32,
    pub disk: Stored,
    pub caching: String,
}

/// A disk that is made together with its machine.
pub(super) struct NewDisk<'a> {
    pub name: &'a str,
    /// What its body says besides size and origin: `osType`, `hyperVGeneration`.
    pub properties: Value,
    pub creation_data: Value,
    pub sku: &'a Value,
    pub base: Option<Stored>,
    pub size_bytes: u64,
    /// As [`DiskInternal::uefi_settings`].
    pub uefi_settings: Value,
    /// As [`DiskInternal::boot_trace`].
    pub boot_trace: Option<String>,
}

impl Builder<'_> {
    /// Settles the body's data disks; their LUNs and keys.
    pub(super) async fn data_disks(
        &mut self,
        body: &mut Value,
        os_disk: &str,
        image: Option<&ImageSource>,
    ) -> Result<Vec<(u8, String)>, ArmError> {
        let mut keys: Vec<(u8, String)> = Vec::new();
        let mut shown = Vec::new();
        for mut entry in self.wanted(body, image)? {
            let lun = entry["lun"].as_u64().and_then(|l| u8::try_from(l).ok()).unwrap_or_default();
            let key = match entry["createOption"].as_str() {
                Some("Attach") => self.attached(&mut entry, body).await?,
                Some("FromImage") => self.of_image(&mut entry, body, image).await?,
                _ => self.blank(&mut entry, body).await?,
            };
            if key == os_disk || keys.iter().any(|(_, k)| *k == key) {
                return Err(ArmError::bad_request(
                    "InvalidParameter",
                    format!("Disk {} is attached more than once.", entry["name"].as_str().unwrap_or_default()),
                ));
            }
            shown.push(entry);
            keys.push((lun, key));
        }
        body["properties"]["storageProfile"]["dataDisks"] = shown.into();
        Ok(keys)
    }

    /// What the body says, and what it leaves to the image.
    fn wanted(&self, body: &Value, image: Option<&ImageSource>) -> Result<Vec<Value>, ArmError> {
        let profile = &body["properties"]["storageProfile"];
        let mut entries = profile["dataDisks"].as_array().cloned().unwrap_or_default();
        let brought = image.map_or(&[][..], |i| &i.data_disks);
        for entry in &entries {
            let brings = brought.iter().any(|d| entry["lun"] == d.lun);
            if brings != (entry["createOption"] == "FromImage") {
                return Err(ArmError::invalid_parameter(
                    "dataDisks.lun",
                    "StorageProfile.dataDisks.lun does not have required value(s) for image specified in storage profile.",
                ));
            }
        }
        let unnamed = brought.iter().filter(|d| !entries.iter().any(|e| e["lun"] == d.lun));
        let unnamed: Vec<Value> = unnamed
            .map(|d| {
                let mut entry = data_disk_entry(self.id.name(), d.lun, &d.caching, &Uuid::new_v4());
                entry["managedDisk"]["storageAccountType"] =
                    profile["osDisk"]["managedDisk"]["storageAccountType"].clone();
                entry
            })
            .collect();
        entries.extend(unnamed);
        Ok(entries)
    }

    pub(super) async fn attached(&mut self, entry: &mut Value, body: &Value) -> Result<String, ArmError> {
        let id = entry["managedDisk"]["id"].as_str().unwrap_or_default().to_owned();
        // Asked for before: the second of two would be told that the first one's machine owns it.
        if self
            .changes
            .iter()
            .any(|c| matches!(c, Change::PutResource { resource, .. } if resource.key == id.to_ascii_lowercase()))
        {
            return Err(ArmError::bad_request("InvalidParameter", format!("Disk {id} is attached more than once.")));
        }
        let row = self.attach(&id, &self.location(body)).await?;
        entry["name"] = json!(row.name);
        entry["managedDisk"]["id"] = json!(row.id);
        entry["managedDisk"]["storageAccountType"] = row.body["sku"]["name"].clone();
        entry["diskSizeGB"] = row.body["properties"]["diskSizeGB"].clone();
        Ok(row.key)
    }

    pub(super) async fn blank(&mut self, entry: &mut Value, body: &Value) -> Result<String, ArmError> {
        let gib = entry["diskSizeGB"].as_u64().unwrap_or_default();
        self.made(entry, body, json!({"createOption": "Empty"}), None, gib << 30).await
    }

    /// A disk of its own over the image's bytes (MD-9, MD-10).
    async fn of_image(
        &mut self,
        entry: &mut Value,
        body: &Value,
        image: Option<&ImageSource>,
    ) -> Result<String, ArmError> {
        let of_lun = |i: &ImageSource| i.data_disks.iter().find(|d| entry["lun"] == d.lun).cloned();
        let (image, source) = image
            .and_then(|i| Some((i, of_lun(i)?)))
            .ok_or_else(|| ArmError::internal("a data disk that the image does not have was let through"))?;
        let wanted = entry["diskSizeGB"].as_u64().map_or(0, |gib| gib << 30);
        if wanted != 0 && disk::gib_of(wanted) < disk::gib_of(source.disk.size_bytes) {
            return Err(ArmError::bad_request(
                "ResizeDiskError",
                format!(
                    "Disk size {} GB of the data disk at LUN {} is smaller than the size of the corresponding disk in the VM \
                     image: {} GB.",
                    wanted >> 30,
                    source.lun,
                    disk::gib_of(source.disk.size_bytes)
                ),
            ));
        }
        let size =
            if disk::gib_of(wanted) > disk::gib_of(source.disk.size_bytes) { wanted } else { source.disk.size_bytes };
        let mut creation = image.creation_data();
        for name in ["galleryImageReference", "imageReference"] {
            if let Some(reference) = creation.get_mut(name) {
                reference["lun"] = json!(source.lun);
            }
        }
        self.made(entry, body, creation, Some(source.disk), size).await
    }

    async fn made(
        &mut self,
        entry: &mut Value,
        body: &Value,
        creation_data: Value,
        base: Option<Stored>,
        size_bytes: u64,
    ) -> Result<String, ArmError> {
        let name = entry["name"].as_str().unwrap_or_default().to_owned();
        let sku = entry["managedDisk"]["storageAccountType"].clone();
        let new = NewDisk {
            name: &name,
            properties: json!({}),
            creation_data,
            sku: &sku,
            base,
            size_bytes,
            uefi_settings: Value::Null,
            boot_trace: None,
        };
        let (id, key) = self.new_disk(body, new).await?;
        entry["diskSizeGB"] = json!(disk::gib_of(size_bytes));
        entry["managedDisk"]["id"] = json!(id);
        Ok(key)
    }

    /// The row of a disk that belongs to the machine from its beginning: its id and key.
    pub(super) async fn new_disk(&mut self, body: &Value, new: NewDisk<'_>) -> Result<(String, String), ArmError> {
        let location = self.location(body);
        let group = ResourceId::group(&self.id.subscription, self.id.resource_group.as_deref().unwrap_or_default());
        let disk_id = group.resource("Microsoft.Compute", "disks", new.name);
        let key = disk_id.key();
        self.check_free(&disk_id, &group).await?;
        // Where the bytes come from is known already; the rest is as for a disk of this size.
        let mut request = json!({"location": location, "sku": {"name": new.sku}, "properties": new.properties});
        request["properties"]["creationData"] = json!({"createOption": "Empty"});
        request["properties"]["diskSizeGB"] = json!(disk::gib_of(new.size_bytes));
        let mut stored = disk::put(&disk_id, &request, None, &arm_context(self.cx))?;
        disk::set_size(&mut stored, new.size_bytes);
        disk::set_state(&mut stored, DiskState::Attached);
        stored["properties"]["creationData"] = new.creation_data;
        stored["managedBy"] = json!(self.machine_id());
        let unique_id = stored["properties"]["uniqueId"].as_str();
        let state = DiskInternal {
            unique_id: unique_id.map_or_else(|| Uuid::new_v4().to_string(), str::to_owned),
            size_bytes: new.size_bytes,
            base: new.base,
            written: true,
            uefi_settings: new.uefi_settings,
            boot_trace: new.boot_trace,
            ..DiskInternal::default()
        };
        self.changes.extend(state.base.iter().map(|base| {
            Change::PutContentRef(ContentRef {
                resource_key: key.clone(),
                region: location.clone(),
                manifest: base.manifest.clone(),
            })
        }));
        let Context { now_ms, .. } = self.cx;
        let resource = Resource {
            key: key.clone(),
            sort_key: key.clone(),
            id: disk_id.to_string(),
            kind: DISK.to_ascii_lowercase(),
            subscription: self.id.subscription.to_ascii_lowercase(),
            resource_group: group.name().to_ascii_lowercase(),
            parent: Some(group.key()),
            name: new.name.to_owned(),
            location,
            body: stored,
            internal: to_internal(&state),
            provisioning_state: "Succeeded".into(),
            etag: new_etag(),
            created_ms: now_ms,
            changed_ms: now_ms,
        };
        self.changes.push(Change::PutResource { resource, expect: Expect::Absent });
        Ok((disk_id.to_string(), key))
    }

    /// No disk has this name, and none of this machine gets it.
    async fn check_free(&self, disk: &ResourceId, group: &ResourceId) -> Result<(), ArmError> {
        let key = disk.key();
        let twice =
            self.changes.iter().any(|c| matches!(c, Change::PutResource { resource, .. } if resource.key == key));
        if !twice && self.cx.engine.db().resource(&key).await.map_err(db_error)?.is_none() {
            return Ok(());
        }
        Err(ArmError::conflict(
            "ConflictingUserInput",
            format!(
                "Disk '{}' already exists in resource group {}. Only CreateOption.Attach is supported.",
                disk.name(),
                group.name().to_ascii_uppercase()
            ),
        )
        .target(disk.to_string()))
    }
}
