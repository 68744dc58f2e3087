use super::super::testing::{context, id, version};
use super::*;
use proptest::prelude::*;

const ONE: &str = "34a4ab42-0d72-47d9-bd1a-aed207386dac";
const TWO: &str = "380fd389-260b-41aa-bad9-0a83108c370b";

fn create(properties: Value) -> Result<Value, ArmError> {
    let api = version("2026-03-03");
    put(&id("galleries/gal1"), &json!({"location": "eastus", "properties": properties}), None, &context(&api))
}

fn update(properties: Value, old: &Value) -> Result<Value, ArmError> {
    let api = version("2026-03-03");
    put(&id("galleries/gal1"), &json!({"location": "eastus", "properties": properties}), Some(old), &context(&api))
}

#[test]
fn az_sig_create_and_update() {
    let api = version("2026-03-03");
    let ctx = context(&api);
    let id = id("galleries/gal1");
    let body = put(&id, &json!({"location": "eastus"}), None, &ctx).unwrap();
    assert_eq!(body, json!({"location": "eastus", "properties": {"identifier": {"uniqueName": "0000-GAL1"}}}));
    let sharing = json!({"identifier": {}, "description": "d", "sharingProfile": {"permissions": "groups"}});
    let updated = update(sharing, &body).unwrap();
    assert_eq!(updated["properties"]["sharingProfile"]["permissions"], "Groups");
    assert_eq!(updated["properties"]["identifier"]["uniqueName"], "0000-GAL1");
    let patched =
        patch(&id, &json!({"tags": {"k": "v"}, "properties": {"description": null}}), &updated, &ctx).unwrap();
    assert_eq!(patched["tags"], json!({"k": "v"}));
    assert!(patched["properties"].get("description").is_none());
    assert_eq!(patched["properties"]["sharingProfile"]["permissions"], "Groups");
}

#[test]
fn names() {
    let long = "g".repeat(81);
    for bad in ["my-gallery", "_g", "g_", "", "gä", "a b", long.as_str()] {
        assert!(check_name(bad).unwrap_err().message.starts_with("Gallery name is invalid."), "{bad}");
    }
    let error = check_name("g.").unwrap_err();
    assert_eq!(
        error.message,
        "The provided resource name 'g.' has these invalid trailing characters: '.'. The name can not end with \
         characters: '.'."
    );
    for good in ["g", "my_gallery.1", &"g".repeat(80)] {
        check_name(good).unwrap();
    }
}

#[test]
fn refuses_moves_and_what_is_not_there() {
    let api = version("2026-03-03");
    let ctx = context(&api);
    let id = id("galleries/gal1");
    let old = put(&id, &json!({"location": "eastus"}), None, &ctx).unwrap();
    for (body, old, status, code) in [
        (json!({"location": "westus"}), Some(&old), 409, "InvalidResourceLocation"),
        (json!({}), None, 400, "LocationRequired"),
        (json!({"location": "mars"}), None, 400, "LocationNotAvailableForResourceType"),
        (json!({"location": "eastus", "properties": []}), None, 400, "InvalidParameter"),
        (json!({"location": "eastus", "identity": {"type": "SystemAssigned"}}), None, 400, "OperationNotSupported"),
        (
            json!({"location": "eastus", "properties": {"softDeletePolicy": {"gracePeriodInDays": 3}}}),
            None,
            400,
            "OperationNotSupported",
        ),
    ] {
        let error = put(&id, &body, old, &ctx).unwrap_err();
        assert_eq!((error.status, error.code.as_str()), (status, code), "{body}");
    }
}

#[test]
fn soft_delete_policies() {
    let none = create(json!({})).unwrap();
    assert_eq!(SoftDelete::of(&none), SoftDelete { enabled: false, retention_days: 7 });
    let enabled = update(json!({"softDeletePolicy": {"isSoftDeleteEnabled": true}}), &none).unwrap();
    assert_eq!(SoftDelete::of(&enabled), SoftDelete { enabled: true, retention_days: 7 });
    assert_eq!(enabled["properties"]["softDeletePolicy"], json!({"isSoftDeleteEnabled": true}));
    // An update that does not speak of it leaves it on.
    assert!(SoftDelete::of(&update(json!({"description": "d"}), &enabled).unwrap()).enabled);
    let longer = update(json!({"softDeletePolicy": {"retentionPeriodInDays": 14}}), &enabled).unwrap();
    assert_eq!(SoftDelete::of(&longer), SoftDelete { enabled: true, retention_days: 14 });
    let off = update(json!({"softDeletePolicy": {"isSoftDeleteEnabled": "false"}}), &longer).unwrap();
    assert!(!SoftDelete::of(&off).enabled);
    let error = create(json!({"softDeletePolicy": {"retentionPeriodInDays": 0}})).unwrap_err();
    assert!(error.message.ends_with("is out of range. The value must be between 1 and 90, inclusive."), "{error}");
}

/// Request and answer of the recording test_update_gallery_permissions.
#[test]
fn a_community_gallery_as_recorded() {
    let info = json!({"eula": "eula", "publicNamePrefix": "pubName", "publisherContact": "test@123.com", "publisherUri": "pubUri"});
    let body = create(json!({"sharingProfile": {"permissions": "Community", "communityGalleryInfo": info}})).unwrap();
    let shown = json!({"permissions": "Community", "communityGalleryInfo": {
        "communityGalleryEnabled": false, "publisherUri": "pubUri", "publisherContact": "test@123.com", "eula": "eula",
        "publicNamePrefix": "pubName", "publicNames": ["pubName-00000000-0000-0000-0000-000000000011"]}});
    assert_eq!(body["properties"]["sharingProfile"], shown);
    assert!(!is_shared(&body));

    let (enabled, answer) = share(&body, &json!({"operationType": "enablecommunity"})).unwrap();
    assert_eq!(answer, json!({"operationType": "EnableCommunity"}));
    assert!(is_shared(&enabled));
    // Sent back by a client, with what is read-only in it.
    assert_eq!(update(enabled["properties"].clone(), &enabled).unwrap(), enabled);
    let (reset, _) = share(&enabled, &json!({"operationType": "Reset"})).unwrap();
    assert_eq!(reset["properties"]["sharingProfile"], json!({"permissions": "Private"}));
    assert!(!is_shared(&reset));
}

#[test]
fn permissions_change_only_as_azure_allows() {
    let community = json!({"permissions": "Community", "communityGalleryInfo":
        {"eula": "e", "publicNamePrefix": "prefix", "publisherContact": "c", "publisherUri": "u"}});
    let private = create(json!({})).unwrap();
    let open = create(json!({"sharingProfile": community})).unwrap();
    let groups = create(json!({"sharingProfile": {"permissions": "Groups"}})).unwrap();
    let (shared, _) =
        share(&groups, &json!({"operationType": "Add", "groups": [{"type": "subscriptions", "ids": [ONE]}]})).unwrap();
    for (wanted, old) in [
        (community.clone(), &private),
        (community, &groups),
        (json!({"permissions": "Private"}), &open),
        (json!({"permissions": "Groups"}), &open),
        (json!({"permissions": "Private"}), &shared),
    ] {
        let error = update(json!({"sharingProfile": wanted}), old).unwrap_err();
        assert_eq!((error.status, error.code.as_str()), (409, "PropertyChangeNotAllowed"));
        assert_eq!(error.message, "Changing property 'gallery.properties.sharingProfile.permissions' is not allowed.");
    }
    update(json!({"sharingProfile": {"permissions": "Private"}}), &groups).unwrap();
    let mut prefix = open["properties"].clone();
    prefix["sharingProfile"]["communityGalleryInfo"]["publicNamePrefix"] = json!("another");
    assert_eq!(update(prefix, &open).unwrap_err().code, "PropertyChangeNotAllowed");
    let lacking = json!({"sharingProfile": {"permissions": "Community", "communityGalleryInfo": {"eula": "e", "publicNamePrefix": "prefix"}}});
    assert_eq!(
        create(lacking).unwrap_err().message,
        "Required parameter 'gallery.properties.sharingProfile.communityGalleryInfo.publisherUri' is missing (null)."
    );
    let uninvited = json!({"sharingProfile": {"permissions": "Groups", "communityGalleryInfo": {"eula": "e"}}});
    assert_eq!(
        create(uninvited).unwrap_err().message,
        "Parameter 'gallery.properties.sharingProfile.communityGalleryInfo' is not allowed."
    );
}

#[test]
fn groups_are_added_removed_and_shown_on_demand() {
    let gallery = create(json!({"sharingProfile": {"permissions": "Groups"}})).unwrap();
    let request = |operation: &str, kind: &str, ids: Value| json!({"operationType": operation, "groups": [{"type": kind, "ids": ids}]});
    let (gallery, answer) = share(&gallery, &request("Add", "Subscriptions", json!([ONE, TWO]))).unwrap();
    assert_eq!(answer, json!({"operationType": "Add", "groups": [{"type": "Subscriptions", "ids": [ONE, TWO]}]}));
    let (gallery, _) = share(&gallery, &request("Add", "AADTenants", json!([ONE]))).unwrap();
    let (gallery, _) = share(&gallery, &request("Add", "Subscriptions", json!([ONE.to_uppercase()]))).unwrap();
    let all = json!([{"type": "Subscriptions", "ids": [ONE, TWO]}, {"type": "AADTenants", "ids": [ONE]}]);
    assert_eq!(show(&gallery, true)["properties"]["sharingProfile"]["groups"], all);
    assert_eq!(show(&gallery, false)["properties"]["sharingProfile"], json!({"permissions": "Groups"}));
    let (gallery, _) = share(&gallery, &request("Remove", "subscriptions", json!([TWO.to_uppercase()]))).unwrap();
    let (gallery, _) = share(&gallery, &request("Remove", "AADTenants", json!([ONE]))).unwrap();
    let left = json!([{"type": "Subscriptions", "ids": [ONE]}]);
    assert_eq!(gallery["properties"]["sharingProfile"]["groups"], left);
    assert!(is_shared(&gallery));
}

#[test]
fn shares_that_are_refused() {
    let gallery = create(json!({"sharingProfile": {"permissions": "Groups"}})).unwrap();
    let private = create(json!({})).unwrap();
    let many: Vec<String> = (0..31).map(|n| uuid::Uuid::from_u128(n).to_string()).collect();
    let add = |kind: &str, ids: Value| json!({"operationType": "Add", "groups": [{"type": kind, "ids": ids}]});
    for (body, request, status, text) in [
        (&gallery, json!({}), 400, "Required parameter 'sharingUpdate.operationType' is missing (null)."),
        (&gallery, json!({"operationType": "Give"}), 400, "The value 'Give' of parameter sharingUpdate.operationType"),
        (
            &gallery,
            json!({"operationType": "Add"}),
            400,
            "Required parameter 'sharingUpdate.groups' is missing (null).",
        ),
        (&gallery, add("Friends", json!([ONE])), 400, "The value 'Friends' of parameter sharingUpdate.groups.type"),
        (
            &gallery,
            add("AADTenants", json!([])),
            400,
            "Required parameter 'sharingUpdate.groups.ids' is missing (null).",
        ),
        (
            &gallery,
            add("AADTenants", json!(["me"])),
            400,
            "The value 'me' of parameter sharingUpdate.groups.ids is invalid",
        ),
        (&gallery, add("Subscriptions", json!(many)), 400, "A gallery can be shared with at most 30 Subscriptions"),
        (&gallery, add("AADTenants", json!(many[..6])), 400, "A gallery can be shared with at most 5 AADTenants"),
        (&private, add("AADTenants", json!([ONE])), 409, "The sharing operation 'Add' is not allowed on a gallery"),
        (&gallery, json!({"operationType": "EnableCommunity"}), 409, "The sharing operation 'EnableCommunity'"),
    ] {
        let error = share(body, &request).unwrap_err();
        assert_eq!(error.status, status, "{request}");
        assert!(error.message.starts_with(text), "{}", error.message);
    }
}

proptest! {
    /// The rule in one line: `^[A-Za-z0-9]([A-Za-z0-9_.]{0,78}[A-Za-z0-9])?$`.
    #[test]
    fn names_follow_their_rule(name in "[a-zA-Z0-9_.-]{0,82}|\\PC{0,12}") {
        let bytes = name.as_bytes();
        let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
        let good = bytes.len() <= 80
            && edge(bytes.first())
            && edge(bytes.last())
            && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"_.".contains(b));
        prop_assert_eq!(check_name(&name).is_ok(), good);
    }

    /// Adding and removing in any order leaves exactly those that were added last.
    #[test]
    fn groups_are_a_set(steps in prop::collection::vec((any::<bool>(), 0u128..6), 0..20)) {
        let mut gallery = create(json!({"sharingProfile": {"permissions": "Groups"}})).unwrap();
        let mut model = std::collections::BTreeSet::new();
        for (add, n) in steps {
            let id = uuid::Uuid::from_u128(n).to_string();
            let operation = if add { "Add" } else { "Remove" };
            let request = json!({"operationType": operation, "groups": [{"type": "Subscriptions", "ids": [id]}]});
            gallery = share(&gallery, &request).unwrap().0;
            if add { model.insert(id); } else { model.remove(&id); }
        }
        let held = gallery["properties"]["sharingProfile"]["groups"][0]["ids"].as_array().cloned().unwrap_or_default();
        let mut held: Vec<String> = held.iter().map(|v| v.as_str().unwrap().to_owned()).collect();
        held.sort();
        prop_assert_eq!(held, model.into_iter().collect::<Vec<_>>());
    }
}
