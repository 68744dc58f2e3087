//! What rows keep in `internal`: where the bytes of disks and image versions are.
//!
//! These are the engine's own words, never shown to clients. Manifests are named by their hex id; a row that names one
//! has a content reference to it in that region, so that garbage collection leaves it alone.

use crate::EngineConfig;
use lazuli_arm::ArmError;
use lazuli_meta::model::Resource;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A disk's bytes in the content store of a region that the owner knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stored {
    pub manifest: String,
    pub size_bytes: u64,
}

/// `internal` of a managed disk. Its bytes are, from the bottom: zeros, `base`, the overlay.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DiskInternal {
    /// `properties.uniqueId`; names the disk's local files.
    pub unique_id: String,
    /// What a guest sees; 0 as long as an upload is not finished.
    pub size_bytes: u64,
    /// In the region of the disk. `None`: zeros.
    pub base: Option<Stored>,
    /// A virtual machine has run on it: the overlay may hold newer bytes than `base`.
    pub written: bool,
    /// The staging file of an upload exists (until the upload is finished or the disk deleted).
    pub uploading: bool,
    /// The same for the guest's state, which a trusted launch disk brings along.
    pub uploading_guest_state: bool,
    /// Its bytes are still on their way (`disk.create`), or never arrived: it can only be deleted.
    pub incomplete: bool,
    /// The state of the guest's firmware, in the region of the disk.
    pub guest_state: Option<Stored>,
    /// What firmware and TPM kept when it last left a computer, sealed; see [`crate::fleet::firmware`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firmware: Option<String>,
    /// The UEFI keys that its image brings along, as the version's body says them; null: none.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub uefi_settings: Value,
    /// Manifest of the trace that its image brings along. A hint, to which it has no reference: it goes with the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot_trace: Option<String>,
    /// Keys of the resources whose operations read the overlay; see [`crate::capture`].
    pub readers: Vec<String>,
    /// The worker on which its overlay is; see [`crate::fleet`]. `None`: it is here, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// How often it left a computer: its files have another name since.
    #[serde(skip_serializing_if = "is_zero")]
    pub moves: u32,
}

/// `internal` of an image version.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ImageVersionInternal {
    /// Known once the source was read.
    pub os_disk: Option<Stored>,
    /// By LUN; known once their sources were read.
    pub data_disks: BTreeMap<u32, Stored>,
    /// By canonical region name.
    pub regions: BTreeMap<String, RegionState>,
    /// Of the version of an application: its package, then its configuration.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<StoredFile>,
    /// What is known of the build that it came from ([`crate::build_record`]).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build: Option<StoredFile>,
    /// What a start read of its OS disk ([`crate::image_files`]).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot_trace: Option<BootTrace>,
}

/// What a start of an image read of its OS disk, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BootTrace {
    /// As [`lazuli_chunks::Traces`] writes it.
    pub stored: Stored,
    /// Bytes of the disk that it names.
    pub covers: u64,
}

impl ImageVersionInternal {
    /// Whether a region (short name) has every byte.
    pub fn serves(&self, region: &str) -> bool {
        self.regions.get(region).is_some_and(|r| r.state == "Completed")
    }
}

/// A file that came from a blob; what makes no whole sector is kept here.
///
/// ```text
/// 0 ........ stored ........ tail_at .. tail_at + tail ........ size_bytes
/// │ manifest │ zeros         │ tail     │ zeros
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredFile {
    pub stored: Option<Stored>,
    pub tail_at: u64,
    /// Hex.
    pub tail: String,
    pub size_bytes: u64,
}

/// `internal` of a managed image: its own bytes, in its own region.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ManagedImageInternal {
    /// Known once the source was read.
    pub os_disk: Option<Stored>,
    /// By LUN.
    pub data_disks: BTreeMap<u32, Stored>,
    /// As [`ImageVersionInternal::build`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build: Option<StoredFile>,
    /// As [`ImageVersionInternal::boot_trace`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot_trace: Option<BootTrace>,
}

/// `internal` of a storage account: what opens it, sealed in the row ([`crate::secrets`]). Never shown, but by the actions that are there for it; never logged.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StorageAccountInternal {
    /// `key1`, `key2`.
    pub keys: [StoredKey; 2],
    /// Base64 of 64 random bytes; user delegation keys are derived from it. Replacing it revokes them all.
    pub delegation_secret: String,
}

/// An access key of a storage account.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredKey {
    /// Base64 of 64 random bytes.
    pub value: String,
    pub created_ms: i64,
}

/// How far a region of an image version is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RegionState {
    /// `Unknown`, `Replicating`, `Completed`, `Failed`. `Completed` only once the region serves every byte (RP-8).
    pub state: String,
    pub done_bytes: u64,
    pub total_bytes: u64,
    pub details: String,
}

pub(crate) fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// Reads a row's `internal`.
///
/// # Errors
/// An internal error if the row was written by something else.
pub fn internal<T: serde::de::DeserializeOwned>(row: &Resource) -> Result<T, ArmError> {
    serde_json::from_value(row.internal.clone()).map_err(ArmError::internal)
}

/// Turns the engine's own words into a row's `internal`.
pub fn to_internal<T: Serialize>(value: &T) -> Value {
    // These types have string keys and no failing serializers.
    serde_json::to_value(value).unwrap_or_default()
}

/// Changes the engine's own words about a resource. A row that something else wrote stays as it is.
pub fn change_internal<T: Serialize + serde::de::DeserializeOwned>(row: &mut Resource, change: impl FnOnce(&mut T)) {
    if let Ok(mut state) = internal::<T>(row) {
        change(&mut state);
        row.internal = to_internal(&state);
    }
}

impl DiskInternal {
    /// The qcow2 file of what guests wrote.
    pub fn overlay_path(&self, config: &EngineConfig) -> PathBuf {
        self.overlay_in(&config.data_dir)
    }

    /// The same in the data folder of another computer.
    pub fn overlay_in(&self, data_dir: &Path) -> PathBuf {
        data_dir.join("disks").join(self.overlay_name())
    }

    /// The name of that file.
    pub fn overlay_name(&self) -> String {
        match self.moves {
            0 => format!("{}.qcow2", self.unique_id),
            moves => format!("{}-{moves}.qcow2", self.unique_id),
        }
    }

    /// The folder of what firmware and TPM of a trusted launch machine keep between its starts; see
    /// [`lazuli_vmm::spec::TrustedLaunch`].
    pub fn firmware_state_path(&self, config: &EngineConfig) -> PathBuf {
        self.firmware_state_in(&config.data_dir)
    }

    /// The same in the data folder of another computer.
    pub fn firmware_state_in(&self, data_dir: &Path) -> PathBuf {
        self.overlay_in(data_dir).with_extension("state")
    }

    /// The sparse file that an upload fills: the whole VHD with its footer.
    pub fn upload_path(&self, config: &EngineConfig) -> PathBuf {
        config.data_dir.join("uploads").join(format!("{}.vhd", self.unique_id))
    }

    /// The same for the guest's state.
    pub fn guest_state_path(&self, config: &EngineConfig) -> PathBuf {
        config.data_dir.join("uploads").join(format!("{}.vmgs.vhd", self.unique_id))
    }
}
