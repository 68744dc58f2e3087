//! The catalogue of platform images as Azure's clients see it, below `…/Microsoft.Compute/locations/{l}/publishers`.
//!
//! ```text
//! lazuli image publish ─> Lazuli.Images/platformImages (providers/platform_image.rs) ─> rows
//! publishers / offers / skus / versions of a region  <── here ──────────────────────────┘   what that region serves in full
//! imageReference {publisher, offer, sku, version|latest}  ── find() ─> the row
//! ```
//! The catalogue is the server's, not a subscription's: whoever may read a subscription sees all of it there.

use crate::call::{Call, Listing};
use crate::stored::{ImageVersionInternal, Stored, internal};
use crate::{Engine, db_error};
use lazuli_arm::bodies::platform_image::{Urn, catalogue_properties, version_numbers};
use lazuli_arm::{ArmError, ResourceId, ResourceType, locations};
use lazuli_meta::model::{Resource, ResourceQuery};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Type of the rows.
pub(crate) const KIND: &str = "Lazuli.Images/platformImages";

/// A published image that a region serves.
#[derive(Debug, Clone)]
pub(crate) struct Published {
    pub urn: Urn,
    pub row: Resource,
    pub os_disk: Stored,
}

impl Engine {
    /// Every published image whose bytes this region has, ordered by URN, versions by number.
    pub(crate) async fn published(&self, location: &str) -> Result<Vec<Published>, ArmError> {
        let query = ResourceQuery { kind: Some(KIND.to_ascii_lowercase()), ..ResourceQuery::default() };
        let rows = self.all_rows(query).await?;
        let mut found: Vec<Published> = rows.into_iter().filter_map(|row| served(row, location)).collect();
        found.sort_by(|a, b| a.urn.cmp(&b.urn));
        Ok(found)
    }

    /// A list of the catalogue; `None` for any other collection.
    pub(crate) async fn catalogue_list(
        &self,
        call: &Call,
        parent: &ResourceId,
        collection: &ResourceType,
    ) -> Result<Option<Listing>, ArmError> {
        let Some(place) = Place::of(parent) else { return Ok(None) };
        let word = collection.types.last().map_or("", String::as_str).to_ascii_lowercase();
        if !matches!(word.as_str(), "publishers" | "offers" | "skus" | "versions" | "vmimages") {
            return Ok(None);
        }
        self.authorize_catalogue(call, parent).await?;
        let mut items = match place.edge_zone {
            // This server has no edge zones, hence nothing in them.
            true => vec![],
            false => list(&self.published(&place.location).await?, &place, &word, call, &parent.subscription)?,
        };
        if word == "publishers" && !place.edge_zone {
            // Publishers of extensions are in the same list.
            items.push(crate::extension_images::publisher_item(&place.location, &parent.subscription));
            items.sort_by_cached_key(|item| item["name"].as_str().unwrap_or_default().to_lowercase());
        }
        Ok(Some(Listing { items, next: None }))
    }

    /// A single version of the catalogue with its etag; `None` for any other resource.
    pub(crate) async fn catalogue_get(
        &self,
        call: &Call,
        id: &ResourceId,
    ) -> Result<Option<(Value, String)>, ArmError> {
        let Some(place) = Place::of(id) else { return Ok(None) };
        self.authorize_catalogue(call, id).await?;
        let Some(version) = &place.version else { return Err(not_found()) };
        let all = if place.edge_zone { vec![] } else { self.published(&place.location).await? };
        let found = all.iter().find(|p| place.holds(&p.urn) && same(version, &p.urn.version));
        let found = found.ok_or_else(not_found)?;
        let mut shown = json!({"properties": catalogue_properties(&found.row.body, found.os_disk.size_bytes)});
        extend(&mut shown, item(&place.location, &id.subscription, &found.urn, 4));
        Ok(Some((shown, found.row.etag.clone())))
    }

    pub(crate) async fn authorize_catalogue(&self, call: &Call, id: &ResourceId) -> Result<(), ArmError> {
        self.require_subscription(&call.caller, &id.subscription).await?;
        let scope = ResourceId::subscription(&id.subscription).key();
        self.authorize(&call.caller, &scope, "Microsoft.Compute/locations/publishers/read").await
    }

    /// The image that a reference means in this region.
    ///
    /// # Errors
    /// 404 `PlatformImageNotFound`.
    pub(crate) async fn find_published(&self, wanted: &Reference, location: &str) -> Result<Published, ArmError> {
        let here = self.published(location).await?.into_iter();
        let mut fitting = here.filter(|p| wanted.fits(&p.urn));
        // Ordered by number: the last one is the newest.
        let found = if wanted.is_latest() { fitting.next_back() } else { fitting.next() };
        found.ok_or_else(|| wanted.not_found())
    }
}

/// `{publisher, offer, sku, version}` of a body, or the id under which the publishers API shows a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reference {
    pub publisher: String,
    pub offer: String,
    pub sku: String,
    /// `latest`, or a version.
    pub version: String,
}

impl Reference {
    /// `None` where the reference is to something else (an id).
    pub(crate) fn of_body(reference: &Value) -> Option<Self> {
        let part = |name: &str| reference[name].as_str().unwrap_or_default().to_owned();
        reference["publisher"].as_str()?;
        Some(Self { publisher: part("publisher"), offer: part("offer"), sku: part("sku"), version: part("version") })
    }

    /// `/Subscriptions/…/Providers/Microsoft.Compute/Locations/l/Publishers/p/ArtifactTypes/VMImage/Offers/o/Skus/s/Versions/v`
    pub(crate) fn of_id(id: &ResourceId) -> Option<Self> {
        let place = Place::of(id).filter(|p| !p.edge_zone)?;
        Some(Self { publisher: place.publisher?, offer: place.offer?, sku: place.sku?, version: place.version? })
    }

    fn is_latest(&self) -> bool {
        self.version.eq_ignore_ascii_case("latest")
    }

    fn fits(&self, urn: &Urn) -> bool {
        self.publisher.eq_ignore_ascii_case(&urn.publisher)
            && self.offer.eq_ignore_ascii_case(&urn.offer)
            && self.sku.eq_ignore_ascii_case(&urn.sku)
            && (self.is_latest() || same(&self.version, &urn.version))
    }

    fn not_found(&self) -> ArmError {
        let Self { publisher, offer, sku, version } = self;
        ArmError::new(
            404,
            "PlatformImageNotFound",
            format!(
                "The platform image '{publisher}:{offer}:{sku}:{version}' is not available. Verify that all fields in the \
                 storage profile are correct. For more details about storage profile information, please refer to \
                 https://aka.ms/storageprofile"
            ),
        )
        .target("imageReference")
    }
}

/// The id under which the publishers API shows a version.
pub(crate) fn catalogue_id(subscription: &str, location: &str, urn: &Urn) -> String {
    item(location, subscription, urn, 4)["id"].as_str().unwrap_or_default().to_owned()
}

/// Whether an id is of a place in the catalogue, where there are no rows.
pub(crate) fn is_in_catalogue(id: &ResourceId) -> bool {
    Place::of(id).is_some()
}

fn same(wanted: &str, version: &str) -> bool {
    wanted == version || version_numbers(wanted).is_some_and(|n| Some(n) == version_numbers(version))
}

fn served(row: Resource, location: &str) -> Option<Published> {
    let state: ImageVersionInternal = internal(&row).ok()?;
    let whole = state.regions.get(location).is_some_and(|r| r.state == "Completed");
    if !whole || row.provisioning_state == "Deleting" {
        return None;
    }
    Some(Published { urn: row.name.parse().ok()?, os_disk: state.os_disk?, row })
}

/// Where publishers have things: the region of `{subscription}/providers/Microsoft.Compute/locations/{l}/…`, and what follows it.
pub(crate) fn below_location(id: &ResourceId) -> Option<(&'static str, &[(String, String)])> {
    if id.resource_group.is_some() || !id.namespace.eq_ignore_ascii_case("Microsoft.Compute") {
        return None;
    }
    let ((word, name), below) = id.segments.split_first()?;
    let location = locations::normalize(name).filter(|_| word.eq_ignore_ascii_case("locations"))?;
    Some((location.name, below))
}

/// Id of a publisher, as Azure spells it.
pub(crate) fn publisher_id(location: &str, subscription: &str, publisher: &str) -> String {
    format!("/Subscriptions/{subscription}/Providers/Microsoft.Compute/Locations/{location}/Publishers/{publisher}")
}

/// What of the catalogue a path names.
#[derive(Debug, Default, PartialEq, Eq)]
struct Place {
    location: String,
    edge_zone: bool,
    publisher: Option<String>,
    offer: Option<String>,
    sku: Option<String>,
    version: Option<String>,
}

impl Place {
    /// `None` where the path leads elsewhere.
    fn of(id: &ResourceId) -> Option<Self> {
        let (location, below) = below_location(id)?;
        let mut place = Self { location: location.to_owned(), ..Self::default() };
        for (kind, name) in below {
            let name = Some(name.clone());
            match kind.to_ascii_lowercase().as_str() {
                "edgezones" => place.edge_zone = true,
                "publishers" => place.publisher = name,
                "artifacttypes" if name.as_deref()?.eq_ignore_ascii_case("vmimage") => {}
                "offers" => place.offer = name,
                "skus" => place.sku = name,
                "versions" => place.version = name,
                _ => return None,
            }
        }
        Some(place)
    }

    /// Whether an image is below this place.
    fn holds(&self, urn: &Urn) -> bool {
        let fits = |wanted: &Option<String>, own: &str| wanted.as_ref().is_none_or(|w| w.eq_ignore_ascii_case(own));
        fits(&self.publisher, &urn.publisher) && fits(&self.offer, &urn.offer) && fits(&self.sku, &urn.sku)
    }
}

fn not_found() -> ArmError {
    ArmError::new(404, "NotFound", "Artifact: VMImage was not found.")
}

/// One level of the catalogue below a place: every name once.
fn list(all: &[Published], place: &Place, word: &str, call: &Call, subscription: &str) -> Result<Vec<Value>, ArmError> {
    let depth = match word {
        "publishers" => 1,
        "offers" => 2,
        "skus" => 3,
        _ => 4,
    };
    let below: Vec<&Published> = all.iter().filter(|p| place.holds(&p.urn)).collect();
    if below.is_empty() && depth > 1 {
        return Err(not_found());
    }
    let show = |p: &&Published| item(&place.location, subscription, &p.urn, depth);
    if depth < 4 {
        let name = |p: &Published| [&p.urn.publisher, &p.urn.offer, &p.urn.sku][depth - 1].to_ascii_lowercase();
        let mut once: BTreeMap<String, Value> = BTreeMap::new();
        for p in &below {
            once.entry(name(p)).or_insert_with(|| show(p));
        }
        return Ok(once.into_values().collect());
    }
    let mut items: Vec<Value> = below.iter().map(|p| expanded(p, call, show(p))).collect();
    if call.query.get("$orderby").is_some_and(|o| o.to_ascii_lowercase().ends_with(" desc")) {
        items.reverse();
    }
    if let Some(top) = call.query.get("$top") {
        let top = top.parse().map_err(|_| {
            ArmError::invalid_parameter("$top", format!("The value '{top}' of $top is not a whole number."))
        })?;
        items.truncate(top);
    }
    Ok(items)
}

/// `$expand=properties`, or a member of them (`properties/imageDeprecationStatus`).
fn expanded(p: &Published, call: &Call, mut item: Value) -> Value {
    let wanted = call.query.get("$expand").map_or("", String::as_str);
    let all = catalogue_properties(&p.row.body, p.os_disk.size_bytes);
    if wanted.eq_ignore_ascii_case("properties") {
        item["properties"] = all;
    } else if let Some(name) = wanted.strip_prefix("properties/")
        && let Some(value) = all.get(name)
    {
        item["properties"] = json!({name: value});
    }
    item
}

/// An entry of a list, by its depth: publisher, offer, SKU, version.
fn item(location: &str, subscription: &str, urn: &Urn, depth: usize) -> Value {
    let mut id = publisher_id(location, subscription, &urn.publisher);
    let below = [("ArtifactTypes/VMImage/Offers", &urn.offer), ("Skus", &urn.sku), ("Versions", &urn.version)];
    for (word, name) in below.iter().take(depth - 1) {
        id = format!("{id}/{word}/{name}");
    }
    let name = [&urn.publisher, &urn.offer, &urn.sku, &urn.version][depth - 1];
    json!({"location": location, "name": name, "id": id})
}

fn extend(shown: &mut Value, more: Value) {
    if let (Some(shown), Value::Object(more)) = (shown.as_object_mut(), more) {
        shown.extend(more);
    }
}

impl Engine {
    /// Platform images are everybody's: only an owner in the tenant of the server's operator may publish them.
    ///
    /// # Errors
    /// 403 `AuthorizationFailed`.
    pub(crate) async fn authorize_operator(&self, call: &Call, subscription: &str) -> Result<(), ArmError> {
        let scope = ResourceId::subscription(subscription).key();
        self.authorize(&call.caller, &scope, "Microsoft.Authorization/roleAssignments/write").await?;
        let operator = self.db().setting(crate::identity::BOOTSTRAPPED).await.map_err(db_error)?;
        if operator.is_some_and(|tenant| tenant.eq_ignore_ascii_case(&call.caller.tenant)) {
            return Ok(());
        }
        Err(ArmError::new(
            403,
            "AuthorizationFailed",
            format!(
                "The client '{}' with object id '{}' may not publish platform images: that is for owners in the tenant of this \
                 server's operator.",
                call.caller.app_id, call.caller.principal
            ),
        ))
    }
}
