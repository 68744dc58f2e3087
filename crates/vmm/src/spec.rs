//! What a virtual machine is ([`VmSpec`]) and how it is doing ([`VmStatus`]): the language between the engine and
//! the host process, and the on-disk form of a defined machine.
//!
//! Only data and pure checks live here; nothing in this module does I/O.
//!
//! On disk a spec is `vms/<id>/vm.json` (mode 0600, it holds the administrator's password and custom data), written
//! whole and renamed into place. Unknown fields are refused nowhere, so that an older host reads a newer file.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use crate::net::{PortRule, Protocol, PublicAddress, Security};
use crate::uefi::UefiKeys;

/// Firmware generation (HV-4): 1 boots with a BIOS, 2 with UEFI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Generation {
    V1,
    V2,
}

/// A virtual machine as the engine asks for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VmSpec {
    /// `properties.vmId`; the guest sees it as its SMBIOS UUID and IMDS `compute.vmId`. Generalized guests provision
    /// themselves again whenever it changes.
    pub id: Uuid,
    /// Resource name.
    pub name: String,
    /// ARM id of the VM.
    pub resource_id: String,
    pub subscription_id: String,
    pub resource_group: String,
    /// Canonical region name, e.g. `eastus`.
    pub location: String,
    /// e.g. `Standard_B1s`; shown by IMDS only.
    #[serde(default)]
    pub vm_size: String,
    #[serde(default)]
    pub zone: String,
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// The image the VM was made from, as IMDS shows it.
    #[serde(default)]
    pub image: ImageReference,
    /// Virtual processors, 1 to 128.
    pub cpus: u32,
    pub memory_mib: u64,
    pub generation: Generation,
    #[serde(default)]
    pub trusted_launch: Option<TrustedLaunch>,
    pub os_disk: DiskSpec,
    #[serde(default)]
    pub data_disks: Vec<DiskSpec>,
    /// Files of data disks that the guest has no more, but that are still kept for whoever takes what was written to them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub detached: Vec<PathBuf>,
    #[serde(default)]
    pub nics: Vec<NicSpec>,
    /// `None`: a specialized disk (GS-8), the machine is just switched on.
    #[serde(default)]
    pub provisioning: Option<Provisioning>,
    /// IMDS user data (base64), also of specialized machines.
    #[serde(default)]
    pub user_data: Option<String>,
    /// What its guest may fetch of VM applications.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub applications: Vec<ApplicationFiles>,
}

/// What a UEFI machine of security type `TrustedLaunch` has beyond others.
///
/// ```text
/// STATE/efivars.fd           firmware variables without secure boot
///       efivars-secure.fd    the same with keys; a machine whose secure boot is switched has both
///       tpm/                 what its TPM keeps
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustedLaunch {
    /// The firmware starts nothing but what is signed with its keys.
    pub secure_boot: bool,
    /// The guest has a TPM 2.0.
    pub vtpm: bool,
    /// Absolute path of a folder that lives as long as the OS disk. The host makes it if it is not there, and removes it only if
    /// it is told to with the machine's deletion.
    pub state: PathBuf,
    /// `None`: Microsoft's. They are put into the firmware when it first starts with secure boot, and then are its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<UefiKeys>,
}

/// `storageProfile.imageReference` as IMDS shows it; empty for a VM that was made from a gallery image or a disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageReference {
    #[serde(default)]
    pub id: String,
    #[serde(default)]
    pub publisher: String,
    #[serde(default)]
    pub offer: String,
    #[serde(default)]
    pub sku: String,
    #[serde(default)]
    pub version: String,
}

/// One disk of a machine: a qcow2 overlay, written by the guest, over an immutable base.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskSpec {
    /// Logical unit number of a data disk (0 to 63); `None` for the OS disk.
    pub lun: Option<u8>,
    /// Absolute path of the qcow2 file. The host creates it (and its parent folder) if it does not exist.
    pub overlay: PathBuf,
    /// Size the guest sees, a multiple of 512, at least the base's size.
    pub size_bytes: u64,
    /// `None`: the disk starts blank.
    pub base: Option<BaseImage>,
    #[serde(default)]
    pub read_only: bool,
}

/// The bytes an overlay starts from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseImage {
    /// Opaque to this crate; given to [`BaseImages::open`](crate::host::BaseImages::open).
    pub source: String,
    pub size_bytes: u64,
}

/// The files of a VM application, which the host agent's plugin gives to the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplicationFiles {
    pub name: String,
    pub package: HostedFile,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<HostedFile>,
}

/// A file of this many bytes: those of `base`, and some that make no whole sector; all else is zeros.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostedFile {
    pub base: Option<BaseImage>,
    pub tail_at: u64,
    /// Hex.
    pub tail: String,
    pub size_bytes: u64,
}

impl fmt::Debug for HostedFile {
    /// Without its bytes: specs end up in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostedFile")
            .field("base", &self.base)
            .field("size_bytes", &self.size_bytes)
            .finish_non_exhaustive()
    }
}

/// One network interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicSpec {
    /// Unique on this host, e.g. the NIC's resource GUID or ARM id.
    pub id: String,
    /// Unique id of the virtual network; interfaces with the same one can talk to each other.
    pub vnet_id: String,
    /// The virtual network's resource id, by which the operator knows it.
    #[serde(default)]
    pub network: String,
    /// DNS suffix of the network, e.g. `<random>.bx.internal.cloudapp.net`.
    pub dns_suffix: String,
    pub mac: MacAddress,
    pub address: Ipv4Addr,
    pub prefix_len: u8,
    pub gateway: Ipv4Addr,
    /// Name the network's DNS answers for this interface.
    pub host_name: String,
    /// May the guest open connections to the world.
    pub outbound: bool,
    /// Between interfaces, and on the way out.
    #[serde(default)]
    pub security: Security,
    /// A loopback address of its own (127.x.y.z) on this machine, with the ports the security rules open.
    #[serde(default)]
    pub public: Option<PublicAddress>,
}

/// What a generalized guest is told about itself at first boot (GS-2, GS-3).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provisioning {
    /// `osProfile.computerName`.
    pub host_name: String,
    pub admin_user: String,
    #[serde(default)]
    pub admin_password: Option<String>,
    /// `linuxConfiguration.disablePasswordAuthentication`.
    pub disable_password: bool,
    #[serde(default)]
    pub ssh_keys: Vec<SshKey>,
    /// Base64, as `osProfile.customData`.
    #[serde(default)]
    pub custom_data: Option<String>,
    /// `linuxConfiguration.provisionVMAgent`.
    pub provision_vm_agent: bool,
    /// The guest has Windows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub windows: Option<WindowsSettings>,
}

/// `windowsConfiguration`, as far as it decides something.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowsSettings {
    /// e.g. `Pacific Standard Time`; UTC where there is none.
    #[serde(default)]
    pub time_zone: Option<String>,
    /// The guest listens for WinRM on 5986, with a certificate that it makes and reports.
    #[serde(default)]
    pub winrm_https: bool,
}

impl AgentStatus {
    /// DER of the certificate that a guest with [`WindowsSettings::winrm_https`] listens with.
    pub fn winrm_certificate(&self) -> Option<Vec<u8>> {
        use base64::Engine as _;
        let text = self.report.get("winrmCertificate")?.as_str()?;
        base64::engine::general_purpose::STANDARD.decode(text).ok()
    }
}

impl fmt::Debug for Provisioning {
    /// Without the secrets: specs end up in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Provisioning")
            .field("host_name", &self.host_name)
            .field("admin_user", &self.admin_user)
            .field("admin_password", &self.admin_password.as_ref().map(|_| "***"))
            .field("disable_password", &self.disable_password)
            .field("ssh_keys", &self.ssh_keys.len())
            .field("custom_data", &self.custom_data.as_ref().map(|_| "***"))
            .field("provision_vm_agent", &self.provision_vm_agent)
            .field("windows", &self.windows)
            .finish()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshKey {
    /// e.g. `/home/azureuser/.ssh/authorized_keys`.
    pub path: String,
    pub key_data: String,
}

/// An Ethernet address; written `00-0D-3A-12-34-56` as Azure does, read with `-`, `:` or nothing between the bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// `00:0d:3a:12:34:56`, as QEMU wants it.
    pub fn with_colons(&self) -> String {
        self.0.map(|b| format!("{b:02x}")).join(":")
    }

    /// `000D3A123456`, as IMDS shows it.
    pub fn plain(&self) -> String {
        self.0.map(|b| format!("{b:02X}")).concat()
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.map(|b| format!("{b:02X}")).join("-"))
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("'{0}' is not an Ethernet address of six bytes")]
pub struct BadMac(String);

impl FromStr for MacAddress {
    type Err = BadMac;

    fn from_str(text: &str) -> Result<Self, BadMac> {
        let digits: String = text.chars().filter(|c| !matches!(c, ':' | '-')).collect();
        let mut bytes = [0u8; 6];
        hex::decode_to_slice(&digits, &mut bytes).map_err(|_| BadMac(text.to_owned()))?;
        Ok(Self(bytes))
    }
}

impl Serialize for MacAddress {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MacAddress {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Why a spec cannot be run by any host.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the machine's definition cannot be used: {0}")]
pub struct BadSpec(pub String);

/// Most virtual processors a machine may have.
pub const MAX_CPUS: u32 = 128;

impl VmSpec {
    /// Every disk, the OS disk first.
    pub fn disks(&self) -> impl Iterator<Item = &DiskSpec> {
        std::iter::once(&self.os_disk).chain(&self.data_disks)
    }

    /// The files of its disks, also of those that were detached.
    pub fn overlays(&self) -> impl Iterator<Item = &Path> {
        self.disks().map(|d| d.overlay.as_path()).chain(self.detached.iter().map(PathBuf::as_path))
    }

    /// Checks what is independent of the machine it would run on.
    pub fn check(&self) -> Result<(), BadSpec> {
        let bad = |why: String| Err(BadSpec(why));
        if !(1..=MAX_CPUS).contains(&self.cpus) {
            return bad(format!("{} processors; 1 to {MAX_CPUS} are possible", self.cpus));
        }
        if self.memory_mib < 64 {
            return bad(format!("{} MiB of memory; at least 64 are needed", self.memory_mib));
        }
        if let Some(launch) = &self.trusted_launch {
            if self.generation == Generation::V1 {
                return bad("trusted launch needs UEFI, which generation 1 does not have".into());
            }
            if !launch.state.is_absolute() || launch.state.to_str().is_none() {
                return bad("the path of the firmware's state must be absolute UTF-8".into());
            }
            let lacking = launch.keys.as_ref().filter(|_| launch.secure_boot).and_then(UefiKeys::lacking);
            if let Some(lacking) = lacking {
                return bad(format!("for secure boot its firmware's keys lack {lacking}"));
            }
        }
        if self.os_disk.lun.is_some() {
            return bad("the OS disk has a LUN".into());
        }
        let mut luns = std::collections::BTreeSet::new();
        for disk in &self.data_disks {
            match disk.lun {
                Some(lun) if lun < 64 && luns.insert(lun) => {}
                Some(lun) => return bad(format!("LUN {lun} is used twice or above 63")),
                None => return bad("a data disk has no LUN".into()),
            }
        }
        for disk in self.disks() {
            disk.check()?;
        }
        if let Some(both) = self.detached.iter().find(|path| self.disks().any(|d| d.overlay == **path)) {
            return bad(format!("the disk {} is attached and detached", both.display()));
        }
        let mut nics = std::collections::BTreeSet::new();
        for nic in &self.nics {
            if !nics.insert(&nic.id) {
                return bad(format!("the interface id '{}' is used twice", nic.id));
            }
            if nic.prefix_len > 30 {
                return bad(format!("interface '{}' has the prefix length {}", nic.id, nic.prefix_len));
            }
        }
        if let Some(p) = &self.provisioning {
            p.check()?;
        }
        let files = self.applications.iter().flat_map(|a| std::iter::once(&a.package).chain(&a.config));
        for file in files {
            let tail = hex::decode(&file.tail).map_err(|e| BadSpec(format!("the end of a file is no hex: {e}")))?;
            if file.tail_at.saturating_add(tail.len() as u64) > file.size_bytes {
                return bad("a file ends before its last bytes".into());
            }
        }
        Ok(())
    }
}

/// As [`DiskSpec::label`].
pub(crate) fn label(lun: Option<u8>) -> String {
    lun.map_or_else(|| "os".to_owned(), |lun| format!("lun{lun}"))
}

impl DiskSpec {
    /// `os` or `lun<N>`: names the disk's files, sockets and QEMU nodes.
    pub fn label(&self) -> String {
        label(self.lun)
    }

    fn check(&self) -> Result<(), BadSpec> {
        let label = self.label();
        if !self.overlay.is_absolute() || self.overlay.to_str().is_none() {
            return Err(BadSpec(format!("disk {label}: the overlay's path must be absolute UTF-8")));
        }
        if self.size_bytes == 0 || !self.size_bytes.is_multiple_of(512) {
            return Err(BadSpec(format!("disk {label}: {} bytes is not a whole number of sectors", self.size_bytes)));
        }
        match &self.base {
            Some(base) if base.size_bytes > self.size_bytes => Err(BadSpec(format!(
                "disk {label}: {} bytes is smaller than its image of {} bytes",
                self.size_bytes, base.size_bytes
            ))),
            _ => Ok(()),
        }
    }
}

impl Provisioning {
    fn check(&self) -> Result<(), BadSpec> {
        if self.host_name.is_empty() || self.admin_user.is_empty() {
            return Err(BadSpec("provisioning needs a host name and an administrator".into()));
        }
        let texts = [Some(&self.host_name), Some(&self.admin_user), self.admin_password.as_ref()];
        let keys = self.ssh_keys.iter().flat_map(|k| [&k.path, &k.key_data]);
        let zone = self.windows.iter().filter_map(|w| w.time_zone.as_ref());
        let forbidden = |text: &&String| text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t'));
        if texts.into_iter().flatten().chain(keys).chain(zone).any(|t| forbidden(&t)) {
            return Err(BadSpec("provisioning data holds control characters".into()));
        }
        Ok(())
    }
}

/// Is the machine on?
///
/// ```text
///            define_and_start, start
///  Stopped ──────────────────────────> Starting ──> Running ──(guest resets, restart)──> Running
///     ^                                   │            │
///     │                                   v            │ QEMU dies without having been asked
///     └──────── power_off, guest ──── Stopping <───────┤
///                shuts down                            v
///                                                   Crashed ──start──> Starting
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PowerState {
    Starting,
    Running,
    Stopping,
    /// Off, by the host's order or the guest's own.
    Stopped,
    /// Its process died or could not be started; see [`VmStatus::error`].
    Crashed,
}

/// How far first-boot provisioning has come (GS-5).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state")]
pub enum ProvisioningState {
    /// A specialized machine: nothing is waited for.
    NotNeeded,
    /// The guest has not reported yet. Times out nowhere here: how long to wait is the engine's decision.
    Waiting,
    /// The guest reported ready, `after_ms` after it was first started. Final.
    Ready { after_ms: u64 },
    /// The guest reported that it could not be provisioned. Final.
    Failed { description: String },
}

/// What the guest's agent last said of itself (`PUT :32526/status`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentStatus {
    /// Milliseconds since the Unix epoch when the report came.
    pub received_ms: i64,
    /// e.g. `2.12.0.2`.
    pub version: String,
    /// `Ready`, `NotReady`.
    pub status: String,
    pub message: String,
    /// e.g. `debian`, `12`; empty if the agent did not say.
    pub os_name: String,
    pub os_version: String,
    pub computer_name: String,
    /// The whole report as the agent sent it.
    pub report: serde_json::Value,
}

/// What was read of the base images so far, since this host process started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskReads {
    pub reads: u64,
    pub bytes: u64,
    /// Sum of the sizes of the base images: what a full copy would have read.
    pub image_bytes: u64,
}

/// How a machine is doing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VmStatus {
    pub id: Uuid,
    pub name: String,
    pub power: PowerState,
    pub provisioning: ProvisioningState,
    pub agent: Option<AgentStatus>,
    /// Why it is `Crashed`, or what the host is struggling with; for operators, may hold host paths.
    pub error: Option<String>,
    pub nbd: DiskReads,
    /// The last lines of the serial console.
    pub console_tail: String,
    /// Differs after every change of the fields above except `nbd` and `console_tail`. Grows; never 0.
    pub generation_counter: u64,
}
