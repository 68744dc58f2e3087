//! Where the regions' bytes lie: for each region one store a zone, as configured, or else one folder.
//!
//! ```text
//! dedup = "region"   ZONE/{store.json, packs/…}                     what anybody brought in once is there once
//! dedup = "tenant"   ZONE/tenants/TENANT/{store.json, packs/…}…     a store a tenant: nothing is shared between them
//! ```
//! The index of each store is a local folder, laid out in the same way. A region keeps to the kind that its data has: stores that
//! hold data of the other kind are refused, for it would be neither found nor collected. See RFD 10.

use lazuli_chunks::{Cache, ChunkError, RateLimit, Region, RegionConfig, SealingKeys, local_store, open_store};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::Duration;
use uuid::Uuid;

/// A store that has not answered by then is left for later.
const PATIENCE: Duration = Duration::from_secs(5);
const MIB: NonZeroU64 = NonZeroU64::new(1 << 20).expect("not zero");
/// Below it are the stores of tenants.
const TENANTS: &str = "tenants";

/// Between whom equal bytes are stored once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dedup {
    /// All who use the region.
    #[default]
    Region,
    /// The subscriptions of one tenant.
    Tenant,
}

/// Who shares one of a region's stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Boundary {
    Region,
    Tenant(Uuid),
}

impl Boundary {
    /// The name of a region's store: that of the region, or `REGION/TENANT`.
    pub fn store_name(self, region: &str) -> String {
        match self {
            Self::Region => region.to_owned(),
            Self::Tenant(id) => format!("{region}/{id}"),
        }
    }

    /// A place in a zone, a folder or a URL.
    fn below(self, zone: &str) -> String {
        match self {
            Self::Region => zone.to_owned(),
            Self::Tenant(id) => format!("{}/{TENANTS}/{id}", zone.trim_end_matches('/')),
        }
    }

    fn folder_below(self, folder: &Path) -> PathBuf {
        match self {
            Self::Region => folder.to_owned(),
            Self::Tenant(id) => folder.join(TENANTS).join(id.to_string()),
        }
    }
}

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
    /// Where the keys are that the region's packs are sealed with, the newest first: `file:PATH` or `env:NAME`, each with 64
    /// hexadecimal digits. None: what the stores hold is plain. See `docs/encryption.md`.
    #[serde(default)]
    pub encryption_keys: Vec<String>,
    /// Between whom equal bytes are stored once. Only for a region that has no data yet, or data of this kind.
    #[serde(default)]
    pub dedup: Dedup,
}

impl RegionSettings {
    /// Reads the keys.
    fn keys(&self, region: &str) -> Result<Option<SealingKeys>, ChunkError> {
        let refused = |source: &str, why: String| ChunkError::Incompatible {
            region: region.to_owned(),
            detail: format!("its encryption key {source} cannot be used: {why}"),
        };
        let read = |source: &String| match source.split_once(':') {
            Some(("file", path)) => std::fs::read_to_string(path).map_err(|e| refused(source, e.to_string())),
            Some(("env", name)) => {
                std::env::var(name).map_err(|_| refused(source, "there is no such variable in the environment".into()))
            }
            _ => Err(refused(source, "a key is file:PATH or env:NAME".into())),
        };
        let texts = self.encryption_keys.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let bad = texts.iter().zip(&self.encryption_keys);
        let bad = bad.filter_map(|(text, source)| Some((source, SealingKeys::parse([text.as_str()]).err()?))).next();
        match bad {
            Some((source, why)) => Err(refused(source, why.to_string())),
            None => Ok(SealingKeys::parse(texts.iter().map(String::as_str)).unwrap_or_default()),
        }
    }
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

    /// Between whom equal bytes are stored once in a region.
    pub fn dedup(&self, name: &str) -> Dedup {
        self.configured.get(name).map_or(Dedup::Region, |s| s.dedup)
    }

    /// How to open a store of a region (canonical short name).
    ///
    /// # Errors
    /// [`ChunkError::Incompatible`] if a URL or a key cannot be used.
    pub fn config(&self, name: &str, boundary: Boundary, cache: Cache) -> Result<RegionConfig, ChunkError> {
        let folder = boundary.folder_below(&self.root.join(name));
        let (store, keys) = (boundary.store_name(name), self.keys(name)?);
        let cache = match boundary {
            Boundary::Region => cache,
            Boundary::Tenant(id) => cache.apart(&id.to_string()),
        };
        let Some(settings) = self.configured.get(name).filter(|s| !s.zones.is_empty()) else {
            return Ok(RegionConfig { keys, ..RegionConfig::local(&store, &folder, cache)? });
        };
        let open = |url: &String| {
            open_store(&boundary.below(url), &settings.options)
                .map_err(|e| ChunkError::Incompatible { region: name.to_owned(), detail: format!("{url}: {e}") })
        };
        let stores = settings.zones.iter().map(open).collect::<Result<_, _>>()?;
        Ok(RegionConfig { name: store, stores, index_dir: folder.join("index"), cache, keys, frames: None })
    }

    /// The zones themselves, to look into: folders that are not there are left out, and not made.
    fn zones_as_they_are(&self, name: &str) -> Result<RegionConfig, ChunkError> {
        let folder = self.root.join(name);
        let absent = |url: &String| Path::new(url).is_absolute() && !Path::new(url).exists();
        let incompatible = |detail| ChunkError::Incompatible { region: name.to_owned(), detail };
        let stores = match self.configured.get(name).filter(|s| !s.zones.is_empty()) {
            Some(settings) => {
                let there = settings.zones.iter().filter(|url| !absent(url));
                let opened = there
                    .map(|url| open_store(url, &settings.options).map_err(|e| incompatible(format!("{url}: {e}"))));
                opened.collect::<Result<_, _>>()?
            }
            None if folder.is_dir() => vec![local_store(&folder).map_err(|e| incompatible(e.to_string()))?],
            None => vec![],
        };
        let index_dir = folder.join("index");
        Ok(RegionConfig { name: name.to_owned(), stores, index_dir, cache: Cache::new(0), keys: None, frames: None })
    }

    /// The stores that a region has: those that were opened here, and what lies in its zones. A zone that does not answer is left
    /// out, as long as another does.
    ///
    /// # Errors
    /// If no zone answers, or the folder of the indexes cannot be read.
    pub async fn boundaries(&self, name: &str) -> Result<BTreeSet<Boundary>, ChunkError> {
        if self.dedup(name) == Dedup::Region {
            return Ok([Boundary::Region].into());
        }
        let local = folders(&self.root.join(name).join(TENANTS));
        let local = local.map_err(|e| ChunkError::Incompatible { region: name.to_owned(), detail: e.to_string() })?;
        let there = self.zones_as_they_are(name)?.folders(TENANTS).await?;
        let ids = local.iter().chain(&there).filter_map(|id| Uuid::parse_str(id).ok());
        Ok(ids.map(Boundary::Tenant).collect())
    }

    /// Looks whether a region's stores hold no data of the other kind than it is configured for.
    ///
    /// # Errors
    /// [`ChunkError::Incompatible`] if they do; others if no zone answers.
    pub(crate) async fn check_dedup(&self, name: &str) -> Result<(), ChunkError> {
        let zones = self.zones_as_they_are(name)?;
        let refused =
            |detail: &str| Err(ChunkError::Incompatible { region: name.to_owned(), detail: detail.to_owned() });
        if self.dedup(name) == Dedup::Tenant {
            return match zones.has_packs().await? {
                false => Ok(()),
                true => refused(
                    "it has disks that all tenants share, and dedup = \"tenant\" is only for a region without them; set dedup = \"region\" \
                     (or leave it out), or give the region new stores",
                ),
            };
        }
        for folder in zones.folders(TENANTS).await? {
            let Ok(id) = Uuid::parse_str(&folder) else { continue };
            if self.config(name, Boundary::Tenant(id), Cache::new(0))?.has_packs().await? {
                return refused(
                    "it has disks that each tenant keeps apart (below tenants/), and is configured as one without; set dedup = \"tenant\", \
                     or give the region new stores",
                );
            }
        }
        Ok(())
    }

    fn keys(&self, name: &str) -> Result<Option<SealingKeys>, ChunkError> {
        self.configured.get(name).map_or(Ok(None), |settings| settings.keys(name))
    }

    /// Whether all stores of a region are object stores, not folders of this machine.
    pub fn is_remote(&self, name: &str) -> bool {
        let zones = self.configured.get(name).map_or(&[][..], |s| &s.zones);
        let folder = |url: &String| Path::new(url).is_absolute() || url.starts_with("file:");
        !zones.is_empty() && !zones.iter().any(folder)
    }

    /// Whether a region has stores of its own, which other computers may reach too.
    pub fn is_configured(&self, name: &str) -> bool {
        self.configured.get(name).is_some_and(|s| !s.zones.is_empty())
    }

    /// Whether a region has keys to seal its packs with.
    pub fn is_encrypted(&self, name: &str) -> bool {
        self.configured.get(name).is_some_and(|s| !s.encryption_keys.is_empty())
    }

    /// Looks whether every region can be opened with what is configured: stores that are its own, data of its kind, and the keys
    /// that they need. A store that does not answer is no reason to refuse.
    ///
    /// # Errors
    /// [`ChunkError::Incompatible`] of the first that cannot.
    pub async fn check(&self) -> Result<(), ChunkError> {
        self.configured.keys().try_for_each(|name| self.keys(name).map(|_| ()))?;
        let known: BTreeSet<String> = self.known().unwrap_or_default().into_iter().collect();
        let names: BTreeSet<&String> = known.iter().chain(self.configured.keys()).collect();
        let checks = names.into_iter().map(|name| (name, known.contains(name))).map(|(name, known)| async move {
            match tokio::time::timeout(PATIENCE, self.check_region(name, known)).await {
                Ok(Err(e @ ChunkError::Incompatible { .. })) => Err(e),
                _ => Ok(()),
            }
        });
        futures::future::try_join_all(checks).await.map(|_| ())
    }

    /// `known`: it was opened here once. Nothing is made of one that was not.
    async fn check_region(&self, name: &str, known: bool) -> Result<(), ChunkError> {
        self.check_dedup(name).await?;
        if known {
            for boundary in self.boundaries(name).await? {
                Region::check(&self.config(name, boundary, Cache::new(0))?).await?;
            }
        }
        Ok(())
    }

    /// In how many independent places a region keeps what it stores.
    pub fn zones(&self, name: &str) -> usize {
        self.configured.get(name).map_or(1, |s| s.zones.len().max(1))
    }

    /// How fast replications into a region may be, by the region they come from.
    pub(crate) fn limits(&self, name: &str) -> Vec<(String, RateLimit)> {
        let limits = self.configured.get(name).into_iter().flat_map(|s| &s.mib_per_second_from);
        let named = |from: &String| region_name(from).unwrap_or(from).to_owned();
        limits.map(|(from, mib)| (named(from), RateLimit::new(mib.saturating_mul(MIB)))).collect()
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
        let config = |name: &str| stores.config(name, Boundary::Region, Cache::new(0));
        assert_eq!(config("eastus").unwrap().stores.len(), 3);
        assert_eq!((stores.zones("eastus"), stores.zones("northeurope")), (3, 1));
        assert_eq!(config("northeurope").unwrap().stores.len(), 1);
        let refused = config("westus").err().map(|e| e.to_string()).unwrap_or_default();
        assert!(refused.contains("ftp://x/y") && refused.contains("westus"), "{refused}");
        assert_eq!(stores.known().unwrap(), ["northeurope"]);
    }

    #[tokio::test]
    async fn a_key_that_is_missing_or_another_is_told_before_anything_is_opened() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            format!("file:{}", path.display())
        };
        let (one, two) = (file("one", &"1f".repeat(32)), file("two", &format!("{}\n", "2e".repeat(32))));
        let stores = |keys: &[&str]| {
            let encryption_keys = keys.iter().map(|k| (*k).to_owned()).collect();
            let settings = RegionSettings { encryption_keys, ..RegionSettings::default() };
            RegionStores::new(dir.path().join("regions"), [("eastus".to_owned(), settings)].into())
        };
        for (key, says) in [
            ("env:LAZULI_NO_SUCH_KEY", "no such variable"),
            ("/etc/key", "file:PATH or env:NAME"),
            ("file:/nonexistent/key", "No such file"),
            (file("short", "abcd").as_str(), "64 hexadecimal digits"),
        ] {
            let error = stores(&[key]).check().await.unwrap_err().to_string();
            assert!(error.contains(says) && error.contains("eastus"), "{error}");
        }
        stores(&[&one]).check().await.unwrap();
        assert!(stores(&[&one]).is_encrypted("eastus") && !stores(&[]).is_encrypted("eastus"));
        let config = stores(&[&one]).config("eastus", Boundary::Region, Cache::new(0)).unwrap();
        drop(Region::open(config).await.unwrap());
        stores(&[&two, &one]).check().await.unwrap();
        for keys in [&[two.as_str()][..], &[]] {
            let error = stores(keys).check().await.unwrap_err().to_string();
            assert!(error.contains("is not given") && error.contains("encryption_keys"), "{error}");
        }
    }

    async fn store_something(config: RegionConfig) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![7; 8192]).unwrap();
        let disk = std::sync::Arc::new(lazuli_disks::RawFile::open(file.path()).unwrap());
        let region = Region::open(config).await.unwrap();
        region.ingest(disk, &lazuli_chunks::Progress::new(), &Default::default()).await.unwrap();
    }

    #[tokio::test]
    async fn a_region_keeps_the_kind_that_its_data_has() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (Boundary::Tenant(Uuid::from_u128(1)), Boundary::Tenant(Uuid::from_u128(2)));
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        for zones in [vec![], vec![path("a"), path("b/")]] {
            let stores = |region: &str, dedup| {
                let settings = RegionSettings { dedup, zones: zones.clone(), ..RegionSettings::default() };
                RegionStores::new(dir.path().join("regions"), [(region.to_owned(), settings)].into())
            };
            let (shared, apart) = (stores("eastus", Dedup::Region), stores("eastus", Dedup::Tenant));
            assert!(!dir.path().join("a").exists() && !dir.path().join("regions/eastus").exists());
            shared.check().await.unwrap();
            apart.check().await.unwrap();
            assert!(
                !dir.path().join("a").exists() && !dir.path().join("regions/eastus").exists(),
                "looking makes nothing"
            );

            // An opened store without data binds nobody.
            drop(Region::open(shared.config("eastus", Boundary::Region, Cache::new(0)).unwrap()).await.unwrap());
            apart.check().await.unwrap();
            assert_eq!(apart.boundaries("eastus").await.unwrap(), [].into());
            for boundary in [one, two] {
                store_something(apart.config("eastus", boundary, Cache::new(0)).unwrap()).await;
            }
            assert_eq!(apart.boundaries("eastus").await.unwrap(), [one, two].into());
            apart.check().await.unwrap();
            let error = shared.check().await.unwrap_err().to_string();
            assert!(error.contains("region eastus") && error.contains("set dedup = \"tenant\""), "{error}");
            if !zones.is_empty() {
                // The indexes are lost, and one of the zones: what the other has is found.
                std::fs::remove_dir_all(dir.path().join("regions")).unwrap();
                std::fs::remove_dir_all(dir.path().join("a")).unwrap();
                assert_eq!(apart.boundaries("eastus").await.unwrap(), [one, two].into());
                assert!(shared.check().await.is_err());
                std::fs::remove_dir_all(dir.path().join("b")).unwrap();
            } else {
                std::fs::remove_dir_all(dir.path().join("regions")).unwrap();
            }
            store_something(shared.config("eastus", Boundary::Region, Cache::new(0)).unwrap()).await;
            shared.check().await.unwrap();
            let error = apart.check().await.unwrap_err().to_string();
            assert!(error.contains("region eastus") && error.contains("set dedup = \"region\""), "{error}");
            std::fs::remove_dir_all(dir.path().join("regions")).unwrap();
        }
    }
}
