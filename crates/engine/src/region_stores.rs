//! Where the regions' bytes lie: for each region one store a zone, as configured, or else one folder.

use lazuli_chunks::{Cache, ChunkError, RateLimit, Region, RegionConfig, open_store};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

const MIB: NonZeroU64 = NonZeroU64::new(1 << 20).expect("not zero");

/// A region's stores.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegionSettings {
    /// One URL a zone: a folder, `s3://bucket/prefix` or `az://container/prefix`. Every zone holds every byte. None: one
    /// folder below the data folder.
    #[serde(default)]
    pub zones: Vec<String>,
    /// What the object stores want to know, by the names of `object_store`: `aws_endpoint`, `azure_storage_account_name`…
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// How many MiB a second replications from other regions may bring, by the region they come from.
    #[serde(default)]
    pub mib_per_second_from: BTreeMap<String, NonZeroU64>,
}

/// The canonical short name of a region, if there is such a one.
pub fn region_name(text: &str) -> Option<&'static str> {
    lazuli_arm::locations::normalize(text).map(|l| l.name)
}

/// The stores of all regions. The index of each is a local folder.
#[derive(Debug, Clone)]
pub struct RegionStores {
    root: PathBuf,
    configured: BTreeMap<String, RegionSettings>,
}

impl RegionStores {
    /// `root` is the folder of the regions that are not configured, and of all indexes.
    pub fn new(root: PathBuf, configured: BTreeMap<String, RegionSettings>) -> Self {
        Self { root, configured }
    }

    /// How to open a region (canonical short name).
    ///
    /// # Errors
    /// [`ChunkError::Incompatible`] if a URL cannot be used.
    pub fn config(&self, name: &str, cache: Cache) -> Result<RegionConfig, ChunkError> {
        let folder = self.root.join(name);
        let Some(settings) = self.configured.get(name).filter(|s| !s.zones.is_empty()) else {
            return RegionConfig::local(name, &folder, cache);
        };
        let open = |url: &String| {
            open_store(url, &settings.options)
                .map_err(|e| ChunkError::Incompatible { region: name.to_owned(), detail: format!("{url}: {e}") })
        };
        let stores = settings.zones.iter().map(open).collect::<Result<_, _>>()?;
        Ok(RegionConfig { name: name.to_owned(), stores, index_dir: folder.join("index"), cache })
    }

    /// In how many independent places a region keeps what it stores.
    pub fn zones(&self, name: &str) -> usize {
        self.configured.get(name).map_or(1, |s| s.zones.len().max(1))
    }

    /// Sets how fast replications into `region` may be.
    pub(crate) fn limit(&self, region: &Region) {
        let limits = self.configured.get(region.name()).into_iter().flat_map(|s| &s.mib_per_second_from);
        for (from, mib) in limits {
            let from = region_name(from).unwrap_or(from);
            region.limit_replication_from(from, RateLimit::new(mib.saturating_mul(MIB)));
        }
    }

    /// Names of the regions that were opened here once.
    ///
    /// # Errors
    /// If the folder of the regions cannot be read.
    pub fn known(&self) -> std::io::Result<Vec<String>> {
        let mut names = folders(&self.root)?;
        names.sort();
        Ok(names)
    }
}

fn folders(root: &Path) -> std::io::Result<Vec<String>> {
    match std::fs::read_dir(root) {
        Ok(entries) => {
            let names = entries.map(|entry| Ok(entry?.file_name().into_string().ok()));
            names.filter_map(std::io::Result::transpose).collect()
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_has_the_zones_that_are_configured_and_else_one_folder() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let zones = vec![path("a"), path("b"), path("c")];
        let east = RegionSettings { zones, ..RegionSettings::default() };
        let wrong = RegionSettings { zones: vec!["ftp://x/y".into()], ..RegionSettings::default() };
        let configured = [("eastus".to_owned(), east), ("westus".to_owned(), wrong)].into();
        let stores = RegionStores::new(dir.path().join("regions"), configured);
        assert_eq!(stores.config("eastus", Cache::new(0)).unwrap().stores.len(), 3);
        assert_eq!((stores.zones("eastus"), stores.zones("northeurope")), (3, 1));
        assert_eq!(stores.config("northeurope", Cache::new(0)).unwrap().stores.len(), 1);
        let refused = stores.config("westus", Cache::new(0)).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(refused.contains("ftp://x/y") && refused.contains("westus"), "{refused}");
        assert_eq!(stores.known().unwrap(), ["northeurope"]);
    }
}
