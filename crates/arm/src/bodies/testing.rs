//! A small catalogue and a fixed clock for the tests of the bodies.

use super::{Context, RegionFacts, Regions};
use crate::{ApiVersion, ResourceId};
use uuid::Uuid;

pub struct FewRegions;

impl Regions for FewRegions {
    fn find(&self, text: &str) -> Option<RegionFacts> {
        let short: String = text.chars().filter(|c| *c != ' ').collect::<String>().to_ascii_lowercase();
        let (name, display_name, zones) = match short.as_str() {
            "eastus" => ("eastus", "East US", true),
            "eastus2" => ("eastus2", "East US 2", true),
            "westus" => ("westus", "West US", false),
            "westus2" => ("westus2", "West US 2", true),
            "chinanorth2" => ("chinanorth2", "China North 2", false),
            _ => return None,
        };
        Some(RegionFacts { name: name.into(), display_name: display_name.into(), zones })
    }
}

pub fn version(text: &str) -> ApiVersion {
    ApiVersion::parse(Some(text)).expect("a valid api-version")
}

pub fn context(api_version: &ApiVersion) -> Context<'_> {
    Context {
        api_version,
        regions: &FewRegions,
        now: "2026-01-02T03:04:05.1234567Z".parse().expect("a time"),
        new_id: Uuid::from_u128(0x11),
        allow_past_end_of_life: false,
    }
}

pub fn id(tail: &str) -> ResourceId {
    format!("/subscriptions/0000/resourceGroups/rg1/providers/Microsoft.Compute/{tail}").parse().expect("an id")
}
