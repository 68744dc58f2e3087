//! The edge through its public door: a real TLS listener, a real client, a small product in memory.

mod fake;
mod life;
mod log_stream;
mod management;
mod proxy;
mod sign_in;

use crate::{Running, ServeConfig, serve};
use fake::{CLIENT, Fake, SECRET, TENANT};
use reqwest::{Method, RequestBuilder, Response};
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;
use tempfile::TempDir;
use tokio_util::sync::{CancellationToken, DropGuard};

pub struct Server {
    pub running: Running,
    pub backend: Arc<Fake>,
    pub client: reqwest::Client,
    pub dir: TempDir,
    pub stop: CancellationToken,
    _guard: DropGuard,
}

impl Server {
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut ServeConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let backend = Arc::new(Fake::default());
        let mut config = ServeConfig::new(dir.path(), backend.clone());
        config.home_tenant = Some(TENANT.to_owned());
        config.proxy_listen = Some("127.0.0.1:0".parse().unwrap());
        change(&mut config);
        let stop = CancellationToken::new();
        let running = serve(config, stop.clone()).await.unwrap();
        let client = client(&running.ca_file).build().unwrap();
        Self { running, backend, client, dir, _guard: stop.clone().drop_guard(), stop }
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.running.base_url)
    }

    pub async fn token(&self) -> String {
        let resource = format!("{}/.default", self.running.base_url);
        let response = self.token_request(TENANT, &[("scope", resource.as_str())]).await;
        assert_eq!(response.status(), 200);
        body(response).await["access_token"].as_str().unwrap().to_owned()
    }

    /// A v2 request with the right credentials, unless `fields` say otherwise.
    pub async fn token_request(&self, tenant: &str, fields: &[(&str, &str)]) -> Response {
        let url = self.url(&format!("/{tenant}/oauth2/v2.0/token"));
        self.client.post(url).body(form(fields)).send().await.unwrap()
    }

    /// An authenticated request.
    pub async fn arm(&self, method: Method, path: &str, body: Option<&str>) -> Response {
        let mut request = self.request(method, path).await;
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_owned());
        }
        request.send().await.unwrap()
    }

    pub async fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, self.url(path)).bearer_auth(self.token().await)
    }

    pub async fn get(&self, path: &str) -> Response {
        self.arm(Method::GET, path, None).await
    }
}

/// A client that trusts the server's CA and nothing else.
pub fn client(ca_file: &Path) -> reqwest::ClientBuilder {
    let ca = reqwest::Certificate::from_pem(&std::fs::read(ca_file).unwrap()).unwrap();
    reqwest::Client::builder().tls_certs_only([ca]).no_proxy()
}

pub fn form(fields: &[(&str, &str)]) -> String {
    let defaults = [("grant_type", "client_credentials"), ("client_id", CLIENT), ("client_secret", SECRET)];
    let missing = defaults.iter().filter(|(name, _)| !fields.iter().any(|(n, _)| n == name));
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(missing).extend_pairs(fields).finish()
}

pub async fn body(response: Response) -> Value {
    let text = response.text().await.unwrap();
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// The status, code and message of an error.
pub async fn error(response: Response) -> (u16, String, String) {
    let status = response.status().as_u16();
    let body = body(response).await;
    let text = |name: &str| body["error"][name].as_str().unwrap_or_else(|| panic!("{body}")).to_owned();
    (status, text("code"), text("message"))
}

pub fn header(response: &Response, name: &str) -> String {
    response.headers().get(name).map_or(String::new(), |v| v.to_str().unwrap().to_owned())
}
