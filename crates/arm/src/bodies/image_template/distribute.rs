//! Where a result goes: a gallery, a managed image, a VHD; several at once, each with a run output of its own.

use super::{MAX_ITEMS, bad_value, check_name, missing, text, validation};
use crate::bodies::image_version::VersionName;
use crate::bodies::{Fields, check_tags};
use crate::{ArmError, ResourceId, locations};
use serde_json::{Map, Value, json};

const STORAGE: [&str; 3] = ["Standard_LRS", "Standard_ZRS", "Premium_LRS"];

/// How the number of a new version is chosen ([`super::next_version`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Versioning {
    /// After the highest version, below this major version if there is one.
    Latest { major: Option<u32> },
    /// As the source's.
    Source,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetRegion {
    /// As it was written.
    pub name: String,
    pub replica_count: u32,
    pub storage_account_type: Option<&'static str>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    ManagedImage {
        /// As it was written.
        image_id: String,
        /// Canonical short name.
        location: String,
    },
    Gallery {
        /// Id of the definition.
        definition: String,
        /// The version that the id names; `None`: its number is chosen by `versioning`.
        version: Option<String>,
        regions: Vec<TargetRegion>,
        /// They were given in the deprecated way (`replicationRegions`), with this storage type.
        deprecated: Option<Option<&'static str>>,
        exclude_from_latest: bool,
        /// `None`: [`Versioning::Latest`].
        versioning: Option<Versioning>,
        replication_mode: Option<&'static str>,
    },
    Vhd {
        /// `None`: in the staging group's storage account.
        uri: Option<String>,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub struct Distributor {
    pub run_output_name: String,
    pub artifact_tags: Map<String, Value>,
    pub target: Target,
}

pub(super) fn read_list(properties: &Fields<'_>) -> Result<Vec<Distributor>, ArmError> {
    let above = "ImageTemplate.properties";
    let items = properties.objects("distribute").map_err(validation)?.unwrap_or_default();
    if items.is_empty() {
        return Err(missing(above, "distribute"));
    }
    if items.len() > MAX_ITEMS {
        let why = format!("At most {MAX_ITEMS} are accepted.");
        return Err(bad_value(above, "distribute", &items.len().to_string(), &why));
    }
    let mut read: Vec<Distributor> = Vec::with_capacity(items.len());
    for (i, item) in items.iter().enumerate() {
        let next =
            Reader { item, path: format!("{above}.distribute[{i}]"), place: format!("distribute[{i}]") }.read()?;
        if read.iter().any(|d| d.run_output_name.eq_ignore_ascii_case(&next.run_output_name)) {
            let why = "Each distributor needs a run output of its own.";
            return Err(bad_value(above, &format!("distribute[{i}].runOutputName"), &next.run_output_name, why));
        }
        read.push(next);
    }
    Ok(read)
}

struct Reader<'a> {
    item: &'a Fields<'a>,
    path: String,
    place: String,
}

impl Reader<'_> {
    fn read(&self) -> Result<Distributor, ArmError> {
        let kind = self.item.str("type").map_err(validation)?.unwrap_or_default();
        let target = match kind.as_str() {
            "ManagedImage" => self.managed_image()?,
            "SharedImage" => self.gallery()?,
            "VHD" => self.vhd()?,
            other => {
                let why = "It is ManagedImage, SharedImage or VHD (spelled exactly so).";
                return Err(bad_value("ImageTemplate.properties", &format!("{}.type", self.place), other, why));
            }
        };
        let run_output_name = self.required("runOutputName")?;
        check_name(&run_output_name, "runOutputName", &self.path)?;
        let artifact_tags = check_tags(self.item.get("artifactTags"))?.unwrap_or_default();
        Ok(Distributor { run_output_name, artifact_tags, target })
    }

    fn required(&self, name: &str) -> Result<String, ArmError> {
        text(self.item, name)?.ok_or_else(|| missing(&self.path, name))
    }

    fn region(&self, name: &str, field: &str) -> Result<&'static str, ArmError> {
        let found = locations::normalize(name).map(|l| l.name);
        found.ok_or_else(|| bad_value(&self.path, field, name, "There is no such region."))
    }

    fn managed_image(&self) -> Result<Target, ArmError> {
        let image_id = self.required("imageId")?;
        if !image_id.parse::<ResourceId>().is_ok_and(|i| i.resource_type().key() == "microsoft.compute/images") {
            return Err(bad_value(&self.path, "imageId", &image_id, "The id of a managed image is expected."));
        }
        let location = self.region(&self.required("location")?, "location")?.to_owned();
        Ok(Target::ManagedImage { image_id, location })
    }

    fn gallery(&self) -> Result<Target, ArmError> {
        let id = self.required("galleryImageId")?;
        let (definition, version) = self.gallery_id(&id)?;
        let modern = self.target_regions()?;
        let old = self.item.strings("replicationRegions").map_err(validation)?.filter(|r| !r.is_empty());
        let old_type = self.storage(self.item, "storageAccountType")?;
        if modern.is_some() && (old.is_some() || old_type.is_some()) {
            let why = "'replicationRegions' and 'storageAccountType' are given only where 'targetRegions' is not.";
            return Err(bad_value(&self.path, "targetRegions", "(given with a deprecated field)", why));
        }
        let (regions, deprecated) = match (modern, old) {
            (Some(regions), _) => (regions, None),
            (None, Some(names)) => {
                let region = |name: String| {
                    self.region(&name, "replicationRegions")?;
                    Ok(TargetRegion { name, replica_count: 1, storage_account_type: old_type })
                };
                let regions = names.into_iter().map(region).collect::<Result<_, ArmError>>()?;
                (regions, Some(old_type))
            }
            (None, None) => return Err(missing(&self.path, "targetRegions")),
        };
        self.no_region_twice(&regions)?;
        let versioning = self.versioning()?;
        if version.is_some() && versioning.is_some() {
            let why = "The id of the distributor names a version already.";
            return Err(bad_value(&self.path, "versioning", "(given)", why));
        }
        let mode = self.item.one_of("replicationMode", &["Full", "Shallow"]).map_err(validation)?;
        Ok(Target::Gallery {
            definition,
            version,
            regions,
            deprecated,
            exclude_from_latest: self.item.bool("excludeFromLatest").map_err(validation)?.unwrap_or(false),
            versioning,
            replication_mode: mode,
        })
    }

    /// The definition, and the version if the id goes on to one.
    fn gallery_id(&self, id: &str) -> Result<(String, Option<String>), ArmError> {
        let parsed = id.parse::<ResourceId>().ok();
        let kind = parsed.as_ref().map(|p| p.resource_type().key());
        match (parsed, kind.as_deref()) {
            (Some(_), Some("microsoft.compute/galleries/images")) => Ok((id.to_owned(), None)),
            (Some(parsed), Some("microsoft.compute/galleries/images/versions")) => {
                let version = parsed.name().to_owned();
                if version.parse::<VersionName>().is_err() {
                    let why = "The version must have the form Major.Minor.Patch.";
                    return Err(bad_value(&self.path, "galleryImageId", id, why));
                }
                let definition = parsed.parent().map_or_else(String::new, |d| d.to_string());
                Ok((definition, Some(version)))
            }
            _ => Err(bad_value(&self.path, "galleryImageId", id, "The id of an image definition is expected.")),
        }
    }

    fn target_regions(&self) -> Result<Option<Vec<TargetRegion>>, ArmError> {
        let Some(items) = self.item.objects("targetRegions").map_err(validation)?.filter(|i| !i.is_empty()) else {
            return Ok(None);
        };
        let read = |(i, item): (usize, &Fields<'_>)| {
            let field = format!("targetRegions[{i}]");
            let name = text(item, "name")?.ok_or_else(|| missing(&format!("{}.{field}", self.path), "name"))?;
            self.region(&name, &format!("{field}.name"))?;
            let count = item.int("replicaCount").map_err(validation)?.unwrap_or(1);
            let replica_count = u32::try_from(count).ok().filter(|c| (1..=100).contains(c)).ok_or_else(|| {
                bad_value(&self.path, &format!("{field}.replicaCount"), &count.to_string(), "It is between 1 and 100.")
            })?;
            Ok(TargetRegion { name, replica_count, storage_account_type: self.storage(item, "storageAccountType")? })
        };
        items.iter().enumerate().map(read).collect::<Result<_, ArmError>>().map(Some)
    }

    fn no_region_twice(&self, regions: &[TargetRegion]) -> Result<(), ArmError> {
        let canonical = |r: &TargetRegion| locations::normalize(&r.name).map(|l| l.name);
        for (i, region) in regions.iter().enumerate() {
            if regions[..i].iter().any(|r| canonical(r) == canonical(region)) {
                return Err(bad_value(&self.path, "targetRegions", &region.name, "The region is given twice."));
            }
        }
        Ok(())
    }

    fn storage(&self, item: &Fields<'_>, name: &str) -> Result<Option<&'static str>, ArmError> {
        let Some(given) = text(item, name)? else { return Ok(None) };
        let known = STORAGE.into_iter().find(|s| s.eq_ignore_ascii_case(&given));
        let why = "It is Standard_LRS, Standard_ZRS or Premium_LRS.";
        known.map(Some).ok_or_else(|| bad_value(&self.path, name, &given, why))
    }

    fn versioning(&self) -> Result<Option<Versioning>, ArmError> {
        if self.item.get("versioning").is_none() {
            return Ok(None);
        }
        let given = self.item.object("versioning").map_err(validation)?;
        let scheme = given.str("scheme").map_err(validation)?.unwrap_or_default();
        let major = given.int("major").map_err(validation)?;
        match scheme.as_str() {
            "Latest" => match major.unwrap_or(-1) {
                -1 => Ok(Some(Versioning::Latest { major: None })),
                n => match i32::try_from(n).ok().and_then(|n| u32::try_from(n).ok()) {
                    Some(n) => Ok(Some(Versioning::Latest { major: Some(n) })),
                    None => {
                        let why = "It is -1 (any) or the number of a major version.";
                        Err(bad_value(&self.path, "versioning.major", &n.to_string(), why))
                    }
                },
            },
            "Source" if major.is_none() => Ok(Some(Versioning::Source)),
            "Source" => {
                let why = "A major version is given with the scheme Latest only.";
                Err(bad_value(&self.path, "versioning.major", &major.unwrap_or(-1).to_string(), why))
            }
            other => Err(bad_value(&self.path, "versioning.scheme", other, "It is Latest or Source.")),
        }
    }

    fn vhd(&self) -> Result<Target, ArmError> {
        let uri = text(self.item, "uri")?;
        let is_blob = |uri: &str| {
            let lower = uri.to_ascii_lowercase();
            let rest = lower.strip_prefix("https://").or_else(|| lower.strip_prefix("http://"));
            rest.is_some_and(|r| r.split('?').next().unwrap_or(r).trim_end_matches('/').matches('/').count() >= 2)
        };
        match uri {
            Some(uri) if !is_blob(&uri) => {
                let shown = uri.split('?').next().unwrap_or_default();
                Err(bad_value(&self.path, "uri", shown, "The URL of a blob in a container is expected."))
            }
            uri => Ok(Target::Vhd { uri }),
        }
    }
}

impl Distributor {
    pub fn kind(&self) -> &'static str {
        match &self.target {
            Target::ManagedImage { .. } => "ManagedImage",
            Target::Gallery { .. } => "SharedImage",
            Target::Vhd { .. } => "VHD",
        }
    }

    pub(super) fn body(&self) -> Value {
        let mut body = json!({"artifactTags": self.artifact_tags});
        match &self.target {
            Target::ManagedImage { image_id, location } => {
                body["imageId"] = json!(image_id);
                body["location"] = json!(location);
            }
            Target::Gallery { definition, version, exclude_from_latest, versioning, replication_mode, .. } => {
                body["excludeFromLatest"] = json!(exclude_from_latest);
                body["galleryImageId"] = match version {
                    Some(version) => json!(format!("{definition}/versions/{version}")),
                    None => json!(definition),
                };
                self.put_regions(&mut body);
                if let Some(mode) = replication_mode {
                    body["replicationMode"] = json!(mode);
                }
                // Shown as null where nobody gave one (recorded).
                body["versioning"] = match versioning {
                    None => Value::Null,
                    Some(Versioning::Source) => json!({"scheme": "Source"}),
                    Some(Versioning::Latest { major }) => {
                        json!({"scheme": "Latest", "major": major.map_or(-1, i64::from)})
                    }
                };
            }
            Target::Vhd { uri } => {
                if let Some(uri) = uri {
                    body["uri"] = json!(uri);
                }
            }
        }
        body["runOutputName"] = json!(self.run_output_name);
        body["type"] = json!(self.kind());
        body
    }

    fn put_regions(&self, body: &mut Value) {
        let Target::Gallery { regions, deprecated, .. } = &self.target else { return };
        match deprecated {
            Some(storage) => {
                body["replicationRegions"] = regions.iter().map(|r| json!(r.name)).collect();
                if let Some(storage) = storage {
                    body["storageAccountType"] = json!(storage);
                }
            }
            None => {
                let region = |r: &TargetRegion| {
                    json!({
                        "name": r.name, "replicaCount": r.replica_count,
                        "storageAccountType": r.storage_account_type.unwrap_or("Standard_LRS"),
                    })
                };
                body["targetRegions"] = regions.iter().map(region).collect();
            }
        }
    }
}
