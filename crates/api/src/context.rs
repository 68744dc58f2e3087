//! One request's surroundings: who was asked (host), under which path, with which ids.

use crate::net::hosts::{Cloud, OwnHosts, Service};
use http::request::Parts;
use http::{HeaderMap, Method, header};
use lazuli_arm::ArmError;
use percent_encoding::percent_decode_str;
use std::collections::BTreeMap;

/// A request without its body.
#[derive(Debug, Clone)]
pub struct Context {
    pub service: Service,
    /// `https://host[:port]` by which the client reached the server.
    pub base: String,
    pub method: Method,
    /// Percent-decoded, `//` collapsed, without a slash at the end.
    pub path: String,
    /// As it was sent.
    pub raw_path: String,
    /// As it was sent, without the question mark; empty where there is none.
    pub raw_query: String,
    /// Names in lower case.
    pub query: BTreeMap<String, String>,
    pub headers: HeaderMap,
    pub request_id: String,
    pub correlation_id: String,
    pub client_request_id: Option<String>,
}

impl Context {
    pub(crate) fn new(parts: &Parts, own: &OwnHosts) -> Result<Self, ArmError> {
        let host =
            parts.uri.authority().map(ToString::to_string).or_else(|| text(&parts.headers, header::HOST.as_str()));
        let Some((service, base)) = host.as_deref().and_then(|h| own.classify(h)) else {
            return Err(ArmError::new(
                421,
                "MisdirectedRequest",
                format!(
                    "This server does not answer for the host '{}'. Use one of its own names ({}), or add the name to \
                     its settings.",
                    host.unwrap_or_default(),
                    own.names().join(", ")
                ),
            ));
        };
        let raw_path = parts.uri.path().to_owned();
        let decoded = percent_decode_str(&raw_path).decode_utf8();
        let decoded = decoded.map_err(|e| {
            ArmError::bad_request("InvalidRequestUri", "The request URI is not valid UTF-8.").caused_by(e)
        })?;
        let request_id = uuid::Uuid::new_v4().to_string();
        let given = |name| text(&parts.headers, name).filter(|id| is_request_id(id));
        Ok(Self {
            service,
            base,
            method: parts.method.clone(),
            path: collapse(&decoded),
            query: query(parts.uri.query().unwrap_or_default()),
            headers: parts.headers.clone(),
            correlation_id: given("x-ms-correlation-request-id").unwrap_or_else(|| request_id.clone()),
            client_request_id: given("x-ms-client-request-id"),
            request_id,
            raw_path,
            raw_query: parts.uri.query().unwrap_or_default().to_owned(),
        })
    }

    /// Whether the client believes to speak with Azure itself.
    pub fn is_azure_host(&self) -> bool {
        self.cloud().is_some()
    }

    /// The Azure that the client believes to speak with.
    pub fn cloud(&self) -> Option<Cloud> {
        match &self.service {
            Service::Own => None,
            Service::Arm(cloud) | Service::Login(cloud) | Service::Graph(cloud) | Service::Absent(cloud) => {
                Some(*cloud)
            }
            Service::Blob { cloud, .. } => *cloud,
        }
    }

    /// Segments of the path.
    pub fn segments(&self) -> Vec<&str> {
        self.path.split('/').filter(|s| !s.is_empty()).collect()
    }

    pub fn header(&self, name: &str) -> Option<String> {
        text(&self.headers, name)
    }

    /// `https://host` of the sign-in endpoint that belongs to the host that was asked.
    pub fn authority(&self) -> String {
        match self.cloud() {
            Some(Cloud::Public) => "https://login.microsoftonline.com".to_owned(),
            Some(Cloud::China) => "https://login.chinacloudapi.cn".to_owned(),
            None => self.base.clone(),
        }
    }

    /// Suffix of account host names when the client reaches them under Azure's names.
    pub fn blob_suffix(&self) -> Option<String> {
        let suffix = match self.cloud()? {
            Cloud::Public => "blob.core.windows.net",
            Cloud::China => "blob.core.chinacloudapi.cn",
        };
        Some(suffix.to_owned())
    }
}

/// A header's text, if it is text.
fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

/// Ids of clients are echoed and logged: only short, plain ones are taken.
fn is_request_id(id: &str) -> bool {
    (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b))
}

fn collapse(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for segment in path.split('/').filter(|s| !s.is_empty()) {
        out.push('/');
        out.push_str(segment);
    }
    if out.is_empty() { "/".to_owned() } else { out }
}

/// Names in lower case; the first of repeated names counts.
fn query(text: &str) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    for (name, value) in url::form_urlencoded::parse(text.as_bytes()) {
        out.entry(name.to_ascii_lowercase()).or_insert_with(|| value.into_owned());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(uri: &str, host: &str) -> Result<Context, ArmError> {
        let request = http::Request::builder().uri(uri).header("host", host).body(()).unwrap();
        Context::new(&request.into_parts().0, &OwnHosts::new([], 8443))
    }

    /// az-cli.md §2.1, §2.2.
    #[test]
    fn paths_are_decoded_and_collapsed() {
        let context = context(
            "/subscriptions//s/resourcegroups/a%20b%2Fc/?API-Version=2021-10-01&$filter=x%20eq%20'y'",
            "localhost:8443",
        );
        let context = context.unwrap();
        assert_eq!(context.path, "/subscriptions/s/resourcegroups/a b/c");
        assert_eq!(context.query["api-version"], "2021-10-01");
        assert_eq!(context.query["$filter"], "x eq 'y'");
    }

    #[test]
    fn strange_hosts_and_broken_paths_are_refused() {
        assert_eq!(context("/", "evil.example").unwrap_err().status, 421);
        assert_eq!(context("/%ff", "localhost").unwrap_err().code, "InvalidRequestUri");
    }

    #[test]
    fn the_host_decides_the_cloud() {
        let china = context("/", "management.chinacloudapi.cn").unwrap();
        assert_eq!(china.authority(), "https://login.chinacloudapi.cn");
        assert_eq!(china.blob_suffix().as_deref(), Some("blob.core.chinacloudapi.cn"));
        let own = context("/", "localhost:8443").unwrap();
        assert_eq!((own.authority().as_str(), own.blob_suffix()), ("https://localhost:8443", None));
    }
}
