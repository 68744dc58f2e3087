use super::super::shared_gallery::SharedImageId;
use super::super::testing::{context, id, version};
use super::*;
use proptest::prelude::*;

const VERSION: &str =
    "/subscriptions/0000/resourceGroups/rg1/providers/Microsoft.Compute/galleries/g/images/i/versions/1.0.0";
const DISK: &str = "/subscriptions/0000/resourceGroups/rg1/providers/Microsoft.Compute/disks/d0";

fn create(sku: &str, properties: Value) -> Result<Value, ArmError> {
    write(&json!({"location": "westus", "sku": {"name": sku}, "properties": properties}), None)
}

fn write(new: &Value, old: Option<&Value>) -> Result<Value, ArmError> {
    let api = version("2025-01-02");
    put(&id("disks/d1"), new, old, &context(&api))
}

fn empty(gib: i64) -> Value {
    json!({"creationData": {"createOption": "empty"}, "diskSizeGB": gib})
}

#[test]
fn md4_an_empty_disk_as_recorded() {
    insta::assert_json_snapshot!(create("Premium_LRS", empty(1)).unwrap(), @r#"
    {
      "location": "westus",
      "sku": {
        "name": "Premium_LRS",
        "tier": "Premium"
      },
      "properties": {
        "encryption": {
          "type": "EncryptionAtRestWithPlatformKey"
        },
        "networkAccessPolicy": "AllowAll",
        "publicNetworkAccess": "Enabled",
        "creationData": {
          "createOption": "Empty"
        },
        "timeCreated": "2026-01-02T03:04:05.1234567+00:00",
        "uniqueId": "00000000-0000-0000-0000-000000000011",
        "diskState": "Unattached",
        "diskSizeGB": 1,
        "diskSizeBytes": 1073741824,
        "diskIOPSReadWrite": 120,
        "diskMBpsReadWrite": 25,
        "tier": "P1"
      }
    }
    "#);
}

#[test]
fn md3_an_upload_has_no_size_until_it_is_done() {
    let upload = json!({"creationData": {"createOption": "Upload", "uploadSizeBytes": 21_474_836_992_i64}});
    let mut disk = create("Premium_LRS", upload).unwrap();
    let p = &disk["properties"];
    assert_eq!(
        (state(&disk), &p["tier"], &p["diskIOPSReadWrite"]),
        (Some(DiskState::ReadyToUpload), &json!("P4"), &json!(120))
    );
    assert!(p.get("diskSizeGB").is_none() && p.get("diskSizeBytes").is_none());
    assert_eq!(origin(&disk), Some(Origin::Upload { vhd_bytes: 21_474_836_992, guest_state: false }));
    assert_eq!(size_bytes(&disk), Some(21_474_836_480));

    set_state(&mut disk, DiskState::ActiveUpload);
    let error = write(&json!({"properties": {"diskSizeGB": 64}}), Some(&disk)).unwrap_err();
    assert_eq!(error.code, "OperationNotAllowed");

    set_state(&mut disk, DiskState::Unattached);
    set_size(&mut disk, 21_474_836_480);
    assert_eq!(disk["properties"]["diskSizeGB"], 20);
    let grown = write(&json!({"properties": {"diskSizeGB": 64}}), Some(&disk)).unwrap();
    assert_eq!(
        (&grown["properties"]["diskSizeBytes"], &grown["properties"]["tier"]),
        (&json!(68_719_476_736_i64), &json!("P6"))
    );
}

#[test]
fn an_update_as_recorded() {
    let old = create("Premium_LRS", empty(1)).unwrap();
    let new = json!({"location": "westus", "properties": {"creationData": {"createOption": "Empty"},
        "diskIOPSReadWrite": 120, "diskMBpsReadWrite": 25, "diskSizeGB": 10,
        "encryption": {"type": "EncryptionAtRestWithPlatformKey"}, "networkAccessPolicy": "AllowAll",
        "publicNetworkAccess": "Enabled", "tier": "P1"}, "sku": {"name": "standard_lrs"}, "tags": {"tag1": "d1"}});
    let stored = write(&new, Some(&old)).unwrap();
    let p = &stored["properties"];
    assert_eq!(stored["sku"], json!({"name": "Standard_LRS", "tier": "Standard"}));
    assert_eq!((&p["diskIOPSReadWrite"], &p["diskMBpsReadWrite"], p.get("tier")), (&json!(500), &json!(60), None));
    assert_eq!(p["uniqueId"], old["properties"]["uniqueId"]);
    assert_eq!(write(&stored, Some(&stored)).unwrap(), stored);
    let api = version("2025-01-02");
    let patched = patch(&id("disks/d1"), &json!({"properties": {"diskSizeGB": 20}}), &stored, &context(&api)).unwrap();
    assert_eq!((&patched["properties"]["diskSizeGB"], &patched["tags"]), (&json!(20), &json!({"tag1": "d1"})));
}

const SHARED: &str = "/SharedGalleries/0000-G/Images/i/Versions/latest";

#[test]
fn images_and_copies_get_their_size_later() {
    for (creation, expected) in [
        (
            json!({"createOption": "FromImage", "galleryImageReference": {"id": VERSION, "lun": 2}}),
            Origin::Image { id: VERSION.parse().unwrap(), lun: Some(2) },
        ),
        (
            json!({"createOption": "FromImage", "imageReference": {"id": VERSION}}),
            Origin::Image { id: VERSION.parse().unwrap(), lun: None },
        ),
        (
            json!({"createOption": "FromImage", "galleryImageReference": {"sharedGalleryImageId": SHARED, "lun": 2}}),
            Origin::SharedImage { id: SharedImageId::parse(SHARED).unwrap(), lun: Some(2) },
        ),
        (json!({"createOption": "Copy", "sourceResourceId": DISK}), Origin::Copy(DISK.parse().unwrap())),
    ] {
        let mut disk = create("Standard_LRS", json!({"creationData": creation})).unwrap();
        assert_eq!(origin(&disk), Some(expected));
        assert_eq!(size_bytes(&disk), None);
        set_size(&mut disk, 50_331_648);
        assert_eq!(
            (&disk["properties"]["diskSizeGB"], &disk["properties"]["diskSizeBytes"]),
            (&json!(1), &json!(50_331_648))
        );
        // Its rounded size sent back leaves it as it is.
        assert_eq!(write(&disk, Some(&disk)).unwrap(), disk);
    }
}

#[test]
fn refuses_bad_disks() {
    let upload = |bytes: i64| json!({"creationData": {"createOption": "Upload", "uploadSizeBytes": bytes}});
    for (sku, properties, text) in [
        (
            "Standard_LRS",
            json!({}),
            "Required parameter 'disk.properties.creationData.createOption' is missing (null).",
        ),
        (
            "Standard_LRS",
            json!({"creationData": {"createOption": "Empty"}}),
            "Required parameter 'disk.properties.diskSizeGB' is missing (null).",
        ),
        ("Standard_LRS", empty(0), "The value 0 of parameter disk.properties.diskSizeGB is out of range."),
        ("Standard_LRS", empty(32_768), "The value 32768 of parameter"),
        (
            "Standard_LRS",
            json!({"creationData": {"createOption": "Upload"}}),
            "Required parameter 'disk.properties.creationData.uploadSizeBytes' is missing",
        ),
        (
            "Standard_LRS",
            upload(20_972_031),
            "The value 20972031 of parameter disk.properties.creationData.uploadSizeBytes is out of range. The value must be between 20972032 and 35183298347520, inclusive.",
        ),
        (
            "Standard_LRS",
            upload(1_074_790_400),
            "The value 1074790400 of parameter disk.properties.creationData.uploadSizeBytes is invalid. The size of a fixed VHD is a whole number of MiB plus 512",
        ),
        (
            "Standard_LRS",
            json!({"creationData": {"createOption": "FromImage"}}),
            "Required parameter 'disk.properties.creationData.galleryImageReference.id' is missing",
        ),
        (
            "Standard_LRS",
            json!({"creationData": {"createOption": "Copy", "sourceResourceId": VERSION}}),
            "The source id: ",
        ),
        ("Standard_LRS", json!({"creationData": {"createOption": "Beam"}}), "The value 'Beam' of parameter"),
        (
            "Standard_LRS",
            json!({"creationData": {"createOption": "CopyFromSanSnapshot", "elasticSanResourceId": "x"}}),
            "Parameter 'disk.properties.creationData.createOption' is not supported",
        ),
        ("Standard_LRS", json!({"creationData": {"createOption": "Attach"}}), "The value 'Attach' of parameter"),
        (
            "Standard_LRS",
            json!({"creationData": {"createOption": "Restore"}}),
            "Required parameter 'disk.properties.creationData.sourceResourceId' is missing",
        ),
        (
            "Standard_LRS",
            json!({"creationData": {"createOption": "UploadPreparedSecure", "uploadSizeBytes": 20_972_032}}),
            "Required parameter 'disk.properties.securityProfile.securityType' is missing",
        ),
        (
            "Standard_LRS",
            json!({"creationData": {"createOption": "Empty", "logicalSectorSize": 512}, "diskSizeGB": 4}),
            "The logical sector size can only be chosen for Ultra",
        ),
        (
            "UltraSSD_LRS",
            json!({"creationData": {"createOption": "Empty", "logicalSectorSize": 1024}, "diskSizeGB": 4}),
            "The value 1024 of parameter",
        ),
        (
            "Premium_LRS",
            json!({"creationData": {"createOption": "Empty", "performancePlus": true}, "diskSizeGB": 512}),
            "The performancePlus flag can only be set on disks at least 512 GB in size.",
        ),
        (
            "UltraSSD_LRS",
            json!({"creationData": {"createOption": "Empty", "performancePlus": true}, "diskSizeGB": 1024}),
            "The performancePlus flag cannot be set on disks of SKU 'UltraSSD_LRS'",
        ),
        (
            "Standard_LRS",
            json!({"creationData": {"createOption": "Empty"}, "diskSizeGB": 4,
                "securityProfile": {"securityType": "TrustedLaunch"}, "hyperVGeneration": "V1"}),
            "The value 'V1' of parameter",
        ),
        ("Gold_LRS", empty(1), "The value 'Gold_LRS' of parameter disk.sku.name is invalid."),
        ("Premium_ZRS", empty(1), "The SKU 'Premium_ZRS' is not supported in region West US"),
    ] {
        let error = create(sku, properties).unwrap_err();
        assert!(error.message.starts_with(text), "{}", error.message);
    }
    for bad in ["", "-d", "d-", "a b", "a/b", "ü"] {
        assert!(check_name(bad).is_err(), "{bad}");
    }
}

#[test]
fn refuses_bad_updates() {
    let mut old = json!({"location": "westus", "properties": empty(20)});
    old["properties"]["hyperVGeneration"] = json!("V1");
    let old = write(&old, None).unwrap();
    for (properties, code) in [
        (json!({"diskSizeGB": 10}), "OperationNotAllowed"),
        (json!({"creationData": {"createOption": "Copy"}}), "PropertyChangeNotAllowed"),
        (json!({"creationData": {"uploadSizeBytes": 20_972_032}}), "PropertyChangeNotAllowed"),
        (json!({"hyperVGeneration": "V2"}), "PropertyChangeNotAllowed"),
        (json!({"encryption": {"diskEncryptionSetId": "x"}}), "OperationNotSupported"),
        (json!({"networkAccessPolicy": "AllowPrivate"}), "InvalidParameter"),
        (json!({"diskAccessId": ACCESS}), "InvalidParameter"),
        (json!({"networkAccessPolicy": "AllowPrivate", "diskAccessId": DISK}), "InvalidParameter"),
        (json!({"maxShares": 2}), "InvalidParameter"),
        (json!({"burstingEnabled": true}), "InvalidParameter"),
        (json!({"securityProfile": {"securityType": "ConfidentialVM_NonPersistedTPM"}}), "OperationNotSupported"),
        (json!({"encryptionSettingsCollection": {"enabled": true}}), "OperationNotSupported"),
        (json!({"purchasePlan": {"name": "n"}}), "InvalidParameter"),
        (json!({"creationData": {"performancePlus": true}}), "PropertyChangeNotAllowed"),
    ] {
        let error = write(&json!({"properties": properties}), Some(&old)).unwrap_err();
        assert_eq!(error.code, code, "{}", error.message);
    }
}

const ACCESS: &str = "/subscriptions/0000/resourceGroups/rg1/providers/Microsoft.Compute/diskAccesses/a1";

/// Every property of Swagger's `DiskUpdateProperties`.
#[test]
fn a_patch_changes_what_it_names() {
    let api = version("2025-01-02");
    let change = |old: &Value, patched: Value| {
        patch(&id("disks/d1"), &json!({"properties": patched}), old, &context(&api)).unwrap()
    };
    let premium = create("Premium_LRS", empty(1024)).unwrap();
    for (name, value) in [
        ("osType", json!("Linux")),
        ("tier", json!("P40")),
        ("burstingEnabled", json!(true)),
        ("maxShares", json!(5)),
        ("networkAccessPolicy", json!("DenyAll")),
        ("publicNetworkAccess", json!("Disabled")),
        ("dataAccessAuthMode", json!("AzureActiveDirectory")),
        ("supportsHibernation", json!(true)),
        ("optimizedForFrequentAttach", json!(true)),
        ("availabilityPolicy", json!({"actionOnDiskDelay": "AutomaticReattach"})),
        ("supportedCapabilities", json!({"architecture": "Arm64"})),
        ("purchasePlan", json!({"name": "n", "publisher": "p", "product": "o", "promotionCode": "c"})),
    ] {
        let patched = change(&premium, json!({name: value}));
        assert_eq!(patched["properties"][name], value, "{name}");
        // Sent back whole, nothing changes; a PATCH of something else keeps it.
        assert_eq!(write(&patched, Some(&patched)).unwrap(), patched, "{name}");
        assert_eq!(change(&patched, json!({"diskSizeGB": 1025}))["properties"][name], value, "{name}");
    }
    let tiered = change(&premium, json!({"tier": "P40"}));
    assert_eq!(
        (&tiered["properties"]["diskIOPSReadWrite"], &tiered["properties"]["diskMBpsReadWrite"]),
        (&json!(7500), &json!(250))
    );
    let bursting = change(&premium, json!({"burstingEnabled": true}));
    assert_eq!(bursting["properties"]["burstingEnabledTime"], "2026-01-02T03:04:05.1234567+00:00");
    assert_eq!(change(&bursting, json!({"burstingEnabled": false}))["properties"]["burstingEnabled"], false);

    let private = change(&premium, json!({"networkAccessPolicy": "AllowPrivate", "diskAccessId": ACCESS}));
    assert_eq!(disk_access(&private), ACCESS.parse().ok());
    let public = change(&private, json!({"networkAccessPolicy": "AllowAll"}));
    assert_eq!((disk_access(&public), &public["properties"]["networkAccessPolicy"]), (None, &json!("AllowAll")));
}

#[test]
fn chosen_performance() {
    let api = version("2025-01-02");
    let mut wanted = empty(200);
    wanted["diskIOPSReadWrite"] = json!(4000);
    for sku in ["UltraSSD_LRS", "PremiumV2_LRS"] {
        let disk = create(sku, wanted.clone()).unwrap();
        let p = &disk["properties"];
        assert_eq!(
            (&p["diskIOPSReadWrite"], p.get("tier"), &p["creationData"]["logicalSectorSize"]),
            (&json!(4000), None, &json!(4096))
        );
        let faster = json!({"properties": {"diskMBpsReadWrite": 200, "diskSizeGB": 300}});
        let faster = patch(&id("disks/d1"), &faster, &disk, &context(&api)).unwrap();
        let p = &faster["properties"];
        assert_eq!((&p["diskIOPSReadWrite"], &p["diskMBpsReadWrite"]), (&json!(4000), &json!(200)));
        for bad in [99, 400_001] {
            let mut properties = wanted.clone();
            properties["diskIOPSReadWrite"] = json!(bad);
            assert_eq!(create(sku, properties).unwrap_err().code, "InvalidParameter");
        }
    }
    let plus = json!({"creationData": {"createOption": "Empty", "performancePlus": true}, "diskSizeGB": 1024});
    assert_eq!(create("Premium_LRS", plus).unwrap()["properties"]["diskIOPSReadWrite"], 8000);
}

#[test]
fn other_origins() {
    const ACCOUNT: &str = "/subscriptions/0000/resourceGroups/rg1/providers/Microsoft.Storage/storageAccounts/acct";
    const URI: &str = "https://acct.blob.core.windows.net/vhds/os.vhd";
    const PLATFORM: &str = "/Subscriptions/0000/Providers/Microsoft.Compute/Locations/westus/Publishers/p/ArtifactTypes/VMImage/Offers/o/Skus/s/Versions/1.0.0";
    for (creation, expected) in [
        (
            json!({"createOption": "import", "sourceUri": URI, "storageAccountId": ACCOUNT.trim_start_matches('/')}),
            Origin::Import { uri: URI.into(), account: ACCOUNT.parse().ok(), guest_state_uri: None },
        ),
        (
            json!({"createOption": "ImportSecure", "sourceUri": URI, "securityDataUri": "v"}),
            Origin::Import { uri: URI.into(), account: None, guest_state_uri: Some("v".into()) },
        ),
        (json!({"createOption": "Restore", "sourceResourceId": DISK}), Origin::Copy(DISK.parse().unwrap())),
        (json!({"createOption": "CopyStart", "sourceResourceId": DISK}), Origin::CopyStart(DISK.parse().unwrap())),
        (
            json!({"createOption": "FromImage", "imageReference": {"id": PLATFORM, "lun": 0}}),
            Origin::Image { id: PLATFORM.parse().unwrap(), lun: Some(0) },
        ),
        (
            json!({"createOption": "UploadPreparedSecure", "uploadSizeBytes": 20_972_032}),
            Origin::Upload { vhd_bytes: 20_972_032, guest_state: true },
        ),
    ] {
        let mut disk = create(
            "Standard_LRS",
            json!({"creationData": creation, "securityProfile": {"securityType": "TrustedLaunch"}}),
        )
        .unwrap();
        assert_eq!(origin(&disk), Some(expected));
        assert_eq!(write(&disk, Some(&disk)).unwrap(), disk);
        set_completion_percent(&mut disk, 42.5);
        assert!(is_copying(&disk));
        assert!(is_copying(&write(&disk, Some(&disk)).unwrap()));
    }
}

proptest! {
    #[test]
    fn upload_sizes(mib in 20i64..33_000_000, extra in 0i64..1_048_576) {
        let of = |bytes: i64| create("Standard_LRS", json!({"creationData": {"createOption": "Upload", "uploadSizeBytes": bytes}}));
        const MIB: i64 = 1 << 20;
        prop_assert!(of(mib * MIB + FOOTER).is_ok());
        prop_assert_eq!(of(mib * MIB + extra).is_ok(), extra == FOOTER);
    }

    #[test]
    fn disks_only_grow(first in 1i64..200, second in 1i64..200) {
        let old = create("Premium_LRS", empty(first)).unwrap();
        let new = write(&json!({"properties": {"diskSizeGB": second}}), Some(&old));
        prop_assert_eq!(new.is_ok(), second >= first);
    }
}
