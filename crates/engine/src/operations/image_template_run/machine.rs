//! The machines of a run with their networks: made, generalized, removed. How they are reached is in [`door`](super::door).

use super::door::{self, USER};
use super::names::Machine;
use super::{Run, TRACE};
use crate::db_error;
use crate::on_behalf;
use crate::operation::OpError;
use crate::operations::virtual_machine::{host_error, on_host};
use crate::providers::virtual_machine::MachineInternal;
use crate::stored::internal;
use lazuli_arm::bodies::image_template::VmProfile;
use lazuli_arm::{ArmError, ResourceId};
use lazuli_builder::communicator::ssh::UserKey;
use lazuli_chunks::Traces;
use lazuli_meta::model::{Resource, ResourceQuery};
use serde_json::{Map, Value, json};

const SUBNET: &str = "build";
/// Characters that the name of a computer with Windows may have.
const WINDOWS_NAME: usize = 15;

/// What the machines are attached to: the template's subnet, or a network of the run's own with a port for the connection.
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
    let port = door::port(run.prepared.source.windows);
    let rule = json!({"name": "build", "properties": {
        "protocol": "Tcp", "access": "Allow", "direction": "Inbound", "priority": 100,
        "sourceAddressPrefix": "*", "sourcePortRange": "*", "destinationAddressPrefix": "*", "destinationPortRange": port.to_string(),
    }});
    framed(run, json!({"securityRules": [rule]}), &[])
}

fn virtual_network(run: &Run<'_>) -> Value {
    let subnet = json!({"name": SUBNET, "properties": {"addressPrefix": "10.0.0.0/24"}});
    framed(run, json!({"addressSpace": {"addressPrefixes": ["10.0.0.0/16"]}, "subnets": [subnet]}), &[])
}

/// A machine of `image`; there when its guest has reported that it is provisioned.
pub(super) async fn create(run: &Run<'_>, machine: &Machine, image: &Value, build: bool) -> Result<(), OpError> {
    run.journal.say("run", &format!("creates the machine {}", machine.machine));
    let seed = run.seed()?;
    let user = if run.prepared.source.windows {
        windows_user(&machine.host_name, &door::password(&seed))
    } else {
        linux_user(&machine.host_name, &UserKey::from_seed(&seed).public_line())
    };
    run.put(&machine.machine, &machine_body(run, machine, image, user, build)).await
}

/// A build user with a key.
fn linux_user(host_name: &str, key: &str) -> Value {
    let keys = json!([{"path": format!("/home/{USER}/.ssh/authorized_keys"), "keyData": key}]);
    json!({
        "computerName": host_name, "adminUsername": USER,
        "linuxConfiguration": {"disablePasswordAuthentication": true, "ssh": {"publicKeys": keys}},
    })
}

/// One with a password, who comes by WinRM. Updates are the template's to ask for.
fn windows_user(host_name: &str, password: &str) -> Value {
    // Windows' names are shorter; what they end with tells them apart.
    let name = &host_name[host_name.len().saturating_sub(WINDOWS_NAME)..];
    json!({
        "computerName": name, "adminUsername": USER, "adminPassword": password,
        "windowsConfiguration": {
            "provisionVMAgent": false, "enableAutomaticUpdates": false, "patchSettings": {"patchMode": "Manual"},
            "winRM": {"listeners": [{"protocol": "Https"}]},
        },
    })
}

fn machine_body(run: &Run<'_>, machine: &Machine, image: &Value, user: Value, build: bool) -> Value {
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
    let mut properties = json!({
        "hardwareProfile": {"vmSize": profile.size(&source.generation)},
        "storageProfile": storage,
        "osProfile": user,
        "networkProfile": {
            "networkInterfaces": [{"id": machine.interface.to_string(), "properties": {"deleteOption": "Delete"}}],
        },
    });
    if source.trusted_launch {
        let uefi = json!({"secureBootEnabled": true, "vTpmEnabled": true});
        properties["securityProfile"] = json!({"securityType": "TrustedLaunch", "uefiSettings": uefi});
    }
    let mut further = Vec::new();
    // Of the source, which is validated alone too, and of the result, which is of the same plan.
    if let Some(plan) = &source.plan {
        further.push(("plan", plan.clone()));
    }
    if !profile.user_assigned_identities.is_empty() {
        let ids: Map<String, Value> =
            profile.user_assigned_identities.iter().map(|id| (id.clone(), json!({}))).collect();
        further.push(("identity", json!({"type": "UserAssigned", "userAssignedIdentities": ids})));
    }
    framed(run, properties, &further)
}

pub(super) async fn require(run: &Run<'_>, id: &ResourceId) -> Result<Resource, OpError> {
    let row = run.cx.engine.db().resource(&id.key()).await.map_err(db_error)?;
    row.ok_or_else(|| OpError::Failed(run.failure(&format!("'{}' was deleted while the template was run.", id.name()))))
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

/// Keeps beside the log what the machine read of its image when it started; how much of its disk that is. `None`: its host does not know.
pub(super) async fn trace(run: &Run<'_>, machine: &Machine) -> Result<Option<u64>, OpError> {
    let row = require(run, &machine.machine).await?;
    let state: MachineInternal = internal(&row)?;
    let host = run.cx.engine.home_of(&row, &state).await?.host;
    let traced = on_host(run.cx, &row.name, || host.boot_trace(state.vm_id)).await?;
    let traced = traced.map_err(|error| host_error(error, &row.name))?;
    let Some((trace, covers)) = traced.and_then(|trace| Traces::covers(&trace).map(|covers| (trace, covers))) else {
        return Ok(None);
    };
    run.journal.put(TRACE, trace.into()).await?;
    Ok(Some(covers))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The names of a validating machine are the longest.
    #[test]
    fn a_build_users_profile_is_one_that_a_machine_may_have() {
        for name in ["pkrvm0123456789", "pkrvmv0123456789"] {
            let user = windows_user(name, &door::password(&[7; 32]));
            let computer = user["computerName"].as_str().unwrap();
            assert!(computer.len() <= WINDOWS_NAME && name.ends_with(computer), "{computer}");
        }
        assert_ne!(
            windows_user("pkrvm0123456789", "")["computerName"],
            windows_user("pkrvmv0123456789", "")["computerName"]
        );
        assert_eq!(linux_user("pkrvmv0123456789", "ssh-ed25519 A")["computerName"], "pkrvmv0123456789");
    }
}
