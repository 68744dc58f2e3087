//! Tables over the version's checks; texts as in the mission's catalogue.

use super::super::testing::{context, id, version};
use super::*;
use proptest::prelude::*;

const DISK: &str = "/subscriptions/0000/resourceGroups/rg1/providers/Microsoft.Compute/disks/d1";
const SNAPSHOT: &str = "/subscriptions/0000/resourceGroups/rg1/providers/Microsoft.Compute/snapshots/s1";
const IMAGE: &str = "/subscriptions/0000/resourceGroups/rg1/providers/Microsoft.Compute/images/i1";
const VM: &str = "/subscriptions/0000/resourceGroups/rg1/providers/Microsoft.Compute/virtualMachines/vm1";

fn body(publishing: Value, storage: Value) -> Value {
    json!({"location": "eastus2", "tags": {}, "properties": {"publishingProfile": publishing, "storageProfile": storage}})
}

fn os_disk() -> Value {
    json!({"osDiskImage": {"source": {"id": DISK}}})
}

fn create(new: &Value) -> Result<Value, ArmError> {
    update(new, None)
}

fn update(new: &Value, old: Option<&Value>) -> Result<Value, ArmError> {
    let api = version("2024-03-03");
    put(&id("galleries/g/images/i/versions/1.0.0"), new, old, &context(&api))
}

#[test]
fn as_recorded_from_snapshots() {
    let storage = json!({"osDiskImage": {"source": {"id": DISK}},
                         "dataDiskImages": [{"source": {"id": SNAPSHOT}, "lun": 2}]});
    let stored = create(&body(json!({"targetRegions": [{"name": "eastus2"}]}), storage)).unwrap();
    insta::assert_json_snapshot!(stored, @r#"
    {
      "location": "eastus2",
      "tags": {},
      "properties": {
        "publishingProfile": {
          "targetRegions": [
            {
              "name": "East US 2",
              "regionalReplicaCount": 1,
              "storageAccountType": "Standard_LRS"
            }
          ],
          "replicaCount": 1,
          "excludeFromLatest": false,
          "publishedDate": "2026-01-02T03:04:05.1234567+00:00",
          "storageAccountType": "Standard_LRS"
        },
        "storageProfile": {
          "osDiskImage": {
            "hostCaching": "ReadWrite",
            "source": {
              "id": "/subscriptions/0000/resourceGroups/rg1/providers/Microsoft.Compute/disks/d1"
            }
          },
          "dataDiskImages": [
            {
              "lun": 2,
              "hostCaching": "ReadOnly",
              "source": {
                "id": "/subscriptions/0000/resourceGroups/rg1/providers/Microsoft.Compute/snapshots/s1"
              }
            }
          ]
        },
        "safetyProfile": {
          "reportedForPolicyViolation": false,
          "allowDeletionOfReplicatedLocations": false
        }
      }
    }
    "#);
    let Some(Source::Disks { os: Some(DiskOrBlob::Resource(os)), data }) = source(&stored) else {
        panic!("disks were expected");
    };
    assert_eq!((os.to_string().as_str(), data.len(), data[0].lun), (DISK, 1, 2));
}

#[test]
fn rp1_rp4_rp6_regions_are_normalised() {
    let publishing = json!({"replicaCount": 2, "targetRegions": [
        {"name": "West US 2", "regionalReplicaCount": "1", "storageAccountType": "premium_lrs"},
        {"name": "EASTUS2"}, {"name": "China North 2", "excludeFromLatest": true}]});
    let stored = create(&body(publishing, os_disk())).unwrap();
    let regions = target_regions(&stored);
    let shown: Vec<_> =
        regions.iter().map(|r| (r.name.as_str(), r.replica_count, r.storage_account_type.as_str())).collect();
    assert_eq!(
        shown,
        [("westus2", 1, "Premium_LRS"), ("eastus2", 2, "Standard_LRS"), ("chinanorth2", 2, "Standard_LRS")]
    );
    assert!(is_latest_candidate(&stored, "eastus2"));
    assert!(!is_latest_candidate(&stored, "chinanorth2") && !is_latest_candidate(&stored, "westus"));
}

#[test]
fn iv16_regions_default_to_the_location() {
    let stored = create(&json!({"location": "eastus2", "properties": {"storageProfile": os_disk()}})).unwrap();
    assert_eq!(target_regions(&stored).iter().map(|r| r.name.as_str()).collect::<Vec<_>>(), ["eastus2"]);
}

#[test]
fn refuses_bad_regions() {
    let path = "galleryImageVersion.properties.publishingProfile.";
    for (publishing, text) in [
        (
            json!({"targetRegions": [{"name": "eastus2"}, {"name": "East US 2"}]}),
            "Duplicate regions are not allowed in target publishing regions",
        ),
        (
            json!({"targetRegions": [{"name": "westus"}]}),
            "Gallery image version publishing profile regions West US must contain the location of image version eastus2",
        ),
        (
            json!({"targetRegions": [{"name": "eastus2"}, {"name": "atlantis"}]}),
            "The region 'atlantis' in target publishing regions is not",
        ),
        (
            json!({"targetRegions": [{}]}),
            "Required parameter 'galleryImageVersion.properties.publishingProfile.targetRegions.name' is missing (null).",
        ),
        (
            json!({"targetRegions": [{"name": "eastus2", "regionalReplicaCount": 0}]}),
            "The value 0 of parameter galleryImageVersion.properties.publishingProfile.targetRegions.regionalReplicaCount is out of range. The value must be between 1 and 100, inclusive",
        ),
        (
            json!({"replicaCount": 101}),
            "The value 101 of parameter galleryImageVersion.properties.publishingProfile.replicaCount is out of range",
        ),
        (
            json!({"targetRegions": [{"name": "eastus2"}, {"name": "westus", "storageAccountType": "standard_zrs"}]}),
            "ZRS storage account type is not supported in this region.",
        ),
        (
            json!({"storageAccountType": "floppy"}),
            "The value 'floppy' of parameter galleryImageVersion.properties.publishingProfile.storageAccountType is invalid.",
        ),
        (json!({"replicationMode": "Shallow", "replicaCount": 2}), "The value 2 of parameter"),
        (json!({"endOfLifeDate": "2024-12-02T00:00:00Z"}), "EndOfLifeDate must be set to a future date."),
        (
            json!({"targetRegions": "eastus2"}),
            "The value of parameter galleryImageVersion.properties.publishingProfile.targetRegions is invalid",
        ),
    ] {
        let error = create(&body(publishing, os_disk())).unwrap_err();
        assert!(error.message.starts_with(text), "{}", error.message);
        assert!(error.target.as_deref().is_some_and(|t| t.starts_with(path)), "{:?}", error.target);
        assert_eq!(error.status, 400);
    }
}

#[test]
fn iv4_exactly_one_source_kind() {
    let one = "The gallery artifact version source can only be specified either directly";
    for (storage, text) in [
        (json!({}), one),
        (json!({"source": {"id": IMAGE}, "osDiskImage": {"source": {"id": DISK}}}), one),
        (json!({"source": {"id": IMAGE, "virtualMachineId": VM}}), one),
        (json!({"source": {"id": DISK}}), "The source id: "),
        (json!({"osDiskImage": {"source": {"id": IMAGE}}}), "The source id: "),
        (
            json!({"source": {"id": "nonsense"}}),
            "Property id 'nonsense' at path 'properties.storageProfile.source.id' is invalid. Expect fully qualified",
        ),
        (
            json!({"osDiskImage": {"source": {"uri": "https://a/v/os.vhd", "id": DISK}}}),
            "The gallery artifact version source can only be specified either directly",
        ),
        (
            json!({"osDiskImage": {"source": {"id": DISK}}, "dataDiskImages": [{"lun": 1, "source": {"id": DISK.to_uppercase()}}]}),
            "OSDiskImage and DataDiskImage cannot point to same blob",
        ),
        (
            json!({"osDiskImage": {"source": {"id": DISK}}, "dataDiskImages": [{"lun": 1, "source": {"id": SNAPSHOT}}, {"lun": 1, "source": {"id": IMAGE}}]}),
            "Duplicated lun numbers",
        ),
        (
            json!({"osDiskImage": {"source": {"id": DISK}}, "dataDiskImages": [{"lun": 1, "source": {"id": SNAPSHOT}}, {"lun": 2, "source": {"id": SNAPSHOT}}]}),
            "Duplicated source ids",
        ),
        (
            json!({"osDiskImage": {"source": {"id": DISK}}, "dataDiskImages": [{"source": {"id": SNAPSHOT}}]}),
            "Required parameter",
        ),
        (
            json!({"osDiskImage": {"source": {"id": DISK}}, "dataDiskImages": [{"lun": 64, "source": {"id": SNAPSHOT}}]}),
            "The value 64 of parameter",
        ),
        (
            json!({"dataDiskImages": [{"lun": 1, "source": {"id": SNAPSHOT}}]}),
            "Required parameter 'galleryImageVersion.properties.storageProfile.osDiskImage.source.id' is missing",
        ),
    ] {
        let error = create(&body(json!({}), storage)).unwrap_err();
        assert!(error.message.starts_with(text), "{}", error.message);
    }
}

#[test]
fn iv5_sources_of_every_kind() {
    let of = |storage: Value| source(&create(&body(json!({}), storage)).unwrap()).unwrap();
    assert_eq!(of(json!({"source": {"id": VM}})), Source::Resource(VM.parse().unwrap()));
    assert_eq!(of(json!({"source": {"virtualMachineId": VM}})), Source::VirtualMachine(VM.parse().unwrap()));
    let account = "/subscriptions/0000/resourceGroups/rg1/providers/Microsoft.Storage/storageAccounts/a";
    for blob in [
        json!({"uri": "https://a/vhds/os.vhd", "storageAccountId": account}),
        json!({"uri": "https://a/vhds/os.vhd", "id": account}),
    ] {
        let Source::Disks { os: Some(DiskOrBlob::Blob { uri, storage_account }), .. } =
            of(json!({"osDiskImage": {"source": blob}}))
        else {
            panic!("a blob was expected");
        };
        assert_eq!((uri.as_str(), storage_account.as_deref()), ("https://a/vhds/os.vhd", Some(account)));
    }
}

#[test]
fn the_source_of_2019_03_01() {
    let api = version("2019-03-01");
    let new = json!({"location": "eastus2", "properties": {"publishingProfile": {"source": {"managedImage": {"id": IMAGE}}}}});
    let stored = put(&id("galleries/g/images/i/versions/1.0.0"), &new, None, &context(&api)).unwrap();
    assert_eq!(stored["properties"]["storageProfile"], json!({"source": {"id": IMAGE}}));
    let shown = |api: &ApiVersion| show(&stored, api, Expand::default());
    assert_eq!(shown(&api)["properties"]["publishingProfile"]["source"]["managedImage"]["id"], IMAGE);
    let later = shown(&version("2019-12-01"));
    assert_eq!(later["properties"]["publishingProfile"], stored["properties"]["publishingProfile"]);
    assert_eq!(later["properties"].get("safetyProfile"), None, "recorded for 2020-09-30");
    assert_eq!(shown(&version("2022-03-03")), stored);
}

#[test]
fn updates_keep_what_they_do_not_say() {
    let first = json!({"replicaCount": 1, "endOfLifeDate": "2027-01-01T00:00:00.000Z",
                       "targetRegions": [{"name": "eastus2", "storageAccountType": "premium_lrs"}]});
    let mut old = create(&body(first, os_disk())).unwrap();
    old["properties"]["storageProfile"]["osDiskImage"]["sizeInGB"] = json!(2);

    let mut untouched = update(&json!({"location": "eastus2", "tags": {}}), Some(&old)).unwrap();
    assert_eq!(untouched, old);

    // az sig image-version update: no source, no storage type of the region (az-cli.md §2.10).
    let new = body(
        json!({"excludeFromLatest": true, "endOfLifeDate": "2027-01-01T00:00:00+00:00", "replicaCount": 2,
               "targetRegions": [{"name": "westus2", "regionalReplicaCount": 1}, {"name": "eastus2"}]}),
        json!({"osDiskImage": {"hostCaching": "ReadWrite"}}),
    );
    untouched = update(&new, Some(&old)).unwrap();
    let regions: Vec<_> =
        target_regions(&untouched).into_iter().map(|r| (r.name, r.replica_count, r.storage_account_type)).collect();
    assert_eq!(regions, [("westus2".into(), 1, "Standard_LRS".into()), ("eastus2".into(), 2, "Premium_LRS".into())]);
    let properties = &untouched["properties"];
    assert_eq!(properties["storageProfile"], old["properties"]["storageProfile"]);
    assert_eq!(
        properties["publishingProfile"]["publishedDate"],
        old["properties"]["publishingProfile"]["publishedDate"]
    );
    assert_eq!(properties["publishingProfile"]["excludeFromLatest"], true);
}

#[test]
fn immutable_properties() {
    let old = create(&body(json!({"targetRegions": [{"name": "eastus2"}]}), os_disk())).unwrap();
    let storage = "galleryImageVersion.properties.storageProfile.";
    let publishing = "galleryImageVersion.properties.publishingProfile.";
    for (new, path) in [
        (
            body(json!({}), json!({"osDiskImage": {"source": {"id": SNAPSHOT}}})),
            format!("{storage}osDiskImage.source.id"),
        ),
        (body(json!({}), json!({"source": {"id": IMAGE}})), format!("{storage}source.id")),
        (body(json!({}), json!({"osDiskImage": {"hostCaching": "None"}})), format!("{storage}osDiskImage.hostCaching")),
        (body(json!({"storageAccountType": "Premium_LRS"}), json!({})), format!("{publishing}storageAccountType")),
        (body(json!({"replicationMode": "Shallow"}), json!({})), format!("{publishing}replicationMode")),
        (
            body(json!({"targetRegions": [{"name": "eastus2", "storageAccountType": "Premium_LRS"}]}), json!({})),
            format!("{publishing}targetRegions.storageAccountType"),
        ),
    ] {
        let error = update(&new, Some(&old)).unwrap_err();
        assert_eq!((error.status, error.code.as_str()), (409, "PropertyChangeNotAllowed"), "{path}");
        assert_eq!(error.message, format!("Changing property '{path}' is not allowed."));
    }
    let adding = body(json!({}), json!({"dataDiskImages": [{"lun": 0, "source": {"id": SNAPSHOT}}]}));
    let error = update(&adding, Some(&old)).unwrap_err();
    assert_eq!((error.status, error.code.as_str()), (409, "PropertyChangeNotAllowed"));
    let text = "Adding new Data Disks or changing the LUN of a Data Disk in an existing Image is not allowed.";
    assert_eq!(error.message, text);
    let same =
        body(json!({"replicationMode": "Full"}), json!({"osDiskImage": {"source": {"id": DISK.to_uppercase()}}}));
    assert!(update(&same, Some(&old)).is_ok());
    let error = update(&json!({"location": "westus"}), Some(&old)).unwrap_err();
    assert_eq!(error.code, "InvalidResourceLocation");
}

#[test]
fn iv12_block_deletion_before_end_of_life() {
    let mut new = body(json!({"endOfLifeDate": "2027-01-01"}), os_disk());
    new["properties"]["safetyProfile"] = json!({"blockDeletionBeforeEndOfLife": true});
    let stored = create(&new).unwrap();
    let error = check_delete(&stored, "2026-06-01T00:00:00Z".parse().unwrap()).unwrap_err();
    assert_eq!((error.status, error.code.as_str()), (409, "DeleteGalleryImageVersionBlockedBeforeEndOfLife"));
    check_delete(&stored, "2027-01-01T00:00:00Z".parse().unwrap()).unwrap();
}

#[test]
fn regions_are_taken_away_only_where_that_is_allowed() {
    let old = create(&body(json!({"targetRegions": [{"name": "eastus2"}, {"name": "westus2"}]}), os_disk())).unwrap();
    let mut fewer = body(json!({"targetRegions": [{"name": "eastus2"}, {"name": "eastus"}]}), json!({}));
    let error = update(&fewer, Some(&old)).unwrap_err();
    assert_eq!((error.status, error.code.as_str()), (400, "BadRequest"));
    assert!(error.message.starts_with(
        "Complete set of target locations not specified while updating gallery artifact '1.0.0' and type 'GalleryImageVersion'. \
         Deletion of previously replicated locations is not allowed,"
    ));
    // Versions of the API that know no safety profile: as ever.
    let api = version("2021-10-01");
    let before = put(&id("galleries/g/images/i/versions/1.0.0"), &fewer, Some(&old), &context(&api)).unwrap();
    assert_eq!(target_regions(&before).len(), 2);
    // No regions: those that are there.
    for keeps in [json!({"targetRegions": []}), json!({"targetRegions": null}), json!({})] {
        assert_eq!(target_regions(&update(&body(keeps, json!({})), Some(&old)).unwrap()), target_regions(&old));
    }
    fewer["properties"]["safetyProfile"] = json!({"allowDeletionOfReplicatedLocations": true});
    let new = update(&fewer, Some(&old)).unwrap();
    assert_eq!(new["properties"]["safetyProfile"]["allowDeletionOfReplicatedLocations"], true);
    // It is kept, and counts for later updates.
    let one = body(json!({"targetRegions": [{"name": "eastus2"}]}), json!({}));
    assert_eq!(target_regions(&update(&one, Some(&new)).unwrap()).len(), 1);
}

#[test]
fn gs13_hv4_id9_facts_of_source_and_definition() {
    let definition = json!({"properties": {"osType": "Linux", "osState": "Generalized", "hyperVGeneration": "V2",
        "architecture": "x64", "purchasePlan": {"name": "n", "publisher": "p", "product": "q"}}});
    let all = SourceFacts::of_definition(&definition);
    all.check("/x", &definition).unwrap();
    SourceFacts::default().check("/x", &definition).unwrap();
    let text = |s: &str| Some(s.to_owned());
    SourceFacts { generation: text("v2"), ..all.clone() }.check("/x", &definition).unwrap();
    let start = "The resource with id '/x' has a different";
    for (facts, expected) in [
        (
            SourceFacts { os_state: text("Specialized"), ..all.clone() },
            format!("{start} OS state ['Specialized'] than the parent gallery image OS state ['Generalized']."),
        ),
        (
            SourceFacts { os_type: text("Windows"), ..all.clone() },
            format!("{start} OS type ['Windows'] than the parent gallery image OS type ['Linux']."),
        ),
        (
            SourceFacts { generation: text("V1"), ..all.clone() },
            format!("{start} Hypervisor generation ['V1'] than the parent gallery image Hypervisor generation ['V2']."),
        ),
        (
            SourceFacts { plan: Some(None), ..all.clone() },
            format!(
                "{start} plan ['null'] than the parent gallery image plan \
                 ['{{\"name\":\"n\",\"publisher\":\"p\",\"product\":\"q\"}}']."
            ),
        ),
    ] {
        let error = facts.check("/x", &definition).unwrap_err();
        assert_eq!((error.status, error.code.as_str(), error.message), (400, "BadRequest", expected));
    }
}

#[test]
fn storage_strategies() {
    let regions =
        json!([{"name": "eastus2"}, {"name": "westus"}, {"name": "westus2", "storageAccountType": "Premium_LRS"}]);
    let of = |strategy: &str| {
        create(&body(json!({"targetRegions": regions, "storageAccountStrategy": strategy}), os_disk())).unwrap()
    };
    let types = |stored: &Value| target_regions(stored).into_iter().map(|r| r.storage_account_type).collect::<Vec<_>>();
    let prefer = of("preferstandard_zrs");
    assert_eq!(types(&prefer), ["Standard_ZRS", "Standard_LRS", "Premium_LRS"]);
    assert_eq!(types(&of("DefaultStandard_LRS")), ["Standard_LRS", "Standard_LRS", "Premium_LRS"]);
    assert_eq!(update(&prefer, Some(&prefer)).unwrap(), prefer);
    let both = json!({"storageAccountStrategy": "DefaultStandard_LRS", "storageAccountType": "Premium_LRS"});
    let error = create(&body(both, os_disk())).unwrap_err();
    assert!(error.message.ends_with("is not allowed: it cannot be given along with storageAccountType."), "{error}");
}

/// 32 zeros.
const HASH: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

#[test]
fn uefi_keys_that_firmware_would_not_take_are_refused() {
    let refused = |signatures: Value| {
        let mut new = body(json!({}), os_disk());
        new["properties"]["securityProfile"] = json!({"uefiSettings": {"additionalSignatures": signatures}});
        let error = create(&new).unwrap_err();
        assert_eq!(error.code, "InvalidParameter");
        error.message.rsplit_once("additionalSignatures.").unwrap().1.to_owned()
    };
    let x509 = |value: &str| json!({"type": "x509", "value": [value]});
    insta::assert_snapshot!(refused(json!({"db": [x509("-----BEGIN CERTIFICATE-----")]})), @"db.value is invalid: a certificate as Base64 of its DER form is expected.");
    insta::assert_snapshot!(refused(json!({"db": [x509("MAAA")]})), @"db.value is invalid: a certificate as Base64 of its DER form is expected.");
    insta::assert_snapshot!(refused(json!({"dbx": [{"type": "sha256", "value": ["MAA="]}]})), @"dbx.value is invalid: a SHA-256 hash as Base64 of its 32 bytes is expected.");
    insta::assert_snapshot!(refused(json!({"pk": {"type": "sha256", "value": [HASH]}})), @"pk is invalid: a platform key is one certificate (x509).");
    insta::assert_snapshot!(refused(json!({"pk": {"type": "x509", "value": ["MAA=", "MAA="]}})), @"pk is invalid: a platform key is one certificate (x509).");
    insta::assert_snapshot!(refused(json!({"dbx": [{"type": "sha256", "value": vec![HASH; 432]}]})), @"dbx is invalid: its keys take 32832 bytes, and firmware takes 32768.");
}

#[test]
fn uefi_settings_are_shown_to_who_asks() {
    let mut new = body(json!({}), os_disk());
    new["properties"]["securityProfile"] = json!({"uefiSettings": {
        "signatureTemplateNames": ["microsoftueficertificateauthoritytemplate"],
        "additionalSignatures": {"pk": {"type": "X509", "value": ["MAA="]}, "db": [{"type": "sha256", "value": [HASH]}]}}});
    let stored = create(&new).unwrap();
    let settings = json!({
        "signatureTemplateNames": ["MicrosoftUefiCertificateAuthorityTemplate"],
        "additionalSignatures": {"pk": {"type": "x509", "value": ["MAA="]}, "db": [{"type": "sha256", "value": [HASH]}]}});
    let api = version("2024-03-03");
    let asked = show(&stored, &api, Expand { uefi_settings: true, validations: false });
    assert_eq!(asked["properties"]["securityProfile"]["uefiSettings"], settings);
    assert!(show(&stored, &api, Expand::default())["properties"].get("securityProfile").is_none());
    // Kept by an update that does not speak of it, and fixed.
    assert_eq!(update(&json!({"location": "eastus2", "tags": {}}), Some(&stored)).unwrap(), stored);
    new["properties"]["securityProfile"]["uefiSettings"]["signatureTemplateNames"] = json!(["NoSignatureTemplate"]);
    let error = update(&new, Some(&stored)).unwrap_err();
    assert_eq!(error.message, "Changing property 'galleryImageVersion.properties.securityProfile' is not allowed.");
    let start = "The value 'md5' of parameter galleryImageVersion.properties.securityProfile.uefiSettings.additionalSignatures.kek.type";
    new["properties"]["securityProfile"] =
        json!({"uefiSettings": {"additionalSignatures": {"kek": [{"type": "md5", "value": ["x"]}]}}});
    let error = create(&new).unwrap_err();
    assert!(error.message.starts_with(start), "{error}");
}

#[test]
fn no_validation_is_claimed_that_did_not_run() {
    let stored = create(&body(json!({}), os_disk())).unwrap();
    let shown = show(&stored, &version("2024-03-03"), Expand { validations: true, ..Expand::default() });
    let profile = &shown["properties"]["validationsProfile"];
    assert_eq!(profile["executedValidations"], json!([]));
    assert_eq!(profile["validationEtag"], stored["properties"]["publishingProfile"]["publishedDate"]);
}

#[test]
fn restores_are_asked_for_in_two_ways() {
    for (body, asks) in [
        (json!({"location": "eastus"}), true),
        (json!({"location": "eastus", "tags": {}, "properties": null}), true),
        (json!({"properties": {"restore": true, "storageProfile": {}}}), true),
        (json!({"location": "eastus", "properties": {"storageProfile": {}}}), false),
        (body(json!({}), os_disk()), false),
    ] {
        assert_eq!(asks_for_restore(&body).unwrap(), asks, "{body}");
    }
}

#[test]
fn iv9_sizes_and_caching_of_read_disks() {
    let storage = json!({"osDiskImage": {"source": {"id": DISK}, "hostCaching": "None"},
        "dataDiskImages": [{"source": {"id": SNAPSHOT}, "lun": 5}]});
    let mut stored = create(&body(json!({}), storage)).unwrap();
    show_disks(&mut stored, (30, "ReadWrite"), &[(5, 10, "None")]);
    let profile = &stored["properties"]["storageProfile"];
    assert_eq!(profile["osDiskImage"], json!({"sizeInGB": 30, "hostCaching": "None", "source": {"id": DISK}}));
    let data = json!([{"lun": 5, "sizeInGB": 10, "hostCaching": "ReadOnly", "source": {"id": SNAPSHOT}}]);
    assert_eq!(profile["dataDiskImages"], data);
    // From a managed image, as recorded.
    let mut stored = create(&body(json!({}), json!({"source": {"id": IMAGE}}))).unwrap();
    show_disks(&mut stored, (30, "ReadWrite"), &[(0, 10, "None")]);
    let shown = json!({"source": {"id": IMAGE}, "osDiskImage": {"sizeInGB": 30, "hostCaching": "ReadWrite", "source": {}},
        "dataDiskImages": [{"lun": 0, "sizeInGB": 10, "hostCaching": "None"}]});
    assert_eq!(stored["properties"]["storageProfile"], shown);
    assert_eq!(source(&stored), Some(Source::Resource(IMAGE.parse().unwrap())));
}

fn spelling(name: &'static str) -> impl Strategy<Value = String> {
    prop::collection::vec(any::<bool>(), name.len()).prop_map(move |upper| {
        name.chars().zip(upper).map(|(c, u)| if u { c.to_ascii_uppercase() } else { c }).collect()
    })
}

proptest! {
    /// Whatever the spelling, a region is stored under one name, and storing it again changes nothing.
    #[test]
    fn normalising_is_stable(
        home in prop_oneof![spelling("eastus2"), spelling("east us 2")],
        other in prop_oneof![spelling("westus"), spelling("west us"), spelling("westus2")],
        count in 1i64..=100,
        storage in prop_oneof![spelling("standard_lrs"), spelling("premium_lrs")],
    ) {
        let publishing = json!({"targetRegions": [{"name": home, "regionalReplicaCount": count}, {"name": other, "storageAccountType": storage}]});
        let stored = create(&body(publishing, os_disk())).unwrap();
        let regions = target_regions(&stored);
        prop_assert_eq!(&regions[0].name, "eastus2");
        prop_assert_eq!(&regions[1].name, &other.replace(' ', "").to_ascii_lowercase());
        prop_assert!(regions[1].storage_account_type.eq_ignore_ascii_case(&storage));
        prop_assert_eq!(update(&stored, Some(&stored)).unwrap(), stored);
    }

    /// Hostile bodies are refused or stored, never a panic.
    #[test]
    fn never_panics(value in any_json()) {
        let _ = create(&value);
        let _ = create(&body(value.clone(), os_disk()));
        let _ = create(&body(json!({"targetRegions": [value.clone()]}), os_disk()));
        let _ = create(&body(json!({}), value.clone()));
        let old = create(&body(json!({}), os_disk())).unwrap();
        let _ = update(&body(value.clone(), value), Some(&old));
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let key = prop_oneof![
        "name",
        "id",
        "source",
        "lun",
        "targetRegions",
        "osDiskImage",
        "dataDiskImages",
        "location",
        "properties",
        "replicaCount"
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        Just(json!("eastus2")),
    ];
    leaf.prop_recursive(4, 32, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key.clone(), inner), 0..4).prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

/// Swagger example `GalleryImageVersion_Create_WithCommunityImageVersionAsSource`.
#[test]
fn a_community_image_as_source() {
    let of = |source: Value| body(json!({}), json!({"source": source}));
    let image = "/communityGalleries/pub-1/images/i";
    let given = of(json!({"communityGalleryImageId": image}));
    let stored = create(&given).unwrap();
    assert_eq!(stored["properties"]["storageProfile"], json!({"source": {"communityGalleryImageId": image}}));
    let Some(Source::Community(found)) = source(&stored) else { panic!("a community image was expected") };
    assert_eq!(found.to_string(), "/CommunityGalleries/pub-1/Images/i");
    assert_eq!(update(&given, Some(&stored)).unwrap(), stored);
    let other = of(json!({"communityGalleryImageId": format!("{image}2")}));
    assert_eq!(update(&other, Some(&stored)).unwrap_err().code, "PropertyChangeNotAllowed");
    for bad in [
        json!({"communityGalleryImageId": "pub-1"}),
        json!({"communityGalleryImageId": "/SharedGalleries/g/Images/i"}),
        json!({"communityGalleryImageId": image, "virtualMachineId": VM}),
        json!({"communityGalleryImageId": image, "id": IMAGE}),
    ] {
        assert_eq!(create(&of(bad.clone())).unwrap_err().code, "InvalidParameter", "{bad}");
    }
}
