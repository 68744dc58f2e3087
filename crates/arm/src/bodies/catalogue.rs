//! The built-in catalogue of regions as the checks of bodies see it.

use super::{RegionFacts, Regions};
use crate::locations;

/// Every region of [`locations`].
pub struct Catalogue;

impl Regions for Catalogue {
    fn find(&self, text: &str) -> Option<RegionFacts> {
        let found = locations::normalize(text)?;
        Some(RegionFacts {
            name: found.name.to_owned(),
            display_name: found.display_name.to_owned(),
            zones: found.zones > 0,
        })
    }
}
