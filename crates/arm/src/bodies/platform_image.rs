//! `Lazuli.Images/platformImages`: one version of a platform image, as the operator publishes it.
//!
//! A type of Lazuli's own: Azure's clients see it through the publishers API (`…/locations/{l}/publishers/…`, wire.md §2) and name
//! it by URN. Its resource name is that URN, `publisher:offer:sku:version`; its body is laid out as an image version's.

use super::{Context, Fields, Head, RegionFacts, format_time, merge_patch, unchanged};
use crate::{ArmError, ResourceId};
use serde_json::{Map, Value, json};
use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

const ROOT: &str = "platformImage";
const MAX_PART: usize = 128;

/// `publisher:offer:sku:version`. Compares ignoring case, versions by their numbers.
#[derive(Debug, Clone)]
pub struct Urn {
    pub publisher: String,
    pub offer: String,
    pub sku: String,
    pub version: String,
}

/// The numbers of a platform image's version, most significant first: 18.04.202306070 is newer than 18.4.9.
pub fn version_numbers(version: &str) -> Option<Vec<u64>> {
    let number = |p: &str| p.bytes().all(|b| b.is_ascii_digit()).then(|| p.parse().ok()).flatten();
    version.split('.').map(number).collect()
}

impl FromStr for Urn {
    type Err = ArmError;

    fn from_str(text: &str) -> Result<Self, ArmError> {
        let bad = |why: &str| {
            ArmError::invalid_parameter(
                "platformImageName",
                format!("The name '{text}' is not 'publisher:offer:sku:version': {why}."),
            )
        };
        let parts: Vec<&str> = text.split(':').collect();
        let [publisher, offer, sku, version] = parts.as_slice() else {
            return Err(bad("it needs four parts"));
        };
        let good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let named = |p: &&&str| !p.is_empty() && p.len() <= MAX_PART && p.chars().all(good);
        if ![publisher, offer, sku].iter().all(named) {
            return Err(bad("a part has 1 to 128 letters, digits, dots, underscores or hyphens"));
        }
        if version_numbers(version).is_none_or(|n| n.len() > 4) {
            return Err(bad("a version is one to four whole numbers with dots between them"));
        }
        let own = |p: &&str| (*p).to_owned();
        Ok(Self { publisher: own(publisher), offer: own(offer), sku: own(sku), version: own(version) })
    }
}

impl fmt::Display for Urn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}:{}", self.publisher, self.offer, self.sku, self.version)
    }
}

impl Urn {
    fn sort_key(&self) -> (String, String, String, Option<Vec<u64>>) {
        let lower = |s: &str| s.to_ascii_lowercase();
        (lower(&self.publisher), lower(&self.offer), lower(&self.sku), version_numbers(&self.version))
    }
}

impl PartialEq for Urn {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Urn {}

impl PartialOrd for Urn {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Urn {
    fn cmp(&self, other: &Self) -> Ordering {
        self.sort_key().cmp(&other.sort_key())
    }
}

/// A new body, or an update: regions and tags may change, what the image is may not.
///
/// Errors: `InvalidParameter`; 409 `PropertyChangeNotAllowed`.
pub fn put(id: &ResourceId, new: &Value, old: Option<&Value>, ctx: &Context<'_>) -> Result<Value, ArmError> {
    id.name().parse::<Urn>()?;
    let new = Fields::root(ROOT, new)?;
    let head = Head::read(id, &new, old, ctx)?;
    let given = new.object("properties")?;
    let stored = old.map(|o| &o["properties"]);
    let mut properties = match stored {
        None => create(&given)?,
        Some(stored) => {
            for name in ["osType", "hyperVGeneration", "architecture", "plan"] {
                unchanged(&given.path(name), given.get(name), stored.get(name))?;
            }
            let source = given.object("storageProfile")?.object("osDiskImage")?.object("source")?;
            let known = stored["storageProfile"]["osDiskImage"]["source"].get("id");
            unchanged(&source.path("id"), source.get("id"), known)?;
            stored.as_object().cloned().unwrap_or_default()
        }
    };
    let profile = publishing_profile(&given, stored, &head.region, ctx)?;
    properties.insert("publishingProfile".into(), profile);
    Ok(head.body(vec![], properties))
}

/// RFC 7396, then the checks of [`put`].
pub fn patch(id: &ResourceId, patch: &Value, old: &Value, ctx: &Context<'_>) -> Result<Value, ArmError> {
    put(id, &merge_patch(old, patch), Some(old), ctx)
}

fn create(given: &Fields<'_>) -> Result<Map<String, Value>, ArmError> {
    let mut properties = Map::new();
    properties.insert("osType".into(), given.one_of("osType", &["Linux", "Windows"])?.unwrap_or("Linux").into());
    let generation = given.one_of("hyperVGeneration", &["V1", "V2"])?.unwrap_or("V1");
    properties.insert("hyperVGeneration".into(), generation.into());
    properties.insert("architecture".into(), given.one_of("architecture", &["x64", "Arm64"])?.unwrap_or("x64").into());
    let plan = given.object("plan")?;
    if !plan.is_empty() {
        let part = |name: &str| plan.required_str(name);
        properties.insert(
            "plan".into(),
            json!({"publisher": part("publisher")?, "name": part("name")?, "product": part("product")?}),
        );
    }
    let source = given.object("storageProfile")?.object("osDiskImage")?.object("source")?;
    let text = source.required_str("id")?;
    let kind = text.parse::<ResourceId>().map(|id| id.resource_type().key()).unwrap_or_default();
    if !matches!(kind.as_str(), "microsoft.compute/disks" | "microsoft.compute/snapshots") {
        return Err(ArmError::invalid_parameter(
            &source.path("id"),
            format!("The source id: {text} must be a managed disk or snapshot."),
        ));
    }
    properties.insert("storageProfile".into(), json!({"osDiskImage": {"source": {"id": text}}}));
    Ok(properties)
}

/// The image's own location is always among its regions: its bytes are replicated from there.
fn publishing_profile(
    given: &Fields<'_>,
    stored: Option<&Value>,
    home: &RegionFacts,
    ctx: &Context<'_>,
) -> Result<Value, ArmError> {
    let given = given.object("publishingProfile")?;
    let stored = stored.map(|s| &s["publishingProfile"]);
    let published = stored.and_then(|s| s["publishedDate"].as_str()).map(str::to_owned);
    let published = published.unwrap_or_else(|| format_time(ctx.now));
    let show = |name: &str| json!({"name": name, "regionalReplicaCount": 1, "storageAccountType": "Standard_LRS"});
    let regions = match given.objects("targetRegions")?.filter(|items| !items.is_empty()) {
        Some(items) => {
            let mut names = vec![home.display_name.clone()];
            for item in items {
                let text = item.required_str("name")?;
                let facts = ctx.regions.find(&text).ok_or_else(|| {
                    ArmError::invalid_parameter(
                        &item.path("name"),
                        format!("The region '{text}' is not the name of a known region."),
                    )
                })?;
                if !names.contains(&facts.display_name) {
                    names.push(facts.display_name);
                }
            }
            names.iter().map(|n| show(n)).collect()
        }
        None => stored.map_or_else(|| json!([show(&home.display_name)]), |s| s["targetRegions"].clone()),
    };
    Ok(json!({"targetRegions": regions, "publishedDate": published}))
}

/// The members that the publishers API shows of an image of so many bytes (wire.md §2; recorded).
pub fn catalogue_properties(body: &Value, size_bytes: u64) -> Value {
    /// A published image is a VHD, whose footer counts (recorded: 30 GiB and 512 bytes).
    const FOOTER: u64 = 512;
    let own = &body["properties"];
    let mut shown = json!({
        "hyperVGeneration": own["hyperVGeneration"],
        "architecture": own["architecture"],
        "replicaType": "Unmanaged",
        "disallowed": {"vmDiskType": "None"},
        "automaticOSUpgradeProperties": {"automaticOSUpgradeSupported": false},
        "imageDeprecationStatus": {"imageState": "Active"},
        "osDiskImage": {"operatingSystem": own["osType"], "sizeInBytes": size_bytes + FOOTER},
        "dataDiskImages": [],
    });
    if let Some(plan) = own.get("plan") {
        shown["plan"] = plan.clone();
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::super::testing::{context, version};
    use super::*;

    const DISK: &str = "/subscriptions/0000/resourceGroups/rg1/providers/Microsoft.Compute/disks/d1";

    fn id() -> ResourceId {
        "/subscriptions/0000/providers/Lazuli.Images/platformImages/Debian:debian-12:12-gen2:0.20260101.1"
            .parse()
            .unwrap()
    }

    fn given() -> Value {
        json!({"location": "West US", "properties": {"hyperVGeneration": "v2",
            "storageProfile": {"osDiskImage": {"source": {"id": DISK}}},
            "publishingProfile": {"targetRegions": [{"name": "eastus2"}, {"name": "West US"}]}}})
    }

    #[test]
    fn a_publication_gets_its_defaults_and_keeps_what_it_is() {
        let api = version("2024-07-01");
        let ctx = context(&api);
        let body = put(&id(), &given(), None, &ctx).unwrap();
        let regions = &body["properties"]["publishingProfile"]["targetRegions"];
        assert_eq!((&regions[0]["name"], &regions[1]["name"]), (&json!("West US"), &json!("East US 2")));
        assert_eq!(regions.as_array().unwrap().len(), 2);
        assert_eq!(body["properties"]["osType"], "Linux");
        let change = json!({"properties": {"publishingProfile": {"targetRegions": [{"name": "westus2"}]}}});
        let changed = patch(&id(), &change, &body, &ctx).unwrap();
        assert_eq!(changed["properties"]["publishingProfile"]["targetRegions"][1]["name"], "West US 2");
        for change in [json!({"osType": "Windows"}), json!({"plan": {"name": "n", "publisher": "p", "product": "x"}})] {
            let error = patch(&id(), &json!({"properties": change}), &body, &ctx).unwrap_err();
            assert_eq!(error.code, "PropertyChangeNotAllowed");
        }
        let mut bad = given();
        bad["properties"]["storageProfile"]["osDiskImage"]["source"]["id"] = json!("/x");
        assert_eq!(put(&id(), &bad, None, &ctx).unwrap_err().status, 400);
        let mut bad = given();
        bad["properties"]["plan"] = json!({"name": "n"});
        assert_eq!(put(&id(), &bad, None, &ctx).unwrap_err().status, 400);
    }

    #[test]
    fn urns_compare_by_number_and_ignore_case() {
        let urn = |text: &str| text.parse::<Urn>().unwrap();
        assert!(urn("p:o:s:1.0.10") > urn("P:O:S:1.0.9"));
        assert_eq!(urn("p:o:s:18.04.202306070"), urn("P:o:S:18.4.202306070"));
        for bad in
            ["a:b:c", "a:b:c:d", "a::c:1", "a b:c:d:1", "a:b:c:1.2.3.4.5", "a:b:c:1..2", "a:b:c:1:2", "a/b:c:d:1"]
        {
            assert!(bad.parse::<Urn>().is_err(), "{bad}");
        }
    }
}
