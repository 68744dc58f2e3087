//! Disks that guests wrote as sources: what is captured, and that nobody writes meanwhile (MD-8, IV-3, GS-12 to GS-14).

use super::site::{Site, VM, until};
use super::{MIB, disk_bytes};
use crate::call::ActionReply;
use crate::provider::Context;
use crate::sources::{disk_or_snapshot, virtual_machine};
use lazuli_arm::ArmError;
use lazuli_meta::WriteError;
use lazuli_meta::model::{
    Change, Conflict, Expect, NewOperation, OperationQuery, OperationState, OperationState::Running, Write,
};
use serde_json::{Value, json};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

pub(super) const CLUSTER: usize = 64 << 10;

impl Site {
    async fn overlay(&self, disk: &str) -> PathBuf {
        let id = self.server.internal(disk).await["uniqueId"].as_str().unwrap().to_owned();
        self.server.dir.path().join("disks").join(format!("{id}.qcow2"))
    }

    /// What a guest would have written.
    pub(super) async fn write(&self, disk: &str, commands: &[&str]) {
        write_to(&self.overlay(disk).await, commands);
    }

    /// A version of this disk: its bytes.
    async fn versioned(&self, disk: &str, version: &str) -> Result<Vec<u8>, ArmError> {
        let tail = format!("galleries/g/images/i/versions/{version}");
        let body = json!({"location": "eastus", "properties": {"storageProfile": {
            "osDiskImage": {"source": {"id": self.server.id(disk).to_string()}}}}});
        self.server.put(&tail, body).await?;
        let manifest = self.server.internal(&tail).await["osDisk"]["manifest"].clone();
        Ok(self.server.stored("eastus", manifest.as_str().unwrap()).await)
    }

    pub(super) async fn generalize(&self) -> Result<(), ArmError> {
        let reply = self.server.engine.action(&self.server.call, &self.server.id(VM), "generalize", json!({})).await?;
        assert!(matches!(reply, ActionReply::Done(None)));
        Ok(())
    }

    fn cx(&self) -> Context<'_> {
        Context { engine: &self.server.engine, call: &self.server.call, now_ms: crate::now_ms() }
    }
}

/// What a guest would have written.
pub(super) fn write_to(overlay: &std::path::Path, commands: &[&str]) {
    let mut qemu_io = qemu_io(overlay);
    for command in commands {
        qemu_io.args(["-c", command]);
    }
    let output = qemu_io.output().expect("qemu-io is missing: install the package qemu-utils");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn qemu_io(overlay: &std::path::Path) -> Command {
    let node = json!({"driver": "qcow2", "file": {"driver": "file", "filename": overlay}, "backing": null});
    let mut command = Command::new("qemu-io");
    command.arg(format!("json:{node}"));
    command
}

/// `disk_bytes(1)` after the writes of the tests.
pub(super) fn expected() -> Vec<u8> {
    let mut bytes = disk_bytes(1);
    bytes[..CLUSTER].fill(0);
    let mib = usize::try_from(MIB).unwrap();
    bytes[mib..mib + CLUSTER].fill(0xab);
    bytes[10 * mib..11 * mib].fill(0xcd);
    bytes
}

pub(super) const WRITES: [&str; 3] = ["write -z 0 64k", "write -P 0xab 1M 64k", "write -P 0xcd 10M 1M"];

#[tokio::test(flavor = "multi_thread")]
async fn what_a_guest_wrote_becomes_a_version_and_only_that_is_stored() {
    let site = Site::start().await;
    site.create(|_| {}).await.unwrap();
    site.power("deallocate").await.unwrap();
    site.write("disks/os1", &WRITES).await;
    let before = site.server.stored_bytes("eastus").await;
    assert!(site.versioned("disks/os1", "2.0.0").await.unwrap() == expected());
    let cost = site.server.stored_bytes("eastus").await - before;
    assert!(cost < MIB, "a change of a pattern costs {cost} bytes");
    assert_eq!(site.server.internal("disks/os1").await["readers"], json!([]), "it was read");

    for (kind, name) in [("disks", "copy"), ("snapshots", "snap")] {
        let tail = format!("{kind}/{name}");
        let create = json!({"createOption": "Copy", "sourceResourceId": site.server.id("disks/os1").to_string()});
        let body = json!({"location": "eastus", "properties": {"creationData": create}});
        site.server.put(&tail, body).await.unwrap();
        let manifest = site.server.internal(&tail).await["base"]["manifest"].clone();
        assert!(site.server.stored("eastus", manifest.as_str().unwrap()).await == expected(), "{tail}");
    }

    // The machine goes on, on bytes that the version does not share.
    site.power("start").await.unwrap();
    site.power("deallocate").await.unwrap();
    site.write("disks/os1", &["write -P 1 5M 64k"]).await;
    let manifest = site.server.internal("galleries/g/images/i/versions/2.0.0").await["osDisk"]["manifest"].clone();
    assert!(site.server.stored("eastus", manifest.as_str().unwrap()).await == expected());

    // Powered off, not deallocated: off as well. Without its machine: a disk like any other.
    site.power("start").await.unwrap();
    site.power("poweroff").await.unwrap();
    let mut changed = expected();
    changed[usize::try_from(5 * MIB).unwrap()..][..CLUSTER].fill(1);
    assert!(site.versioned("disks/os1", "3.0.0").await.unwrap() == changed);
    site.server.delete(VM).await.unwrap();
    assert!(site.versioned("disks/os1", "4.0.0").await.unwrap() == changed);
    site.server.delete("disks/os1").await.unwrap();
}

/// GS-14: the source runs on; what is taken is of one instant, and nothing of the taking is left.
#[tokio::test(flavor = "multi_thread")]
async fn a_running_machine_is_a_source_of_what_is_specialized() {
    let site = Site::start().await;
    let server = &site.server;
    let blank = json!({"lun": 4, "createOption": "Empty", "diskSizeGB": 1, "name": "data4"});
    site.create(|b| b["properties"]["storageProfile"]["dataDisks"] = json!([blank])).await.unwrap();
    // The fake guest holds no locks: qemu-io plays what it writes.
    site.write("disks/os1", &WRITES).await;
    site.write("disks/data4", &["write -P 0x11 1M 64k"]).await;
    site.specialized().await;
    let body = json!({"location": "eastus", "properties": {
        "storageProfile": {"source": {"virtualMachineId": server.id(VM).to_string()}}}});
    server.put("galleries/g/images/s/versions/2.0.0", body.clone()).await.unwrap();
    let state = server.internal("galleries/g/images/s/versions/2.0.0").await;
    let manifest = |disk: &Value| disk["manifest"].as_str().unwrap().to_owned();
    assert!(server.stored("eastus", &manifest(&state["osDisk"])).await == expected());
    let data = server.stored("eastus", &manifest(&state["dataDisks"]["4"])).await;
    assert!(data[1 << 20..][..CLUSTER].iter().all(|b| *b == 0x11) && data[..1 << 20].iter().all(|b| *b == 0));

    // A snapshot and a copy of an attached disk are the same.
    for (kind, name) in [("snapshots", "snap"), ("disks", "copy")] {
        let tail = format!("{kind}/{name}");
        let create = json!({"createOption": "Copy", "sourceResourceId": server.id("disks/os1").to_string()});
        server.put(&tail, json!({"location": "eastus", "properties": {"creationData": create}})).await.unwrap();
        let base = server.internal(&tail).await["base"].clone();
        assert!(server.stored("eastus", &manifest(&base)).await == expected(), "{tail}");
    }
    let id = site.vm_id().await;
    assert!(site.fake.is_running(id));
    let captures = server.dir.path().join("host/vms").join(id.to_string()).join("captures");
    assert_eq!(std::fs::read_dir(&captures).unwrap().count(), 0, "the copies are gone");
    for disk in ["disks/os1", "disks/data4"] {
        assert_eq!(server.internal(disk).await["readers"], json!([]), "{disk} was read");
    }

    // What is generalized cannot come from what runs.
    let error = server.put("galleries/g/images/i/versions/2.0.0", body).await.unwrap_err();
    assert_eq!(error.status, 400, "{error}");
    let image = json!({"location": "eastus", "properties": {"hyperVGeneration": "V2",
        "sourceVirtualMachine": {"id": server.id(VM).to_string()}}});
    let error = server.put("images/img", image).await.unwrap_err();
    assert_eq!(
        (error.code.as_str(), error.message.as_str()),
        ("OperationNotAllowed", "The operation 'Create Image' requires the Virtual Machine 'vm1' to be Generalized.")
    );
    // A crashed machine may only be out of sight.
    site.fake.crash(id);
    until("it is seen", async || site.codes().await.contains(&"PowerState/stopped".to_owned())).await;
    let error = site.versioned("disks/os1", "3.0.0").await.unwrap_err();
    assert!(error.message.contains("Deallocate the VM"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generalized_machine_is_a_source_and_never_starts_again() {
    let site = Site::start().await;
    let data =
        json!({"location": "eastus", "properties": {"diskSizeGB": 1, "creationData": {"createOption": "Empty"}}});
    site.server.put("disks/data0", data).await.unwrap();
    let id = json!({"id": site.server.id("disks/data0").to_string()});
    site.create(|b| {
        b["properties"]["storageProfile"]["dataDisks"] =
            json!([{"lun": 3, "createOption": "Attach", "caching": "ReadOnly", "managedDisk": id}]);
    })
    .await
    .unwrap();
    let error = site.generalize().await.unwrap_err();
    assert_eq!(
        (error.status, error.code.as_str(), error.message.as_str()),
        (409, "OperationNotAllowed", "Operation 'generalize' is not allowed on VM 'vm1' since the VM is running.")
    );
    site.power("deallocate").await.unwrap();
    let machine = virtual_machine(site.cx(), &site.server.id(VM), "eastus").await.unwrap();
    assert!(!machine.generalized);
    site.generalize().await.unwrap();
    site.generalize().await.unwrap();
    assert!(site.codes().await.contains(&"OSState/generalized".to_owned()));
    for action in ["start", "restart"] {
        let error = site.power(action).await.unwrap_err();
        let text = format!("Operation '{action}' is not allowed on VM 'vm1' since the VM is generalized.");
        assert_eq!((error.code.as_str(), error.message.as_str()), ("OperationNotAllowed", text.as_str()));
    }
    let machine = virtual_machine(site.cx(), &site.server.id(VM), "eastus").await.unwrap();
    assert!(machine.generalized && machine.os.found.overlay.is_some());
    assert_eq!((machine.os_type.as_str(), machine.generation.as_str()), ("Linux", "V2"));
    assert_eq!(machine.os_caching, "ReadWrite");
    let data: Vec<_> =
        machine.data.iter().map(|(lun, caching, d)| (*lun, caching.as_str(), d.row.name.as_str())).collect();
    assert_eq!(data, [(3, "ReadOnly", "data0")]);
    let error = virtual_machine(site.cx(), &site.server.id(VM), "westus").await.unwrap_err();
    assert_eq!(error.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_gives_what_the_guest_wrote_and_a_resize_is_seen() {
    let site = Site::start().await;
    let server = &site.server;
    site.create(|_| {}).await.unwrap();
    let error = server.begin_access("disks/os1", "Read").await.unwrap_err();
    assert!(
        error.message.starts_with("Access not permitted because disk os1 is currently attached to running VM"),
        "{error}"
    );
    let grow = json!({"properties": {"diskSizeGB": 2}});
    let error = server.engine.patch(&server.call, &server.id("disks/os1"), grow.clone()).await.unwrap_err();
    assert!(error.message.starts_with("Cannot resize disk os1 while it is attached to running VM"), "{error}");
    site.power("deallocate").await.unwrap();
    site.write("disks/os1", &WRITES).await;

    server.begin_access("disks/os1", "Read").await.unwrap();
    assert_eq!(site.state("disks/os1").await, "ActiveSAS");
    let base = server.internal("disks/os1").await["base"]["manifest"].as_str().unwrap().to_owned();
    assert!(server.stored("eastus", &base).await == expected());
    assert_eq!(site.power("start").await.unwrap_err().code, "OperationNotAllowed", "it is being read");
    server.action("disks/os1", "endGetAccess", json!({})).await.unwrap();
    assert_eq!(site.state("disks/os1").await, "Reserved");

    // Larger: for whoever reads it now, and for the guest at its next start.
    server.engine.patch(&server.call, &server.id("disks/os1"), grow).await.unwrap();
    let tail = "galleries/g/images/i/versions/2.0.0";
    let body = json!({"location": "eastus", "properties": {"storageProfile": {
        "osDiskImage": {"source": {"id": server.id("disks/os1").to_string()}}}}});
    server.put(tail, body).await.unwrap();
    let manifest = server.internal(tail).await["osDisk"]["manifest"].as_str().unwrap().to_owned();
    server.check_grown("eastus", &manifest, &expected(), 2 << 30).await;
    site.power("start").await.unwrap();
    let overlay = lazuli_disks::Qcow2::open(&site.overlay("disks/os1").await).unwrap();
    assert_eq!(overlay.size(), 2 << 30);
    assert!(overlay.names_base());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_qemu_has_open_is_never_read() {
    let site = Site::start().await;
    site.create(|_| {}).await.unwrap();
    site.power("deallocate").await.unwrap();
    let mut holder = Holder::open(&site.overlay("disks/os1").await);
    let error = site.versioned("disks/os1", "2.0.0").await.unwrap_err();
    assert_eq!(error.code, "OperationNotAllowed");
    assert!(error.message.contains("still open"), "{error}");
    holder.close();
    site.server.delete("galleries/g/images/i/versions/2.0.0").await.unwrap();
    assert!(site.versioned("disks/os1", "2.0.0").await.unwrap() == disk_bytes(1));
}

/// A QEMU that has a disk open.
struct Holder(Child);

impl Holder {
    fn open(overlay: &std::path::Path) -> Self {
        let mut command = qemu_io(overlay);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.expect("qemu-io is missing: install the package qemu-utils");
        // It answers once the file is open.
        let mut answer = [0; 1];
        child.stdin.as_mut().unwrap().write_all(b"length\n").unwrap();
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut answer).unwrap();
        Self(child)
    }

    fn close(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_start_and_a_capture_that_meet_one_gives_way() {
    let site = Site::start().await;
    let db = site.server.engine.db();
    site.create(|_| {}).await.unwrap();
    site.power("deallocate").await.unwrap();
    let disk = site.server.id("disks/os1");
    let found = disk_or_snapshot(site.cx(), &disk, "eastus").await.unwrap().found;
    assert!(!found.is_settled());
    let claims = found.references("/reader", "eastus");
    site.power("start").await.unwrap();
    site.power("deallocate").await.unwrap();
    // The machine ran in between: what was decided before is void.
    let late = db.write(Write { fence: None, changes: claims }).await;
    assert!(matches!(late, Err(WriteError::Conflict(Conflict::Etag { key })) if key == disk.key()));

    // The other way round: the start waits until the reader's operation has ended, however it ended.
    let found = disk_or_snapshot(site.cx(), &disk, "eastus").await.unwrap().found;
    let mut changes = found.references("/reader", "eastus");
    assert_eq!(changes, found.references("/reader", "eastus"), "a disk that is named twice is claimed once");
    changes.push(Change::StartOperation(NewOperation {
        id: "reading".into(),
        kind: "test.reader".into(),
        resource_key: "/reader".into(),
        subscription: site.server.group.subscription.clone(),
        location: "eastus".into(),
        params: Value::Null,
        state: Running,
        output: None,
    }));
    db.write(Write { fence: None, changes }).await.unwrap();
    let reply = site.server.engine.action(&site.server.call, &site.server.id(VM), "start", json!({})).await.unwrap();
    let ActionReply::Started { operation } = reply else { panic!("an operation was expected") };
    until("the start waits", async || {
        db.operation(&operation).await.unwrap().unwrap().phase.contains("until the disk has been read")
    })
    .await;
    let id = site.vm_id().await;
    assert!(!site.fake.is_running(id));
    until("the reader has ended", async || {
        let reading = db.operation("reading").await.unwrap().unwrap();
        let end =
            Change::EndOperation { id: reading.id.clone(), state: OperationState::Failed, output: None, error: None };
        db.write(Write { fence: Some((reading.id, reading.fence)), changes: vec![end] }).await.is_ok()
    })
    .await;
    site.server.end(&operation).await.unwrap();
    assert!(site.fake.is_running(id));
    // A machine that is being changed is no source.
    let mut row = db.resource(&site.server.id(VM).key()).await.unwrap().unwrap();
    let expect = Expect::Etag(row.etag.clone());
    row.provisioning_state = "Updating".into();
    db.write(Write { fence: None, changes: vec![Change::PutResource { resource: row, expect }] }).await.unwrap();
    let error = disk_or_snapshot(site.cx(), &disk, "eastus").await.unwrap_err();
    assert!(error.message.contains("in progress"), "{error}");
    let running = OperationQuery { state: Some(Running), ..OperationQuery::default() };
    assert!(db.operations(&running).await.unwrap().is_empty());
}
