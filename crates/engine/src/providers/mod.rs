//! One file a resource type; here is the list of all of them, and what several of them need.

mod application;
mod application_version;
mod availability_set;
mod blob_container;
mod blob_service;
mod deployment;
pub(crate) mod disk;
mod disk_access;
mod federated_identity_credential;
mod gallery;
mod image_definition;
pub(crate) mod image_template;
pub(crate) mod image_template_run_output;
pub(crate) mod image_template_trigger;
pub(crate) mod image_version;
pub(crate) mod managed_image;
pub(crate) mod network_interface;
mod network_security_group;
mod platform_image;
pub(crate) mod public_ip_address;
mod resource_group;
mod snapshot;
pub(crate) mod soft_deleted_version;
mod storage_account;
pub(crate) mod user_assigned_identity;
pub(crate) mod virtual_machine;
pub(crate) mod virtual_machine_extension;
pub(crate) mod virtual_machine_scale_set;
mod virtual_network;

use crate::provider::{Context, Provider};
use crate::{db_error, new_etag};
use aws_lc_rs::digest::{SHA256, digest};
use lazuli_arm::bodies::image_version::parse_name;
use lazuli_arm::{ArmError, ResourceId, bodies};
use lazuli_meta::model::{Change, Expect, Resource};
use serde_json::{Value, json};
use std::sync::Arc;

/// Every type this server provides.
pub(crate) fn all() -> Vec<Arc<dyn Provider>> {
    vec![
        Arc::new(application::Application),
        Arc::new(application_version::ApplicationVersion),
        Arc::new(availability_set::AvailabilitySet),
        Arc::new(blob_container::BlobContainer),
        Arc::new(blob_service::BlobService),
        Arc::new(deployment::Deployment),
        Arc::new(disk::Disk),
        Arc::new(disk_access::DiskAccess),
        Arc::new(disk_access::PrivateEndpointConnection),
        Arc::new(federated_identity_credential::FederatedIdentityCredential),
        Arc::new(gallery::Gallery),
        Arc::new(image_definition::ImageDefinition),
        Arc::new(image_template::ImageTemplate),
        Arc::new(image_template_run_output::RunOutput),
        Arc::new(image_template_trigger::Trigger),
        Arc::new(image_version::ImageVersion),
        Arc::new(managed_image::ManagedImage),
        Arc::new(network_interface::NetworkInterface),
        Arc::new(network_security_group::NetworkSecurityGroup),
        Arc::new(network_security_group::SecurityRule),
        Arc::new(platform_image::PlatformImage),
        Arc::new(public_ip_address::PublicIpAddress),
        Arc::new(resource_group::ResourceGroup),
        Arc::new(snapshot::Snapshot),
        Arc::new(soft_deleted_version::SoftDeletedVersion),
        Arc::new(storage_account::StorageAccount),
        Arc::new(user_assigned_identity::UserAssignedIdentity),
        Arc::new(virtual_machine::VirtualMachine),
        Arc::new(virtual_machine_extension::VirtualMachineExtension),
        Arc::new(virtual_machine_scale_set::extensions::ScaleSetExtension),
        Arc::new(virtual_machine_scale_set::ScaleSetInstance),
        Arc::new(virtual_machine_scale_set::rolling::RollingUpgrades),
        Arc::new(virtual_machine_scale_set::VirtualMachineScaleSet),
        Arc::new(virtual_network::Subnet),
        Arc::new(virtual_network::VirtualNetwork),
    ]
}

/// What the checks of bodies need besides the bodies.
pub(crate) fn arm_context<'a>(cx: Context<'a>) -> bodies::Context<'a> {
    bodies::Context {
        api_version: &cx.call.api_version,
        regions: &bodies::Catalogue,
        now: jiff::Timestamp::from_millisecond(cx.now_ms).unwrap_or(jiff::Timestamp::UNIX_EPOCH),
        new_id: uuid::Uuid::new_v4(),
        allow_past_end_of_life: cx.engine.config().lenient,
    }
}

/// Names and bodies of a resource's children.
async fn named_children(cx: Context<'_>, key: &str) -> Result<Vec<(String, Value)>, ArmError> {
    let rows = cx.engine.db().children(key, 1000).await.map_err(db_error)?;
    Ok(rows.into_iter().map(|r| (r.name, r.body)).collect())
}

/// The children that a parent's body names: those named are put, the others deleted (what stands in the way of that is for the
/// caller to check). `resource_type` ends with the children's own type.
fn inline_children(
    cx: Context<'_>,
    parent: &ResourceId,
    resource_type: &str,
    existing: &[Resource],
    named: Vec<(String, Value)>,
) -> Vec<Change> {
    let segment = resource_type.rsplit('/').next().unwrap_or_default();
    let gone = existing.iter().filter(|e| !named.iter().any(|(n, _)| n.eq_ignore_ascii_case(&e.name)));
    let mut changes: Vec<Change> =
        gone.map(|e| Change::DeleteResource { key: e.key.clone(), expect: Expect::Etag(e.etag.clone()) }).collect();
    for (name, body) in named {
        let old = existing.iter().find(|e| e.name.eq_ignore_ascii_case(&name));
        let expect = old.map_or(Expect::Absent, |o| Expect::Etag(o.etag.clone()));
        let id = parent.child(segment, &name);
        let resource = child_row(&id, resource_type, &parent.key(), body, old, cx.now_ms);
        changes.push(Change::PutResource { resource, expect });
    }
    changes
}

/// Deletes all children together with their parent.
pub(crate) fn delete_children(children: Vec<Resource>) -> Vec<Change> {
    let delete = |r: Resource| Change::DeleteResource { key: r.key, expect: Expect::Etag(r.etag) };
    children.into_iter().map(delete).collect()
}

/// A tag of what clients wrote, for types on which operations work for long: where it is the same, nothing that a client asked
/// for is lost. What the sources turn out to be (sizes, caching) is not in it, as only the service writes that.
fn content_etag(row: &Resource) -> String {
    let mut body = row.body.clone();
    if let Some(profile) = body["properties"].get_mut("storageProfile") {
        let named = |disk: &Value| disk["source"].as_object().is_some_and(|source| !source.is_empty());
        let disks = profile["dataDiskImages"].as_array().into_iter().flatten().chain([&profile["osDiskImage"]]);
        let disks: Vec<Value> = disks.filter(|d| named(d)).map(|d| json!([d.get("lun"), d["source"]])).collect();
        *profile = json!([profile.get("source"), disks]);
    }
    let text = format!("{}\n{}\n{body}", row.id, row.created_ms);
    hex::encode(&digest(&SHA256, text.as_bytes()).as_ref()[..16])
}

/// The order of versions: 1.0.10 comes after 1.0.9. Names that are the same number (1.0.0, 01.0.0) stay apart.
fn by_number(key: &str) -> String {
    let numbered = key.rsplit_once('/').and_then(|(above, name)| Some((above, name, parse_name(name)?)));
    numbered.map_or_else(|| key.to_owned(), |(above, name, number)| format!("{above}/{}/{name}", number.sort_text()))
}

/// Row of a child that its parent's body brought along.
fn child_row(
    id: &ResourceId,
    resource_type: &str,
    parent: &str,
    body: Value,
    old: Option<&Resource>,
    now_ms: i64,
) -> Resource {
    Resource {
        key: id.key(),
        sort_key: id.key(),
        id: old.map_or_else(|| crate::write::canonical(id, resource_type), |o| o.id.clone()),
        kind: resource_type.to_ascii_lowercase(),
        subscription: id.subscription.to_ascii_lowercase(),
        resource_group: id.resource_group.as_deref().unwrap_or_default().to_ascii_lowercase(),
        parent: Some(parent.to_owned()),
        name: old.map_or_else(|| id.name().to_owned(), |o| o.name.clone()),
        location: String::new(),
        body,
        internal: old.map_or_else(|| json!({}), |o| o.internal.clone()),
        provisioning_state: "Succeeded".into(),
        etag: new_etag(),
        created_ms: old.map_or(now_ms, |o| o.created_ms),
        changed_ms: now_ms,
    }
}

/// The row with this id or key.
async fn named_row(cx: Context<'_>, id: &str) -> Result<Option<Resource>, ArmError> {
    cx.engine.db().resource(&id.to_ascii_lowercase()).await.map_err(db_error)
}
