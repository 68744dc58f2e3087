//! Where the regions' bytes lie: for each region one store a zone, as configured, or else one folder.

use lazuli_chunks::{Cache, ChunkError, RateLimit, Region, RegionConfig, SealingKeys, open_store};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A store that has not answered by then is left for later.
const PATIENCE: Duration = Duration::from_secs(5);
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
    /// Where the keys are that the region's packs are sealed with, the newest first: `file:PATH` or `env:NAME`, each with 64
    /// hexadecimal digits. None: what the stores hold is plain. See `docs/encryption.md`.
    #[serde(default)]
    pub encryption_keys: Vec<String>,
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

    /// How to open a region (canonical short name).
    ///
    /// # Errors
    /// [`ChunkError::Incompatible`] if a URL or a key cannot be used.
    pub fn config(&self, name: &str, cache: Cache) -> Result<RegionConfig, ChunkError> {
        let folder = self.root.join(name);
        let keys = self.keys(name)?;
        let Some(settings) = self.configured.get(name).filter(|s| !s.zones.is_empty()) else {
            return Ok(RegionConfig { keys, ..RegionConfig::local(name, &folder, cache)? });
        };
        let open = |url: &String| {
            open_store(url, &settings.options)
                .map_err(|e| ChunkError::Incompatible { region: name.to_owned(), detail: format!("{url}: {e}") })
        };
        let stores = settings.zones.iter().map(open).collect::<Result<_, _>>()?;
        Ok(RegionConfig { name: name.to_owned(), stores, index_dir: folder.join("index"), cache, keys, frames: None })
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

    /// Looks whether every region can be opened with what is configured: stores that are its own, and the keys that they
    /// need. A store that does not answer is no reason to refuse.
    ///
    /// # Errors
    /// [`ChunkError::Incompatible`] of the first that cannot.
    pub async fn check(&self) -> Result<(), ChunkError> {
        self.configured.keys().try_for_each(|name| self.keys(name).map(|_| ()))?;
        let known = self.known().unwrap_or_default();
        let checks = known.iter().map(|name| async move {
            let config = self.config(name, Cache::new(0))?;
            match tokio::time::timeout(PATIENCE, Region::check(&config)).await {
                Ok(Err(e @ ChunkError::Incompatible { .. })) => Err(e),
                _ => Ok(()),
            }
        });
        futures::future::try_join_all(checks).await.map(|_| ())
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
        drop(Region::open(stores(&[&one]).config("eastus", Cache::new(0)).unwrap()).await.unwrap());
        stores(&[&two, &one]).check().await.unwrap();
        for keys in [&[two.as_str()][..], &[]] {
            let error = stores(keys).check().await.unwrap_err().to_string();
            assert!(error.contains("is not given") && error.contains("encryption_keys"), "{error}");
        }
    }
}
