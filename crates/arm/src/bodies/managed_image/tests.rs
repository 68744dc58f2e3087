use super::super::testing::{context, id, version};
use super::*;

const DISK: &str = "/subscriptions/0000/resourceGroups/rg1/providers/Microsoft.Compute/disks/d1";
const SNAPSHOT: &str = "/subscriptions/0000/resourceGroups/rg1/providers/Microsoft.Compute/snapshots/s1";
const MACHINE: &str = "/subscriptions/0000/resourceGroups/rg1/providers/Microsoft.Compute/virtualMachines/vm1";

fn made(location: &str, properties: Value) -> Result<Value, ArmError> {
    let api = version("2024-07-01");
    put(&id("images/i1"), &json!({"location": location, "properties": properties}), None, &context(&api))
}

fn of_disks() -> Value {
    json!({"hyperVGeneration": "V1", "storageProfile": {
        "dataDisks": [{"lun": 0, "snapshot": {"id": SNAPSHOT}}, {"lun": "2", "caching": "readonly", "blobUri": "https://a/b/c"}],
        "osDisk": {"osState": "generalized", "osType": "linux", "managedDisk": {"id": DISK}}}})
}

fn updated(old: &Value, change: Value) -> Result<Value, ArmError> {
    let api = version("2024-07-01");
    patch(&id("images/i1"), &change, old, &context(&api))
}

/// The shape of the recording test_vm_managed_disk.
#[test]
fn a_profile_gets_its_defaults() {
    let body = made("West US", of_disks()).unwrap();
    assert_eq!(
        body,
        json!({"location": "westus", "properties": {
            "storageProfile": {
                "osDisk": {"osType": "Linux", "osState": "Generalized", "managedDisk": {"id": DISK}, "caching": "None",
                           "storageAccountType": "Standard_LRS"},
                "dataDisks": [
                    {"lun": 0, "snapshot": {"id": SNAPSHOT}, "caching": "None", "storageAccountType": "Standard_LRS"},
                    {"lun": 2, "blobUri": "https://a/b/c", "caching": "ReadOnly", "storageAccountType": "Standard_LRS"}]},
            "hyperVGeneration": "V1"}})
    );
    let Some(Source::Disks { os, data }) = source(&body) else { panic!("disks were given") };
    assert_eq!(os, DiskSource { place: Place::Resource(DISK.parse().unwrap()), size_gib: None });
    assert_eq!(data[1], (2, DiskSource { place: Place::Blob("https://a/b/c".into()), size_gib: None }));
}

/// The shape of the recording test_vm_custom_image_management.
#[test]
fn an_image_of_a_machine_shows_its_disks() {
    let mut body = made("westus", json!({"sourceVirtualMachine": {"id": MACHINE}, "hyperVGeneration": "V1"})).unwrap();
    assert_eq!(source(&body), Some(Source::VirtualMachine(MACHINE.parse().unwrap())));
    let disk = MachineDisk { id: DISK.into(), caching: "ReadWrite".into(), storage_account_type: "Premium_LRS".into() };
    describe_machine(&mut body, "Linux", &disk, &[(3, disk.clone())]);
    show_sizes(&mut body, 30, |lun| (lun == 3).then_some(4));
    let shown = body["properties"]["storageProfile"].to_string();
    assert_eq!(
        shown,
        json!({
            "osDisk": {"osType": "Linux", "osState": "Generalized", "diskSizeGB": 30, "managedDisk": {"id": DISK},
                       "caching": "ReadWrite", "storageAccountType": "Premium_LRS"},
            "dataDisks": [{"lun": 3, "diskSizeGB": 4, "managedDisk": {"id": DISK}, "caching": "ReadWrite",
                           "storageAccountType": "Premium_LRS"}]})
        .to_string()
    );
    // What az sends back on update: everything as it was shown, with other tags.
    let again = put(
        &id("images/i1"),
        &json!({"location": "westus", "properties": body["properties"], "tags": {"foo": "bar"}}),
        Some(&body),
        &context(&version("2024-07-01")),
    )
    .unwrap();
    assert_eq!(again["tags"], json!({"foo": "bar"}));
    assert_eq!(again["properties"], body["properties"]);
}

#[test]
fn what_cannot_be_an_image_is_refused() {
    let refused = |change: &dyn Fn(&mut Value)| {
        let mut properties = of_disks();
        change(&mut properties);
        let error = made("westus", properties).unwrap_err();
        assert_eq!(error.status, 400, "{error}");
        error.target.unwrap()
    };
    let at =
        |pointer: &'static str, value: Value| move |p: &mut Value| *p.pointer_mut(pointer).unwrap() = value.clone();
    // MI-3
    assert_eq!(
        refused(&at("/storageProfile/osDisk/osState", json!("Specialized"))),
        "image.properties.storageProfile.osDisk.osState"
    );
    assert_eq!(
        refused(&at("/storageProfile/osDisk/osType", Value::Null)),
        "image.properties.storageProfile.osDisk.osType"
    );
    assert_eq!(
        refused(&at("/storageProfile/dataDisks/1/lun", json!(0))),
        "image.properties.storageProfile.dataDisks.lun"
    );
    assert_eq!(
        refused(&at("/storageProfile/osDisk/managedDisk/id", json!(SNAPSHOT))),
        "image.properties.storageProfile.osDisk.managedDisk.id"
    );
    assert_eq!(
        refused(&|p| p["storageProfile"]["osDisk"]["blobUri"] = json!("https://a/b/c")),
        "image.properties.storageProfile.osDisk.managedDisk"
    );
    assert_eq!(refused(&at("/storageProfile", Value::Null)), "image.properties.storageProfile.osDisk");
    assert_eq!(
        refused(&|p| p["sourceVirtualMachine"] = json!({"id": MACHINE})),
        "image.properties.storageProfile.osDisk"
    );
    assert_eq!(refused(&at("/hyperVGeneration", json!("V3"))), "image.properties.hyperVGeneration");
    // West US has no zones.
    assert_eq!(
        refused(&|p| p["storageProfile"]["zoneResilient"] = json!(true)),
        "image.properties.storageProfile.zoneResilient"
    );
    let mut resilient = of_disks();
    resilient["storageProfile"]["zoneResilient"] = json!("true");
    assert_eq!(made("eastus", resilient).unwrap()["properties"]["storageProfile"]["zoneResilient"], true);
    for name in ["", "-a", "a-", "a/b", &"x".repeat(81)] {
        assert!(check_name(name).is_err(), "{name}");
    }
    assert!(check_name("my.Image-1_").is_ok());
}

#[test]
fn only_tags_change() {
    let body = made("eastus", of_disks()).unwrap();
    assert_eq!(updated(&body, json!({"tags": {"a": "b"}})).unwrap()["tags"], json!({"a": "b"}));
    let refused = |change: Value| {
        let error = updated(&body, json!({"properties": change})).unwrap_err();
        assert_eq!((error.status, error.code.as_str()), (409, "PropertyChangeNotAllowed"));
        error.message
    };
    // wire.md §5, quoted from a real answer.
    assert_eq!(
        refused(json!({"storageProfile": {"zoneResilient": true}})),
        "Changing property 'zoneResilient' is not allowed."
    );
    refused(json!({"hyperVGeneration": "V2"}));
    refused(json!({"sourceVirtualMachine": {"id": MACHINE}}));
    refused(json!({"storageProfile": {"dataDisks": []}}));
    refused(json!({"storageProfile": {"osDisk": {"caching": "ReadOnly"}}}));
    refused(json!({"storageProfile": {"osDisk": {"managedDisk": {"id": format!("{DISK}x")}}}}));
    updated(&body, json!({"properties": {"storageProfile": {"zoneResilient": false}}})).unwrap();
}

#[test]
fn the_generation_is_the_sources() {
    let mut body = made("eastus", of_disks()).unwrap();
    assert!(settle_generation(&mut body, Some("V2"), "d1").unwrap_err().message.contains("generation 'V2'"));
    settle_generation(&mut body, None, "d1").unwrap();
    body["properties"].as_object_mut().unwrap().remove("hyperVGeneration");
    settle_generation(&mut body, Some("V2"), "d1").unwrap();
    assert_eq!(generation(&body), "V2");
}
