//! What consumers see of galleries that are shared with them: `…/locations/{l}/sharedGalleries` and `…/communityGalleries`
//! (Swagger `GalleryRP`), and the ids by which they name such images.
//!
//! ```text
//! Direct      /SharedGalleries/{subscription-NAME}/Images/{i}/Versions/{v}    whom the owner named
//! Community   /CommunityGalleries/{prefix-guid}/Images/{i}/Versions/{v}       everybody
//! ```
//! A view is made member by member: nothing of the owner's side (ids, tags, sources, regions) may get into it unnoticed.

use super::Fields;
use super::gallery::{Audience, audiences};
use super::image_version::is_latest_candidate;
use crate::ArmError;
use serde_json::{Map, Value, json};
use std::fmt;

/// Azure's own page (recorded, wire.md §3).
const DISCLAIMER: &str = "https://aka.ms/community-gallery-disclaimer";
/// Tags of the owner that are meant to be seen: those of the Swagger's examples begin with it.
const ARTIFACT_TAG: &str = "ShareTag-";
/// Of a definition, what consumers see (Swagger `SharedGalleryImageProperties`, `CommunityGalleryImageProperties`).
const IMAGE_MEMBERS: [&str; 12] = [
    "osType",
    "osState",
    "endOfLifeDate",
    "identifier",
    "recommended",
    "disallowed",
    "hyperVGeneration",
    "features",
    "purchasePlan",
    "architecture",
    "privacyStatementUri",
    "eula",
];

/// How a gallery is shared beyond the rights in its subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SharedGalleryKind {
    /// With subscriptions and tenants.
    Direct,
    /// With everybody.
    Community,
}

impl SharedGalleryKind {
    pub const ALL: [Self; 2] = [Self::Direct, Self::Community];

    /// The type in paths: `sharedGalleries`.
    pub fn collection(self) -> &'static str {
        match self {
            Self::Direct => "sharedGalleries",
            Self::Community => "communityGalleries",
        }
    }

    /// The member of an image reference.
    pub fn member(self) -> &'static str {
        match self {
            Self::Direct => "sharedGalleryImageId",
            Self::Community => "communityGalleryImageId",
        }
    }

    /// What ids begin with.
    fn root(self) -> &'static str {
        match self {
            Self::Direct => "SharedGalleries",
            Self::Community => "CommunityGalleries",
        }
    }

    /// The name under which consumers find the gallery of a stored body; `None` where it has none of this kind.
    pub fn name_of(self, body: &Value) -> Option<&str> {
        let properties = &body["properties"];
        match self {
            Self::Direct => properties["identifier"]["uniqueName"].as_str(),
            Self::Community => properties["sharingProfile"]["communityGalleryInfo"]["publicNames"][0].as_str(),
        }
    }
}

/// The id by which a consumer names an image. Letters' case does not matter: Terraform writes `/communityGalleries/g/images/i`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedImageId {
    pub kind: SharedGalleryKind,
    /// The unique name of a direct shared gallery, the public name of a community gallery.
    pub gallery: String,
    pub image: String,
    /// `None` for the newest, whether that is said (`latest`) or not.
    pub version: Option<String>,
}

impl SharedImageId {
    /// `None` where the text is no such id.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().split('/');
        if !parts.next()?.is_empty() {
            return None;
        }
        let parts: Vec<&str> = parts.collect();
        let is = |i: usize, word: &str| parts.get(i).is_some_and(|p| p.eq_ignore_ascii_case(word));
        let kind = SharedGalleryKind::ALL.into_iter().find(|k| is(0, k.root()))?;
        let whole = parts.iter().all(|p| !p.is_empty()) && is(2, "Images");
        let version = match parts.len() {
            4 => None,
            6 if is(4, "Versions") => Some(parts[5].to_owned()),
            _ => return None,
        };
        whole.then(|| Self {
            kind,
            gallery: parts[1].to_owned(),
            image: parts[3].to_owned(),
            version: version.filter(|v| !v.eq_ignore_ascii_case("latest")),
        })
    }

    /// The shared image that a stored reference names.
    pub fn of_reference(reference: &Value) -> Option<Self> {
        SharedGalleryKind::ALL.into_iter().find_map(|kind| Self::parse(reference[kind.member()].as_str()?))
    }
}

impl fmt::Display for SharedImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}/{}/Images/{}", self.kind.root(), self.gallery, self.image)?;
        match &self.version {
            Some(version) => write!(f, "/Versions/{version}"),
            None => Ok(()),
        }
    }
}

/// The member of an image reference that names a shared image, as it was written: `{"sharedGalleryImageId": …}`. `None` where
/// there is none.
///
/// Errors: `InvalidParameter` for what is no such id, and for more than one id.
pub fn shared_reference(reference: &Fields<'_>) -> Result<Option<Value>, ArmError> {
    let mut found = None;
    for kind in SharedGalleryKind::ALL {
        let member = kind.member();
        let Some(text) = reference.str(member)? else { continue };
        let path = reference.path(member);
        if found.is_some() || reference.get("id").is_some() {
            return Err(ArmError::invalid_parameter(
                &path,
                format!("Parameter '{path}' is not allowed: an image is named by one id."),
            ));
        }
        if SharedImageId::parse(&text).is_none_or(|id| id.kind != kind) {
            return Err(ArmError::invalid_parameter(
                &path,
                format!(
                    "The value '{text}' of parameter {path} is invalid: /{}/{{gallery}}/Images/{{image}}/Versions/{{version}} is \
                     expected.",
                    kind.root()
                ),
            ));
        }
        found = Some(json!({member: text.trim()}));
    }
    Ok(found)
}

/// A shared gallery as it is seen in a region.
#[derive(Debug, Clone)]
pub struct SharedView<'a> {
    pub kind: SharedGalleryKind,
    /// Its unique or public name.
    pub gallery: &'a str,
    /// Short name of the region.
    pub location: &'a str,
}

impl SharedView<'_> {
    /// `body`: the gallery's.
    pub fn gallery(&self, body: &Value) -> Value {
        let mut properties = Map::new();
        if self.kind == SharedGalleryKind::Community {
            let info = &body["properties"]["sharingProfile"]["communityGalleryInfo"];
            let members = ["publisherUri", "publisherContact", "eula", "publicNames"];
            let metadata: Map<String, Value> =
                members.iter().filter_map(|m| Some(((*m).to_owned(), info.get(*m)?.clone()))).collect();
            properties.insert("communityMetadata".into(), metadata.into());
        }
        self.frame(self.gallery, "communityGallery", "", properties, body)
    }

    /// A community gallery as a row of Resource Graph's table `communitygalleryresources`; `az sig list-community` reads its
    /// `properties.communityMetadata` and `properties.identifier`.
    pub fn graph_row(&self, body: &Value) -> Value {
        let mut row = self.gallery(body);
        row["id"] =
            format!("/providers/Microsoft.Compute/locations/{}/communityGalleries/{}", self.location, self.gallery)
                .into();
        row["type"] = "microsoft.compute/locations/communitygalleries".into();
        row["properties"]["identifier"] = row["identifier"].take();
        if let Some(row) = row.as_object_mut() {
            row.shift_remove("identifier");
        }
        row
    }

    /// `body`: the definition's.
    pub fn image(&self, name: &str, body: &Value) -> Value {
        let of = |member: &&str| Some(((*member).to_owned(), body["properties"].get(*member)?.clone()));
        let properties = IMAGE_MEMBERS.iter().filter_map(of).collect();
        self.frame(name, "communityGalleryImage", &format!("/Images/{name}"), properties, body)
    }

    /// `body`: the version's. `excludeFromLatest` is as it is in this region.
    pub fn version(&self, image: &str, name: &str, body: &Value) -> Value {
        let profile = &body["properties"]["publishingProfile"];
        let storage = &body["properties"]["storageProfile"];
        let mut properties = Map::new();
        for member in ["publishedDate", "endOfLifeDate"] {
            properties.extend(profile.get(member).map(|v| (member.to_owned(), v.clone())));
        }
        properties.insert("excludeFromLatest".into(), (!is_latest_candidate(body, self.location)).into());
        let disk = |d: &Value| json!({"diskSizeGB": d["sizeInGB"], "hostCaching": d["hostCaching"]});
        let mut shown = json!({"osDiskImage": disk(&storage["osDiskImage"])});
        if let Some(data) = storage["dataDiskImages"].as_array() {
            let at_lun = |d: &Value| {
                let mut shown = disk(d);
                shown["lun"] = d["lun"].clone();
                shown
            };
            shown["dataDiskImages"] = data.iter().map(at_lun).collect();
        }
        properties.insert("storageProfile".into(), shown);
        let below = format!("/Images/{image}/Versions/{name}");
        self.frame(name, "communityGalleryImageVersion", &below, properties, body)
    }

    /// `community_type`: how the Swagger's examples call it; directly shared ones have no type there.
    fn frame(
        &self,
        name: &str,
        community_type: &str,
        below: &str,
        mut properties: Map<String, Value>,
        body: &Value,
    ) -> Value {
        properties.insert("artifactTags".into(), artifact_tags(body).into());
        let mut shown = json!({"name": name, "location": self.location});
        if self.kind == SharedGalleryKind::Community {
            shown["type"] = format!("Microsoft.Compute/locations/{community_type}").into();
            properties.insert("disclaimer".into(), DISCLAIMER.into());
        }
        shown["identifier"] = json!({"uniqueId": format!("/{}/{}{below}", self.kind.root(), self.gallery)});
        shown["properties"] = properties.into();
        shown
    }
}

fn artifact_tags(body: &Value) -> Map<String, Value> {
    let meant = |(name, _): &(&String, &Value)| {
        name.get(..ARTIFACT_TAG.len()).is_some_and(|start| start.eq_ignore_ascii_case(ARTIFACT_TAG))
    };
    let tags = body["tags"].as_object().into_iter().flatten();
    tags.filter(meant).map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// Whether a consumer in this subscription and its tenant may see the gallery of a stored body.
pub fn is_open_to(kind: SharedGalleryKind, body: &Value, subscription: &str, tenant: &str) -> bool {
    audiences(body).iter().any(|audience| match audience {
        Audience::Subscription(id) => kind == SharedGalleryKind::Direct && id.eq_ignore_ascii_case(subscription),
        Audience::Tenant(id) => kind == SharedGalleryKind::Direct && id.eq_ignore_ascii_case(tenant),
        Audience::Everybody => kind == SharedGalleryKind::Community,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_in_any_case_and_shown_in_azures() {
        let id = SharedImageId::parse("/communityGalleries/pub-1/images/i/versions/1.0.0").unwrap();
        assert_eq!((id.kind, id.version.as_deref()), (SharedGalleryKind::Community, Some("1.0.0")));
        assert_eq!(id.to_string(), "/CommunityGalleries/pub-1/Images/i/Versions/1.0.0");
        for newest in ["/SharedGalleries/s-G/Images/i", "/SharedGalleries/s-G/Images/i/Versions/LATEST"] {
            let id = SharedImageId::parse(newest).unwrap();
            assert_eq!((id.kind, id.version), (SharedGalleryKind::Direct, None), "{newest}");
        }
        for bad in [
            "",
            "/",
            "SharedGalleries/g/Images/i",
            "/SharedGalleries/g/Images",
            "/SharedGalleries//Images/i",
            "/SharedGalleries/g/Images/i/Versions",
            "/SharedGalleries/g/Images/i/Versions/",
            "/SharedGalleries/g/Images/i/Versions/1.0.0/x",
            "/SharedGalleries/g/Definitions/i",
            "/OtherGalleries/g/Images/i",
            "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/galleries/g/images/i",
        ] {
            assert_eq!(SharedImageId::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_reference_names_one_image() {
        let read = |body: Value| shared_reference(&Fields::root("imageReference", &body).unwrap());
        let shared = "/SharedGalleries/s-G/Images/i/Versions/latest";
        assert_eq!(read(json!({"id": "x"})).unwrap(), None);
        assert_eq!(
            read(json!({"SharedGalleryImageId": shared})).unwrap(),
            Some(json!({"sharedGalleryImageId": shared}))
        );
        for bad in [
            json!({"sharedGalleryImageId": shared, "id": "x"}),
            json!({"sharedGalleryImageId": shared, "communityGalleryImageId": "/CommunityGalleries/g/Images/i"}),
            json!({"communityGalleryImageId": shared}),
            json!({"sharedGalleryImageId": "/SharedGalleries/g"}),
        ] {
            assert_eq!(read(bad.clone()).unwrap_err().code, "InvalidParameter", "{bad}");
        }
    }

    /// Everything that an owner's rows have, and nothing of it but what is for consumers.
    #[test]
    fn views_show_what_is_for_consumers() {
        let gallery = json!({"location": "eastus", "tags": {"secret": "t", "ShareTag-Kind": "k"}, "properties": {
            "description": "secret", "identifier": {"uniqueName": "s-G"}, "sharingProfile": {"permissions": "Community",
            "communityGalleryInfo": {"communityGalleryEnabled": true, "publisherUri": "u", "publisherContact": "c",
                "eula": "e", "publicNamePrefix": "pub", "publicNames": ["pub-1"]}}}});
        let image = json!({"location": "eastus", "tags": {"secret": "t"}, "properties": {"osType": "Linux",
            "osState": "Generalized", "hyperVGeneration": "V2", "architecture": "x64", "description": "secret",
            "identifier": {"publisher": "p", "offer": "o", "sku": "s"}, "releaseNoteUri": "secret"}});
        let version = json!({"location": "eastus", "tags": {"secret": "t"}, "properties": {
            "publishingProfile": {"targetRegions": [{"name": "East US"}, {"name": "secret"},
                {"name": "West US", "excludeFromLatest": true}], "publishedDate": "2026-01-01T00:00:00+00:00",
                "excludeFromLatest": false, "storageAccountType": "secret"},
            "storageProfile": {"source": {"id": "/subscriptions/secret"},
                "osDiskImage": {"sizeInGB": 30, "hostCaching": "ReadWrite", "source": {"id": "/subscriptions/secret"}},
                "dataDiskImages": [{"lun": 3, "sizeInGB": 1, "hostCaching": "None", "source": {"uri": "secret"}}]}}});
        let mut shown = Vec::new();
        for (kind, gallery_name) in [(SharedGalleryKind::Direct, "s-G"), (SharedGalleryKind::Community, "pub-1")] {
            assert_eq!(kind.name_of(&gallery), Some(gallery_name));
            let view = SharedView { kind, gallery: gallery_name, location: "westus" };
            shown.extend([view.gallery(&gallery), view.image("i", &image), view.version("i", "1.0.0", &version)]);
        }
        let view = SharedView { kind: SharedGalleryKind::Community, gallery: "pub-1", location: "westus" };
        shown.push(view.graph_row(&gallery));
        let text = serde_json::to_string_pretty(&shown).unwrap();
        assert!(!text.contains("secret"), "{text}");
        insta::assert_snapshot!(text);
    }

    #[test]
    fn a_gallery_is_open_to_whom_it_names() {
        let groups = json!([{"type": "Subscriptions", "ids": ["AA"]}, {"type": "AADTenants", "ids": ["bb"]}]);
        let direct = json!({"properties": {"sharingProfile": {"permissions": "Groups", "groups": groups}}});
        let open = |body: &Value, kind, subscription: &str, tenant: &str| is_open_to(kind, body, subscription, tenant);
        let kind = SharedGalleryKind::Direct;
        assert!(open(&direct, kind, "aa", "x") && open(&direct, kind, "x", "BB"));
        assert!(!open(&direct, kind, "bb", "aa") && !open(&direct, SharedGalleryKind::Community, "aa", "bb"));
        let mut community = json!({"properties": {"sharingProfile": {"permissions": "Community",
            "communityGalleryInfo": {"communityGalleryEnabled": false, "publicNames": ["p-1"]}}}});
        let kind = SharedGalleryKind::Community;
        assert!(!open(&community, kind, "aa", "bb"), "not enabled yet");
        community["properties"]["sharingProfile"]["communityGalleryInfo"]["communityGalleryEnabled"] = json!(true);
        assert!(open(&community, kind, "aa", "bb") && !open(&community, SharedGalleryKind::Direct, "aa", "bb"));
        assert!(!open(&json!({"properties": {}}), kind, "aa", "bb"));
    }
}
