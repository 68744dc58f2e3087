//! A small management client: signs in as the owner that `credentials.json` names, follows operations to their end.

use crate::credentials::Credentials;
use anyhow::{Context, bail};
use reqwest::{Method, StatusCode};
use serde_json::Value;
use std::time::Duration;

const API_VERSION: &str = "2024-07-01";
const POLL: Duration = Duration::from_millis(200);
const CONNECT: Duration = Duration::from_secs(10);

pub struct Client {
    http: reqwest::Client,
    endpoint: String,
    token: String,
    subscription: String,
}

struct Answer {
    status: StatusCode,
    operation: Option<String>,
    location: Option<String>,
    body: Value,
}

impl Client {
    pub async fn sign_in(credentials: &Credentials, endpoint: &str) -> anyhow::Result<Self> {
        let ca = std::fs::read(&credentials.ca_file)
            .with_context(|| format!("cannot read {}", credentials.ca_file.display()))?;
        let ca = reqwest::Certificate::from_pem(&ca)?;
        let http = reqwest::Client::builder().tls_certs_only([ca]).no_proxy().connect_timeout(CONNECT).build()?;
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", &credentials.client_id),
            ("client_secret", &credentials.client_secret),
            ("scope", "https://management.azure.com//.default"),
        ];
        let form: Vec<String> = form.iter().map(|(k, v)| format!("{k}={}", encoded(v))).collect();
        let request = http
            .post(format!("{endpoint}/{}/oauth2/v2.0/token", credentials.tenant_id))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form.join("&"));
        let down = || format!("no server answers at {endpoint}; start it with `lazuli serve`");
        let answer: Value = request.send().await.with_context(down)?.json().await.with_context(down)?;
        let Some(token) = answer["access_token"].as_str() else {
            bail!(
                "the server refused the sign-in: {}",
                answer["error_description"].as_str().unwrap_or("no reason given")
            );
        };
        let subscription = credentials.subscription_id.clone();
        Ok(Self { http, endpoint: endpoint.to_owned(), token: token.to_owned(), subscription })
    }

    /// Trusts the server's authority alone.
    pub fn http(&self) -> &reqwest::Client {
        &self.http
    }

    pub fn path(&self, below: &str) -> String {
        format!("/subscriptions/{}{below}", self.subscription)
    }

    /// A WebSocket of the server, at the `wss` address that it told.
    pub async fn websocket(&self, address: &str) -> anyhow::Result<reqwest::Upgraded> {
        let key = lazuli_api::websocket::new_key(*uuid::Uuid::new_v4().as_bytes());
        let request = self
            .http
            .get(address.replacen("wss://", "https://", 1))
            .bearer_auth(&self.token)
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", key);
        let response = request.send().await.context("the server does not answer")?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let body: Value = response.json().await.unwrap_or_default();
            bail!(message(&body["error"]));
        }
        Ok(response.upgrade().await?)
    }

    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Answer> {
        let mut url = if path.starts_with("https://") { path.to_owned() } else { format!("{}{path}", self.endpoint) };
        if !url.contains("api-version=") {
            url = format!("{url}{}api-version={API_VERSION}", if url.contains('?') { "&" } else { "?" });
        }
        let mut request = self.http.request(method, &url).bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let response = request.send().await.context("the server does not answer")?;
        let status = response.status();
        let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let (operation, location) = (header("azure-asyncoperation"), header("location"));
        let bytes = response.bytes().await?;
        let body = if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes)? };
        if !status.is_success() {
            bail!(message(&body["error"]));
        }
        Ok(Answer { status, operation, location, body })
    }

    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        Ok(self.send(Method::GET, path, None).await?.body)
    }

    /// Every item, over all pages.
    pub async fn list(&self, path: &str) -> anyhow::Result<Vec<Value>> {
        let mut items = Vec::new();
        let mut next = Some(path.to_owned());
        while let Some(path) = next {
            let page = self.get(&path).await?;
            items.extend(page["value"].as_array().cloned().unwrap_or_default());
            next = page["nextLink"].as_str().map(str::to_owned);
        }
        Ok(items)
    }

    /// Puts, waits for the end, and gives the resource as it is then.
    pub async fn put(&self, path: &str, body: &Value, progress: impl Fn(f64)) -> anyhow::Result<Value> {
        let accepted = self.send(Method::PUT, path, Some(body)).await?;
        self.finish(accepted, progress).await?;
        self.get(path).await
    }

    /// Posts and waits for nothing but the answer.
    pub async fn begin(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        Ok(self.send(Method::POST, path, Some(body)).await?.body)
    }

    /// Posts, waits for the end, and gives the result.
    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let accepted = self.send(Method::POST, path, Some(body)).await?;
        self.finish(accepted, |_| {}).await
    }

    pub async fn delete(&self, path: &str) -> anyhow::Result<()> {
        let accepted = self.send(Method::DELETE, path, None).await?;
        self.finish(accepted, |_| {}).await?;
        Ok(())
    }

    /// Follows an accepted request to its end, by its headers.
    async fn finish(&self, accepted: Answer, progress: impl Fn(f64)) -> anyhow::Result<Value> {
        if let Some(url) = &accepted.operation {
            loop {
                let body = self.get(url).await?;
                match body["status"].as_str() {
                    Some("Succeeded") => break,
                    Some("Failed" | "Canceled") => bail!(message(&body["error"])),
                    _ => progress(body["percentComplete"].as_f64().unwrap_or(0.0)),
                }
                tokio::time::sleep(POLL).await;
            }
        }
        let Some(url) = &accepted.location else { return Ok(accepted.body) };
        loop {
            let answer = self.send(Method::GET, url, None).await?;
            if answer.status != StatusCode::ACCEPTED {
                return Ok(answer.body);
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

fn message(error: &Value) -> String {
    let text = |name: &str| error[name].as_str().unwrap_or_default();
    format!("{}: {}", text("code"), text("message"))
}

/// Percent-encoded for a form.
fn encoded(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}
