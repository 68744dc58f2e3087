//! What a build starts from. `latest` is resolved when it runs, not when the template is submitted.

use super::{bad_value, missing, text, validation};
use crate::bodies::Fields;
use crate::{ArmError, ResourceId};
use serde_json::{Map, Value, json};

const PATH: &str = "ImageTemplate.properties.source";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanInfo {
    pub name: String,
    pub product: String,
    pub publisher: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// `version` may be `latest`.
    PlatformImage { publisher: String, offer: String, sku: String, version: String, plan: Option<PlanInfo> },
    /// Id as it was written; of the template's subscription and region.
    ManagedImage { id: String },
    /// Id as it was written, of a version of a gallery or of one that is shared directly; the last name may be `latest`.
    SharedImageVersion { id: String },
}

impl Source {
    pub(super) fn read(properties: &Fields<'_>) -> Result<Self, ArmError> {
        if properties.get("source").is_none() {
            return Err(missing("ImageTemplate.properties", "source"));
        }
        let given = properties.object("source").map_err(validation)?;
        let kind = given.str("type").map_err(validation)?.unwrap_or_default();
        let required = |name: &str| text(&given, name)?.ok_or_else(|| missing(PATH, name));
        match kind.as_str() {
            "PlatformImage" => {
                let [publisher, offer, sku, version] =
                    [required("publisher")?, required("offer")?, required("sku")?, required("version")?];
                Ok(Self::PlatformImage { publisher, offer, sku, version, plan: plan(&given)? })
            }
            "ManagedImage" => {
                let id = required("imageId")?;
                let ok = id.parse::<ResourceId>().is_ok_and(|i| i.resource_type().key() == "microsoft.compute/images");
                if ok { Ok(Self::ManagedImage { id }) } else { Err(bad_value(PATH, "imageId", &id, "")) }
            }
            "SharedImageVersion" => {
                let id = required("imageVersionId")?;
                if is_version(&id) {
                    Ok(Self::SharedImageVersion { id })
                } else {
                    let why = "The id of a version in a gallery is expected; the version's name may be 'latest'.";
                    Err(bad_value(PATH, "imageVersionId", &id, why))
                }
            }
            other => {
                let why = "It is PlatformImage, ManagedImage or SharedImageVersion.";
                Err(bad_value("ImageTemplate.properties", "source.type", other, why))
            }
        }
    }

    pub(super) fn body(&self) -> Value {
        match self {
            Self::PlatformImage { publisher, offer, sku, version, plan } => {
                let mut body = json!({
                    "offer": offer, "publisher": publisher, "sku": sku, "type": "PlatformImage", "version": version,
                });
                if let Some(plan) = plan {
                    body["planInfo"] =
                        json!({"planName": plan.name, "planProduct": plan.product, "planPublisher": plan.publisher});
                }
                body
            }
            Self::ManagedImage { id } => json!({"imageId": id, "type": "ManagedImage"}),
            Self::SharedImageVersion { id } => json!({"imageVersionId": id, "type": "SharedImageVersion"}),
        }
    }

    /// The `imageReference` of a machine that is made of it.
    pub fn reference(&self) -> Value {
        match self {
            Self::PlatformImage { publisher, offer, sku, version, .. } => {
                json!({"publisher": publisher, "offer": offer, "sku": sku, "version": version})
            }
            Self::ManagedImage { id } => json!({"id": id}),
            Self::SharedImageVersion { id } => {
                let lower = id.to_ascii_lowercase();
                let shared = [
                    ("/sharedgalleries/", "sharedGalleryImageId"),
                    ("/communitygalleries/", "communityGalleryImageId"),
                ];
                match shared.into_iter().find_map(|(word, member)| Some((lower.find(word)?, member))) {
                    Some((at, member)) => json!({member: id.get(at..).unwrap_or(id)}),
                    None => json!({"id": id}),
                }
            }
        }
    }

    /// Whether the version is chosen when a run begins.
    pub fn is_latest(&self) -> bool {
        match self {
            Self::PlatformImage { version, .. } => version.eq_ignore_ascii_case("latest"),
            Self::ManagedImage { .. } => false,
            Self::SharedImageVersion { id } => id.rsplit('/').next().is_some_and(|v| v.eq_ignore_ascii_case("latest")),
        }
    }

    /// `source.exactVersion` before anything was resolved; `None` where there is no such field.
    pub fn unresolved_version(&self) -> Option<&str> {
        match self {
            Self::PlatformImage { version, .. } => Some(version),
            Self::SharedImageVersion { id } => Some(id),
            Self::ManagedImage { .. } => None,
        }
    }
}

fn plan(given: &Fields<'_>) -> Result<Option<PlanInfo>, ArmError> {
    if given.get("planInfo").is_none() {
        return Ok(None);
    }
    let fields = given.object("planInfo").map_err(validation)?;
    let path = format!("{PATH}.planInfo");
    let required = |name: &str| text(&fields, name)?.ok_or_else(|| missing(&path, name));
    Ok(Some(PlanInfo {
        name: required("planName")?,
        product: required("planProduct")?,
        publisher: required("planPublisher")?,
    }))
}

/// `…/galleries/g/images/i/versions/v`, or the same of a gallery that is shared:
/// `[/subscriptions/s/providers/Microsoft.Compute/locations/l]/sharedGalleries/u/images/i/versions/v`.
fn is_version(id: &str) -> bool {
    let parts: Vec<&str> = id.split('/').filter(|p| !p.is_empty()).collect();
    let Some(start) = parts.len().checked_sub(6) else { return false };
    let tail = &parts[start..];
    let is = |i: usize, word: &str| tail[i].eq_ignore_ascii_case(word);
    if !(is(2, "images") && is(4, "versions")) {
        return false;
    }
    let shared = is(0, "sharedGalleries") || is(0, "communityGalleries");
    let own = id.parse::<ResourceId>().is_ok_and(|i| i.namespace.eq_ignore_ascii_case("Microsoft.Compute"));
    match (shared, own) {
        (true, own) => own || start == 0,
        (false, own) => own && is(0, "galleries") && start > 0,
    }
}

/// Members of an object that are there.
pub(super) fn insert(body: &mut Map<String, Value>, name: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        body.insert(name.to_owned(), value.into());
    }
}
