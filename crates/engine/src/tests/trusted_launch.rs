//! Trusted Launch: what a machine asks for reaches its host, marks its disk, and fits its image.

use super::definition;
use super::site::{Site, VERSION, VM};
use lazuli_arm::ArmError;
use lazuli_vmm::spec::TrustedLaunch;
use serde_json::{Value, json};

pub(super) fn trusted(secure_boot: bool) -> Value {
    json!({"securityType": "TrustedLaunch", "uefiSettings": {"secureBootEnabled": secure_boot, "vTpmEnabled": true}})
}

impl Site {
    /// A definition and version 1.0.0 of it whose feature `SecurityType` is such; the version's id.
    pub(super) async fn version_of(&self, name: &str, security_type: &str) -> String {
        let mut body = definition(name);
        body["properties"]["features"] = json!([{"name": "SecurityType", "value": security_type}]);
        let below = format!("galleries/g/images/{name}");
        self.server.put(&below, body).await.unwrap();
        let version = json!({"location": "eastus", "properties": {
            "storageProfile": {"osDiskImage": {"source": {"id": self.server.id("disks/d1").to_string()}}}}});
        self.server.put(&format!("{below}/versions/1.0.0"), version).await.unwrap();
        self.server.id(&format!("{below}/versions/1.0.0")).to_string()
    }

    async fn launched(&self, image: &str, profile: Value) -> Result<Value, ArmError> {
        self.create(|b| {
            b["properties"]["storageProfile"]["imageReference"]["id"] = json!(image);
            b["properties"]["securityProfile"] = profile;
        })
        .await
    }

    async fn patched(&self, patch: Value) -> Result<(), ArmError> {
        let written = self.server.engine.patch(&self.server.call, &self.server.id(VM), patch).await?;
        match written.operation {
            Some(operation) => self.server.end(&operation).await.map(drop),
            None => Ok(()),
        }
    }

    async fn disk_type(&self) -> Value {
        self.server.get("disks/os1").await.unwrap()["properties"]["securityProfile"]["securityType"].clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_for_is_what_runs() {
    let site = Site::start().await;
    let image = site.version_of("both", "TrustedLaunchSupported").await;
    let vm = site.launched(&image, trusted(true)).await.unwrap();
    assert_eq!(vm["properties"]["securityProfile"], trusted(true));
    assert_eq!(site.disk_type().await, "TrustedLaunch");
    let id = site.vm_id().await;
    let launch = site.defined(id).unwrap().trusted_launch.unwrap();
    assert!(launch.secure_boot && launch.vtpm);
    assert_eq!(launch.state, site.defined(id).unwrap().os_disk.overlay.with_extension("state"));

    // Settings take a restart; it runs again with them.
    let settings =
        |secure: bool| json!({"properties": {"securityProfile": {"uefiSettings": {"secureBootEnabled": secure}}}});
    site.patched(settings(false)).await.unwrap();
    assert!(site.fake.is_running(id));
    assert!(!site.defined(id).unwrap().trusted_launch.unwrap().secure_boot);

    // The type itself changes while it is deallocated, and the disk's with it.
    let standard = json!({"properties": {"securityProfile": {"securityType": "Standard", "uefiSettings": null}}});
    assert_eq!(site.patched(standard.clone()).await.unwrap_err().code, "OperationNotAllowed");
    site.power("deallocate").await.unwrap();
    site.patched(standard).await.unwrap();
    assert_eq!(site.disk_type().await, Value::Null);
    site.power("start").await.unwrap();
    assert_eq!(site.defined(id).unwrap().trusted_launch, None);
    site.power("deallocate").await.unwrap();
    site.patched(json!({"properties": {"securityProfile": trusted(false)}})).await.unwrap();
    assert_eq!(site.disk_type().await, "TrustedLaunch");
    site.power("start").await.unwrap();

    // What firmware and TPM keep goes with the disk.
    std::fs::create_dir_all(launch.state.join("tpm")).unwrap();
    site.server.delete(VM).await.unwrap();
    assert!(launch.state.is_dir(), "a new machine may be made of the disk");
    site.server.delete("disks/os1").await.unwrap();
    assert!(!launch.state.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_and_its_machine_are_of_one_type() {
    let site = Site::start().await;
    let image = site.version_of("both", "TrustedLaunchSupported").await;
    site.launched(&image, trusted(true)).await.unwrap();
    site.server.delete(VM).await.unwrap();
    let attach = async |profile: Value| {
        let disk = json!({"createOption": "Attach", "osType": "Linux", "managedDisk": {"id": site.server.id("disks/os1").to_string()}});
        site.create(|b| {
            b["properties"]["storageProfile"] = json!({"osDisk": disk});
            b["properties"].as_object_mut().unwrap().remove("osProfile");
            b["properties"]["securityProfile"] = profile;
        })
        .await
    };
    let message = "Security type of VM is not compatible with the security type of attached OS Disk.";
    assert_eq!(attach(Value::Null).await.unwrap_err().message, message);
    attach(trusted(false)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn images_say_what_their_machines_may_be() {
    let site = Site::start().await;
    let [standard, only] = [site.version_of("none", "Standard").await, site.version_of("only", "TrustedLaunch").await];
    let refused = async |image: &str, profile: Value| site.launched(image, profile).await.unwrap_err().message;
    let unsupported = "Use of TrustedLaunch setting is not supported for the provided image.";
    assert!(refused(&standard, trusted(true)).await.starts_with(unsupported));
    let plain = site.server.id(VERSION).to_string();
    assert!(refused(&plain, trusted(true)).await.starts_with(unsupported), "a definition without features");
    let demanded = "The provided gallery image only supports creation of VMs and VM Scale Sets with 'TrustedLaunch' security type.";
    assert_eq!(refused(&only, Value::Null).await, demanded);
    assert_eq!(refused(&only, json!({"securityType": "Standard"})).await, demanded);
    assert_eq!(site.server.get(VM).await.unwrap_err().status, 404, "nothing was left");
    site.launched(&only, trusted(true)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_an_image_reach_the_firmware() {
    let site = Site::start().await;
    let mut body = definition("keyed");
    body["properties"]["features"] = json!([{"name": "SecurityType", "value": "TrustedLaunchSupported"}]);
    site.server.put("galleries/g/images/keyed", body).await.unwrap();
    let version = async |name: &str, settings: Value| {
        let tail = format!("galleries/g/images/keyed/versions/{name}");
        let version = json!({"location": "eastus", "properties": {
            "storageProfile": {"osDiskImage": {"source": {"id": site.server.id("disks/d1").to_string()}}},
            "securityProfile": {"uefiSettings": settings}}});
        site.server.put(&tail, version).await.unwrap();
        site.server.id(&tail).to_string()
    };
    // Nothing could start with it.
    let bare = version("1.0.0", json!({"signatureTemplateNames": ["NoSignatureTemplate"]})).await;
    let error = site.launched(&bare, trusted(true)).await.unwrap_err();
    assert_eq!(error.code, "OperationNotAllowed");
    assert!(error.message.contains("lack a platform key (pk)"), "{error}");
    assert_eq!(site.server.get(VM).await.unwrap_err().status, 404, "nothing was left");

    let certificate = json!({"type": "x509", "value": ["MAA="]});
    let own = json!({"signatureTemplateNames": ["NoSignatureTemplate"],
        "additionalSignatures": {"pk": certificate, "kek": [certificate], "db": [certificate]}});
    let keyed = version("1.0.1", own).await;
    site.launched(&keyed, trusted(true)).await.unwrap();
    let keys = |launch: Option<TrustedLaunch>| launch.unwrap().keys.unwrap();
    let first = keys(site.defined(site.vm_id().await).unwrap().trusted_launch);
    assert_eq!((first.templates.len(), first.pk.is_some(), first.db.len()), (0, true, 1));

    // They go with the disk: to a machine that is made of it, and to its copies.
    site.server.delete(VM).await.unwrap();
    let copy = json!({"location": "eastus", "properties": {
        "creationData": {"createOption": "Copy", "sourceResourceId": site.server.id("disks/os1").to_string()}}});
    site.server.put("disks/os2", copy).await.unwrap();
    let disk = json!({"createOption": "Attach", "osType": "Linux", "managedDisk": {"id": site.server.id("disks/os2").to_string()}});
    site.create(|b| {
        b["properties"]["storageProfile"] = json!({"osDisk": disk});
        b["properties"].as_object_mut().unwrap().remove("osProfile");
        b["properties"]["securityProfile"] = trusted(true);
    })
    .await
    .unwrap();
    assert_eq!(keys(site.defined(site.vm_id().await).unwrap().trusted_launch), first);

    // And to versions that are made of it, of such a version, and of the machine, unless they are given others.
    let settings_of = async |tail: &str| {
        let row = site.server.engine.db().resource(&site.server.id(tail).key()).await.unwrap().unwrap();
        row.body["properties"]["securityProfile"]["uefiSettings"].clone()
    };
    let made_of = async |tail: &str, source: Value, more: Value| {
        let mut body = json!({"location": "eastus", "properties": {"storageProfile": source}});
        if !more.is_null() {
            body["properties"]["securityProfile"] = json!({"uefiSettings": more});
        }
        site.server.put(tail, body).await.unwrap();
        settings_of(tail).await
    };
    let own = settings_of("galleries/g/images/keyed/versions/1.0.1").await;
    assert!(own["additionalSignatures"]["pk"].is_object(), "{own}");
    let mut special = definition("special");
    special["properties"]["osState"] = json!("Specialized");
    special["properties"]["features"] = json!([{"name": "SecurityType", "value": "TrustedLaunchSupported"}]);
    site.server.put("galleries/g/images/special", special).await.unwrap();
    site.server.action(VM, "deallocate", Value::Null).await.unwrap();
    let of_disk = json!({"osDiskImage": {"source": {"id": site.server.id("disks/os1").to_string()}}});
    let of_machine = json!({"source": {"virtualMachineId": site.server.id(VM).to_string()}});
    for (tail, source) in [
        ("galleries/g/images/keyed/versions/1.0.2", of_disk.clone()),
        ("galleries/g/images/keyed/versions/1.0.3", json!({"source": {"id": keyed}})),
        ("galleries/g/images/special/versions/1.0.0", of_machine),
    ] {
        assert_eq!(made_of(tail, source, Value::Null).await, own, "{tail}");
    }
    let others = json!({"signatureTemplateNames": ["MicrosoftUefiCertificateAuthorityTemplate"]});
    let kept = made_of("galleries/g/images/keyed/versions/1.0.4", of_disk, others.clone()).await;
    assert_eq!(kept, others);
    site.server.delete(VM).await.unwrap();
    let special = site.server.id("galleries/g/images/special/versions/1.0.0").to_string();
    site.create(|b| {
        b["properties"]["storageProfile"] =
            json!({"imageReference": {"id": special}, "osDisk": {"createOption": "FromImage"}});
        b["properties"].as_object_mut().unwrap().remove("osProfile");
        b["properties"]["securityProfile"] = trusted(true);
    })
    .await
    .unwrap();
    assert_eq!(keys(site.defined(site.vm_id().await).unwrap().trusted_launch), first);
}
