//! Galleries that are shared beyond the rights in their subscription (GA-5, GA-6): who may see them, and what they see.
//!
//! ```text
//! POST galleries/g/share ─> the gallery's profile, and in the same transaction an entry for each audience
//!
//! lazuli.shares/subscriptions/{id}/{unique name}  ┐
//! lazuli.shares/tenants/{id}/{unique name}        ├─> lists of consumers, pages of the index
//! lazuli.shares/community/{public name}           ┘   and the one way from a public name to its gallery
//! lazuli.claims/galleries/{subscription}/{name}   ──> from a unique name to its gallery
//! ```
//! An entry only says where to look: every decision rests on the gallery's own row, as it is at that moment. What is not
//! shared is answered as what does not exist.

use crate::authorization::subscription_for;
use crate::call::{Call, Caller, Listing};
use crate::claims::Claim;
use crate::hidden_rows::hidden_row;
use crate::read::top;
use crate::sizes::region;
use crate::stored::{ImageVersionInternal, internal};
use crate::{Engine, db_error};
use lazuli_arm::bodies::gallery::{Audience, audiences};
use lazuli_arm::bodies::image_definition;
use lazuli_arm::bodies::shared_gallery::{SharedGalleryKind, SharedImageId, SharedView, is_open_to};
use lazuli_arm::{ArmError, ResourceId, ResourceType, locations};
use lazuli_meta::model::{Change, Expect, Resource, ResourceQuery};
use serde_json::Value;
use std::collections::BTreeSet;

const IMAGES: &str = "microsoft.compute/galleries/images";
pub(crate) const VERSIONS: &str = "microsoft.compute/galleries/images/versions";
const ENTRIES: &str = "lazuli.shares";
/// Rows that are read at once while a page is filled, and while a version is looked for.
const SOME: i64 = 100;

/// Who uses what is shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Consumer {
    pub subscription: String,
    pub tenant: String,
}

impl Consumer {
    fn may_see(&self, kind: SharedGalleryKind, gallery: &Resource) -> bool {
        gallery.provisioning_state != "Deleting" && is_open_to(kind, &gallery.body, &self.subscription, &self.tenant)
    }
}

/// The name of a gallery is unique in its subscription (wire.md §3).
pub(crate) fn name_claim(subscription: &str, name: &str) -> Claim {
    Claim::new("galleries", &[subscription, name])
}

/// What of the entries changes with a gallery's sharing profile. To be committed with it.
pub(crate) fn entry_changes(gallery: &Resource, shared: &Value) -> Vec<Change> {
    let (before, after) = (entries(&gallery.body), entries(shared));
    let gone = before.iter().filter(|e| !after.contains(e));
    let new = after.iter().filter(|e| !before.contains(e));
    let delete = |(key, _): &(String, String)| Change::DeleteResource { key: key.clone(), expect: Expect::Any };
    let put = |(key, name): &(String, String)| Change::PutResource {
        resource: hidden_row(ENTRIES, key, &gallery.id, name),
        expect: Expect::Any,
    };
    gone.map(delete).chain(new.map(put)).collect()
}

/// Keys and names of a gallery's entries.
fn entries(body: &Value) -> Vec<(String, String)> {
    let of = |audience: &Audience| {
        let kind = match audience {
            Audience::Everybody => SharedGalleryKind::Community,
            Audience::Subscription(_) | Audience::Tenant(_) => SharedGalleryKind::Direct,
        };
        let name = kind.name_of(body)?;
        Some((format!("{}/{}", audience_key(audience), name.to_ascii_lowercase()), name.to_owned()))
    };
    audiences(body).iter().filter_map(of).collect()
}

/// What the keys of its entries begin with.
fn audience_key(audience: &Audience) -> String {
    let key = match audience {
        Audience::Subscription(id) => format!("{ENTRIES}/subscriptions/{id}"),
        Audience::Tenant(id) => format!("{ENTRIES}/tenants/{id}"),
        Audience::Everybody => format!("{ENTRIES}/community"),
    };
    key.to_ascii_lowercase()
}

/// A version whose bytes this region serves, and that is not on its way out.
pub(crate) fn serves(version: &Resource, location: &str) -> bool {
    version.provisioning_state != "Deleting"
        && internal::<ImageVersionInternal>(version).is_ok_and(|state| state.serves(location))
}

/// What of the shared galleries a path names.
#[derive(Debug, PartialEq, Eq)]
struct Place<'a> {
    subscription: &'a str,
    location: &'a str,
    kind: SharedGalleryKind,
    /// The gallery, a definition of it, a version of that: as far as the path goes.
    names: Vec<&'a str>,
    right: String,
}

impl<'a> Place<'a> {
    /// `types`: those of `scope`, and one more for a list. `None` where the path leads elsewhere.
    fn of(scope: &'a ResourceId, types: &[&str]) -> Option<Self> {
        if scope.resource_group.is_some() || scope.segments.is_empty() {
            return None;
        }
        let lower: Vec<String> = types.iter().map(|t| t.to_ascii_lowercase()).collect();
        let words: Vec<&str> = lower.iter().map(String::as_str).collect();
        let ["locations", galleries, below @ ..] = words.as_slice() else { return None };
        let kind = SharedGalleryKind::ALL.into_iter().find(|k| k.collection().eq_ignore_ascii_case(galleries))?;
        let known = scope.namespace.eq_ignore_ascii_case("Microsoft.Compute")
            && matches!(below, [] | ["images"] | ["images", "versions"]);
        let mut names = scope.segments.iter().map(|(_, name)| name.as_str());
        let location = names.next()?;
        let below: String = below.iter().map(|word| format!("/{word}")).collect();
        known.then(|| Self {
            subscription: &scope.subscription,
            location,
            kind,
            names: names.collect(),
            right: format!("Microsoft.Compute/locations/{}{below}/read", kind.collection()),
        })
    }

    fn of_id(id: &'a ResourceId) -> Option<Self> {
        let types: Vec<&str> = id.segments.iter().map(|(kind, _)| kind.as_str()).collect();
        Self::of(id, &types)
    }

    /// Azure's words for a gallery, known to this detail (public issue); the same for what is in it. `names` is not empty.
    fn not_found(&self) -> ArmError {
        let what = ["gallery", "gallery image", "gallery image version"][self.names.len().clamp(1, 3) - 1];
        let name = self.names.last().copied().unwrap_or_default();
        let region = locations::normalize(self.location).map(|l| l.display_name.replace(' ', ""));
        ArmError::new(
            404,
            "NotFound",
            format!(
                "please check if the {what} name '{name}' is valid and the {what} exists in '{}' region.",
                region.as_deref().unwrap_or(self.location)
            ),
        )
    }
}

/// Whether an id is of a place where consumers look at what is shared: there are no rows.
pub(crate) fn is_shared_view(id: &ResourceId) -> bool {
    Place::of_id(id).is_some()
}

impl Engine {
    /// A list of shared galleries, or of what is in one; `None` for any other collection.
    pub(crate) async fn shared_list(
        &self,
        call: &Call,
        parent: &ResourceId,
        collection: &ResourceType,
    ) -> Result<Option<Listing>, ArmError> {
        let types: Vec<&str> = collection.types.iter().map(String::as_str).collect();
        let Some(place) = Place::of(parent, &types) else { return Ok(None) };
        if place.names.is_empty() && place.kind == SharedGalleryKind::Community {
            // Azure has no such list either: its clients ask Resource Graph.
            return Ok(None);
        }
        let (consumer, location) = self.authorize_shared(call, &place).await?;
        let audience = shared_to(call, &consumer)?;
        let gallery = match place.names.first() {
            Some(name) => {
                Some(self.shared_gallery(place.kind, name, &consumer).await?.ok_or_else(|| place.not_found())?)
            }
            None => None,
        };
        let mut query = ResourceQuery { after: call.query.get("$skiptoken").cloned(), ..ResourceQuery::default() };
        (query.kind, query.under) = match (&gallery, place.names.get(1)) {
            (None, _) => (Some(ENTRIES.to_owned()), Some(audience_key(&audience))),
            (Some(gallery), None) => (Some(IMAGES.to_owned()), Some(gallery.key.clone())),
            (Some(gallery), Some(image)) => {
                let key = child_key(&gallery.key, &["images", *image]);
                let definition = self.db().resource(&key).await.map_err(db_error)?;
                (Some(VERSIONS.to_owned()), Some(definition.ok_or_else(|| place.not_found())?.key))
            }
        };
        let name = gallery.as_ref().and_then(|g| place.kind.name_of(&g.body)).unwrap_or_default();
        let page = Page { engine: self, call, consumer, kind: place.kind, gallery: name, location };
        page.of(query).await.map(Some)
    }

    /// A shared gallery, an image of it or a version of that, with its etag; `None` for any other resource.
    pub(crate) async fn shared_get(&self, call: &Call, id: &ResourceId) -> Result<Option<(Value, String)>, ArmError> {
        let Some(place) = Place::of_id(id) else { return Ok(None) };
        let (consumer, location) = self.authorize_shared(call, &place).await?;
        let [name, below @ ..] = place.names.as_slice() else { return Ok(None) };
        let gallery = self.shared_gallery(place.kind, name, &consumer).await?.ok_or_else(|| place.not_found())?;
        let path = match below {
            [] => vec![],
            [image] => vec!["images", *image],
            [image, version, ..] => vec!["images", *image, "versions", *version],
        };
        let row = match path.is_empty() {
            true => Some(gallery.clone()),
            false => self.db().resource(&child_key(&gallery.key, &path)).await.map_err(db_error)?,
        };
        let gallery = place.kind.name_of(&gallery.body).unwrap_or_default();
        let page = Page { engine: self, call, consumer, kind: place.kind, gallery, location };
        let shown = match &row {
            Some(row) => page.shown(row, gallery).await?.map(|view| (view, row.etag.clone())),
            None => None,
        };
        shown.map(Some).ok_or_else(|| place.not_found())
    }

    async fn authorize_shared(&self, call: &Call, place: &Place<'_>) -> Result<(Consumer, &'static str), ArmError> {
        let subscription = self.require_subscription(&call.caller, place.subscription).await?;
        let scope = ResourceId::subscription(place.subscription).to_string();
        self.authorize(&call.caller, &scope, &place.right).await?;
        let location = region(place.location)?;
        Ok((Consumer { subscription: subscription.id, tenant: subscription.tenant }, location))
    }

    /// The consumer that makes something in a subscription.
    ///
    /// # Errors
    /// As [`Engine::require_subscription`].
    pub(crate) async fn consumer(&self, caller: &Caller, subscription: &str) -> Result<Consumer, ArmError> {
        let access = self.access_of(caller).await?;
        let found = subscription_for(&access, caller, subscription)?;
        Ok(Consumer { subscription: found.id.clone(), tenant: found.tenant.clone() })
    }

    /// The gallery of that name, if the consumer may see it.
    pub(crate) async fn shared_gallery(
        &self,
        kind: SharedGalleryKind,
        name: &str,
        consumer: &Consumer,
    ) -> Result<Option<Resource>, ArmError> {
        let id = match kind {
            SharedGalleryKind::Direct => match name.rsplit_once('-') {
                // Names of galleries have no dashes.
                Some((subscription, own)) => name_claim(subscription, own).owner(self).await?,
                None => None,
            },
            SharedGalleryKind::Community => {
                let key = format!("{}/{name}", audience_key(&Audience::Everybody)).to_ascii_lowercase();
                self.db().resource(&key).await.map_err(db_error)?.map(|entry| entry.id)
            }
        };
        let Some(id) = id else { return Ok(None) };
        let gallery = self.db().resource(&id.to_ascii_lowercase()).await.map_err(db_error)?;
        let named = |g: &Resource| kind.name_of(&g.body).is_some_and(|own| own.eq_ignore_ascii_case(name));
        Ok(gallery.filter(|g| named(g) && consumer.may_see(kind, g)))
    }

    /// The definition of a shared image, if the consumer may see it.
    pub(crate) async fn shared_definition(
        &self,
        id: &SharedImageId,
        consumer: &Consumer,
    ) -> Result<Option<Resource>, ArmError> {
        let Some(gallery) = self.shared_gallery(id.kind, &id.gallery, consumer).await? else { return Ok(None) };
        self.db().resource(&child_key(&gallery.key, &["images", &id.image])).await.map_err(db_error)
    }

    /// Every community gallery in every region where it is, as Resource Graph shows it: by name and region.
    pub(crate) async fn community_galleries(&self) -> Result<Vec<Value>, ArmError> {
        let query = ResourceQuery {
            kind: Some(ENTRIES.to_owned()),
            under: Some(audience_key(&Audience::Everybody)),
            ..ResourceQuery::default()
        };
        // Of no subscription: what is open to everybody is open to it.
        let anybody = Consumer { subscription: String::new(), tenant: String::new() };
        let kind = SharedGalleryKind::Community;
        let mut found = Vec::new();
        for entry in self.all_rows(query).await? {
            let Some(gallery) = self.shared_gallery(kind, &entry.name, &anybody).await? else { continue };
            for location in self.regions_of(&gallery).await? {
                let view = SharedView { kind, gallery: &entry.name, location: &location };
                found.push(view.graph_row(&gallery.body));
            }
        }
        Ok(found)
    }

    /// Where a gallery is: where it was made, and wherever a version of it is.
    async fn regions_of(&self, gallery: &Resource) -> Result<BTreeSet<String>, ArmError> {
        let mut regions = BTreeSet::from([gallery.location.clone()]);
        let query = ResourceQuery {
            kind: Some(VERSIONS.to_owned()),
            under: Some(gallery.key.clone()),
            ..ResourceQuery::default()
        };
        for row in self.all_rows(query).await?.iter().filter(|row| row.provisioning_state != "Deleting") {
            let state: ImageVersionInternal = internal(row)?;
            let whole = state.regions.keys().filter(|region| state.serves(region));
            regions.extend(whole.cloned());
        }
        Ok(regions)
    }

    /// Whether a region serves any version of a gallery or a definition.
    async fn has_version_in(&self, key: &str, location: &str) -> Result<bool, ArmError> {
        let mut query = ResourceQuery {
            kind: Some(VERSIONS.to_owned()),
            under: Some(key.to_owned()),
            // The newest are the likeliest to be everywhere.
            descending: true,
            limit: Some(SOME),
            ..ResourceQuery::default()
        };
        loop {
            let rows = self.db().resources(&query).await.map_err(db_error)?;
            if rows.iter().any(|row| serves(row, location)) {
                return Ok(true);
            }
            query.after = rows.last().map(|row| row.sort_key.clone());
            if query.after.is_none() {
                return Ok(false);
            }
        }
    }
}

/// `…/galleries/g` and `["images", "i"]`.
fn child_key(key: &str, path: &[&str]) -> String {
    format!("{key}/{}", path.join("/")).to_ascii_lowercase()
}

/// `sharedTo=tenant`: what is shared with the whole tenant; otherwise, what is shared with the subscription.
fn shared_to(call: &Call, consumer: &Consumer) -> Result<Audience, ArmError> {
    match call.query.get("sharedto").map(|word| word.to_ascii_lowercase()).as_deref() {
        Some("tenant") => Ok(Audience::Tenant(consumer.tenant.clone())),
        None | Some("" | "subscription") => Ok(Audience::Subscription(consumer.subscription.clone())),
        Some(other) => {
            let message = format!("The value '{other}' of parameter sharedTo is invalid. It must be one of: tenant.");
            Err(ArmError::invalid_parameter("sharedTo", message))
        }
    }
}

/// How a consumer sees rows of the owner.
struct Page<'a> {
    engine: &'a Engine,
    call: &'a Call,
    consumer: Consumer,
    kind: SharedGalleryKind,
    /// The gallery's name for consumers; none yet where galleries are listed.
    gallery: &'a str,
    location: &'static str,
}

impl Page<'_> {
    /// A page of the rows that `query` finds: those that are seen in this region.
    async fn of(&self, mut query: ResourceQuery) -> Result<Listing, ArmError> {
        let top = top(self.call, "$top")?;
        query.limit = Some(SOME);
        let mut items = Vec::new();
        let mut last = None;
        loop {
            let rows = self.engine.db().resources(&query).await.map_err(db_error)?;
            for row in &rows {
                let shown = match row.kind.as_str() {
                    ENTRIES => match self.engine.shared_gallery(self.kind, &row.name, &self.consumer).await? {
                        Some(gallery) => self.shown(&gallery, &row.name).await?,
                        None => None,
                    },
                    _ => self.shown(row, self.gallery).await?,
                };
                let Some(item) = shown else { continue };
                if items.len() == top {
                    return Ok(Listing { items, next: last });
                }
                items.push(item);
                last = Some(row.sort_key.clone());
            }
            query.after = rows.last().map(|row| row.sort_key.clone());
            if query.after.is_none() {
                return Ok(Listing { items, next: None });
            }
        }
    }

    /// A gallery, a definition or a version; `None` where it is not in this region. Galleries and definitions are where they
    /// were made, and wherever a version of them is.
    async fn shown(&self, row: &Resource, gallery: &str) -> Result<Option<Value>, ArmError> {
        let view = SharedView { kind: self.kind, gallery, location: self.location };
        if row.provisioning_state == "Deleting" {
            return Ok(None);
        }
        if row.kind == VERSIONS {
            let id: ResourceId = row.id.parse().map_err(ArmError::internal)?;
            let image = id.ancestor_name("images").unwrap_or_default();
            return Ok(serves(row, self.location).then(|| view.version(image, &row.name, &row.body)));
        }
        if row.location != self.location && !self.engine.has_version_in(&row.key, self.location).await? {
            return Ok(None);
        }
        Ok(Some(match row.kind.as_str() {
            IMAGES => view.image(&row.name, &image_definition::show(&row.body, &self.call.api_version)),
            _ => view.gallery(&row.body),
        }))
    }
}
