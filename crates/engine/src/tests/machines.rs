//! Machines from images and disks, with a host process that runs fake guests.

use super::site::{CUSTOM_DATA, PASSWORD, Site, VERSION, VM, link, nic, nic_body, rule, until};
use super::{definition, disk_bytes};
use crate::reconcilers;
use lazuli_arm::ResourceId;
use lazuli_authz::rbac::CONTRIBUTOR;
use lazuli_meta::model::{OperationState, Principal, RoleAssignment};
use lazuli_vmm::hypervisor::Behaviour;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::time::Duration;

const RUNNING: [&str; 2] = ["ProvisioningState/succeeded", "PowerState/running"];

fn image(body: &mut Value, id: &str) {
    body["properties"]["storageProfile"]["imageReference"]["id"] = json!(id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_from_a_version_runs_on_a_disk_of_its_own() {
    let site = Site::start().await;
    let server = &site.server;
    let vm = site.create(|_| {}).await.unwrap();
    assert_eq!(vm["properties"]["provisioningState"], "Succeeded");
    assert_eq!(
        vm["properties"]["storageProfile"]["osDisk"]["managedDisk"]["id"],
        json!(server.id("disks/os1").to_string())
    );
    assert_eq!(vm["properties"]["storageProfile"]["osDisk"]["osType"], "Linux");
    assert_eq!(site.codes().await, RUNNING);
    let id = site.vm_id().await;
    assert_eq!(vm["properties"]["vmId"], json!(id));
    assert!(site.fake.is_running(id));

    let disk = server.get("disks/os1").await.unwrap();
    assert_eq!(disk["managedBy"], json!(server.id(VM).to_string()));
    assert_eq!(disk["properties"]["diskState"], "Attached");
    assert_eq!(disk["properties"]["hyperVGeneration"], "V2");
    let interface = server.get("networkInterfaces/n1").await.unwrap();
    assert_eq!(interface["properties"]["virtualMachine"]["id"], json!(server.id(VM).to_string()));
    for tail in ["disks/os1", "networkInterfaces/n1"] {
        server.delete(tail).await.expect_err("it is in use");
    }
    // Tags of what is attached may change, ties may not get lost by that.
    let tags = json!({"tags": {"a": "b"}});
    for tail in ["disks/os1", "networkInterfaces/n1", VM] {
        let written = server.engine.patch(&server.call, &server.id(tail), tags.clone()).await.unwrap();
        server.end(&written.operation.unwrap()).await.unwrap();
        assert_eq!(server.get(tail).await.unwrap()["tags"]["a"], "b");
    }
    assert_eq!(server.get("disks/os1").await.unwrap()["managedBy"], disk["managedBy"]);
    assert_eq!(
        server.get("networkInterfaces/n1").await.unwrap()["properties"]["virtualMachine"],
        interface["properties"]["virtualMachine"]
    );

    // MD-9: the disk keeps the bytes when the version goes, and frees them when it goes itself.
    let manifest = server.internal("disks/os1").await["base"]["manifest"].as_str().unwrap().to_owned();
    let before = server.stored_bytes("eastus").await;
    server.delete(VERSION).await.unwrap();
    server.delete("disks/d1").await.unwrap();
    assert_eq!(server.stored("eastus", &manifest).await, disk_bytes(1));
    server.delete(VM).await.unwrap();
    assert!(!site.fake.is_running(id) && site.defined(id).is_none());
    assert_eq!(site.state("disks/os1").await, "Unattached");
    assert!(server.get("disks/os1").await.unwrap().get("managedBy").is_none());
    server.delete("disks/os1").await.unwrap();
    server.delete("networkInterfaces/n1").await.unwrap();
    assert!(server.stored_bytes("eastus").await < before / 10);
    assert_eq!(std::fs::read_dir(server.dir.path().join("disks")).unwrap().count(), 0, "the overlay is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_never_shown_nor_kept() {
    let site = Site::start().await;
    let written = site.begin(|_| {}).await;
    let operation = written.operation.unwrap();
    site.server.end(&operation).await.unwrap();
    let db = site.server.engine.db();
    let row = db.resource(&site.server.id(VM).key()).await.unwrap().unwrap();
    let texts = [
        ("answer", written.resource.to_string()),
        ("get", site.server.get(VM).await.unwrap().to_string()),
        ("body", row.body.to_string()),
        ("internal", row.internal.to_string()),
        ("steps", json!(db.steps(&operation).await.unwrap()).to_string()),
        ("operation", format!("{:?}", db.operation(&operation).await.unwrap())),
    ];
    for (what, text) in texts {
        assert!(!text.contains(PASSWORD) && !text.contains(CUSTOM_DATA), "{what}: {text}");
    }
    assert!(texts_have_the_guest_been_told(&site).await);
}

/// The guest itself was given them: otherwise hiding them proves nothing.
async fn texts_have_the_guest_been_told(site: &Site) -> bool {
    let provisioning = site.defined(site.vm_id().await).unwrap().provisioning.unwrap();
    provisioning.admin_password.as_deref() == Some(PASSWORD) && provisioning.custom_data.as_deref() == Some(CUSTOM_DATA)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_made_is_refused_and_leaves_nothing() {
    let site = Site::start().await;
    let code = async |change: &dyn Fn(&mut Value)| site.create(change).await.unwrap_err().code;
    assert_eq!(
        code(&|b| drop(b["properties"].as_object_mut().unwrap().remove("osProfile"))).await,
        "InvalidParameter",
        "a generalized image needs an osProfile"
    );
    assert_eq!(code(&|b| b["location"] = json!("northeurope")).await, "GalleryImageNotFound");
    let other = site.server.id("galleries/g/images/i/versions/9.9.9").to_string();
    assert_eq!(code(&|b| image(b, &other)).await, "GalleryImageNotFound");
    let none = json!([{"id": site.server.id("networkInterfaces/none").to_string()}]);
    assert_eq!(code(&|b| b["properties"]["networkProfile"]["networkInterfaces"] = none.clone()).await, "NotFound");
    let disk = json!([{"id": site.server.id("disks/d1").to_string()}]);
    assert_eq!(
        code(&|b| b["properties"]["networkProfile"]["networkInterfaces"] = disk.clone()).await,
        "InvalidParameter"
    );
    let n1 = link(&site.server, "networkInterfaces/n1");
    let twice = json!([n1, n1]);
    assert_eq!(
        code(&|b| b["properties"]["networkProfile"]["networkInterfaces"] = twice.clone()).await,
        "InvalidParameter"
    );
    assert_eq!(
        code(&|b| b["properties"]["storageProfile"]["osDisk"]["name"] = json!("d1")).await,
        "ConflictingUserInput"
    );
    assert_eq!(code(&|b| b["properties"]["hardwareProfile"]["vmSize"] = json!("Huge")).await, "InvalidParameter");

    // What is elsewhere, and what another generation has.
    let server = &site.server;
    let west =
        json!({"location": "westus", "properties": {"creationData": {"createOption": "Empty"}, "diskSizeGB": 1}});
    server.put("disks/west", west).await.unwrap();
    let attached = json!([{"lun": 0, "createOption": "Attach", "managedDisk": link(server, "disks/west")}]);
    let error = site.create(|b| b["properties"]["storageProfile"]["dataDisks"] = attached).await.unwrap_err();
    assert!(error.message.contains("is in location 'westus'"), "{error}");
    let error = site.create(|b| b["location"] = json!("westus")).await.unwrap_err();
    assert_eq!(error.code, "InvalidResourceReference", "its interface is in East US: {error}");
    let launch =
        json!({"securityType": "TrustedLaunch", "uefiSettings": {"secureBootEnabled": true, "vTpmEnabled": true}});
    let error = site.create(|b| b["properties"]["securityProfile"] = launch).await.unwrap_err();
    assert!(error.message.contains("Please select Trusted Launch Supported Gen2 OS Image"), "{error}");
    assert_eq!(site.state("disks/west").await, "Unattached");
    let mut arm = definition("arm");
    arm["properties"]["architecture"] = json!("Arm64");
    arm["properties"]["hyperVGeneration"] = json!("V2");
    server.put("galleries/g/images/arm", arm).await.unwrap();
    let version = json!({"location": "eastus", "properties": {
        "storageProfile": {"osDiskImage": {"source": {"id": server.id("disks/d2").to_string()}}}}});
    let disk = json!({"location": "eastus", "properties": {"osType": "Linux", "hyperVGeneration": "V2",
        "supportedCapabilities": {"architecture": "Arm64"},
        "creationData": {"createOption": "Copy", "sourceResourceId": server.id("disks/d1").to_string()}}});
    server.put("disks/d2", disk).await.unwrap();
    server.put("galleries/g/images/arm/versions/1.0.0", version).await.unwrap();
    let of_arm = server.id("galleries/g/images/arm/versions/1.0.0").to_string();
    let error = site.create(|b| image(b, &of_arm)).await.unwrap_err();
    assert!(error.message.contains("an image or disk with CPU Architecture 'Arm64' was given"), "{error}");
    let error = site
        .create(|b| {
            b["properties"]["storageProfile"] = json!({"osDisk": {"createOption": "Attach", "osType": "Linux",
                "managedDisk": link(server, "disks/d2")}});
            b["properties"].as_object_mut().unwrap().remove("osProfile");
        })
        .await
        .unwrap_err();
    assert!(error.message.contains("Arm64"), "{error}");

    let mut specialized = site.specialized().await;
    let error = site.server.put(VM, specialized.clone()).await.unwrap_err();
    assert_eq!(
        (error.code.as_str(), error.message.as_str()),
        ("InvalidParameter", "Parameter 'osProfile' is not allowed.")
    );
    assert_eq!(site.server.get(VM).await.unwrap_err().status, 404);
    assert!(site.server.get("networkInterfaces/n1").await.unwrap()["properties"].get("virtualMachine").is_none());

    // GS-8: a specialized machine is just switched on.
    specialized["properties"].as_object_mut().unwrap().remove("osProfile");
    site.fake.behave("vm1", Behaviour::Silent);
    site.server.put(VM, specialized).await.unwrap();
    assert_eq!(site.codes().await, RUNNING);
    assert!(site.defined(site.vm_id().await).unwrap().provisioning.is_none());
    // An interface and a disk belong to one machine.
    let body = site.body(|b| b["properties"]["storageProfile"]["osDisk"]["name"] = json!("os2"));
    assert_eq!(site.server.put("virtualMachines/vm2", body).await.unwrap_err().code, "NicInUse");
}

#[tokio::test(flavor = "multi_thread")]
async fn latest_is_the_numerically_newest_that_is_not_excluded() {
    let site = Site::start().await;
    let east = || json!([{"name": "eastus"}]);
    for name in ["1.9.0", "1.10.0"] {
        site.version(name, east()).await;
    }
    site.version("2.0.0", json!([{"name": "eastus", "excludeFromLatest": true}])).await;
    let server = &site.server;
    let body = json!({"location": "eastus", "properties": {
        "publishingProfile": {"targetRegions": east(), "excludeFromLatest": true},
        "storageProfile": {"osDiskImage": {"source": {"id": server.id("disks/d1").to_string()}}}}});
    server.put("galleries/g/images/i/versions/3.0.0", body).await.unwrap();
    for (n, reference) in ["galleries/g/images/i", "galleries/g/images/i/versions/latest"].iter().enumerate() {
        let id = server.id(reference).to_string();
        nic(server, &format!("m{n}"), json!({})).await.unwrap();
        let body = site.body(|b| {
            image(b, &id);
            b["properties"]["storageProfile"]["osDisk"]["name"] = json!(format!("osm{n}"));
            b["properties"]["networkProfile"]["networkInterfaces"] =
                json!([link(server, &format!("networkInterfaces/m{n}"))]);
        });
        let vm = server.put(&format!("virtualMachines/m{n}"), body).await.unwrap();
        let shown = &vm["properties"]["storageProfile"]["imageReference"];
        assert_eq!((&shown["id"], &shown["exactVersion"]), (&json!(id), &json!("1.10.0")));
        let disk = server.get(&format!("disks/osm{n}")).await.unwrap();
        let source = disk["properties"]["creationData"]["galleryImageReference"]["id"].as_str().unwrap();
        assert!(source.ends_with("/versions/1.10.0"), "{source}");
    }
    // No version at all.
    server.put("galleries/g/images/empty", definition("sku3")).await.unwrap();
    let error = site.create(|b| image(b, &server.id("galleries/g/images/empty").to_string())).await.unwrap_err();
    assert_eq!((error.status, error.code.as_str()), (404, "GalleryImageNotFound"));
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_say_what_the_guest_said() {
    let site = Site::configured(|c| c.provisioning_time = Duration::from_secs(1)).await;
    let boot = Duration::ZERO;
    let cases = [
        (Behaviour::FailsProvisioning { boot, description: "no user".into() }, "OSProvisioningClientError", "no user"),
        (Behaviour::Crashes { boot }, "VMStartTimedOut", "fake guest: booting"),
        (Behaviour::Silent, "OSProvisioningTimedOut", "fake guest: booting"),
        (Behaviour::DoesNotStart { reason: "no firmware at /x".into() }, "InternalExecutionError", "see its log"),
    ];
    for (behaviour, code, text) in cases {
        site.fake.behave("vm1", behaviour);
        let error = site.create(|_| {}).await.unwrap_err();
        assert_eq!(error.code, code);
        assert!(error.message.contains(text) && !error.message.contains("/x"), "{error}");
        assert_eq!(site.server.get(VM).await.unwrap()["properties"]["provisioningState"], "Failed");
        assert_eq!(site.codes().await[0], "ProvisioningState/failed");
        // A failed machine is no success after a change of its tags: its PUT tries again, and fails again.
        let again = site.server.put(VM, site.body(|b| b["tags"] = json!({"a": "b"}))).await.unwrap_err();
        assert_eq!(again.code, code);
        assert_eq!(site.server.get(VM).await.unwrap()["properties"]["provisioningState"], "Failed");
        let id = site.vm_id().await;
        site.server.delete(VM).await.unwrap();
        assert!(!site.fake.is_running(id) && site.defined(id).is_none());
        site.server.delete("disks/os1").await.unwrap();
    }
    // Nothing of it sticks.
    site.fake.behave("vm1", Behaviour::default());
    site.create(|_| {}).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_shuts_down_before_it_is_ready_failed() {
    let site = Site::start().await;
    site.fake.behave("vm1", Behaviour::Silent);
    let operation = site.begin(|_| {}).await.operation.unwrap();
    let id = site.running().await;
    site.fake.guest_shuts_down(id);
    let error = site.server.end(&operation).await.unwrap_err();
    assert_eq!(error.code, "OSProvisioningInternalError");
    assert!(error.message.contains("fake guest: booting"), "{error}");
    assert_eq!(site.codes().await, ["ProvisioningState/failed", "PowerState/stopped"]);
    // Started again, it is waited for again: it must report what it did not.
    site.fake.behave("vm1", Behaviour::default());
    site.power("start").await.unwrap();
    assert_eq!(site.codes().await, RUNNING);
    let internal = site.server.internal(VM).await;
    assert_eq!((&internal["created"], &internal["adminPassword"]), (&json!(true), &Value::Null));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_memory_the_allocation_fails_until_there_is_some() {
    let site = Site::start().await;
    site.fake.limit_memory(512);
    let error = site.create(|_| {}).await.unwrap_err();
    assert_eq!(error.code, "AllocationFailed");
    assert!(error.message.contains("1024 MiB"), "{error}");
    assert_eq!(site.codes().await, ["ProvisioningState/failed", "PowerState/stopped"]);
    site.power("start").await.unwrap_err();
    site.fake.limit_memory(4096);
    site.power("start").await.unwrap();
    assert_eq!(site.codes().await, RUNNING);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_can_be_deleted_while_it_is_made() {
    let site = Site::start().await;
    site.fake.behave("vm1", Behaviour::Silent);
    let operation = site.begin(|b| {
        b["properties"]["storageProfile"]["osDisk"]["deleteOption"] = json!("Delete");
    });
    let operation = operation.await.operation.unwrap();
    let id = site.running().await;
    let busy = site.create(|_| {}).await.unwrap_err();
    assert_eq!(busy.code, "AnotherOperationInProgress");
    site.server.delete(VM).await.unwrap();
    assert_eq!(site.server.end(&operation).await.unwrap_err().code, "OperationPreempted");
    assert!(!site.fake.is_running(id) && site.defined(id).is_none());
    until("the disk is gone", async || site.server.get("disks/os1").await.is_err()).await;
    site.server.delete("networkInterfaces/n1").await.unwrap();
    assert_eq!(site.server.get(VM).await.unwrap_err().status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn disks_and_interfaces_go_along_if_that_was_asked_for() {
    let site = Site::start().await;
    let server = &site.server;
    for name in ["data0", "data1"] {
        let body =
            json!({"location": "eastus", "properties": {"diskSizeGB": 1, "creationData": {"createOption": "Empty"}}});
        server.put(&format!("disks/{name}"), body).await.unwrap();
    }
    let data = |lun: u8, name: &str, option: &str| json!({"lun": lun, "createOption": "Attach", "deleteOption": option, "managedDisk": link(server, &format!("disks/{name}"))});
    let n1 = json!({"id": link(server, "networkInterfaces/n1")["id"], "properties": {"deleteOption": "Delete"}});
    site.create(|b| {
        b["properties"]["storageProfile"]["osDisk"]["deleteOption"] = json!("Delete");
        b["properties"]["storageProfile"]["dataDisks"] =
            json!([data(0, "data0", "Delete"), data(3, "data1", "Detach")]);
        b["properties"]["networkProfile"]["networkInterfaces"] = json!([n1]);
    })
    .await
    .unwrap();
    let spec = site.defined(site.vm_id().await).unwrap();
    assert_eq!(spec.data_disks.iter().map(|d| d.lun).collect::<Vec<_>>(), [Some(0), Some(3)]);
    server.delete(VM).await.unwrap();
    for tail in ["disks/os1", "disks/data0", "networkInterfaces/n1"] {
        until(tail, async || server.get(tail).await.is_err()).await;
    }
    assert_eq!(site.state("disks/data1").await, "Unattached");
    server.delete("disks/data1").await.unwrap();
    server.delete("virtualNetworks/v").await.unwrap();
    assert_eq!(std::fs::read_dir(server.dir.path().join("disks")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attached_disk_has_one_machine_and_no_os_profile() {
    let site = Site::start().await;
    let server = &site.server;
    let attach = |profile: bool| {
        site.body(|b| {
            let properties = &mut b["properties"];
            properties["storageProfile"] = json!({"osDisk": {"createOption": "Attach", "osType": "Linux",
                "managedDisk": link(server, "disks/d1")}});
            if !profile {
                properties.as_object_mut().unwrap().remove("osProfile");
            }
        })
    };
    // MD-7
    let error = server.put(VM, attach(true)).await.unwrap_err();
    assert_eq!(error.message, "Parameter 'osProfile' is not allowed.");
    // A disk that somebody reads is not attached.
    server.begin_access("disks/d1", "Read").await.unwrap();
    assert_eq!(server.put(VM, attach(false)).await.unwrap_err().code, "OperationNotAllowed");
    server.action("disks/d1", "endGetAccess", json!({})).await.unwrap();
    site.fake.behave("vm1", Behaviour::Silent);
    server.put(VM, attach(false)).await.unwrap();
    assert_eq!(site.codes().await, RUNNING);
    assert_eq!(site.state("disks/d1").await, "Attached");
    // MD-6
    nic(server, "n2", json!({})).await.unwrap();
    let mut second = attach(false);
    second["properties"]["networkProfile"]["networkInterfaces"] = json!([link(server, "networkInterfaces/n2")]);
    let error = server.put("virtualMachines/vm2", second.clone()).await.unwrap_err();
    assert_eq!(error.code, "AttachDiskWhileBeingDetached");
    assert!(error.message.contains("virtualMachines/vm1"), "{error}");
    server.delete(VM).await.unwrap();
    server.put("virtualMachines/vm2", second).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn off_and_on_again() {
    let site = Site::start().await;
    let server = &site.server;
    site.create(|_| {}).await.unwrap();
    let id = site.vm_id().await;
    let first = site.defined(id).unwrap();
    assert!(first.provisioning.is_some());

    site.power("powerOff").await.unwrap();
    assert_eq!(site.codes().await, ["ProvisioningState/succeeded", "PowerState/stopped"]);
    assert!(!site.fake.is_running(id));
    assert_eq!(site.state("disks/os1").await, "Attached");
    site.power("start").await.unwrap();
    assert_eq!(site.codes().await, RUNNING);
    site.power("restart").await.unwrap();
    assert_eq!(site.codes().await, RUNNING);

    site.power("deallocate").await.unwrap();
    assert_eq!(site.codes().await, ["ProvisioningState/succeeded", "PowerState/deallocated"]);
    assert!(site.defined(id).is_none(), "the host holds nothing of it");
    assert_eq!(site.state("disks/os1").await, "Reserved");
    let os = server.get(VM).await.unwrap()["properties"]["storageProfile"]["osDisk"].clone();
    assert_eq!((os.get("diskSizeGB"), os["managedDisk"].get("storageAccountType")), (None, None), "recorded: {os}");
    assert!(os["managedDisk"]["id"].is_string());
    site.power("deallocate").await.expect("it is so already");
    site.power("powerOff").await.expect("it is off already");
    assert_eq!(site.codes().await[1], "PowerState/deallocated");

    // Its disk is provisioned: the guest does not report again, no medium is put in, nobody waits.
    site.fake.behave("vm1", Behaviour::Silent);
    site.power("start").await.unwrap();
    assert_eq!(site.codes().await, RUNNING);
    let second = site.defined(id).unwrap();
    assert_eq!(second.provisioning, None);
    assert_eq!((second.os_disk, second.nics), (first.os_disk, first.nics));
    assert_eq!(site.state("disks/os1").await, "Attached");
    assert_eq!(server.action(VM, "dance", json!({})).await.unwrap_err().code, "InvalidResourceAction");
    server.delete(VM).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_process_ends_what_the_old_one_began() {
    let site = Site::start().await;
    site.fake.behave("vm1", Behaviour::Ready { boot: Duration::from_secs(4) });
    let operation = site.begin(|_| {}).await.operation.unwrap();
    site.running().await;
    let site = site.restart_server().await;
    site.server.end(&operation).await.unwrap();
    let ended = site.server.engine.db().operation(&operation).await.unwrap().unwrap();
    assert!(ended.fence > 1, "it was taken up again");
    assert_eq!(site.codes().await, RUNNING);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_away_for_a_while_is_waited_for() {
    let mut site = Site::start().await;
    site.stop_host().await;
    site.fake.behave("vm1", Behaviour::Silent);
    let operation = site.begin(|_| {}).await.operation.unwrap();
    assert_eq!(site.codes().await, ["ProvisioningState/creating", "HostState/unreachable"]);
    site.start_host().await;
    let id = site.running().await;
    until("the engine waits for the guest", async || {
        let op = site.server.engine.db().operation(&operation).await.unwrap().unwrap();
        op.phase.starts_with("waiting")
    })
    .await;
    // The next host adopts the guest; what happens to it then is noticed.
    site.stop_host().await;
    site.start_host().await;
    let state = site.server.engine.db().operation(&operation).await.unwrap().unwrap().state;
    assert_eq!(state, OperationState::Running);
    site.fake.guest_shuts_down(id);
    assert_eq!(site.server.end(&operation).await.unwrap_err().code, "OSProvisioningInternalError");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_stays_away_is_said() {
    let mut site = Site::configured(|c| c.host_time = Duration::from_millis(100)).await;
    site.stop_host().await;
    let error = site.create(|_| {}).await.unwrap_err();
    assert_eq!(error.code, "HostUnavailable");
    assert_eq!(site.server.delete(VM).await.unwrap_err().code, "HostUnavailable");
    site.start_host().await;
    site.server.delete(VM).await.unwrap();
    site.server.delete("disks/os1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_is_in_its_availability_set() {
    const SET: &str = "availabilitySets/set1";
    let site = Site::start().await;
    let server = &site.server;
    let set = json!({"id": server.id(SET).to_string()});
    let refused = async || site.create(|b| b["properties"]["availabilitySet"] = set.clone()).await.unwrap_err();
    let put = async |sku: &str| {
        let body = json!({"location": "eastus", "sku": {"name": sku}, "properties": {"platformFaultDomainCount": 2}});
        server.put(SET, body).await.unwrap();
    };
    assert!(refused().await.message.contains("is not found in the location of the VM"));
    put("Classic").await;
    assert!(refused().await.message.starts_with("Addition of a VM with managed disks to non-managed Availability Set"));
    put("Aligned").await;
    let machine = site.create(|b| b["properties"]["availabilitySet"] = set.clone()).await.unwrap();
    assert_eq!(machine["properties"]["availabilitySet"], set);
    let shown = server.get(SET).await.unwrap();
    assert_eq!(shown["properties"]["virtualMachines"], json!([{"id": machine["id"]}]));
    let error = server.delete(SET).await.unwrap_err();
    assert_eq!((error.status, error.code.as_str()), (409, "OperationNotAllowed"), "{error}");
    server.delete(VM).await.unwrap();
    assert_eq!(server.get(SET).await.unwrap()["properties"]["virtualMachines"], json!([]));
    server.delete(SET).await.unwrap();
    assert_eq!(server.get(SET).await.unwrap_err().status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_network_rules_reach_the_host() {
    let site = Site::start().await;
    let server = &site.server;
    server.put("publicIPAddresses/p1", json!({"location": "eastus", "sku": {"name": "Standard"}})).await.unwrap();
    server.put("networkSecurityGroups/g1", json!({"location": "eastus"})).await.unwrap();
    let more = json!({"publicIPAddress": link(server, "publicIPAddresses/p1"),
        "networkSecurityGroup": link(server, "networkSecurityGroups/g1")});
    nic(server, "n1", more).await.unwrap();
    site.create(|_| {}).await.unwrap();
    let id = site.vm_id().await;
    let ports = || {
        let public = site.defined(id).unwrap().nics[0].public.clone().unwrap();
        public.ports.iter().map(|p| p.port).collect::<Vec<u16>>()
    };
    assert_eq!(ports(), [0; 0]);
    server.put("networkSecurityGroups/g1/securityRules/web", rule(300, "Allow", "18080")).await.unwrap();
    until("the port is open", async || ports() == [18080]).await;
    server.delete("networkSecurityGroups/g1/securityRules/web").await.unwrap();
    until("the port is closed", async || ports().is_empty()).await;

    // One that is told of everything is not told again.
    let mut told = HashMap::new();
    let reconcile = reconcilers::network::reconcile;
    assert_eq!(reconcile(&server.engine, &mut told).await.unwrap(), 1);
    assert_eq!(reconcile(&server.engine, &mut told).await.unwrap(), 0);
    site.power("deallocate").await.unwrap();
    assert_eq!(reconcile(&server.engine, &mut told).await.unwrap(), 0);
    assert!(told.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_ties_to_what_they_have_no_right_on() {
    let site = Site::start().await;
    let server = &site.server;
    let (owner, db) = (&server.call, server.engine.db());
    let elsewhere = |id: &str| id.replace("/resourceGroups/rg1", "/resourceGroups/rg2").parse::<ResourceId>().unwrap();
    let group = elsewhere(&server.group.to_string());
    server.engine.put(owner, &group, json!({"location": "eastus"})).await.unwrap();
    let other = Principal {
        id: "other".into(),
        tenant: owner.caller.tenant.clone(),
        app_id: "app".into(),
        display_name: "other".into(),
        kind: "ServicePrincipal".into(),
        secret_hash: String::new(),
        login: String::new(),
        body: json!({}),
    };
    db.put_principal(&other).await.unwrap();
    let contributor = |scope: &ResourceId| RoleAssignment {
        id: scope.name().to_owned(),
        scope: scope.key(),
        role: CONTRIBUTOR.into(),
        principal: other.id.clone(),
        body: json!({}),
    };
    db.put_role_assignment(&contributor(&group)).await.unwrap();
    let mut call = owner.clone();
    call.caller.principal = other.id.clone();
    let put = async |tail: &str, body: Value| {
        server.engine.put(&call, &elsewhere(&server.id(tail).to_string()), body).await.map_err(|e| (e.status, e.code))
    };
    let refused = Some((403, "LinkedAuthorizationFailed".to_owned()));
    assert_eq!(put("networkInterfaces/n9", nic_body(server, json!({}))).await.err(), refused, "a subnet");
    let vm = site.body(|b| {
        b["properties"]["storageProfile"] =
            json!({"osDisk": {"createOption": "Attach", "osType": "Linux", "managedDisk": link(server, "disks/d1")}});
        b["properties"].as_object_mut().unwrap().remove("osProfile");
    });
    assert_eq!(put(VM, vm.clone()).await.err(), refused, "a disk");
    db.put_role_assignment(&contributor(&server.id("disks/d1"))).await.unwrap();
    assert_eq!(put(VM, vm.clone()).await.err(), refused, "an interface");
    db.put_role_assignment(&contributor(&server.id("networkInterfaces/n1"))).await.unwrap();
    let mut with_application = vm;
    let application = server.id("galleries/g/applications/a/versions/1.0.0").to_string();
    with_application["properties"]["applicationProfile"] =
        json!({"galleryApplications": [{"packageReferenceId": application}]});
    assert_eq!(put(VM, with_application).await.err(), refused, "an application");
    let unreadable = put(VM, site.body(|_| {})).await.err();
    assert_eq!(unreadable, Some((403, "LinkedAuthorizationFailed".to_owned())), "an image");

    db.put_role_assignment(&contributor(&server.group)).await.unwrap();
    put("networkInterfaces/n9", nic_body(server, json!({}))).await.unwrap();
}
