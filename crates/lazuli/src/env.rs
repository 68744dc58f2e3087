//! `lazuli env`: shell lines that point az, SDKs, Terraform and azcopy at a server.
//!
//! az gets a configuration folder of its own in the data folder, written as `az cloud register`, `az cloud set` and
//! `az login --service-principal` would, so that no command is needed before the first: the cloud, its choice, the
//! owner's entry and the subscription. The user's own `~/.azure` is never touched.
//!
//! ```text
//! DIR/az/ (DIR/az-proxy-CLOUD/ with --proxy)   0700
//!   clouds.config                   the cloud `Lazuli`; az's own where the proxy leads to built-in clouds
//!   config                          which cloud is chosen; written only once, then the user's
//!   service_principal_entries.json  0600, the owner's secret
//!   azureProfile.json               the subscription
//! DIR/ca-bundle.pem                 the system's authorities and the server's own
//! ```

mod az;

use crate::credentials::Credentials;
use crate::data_dir::DataDir;
use crate::files;
use anyhow::{Context, bail};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Where systems keep the authorities they trust.
const SYSTEM_BUNDLES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The server's data folder [default: $XDG_DATA_HOME/lazuli or ~/.local/share/lazuli]
    #[arg(long, env = "LAZULI_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Through the CONNECT proxy, with az's built-in clouds and Azure's own host names.
    #[arg(long)]
    proxy: bool,
    /// Which built-in cloud, with --proxy.
    #[arg(long, value_enum, requires = "proxy", default_value_t = BuiltIn::AzureCloud)]
    cloud: BuiltIn,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum BuiltIn {
    #[value(name = "AzureCloud")]
    AzureCloud,
    #[value(name = "AzureChinaCloud")]
    AzureChinaCloud,
}

impl BuiltIn {
    fn name(self) -> &'static str {
        match self {
            Self::AzureCloud => "AzureCloud",
            Self::AzureChinaCloud => "AzureChinaCloud",
        }
    }

    fn authority(self) -> &'static str {
        match self {
            Self::AzureCloud => "https://login.microsoftonline.com",
            Self::AzureChinaCloud => "https://login.chinacloudapi.cn",
        }
    }

    /// As Terraform's azurerm calls it.
    fn terraform(self) -> &'static str {
        match self {
            Self::AzureCloud => "public",
            Self::AzureChinaCloud => "china",
        }
    }
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    let dir = DataDir::find(args.data_dir.as_deref())?;
    let (credentials, arm) = Credentials::of_server(&dir)?;
    let bundle = write_bundle(&dir, &credentials.ca_file)?;
    let mut lines = Lines::default();
    common(&mut lines, &credentials, &arm, &bundle);
    if args.proxy {
        let Some(proxy) = &credentials.proxy_endpoint else {
            bail!("the server was started without a proxy; start it without --no-proxy");
        };
        let folder = dir.path().join(format!("az-proxy-{}", args.cloud.name()));
        az::sign_in(&folder, args.cloud.name(), &credentials)?;
        through_proxy(&mut lines, args.cloud, proxy, &folder);
    } else {
        let folder = dir.path().join("az");
        az::register_cloud(&folder, &arm)?;
        az::sign_in(&folder, az::CLOUD, &credentials)?;
        directly(&mut lines, &arm, credentials.proxy_endpoint.as_deref(), &folder);
    }
    std::io::stdout().write_all(lines.0.as_bytes()).context("cannot print")
}

/// Shell lines being written.
#[derive(Debug, Default)]
struct Lines(String);

impl Lines {
    fn export(&mut self, name: &str, value: impl AsRef<str>) {
        self.0.push_str(&format!("export {name}={}\n", quoted(value.as_ref())));
    }

    fn unset(&mut self, names: &str) {
        self.0.push_str(&format!("unset {names}\n"));
    }
}

/// One word for a POSIX shell.
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\'', r"'\''"))
}

fn common(lines: &mut Lines, credentials: &Credentials, arm: &str, bundle: &Path) {
    let bundle = bundle.to_string_lossy();
    for name in ["REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE"] {
        lines.export(name, &bundle);
    }
    lines.export("NODE_EXTRA_CA_CERTS", credentials.ca_file.to_string_lossy());
    for prefix in ["AZURE", "ARM"] {
        lines.export(&format!("{prefix}_TENANT_ID"), &credentials.tenant_id);
        lines.export(&format!("{prefix}_SUBSCRIPTION_ID"), &credentials.subscription_id);
        lines.export(&format!("{prefix}_CLIENT_ID"), &credentials.client_id);
        lines.export(&format!("{prefix}_CLIENT_SECRET"), &credentials.client_secret);
    }
    lines.export("ARM_RESOURCE_PROVIDER_REGISTRATIONS", "none");
    lines.export("LAZULI_ENDPOINT", arm);
}

fn directly(lines: &mut Lines, arm: &str, proxy: Option<&str>, folder: &Path) {
    lines.export("AZURE_CONFIG_DIR", folder.to_string_lossy());
    lines.export("AZURE_CORE_INSTANCE_DISCOVERY", "false");
    lines.export("AZURE_AUTHORITY_HOST", arm);
    lines.export("ARM_METADATA_HOSTNAME", arm.trim_start_matches("https://"));
    // What an earlier `lazuli env --proxy` set in this shell.
    for name in ["HTTPS_PROXY", "https_proxy"] {
        if proxy.is_some() && std::env::var(name).ok().as_deref() == proxy {
            lines.unset(name);
        }
    }
    let no_proxy = std::env::var("NO_PROXY").or_else(|_| std::env::var("no_proxy")).unwrap_or_default();
    let no_proxy = without_proxy(&no_proxy, arm);
    lines.export("NO_PROXY", &no_proxy);
    lines.export("no_proxy", &no_proxy);
}

fn through_proxy(lines: &mut Lines, cloud: BuiltIn, proxy: &str, folder: &Path) {
    lines.export("AZURE_CONFIG_DIR", folder.to_string_lossy());
    lines.export("AZURE_AUTHORITY_HOST", cloud.authority());
    lines.export("ARM_ENVIRONMENT", cloud.terraform());
    lines.export("HTTPS_PROXY", proxy);
    lines.export("https_proxy", proxy);
    lines.unset("AZURE_CORE_INSTANCE_DISCOVERY ARM_METADATA_HOSTNAME NO_PROXY no_proxy");
}

/// The list of hosts that are reached without the user's own proxy, with the server's in it once.
fn without_proxy(list: &str, arm: &str) -> String {
    let host = arm.trim_start_matches("https://");
    let host = host.rsplit_once(':').map_or(host, |(h, _)| h).trim_matches(['[', ']']);
    let mut all: Vec<&str> = list.split(',').map(str::trim).filter(|h| !h.is_empty()).collect();
    for name in [host, "127.0.0.1", "localhost", ".localhost"] {
        if !all.contains(&name) {
            all.push(name);
        }
    }
    all.join(",")
}

/// The system's authorities and the server's: clients with `SSL_CERT_FILE` and its like trust this file alone.
fn write_bundle(dir: &DataDir, ca_file: &Path) -> anyhow::Result<PathBuf> {
    let own = std::fs::read_to_string(ca_file)
        .with_context(|| format!("cannot read {}, the server's certificate authority", ca_file.display()))?;
    let system = SYSTEM_BUNDLES.iter().find_map(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
    let bundle = dir.path().join("ca-bundle.pem");
    let text = format!("{}\n{own}", system.trim_end());
    if files::read_if_there(&bundle)?.as_deref() != Some(text.trim_start()) {
        files::replace(&bundle, text.trim_start().as_bytes(), 0o644)?;
    }
    Ok(bundle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_values_stay_one_word() {
        let mut lines = Lines::default();
        lines.export("X", "a'; rm -rf ~ #$(b)`c`");
        let script = format!("{}printf %s \"$X\"", lines.0);
        let out = std::process::Command::new("sh").arg("-c").arg(script).output().unwrap();
        assert_eq!(String::from_utf8(out.stdout).unwrap(), "a'; rm -rf ~ #$(b)`c`");
    }

    #[test]
    fn the_server_is_reached_without_the_users_proxy() {
        let once = without_proxy("example.org, 127.0.0.1", "https://10.0.0.5:8443");
        assert_eq!(once, "example.org,127.0.0.1,10.0.0.5,localhost,.localhost");
        assert_eq!(without_proxy(&once, "https://10.0.0.5:8443"), once);
    }
}
