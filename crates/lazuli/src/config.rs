//! The configuration file: TOML, every entry optional, unknown entries refused. The command line wins over it.

use anyhow::Context;
use lazuli_vmm::accel::Accelerator;
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// ```toml
/// data_dir = "/var/lib/lazuli"
/// listen = "0.0.0.0:8443"
/// proxy_listen = "127.0.0.1:8444"        # always a loopback address
/// proxy_passthrough = false              # whether the proxy also connects to hosts that are not Azure's
/// host_names = ["images.example.org"]    # names and addresses by which clients reach the server
/// database = "postgres://…"              # default: SQLite in the data folder
/// lenient = false                        # accept what Azure refuses but its printed samples need
/// token_lifetime_seconds = 86399
///
/// [host]
/// accelerator = "tcg"                    # or "kvm"; default: KVM where it really runs guests
/// qemu = "/usr/bin/qemu-system-x86_64"
/// firmware_code = "…/OVMF_CODE_4M.fd"    # both or none
/// firmware_variables = "…/OVMF_VARS_4M.fd"
/// cache_mib = 128                        # decompressed image data kept in memory
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
    pub lenient: bool,
    pub token_lifetime_seconds: Option<u64>,
    pub host: HostSection,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HostSection {
    pub accelerator: Option<Accelerator>,
    pub qemu: Option<PathBuf>,
    pub firmware_code: Option<PathBuf>,
    pub firmware_variables: Option<PathBuf>,
    pub cache_mib: Option<u64>,
}

impl Config {
    /// The file's content, or all defaults without a file.
    pub fn read(path: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = path else { return Ok(Self::default()) };
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("{} is not a usable configuration", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn an_unknown_entry_is_named() {
        for text in ["lisen = \"127.0.0.1:1\"", "[host]\nacelerator = \"tcg\""] {
            let error = format!("{:#}", parse(text).unwrap_err());
            assert!(error.contains("celerator") || error.contains("lisen"), "{error}");
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Config::read(Some(Path::new("/nonexistent/lazuli.toml"))).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/lazuli.toml"), "{error}");
    }
}
