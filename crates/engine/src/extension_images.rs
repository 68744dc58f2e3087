//! The catalogue of extensions, `…/locations/{l}/publishers/{p}/artifacttypes/vmextension/types/{t}/versions/{v}`: what clients ask
//! before they put one into a machine. It is fixed: what this server can do.

use crate::Engine;
use crate::call::{Call, Listing};
use crate::platform_images::{below_location, publisher_id};
use lazuli_arm::bodies::virtual_machine_extension::CUSTOM_SCRIPT;
use lazuli_arm::{ArmError, ResourceId, ResourceType};
use serde_json::{Value, json};

/// What a path below `artifacttypes/vmextension` names.
#[derive(Debug, Default, PartialEq, Eq)]
struct Place {
    location: String,
    publisher: String,
    kind: Option<String>,
    version: Option<String>,
}

impl Place {
    /// `None` where the path leads elsewhere.
    fn of(id: &ResourceId) -> Option<Self> {
        let (location, below) = below_location(id)?;
        let mut place = Self { location: location.to_owned(), ..Self::default() };
        let mut found = false;
        for (word, name) in below {
            match word.to_ascii_lowercase().as_str() {
                "publishers" => place.publisher.clone_from(name),
                "artifacttypes" if name.eq_ignore_ascii_case("vmextension") => found = true,
                "types" => place.kind = Some(name.clone()),
                "versions" => place.version = Some(name.clone()),
                _ => return None,
            }
        }
        found.then_some(place)
    }

    fn check(&self) -> Result<(), ArmError> {
        let (publisher, kind, version) = CUSTOM_SCRIPT;
        let fits = self.publisher.eq_ignore_ascii_case(publisher)
            && self.kind.as_ref().is_none_or(|k| k.eq_ignore_ascii_case(kind))
            && self.version.as_ref().is_none_or(|v| v == version);
        if fits { Ok(()) } else { Err(ArmError::new(404, "NotFound", "Artifact: VMExtension was not found.")) }
    }

    /// An entry of a list; `depth`: 2 a type, 3 a version.
    fn item(&self, subscription: &str, depth: usize) -> Value {
        let (publisher, kind, version) = CUSTOM_SCRIPT;
        let above = publisher_id(&self.location, subscription, publisher);
        let mut id = format!("{above}/ArtifactTypes/VMExtension/Types/{kind}");
        let mut name = kind;
        if depth == 3 {
            id = format!("{id}/Versions/{version}");
            name = version;
        }
        json!({"location": self.location, "name": name, "id": id})
    }
}

/// The publisher among those of images.
pub(crate) fn publisher_item(location: &str, subscription: &str) -> Value {
    let (publisher, _, _) = CUSTOM_SCRIPT;
    json!({"location": location, "name": publisher, "id": publisher_id(location, subscription, publisher)})
}

/// Whether an id is of a place in this catalogue, where there are no rows.
pub(crate) fn is_in_catalogue(id: &ResourceId) -> bool {
    Place::of(id).is_some()
}

impl Engine {
    /// `None` for any other collection.
    pub(crate) async fn extension_list(
        &self,
        call: &Call,
        parent: &ResourceId,
        collection: &ResourceType,
    ) -> Result<Option<Listing>, ArmError> {
        let Some(place) = Place::of(parent) else { return Ok(None) };
        let word = collection.types.last().map_or("", String::as_str).to_ascii_lowercase();
        let depth = match (word.as_str(), &place.kind) {
            ("types", None) => 2,
            ("versions", Some(_)) => 3,
            _ => return Ok(None),
        };
        self.authorize_catalogue(call, parent).await?;
        place.check()?;
        Ok(Some(Listing { items: vec![place.item(&parent.subscription, depth)], next: None }))
    }

    /// `None` for any other resource.
    pub(crate) async fn extension_get(&self, call: &Call, id: &ResourceId) -> Result<Option<Value>, ArmError> {
        let Some(place) = Place::of(id) else { return Ok(None) };
        self.authorize_catalogue(call, id).await?;
        place.check()?;
        if place.version.is_none() {
            return Err(ArmError::new(404, "NotFound", "Artifact: VMExtension was not found."));
        }
        let mut shown = place.item(&id.subscription, 3);
        shown["properties"] = json!({"operatingSystem": "Linux", "computeRole": "IaaS", "vmScaleSetEnabled": false,
            "supportsMultipleExtensions": false});
        Ok(Some(shown))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let base =
            "/subscriptions/s/providers/Microsoft.Compute/locations/eastus/publishers/Microsoft.Azure.Extensions";
        let of = |tail: &str| Place::of(&format!("{base}{tail}").parse().unwrap());
        assert_eq!(of("/artifacttypes/vmimage/offers/x"), None);
        let place = of("/artifacttypes/vmextension/types/CustomScript").unwrap();
        assert!(place.check().is_ok());
        assert!(of("/artifacttypes/vmextension/types/Other").unwrap().check().is_err());
        let id = place.item("s", 3)["id"].as_str().unwrap().to_owned();
        assert!(id.ends_with("/ArtifactTypes/VMExtension/Types/CustomScript/Versions/2.1.10"), "{id}");
    }
}
