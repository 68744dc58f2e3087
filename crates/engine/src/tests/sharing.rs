//! Galleries that are shared (GA-5, GA-6, IV-17): what consumers without any right at the owner's see and use, and no longer.

use super::authorization::{as_caller, assign, other_tenant, stranger};
use super::site::{self, Site, VERSION};
use super::{Server, definition, disk_bytes};
use crate::call::{Call, Listing};
use lazuli_arm::{ArmError, ResourceId, ResourceType, Target, parse_target};
use lazuli_authz::rbac::CONTRIBUTOR;
use serde_json::{Value, json};

/// Somebody in another subscription.
pub(super) struct Consumer {
    pub call: Call,
    pub group: ResourceId,
}

impl Consumer {
    pub async fn of_other_tenant(server: &Server) -> Self {
        let (owner, group) = other_tenant(server).await;
        Self { call: as_caller(server, &owner), group }
    }

    async fn get(&self, server: &Server, tail: &str) -> Result<Value, ArmError> {
        server.engine.get(&self.call, &self.path(tail).parse().unwrap()).await
    }

    async fn page(&self, server: &Server, tail: &str, query: &[(&str, &str)]) -> Result<Listing, ArmError> {
        let Target::Collection { parent, collection } = parse_target(&self.path(tail)).unwrap() else {
            panic!("{tail} is no list");
        };
        let mut call = self.call.clone();
        call.query.extend(query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        server.engine.list(&call, &parent, &collection).await
    }

    async fn names(&self, server: &Server, tail: &str, query: &[(&str, &str)]) -> Vec<String> {
        let page = self.page(server, tail, query).await.unwrap();
        page.items.iter().map(|i| i["name"].as_str().unwrap().to_owned()).collect()
    }

    fn path(&self, tail: &str) -> String {
        format!("/subscriptions/{}/providers/Microsoft.Compute/locations/{tail}", self.group.subscription)
    }

    async fn disk(&self, server: &Server, name: &str, location: &str, reference: Value) -> Result<Value, ArmError> {
        let id = self.group.resource("Microsoft.Compute", "disks", name);
        let body = json!({"location": location, "sku": {"name": "Standard_LRS"}, "properties": {
            "creationData": {"createOption": "FromImage", "galleryImageReference": reference}}});
        let written = server.engine.put(&self.call, &id, body).await?;
        server.engine.db().wait_operation(&written.operation.unwrap(), super::Duration::from_secs(60)).await.unwrap();
        server.engine.get(&self.call, &id).await
    }
}

fn code<T>(result: Result<T, ArmError>) -> (u16, String) {
    result.err().map(|e| (e.status, e.code)).unwrap_or_default()
}

fn not_found() -> (u16, String) {
    (404, "NotFound".into())
}

/// Without the one member that is different in each run.
fn undated(mut view: Value) -> Value {
    view["properties"].as_object_mut().unwrap().remove("publishedDate");
    view
}

pub(super) async fn share(server: &Server, operation: &str, groups: Value) {
    let mut body = json!({"operationType": operation});
    if !groups.is_null() {
        body["groups"] = groups;
    }
    server.action("galleries/g", "share", body).await.unwrap();
}

fn subscriptions(ids: &[&str]) -> Value {
    json!([{"type": "Subscriptions", "ids": ids}])
}

pub(super) fn tenants(ids: &[&str]) -> Value {
    json!([{"type": "AADTenants", "ids": ids}])
}

async fn version(server: &Server, name: &str, publishing: Value) {
    let body = json!({"location": "eastus", "tags": {"hidden": "tag"}, "properties": {"publishingProfile": publishing,
        "storageProfile": {"osDiskImage": {"source": {"id": server.id("disks/d1").to_string()}}}}});
    server.put(&format!("galleries/g/images/i/versions/{name}"), body).await.unwrap();
}

/// Gallery `g` as `profile` says, with versions 1.0.0 (East US, West US), 1.1.0 (East US) and 2.0.0 (both, never the latest).
async fn shared_images(profile: Value) -> Server {
    let server = Server::start().await;
    share_images(&server, profile).await;
    server
}

/// The same on a server that runs.
pub(super) async fn share_images(server: &Server, profile: Value) {
    let gallery = json!({"location": "eastus", "tags": {"hidden": "tag", "ShareTag-Team": "base"},
        "properties": {"sharingProfile": profile}});
    server.put("galleries/g", gallery).await.unwrap();
    server.put("galleries/g/images/i", definition("sku1")).await.unwrap();
    server.uploaded("d1", &disk_bytes(1)).await;
    let both = json!([{"name": "eastus"}, {"name": "westus"}]);
    version(server, "1.0.0", json!({"targetRegions": both})).await;
    version(server, "1.1.0", json!({"targetRegions": [{"name": "eastus"}]})).await;
    version(server, "2.0.0", json!({"targetRegions": both, "excludeFromLatest": true})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn consumers_see_what_is_shared_with_their_subscription() {
    let server = shared_images(json!({"permissions": "Groups"})).await;
    let consumer = Consumer::of_other_tenant(&server).await;
    let bystander = Consumer::of_other_tenant(&server).await;
    let unique = format!("{}-G", server.group.subscription);
    let gallery = format!("eastus/sharedGalleries/{unique}");
    let all = [gallery.clone(), format!("{gallery}/images/i"), format!("{gallery}/images/i/versions/1.0.0")];

    assert!(consumer.names(&server, "eastus/sharedGalleries", &[]).await.is_empty());
    for tail in &all {
        assert_eq!(code(consumer.get(&server, tail).await), not_found(), "{tail}");
    }
    share(&server, "Add", subscriptions(&[&consumer.group.subscription])).await;

    assert_eq!(consumer.names(&server, "eastus/sharedGalleries", &[]).await, [unique.as_str()]);
    assert!(consumer.names(&server, "eastus/sharedGalleries", &[("sharedto", "tenant")]).await.is_empty());
    assert_eq!(consumer.names(&server, "WestUS/SharedGalleries", &[]).await, [unique.as_str()]);
    assert!(consumer.names(&server, "northeurope/sharedGalleries", &[]).await.is_empty(), "no version is there");
    let odd = consumer.page(&server, "eastus/sharedGalleries", &[("sharedto", "me")]).await;
    assert_eq!(code(odd), (400, "InvalidParameter".into()));
    let mut shown = Vec::new();
    for tail in &all {
        shown.push(undated(consumer.get(&server, &tail.to_uppercase()).await.unwrap()));
    }
    let text = serde_json::to_string_pretty(&shown).unwrap().replace(&server.group.subscription, "SUBSCRIPTION");
    assert!(!text.contains("hidden") && !text.contains("rg1"), "{text}");
    insta::assert_snapshot!("shared_views", text);

    let images = format!("{gallery}/images");
    assert_eq!(consumer.names(&server, &images, &[]).await, ["i"]);
    let versions = format!("{images}/i/versions");
    assert_eq!(consumer.names(&server, &versions, &[]).await, ["1.0.0", "1.1.0", "2.0.0"]);
    assert_eq!(consumer.names(&server, &versions.replace("eastus", "westus"), &[]).await, ["1.0.0", "2.0.0"]);
    let page = consumer.page(&server, &versions, &[("$top", "2")]).await.unwrap();
    let token = page.next.expect("a second page");
    let rest = consumer.page(&server, &versions, &[("$top", "2"), ("$skiptoken", &token)]).await.unwrap();
    assert_eq!((page.items.len(), rest.items.len(), rest.next), (2, 1, None));

    // What is not there in the region, and who was not named.
    let elsewhere = gallery.replace("eastus", "northeurope");
    let error = consumer.get(&server, &elsewhere).await.unwrap_err();
    assert_eq!(
        error.message,
        format!("please check if the gallery name '{unique}' is valid and the gallery exists in 'NorthEurope' region.")
    );
    for tail in [format!("{gallery}/images/j"), format!("{}/versions/9.9.9", &all[1])] {
        assert_eq!(code(consumer.get(&server, &tail).await), not_found());
    }
    assert!(bystander.names(&server, "eastus/sharedGalleries", &[]).await.is_empty());
    for tail in all.iter().chain([&images, &versions]) {
        let refused = match tail.ends_with('s') {
            true => code(bystander.page(&server, tail, &[]).await),
            false => code(bystander.get(&server, tail).await),
        };
        assert_eq!(refused, not_found(), "{tail}");
    }
    // The owner's own subscription is no consumer.
    let owner = Consumer { call: server.call.clone(), group: server.group.clone() };
    assert_eq!(code(owner.get(&server, &gallery).await), not_found());
    // Whoever may read nothing in the consumer's subscription sees nothing there.
    let nobody = stranger(&server, &consumer.call.caller.tenant).await;
    let nobody = Consumer { call: as_caller(&server, &nobody), group: consumer.group.clone() };
    assert_eq!(code(nobody.get(&server, &gallery).await), (403, "AuthorizationFailed".into()));
    assert_eq!(code(nobody.page(&server, &images, &[]).await), (403, "AuthorizationFailed".into()));

    share(&server, "Remove", subscriptions(&[&consumer.group.subscription.to_uppercase()])).await;
    assert_eq!(code(consumer.get(&server, &gallery).await), not_found());
    assert!(consumer.names(&server, "eastus/sharedGalleries", &[]).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_are_shared_with_and_a_reset_ends_everything() {
    let server = shared_images(json!({"permissions": "Groups"})).await;
    let consumer = Consumer::of_other_tenant(&server).await;
    let unique = format!("{}-G", server.group.subscription);
    share(&server, "Add", tenants(&[&consumer.call.caller.tenant.to_uppercase()])).await;
    share(&server, "Add", tenants(&[&consumer.call.caller.tenant])).await;
    assert_eq!(consumer.names(&server, "eastus/sharedGalleries", &[("sharedto", "tenant")]).await, [unique.as_str()]);
    assert!(consumer.names(&server, "eastus/sharedGalleries", &[]).await.is_empty(), "not with the subscription");
    let gallery = format!("eastus/sharedGalleries/{unique}");
    consumer.get(&server, &gallery).await.unwrap();

    assert_eq!(server.delete("galleries/g").await.unwrap_err().code, "OperationNotAllowed");
    share(&server, "Reset", Value::Null).await;
    assert_eq!(code(consumer.get(&server, &gallery).await), not_found());
    assert!(consumer.names(&server, "eastus/sharedGalleries", &[("sharedto", "tenant")]).await.is_empty());
    let rows = server.engine.all_rows(Default::default()).await.unwrap();
    assert!(!rows.iter().any(|r| r.kind == "lazuli.shares"), "{rows:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn disks_are_made_of_shared_images() {
    let server = shared_images(json!({"permissions": "Groups"})).await;
    let consumer = Consumer::of_other_tenant(&server).await;
    let image = format!("/SharedGalleries/{}-G/Images/i", server.group.subscription);
    let of = |id: &str| json!({"sharedGalleryImageId": id});
    let latest = format!("{image}/Versions/latest");
    let refused = |result: Result<Value, ArmError>| {
        let error = result.unwrap_err();
        assert_eq!((error.status, error.code.as_str()), (404, "GalleryImageNotFound"), "{error}");
        assert_eq!(error.target.as_deref(), Some("imageReference"));
        error.message
    };
    refused(consumer.disk(&server, "d", "eastus", of(&latest)).await);
    share(&server, "Add", subscriptions(&[&consumer.group.subscription])).await;

    let disk = consumer.disk(&server, "d", "eastus", of(&latest.to_lowercase())).await.unwrap();
    assert_eq!(disk["properties"]["provisioningState"], "Succeeded");
    assert_eq!(
        disk["properties"]["creationData"],
        json!({"createOption": "FromImage", "galleryImageReference": of(&latest.to_lowercase())})
    );
    let row = server.engine.db().resource(&disk["id"].as_str().unwrap().to_lowercase()).await.unwrap().unwrap();
    let bytes = server.stored("eastus", row.internal["base"]["manifest"].as_str().unwrap()).await;
    assert!(bytes == disk_bytes(1));
    // An excluded version by its number, and a region that has it not.
    consumer.disk(&server, "d2", "westus", of(&format!("{image}/Versions/2.0.0"))).await.unwrap();
    let message = refused(consumer.disk(&server, "d3", "westus", of(&format!("{image}/Versions/1.1.0"))).await);
    assert_eq!(
        message,
        format!(
            "\"The gallery image {image}/Versions/1.1.0 is not available in westus region. Please contact image owner to replicate \
             to this region, or change your requested region.\""
        )
    );
    refused(consumer.disk(&server, "d3", "eastus", of(&format!("{image}/Versions/7.0.0"))).await);
    let none = refused(consumer.disk(&server, "d3", "northeurope", of(&latest)).await);
    assert!(none.contains(&format!("no latest image version exists for \"{image}\"")), "{none}");
    let lun = json!({"sharedGalleryImageId": latest, "lun": 3});
    assert_eq!(code(consumer.disk(&server, "d3", "eastus", lun).await), (400, "InvalidParameter".into()));
    // By its own id it is as closed as before.
    let own = json!({"id": server.id("galleries/g/images/i/versions/1.0.0").to_string()});
    assert_eq!(code(consumer.disk(&server, "d3", "eastus", own).await), (403, "LinkedAuthorizationFailed".into()));
    let bystander = Consumer::of_other_tenant(&server).await;
    refused(bystander.disk(&server, "d", "eastus", of(&latest)).await);

    share(&server, "Reset", Value::Null).await;
    refused(consumer.disk(&server, "d3", "eastus", of(&latest)).await);
    let id: ResourceId = disk["id"].as_str().unwrap().parse().unwrap();
    server.engine.get(&consumer.call, &id).await.unwrap();
}

/// S1 with sharing: the machine of one tenant from the version of another, by the one's token alone.
#[tokio::test(flavor = "multi_thread")]
async fn machines_run_from_shared_images() {
    let mut site = Site::start().await;
    let groups = json!({"location": "eastus", "properties": {"sharingProfile": {"permissions": "Groups"}}});
    site.server.put("galleries/g", groups).await.unwrap();
    let consumer = Consumer::of_other_tenant(&site.server).await;
    share(&site.server, "Add", tenants(&[&consumer.call.caller.tenant])).await;
    let image = format!("/SharedGalleries/{}-G/Images/i/Versions/latest", site.server.group.subscription);
    let owners = site.server.group.to_string();
    let own_version = site.server.id(VERSION).to_string();

    (site.server.call, site.server.group) = (consumer.call.clone(), consumer.group.clone());
    site::network(&site.server).await;
    site::nic(&site.server, "n1", json!({})).await.unwrap();
    let of = |reference: Value| move |b: &mut Value| b["properties"]["storageProfile"]["imageReference"] = reference;
    let by_id = site.create(of(json!({"id": own_version}))).await;
    assert_eq!(code(by_id), (403, "LinkedAuthorizationFailed".into()));
    let machine = site.create(of(json!({"sharedGalleryImageId": image}))).await.unwrap();
    let shown = json!({"sharedGalleryImageId": image, "exactVersion": "1.0.0"});
    assert_eq!(machine["properties"]["storageProfile"]["imageReference"], shown);
    site.running().await;
    let disk = site.server.get("disks/os1").await.unwrap();
    assert_eq!(
        disk["properties"]["creationData"]["galleryImageReference"],
        json!({"sharedGalleryImageId": image.replace("latest", "1.0.0")})
    );
    for view in [machine, disk] {
        assert!(!view.to_string().contains(&owners), "{view}");
    }
    // Read, changed a little, sent back.
    let mut again = site.server.get(site::VM).await.unwrap();
    again["tags"] = json!({"k": "v"});
    site.server.put(site::VM, again.clone()).await.unwrap();
    again["properties"]["storageProfile"]["imageReference"]["sharedGalleryImageId"] =
        json!(image.replace("latest", "1.0.0"));
    assert_eq!(code(site.server.put(site::VM, again).await), (409, "PropertyChangeNotAllowed".into()));
    let exact = a_template_of(&site.server, &image).await["properties"]["source"]["exactVersion"].clone();
    assert_eq!(exact, json!(image.replace("latest", "1.0.0")));
}

/// An image template of the caller's, whose identity has rights in the caller's group alone.
async fn a_template_of(server: &Server, image: &str) -> Value {
    let identity = server.group.resource("Microsoft.ManagedIdentity", "userAssignedIdentities", "id1");
    let made = server.engine.put(&server.call, &identity, json!({"location": "eastus"})).await.unwrap().resource;
    let principal = made["properties"]["principalId"].as_str().unwrap();
    assign(server, &server.group.to_string(), CONTRIBUTOR, principal).await.unwrap();
    let template = server.group.resource("Microsoft.VirtualMachineImages", "imageTemplates", "t1");
    let body = json!({"location": "eastus", "properties": {
            "source": {"type": "SharedImageVersion", "imageVersionId": image},
            "distribute": [{"type": "VHD", "runOutputName": "vhd"}]},
        "identity": {"type": "UserAssigned", "userAssignedIdentities": {identity.to_string(): {}}}});
    let written = server.engine.put(&server.call, &template, body).await.unwrap();
    server.end(&written.operation.unwrap()).await.unwrap();
    server.engine.get(&server.call, &template).await.unwrap()
}

pub(super) fn community(prefix: &str) -> Value {
    json!({"permissions": "Community", "communityGalleryInfo": {"publicNamePrefix": prefix, "eula": "https://e",
        "publisherUri": "https://p", "publisherContact": "c@example.org"}})
}

#[tokio::test(flavor = "multi_thread")]
async fn community_galleries_are_everybodys() {
    let server = shared_images(community("pubName")).await;
    let consumer = Consumer::of_other_tenant(&server).await;
    let public =
        server.get("galleries/g").await.unwrap()["properties"]["sharingProfile"]["communityGalleryInfo"]["publicNames"]
            [0]
        .as_str()
        .unwrap()
        .to_owned();
    let gallery = format!("eastus/communityGalleries/{public}");
    let all = [gallery.clone(), format!("{gallery}/images/i"), format!("{gallery}/images/i/versions/1.0.0")];
    for tail in &all {
        assert_eq!(code(consumer.get(&server, tail).await), not_found(), "not enabled yet: {tail}");
    }
    assert_eq!(graph(&server, &consumer.call, "").await.unwrap()["totalRecords"], 0);
    share(&server, "EnableCommunity", json!([])).await;
    share(&server, "EnableCommunity", Value::Null).await;

    let mut shown = Vec::new();
    for tail in &all {
        shown.push(undated(consumer.get(&server, tail).await.unwrap()));
    }
    let rows = graph(&server, &consumer.call, "| where location == 'westus'").await.unwrap();
    shown.push(rows);
    let text = serde_json::to_string_pretty(&shown).unwrap().replace(&public, "PUBLIC-NAME");
    assert!(!text.contains("hidden") && !text.contains(&server.group.subscription), "{text}");
    insta::assert_snapshot!("community_views", text);
    assert_eq!(graph(&server, &consumer.call, "").await.unwrap()["totalRecords"], 2, "in East US and West US");
    assert_eq!(consumer.names(&server, &format!("{gallery}/images"), &[]).await, ["i"]);
    let versions = format!("{}/versions", all[1].replace("eastus", "westus"));
    assert_eq!(consumer.names(&server, &versions, &[]).await, ["1.0.0", "2.0.0"]);
    assert_eq!(code(consumer.page(&server, "eastus/communityGalleries", &[]).await).0, 404, "Azure has no such list");
    let unique = format!("eastus/sharedGalleries/{}-G", server.group.subscription);
    assert_eq!(code(consumer.get(&server, &unique).await), not_found(), "nobody was named");

    // Made by others: a disk, and a version of a gallery of their own.
    let image = format!("/CommunityGalleries/{public}/Images/i");
    let reference = json!({"communityGalleryImageId": format!("{image}/Versions/1.0.0")});
    let disk = consumer.disk(&server, "d", "westus", reference.clone()).await.unwrap();
    assert_eq!(disk["properties"]["creationData"]["galleryImageReference"], reference);
    copy_to_own_gallery(&server, &consumer, &image).await;

    let nobody = stranger(&server, &consumer.call.caller.tenant).await;
    assert_eq!(code(graph(&server, &as_caller(&server, &nobody), "").await), (403, "AuthorizationFailed".into()));
    assert_eq!(server.delete("galleries/g").await.unwrap_err().code, "OperationNotAllowed");
    share(&server, "Reset", Value::Null).await;
    assert_eq!(code(consumer.get(&server, &gallery).await), not_found());
    assert_eq!(graph(&server, &consumer.call, "").await.unwrap()["totalRecords"], 0);
}

async fn graph(server: &Server, call: &Call, more: &str) -> Result<Value, ArmError> {
    let query =
        format!("communitygalleryresources | where type == 'microsoft.compute/locations/communitygalleries' {more}");
    server.engine.resource_graph(call, &json!({"query": query, "options": {"$top": 30}})).await
}

async fn copy_to_own_gallery(server: &Server, consumer: &Consumer, image: &str) {
    let gallery = consumer.group.resource("Microsoft.Compute", "galleries", "mine");
    let definition_id = gallery.child("images", "i");
    let put = async |id: &ResourceId, body: Value| {
        let written = server.engine.put(&consumer.call, id, body).await?;
        let operation = written.operation.unwrap();
        let done =
            server.engine.db().wait_operation(&operation, super::Duration::from_secs(60)).await.unwrap().unwrap();
        assert_eq!(done.error, None);
        server.engine.get(&consumer.call, id).await
    };
    put(&gallery, json!({"location": "westus"})).await.unwrap();
    let mut own = definition("sku1");
    own["location"] = json!("westus");
    put(&definition_id, own).await.unwrap();
    let of = |image: &str| {
        json!({"location": "westus", "properties": {"storageProfile": {"source": {
        "communityGalleryImageId": image}}}})
    };
    let version = put(&definition_id.child("versions", "1.0.0"), of(image)).await.unwrap();
    assert_eq!(version["properties"]["storageProfile"]["source"], json!({"communityGalleryImageId": image}));
    assert!(version["properties"]["storageProfile"]["osDiskImage"]["sizeInGB"].is_u64());
    let missing = put(&definition_id.child("versions", "1.0.1"), of(&format!("{image}/Versions/1.1.0"))).await;
    let error = missing.unwrap_err();
    assert_eq!((error.status, error.code.as_str()), (404, "NotFound"), "{error}");
    let mut specialized = definition("sku2");
    (specialized["location"], specialized["properties"]["osState"]) = (json!("westus"), json!("Specialized"));
    put(&gallery.child("images", "s"), specialized).await.unwrap();
    let odd = put(&gallery.child("images", "s").child("versions", "1.0.0"), of(image)).await.unwrap_err();
    assert!(odd.message.contains(&format!("{image}/Versions/1.0.0")), "the id that the consumer knows: {odd}");
}

/// A type of the catalogue of shared galleries is nothing that can be written.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_writes_through_the_view() {
    let server = shared_images(json!({"permissions": "Groups"})).await;
    let consumer = Consumer::of_other_tenant(&server).await;
    share(&server, "Add", subscriptions(&[&consumer.group.subscription])).await;
    let id: ResourceId =
        consumer.path(&format!("eastus/sharedGalleries/{}-G", server.group.subscription)).parse().unwrap();
    let body = json!({"location": "eastus"});
    let engine = &server.engine;
    assert_eq!(code(engine.put(&consumer.call, &id, body.clone()).await), (404, "InvalidResourceType".into()));
    assert_eq!(code(engine.patch(&consumer.call, &id, body).await), (404, "InvalidResourceType".into()));
    assert_eq!(code(engine.delete(&consumer.call, &id).await), (404, "InvalidResourceType".into()));
    assert_eq!(code(engine.action(&consumer.call, &id, "share", json!({})).await), (404, "InvalidResourceType".into()));
    assert!(engine.view(&consumer.call, &id, "usage").await.unwrap().is_none());
    let kind = ResourceType {
        namespace: "Microsoft.Compute".into(),
        types: ["locations", "sharedGalleries", "applications"].map(str::to_owned).to_vec(),
    };
    assert_eq!(code(engine.list(&consumer.call, &id, &kind).await), (404, "InvalidResourceType".into()));
}
