//! The configuration file: TOML, every entry optional, unknown entries refused. The command line wins over it.

use anyhow::{Context, ensure};
use lazuli_engine::{IdentityProvider, ImageBuilderConfig, RegionSettings, region_name};
use lazuli_vmm::accel::Accelerator;
use lazuli_vmm::net::{Bridge, Bridges};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// ```toml
/// data_dir = "/var/lib/lazuli"
/// listen = "0.0.0.0:8443"
/// proxy_listen = "127.0.0.1:8444"        # always a loopback address
/// proxy_passthrough = false              # whether the proxy also connects to hosts that are not Azure's
/// host_names = ["images.example.org"]    # names and addresses by which clients reach the server
/// database = "postgres://…"              # default: SQLite in the data folder
/// max_image_disk_gib = 2048              # the largest disk of an image version, up to 32768; versions replicated Shallow may always have that
/// lenient = false                        # accept what Azure refuses but its printed samples need
/// token_lifetime_seconds = 86399
/// activity_log_days = 90                 # how long its lines are kept; 0: for ever
/// activity_log_chain = false             # whether its lines are linked, so that later changes show: docs/identity.md
/// signing_key_days = 90                  # how long a key signs tokens until another follows it; 0: `lazuli admin` does it
/// http_issuers = ["http://idp.internal/realms/a"]   # of federated tokens; all others must be https
///
/// [[identity_providers]]                 # where people sign in besides: docs/identity.md
/// name = "keycloak"                      # in addresses
/// display_name = "Contoso's Keycloak"
/// issuer = "https://idp.example.org/realms/contoso"
/// client_id = "lazuli"
/// client_secret = "env:LAZULI_KEYCLOAK_SECRET"      # or file:PATH; without it a public client
/// tenant = "…"                           # default: the first one
/// scopes = "openid profile email"
/// login_claim = "preferred_username"     # what a new user is named by
/// create_users = false                   # whether whoever signs in there becomes a user
///
/// [host]
/// accelerator = "tcg"                    # or "kvm"; default: KVM where it really runs guests
/// qemu = "/usr/bin/qemu-system-x86_64"
/// firmware_code = "…/OVMF_CODE_4M.fd"    # both or none
/// firmware_variables = "…/OVMF_VARS_4M.fd"
/// secure_firmware_code = "…/OVMF_CODE_4M.ms.fd"          # the same for secure boot
/// secure_firmware_variables = "…/OVMF_VARS_4M.ms.fd"
/// cache_mib = 128                        # decompressed image data kept in memory
/// memory_mib = 8192                      # room for machines; default: all that the computer has. 0: none where there are workers
/// disk_cache_mib = 4096                  # image data of S3 and Azure Blob kept below data_dir/host/cache; 0: none
///
/// [regions.eastus]                       # default: one folder below data_dir
/// zones = ["/srv/a", "/srv/b", "s3://bucket/eastus"]   # one store a zone, each holds every byte; also az://container
/// options = { aws_endpoint = "https://s3.example.org", aws_region = "local" }   # for S3 and Azure Blob; secrets rather
///                                                                              # in AWS_* and AZURE_* of the environment
/// mib_per_second_from = { westus = 10 }  # at most so much from there
/// encryption_keys = ["file:/etc/lazuli/eastus-2.key", "env:LAZULI_EASTUS_1"]   # newest first; docs/encryption.md
/// dedup = "region"                       # equal bytes are there once for all; "tenant": once for each; docs/encryption.md
///
/// [[bridges]]                            # virtual networks that are on LANs: docs/networks.md
/// network = "/subscriptions/…/virtualNetworks/lan"
/// bridge = "br0"                         # of this computer; or tap = "…", made beforehand; neither: the LAN is another computer's
/// lan = "192.168.10.0/24"
/// gateway = "192.168.10.1"               # default: nothing but the LAN can be reached
/// addresses = "192.168.10.128/25"        # that nobody else on the LAN uses; the network's subnets lie in it
///
/// [fleet]                                # computers that run machines: docs/fleet.md
/// lease_seconds = 30                     # of a worker: how long it is believed to be there after it was heard of
/// give_up_seconds = 120                  # how long it has not been heard of when its machines may be given up
///
/// [image_builder]                        # docs/image-builder.md
/// editable = false                       # a PUT replaces a template that is there; Azure refuses that
/// fetch_from = ["localhost"]             # hosts of scripts that may be this machine itself or on its link
/// max_file_mib = 256                     # the largest script or file of a template
/// trigger_seconds = 30                   # how often triggers are looked at
/// ```
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub data_dir: Option<PathBuf>,
    pub listen: Option<SocketAddr>,
    pub proxy_listen: Option<SocketAddr>,
    pub proxy_passthrough: bool,
    pub host_names: Vec<String>,
    pub database: Option<String>,
    pub max_image_disk_gib: Option<u64>,
    pub lenient: bool,
    pub token_lifetime_seconds: Option<u64>,
    pub activity_log_days: Option<u64>,
    pub activity_log_chain: Option<bool>,
    pub signing_key_days: Option<u64>,
    pub http_issuers: Vec<String>,
    pub identity_providers: Vec<IdentityProvider>,
    pub host: HostSection,
    pub regions: BTreeMap<String, RegionSettings>,
    pub bridges: Vec<Bridge>,
    pub image_builder: ImageBuilderConfig,
    pub fleet: FleetSection,
}

/// No disk is larger.
const MAX_DISK_GIB: u64 = 32 * 1024;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FleetSection {
    pub lease_seconds: Option<u64>,
    pub give_up_seconds: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HostSection {
    pub accelerator: Option<Accelerator>,
    pub qemu: Option<PathBuf>,
    pub firmware_code: Option<PathBuf>,
    pub firmware_variables: Option<PathBuf>,
    pub secure_firmware_code: Option<PathBuf>,
    pub secure_firmware_variables: Option<PathBuf>,
    pub memory_mib: Option<u64>,
    pub cache_mib: Option<u64>,
    pub disk_cache_mib: Option<u64>,
}

impl Config {
    /// The file's content, or all defaults without a file.
    pub fn read(path: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = path else { return Ok(Self::default()) };
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let unusable = || format!("{} is not a usable configuration", path.display());
        let config: Self = toml::from_str(&text).with_context(unusable)?;
        let disk = config.max_image_disk_gib.filter(|gib| !(1..=MAX_DISK_GIB).contains(gib));
        ensure!(disk.is_none(), "{}: max_image_disk_gib must be between 1 and {MAX_DISK_GIB}", unusable());
        Ok(config)
    }

    /// The virtual networks that are on LANs.
    pub fn bridges(&self) -> anyhow::Result<Bridges> {
        Ok(Bridges::new(self.bridges.clone())?)
    }

    /// The regions that have stores of their own, by their canonical names.
    pub fn regions(&self) -> anyhow::Result<BTreeMap<String, RegionSettings>> {
        let mut regions = BTreeMap::new();
        for (name, settings) in &self.regions {
            let known = region_name(name).with_context(|| format!("[regions.{name}]: there is no such region"))?;
            let from = settings.mib_per_second_from.keys().find(|f| region_name(f).is_none());
            ensure!(from.is_none(), "[regions.{name}]: there is no such region as {}", from.map_or("", String::as_str));
            let twice = settings.zones.iter().enumerate().find(|(i, z)| settings.zones[..*i].contains(z));
            ensure!(twice.is_none(), "[regions.{name}]: two zones have the same store, so that losing it loses both");
            regions.insert(known.to_owned(), settings.clone());
        }
        Ok(regions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lazuli_engine::Dedup;

    fn parse(text: &str) -> anyhow::Result<Config> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Config::read(Some(file.path()))
    }

    #[test]
    fn entries_are_read() {
        let config = parse("listen = \"127.0.0.1:1\"\n[host]\naccelerator = \"tcg\"\n").unwrap();
        assert_eq!(config.listen, "127.0.0.1:1".parse().ok());
        assert_eq!(config.host.accelerator, Some(Accelerator::Tcg));
        assert!(!config.lenient);
    }

    #[test]
    fn regions_have_stores_that_make_sense() {
        let config = parse("[regions.EastUS]\nzones = [\"/a\", \"/b\"]\n").unwrap();
        let regions = config.regions().unwrap();
        assert_eq!(
            (&*regions["eastus"].zones, regions["eastus"].dedup),
            (&["/a".into(), "/b".into()][..], Dedup::Region)
        );
        for (value, dedup) in [("region", Dedup::Region), ("tenant", Dedup::Tenant)] {
            let config = parse(&format!("[regions.eastus]\ndedup = \"{value}\"\n")).unwrap();
            assert_eq!(config.regions().unwrap()["eastus"].dedup, dedup);
        }
        for (text, says) in [
            ("[regions.atlantis]\nzones = [\"/a\"]\n", "no such region"),
            ("[regions.eastus]\nmib_per_second_from = { atlantis = 5 }\n", "atlantis"),
            ("[regions.eastus]\nzones = [\"/a\", \"/a\"]\n", "the same store"),
        ] {
            let error = parse(text).unwrap().regions().unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn bridges_are_read_and_make_sense() {
        let entry = "[[bridges]]\nnetwork = \"/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/lan\"\n\
                     bridge = \"br0\"\nlan = \"192.168.10.0/24\"\ngateway = \"192.168.10.1\"\n";
        let with = |more: &str| parse(&format!("{entry}{more}")).and_then(|config| config.bridges().map(|_| config));
        let config = with("addresses = \"192.168.10.128/25\"\n").unwrap();
        assert_eq!(config.bridges[0].bridge.as_deref(), Some("br0"));
        for (more, says) in [
            ("addresses = \"192.168.10.128\"\n", "no range of addresses"),
            ("addresses = \"192.168.11.0/25\"\n", "must lie in"),
            ("addresses = \"192.168.10.128/25\"\nvlan = 7\n", "vlan"),
            ("", "addresses"),
        ] {
            let error = format!("{:#}", with(more).unwrap_err());
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn an_unknown_entry_or_value_is_named() {
        for (text, says) in [
            ("lisen = \"127.0.0.1:1\"", "lisen"),
            ("[host]\nacelerator = \"tcg\"", "acelerator"),
            ("[regions.eastus]\ndedupe = \"tenant\"", "dedupe"),
            ("[regions.eastus]\ndedup = \"Tenant\"", "`region` or `tenant`"),
            ("[regions.eastus]\ndedup = \"subscription\"", "`region` or `tenant`"),
            ("[regions.eastus]\ndedup = true", "dedup"),
            ("max_image_disk_gib = 0", "max_image_disk_gib must be between 1 and 32768"),
            ("max_image_disk_gib = 32769", "max_image_disk_gib must be between 1 and 32768"),
        ] {
            let error = format!("{:#}", parse(text).unwrap_err());
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Config::read(Some(Path::new("/nonexistent/lazuli.toml"))).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/lazuli.toml"), "{error}");
    }
}
