//! What the operations on virtual machines share: the machine as the host process is told of it, and the host's errors.

use crate::fleet::firmware;
use crate::operation::{OpContext, OpError};
use crate::providers::network_interface::NicInternal;
use crate::providers::public_ip_address::PublicIpInternal;
use crate::providers::virtual_machine::MachineInternal;
use crate::providers::virtual_machine::security::firmware_keys;
use crate::security_rules::security;
use crate::stored::{DiskInternal, StoredFile, internal};
use crate::{Engine, base_images, db_error};
use lazuli_arm::bodies::network_security_group::{Open, WELL_KNOWN_PORTS, open_ports};
use lazuli_arm::bodies::virtual_machine::{size, trusted_launch};
use lazuli_arm::bodies::virtual_network::prefix_of;
use lazuli_arm::{ArmError, ResourceId};
use lazuli_meta::model::Resource;
use lazuli_vmm::HostClient;
use lazuli_vmm::host::{ClientError, HostErrorCode};
use lazuli_vmm::spec::{
    ApplicationFiles, BaseImage, DiskSpec, Generation, HostedFile, ImageReference, NicSpec, PortRule, Protocol,
    Provisioning, PublicAddress, SshKey, TrustedLaunch, VmSpec, VmStatus, WindowsSettings,
};
use serde_json::Value;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const ASK_AGAIN: Duration = Duration::from_millis(500);

/// The machine's definition for the host, from the rows as they are now.
pub(super) async fn spec_of(cx: &OpContext, row: &Resource) -> Result<VmSpec, OpError> {
    let engine = &cx.engine;
    let state: MachineInternal = internal(row)?;
    let properties = &row.body["properties"];
    let vm_size = properties["hardwareProfile"]["vmSize"].as_str().unwrap_or_default();
    let (_, cpus, memory_mib) = size(vm_size).ok_or_else(|| ArmError::internal(format!("unknown size {vm_size}")))?;
    let data_dir = engine.home_of(row, &state).await?.data_dir;
    let os_disk = disk_of(engine, &state.os_disk, None, &data_dir).await?;
    let trusted_launch = match trusted_launch(&row.body).filter(|_| state.generation == "V2") {
        Some((secure_boot, vtpm)) => {
            let disk: DiskInternal = internal(&require(engine, &state.os_disk).await?)?;
            let state = disk.firmware_state_in(&data_dir);
            Some(TrustedLaunch { secure_boot, vtpm, state, keys: firmware_keys(&disk.uefi_settings)? })
        }
        None => None,
    };
    let mut data_disks = Vec::new();
    for (lun, key) in &state.data_disks {
        data_disks.push(disk_of(engine, key, Some(*lun), &data_dir).await?);
    }
    let detached = detached(engine, &state, &data_dir).await?;
    let nics = nics_of(engine, row, &state).await?;
    let image = &properties["storageProfile"]["imageReference"];
    let image = |name: &str| image[name].as_str().unwrap_or_default().to_owned();
    let id: ResourceId = row.id.parse().map_err(ArmError::internal)?;
    Ok(VmSpec {
        id: state.vm_id,
        name: row.name.clone(),
        resource_id: row.id.clone(),
        subscription_id: id.subscription.clone(),
        resource_group: id.resource_group.clone().unwrap_or_default(),
        location: row.location.clone(),
        vm_size: vm_size.to_owned(),
        zone: row.body["zones"][0].as_str().unwrap_or_default().to_owned(),
        tags: tags_of(&row.body),
        image: ImageReference {
            id: image("id"),
            publisher: image("publisher"),
            offer: image("offer"),
            sku: image("sku"),
            version: image("exactVersion"),
        },
        cpus,
        memory_mib,
        generation: if state.generation == "V2" { Generation::V2 } else { Generation::V1 },
        trusted_launch,
        os_disk,
        data_disks,
        detached,
        nics,
        provisioning: provisioning_of(properties, &state),
        user_data: properties["userData"].as_str().map(str::to_owned),
        applications: files_of(engine, row, &state).await?,
    })
}

/// What the guest may fetch of its applications.
async fn files_of(engine: &Engine, row: &Resource, state: &MachineInternal) -> Result<Vec<ApplicationFiles>, ArmError> {
    let mut files = Vec::new();
    for wanted in &state.applications.wanted {
        let config = match &wanted.config {
            Some(config) => {
                let owner = if config.own.is_some() { &row.key } else { &wanted.from };
                Some(hosted(engine, &row.location, owner, &config.file).await?)
            }
            None => None,
        };
        let package = hosted(engine, &row.location, &wanted.from, &wanted.package).await?;
        files.push(ApplicationFiles { name: wanted.name.clone(), package, config });
    }
    Ok(files)
}

/// A file to which `owner` (the key of a resource) refers, in a region.
async fn hosted(engine: &Engine, region: &str, owner: &str, file: &StoredFile) -> Result<HostedFile, ArmError> {
    let boundary = engine.regions().boundary(region, owner).await?;
    let source = |manifest: &str| base_images::source(region, boundary, manifest);
    let base = file.stored.as_ref();
    Ok(HostedFile {
        base: base.map(|s| BaseImage { source: source(&s.manifest), size_bytes: s.size_bytes }),
        tail_at: file.tail_at,
        tail: file.tail.clone(),
        size_bytes: file.size_bytes,
    })
}

/// The machine's interfaces, with public addresses and open ports as the security groups say now.
pub(crate) async fn nics_of(
    engine: &Engine,
    row: &Resource,
    state: &MachineInternal,
) -> Result<Vec<NicSpec>, ArmError> {
    let host_name = row.body["properties"]["osProfile"]["computerName"].as_str().unwrap_or(&row.name);
    let mut nics = Vec::new();
    for key in &state.nics {
        nics.push(nic_of(engine, key, host_name).await?);
    }
    Ok(nics)
}

fn tags_of(body: &Value) -> std::collections::BTreeMap<String, String> {
    let tags = body["tags"].as_object().into_iter().flatten();
    tags.filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect()
}

fn provisioning_of(properties: &Value, state: &MachineInternal) -> Option<Provisioning> {
    if !state.provision {
        return None;
    }
    let profile = &properties["osProfile"];
    let (linux, windows) = (&profile["linuxConfiguration"], profile.get("windowsConfiguration"));
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let keys = linux["ssh"]["publicKeys"].as_array().into_iter().flatten();
    Some(Provisioning {
        host_name: text(&profile["computerName"]),
        admin_user: text(&profile["adminUsername"]),
        admin_password: state.admin_password.clone(),
        disable_password: linux["disablePasswordAuthentication"].as_bool().unwrap_or(false),
        ssh_keys: keys.map(|k| SshKey { path: text(&k["path"]), key_data: text(&k["keyData"]) }).collect(),
        custom_data: state.custom_data.clone(),
        provision_vm_agent: linux["provisionVMAgent"].as_bool().unwrap_or(true),
        windows: windows.map(|w| WindowsSettings {
            time_zone: w["timeZone"].as_str().map(str::to_owned),
            winrm_https: w["winRM"]["listeners"].as_array().is_some_and(|l| !l.is_empty()),
        }),
    })
}

async fn require(engine: &Engine, key: &str) -> Result<Resource, ArmError> {
    let row = engine.db().resource(key).await.map_err(db_error)?;
    row.ok_or_else(|| ArmError::new(404, "NotFound", format!("Resource {key} is not found.")))
}

async fn disk_of(engine: &Engine, key: &str, lun: Option<u8>, data_dir: &Path) -> Result<DiskSpec, ArmError> {
    let row = require(engine, key).await?;
    let disk: DiskInternal = internal(&row)?;
    let boundary = engine.regions().boundary(&row.location, key).await?;
    let source =
        |manifest: &str| base_images::traced_source(&row.location, boundary, manifest, disk.boot_trace.as_deref());
    Ok(DiskSpec {
        lun,
        overlay: disk.overlay_in(data_dir),
        size_bytes: disk.size_bytes,
        base: disk.base.as_ref().map(|b| BaseImage { source: source(&b.manifest), size_bytes: b.size_bytes }),
        read_only: false,
    })
}

/// Files on a worker of disks that the machine has no more; they are fetched through it.
async fn detached(engine: &Engine, state: &MachineInternal, data_dir: &Path) -> Result<Vec<PathBuf>, ArmError> {
    let mut files = Vec::new();
    for key in &state.leaving {
        let Some(row) = engine.db().resource(key).await.map_err(db_error)? else { continue };
        let disk: DiskInternal = internal(&row)?;
        if disk.worker.is_some() && disk.worker.as_deref() == state.worker() {
            files.push(disk.overlay_in(data_dir));
        }
    }
    Ok(files)
}

async fn nic_of(engine: &Engine, key: &str, host_name: &str) -> Result<NicSpec, ArmError> {
    let row = require(engine, key).await?;
    let nic: NicInternal = internal(&row)?;
    let subnet = require(engine, &nic.subnet).await?;
    let network = require(engine, subnet.parent.as_deref().unwrap_or_default()).await?;
    let prefix = prefix_of(&subnet.body).ok_or_else(|| ArmError::internal("a stored subnet has no prefix"))?;
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let mut groups = Vec::new();
    for owner in [&row, &subnet] {
        if let Some(id) = owner.body["properties"]["networkSecurityGroup"]["id"].as_str() {
            let rules = engine.db().children(&id.to_ascii_lowercase(), 1000).await.map_err(db_error)?;
            groups.push(rules.into_iter().map(|r| r.body).collect());
        }
    }
    let public = match &nic.public {
        Some(key) => Some(public_of(engine, key, &groups).await?),
        None => None,
    };
    Ok(NicSpec {
        id: nic.guid.to_string(),
        vnet_id: text(&network.internal["resourceGuid"]),
        network: network.id.clone(),
        dns_suffix: text(&network.internal["dnsSuffix"]),
        mac: nic.mac.parse().map_err(ArmError::internal)?,
        address: nic.address,
        prefix_len: prefix.len,
        gateway: prefix.gateway(),
        host_name: host_name.to_owned(),
        outbound: subnet.body["properties"]["defaultOutboundAccess"].as_bool().unwrap_or(true),
        security: security(&groups, &network.body),
        public,
    })
}

/// A Basic address without any security group is open, a Standard one closed, as in Azure.
async fn public_of(engine: &Engine, key: &str, groups: &[Vec<Value>]) -> Result<PublicAddress, ArmError> {
    let row = require(engine, key).await?;
    let state: PublicIpInternal = internal(&row)?;
    let open: Vec<Open> = match (groups.is_empty(), row.body["sku"]["name"].as_str()) {
        (true, Some("Standard")) => vec![],
        (true, _) => WELL_KNOWN_PORTS.iter().map(|&port| Open { udp: false, port }).collect(),
        (false, _) => open_ports(groups),
    };
    let ports = open
        .into_iter()
        .map(|o| PortRule { protocol: if o.udp { Protocol::Udp } else { Protocol::Tcp }, port: o.port })
        .collect();
    Ok(PublicAddress { address: state.address, ports })
}

/// Asks the host, and again for [`crate::EngineConfig::host_time`] while no host process answers: one that is being replaced
/// is back in a moment. The outer error ends the operation, the inner one is the host's own.
pub(crate) async fn on_host<T, F>(
    cx: &OpContext,
    name: &str,
    ask: impl Fn() -> F,
) -> Result<Result<T, ClientError>, OpError>
where
    F: Future<Output = Result<T, ClientError>>,
{
    let begin = Instant::now();
    loop {
        cx.check()?;
        let error = match ask().await {
            Err(error @ ClientError::Unreachable { .. }) => error,
            answer => return Ok(answer),
        };
        if begin.elapsed() >= cx.engine.config().host_time {
            return Err(host_error(error, name));
        }
        tokio::select! {
            () = cx.stop.cancelled() => {}
            () = tokio::time::sleep(ASK_AGAIN) => {}
        }
    }
}

/// Defines a machine at its host and switches it on. What its firmware and TPM kept on another computer is there before.
pub(super) async fn define_and_start(
    cx: &OpContext,
    row: &Resource,
    host: &HostClient,
    spec: &VmSpec,
) -> Result<Result<VmStatus, ClientError>, OpError> {
    let state: MachineInternal = internal(row)?;
    if spec.trusted_launch.is_some()
        && let Some(brought) = firmware::brought(cx, &state.os_disk).await?
    {
        if let Err(e) = on_host(cx, &row.name, || host.define(spec)).await? {
            return Ok(Err(e));
        }
        if let Err(e) = on_host(cx, &row.name, || host.put_firmware(spec.id, &brought)).await? {
            return Ok(Err(e));
        }
    }
    on_host(cx, &row.name, || host.define_and_start(spec)).await
}

/// The host's answer in Azure's words.
pub(crate) fn host_error(error: ClientError, name: &str) -> OpError {
    OpError::Failed(arm_error(error, name))
}

/// As [`host_error`].
pub(crate) fn arm_error(error: ClientError, name: &str) -> ArmError {
    let said = error.to_string();
    let arm = match error.code() {
        Some(HostErrorCode::NotEnoughMemory) => ArmError::conflict(
            "AllocationFailed",
            format!(
                "Allocation failed. This host does not have enough free memory for the requested VM size of '{name}': {said}"
            ),
        ),
        Some(HostErrorCode::NotFound) => ArmError::conflict(
            "OperationNotAllowed",
            format!("The VM '{name}' is not defined on its host: deallocate it, then start it again."),
        ),
        Some(HostErrorCode::Invalid | HostErrorCode::Conflict | HostErrorCode::Network) => {
            ArmError::conflict("OperationNotAllowed", format!("The host refused the VM '{name}': {said}"))
        }
        Some(_) => ArmError::new(
            500,
            "InternalExecutionError",
            format!("The host could not run the VM '{name}': see its log."),
        ),
        None => ArmError::new(
            503,
            "HostUnavailable",
            format!(
                "The process that runs virtual machines does not answer, so that '{name}' could not be reached. Is `lazuli host` running?"
            ),
        ),
    };
    arm.caused_by(error)
}
