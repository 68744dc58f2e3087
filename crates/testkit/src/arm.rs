//! A management client that does what az does: signs in with a secret, and follows the headers of long-running
//! operations to their end.

use anyhow::{Context as _, bail, ensure};
use reqwest::{Method, StatusCode};
use serde_json::Value;
use std::time::Duration;
use tokio::time::Instant;

/// The longest an operation may take.
const PATIENCE: Duration = Duration::from_secs(900);
/// Between polls. Clients wait for `Retry-After`; tests are in more of a hurry.
const POLL: Duration = Duration::from_millis(100);
const API_VERSION: &str = "2024-07-01";

/// A signed-in client.
#[derive(Debug, Clone)]
pub struct Arm {
    http: reqwest::Client,
    endpoint: String,
    token: String,
    pub subscription: String,
}

/// One answer.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    /// `Null` where there is no body.
    pub body: Value,
}

/// An operation or a request that ended with an error of Azure's form.
#[derive(Debug, thiserror::Error)]
#[error("{status}: {code}: {message}")]
pub struct ArmFailure {
    pub status: u16,
    pub code: String,
    pub message: String,
}

impl Reply {
    /// The body, if the request was accepted.
    pub fn ok(self) -> Result<Value, ArmFailure> {
        if self.status.is_success() { Ok(self.body) } else { Err(failure(self.status.as_u16(), &self.body["error"])) }
    }

    /// `error.code`, of a request that was refused.
    pub fn error_code(&self) -> &str {
        self.body["error"]["code"].as_str().unwrap_or_default()
    }

    pub fn error_message(&self) -> &str {
        self.body["error"]["message"].as_str().unwrap_or_default()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

fn failure(status: u16, error: &Value) -> ArmFailure {
    let text = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
    ArmFailure { status, code: text("code"), message: text("message") }
}

impl Arm {
    /// With what `credentials.json` says.
    pub async fn sign_in(credentials: &Value) -> anyhow::Result<Self> {
        let text = |name: &str| credentials[name].as_str().with_context(|| format!("credentials lack {name}"));
        let endpoint = text("armEndpoint")?.to_owned();
        let http = client(&std::fs::read(text("caFile")?)?)?;
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", text("clientId")?),
            ("client_secret", text("clientSecret")?),
            ("scope", "https://management.azure.com//.default"),
        ];
        let body: String = form.iter().map(|(k, v)| format!("{k}={}&", encoded(v))).collect();
        let request = http
            .post(format!("{endpoint}/{}/oauth2/v2.0/token", text("tenantId")?))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(body);
        let response = request.send().await?;
        let status = response.status();
        let answer: Value = response.json().await?;
        ensure!(status.is_success(), "sign-in failed: {status} {answer}");
        let token = answer["access_token"].as_str().context("no access_token")?.to_owned();
        Ok(Self { http, endpoint, token, subscription: text("subscriptionId")?.to_owned() })
    }

    /// `/subscriptions/ID` and what comes below it.
    pub fn path(&self, below: &str) -> String {
        format!("/subscriptions/{}{below}", self.subscription)
    }

    pub fn group_path(&self, group: &str, below: &str) -> String {
        self.path(&format!("/resourceGroups/{group}{below}"))
    }

    /// A path without an api-version gets one.
    fn url(&self, path: &str) -> String {
        let mut url = if path.starts_with("https://") { path.to_owned() } else { format!("{}{path}", self.endpoint) };
        if !url.contains("api-version=") {
            url.push_str(if url.contains('?') { "&" } else { "?" });
            url.push_str(&format!("api-version={API_VERSION}"));
        }
        url
    }

    /// What a GET answers that is no JSON, to its end.
    pub async fn text(&self, path: &str) -> anyhow::Result<String> {
        let response = self.http.get(self.url(path)).bearer_auth(&self.token).send().await?;
        Ok(response.error_for_status()?.text().await?)
    }

    /// One request.
    pub async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Reply> {
        let url = self.url(path);
        let mut request = self.http.request(method, &url).bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.with_context(|| url.clone())?;
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = response.bytes().await?;
        let body = if bytes.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&bytes).with_context(|| format!("{url}: {}", String::from_utf8_lossy(&bytes)))?
        };
        Ok(Reply { status, headers, body })
    }

    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        Ok(self.send(Method::GET, path, None).await?.ok()?)
    }

    /// Puts, waits for the end, and returns the resource as it is then.
    pub async fn put(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let accepted = self.send(Method::PUT, path, Some(body)).await?;
        self.finish(accepted, path).await?;
        self.get(path).await
    }

    /// Posts, waits for the end, and returns the result.
    pub async fn post(&self, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        let accepted = self.send(Method::POST, path, body).await?;
        self.finish(accepted, path).await
    }

    pub async fn delete(&self, path: &str) -> anyhow::Result<()> {
        let accepted = self.send(Method::DELETE, path, None).await?;
        self.finish(accepted, path).await?;
        Ok(())
    }

    /// Follows an accepted request to its end, by its headers.
    pub async fn finish(&self, accepted: Reply, path: &str) -> anyhow::Result<Value> {
        let operation = accepted.header("azure-asyncoperation").map(str::to_owned);
        let location = accepted.header("location").map(str::to_owned);
        let body = accepted.ok()?;
        if let Some(url) = operation {
            let done = self.poll_status(&url).await?;
            return match location {
                Some(location) => Ok(self.send(Method::GET, &location, None).await?.ok()?),
                None => Ok(done["properties"]["output"].clone()),
            };
        }
        match location {
            Some(location) => self.poll_location(&location).await,
            None => self.poll_resource(path, body).await,
        }
    }

    async fn poll_status(&self, url: &str) -> anyhow::Result<Value> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let reply = self.send(Method::GET, url, None).await?;
            let status = reply.status.as_u16();
            let body = reply.ok()?;
            match body["status"].as_str() {
                Some("Succeeded") => return Ok(body),
                Some("Failed" | "Canceled") => bail!(failure(status, &body["error"])),
                _ => ensure!(Instant::now() < deadline, "the operation does not end: {body}"),
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn poll_location(&self, url: &str) -> anyhow::Result<Value> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let reply = self.send(Method::GET, url, None).await?;
            if reply.status != StatusCode::ACCEPTED {
                return Ok(reply.ok()?);
            }
            ensure!(Instant::now() < deadline, "the operation does not end: {url}");
            tokio::time::sleep(POLL).await;
        }
    }

    async fn poll_resource(&self, path: &str, mut body: Value) -> anyhow::Result<Value> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match body["properties"]["provisioningState"].as_str() {
                Some("Failed" | "Canceled") => bail!("the resource ended badly: {body}"),
                None | Some("Succeeded") => return Ok(body),
                Some(_) => ensure!(Instant::now() < deadline, "the resource does not become ready: {body}"),
            }
            tokio::time::sleep(POLL).await;
            body = self.get(path).await?;
        }
    }

    /// The HTTP client, which trusts the server's authority alone.
    pub fn http(&self) -> &reqwest::Client {
        &self.http
    }
}

/// A client that trusts this authority and goes through no proxy.
pub fn client(ca_pem: &[u8]) -> anyhow::Result<reqwest::Client> {
    // Another test of this process may have installed it.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let ca = reqwest::Certificate::from_pem(ca_pem)?;
    Ok(reqwest::Client::builder().tls_certs_only([ca]).no_proxy().build()?)
}

/// Percent-encoded for a form.
fn encoded(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}
