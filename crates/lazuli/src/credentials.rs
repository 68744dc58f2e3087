//! `DIR/credentials.json`: how to reach a server and sign in as its owner.
//!
//! ```json
//! { "tenantId": "…", "subscriptionId": "…", "objectId": "…", "clientId": "…", "clientSecret": "…",
//!   "armEndpoint": "https://127.0.0.1:8443", "proxyEndpoint": "http://127.0.0.1:8444", "caFile": "DIR/ca.pem" }
//! ```
//! Written before the identities take effect, so that a first start that was cut short is begun again with the same
//! ones. The endpoints are written anew at every start, once they are listened on.

use crate::data_dir::DataDir;
use crate::files;
use anyhow::Context;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Credentials {
    pub tenant_id: String,
    pub subscription_id: String,
    /// Of the owner's service principal; role assignments name it.
    pub object_id: String,
    pub client_id: String,
    pub client_secret: String,
    /// `https://host:port`, without a trailing slash. `None` until the first start got that far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arm_endpoint: Option<String>,
    /// `http://127.0.0.1:port` of the CONNECT proxy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_endpoint: Option<String>,
    /// The local CA's certificate.
    pub ca_file: PathBuf,
}

impl Credentials {
    /// What is stored, `None` if nothing is.
    pub fn read(dir: &DataDir) -> anyhow::Result<Option<Self>> {
        let path = dir.credentials();
        let Some(text) = files::read_if_there(&path)? else { return Ok(None) };
        let parsed = serde_json::from_str(&text);
        parsed.map(Some).with_context(|| format!("{} is damaged; restore it from a backup", path.display()))
    }

    /// What is stored, for a client of a server that was started at least once.
    pub fn of_server(dir: &DataDir) -> anyhow::Result<(Self, String)> {
        let found = Self::read(dir)?;
        let complete = found.and_then(|c| c.arm_endpoint.clone().map(|arm| (c, arm)));
        complete.with_context(|| {
            format!("no server was started in {0}; start one with `lazuli serve --data-dir {0}`", dir.path().display())
        })
    }

    pub fn write(&self, dir: &DataDir) -> anyhow::Result<()> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        files::replace(&dir.credentials(), &text, 0o600)
    }
}

/// Port of an endpoint written by an earlier start.
pub fn port_of(endpoint: Option<&str>) -> Option<u16> {
    endpoint?.rsplit_once(':')?.1.trim_end_matches('/').parse().ok()
}

/// Where to listen: a port of 0 means the one that was chosen last time, if there was one.
pub fn keep_port(wanted: SocketAddr, last: Option<&str>) -> SocketAddr {
    match (wanted.port(), port_of(last)) {
        (0, Some(port)) => SocketAddr::new(wanted.ip(), port),
        _ => wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_unnamed_port_is_kept() {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let fixed: SocketAddr = "127.0.0.1:8443".parse().unwrap();
        assert_eq!(keep_port(any, Some("https://127.0.0.1:4711")).port(), 4711);
        assert_eq!(keep_port(any, Some("https://example")).port(), 0);
        assert_eq!(keep_port(any, None).port(), 0);
        assert_eq!(keep_port(fixed, Some("https://127.0.0.1:4711")), fixed);
    }

    #[test]
    fn what_is_written_is_read() {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::find(Some(temp.path())).unwrap();
        assert_eq!(Credentials::read(&dir).unwrap(), None);
        let mut credentials = Credentials {
            tenant_id: "t".into(),
            subscription_id: "s".into(),
            object_id: "o".into(),
            client_id: "c".into(),
            client_secret: "x".into(),
            arm_endpoint: None,
            proxy_endpoint: None,
            ca_file: temp.path().join("ca.pem"),
        };
        credentials.write(&dir).unwrap();
        assert_eq!(Credentials::read(&dir).unwrap().as_ref(), Some(&credentials));
        let advice = Credentials::of_server(&dir).unwrap_err().to_string();
        assert!(advice.contains("lazuli serve"), "{advice}");
        credentials.arm_endpoint = Some("https://127.0.0.1:1".into());
        credentials.write(&dir).unwrap();
        assert_eq!(Credentials::of_server(&dir).unwrap().1, "https://127.0.0.1:1");
        std::fs::write(dir.credentials(), "{").unwrap();
        assert!(Credentials::read(&dir).unwrap_err().to_string().contains("damaged"));
    }
}
