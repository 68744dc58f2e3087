//! Which host names this server answers to, and which service each of them stands for.
//!
//! The list of Azure names is fixed: it is what the proxy tunnels to this server, what certificates are made for, and
//! what a `Host` header is believed. No other name is ever answered for.

use http::uri::Authority;

/// The Azure that a host name belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cloud {
    Public,
    China,
}

/// What a request is for, as far as its host name tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Service {
    /// The server's own name: everything, told apart by path.
    Own,
    Arm(Cloud),
    Login(Cloud),
    /// Microsoft Graph: the directory.
    Graph(Cloud),
    /// Blob storage with the account as the first label: `md-x.z01` or `account`, in lower case.
    Blob {
        account: String,
        cloud: Option<Cloud>,
    },
    /// A known Azure host of a service that is not served (Key Vault, the Graph of before Microsoft Graph).
    Absent(Cloud),
}

const EXACT: &[(&str, Service)] = &[
    ("management.azure.com", Service::Arm(Cloud::Public)),
    ("management.core.windows.net", Service::Arm(Cloud::Public)),
    ("login.microsoftonline.com", Service::Login(Cloud::Public)),
    ("login.windows.net", Service::Login(Cloud::Public)),
    ("login.microsoft.com", Service::Login(Cloud::Public)),
    ("sts.windows.net", Service::Login(Cloud::Public)),
    ("graph.microsoft.com", Service::Graph(Cloud::Public)),
    ("graph.windows.net", Service::Absent(Cloud::Public)),
    ("vault.azure.net", Service::Absent(Cloud::Public)),
    ("management.chinacloudapi.cn", Service::Arm(Cloud::China)),
    ("management.core.chinacloudapi.cn", Service::Arm(Cloud::China)),
    ("login.chinacloudapi.cn", Service::Login(Cloud::China)),
    ("login.partner.microsoftonline.cn", Service::Login(Cloud::China)),
    ("graph.chinacloudapi.cn", Service::Absent(Cloud::China)),
    ("microsoftgraph.chinacloudapi.cn", Service::Graph(Cloud::China)),
    ("vault.azure.cn", Service::Absent(Cloud::China)),
];

/// Names below these are storage accounts; `localhost` for servers reached without the proxy.
const BLOB_SUFFIXES: &[(&str, Option<Cloud>)] = &[
    ("blob.core.windows.net", Some(Cloud::Public)),
    ("blob.storage.azure.net", Some(Cloud::Public)),
    ("blob.core.chinacloudapi.cn", Some(Cloud::China)),
    ("blob.storage.azure.cn", Some(Cloud::China)),
    ("blob.localhost", None),
];

const ABSENT_SUFFIXES: &[(&str, Cloud)] = &[("vault.azure.net", Cloud::Public), ("vault.azure.cn", Cloud::China)];

/// The service behind an Azure host name (no port); `None` for any other name.
pub fn azure_service(host: &str) -> Option<Service> {
    let host = host.to_ascii_lowercase();
    if let Some((_, service)) = EXACT.iter().find(|(name, _)| *name == host) {
        return Some(service.clone());
    }
    for (suffix, cloud) in BLOB_SUFFIXES {
        if let Some(account) = labels_below(&host, suffix)
            && is_account(account)
        {
            return Some(Service::Blob { account: account.to_owned(), cloud: *cloud });
        }
    }
    let absent = ABSENT_SUFFIXES.iter().find(|(suffix, _)| labels_below(&host, suffix).is_some_and(is_label));
    absent.map(|(_, cloud)| Service::Absent(*cloud))
}

fn labels_below<'a>(host: &'a str, suffix: &str) -> Option<&'a str> {
    host.strip_suffix(suffix)?.strip_suffix('.')
}

/// `account`, or `account.zNN` as in the URLs of managed disks.
fn is_account(labels: &str) -> bool {
    match labels.split_once('.') {
        None => is_label(labels),
        Some((account, zone)) => {
            let digits = zone.strip_prefix('z').unwrap_or_default();
            is_label(account) && matches!(digits.len(), 1 | 2) && digits.bytes().all(|b| b.is_ascii_digit())
        }
    }
}

fn is_label(label: &str) -> bool {
    let inner = label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    (1..=63).contains(&label.len()) && inner && !label.starts_with('-') && !label.ends_with('-')
}

/// The name to put into a certificate for this host: the host itself, or a wildcard for the accounts beside it, so that
/// their number does not grow with the accounts.
pub fn certificate_name(host: &str) -> Option<String> {
    let host = host.to_ascii_lowercase();
    match azure_service(&host)? {
        Service::Blob { .. } => host.split_once('.').map(|(_, parent)| format!("*.{parent}")),
        Service::Absent(_) if !EXACT.iter().any(|(name, _)| *name == host) => {
            host.split_once('.').map(|(_, parent)| format!("*.{parent}"))
        }
        _ => Some(host),
    }
}

/// The server's own names and port.
#[derive(Debug, Clone)]
pub struct OwnHosts {
    /// In lower case, without port; the first is the one that the server shows of itself.
    names: Vec<String>,
    port: u16,
}

impl OwnHosts {
    /// `names` besides the loopback names, which always count. IPv6 addresses without brackets.
    pub fn new(names: impl IntoIterator<Item = String>, port: u16) -> Self {
        let mut all: Vec<String> = names.into_iter().map(|n| n.to_ascii_lowercase()).collect();
        for name in ["127.0.0.1", "localhost", "::1"] {
            if !all.iter().any(|n| n == name) {
                all.push(name.to_owned());
            }
        }
        Self { names: all, port }
    }

    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// `https://host:port` of the preferred name.
    pub fn base(&self) -> String {
        self.base_of(&self.names[0])
    }

    /// `https://host:port` of every own name.
    pub fn bases(&self) -> Vec<String> {
        self.names.iter().map(|n| self.base_of(n)).collect()
    }

    fn base_of(&self, name: &str) -> String {
        let name = if name.contains(':') { format!("[{name}]") } else { name.to_owned() };
        match self.port {
            443 => format!("https://{name}"),
            port => format!("https://{name}:{port}"),
        }
    }

    /// The service that a `Host` header names, and the base URL to answer with. `None`: a name that is not ours.
    pub fn classify(&self, authority: &str) -> Option<(Service, String)> {
        let authority: Authority = authority.parse().ok()?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        if self.names.contains(&host) {
            // The port may have been mapped on the way (containers, ssh tunnels): answer with the one that was asked.
            let name = if host.contains(':') { format!("[{host}]") } else { host };
            let port = authority.port_u16().filter(|p| *p != 443).map(|p| format!(":{p}")).unwrap_or_default();
            return Some((Service::Own, format!("https://{name}{port}")));
        }
        let service = azure_service(&host)?;
        let base = match &service {
            Service::Blob { cloud: None, .. } => self.base(),
            _ => format!("https://{host}"),
        };
        Some((service, base))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_azures_names_and_no_others() {
        assert_eq!(azure_service("Management.Azure.COM"), Some(Service::Arm(Cloud::Public)));
        assert_eq!(azure_service("login.chinacloudapi.cn"), Some(Service::Login(Cloud::China)));
        let blob = |account: &str, cloud| Some(Service::Blob { account: account.into(), cloud });
        assert_eq!(azure_service("acct.blob.core.windows.net"), blob("acct", Some(Cloud::Public)));
        assert_eq!(
            azure_service("md-impexp-1.z09.blob.storage.azure.net"),
            blob("md-impexp-1.z09", Some(Cloud::Public))
        );
        assert_eq!(azure_service("acct.blob.localhost"), blob("acct", None));
        let others = [
            "example.com",
            "blob.core.windows.net",
            "a.b.blob.core.windows.net",
            "a.z123.blob.storage.azure.net",
            "evilblob.core.windows.net",
            "management.azure.com.evil.com",
            "x.management.azure.com",
            "",
            ".",
            "-a.blob.core.windows.net",
        ];
        for other in others {
            assert_eq!(azure_service(other), None, "{other}");
        }
    }

    #[test]
    fn certificates_do_not_grow_with_accounts() {
        assert_eq!(certificate_name("a.blob.core.windows.net").as_deref(), Some("*.blob.core.windows.net"));
        assert_eq!(certificate_name("a.z5.blob.storage.azure.net").as_deref(), Some("*.z5.blob.storage.azure.net"));
        assert_eq!(certificate_name("v.vault.azure.net").as_deref(), Some("*.vault.azure.net"));
        assert_eq!(certificate_name("management.azure.com").as_deref(), Some("management.azure.com"));
        assert_eq!(certificate_name("example.com"), None);
    }

    #[test]
    fn own_names_keep_the_port_that_was_asked() {
        let own = OwnHosts::new(["images.corp".to_owned()], 8443);
        assert_eq!(own.base(), "https://images.corp:8443");
        assert_eq!(own.classify("LOCALHOST:9000"), Some((Service::Own, "https://localhost:9000".into())));
        assert_eq!(own.classify("[::1]:8443"), Some((Service::Own, "https://[::1]:8443".into())));
        assert_eq!(own.classify("images.corp:443").unwrap().1, "https://images.corp");
        assert_eq!(own.classify("management.azure.com:443").unwrap().1, "https://management.azure.com");
        assert_eq!(own.classify("evil.example:8443"), None);
    }
}
