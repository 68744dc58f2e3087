//! Platform images: published by the operator, seen through the publishers API, used by machines.

use super::site::{Site, VM};
use super::{Server, disk_bytes};
use crate::call::Deleted;
use lazuli_arm::{ArmError, ResourceId, Target, parse_target};
use lazuli_authz::rbac::CONTRIBUTOR;
use lazuli_meta::model::{Principal, RoleAssignment};
use serde_json::{Value, json};

fn below(server: &Server, tail: &str) -> String {
    format!("/subscriptions/{}/providers/{tail}", server.group.subscription)
}

fn urn_id(server: &Server, urn: &str) -> ResourceId {
    below(server, &format!("Lazuli.Images/platformImages/{urn}")).parse().unwrap()
}

pub(super) async fn publish(server: &Server, urn: &str, regions: &[&str], more: Value) -> Result<Value, ArmError> {
    let regions: Vec<Value> = regions.iter().map(|r| json!({"name": r})).collect();
    let body = json!({"location": "eastus", "properties": {"hyperVGeneration": "V2",
        "storageProfile": {"osDiskImage": {"source": {"id": server.id("disks/d1").to_string()}}},
        "publishingProfile": {"targetRegions": regions}}});
    let body = lazuli_arm::bodies::merge_patch(&body, &json!({"properties": more}));
    let written = server.engine.put(&server.call, &urn_id(server, urn), body).await?;
    server.end(&written.operation.unwrap()).await?;
    server.engine.get(&server.call, &urn_id(server, urn)).await
}

/// Names of a list of the catalogue; `query` as in a URL.
async fn listed(server: &Server, path: &str, query: &[(&str, &str)]) -> Result<Vec<String>, ArmError> {
    let items = items(server, path, query).await?;
    Ok(items.iter().map(|i| i["name"].as_str().unwrap().to_owned()).collect())
}

async fn items(server: &Server, path: &str, query: &[(&str, &str)]) -> Result<Vec<Value>, ArmError> {
    let Ok(Target::Collection { parent, collection }) =
        parse_target(&below(server, &format!("Microsoft.Compute/locations/{path}")))
    else {
        panic!("{path} is no collection")
    };
    let mut call = server.call.clone();
    call.query.extend(query.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
    // What the edge asks first.
    assert!(server.engine.view(&call, &parent, "publishers").await?.is_none());
    Ok(server.engine.list(&call, &parent, &collection).await?.items)
}

/// Always there.
const EXTENSIONS: &str = "Microsoft.Azure.Extensions";
const VERSIONS: &str = "eastus/publishers/debian/artifacttypes/vmimage/offers/DEBIAN-12/skus/12-gen2/versions";

#[tokio::test(flavor = "multi_thread")]
async fn the_catalogue_shows_what_a_region_serves() {
    let server = Server::start().await;
    server.uploaded("d1", &disk_bytes(1)).await;
    let shown = publish(&server, "Debian:debian-12:12-gen2:0.9.10", &["eastus", "westus"], json!({})).await.unwrap();
    let regions = &shown["properties"]["publishingProfile"]["targetRegions"];
    assert_eq!((&regions[1]["name"], &regions[1]["state"]), (&json!("West US"), &json!("Completed")));
    for version in ["0.9.9", "0.10.1"] {
        publish(&server, &format!("Debian:debian-12:12-gen2:{version}"), &["eastus"], json!({})).await.unwrap();
    }
    publish(&server, "Canonical:ubuntu:22_04:1.0.0", &["eastus"], json!({})).await.unwrap();
    server.delete("disks/d1").await.unwrap();

    assert_eq!(listed(&server, "eastus/publishers", &[]).await.unwrap(), ["Canonical", "Debian", EXTENSIONS]);
    assert_eq!(listed(&server, "West US/publishers", &[]).await.unwrap(), ["Debian", EXTENSIONS]);
    let offers = items(&server, "eastus/publishers/Debian/artifacttypes/vmimage/offers", &[]).await.unwrap();
    assert_eq!(
        offers,
        [json!({"location": "eastus", "name": "debian-12", "id": format!(
            "/Subscriptions/{}/Providers/Microsoft.Compute/Locations/eastus/Publishers/Debian/ArtifactTypes/VMImage/Offers/debian-12",
            server.group.subscription)})]
    );
    // By number, not by letter.
    assert_eq!(listed(&server, VERSIONS, &[]).await.unwrap(), ["0.9.9", "0.9.10", "0.10.1"]);
    let newest = [("$top", "1"), ("$orderby", "name desc"), ("$expand", "properties")];
    let newest = items(&server, VERSIONS, &newest).await.unwrap();
    assert_eq!((newest.len(), &newest[0]["name"]), (1, &json!("0.10.1")));
    assert_eq!(newest[0]["properties"]["hyperVGeneration"], "V2");
    let one: ResourceId = below(&server, &format!("Microsoft.Compute/locations/{VERSIONS}/0.9.10")).parse().unwrap();
    let shown = server.engine.get(&server.call, &one).await.unwrap();
    assert_eq!(
        shown["properties"]["osDiskImage"],
        json!({"operatingSystem": "Linux", "sizeInBytes": 20 * 1024 * 1024 + 512})
    );
    assert!(shown["id"].as_str().unwrap().ends_with("/Offers/debian-12/Skus/12-gen2/Versions/0.9.10"));

    let error = listed(&server, "westus/publishers/Canonical/artifacttypes/vmimage/offers", &[]).await.unwrap_err();
    assert_eq!((error.status, error.message.as_str()), (404, "Artifact: VMImage was not found."));
    assert!(listed(&server, "eastus/edgeZones/z/publishers", &[]).await.unwrap().is_empty());

    // Region by region, then as a whole.
    publish_regions(&server, "Debian:debian-12:12-gen2:0.9.10", &["eastus"]).await;
    assert_eq!(listed(&server, "westus/publishers", &[]).await.unwrap(), [EXTENSIONS]);
    let taken = publish(&server, "DEBIAN:debian-12:12-gen2:0.09.10", &["eastus"], json!({})).await.unwrap_err();
    assert_eq!(taken.code, "Conflict");
    for urn in [
        "Debian:debian-12:12-gen2:0.9.9",
        "Debian:debian-12:12-gen2:0.9.10",
        "Debian:debian-12:12-gen2:0.10.1",
        "Canonical:ubuntu:22_04:1.0.0",
    ] {
        let Deleted::Started { operation } = server.engine.delete(&server.call, &urn_id(&server, urn)).await.unwrap()
        else {
            panic!("bytes are freed by an operation")
        };
        server.end(&operation).await.unwrap();
    }
    assert_eq!(listed(&server, "eastus/publishers", &[]).await.unwrap(), [EXTENSIONS]);
    for region in ["eastus", "westus"] {
        assert_eq!(server.engine.db().content_manifests(region).await.unwrap(), Vec::<String>::new());
    }
}

async fn publish_regions(server: &Server, urn: &str, regions: &[&str]) {
    let regions: Vec<Value> = regions.iter().map(|r| json!({"name": r})).collect();
    let patch = json!({"properties": {"publishingProfile": {"targetRegions": regions}}});
    let written = server.engine.patch(&server.call, &urn_id(server, urn), patch).await.unwrap();
    server.end(&written.operation.unwrap()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_name_them_by_publisher_offer_and_sku() {
    let site = Site::start().await;
    let server = &site.server;
    let reference =
        |version: &str| json!({"publisher": "debian", "offer": "debian-12", "sku": "12-gen2", "version": version});
    let of = |version: &'static str| {
        move |b: &mut Value| b["properties"]["storageProfile"]["imageReference"] = reference(version)
    };
    let error = site.create(of("latest")).await.unwrap_err();
    assert_eq!((error.status, error.code.as_str()), (404, "PlatformImageNotFound"));
    assert!(error.message.starts_with("The platform image 'debian:debian-12:12-gen2:latest' is not available."));
    publish(server, "Debian:debian-12:12-gen2:1.9.0", &["eastus"], json!({})).await.unwrap();
    let plan = json!({"name": "n", "publisher": "Debian", "product": "x"});
    publish(server, "Debian:debian-12:12-gen2:1.10.0", &["eastus"], json!({"plan": plan})).await.unwrap();

    // The newest one has a plan, which must be named as it is.
    for (given, what) in [
        (Value::Null, "requires Plan information"),
        (json!({"name": "N", "publisher": "Debian", "product": "x"}), "not as expected"),
    ] {
        let error = site
            .create(|b| {
                of("latest")(b);
                b["plan"] = given;
            })
            .await
            .unwrap_err();
        assert_eq!(error.code, "VMMarketplaceInvalidInput");
        assert!(error.message.contains(what), "{error}");
    }
    let vm = site
        .create(|b| {
            of("latest")(b);
            b["plan"] = plan.clone();
        })
        .await
        .unwrap();
    assert_eq!(vm["plan"], plan);
    let shown = &vm["properties"]["storageProfile"]["imageReference"];
    assert_eq!((&shown["version"], &shown["exactVersion"]), (&json!("latest"), &json!("1.10.0")));
    let disk = server.get("disks/os1").await.unwrap();
    let id = disk["properties"]["creationData"]["imageReference"]["id"].as_str().unwrap();
    assert!(
        id.ends_with("/Publishers/Debian/ArtifactTypes/VMImage/Offers/debian-12/Skus/12-gen2/Versions/1.10.0"),
        "{id}"
    );
    let copy = json!({"location": "eastus", "properties": {
        "creationData": {"createOption": "FromImage", "imageReference": {"id": id}}}});
    server.put("disks/copy", copy).await.unwrap();
    assert_eq!(server.internal("disks/copy").await["base"], server.internal("disks/os1").await["base"]);
    assert_eq!(site.defined(site.vm_id().await).unwrap().image.sku, "12-gen2");
    server.delete(VM).await.unwrap();
    server.delete("disks/os1").await.unwrap();
    site.create(of("1.9.0")).await.unwrap();
    let tags = json!({"tags": {"a": "b"}});
    let written = server.engine.patch(&server.call, &server.id(VM), tags).await.unwrap();
    server.end(&written.operation.unwrap()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn only_owners_of_the_operators_tenant_publish() {
    let mut server = Server::start().await;
    server.uploaded("d1", &disk_bytes(1)).await;
    let db = server.engine.db().clone();
    let contributor = Principal {
        id: "11111111-0000-0000-0000-000000000000".into(),
        tenant: server.call.caller.tenant.clone(),
        app_id: "22222222-0000-0000-0000-000000000000".into(),
        display_name: "contributor".into(),
        kind: "ServicePrincipal".into(),
        secret_hash: String::new(),
        login: String::new(),
        body: json!({}),
    };
    db.put_principal(&contributor).await.unwrap();
    let assignment = RoleAssignment {
        id: "33333333-0000-0000-0000-000000000000".into(),
        scope: ResourceId::subscription(&server.group.subscription).key(),
        role: CONTRIBUTOR.into(),
        principal: contributor.id.clone(),
        body: json!({}),
    };
    db.put_role_assignment(&assignment).await.unwrap();
    publish(&server, "p:o:s:1.0.0", &["eastus"], json!({})).await.unwrap();
    server.call.caller.principal = contributor.id;
    let error = publish(&server, "p:o:s:2.0.0", &["eastus"], json!({})).await.unwrap_err();
    assert_eq!((error.status, error.code.as_str()), (403, "AuthorizationFailed"));
    assert_eq!(server.engine.delete(&server.call, &urn_id(&server, "p:o:s:1.0.0")).await.unwrap_err().status, 403);
    // But everybody sees them.
    assert_eq!(listed(&server, "eastus/publishers", &[]).await.unwrap(), [EXTENSIONS, "p"]);
}
