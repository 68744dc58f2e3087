//! The machines of a run with their networks: made, reached, generalized, removed.

use super::Run;
use super::names::Machine;
use crate::db_error;
use crate::on_behalf;
use crate::operation::OpError;
use crate::providers::public_ip_address::PublicIpInternal;
use crate::providers::virtual_machine::MachineInternal;
use crate::stored::internal;
use async_trait::async_trait;
use lazuli_arm::bodies::image_template::VmProfile;
use lazuli_arm::{ArmError, ResourceId};
use lazuli_builder::communicator::ssh::{HostKey, SshCommunicator, UserKey};
use lazuli_builder::{Communicator, CommunicatorError, Connect};
use lazuli_meta::model::ResourceQuery;
use lazuli_vmm::HostClient;
use serde_json::{Map, Value, json};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use uuid::Uuid;

/// The user that scripts are run as (Packer's name for it; `sudo` asks it no password).
pub(super) const USER: &str = "packer";
const SSH: u16 = 22;
const CONNECT: Duration = Duration::from_secs(10);
const SUBNET: &str = "build";

/// What the machines are attached to: the template's subnet, or a network of the run's own with a port for SSH.
pub(super) async fn network(run: &Run<'_>, machine: &Machine) -> Result<(), OpError> {
    if run.template.vm_profile.network.is_none() {
        run.put(&run.names.security_group(), &security_group(run)).await?;
        run.put(&run.names.network(), &virtual_network(run)).await?;
    }
    interface(run, machine).await
}

/// A machine's own part of it.
pub(super) async fn interface(run: &Run<'_>, machine: &Machine) -> Result<(), OpError> {
    let mut configuration = json!({"subnet": {"id": subnet(run)}});
    let mut properties = Map::new();
    if run.template.vm_profile.network.is_none() {
        let body = framed(run, json!({"publicIPAllocationMethod": "Static"}), &[("sku", json!({"name": "Standard"}))]);
        run.put(&machine.address, &body).await?;
        configuration["publicIPAddress"] = json!({"id": machine.address.to_string()});
        properties.insert("networkSecurityGroup".into(), json!({"id": run.names.security_group().to_string()}));
    }
    properties.insert("ipConfigurations".into(), json!([{"name": "ipconfig", "properties": configuration}]));
    run.put(&machine.interface, &framed(run, Value::Object(properties), &[])).await
}

fn subnet(run: &Run<'_>) -> String {
    match &run.template.vm_profile.network {
        Some(network) => network.subnet_id.clone(),
        None => format!("{}/subnets/{SUBNET}", run.names.network()),
    }
}

/// A body in the template's region, with the tags that it asks for.
fn framed(run: &Run<'_>, properties: Value, further: &[(&str, Value)]) -> Value {
    let mut body = json!({"location": run.template.location, "properties": properties});
    if let Some(tags) = &run.template.managed_resource_tags {
        body["tags"] = Value::Object(tags.clone());
    }
    for (name, value) in further {
        body[*name] = value.clone();
    }
    body
}

fn security_group(run: &Run<'_>) -> Value {
    let rule = json!({"name": "ssh", "properties": {
        "protocol": "Tcp", "access": "Allow", "direction": "Inbound", "priority": 100,
        "sourceAddressPrefix": "*", "sourcePortRange": "*", "destinationAddressPrefix": "*", "destinationPortRange": SSH.to_string(),
    }});
    framed(run, json!({"securityRules": [rule]}), &[])
}

fn virtual_network(run: &Run<'_>) -> Value {
    let subnet = json!({"name": SUBNET, "properties": {"addressPrefix": "10.0.0.0/24"}});
    framed(run, json!({"addressSpace": {"addressPrefixes": ["10.0.0.0/16"]}, "subnets": [subnet]}), &[])
}

/// A machine of `image`; there when its guest has reported that it is provisioned.
pub(super) async fn create(run: &Run<'_>, machine: &Machine, image: &Value, build: bool) -> Result<(), OpError> {
    let key = UserKey::from_seed(&run.seed()?);
    run.journal.say("run", &format!("creates the machine {}", machine.machine));
    let body = machine_body(run, machine, image, &key.public_line(), build);
    run.put(&machine.machine, &body).await
}

fn machine_body(run: &Run<'_>, machine: &Machine, image: &Value, key: &str, build: bool) -> Value {
    let source = &run.prepared.source;
    let profile: &VmProfile = &run.template.vm_profile;
    let mut os_disk = json!({"name": machine.os_disk, "createOption": "FromImage", "deleteOption": "Delete"});
    if profile.os_disk_size_gb > 0 {
        os_disk["diskSizeGB"] = json!(profile.os_disk_size_gb);
    }
    let mut storage = json!({"imageReference": image, "osDisk": os_disk});
    if build && !run.template.additional_data_disks.is_empty() {
        let disks = run.template.additional_data_disks.iter().enumerate();
        let disk =
            |(lun, size)| json!({"lun": lun, "createOption": "Empty", "diskSizeGB": size, "deleteOption": "Delete"});
        storage["dataDisks"] = disks.map(disk).collect();
    }
    let keys = json!([{"path": format!("/home/{USER}/.ssh/authorized_keys"), "keyData": key}]);
    let mut properties = json!({
        "hardwareProfile": {"vmSize": profile.size(&source.generation)},
        "storageProfile": storage,
        "osProfile": {
            "computerName": machine.host_name,
            "adminUsername": USER,
            "linuxConfiguration": {"disablePasswordAuthentication": true, "ssh": {"publicKeys": keys}},
        },
        "networkProfile": {
            "networkInterfaces": [{"id": machine.interface.to_string(), "properties": {"deleteOption": "Delete"}}],
        },
    });
    if source.trusted_launch {
        let uefi = json!({"secureBootEnabled": true, "vTpmEnabled": true});
        properties["securityProfile"] = json!({"securityType": "TrustedLaunch", "uefiSettings": uefi});
    }
    let mut further = Vec::new();
    if let Some(plan) = source.plan.as_ref().filter(|_| build) {
        further.push(("plan", plan.clone()));
    }
    if !profile.user_assigned_identities.is_empty() {
        let ids: Map<String, Value> =
            profile.user_assigned_identities.iter().map(|id| (id.clone(), json!({}))).collect();
        further.push(("identity", json!({"type": "UserAssigned", "userAssignedIdentities": ids})));
    }
    framed(run, properties, &further)
}

/// Ways into a machine: through its public address, or by a private link where it has none.
pub(super) struct Door {
    host: HostClient,
    vm: Uuid,
    pub public: Option<Ipv4Addr>,
    key: UserKey,
    host_key: HostKey,
}

impl Door {
    pub async fn of(run: &Run<'_>, machine: &Machine) -> Result<Self, OpError> {
        let state: MachineInternal = internal(&require(run, &machine.machine).await?)?;
        let public = match run.template.vm_profile.network {
            Some(_) => None,
            None => Some(internal::<PublicIpInternal>(&require(run, &machine.address).await?)?.address),
        };
        Ok(Self {
            host: run.cx.engine.host().clone(),
            vm: state.vm_id,
            public,
            key: UserKey::from_seed(&run.seed()?),
            host_key: HostKey::default(),
        })
    }
}

#[async_trait]
impl Connect for Door {
    async fn connect(&self) -> Result<Box<dyn Communicator>, CommunicatorError> {
        let unreachable = |e: Box<dyn std::error::Error + Send + Sync>| CommunicatorError::Unreachable(e);
        let connection = match self.public {
            Some(address) => {
                let stream = tokio::time::timeout(CONNECT, TcpStream::connect((address, SSH))).await;
                let stream = stream.map_err(|e| unreachable(e.into()))?.map_err(|e| unreachable(e.into()))?;
                SshCommunicator::connect(stream, USER, &self.key, &self.host_key).await?
            }
            None => {
                let stream = self.host.connect(self.vm, SSH).await.map_err(|e| unreachable(e.into()))?;
                SshCommunicator::connect(stream, USER, &self.key, &self.host_key).await?
            }
        };
        Ok(Box::new(connection))
    }
}

async fn require(run: &Run<'_>, id: &ResourceId) -> Result<lazuli_meta::model::Resource, OpError> {
    let row = run.cx.engine.db().resource(&id.key()).await.map_err(db_error)?;
    row.ok_or_else(|| OpError::Failed(run.failure(&format!("'{}' was deleted while the template was run.", id.name()))))
}

/// How somebody gets into a machine that is kept: the key lies beside the log.
pub(super) async fn entrance(run: &Run<'_>, machine: &Machine) -> Result<String, OpError> {
    let key = UserKey::from_seed(&run.seed()?);
    let place = run.journal.put("id_ed25519", key.private_pem().into_bytes()).await?;
    let door = Door::of(run, machine).await?;
    let way = match door.public {
        Some(address) => format!("ssh -i id_ed25519 {USER}@{address}"),
        None => format!("ssh -i id_ed25519 {USER}@(its private address), from within its virtual network"),
    };
    Ok(format!(
        "The machine {} was kept, as errorHandling asks for: enter it by `{way}` with the key that lies at {place}. It is removed with \
         the next run or with the template.",
        machine.machine
    ))
}

/// The guest is off and was generalized: images are made of it from now on.
pub(super) async fn capture(run: &Run<'_>, machine: &Machine) -> Result<(), OpError> {
    run.journal.say("run", "captures the machine");
    on_behalf::action(run.cx, &run.call, &machine.machine, "deallocate").await?;
    on_behalf::action(run.cx, &run.call, &machine.machine, "generalize").await
}

/// A managed image of the build machine, for the machine that validates it.
pub(super) async fn result_image(run: &Run<'_>, machine: &Machine) -> Result<(), OpError> {
    let properties = json!({
        "sourceVirtualMachine": {"id": machine.machine.to_string()},
        "hyperVGeneration": run.prepared.source.generation,
    });
    run.put(&run.names.result(), &framed(run, properties, &[])).await
}

/// What earlier runs left in the staging group: machines that were kept.
pub(super) async fn remove_left(run: &Run<'_>) -> Result<(), OpError> {
    remove(run, |name| run.names.is_left(name)).await
}

/// Everything that was made in the staging group for this run.
pub(super) async fn remove_all(run: &Run<'_>) -> Result<(), OpError> {
    remove(run, |name| run.names.is_own(name)).await
}

/// Users before what they use.
async fn remove(run: &Run<'_>, which: impl Fn(&str) -> bool) -> Result<(), OpError> {
    let engine = &run.cx.engine;
    let group = run.names.group.key();
    loop {
        run.cx.check()?;
        let query = ResourceQuery { parent: Some(group.clone()), ..ResourceQuery::default() };
        let rows = engine.db().resources(&query).await.map_err(db_error)?;
        let own = rows.into_iter().filter(|row| which(&row.name));
        let rank = |kind: &str| engine.provider_of_kind(kind).map_or(u8::MAX, |p| p.delete_rank());
        let Some(next) = own.min_by_key(|row| rank(&row.kind)) else { return Ok(()) };
        let id: ResourceId = next.id.parse().map_err(ArmError::internal)?;
        on_behalf::delete(run.cx, &run.call, &id).await?;
    }
}

/// The connection that steps are run over.
pub(super) fn connect(door: Door) -> Arc<dyn Connect> {
    Arc::new(door)
}
