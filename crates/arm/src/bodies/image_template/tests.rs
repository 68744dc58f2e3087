//! What az and the Swagger's examples send, and what is refused.

use super::super::testing::{context, version};
use super::*;

const GROUP: &str = "/subscriptions/0000/resourceGroups/rg1/providers";

fn own() -> ResourceId {
    format!("{GROUP}/Microsoft.VirtualMachineImages/imageTemplates/t1").parse().unwrap()
}

/// az image builder create, as recorded (test_image_build_shared_image), with a managed image besides.
fn given() -> Value {
    json!({
        "tags": {}, "location": "East US",
        "identity": {"type": "UserAssigned", "userAssignedIdentities":
            {format!("{}/Microsoft.ManagedIdentity/userAssignedIdentities/ide1", GROUP.to_lowercase()): {}}},
        "properties": {
            "source": {"type": "PlatformImage", "publisher": "Canonical", "offer": "UbuntuServer", "sku": "18_04-LTS-GEN2",
                "version": "latest"},
            "customize": [{"type": "Shell", "name": "customizeScript.sh", "scriptUri": "https://example.com/customizeScript.sh",
                "sha256Checksum": ""}],
            "distribute": [
                {"type": "SharedImage", "runOutputName": "image1", "artifactTags": {}, "excludeFromLatest": false,
                    "galleryImageId": format!("{GROUP}/Microsoft.Compute/galleries/g/images/image1"), "replicationRegions": ["eastus"]},
                {"type": "ManagedImage", "runOutputName": "img1", "imageId": format!("{GROUP}/Microsoft.Compute/images/img1"),
                    "location": "westus"}],
            "vmProfile": {}}})
}

fn stored(change: Value) -> Result<Value, ArmError> {
    at("2023-07-01", change)
}

fn at(api_version: &str, change: Value) -> Result<Value, ArmError> {
    let api = version(api_version);
    put(&own(), &merge_patch(&given(), &json!({"properties": change})), &context(&api))
}

#[test]
fn az_creates_one() {
    insta::assert_json_snapshot!(stored(json!({})).unwrap());
}

#[test]
fn everything_that_a_template_can_have_is_kept() {
    let group = "/subscriptions/0000/resourceGroups/staging";
    let vnet = format!("{GROUP}/Microsoft.Network/virtualNetworks/v/subnets");
    let body = at(
        "2025-10-01",
        json!({
            "source": {"type": "SharedImageVersion", "publisher": null, "offer": null, "sku": null, "version": null,
                "imageVersionId": format!("{GROUP}/Microsoft.Compute/galleries/g/images/base/versions/latest")},
            "customize": [
                {"type": "Shell", "inline": ["set -e", "echo hi"]},
                {"type": "File", "name": "f", "sourceUri": "https://example.com/f?sig=x", "destination": "/tmp/f",
                    "sha256Checksum": "A".repeat(64)},
                {"type": "PowerShell", "inline": ["dir"], "runElevated": true, "runAsSystem": true, "validExitCodes": [0, 3010]},
                {"type": "WindowsRestart", "restartTimeout": "10m", "restartCheckCommand": "whoami"},
                {"type": "Ansible", "inline": ["- hosts: all"], "extraVars": {"port": 8080}},
                {"type": "Ansible", "playbookUri": "https://example.com/site.yml"},
                {"type": "WindowsUpdate", "filters": ["include:$true"], "updateLimit": 20},
                {"type": "LinuxRestart"}],
            "validate": {"continueDistributeOnFailure": true, "inVMValidations": [{"type": "Shell", "inline": ["true"]}]},
            "distribute": [
                {"type": "SharedImage", "runOutputName": "g", "excludeFromLatest": true, "replicationMode": "Shallow",
                    "galleryImageId": format!("{GROUP}/Microsoft.Compute/galleries/g/images/i"),
                    "targetRegions": [{"name": "East US"}, {"name": "westus2", "replicaCount": 2, "storageAccountType": "standard_zrs"}],
                    "versioning": {"scheme": "Latest", "major": 2}},
                {"type": "SharedImage", "runOutputName": "v", "replicationRegions": ["eastus"], "storageAccountType": "Premium_LRS",
                    "galleryImageId": format!("{GROUP}/Microsoft.Compute/galleries/g/images/i/versions/1.2.3")},
                {"type": "VHD", "runOutputName": "vhd", "artifactTags": {"a": "b"}, "uri": "https://acct.blob.core.windows.net/c/x.vhd"}],
            "optimize": {"vmBoot": {"state": "Enabled"}}, "errorHandling": {"onValidationError": "abort"},
            "buildTimeoutInMinutes": 30,
            "vmProfile": {"vmSize": "Standard_D2s_v3", "osDiskSizeGB": 64, "vnetConfig": {"subnetId": format!("{vnet}/a"),
                "containerInstanceSubnetId": format!("{vnet}/b")}},
            "stagingResourceGroup": group, "autoRun": {"state": "Enabled"}, "managedResourceTags": {"k": "v"},
            "additionalDataDisks": [{"sizeGB": 8}]}),
    )
    .unwrap();
    let template = ImageTemplate::parse(&body).unwrap();
    assert_eq!(template.body(), body, "what is stored reads as it was written");
    assert_eq!(template.timeout().as_secs(), 30 * 60);
    assert!(template.source.is_latest());
    let remotes: Vec<String> = template.remotes().into_iter().map(|(place, r)| format!("{place} {}", r.uri)).collect();
    assert_eq!(remotes, ["customize/1 https://example.com/f?sig=x", "customize/5 https://example.com/site.yml"]);
    assert_eq!(template.customize[3].work.restart_timeout().as_secs(), 600);
    assert_eq!(template.check_os(false).unwrap_err().0, "UnsupportedCustomizerType");
    insta::assert_json_snapshot!(body);
}

/// Each refusal in the words that its author reads.
#[test]
fn what_is_no_template_is_refused() {
    let image = format!("{GROUP}/Microsoft.Compute/images/i");
    let gallery = format!("{GROUP}/Microsoft.Compute/galleries/g/images/i");
    let customize = |step: Value| json!({"customize": [step]});
    let distribute = |d: Value| json!({"distribute": [d]});
    let shared = |more: Value| {
        let base = json!({"type": "SharedImage", "runOutputName": "o", "galleryImageId": gallery, "replicationRegions": ["eastus"]});
        distribute(merge_patch(&base, &more))
    };
    let cases = [
        json!({"source": null}),
        json!({"source": {"type": "ISO"}}),
        json!({"source": {"type": "ManagedImage", "imageId": "nothing"}}),
        json!({"source": {"type": "ManagedImage", "imageId": image.replace("0000", "1111")}}),
        json!({"source": {"type": "SharedImageVersion", "imageVersionId": gallery}}),
        json!({"source": {"planInfo": {"planName": "p"}}}),
        json!({"distribute": []}),
        shared(json!({"type": "sharedImage"})),
        shared(json!({"runOutputName": null})),
        shared(json!({"runOutputName": "a b"})),
        shared(json!({"galleryImageId": image})),
        shared(json!({"galleryImageId": format!("{gallery}/versions/1.0")})),
        shared(json!({"replicationRegions": null})),
        shared(json!({"replicationRegions": ["mars"]})),
        shared(json!({"targetRegions": [{"name": "eastus"}]})),
        shared(json!({"replicationRegions": ["eastus", "East US"]})),
        shared(json!({"versioning": {"scheme": "Newest"}})),
        shared(json!({"versioning": {"scheme": "Latest", "major": -2}})),
        distribute(json!({"type": "ManagedImage", "runOutputName": "o", "imageId": image})),
        distribute(json!({"type": "VHD", "runOutputName": "o", "uri": "https://acct.blob.core.windows.net/c"})),
        customize(json!({"type": "Chef"})),
        customize(json!({"type": "Shell"})),
        customize(json!({"type": "Shell", "inline": ["a"], "scriptUri": "https://example.com/a"})),
        customize(json!({"type": "Shell", "scriptUri": "file:///etc/shadow"})),
        customize(json!({"type": "Shell", "scriptUri": "https://example.com/a", "sha256Checksum": "12"})),
        customize(json!({"type": "Shell", "inline": ["x".repeat(2 << 20)]})),
        customize(json!({"type": "File", "sourceUri": "https://example.com/a"})),
        customize(json!({"type": "PowerShell", "inline": ["a"], "runAsSystem": true})),
        customize(json!({"type": "WindowsRestart", "restartTimeout": "soon"})),
        customize(json!({"type": "Ansible"})),
        customize(json!({"type": "Ansible", "inline": ["- hosts: all"], "extraVars": ["a=b"]})),
        json!({"validate": {"inVMValidations": [{"type": "Ansible", "inline": ["- hosts: all"]}]}}),
        json!({"validate": {"inVMValidations": [{"type": "WindowsUpdate"}]}}),
        json!({"buildTimeoutInMinutes": 961}),
        json!({"vmProfile": {"osDiskSizeGB": -1}}),
        json!({"vmProfile": {"vnetConfig": {"proxyVmSize": "Standard_A1_v2"}}}),
        json!({"vmProfile": {"vnetConfig": {"subnetId": image}}}),
        json!({"stagingResourceGroup": "/subscriptions/0000/resourceGroups/rg1"}),
        json!({"errorHandling": {"onCustomizerError": "ignore"}}),
        json!({"autoRun": {"state": "On"}}),
        json!({"customize": "all"}),
    ];
    let refused = cases.into_iter().map(|change| {
        let error = stored(change.clone()).expect_err(&change.to_string());
        assert_eq!((error.status, error.code.as_str()), (400, "ValidationFailed"), "{change}: {error}");
        error.message.replace(REVIEW, "[review]")
    });
    insta::assert_snapshot!(refused.collect::<Vec<_>>().join("\n"));
}

#[test]
fn an_identity_is_asked_for() {
    let api = version("2023-07-01");
    let with = |identity: Value| {
        let mut body = given();
        body["identity"] = identity;
        put(&own(), &body, &context(&api))
    };
    let missing = with(Value::Null).unwrap_err().message;
    assert!(missing.starts_with("Validation failed: 'ImageTemplate': Missing field 'identity'."), "{missing}");
    assert!(with(json!({"type": "SystemAssigned"})).is_err());
    let two = json!({format!("{GROUP}/Microsoft.ManagedIdentity/userAssignedIdentities/a"): {},
        format!("{GROUP}/Microsoft.ManagedIdentity/userAssignedIdentities/b"): {}});
    assert!(with(json!({"type": "UserAssigned", "userAssignedIdentities": two})).is_err());
}

#[test]
fn from_2024_on_names_are_taken_at_their_word() {
    let loose = json!({"optimize": {"VmBoot": {"State": "Enabled"}}});
    let read = ImageTemplate::parse(&at("2023-07-01", loose.clone()).unwrap()).unwrap();
    assert_eq!(read.optimize_vm_boot, Some(true));
    let cases = [
        loose,
        json!({"Autorun": {"state": "Enabled"}}),
        json!({"customize": [{"type": "Shell", "Inline": ["a"]}]}),
        json!({"distribute": [{"type": "VHD", "runOutputName": "o", "versioning": {"scheme": "Latest"}}]}),
        json!({"source": {"imageId": "x"}}),
    ];
    let refused = cases.map(|change| at("2024-02-01", change).unwrap_err().message);
    insta::assert_snapshot!(refused.join("\n"));
}

/// Swagger examples UpdateImageTemplate*.json.
#[test]
fn a_patch_changes_little() {
    let api = version("2024-02-01");
    let ctx = context(&api);
    let before = stored(json!({})).unwrap();
    let after = |change: Value| patch(&own(), &change, &before, &ctx);
    assert_eq!(after(json!({"tags": {"new-tag": "new-value"}})).unwrap()["tags"], json!({"new-tag": "new-value"}));
    assert_eq!(after(json!({"identity": {"type": "None"}})).unwrap()["identity"], json!({"type": "None"}));
    let profile =
        after(json!({"properties": {"vmProfile": {"osDiskSizeGB": 127, "vmSize": "Standard_D4s_v3"}}})).unwrap();
    assert_eq!(profile["properties"]["vmProfile"], json!({"vmSize": "Standard_D4s_v3", "osDiskSizeGB": 127}));
    let vhd = json!({"properties": {"distribute": [{"type": "VHD", "runOutputName": "o"}]}});
    assert_eq!(after(vhd).unwrap()["properties"]["distribute"].as_array().unwrap().len(), 1);
    for refused in [
        json!({"location": "westus"}),
        json!({"properties": {"customize": []}}),
        json!({"properties": {"vmProfile": {}, "source": {}}}),
    ] {
        assert_eq!(after(refused).unwrap_err().code, "Conflict");
    }
    assert_eq!(after(json!({"properties": {"distribute": []}})).unwrap_err().code, "ValidationFailed");
}
