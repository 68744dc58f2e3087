//! How a machine is doing, asked from its host process at the moment of the read. Of one whose worker is away nothing is claimed.

use super::MachineInternal;
use super::interfaces::host_name_of;
use crate::{Engine, boot_diagnostics, time_text};
use lazuli_meta::model::Resource;
use lazuli_vmm::spec::{PowerState, ProvisioningState, VmStatus};
use serde_json::{Value, json};

pub(super) async fn of(engine: &Engine, row: &Resource, state: &MachineInternal) -> Value {
    let (status, away) = match engine.home_of(row, state).await {
        Ok(home) => (Some(home.host.status(state.vm_id).await), None),
        Err(error) => (None, Some(error)),
    };
    let (display, code) = match row.provisioning_state.as_str() {
        "Creating" => ("Creating", "ProvisioningState/creating"),
        "Updating" => ("Updating", "ProvisioningState/updating"),
        "Failed" => ("Provisioning failed", "ProvisioningState/failed"),
        "Deleting" => ("Deleting", "ProvisioningState/deleting"),
        _ => ("Provisioning succeeded", "ProvisioningState/succeeded"),
    };
    let mut statuses = vec![json!({
        "code": code, "level": if code.ends_with("failed") { "Error" } else { "Info" }, "displayStatus": display,
        "time": time_text(row.changed_ms),
    })];
    if state.generalized {
        statuses.push(json!({"code": "OSState/generalized", "level": "Info", "displayStatus": "VM generalized"}));
    }
    statuses.extend(namesake(engine, row, state).await);
    let known = status.as_ref().and_then(|s| s.as_ref().ok());
    statuses.extend(power(known, state));
    if let Some(error) = &away {
        statuses
            .push(json!({"code": "PowerState/unknown", "level": "Warning", "displayStatus": "VM power state unknown",
            "message": error.message}));
    }
    if let Some(lost) = &state.lost {
        statuses.push(json!({"code": "DiskState/rolledBack", "level": "Warning", "displayStatus": "Disks rolled back",
            "message": lost.message(), "time": time_text(lost.seen_ms)}));
    }
    if let Some(Err(error)) = &status
        && !state.deallocated
        && error.code() != Some(lazuli_vmm::host::HostErrorCode::NotFound)
    {
        tracing::warn!(machine = row.id, %error, "the host process was asked for a machine's state and did not answer");
        statuses.push(
            json!({"code": "HostState/unreachable", "level": "Warning", "displayStatus": "VM host does not answer"}),
        );
    }
    let disks: Vec<Value> = disk_names(row)
        .into_iter()
        .map(|name| {
            json!({"name": name, "statuses": [{"code": "ProvisioningState/succeeded", "level": "Info",
            "displayStatus": "Provisioning succeeded", "time": time_text(row.created_ms)}]})
        })
        .collect();
    let mut view = json!({
        "computerName": row.body["properties"]["osProfile"]["computerName"],
        "hyperVGeneration": state.generation,
        "disks": disks,
        "statuses": statuses,
    });
    if let Some(diagnostics) = boot_diagnostics::instance_view(engine, row, state).await {
        view["bootDiagnostics"] = diagnostics;
    }
    let mut extensions = extensions(engine, row).await;
    extensions.extend(state.applications.instance_view());
    if away.is_some() {
        view["vmAgent"] = json!({"vmAgentVersion": "Unknown", "extensionHandlers": [], "statuses": [
            {"code": "ProvisioningState/Unavailable", "level": "Warning", "displayStatus": "Not Ready",
                "message": "VM Agent is unresponsive.", "time": time_text(crate::now_ms())}]});
    }
    if let Some(status) = known {
        view["vmAgent"] = agent(status, row);
        view["vmAgent"]["extensionHandlers"] =
            extensions.iter().filter(|e| e["statuses"] != json!([])).map(handler).collect();
    }
    if !extensions.is_empty() {
        view["extensions"] = extensions.into();
    }
    view
}

/// As long as both have the host name (GS-9).
async fn namesake(engine: &Engine, row: &Resource, state: &MachineInternal) -> Option<Value> {
    let other = engine.db().resource(state.namesake.as_deref()?).await.ok()??;
    let name = host_name_of(row);
    host_name_of(&other).eq_ignore_ascii_case(name).then(|| {
        json!({"code": "HostName/duplicate", "level": "Warning", "displayStatus": "Duplicate host name",
            "message": format!("The VM '{}' has the host name '{name}' too, in one virtual network: by that name one of them is \
                reached.", other.name)})
    })
}

async fn extensions(engine: &Engine, row: &Resource) -> Vec<Value> {
    match engine.db().children(&row.key, 1000).await {
        Ok(children) => {
            children.iter().filter_map(|c| super::super::virtual_machine_extension::instance_view(c).ok()).collect()
        }
        Err(error) => {
            tracing::warn!(machine = row.id, %error, "a machine's extensions cannot be read");
            vec![]
        }
    }
}

/// What runs an extension, which has answered.
fn handler(extension: &Value) -> Value {
    json!({"type": extension["type"], "typeHandlerVersion": extension["typeHandlerVersion"],
        "status": {"code": "ProvisioningState/succeeded", "level": "Info", "displayStatus": "Ready", "message": "Plugin enabled"}})
}

fn power(status: Option<&VmStatus>, state: &MachineInternal) -> Option<Value> {
    let (code, display) = match status.map(|s| &s.power) {
        _ if state.deallocated => ("PowerState/deallocated", "VM deallocated"),
        Some(PowerState::Running) => ("PowerState/running", "VM running"),
        Some(PowerState::Starting) => ("PowerState/starting", "VM starting"),
        Some(PowerState::Stopped | PowerState::Crashed) => ("PowerState/stopped", "VM stopped"),
        Some(PowerState::Stopping) => ("PowerState/stopping", "VM stopping"),
        None => return None,
    };
    Some(json!({"code": code, "level": "Info", "displayStatus": display}))
}

fn agent(status: &VmStatus, row: &Resource) -> Value {
    // A machine that was started again reports provisioning no more; its agent speaks for itself.
    let ready = matches!(status.provisioning, ProvisioningState::Ready { .. })
        || status.agent.as_ref().is_some_and(|a| a.status == "Ready");
    let entry = if ready {
        json!({"code": "ProvisioningState/succeeded", "level": "Info", "displayStatus": "Ready",
            "message": "The guest reported that it is provisioned.", "time": time_text(row.changed_ms)})
    } else {
        json!({"code": "ProvisioningState/Unavailable", "level": "Warning", "displayStatus": "Not Ready",
            "message": "VM status blob is found but not yet populated.", "time": time_text(row.changed_ms)})
    };
    let version = status.agent.as_ref().map_or("Unknown", |a| a.version.as_str());
    json!({"vmAgentVersion": version, "statuses": [entry], "extensionHandlers": []})
}

fn disk_names(row: &Resource) -> Vec<Value> {
    let profile = &row.body["properties"]["storageProfile"];
    let data = profile["dataDisks"].as_array().into_iter().flatten().map(|d| d["name"].clone());
    std::iter::once(profile["osDisk"]["name"].clone()).chain(data).collect()
}
