//! What becomes of a machine that exists: disks that come and go, another size, redeploy and reapply (issue of VM life, MD-6).

use super::site::{Site, VM, nic};
use crate::call::ActionReply;
use lazuli_arm::ArmError;
use serde_json::{Value, json};

impl Site {
    pub(super) async fn patch(&self, patch: Value) -> Result<(), ArmError> {
        let written = self.server.engine.patch(&self.server.call, &self.server.id(VM), patch).await?;
        self.server.end(&written.operation.unwrap()).await.map(drop)
    }

    async fn blank_disk(&self, name: &str) -> Value {
        let body =
            json!({"location": "eastus", "properties": {"diskSizeGB": 1, "creationData": {"createOption": "Empty"}}});
        self.server.put(&format!("disks/{name}"), body).await.unwrap();
        json!({"id": self.server.id(&format!("disks/{name}")).to_string()})
    }

    async fn set_disks(&self, disks: Value) -> Result<(), ArmError> {
        self.patch(json!({"properties": {"storageProfile": {"dataDisks": disks}}})).await
    }

    async fn guest_disks(&self) -> Vec<String> {
        self.fake.disks(self.vm_id().await)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn data_disks_come_and_go_while_it_runs() {
    let site = Site::start().await;
    let server = &site.server;
    site.create(|_| {}).await.unwrap();
    let id = site.vm_id().await;
    let data = site.blank_disk("data").await;
    let attached = json!({"lun": 7, "createOption": "Attach", "managedDisk": data, "caching": "ReadOnly"});
    let made = json!({"lun": 9, "createOption": "Empty", "diskSizeGB": 2, "name": "made"});
    site.set_disks(json!([attached, made])).await.unwrap();
    assert_eq!(site.guest_disks().await, ["lun7", "lun9", "os"]);
    let shown = server.get(VM).await.unwrap()["properties"]["storageProfile"]["dataDisks"].clone();
    assert_eq!((&shown[0]["name"], &shown[0]["caching"]), (&json!("data"), &json!("ReadOnly")));
    assert_eq!(shown[1]["managedDisk"]["id"], json!(server.id("disks/made").to_string()));
    for disk in ["disks/data", "disks/made"] {
        assert_eq!(server.get(disk).await.unwrap()["managedBy"], json!(server.id(VM).to_string()));
        assert_eq!(site.state(disk).await, "Attached");
    }
    // The same body again: nothing to do. MD-6 and bad bodies.
    site.set_disks(shown.clone()).await.unwrap();
    let refused = async |disks: Value| site.set_disks(disks).await.unwrap_err().code;
    assert_eq!(
        refused(json!([shown[0], {"lun": 7, "createOption": "Empty", "diskSizeGB": 1}])).await,
        "InvalidParameter"
    );
    let mut moved = shown[0].clone();
    moved["lun"] = json!(8);
    assert_eq!(refused(json!([moved, shown[1]])).await, "PropertyChangeNotAllowed");
    let image = json!({"lun": 1, "createOption": "FromImage"});
    assert_eq!(refused(json!([shown[0], shown[1], image])).await, "InvalidParameter");
    let none = json!({"lun": 1, "createOption": "Attach", "managedDisk": {"id": server.id("disks/none").to_string()}});
    assert_eq!(refused(json!([shown[0], shown[1], none])).await, "NotFound");
    let twice = json!({"lun": 1, "createOption": "Attach", "managedDisk": {"id": server.id("disks/os1").to_string()}});
    assert_eq!(refused(json!([shown[0], shown[1], twice])).await, "AttachDiskWhileBeingDetached");

    // One goes: by leaving it out, the other by the flag.
    site.set_disks(json!([shown[1]])).await.unwrap();
    assert_eq!(site.guest_disks().await, ["lun9", "os"]);
    assert_eq!(site.state("disks/data").await, "Unattached");
    server.delete("disks/data").await.unwrap();
    let mut going = shown[1].clone();
    going["toBeDetached"] = json!(true);
    site.set_disks(json!([going])).await.unwrap();
    assert_eq!(site.guest_disks().await, ["os"]);
    assert!(site.fake.is_running(id));

    // Without a host's knowledge of it: with its next start.
    site.power("deallocate").await.unwrap();
    site.set_disks(json!([{"lun": 3, "createOption": "Attach",
        "managedDisk": {"id": server.id("disks/made").to_string()}}]))
        .await
        .unwrap();
    assert_eq!(site.state("disks/made").await, "Reserved");
    site.power("start").await.unwrap();
    assert_eq!(site.guest_disks().await, ["lun3", "os"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_size_takes_a_restart_and_room() {
    let site = Site::start().await;
    site.create(|_| {}).await.unwrap();
    let id = site.vm_id().await;
    let size = |name: &str| json!({"properties": {"hardwareProfile": {"vmSize": name}}});
    site.patch(size("standard_b2s")).await.unwrap();
    let spec = site.defined(id).unwrap();
    assert_eq!((spec.cpus, spec.memory_mib, spec.vm_size.as_str()), (2, 4096, "Standard_B2s"));
    assert!(site.fake.is_running(id));

    // Over-commit is refused; it runs on as it was.
    site.fake.limit_memory(5000);
    let error = site.patch(size("Standard_D4s_v5")).await.unwrap_err();
    assert_eq!(error.code, "AllocationFailed");
    let shown = site.server.get(VM).await.unwrap();
    assert_eq!(shown["properties"]["hardwareProfile"]["vmSize"], "Standard_B2s");
    assert_eq!(shown["properties"]["provisioningState"], "Failed");
    assert!(site.fake.is_running(id));
    assert_eq!(site.defined(id).unwrap().memory_mib, 4096);
    // Its model is what runs: reapplied, it is well again.
    site.power("reapply").await.unwrap();
    assert_eq!(site.server.get(VM).await.unwrap()["properties"]["provisioningState"], "Succeeded");
    assert_eq!(site.patch(size("Huge")).await.unwrap_err().code, "InvalidParameter");

    site.power("poweroff").await.unwrap();
    site.patch(size("Standard_B1s")).await.unwrap();
    assert!(!site.fake.is_running(id), "one that is off stays off");
    site.power("start").await.unwrap();
    assert_eq!(site.defined(id).unwrap().memory_mib, 1024);
}

#[tokio::test(flavor = "multi_thread")]
async fn redeployed_it_has_its_disks_and_what_is_not_offered_is_refused() {
    let site = Site::start().await;
    site.create(|_| {}).await.unwrap();
    let id = site.vm_id().await;
    site.power("redeploy").await.unwrap();
    assert!(site.fake.is_running(id));
    site.power("deallocate").await.unwrap();
    site.power("redeploy").await.unwrap();
    assert!(!site.fake.is_running(id));
    let error = site.power("reimage").await.unwrap_err();
    assert_eq!((error.status, error.code.as_str()), (409, "OperationNotAllowed"));
    assert_eq!(site.power("capture").await.unwrap_err().status, 400, "it needs parameters");
    let capture = json!({"vhdPrefix": "p", "destinationContainerName": "c", "overwriteVhds": true});
    let refused = async || site.server.action(VM, "capture", capture.clone()).await.unwrap_err().message;
    assert!(refused().await.contains("not generalized"));
    site.server.engine.action(&site.server.call, &site.server.id(VM), "generalize", json!({})).await.unwrap();
    assert!(
        refused().await.starts_with("The capture action is only supported on a Virtual Machine with blob based disks.")
    );
    let error = site.patch(json!({"extendedLocation": {"name": "edge", "type": "EdgeZone"}})).await.unwrap_err();
    assert_eq!(error.code, "OperationNotSupported", "{error}");
}

/// Swagger 2025-04-01, `VirtualMachines_AttachDetachDataDisks`.
#[tokio::test(flavor = "multi_thread")]
async fn disks_are_attached_and_detached_by_their_ids() {
    let site = Site::start().await;
    let server = &site.server;
    site.create(|_| {}).await.unwrap();
    let [a, b] = [site.blank_disk("a").await["id"].clone(), site.blank_disk("b").await["id"].clone()];
    let ask = async |body: Value| -> Result<(), ArmError> {
        let asked = server.engine.action(&server.call, &server.id(VM), "attachDetachDataDisks", body).await?;
        let ActionReply::Started { operation } = asked else { panic!("disks come and go by an operation") };
        server.end(&operation).await.map(drop)
    };
    ask(json!({"dataDisksToAttach": [{"diskId": a}, {"diskId": b, "lun": 5, "caching": "ReadOnly", "deleteOption": "Delete"}]}))
        .await
        .unwrap();
    assert_eq!(site.guest_disks().await, ["lun0", "lun5", "os"]);
    let shown = server.get(VM).await.unwrap()["properties"]["storageProfile"]["dataDisks"].clone();
    assert_eq!(
        (&shown[0]["name"], &shown[1]["caching"], &shown[1]["deleteOption"]),
        (&json!("a"), &json!("ReadOnly"), &json!("Delete"))
    );
    let refused = async |body: Value| ask(body).await.unwrap_err().code;
    assert_eq!(refused(json!({})).await, "InvalidParameter");
    assert_eq!(refused(json!({"dataDisksToAttach": [{"lun": 1}]})).await, "InvalidParameter");
    assert_eq!(
        refused(json!({"dataDisksToDetach": [{"diskId": server.id("disks/none").to_string()}]})).await,
        "InvalidParameter"
    );
    assert_eq!(
        refused(json!({"dataDisksToDetach": [{"diskId": a, "detachOption": "ForceDetach"}]})).await,
        "OperationNotSupported"
    );
    assert_eq!(refused(json!({"dataDisksToAttach": [{"diskId": a, "lun": 9}]})).await, "InvalidParameter");
    // One for another, in one request.
    let c = site.blank_disk("c").await["id"].clone();
    assert_eq!(refused(json!({"dataDisksToAttach": [{"diskId": c, "lun": 5}]})).await, "InvalidParameter");
    ask(json!({"dataDisksToAttach": [{"diskId": c}], "dataDisksToDetach": [{"diskId": a}]})).await.unwrap();
    assert_eq!(site.guest_disks().await, ["lun1", "lun5", "os"]);
    assert_eq!(site.state("disks/a").await, "Unattached");
    assert_eq!(site.state("disks/c").await, "Attached");
}

/// `az vm nic add|remove|set`.
#[tokio::test(flavor = "multi_thread")]
async fn interfaces_change_while_it_is_deallocated() {
    let site = Site::start().await;
    let server = &site.server;
    site.create(|_| {}).await.unwrap();
    nic(server, "n2", json!({})).await.unwrap();
    let id = |name: &str| server.id(&format!("networkInterfaces/{name}")).to_string();
    let entry = |name: &str, primary: bool| json!({"id": id(name), "properties": {"primary": primary}});
    let set =
        async |nics: Value| site.patch(json!({"properties": {"networkProfile": {"networkInterfaces": nics}}})).await;
    let both = json!([entry("n1", true), entry("n2", false)]);
    let error = set(both.clone()).await.unwrap_err();
    assert_eq!(error.code, "AddingOrDeletingNetworkInterfacesOnARunningVirtualMachineNotSupported");
    assert!(error.message.contains("must be stop-deallocated before it can be updated to have multiple"), "{error}");

    let interfaces = async || {
        site.power("start").await.unwrap();
        let nics = site.defined(site.vm_id().await).unwrap().nics;
        site.power("deallocate").await.unwrap();
        nics.into_iter().map(|n| n.mac.to_string()).collect::<Vec<_>>()
    };
    let mac = async |name: &str| {
        server.get(&format!("networkInterfaces/{name}")).await.unwrap()["properties"]["macAddress"].clone()
    };
    let (first, second) = (mac("n1").await, mac("n2").await);
    site.power("deallocate").await.unwrap();
    set(both).await.unwrap();
    assert_eq!(json!(interfaces().await), json!([first, second]));
    let owner = server.get("networkInterfaces/n2").await.unwrap()["properties"]["virtualMachine"]["id"].clone();
    assert_eq!(owner, json!(server.id(VM).to_string()));
    // The other one first; one that goes is free at once.
    set(json!([entry("n1", false), entry("n2", true)])).await.unwrap();
    assert_eq!(json!(interfaces().await), json!([second, first]));
    set(json!([entry("n2", true)])).await.unwrap();
    assert_eq!(json!(interfaces().await), json!([second]));
    server.delete("networkInterfaces/n1").await.unwrap();
    assert_eq!(set(json!([])).await.unwrap_err().code, "InvalidParameter");
    assert_eq!(set(json!([entry("n2", true), entry("n2", false)])).await.unwrap_err().code, "InvalidParameter");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_runs_in_the_guest_once() {
    let site = Site::start().await;
    let server = &site.server;
    site.create(|_| {}).await.unwrap();
    let run = async |script: &str| {
        let parameters = json!([{"name": "a", "value": "1"}, {"name": "b", "value": "2 3"}]);
        let request = json!({"commandId": "RunShellScript", "script": [script], "parameters": parameters});
        let reply = server.engine.action(&server.call, &server.id(VM), "runCommand", request).await?;
        let ActionReply::Started { operation } = reply else { panic!("an operation was expected") };
        Ok::<_, ArmError>((server.end(&operation).await?.output.unwrap(), operation))
    };
    let (output, operation) = run("echo a-secret").await.unwrap();
    let message = output["value"][0]["message"].as_str().unwrap();
    assert!(message.starts_with("Enable succeeded: \n[stdout]\n-c,"), "{message}");
    assert!(message.contains("run-command,1,2 3|echo a-secret\n\n[stderr]\n"), "{message}");
    let kept = server.engine.db().operation(&operation).await.unwrap().unwrap();
    assert!(!kept.params.to_string().contains("a-secret"), "scripts are sealed");
    let (output, _) = run("exit 3").await.unwrap();
    assert!(output["value"][0]["message"].as_str().unwrap().contains("exit status=3"));
    assert_eq!(server.get(VM).await.unwrap()["properties"]["provisioningState"], "Succeeded");

    site.fake.stop_agent(site.vm_id().await);
    assert_eq!(run("true").await.unwrap_err().code, "VMAgentStatusCommunicationError");
    assert_eq!(server.get(VM).await.unwrap()["properties"]["provisioningState"], "Succeeded");
    site.power("poweroff").await.unwrap();
    let not_running = "Cannot modify extensions in the VM when the VM is not running.";
    assert_eq!(run("true").await.unwrap_err().message, not_running);
    site.power("deallocate").await.unwrap();
    assert_eq!(run("true").await.unwrap_err().message, not_running);
    let error = server.put(&format!("{VM}/runCommands/x"), json!({"location": "eastus"})).await.unwrap_err();
    assert_eq!(error.code, "OperationNotSupported", "{error}");
}
