//! Data disks that come and go while a QEMU runs. Both ways are idempotent: a host that died half-way is asked again.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::cmdline::{base_node, data_device, device_id, disk_nodes};
use super::{HypervisorError, VmFiles};
use crate::qmp::{Qmp, QmpError};
use crate::spec::DiskSpec;

/// How long a guest may hold a disk that is being detached.
const LET_GO: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Attaches a data disk at its LUN, unless it is attached.
pub(super) async fn attach(qmp: &Qmp, files: &VmFiles, disk: &DiskSpec) -> Result<(), HypervisorError> {
    let label = disk.label();
    if has_device(qmp, &label).await? {
        return Ok(());
    }
    // Nodes without a device are what a host that died left.
    remove_nodes(qmp, &label).await?;
    let attached = async {
        for node in disk_nodes(files, disk) {
            qmp.execute("blockdev-add", node).await?;
        }
        qmp.execute("device_add", data_device(disk)).await
    };
    if let Err(e) = attached.await {
        remove_nodes(qmp, &label).await?;
        return Err(e.into());
    }
    Ok(())
}

/// Detaches a data disk, if it is attached; its file is closed when this returns.
pub(super) async fn detach(qmp: &Qmp, label: &str) -> Result<(), HypervisorError> {
    if has_device(qmp, label).await? {
        qmp.execute("device_del", json!({"id": device_id(label)})).await?;
        let deadline = Instant::now() + LET_GO;
        while has_device(qmp, label).await? {
            if Instant::now() > deadline {
                return Err(HypervisorError::Start(format!("the guest does not let go of the disk '{label}'")));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
    Ok(remove_nodes(qmp, label).await?)
}

async fn has_device(qmp: &Qmp, label: &str) -> Result<bool, QmpError> {
    let devices = qmp.execute("qom-list", json!({"path": "/machine/peripheral"})).await?;
    let id = device_id(label);
    Ok(devices.as_array().into_iter().flatten().any(|d| d["name"] == id))
}

async fn remove_nodes(qmp: &Qmp, label: &str) -> Result<(), QmpError> {
    let nodes = qmp.execute("query-named-block-nodes", json!({"flat": true})).await?;
    let is_there = |name: &str| nodes.as_array().into_iter().flatten().any(|n: &Value| n["node-name"] == name);
    for name in [label.to_owned(), base_node(label)] {
        // A device that is gone from the machine lets its node go a moment later: "Node lun5 is in use".
        let deadline = Instant::now() + LET_GO;
        while is_there(&name) {
            match qmp.execute("blockdev-del", json!({"node-name": name})).await {
                Ok(_) => break,
                Err(QmpError::Refused { .. }) if Instant::now() < deadline => tokio::time::sleep(LOOK_AGAIN).await,
                Err(e) => return Err(e),
            }
        }
    }
    Ok(())
}
