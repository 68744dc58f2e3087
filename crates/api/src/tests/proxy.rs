//! Way 3 of az-cli.md §1: `HTTPS_PROXY` and the CA file, nothing else.

use super::fake::TENANT;
use super::{Server, body, client, error, form};
use crate::net::hosts;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn proxied(server: &Server) -> reqwest::Client {
    let address = server.running.proxy_address.unwrap();
    let proxy = reqwest::Proxy::https(format!("http://{address}")).unwrap();
    let ca = reqwest::Certificate::from_pem(&std::fs::read(&server.running.ca_file).unwrap()).unwrap();
    reqwest::Client::builder().tls_certs_only([ca]).proxy(proxy).build().unwrap()
}

#[tokio::test]
async fn azures_own_names_lead_here() {
    let server = Server::start().await;
    let azure = proxied(&server).await;
    for (arm, login, cloud, region) in [
        ("https://management.azure.com", "https://login.microsoftonline.com", "AzureCloud", "eastus"),
        ("https://management.chinacloudapi.cn", "https://login.chinacloudapi.cn", "AzureChinaCloud", "chinanorth"),
    ] {
        let metadata = azure.get(format!("{arm}/metadata/endpoints?api-version=2022-09-01")).send().await.unwrap();
        assert_eq!(body(metadata).await["name"], cloud);
        let scope = format!("{arm}//.default");
        let token = azure.post(format!("{login}/{TENANT}/oauth2/v2.0/token")).body(form(&[("scope", &scope)]));
        let token = body(token.send().await.unwrap()).await["access_token"].as_str().unwrap().to_owned();
        let url = format!("{arm}/subscriptions/{}/locations?api-version=2022-12-01", super::fake::SUBSCRIPTION);
        let response = azure.get(url).bearer_auth(token).send().await.unwrap();
        assert!(response.headers().contains_key("strict-transport-security"));
        let locations = body(response).await;
        let names: Vec<&str> =
            locations["value"].as_array().unwrap().iter().filter_map(|l| l["name"].as_str()).collect();
        assert!(names.contains(&region), "{names:?}");
        assert_eq!(names.contains(&"chinanorth"), cloud == "AzureChinaCloud");
    }
}

#[tokio::test]
async fn poll_urls_keep_the_name_that_was_asked() {
    let server = Server::start().await;
    let azure = proxied(&server).await;
    let token = server.token().await;
    let url = format!(
        "https://management.azure.com/subscriptions/{}/resourceGroups/g/providers/Microsoft.Compute/disks/d?api-version=2025-01-02",
        super::fake::SUBSCRIPTION
    );
    let response = azure.put(&url).bearer_auth(token).body(r#"{"location":"eastus"}"#).send().await.unwrap();
    assert_eq!(response.status(), 202);
    let poll = super::header(&response, "azure-asyncoperation");
    assert!(poll.starts_with("https://management.azure.com/subscriptions/"), "{poll}");
    assert_eq!(server.backend.last_call().urls.blob_suffix.as_deref(), Some("blob.core.windows.net"));
}

#[tokio::test]
async fn accounts_have_certificates_at_any_depth() {
    let server = Server::start().await;
    let azure = proxied(&server).await;
    for host in
        ["acct.blob.core.windows.net", "md-impexp-x.z07.blob.storage.azure.net", "acct.blob.core.chinacloudapi.cn"]
    {
        let response = azure.get(format!("https://{host}/c/b")).send().await.unwrap();
        assert_eq!(response.status(), 404);
        assert_eq!(super::header(&response, "x-ms-error-code"), "ResourceNotFound");
    }
}

#[tokio::test]
async fn other_hosts_are_refused_and_plain_requests_explained() {
    let server = Server::start().await;
    let address = server.running.proxy_address.unwrap();
    let ask = async |request: &str| {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let refused = ask("CONNECT example.com:443 HTTP/1.1\r\nhost: example.com:443\r\nconnection: close\r\n\r\n").await;
    assert!(refused.starts_with("HTTP/1.1 403 ") && refused.contains("'example.com'"), "{refused}");
    let plain = ask("GET http://example.com/ HTTP/1.1\r\nhost: example.com\r\nconnection: close\r\n\r\n").await;
    assert!(plain.starts_with("HTTP/1.1 405 ") && plain.contains("HTTPS_PROXY"), "{plain}");
}

#[tokio::test]
async fn passing_through_must_be_allowed_and_then_works() {
    let other = Server::start().await;
    let server = Server::with(|c| c.proxy_passthrough = true).await;
    let proxy = reqwest::Proxy::https(format!("http://{}", server.running.proxy_address.unwrap())).unwrap();
    let ca = reqwest::Certificate::from_pem(&std::fs::read(&other.running.ca_file).unwrap()).unwrap();
    let through = reqwest::Client::builder().tls_certs_only([ca]).proxy(proxy).build().unwrap();
    assert_eq!(through.get(other.url("/healthz")).send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_proxy_beyond_loopback_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = crate::ServeConfig::new(dir.path(), std::sync::Arc::new(super::fake::Fake::default()));
    config.proxy_listen = Some("0.0.0.0:0".parse().unwrap());
    let refused = crate::serve(config, Default::default()).await;
    assert!(matches!(refused, Err(crate::ServeError::ProxyNotLoopback(_))));
}

#[tokio::test]
async fn a_host_that_is_not_ours_is_refused() {
    let server = Server::start().await;
    let response = server.client.get(server.url("/healthz")).header("host", "evil.example").send().await.unwrap();
    let (status, code, _) = error(response).await;
    assert_eq!((status, code.as_str()), (421, "MisdirectedRequest"));
    assert!(hosts::azure_service("evil.example").is_none());
}

#[tokio::test]
async fn own_names_are_in_the_certificate() {
    let server = Server::with(|c| c.host_names = vec!["images.corp".to_owned()]).await;
    assert!(server.running.base_url.starts_with("https://images.corp:"));
    let port = server.running.address.port();
    let resolved = client(&server.running.ca_file).resolve("images.corp", server.running.address).build().unwrap();
    for name in ["images.corp", "localhost", "127.0.0.1"] {
        let answer = resolved.get(format!("https://{name}:{port}/healthz")).send().await.unwrap();
        assert_eq!(body(answer).await, json!({"status": "ok"}), "{name}");
    }
}
