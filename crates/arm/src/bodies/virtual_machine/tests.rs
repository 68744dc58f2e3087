use super::super::merge_patch;
use super::super::testing::{context, id, version};
use super::*;

const GROUP: &str = "/subscriptions/0000/resourceGroups/rg1/providers";

fn made(body: Value) -> Result<Value, ArmError> {
    let api = version("2024-11-01");
    create(&id("virtualMachines/vm1"), &body, &context(&api))
}

fn changed(old: &Value, body: Value) -> Result<Value, ArmError> {
    let api = version("2024-11-01");
    update(&id("virtualMachines/vm1"), &body, old, &context(&api))
}

/// As `az vm create` writes it into its template, nulls and letter cases included; `storage` and `os` as it fills them in.
fn of_az(storage: Value, os: Option<Value>) -> Value {
    let nic =
        json!({"id": format!("{GROUP}/Microsoft.Network/networkInterfaces/n1"), "properties": {"deleteOption": null}});
    let mut body = json!({"apiVersion": "2026-04-01", "type": "Microsoft.Compute/virtualMachines", "name": "vm1",
        "location": "eastus", "tags": {}, "dependsOn": ["Microsoft.Network/networkInterfaces/n1"],
        "properties": {"hardwareProfile": {"vmSize": "Standard_DS1_v2"}, "networkProfile": {"networkInterfaces": [nic]},
            "storageProfile": storage}});
    if let Some(os) = os {
        body["properties"]["osProfile"] = os;
    }
    body
}

fn from_image() -> Value {
    json!({"osDisk": {"createOption": "fromImage", "name": null, "caching": "ReadWrite",
            "managedDisk": {"storageAccountType": null}},
        "imageReference": {"id": format!("{GROUP}/Microsoft.Compute/galleries/g/images/d/versions/1.0.0")},
        "dataDisks": [{"lun": 0, "managedDisk": {"storageAccountType": null}, "createOption": "empty", "diskSizeGB": 2}]})
}

fn user() -> Value {
    json!({"computerName": "vm1", "adminUsername": "azureuser", "linuxConfiguration": {
        "disablePasswordAuthentication": true,
        "ssh": {"publicKeys": [{"keyData": "ssh-rsa AAAA root@vm\n", "path": "/home/azureuser/.ssh/authorized_keys"}]}}})
}

#[test]
fn what_az_sends_is_taken() {
    let mut zonal = of_az(from_image(), Some(user()));
    zonal["zones"] = json!(["1"]);
    let body = made(zonal).unwrap();
    assert_eq!(body["zones"], json!(["1"]));
    let disks = &body["properties"]["storageProfile"];
    assert_eq!(
        (&disks["osDisk"]["createOption"], &disks["osDisk"]["deleteOption"]),
        (&json!("FromImage"), &json!("Detach"))
    );
    assert_eq!((&disks["dataDisks"][0]["createOption"], &disks["dataDisks"][0]["lun"]), (&json!("Empty"), &json!(0)));
    assert!(disks["osDisk"]["name"].as_str().unwrap().starts_with("vm1_OsDisk_1_"));

    let disk = json!({"osDisk": {"createOption": "attach", "osType": "linux",
        "managedDisk": {"id": format!("{GROUP}/Microsoft.Compute/disks/d1")}}});
    let attached = made(of_az(disk, None)).unwrap();
    assert_eq!(attached["properties"]["storageProfile"]["osDisk"]["osType"], "Linux");
    assert!(attached["properties"].get("osProfile").is_none());

    let shared = "/SharedGalleries/0000-G/Images/i/Versions/1.0.0";
    let mut profile = from_image();
    profile["imageReference"] = json!({"sharedGalleryImageId": shared});
    let body = made(of_az(profile, Some(user()))).unwrap();
    assert_eq!(body["properties"]["storageProfile"]["imageReference"], json!({"sharedGalleryImageId": shared}));

    // Packer 1.6.6.
    let mut packer = of_az(from_image(), Some(user()));
    packer["properties"]["diagnosticsProfile"] = json!({"bootDiagnostics": {"enabled": false}});
    assert_eq!(made(packer).unwrap()["properties"]["diagnosticsProfile"]["bootDiagnostics"]["enabled"], false);
}

#[test]
fn what_is_not_offered_is_refused_by_name() {
    type Change<'a> = &'a dyn Fn(&mut Value);
    let refused = |change: Change<'_>| {
        let mut body = of_az(from_image(), Some(user()));
        change(&mut body);
        let error = made(body).unwrap_err();
        (error.code, error.target.unwrap_or_default())
    };
    let cases: [(&str, Change<'_>); 3] = [
        ("properties.hostGroup", &|b| b["properties"]["hostGroup"] = json!({"id": "/x"})),
        ("osDisk.diffDiskSettings", &|b| {
            b["properties"]["storageProfile"]["osDisk"]["diffDiskSettings"] = json!({"option": "Local"});
        }),
        ("osDisk.vhd", &|b| b["properties"]["storageProfile"]["osDisk"]["vhd"] = json!({"uri": "https://a/b/c"})),
    ];
    for (name, change) in cases {
        let (code, target) = refused(change);
        assert_eq!(code, "OperationNotSupported", "{name}");
        assert!(target.ends_with(name), "{name}: {target}");
    }
    // Asked for nothing.
    let mut body = of_az(from_image(), Some(user()));
    body["identity"] = json!({"type": "None"});
    body["properties"]["applicationProfile"] = json!({});
    body["properties"]["storageProfile"]["osDisk"]["writeAcceleratorEnabled"] = json!(false);
    made(body).unwrap();
}

#[test]
fn an_update_changes_what_may_change() {
    let mut old = made(of_az(from_image(), Some(user()))).unwrap();
    let disk = format!("{GROUP}/Microsoft.Compute/disks/blank");
    old["properties"]["storageProfile"]["dataDisks"][0]["managedDisk"]["id"] = json!(disk);
    assert_eq!(changed(&old, old.clone()).unwrap(), old, "its own body changes nothing");

    let mut new = old.clone();
    new["tags"] = json!({"a": "b"});
    new["properties"]["hardwareProfile"]["vmSize"] = json!("standard_b2s");
    new["properties"]["storageProfile"]["osDisk"]["deleteOption"] = json!("Delete");
    new["properties"]["networkProfile"]["networkInterfaces"][0]["properties"] = json!({"deleteOption": "Delete"});
    let more = json!({"lun": 3, "createOption": "attach", "managedDisk": {"id": format!("{GROUP}/Microsoft.Compute/disks/more")}});
    new["properties"]["storageProfile"]["dataDisks"] = json!([{"lun": "0", "createOption": "empty", "managedDisk": {"id": disk.to_uppercase()}, "caching": "readonly"}, more]);
    let body = changed(&old, new).unwrap();
    assert_eq!(body["tags"]["a"], "b");
    let properties = &body["properties"];
    assert_eq!(properties["hardwareProfile"]["vmSize"], "Standard_B2s");
    assert_eq!(properties["storageProfile"]["osDisk"]["deleteOption"], "Delete");
    assert_eq!(properties["networkProfile"]["networkInterfaces"][0]["properties"]["deleteOption"], "Delete");
    let disks = properties["storageProfile"]["dataDisks"].as_array().unwrap();
    assert_eq!((&disks[0]["managedDisk"]["id"], &disks[0]["caching"]), (&json!(disk), &json!("ReadOnly")));
    assert_eq!((&disks[1]["lun"], &disks[1]["createOption"]), (&json!(3), &json!("Attach")));

    for (path, value) in [
        ("/properties/osProfile/computerName", json!("other")),
        ("/properties/storageProfile/osDisk/name", json!("other")),
        ("/properties/storageProfile/osDisk/diskSizeGB", json!(64)),
        ("/properties/storageProfile/dataDisks/0/lun", json!(1)),
    ] {
        let mut new = old.clone();
        match new.pointer_mut(path) {
            Some(place) => *place = value,
            None => new["properties"]["storageProfile"]["osDisk"]["diskSizeGB"] = value,
        }
        assert_eq!(changed(&old, new).unwrap_err().code, "PropertyChangeNotAllowed", "{path}");
    }
}

#[test]
fn a_machine_stays_in_its_availability_set() {
    let set = json!({"id": format!("{GROUP}/Microsoft.Compute/availabilitySets/set1")});
    let with = |name: &str, value: Value| {
        let mut body = of_az(from_image(), Some(user()));
        body["properties"]["availabilitySet"] = set.clone();
        match name {
            "zones" => body["zones"] = value,
            _ => body["properties"][name] = value,
        }
        made(body)
    };
    let old = with("zones", json!(null)).unwrap();
    assert_eq!(old["properties"]["availabilitySet"], set);
    for other in [json!(null), json!({"id": "/x"})] {
        let mut new = old.clone();
        new["properties"]["availabilitySet"] = other.clone();
        assert_eq!(changed(&old, new).is_ok(), other.is_null(), "{other}");
    }
    assert_eq!(with("zones", json!(["1"])).unwrap_err().code, "BadRequest");
    assert_eq!(with("virtualMachineScaleSet", json!({"id": "/x"})).unwrap_err().code, "BadRequest");
}

#[test]
fn a_profile_with_which_nobody_could_log_in_is_refused() {
    let refused = |change: &dyn Fn(&mut Value)| {
        let mut profile = user();
        change(&mut profile);
        let error = made(of_az(from_image(), Some(profile))).unwrap_err();
        assert_eq!(error.code, "InvalidParameter");
        format!("{}: {}", error.target.unwrap_or_default(), error.message)
    };
    let key = |data: &'static str| {
        move |p: &mut Value| p["linuxConfiguration"]["ssh"]["publicKeys"][0]["keyData"] = json!(data)
    };
    let bad = "linuxConfiguration.ssh.publicKeys.keyData: The value of parameter linuxConfiguration.ssh.publicKeys.keyData is invalid.";
    for data in [
        "AAAA",
        "ssh-dss AAAA",
        "ssh-rsa",
        "ssh-rsa A!",
        "ssh-rsa AAAA x\nssh-rsa AAAA y",
        "-----BEGIN PRIVATE KEY-----",
    ] {
        assert_eq!(refused(&key(data)), bad, "{data}");
    }
    let password = |text: &'static str| move |p: &mut Value| p["adminPassword"] = json!(text);
    for text in ["Ab1!", "abcdefgh1", "Abcdef!\n1"] {
        assert!(
            refused(&password(text)).starts_with("adminPassword: The supplied password must be between 6-72"),
            "{text}"
        );
    }
    let long = "Ab1!".repeat(19);
    assert!(refused(&|p| p["adminPassword"] = json!(long)).starts_with("adminPassword: "));
    let none = "linuxConfiguration: Authentication using either SSH or by user name and password must be enabled in Linux profile.";
    assert_eq!(refused(&|p| p["linuxConfiguration"]["ssh"] = Value::Null), none);
    // Neither does a password that is not taken.
    let locked = |p: &mut Value| {
        p["adminPassword"] = json!("Tr0ub4dor&3");
        p["linuxConfiguration"]["ssh"] = Value::Null;
    };
    assert_eq!(refused(&locked), none);
    for name in ["root", "Admin", "a b", "-x"] {
        assert!(refused(&|p| p["adminUsername"] = json!(name)).starts_with("adminUsername: "), "{name}");
    }
    assert!(
        refused(&|p| p["computerName"] = json!("a_b")).starts_with("computerName: Linux host name cannot exceed 64")
    );
}

#[test]
fn a_machine_is_in_one_zone_that_its_region_has() {
    let zonal = |region: &str, zones: Value| {
        let mut body = of_az(from_image(), Some(user()));
        body["location"] = json!(region);
        body["zones"] = zones;
        made(body)
    };
    assert_eq!(zonal("eastus", json!(["3"])).unwrap()["zones"], json!(["3"]));
    assert_eq!(zonal("westus", json!([])).unwrap().get("zones"), None);
    let refused = |region: &str, zones: Value| zonal(region, zones).unwrap_err().to_string();
    insta::assert_snapshot!(
        [refused("eastus", json!(["4"])), refused("eastus", json!(["1", "2"])), refused("westus", json!(["1"])),]
            .join("\n")
    );
}

#[test]
fn extensions_need_an_agent_and_leave() {
    let with = |change: Value| made(of_az(from_image(), Some(merge_patch(&user(), &change))));
    let allowed = |body: &Value| extensions_not_allowed(body).is_none();
    assert!(allowed(&with(json!({})).unwrap()));
    assert!(allowed(&json!({"properties": {}})), "what is specialized has no osProfile");
    let forbidden = with(json!({"allowExtensionOperations": false})).unwrap();
    assert_eq!(forbidden["properties"]["osProfile"]["linuxConfiguration"]["provisionVMAgent"], true);
    let without = json!({"linuxConfiguration": {"provisionVMAgent": false}});
    for body in [&forbidden, &with(without.clone()).unwrap()] {
        assert_eq!(extensions_not_allowed(body).unwrap().code, "OperationNotAllowed");
    }
    let both = merge_patch(&without, &json!({"allowExtensionOperations": true}));
    assert_eq!(with(both).unwrap_err().code, "InvalidParameter");
    let mut again = forbidden.clone();
    again["properties"]["osProfile"]["allowExtensionOperations"] = json!(true);
    assert!(allowed(&changed(&forbidden, again).unwrap()));
}

#[test]
fn what_only_a_first_boot_reads_does_not_change() {
    let old = made(of_az(from_image(), Some(user()))).unwrap();
    let linux = |change: Value| {
        let mut new = old.clone();
        let profile = &mut new["properties"]["osProfile"]["linuxConfiguration"];
        *profile = merge_patch(profile, &change);
        changed(&old, new)
    };
    linux(json!({"ssh": {"publicKeys": [{"keyData": "ssh-rsa AAAA root@vm"}]}})).unwrap();
    for change in [
        json!({"ssh": {"publicKeys": [{"keyData": "ssh-rsa BBBB root@vm"}]}}),
        json!({"ssh": {"publicKeys": []}}),
        json!({"disablePasswordAuthentication": false}),
        json!({"provisionVMAgent": false}),
    ] {
        assert_eq!(linux(change.clone()).unwrap_err().code, "PropertyChangeNotAllowed", "{change}");
    }
}
