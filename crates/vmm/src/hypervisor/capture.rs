//! Copies of a running QEMU's disks as they are at one instant (GS-14).
//!
//! ```text
//!   device ─ os ─ os-base          before and after
//!   device ─ copy-before-write ─ os ─ os-base
//!                  └─ capture-os   while the job `capture-os` copies the clusters that `os` itself has (`sync: top`)
//! ```
//! All jobs begin in one transaction, so that every copy shows the same instant; a cluster that the guest overwrites
//! meanwhile is copied first. The guest's own files keep their chain: whatever dies, copies are thrown away, nothing else.
//! Every job and node that is made here bears the prefix [`PREFIX`], so that the next host finds what an earlier one left.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Consistency, DiskCopy, HypervisorError, VmFiles, freeze};
use crate::guest_agent::Port;
use crate::overlay;
use crate::qmp::{Qmp, QmpError};
use crate::spec::DiskSpec;

const PREFIX: &str = "capture-";
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Fills the copies. Returns when they are closed; after an error nothing of them is in use any more.
pub(super) async fn capture(
    qmp: &Qmp,
    files: &VmFiles,
    port: &Port,
    copies: &[DiskCopy],
) -> Result<Consistency, HypervisorError> {
    let done = copy_all(qmp, files, port, copies).await;
    // After a success there is nothing to cancel, but the jobs and nodes have to go all the same.
    let cleaned = clean_up(qmp).await;
    cleaned?;
    done
}

async fn copy_all(
    qmp: &Qmp,
    files: &VmFiles,
    port: &Port,
    copies: &[DiskCopy],
) -> Result<Consistency, HypervisorError> {
    let nodes = qmp.execute("query-named-block-nodes", json!({"flat": true})).await?;
    let mut actions = Vec::new();
    for copy in copies {
        let name = format!("{PREFIX}{}", copy.label);
        let disk = DiskSpec {
            lun: None,
            overlay: copy.target.clone(),
            size_bytes: size_of(&nodes, &copy.label)?,
            base: None,
            read_only: false,
        };
        let made = overlay::create(&disk, std::path::Path::new("/")).await;
        made.map_err(|e| HypervisorError::Capture(e.to_string()))?;
        let file = json!({"driver": "file", "filename": copy.target.to_string_lossy()});
        // Nobody relies on the copy after a crash: it need not be flushed.
        let cache = json!({"no-flush": true});
        let node = json!({"node-name": name, "driver": "qcow2", "file": file, "backing": null, "cache": cache, "discard": "unmap"});
        qmp.execute("blockdev-add", node).await?;
        actions.push(json!({"type": "blockdev-backup", "data": {
            "job-id": name, "device": copy.label, "target": name, "sync": "top", "auto-dismiss": false}}));
    }
    let frozen = freeze::freeze(files, port).await;
    let consistency = if frozen.is_some() { Consistency::FileSystem } else { Consistency::Crash };
    let begun = qmp.execute("transaction", json!({"actions": actions})).await;
    // The copies show the instant at which the jobs began, whatever is written from now on.
    if let Some(frozen) = frozen {
        frozen.thaw().await;
    }
    begun?;
    loop {
        let jobs = ours(&qmp.execute("query-jobs", Value::Null).await?);
        if let Some(error) = jobs.iter().find_map(|j| j["error"].as_str()) {
            return Err(HypervisorError::Capture(error.to_owned()));
        }
        if jobs.iter().all(|j| j["status"] == "concluded") {
            return Ok(consistency);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

fn size_of(nodes: &Value, label: &str) -> Result<u64, HypervisorError> {
    let node = nodes.as_array().into_iter().flatten().find(|n| n["node-name"] == label);
    let size = node.and_then(|n| n["image"]["virtual-size"].as_u64());
    size.ok_or_else(|| HypervisorError::Capture(format!("the machine has no disk '{label}'")))
}

/// Ends and removes whatever a capture made, now or under an earlier host.
pub(super) async fn clean_up(qmp: &Qmp) -> Result<(), QmpError> {
    loop {
        let jobs = ours(&qmp.execute("query-jobs", Value::Null).await?);
        if jobs.is_empty() {
            break;
        }
        for job in &jobs {
            let (command, arguments) = match job["status"].as_str() {
                Some("concluded") => ("job-dismiss", json!({"id": job["id"]})),
                _ => ("block-job-cancel", json!({"device": job["id"], "force": true})),
            };
            // One that ends at this very moment is not there any more, or concluded at the next look.
            match qmp.execute(command, arguments).await {
                Ok(_) | Err(QmpError::Refused { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    let nodes = qmp.execute("query-named-block-nodes", json!({"flat": true})).await?;
    for node in nodes.as_array().into_iter().flatten() {
        if let Some(name) = node["node-name"].as_str().filter(|n| n.starts_with(PREFIX)) {
            qmp.execute("blockdev-del", json!({"node-name": name})).await?;
        }
    }
    Ok(())
}

fn ours(jobs: &Value) -> Vec<Value> {
    let jobs = jobs.as_array().into_iter().flatten();
    jobs.filter(|j| j["id"].as_str().is_some_and(|id| id.starts_with(PREFIX))).cloned().collect()
}
