//! Connections and the server's life: drain, clients that hang up, the seam to the data plane.

use super::fake::SUBSCRIPTION;
use super::{Server, header};
use crate::{Bearer, BlobPlane, BlobRequest};
use async_trait::async_trait;
use axum::body::Body;
use http_body_util::BodyExt;
use reqwest::Method;
use std::sync::Arc;
use std::time::Duration;

const WAITING: &str = r#"{"location": "eastus", "properties": {"wait": true}}"#;

fn gallery() -> String {
    format!(
        "/subscriptions/{SUBSCRIPTION}/resourceGroups/rg/providers/Microsoft.Compute/galleries/g?api-version=2024-03-03"
    )
}

#[tokio::test]
async fn requests_in_flight_end_before_the_server_does() {
    let server = Server::start().await;
    let request = server.request(Method::PUT, &gallery()).await.body(WAITING);
    let answer = tokio::spawn(request.send());
    server.backend.begun.notified().await;
    server.stop.cancel();
    server.backend.release.notify_one();
    assert_eq!(answer.await.unwrap().unwrap().status(), 201);
    server.running.stopped().await;
    let refused = server.client.get(server.url("/healthz")).send().await;
    assert!(refused.unwrap_err().is_connect());
}

#[tokio::test]
async fn a_client_that_hangs_up_cancels_nothing() {
    let server = Server::start().await;
    let request = server.request(Method::PUT, &gallery()).await.body(WAITING);
    let sending = tokio::spawn(request.send());
    server.backend.begun.notified().await;
    sending.abort();
    assert!(sending.await.unwrap_err().is_cancelled());
    server.backend.release.notify_one();
    server.backend.done.notified().await;
    assert_eq!(server.get(&gallery()).await.status(), 200);
}

/// az-cli.md §2.4: 0 would make clients sleep for half a minute.
#[tokio::test]
async fn retry_after_is_set_and_never_zero() {
    for (wanted, sent) in [(0, "1"), (7, "7")] {
        let server = Server::with(|c| c.retry_after = Duration::from_secs(wanted)).await;
        let created = server.arm(Method::PUT, &gallery(), Some(r#"{"location": "eastus"}"#)).await;
        assert_eq!(header(&created, "retry-after"), sent);
    }
}

/// Answers with what it was handed.
struct Mirror;

#[async_trait]
impl BlobPlane for Mirror {
    async fn handle(&self, request: BlobRequest) -> http::Response<Body> {
        let (parts, body) = request.request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let query = parts.uri.query().unwrap_or_default();
        let bearer = match request.bearer {
            Bearer::Absent => "nobody".to_owned(),
            Bearer::Caller(caller) => caller.principal,
            Bearer::Refused(error) => error.code,
        };
        let text = format!(
            "{} {} {} {query} {} {} {bearer}",
            parts.method,
            request.account,
            request.path,
            request.path_style,
            body.len()
        );
        http::Response::new(Body::from(text))
    }
}

#[tokio::test]
async fn the_data_plane_gets_account_path_and_an_unread_body() {
    let server = Server::with(|c| c.blobs = Some(Arc::new(Mirror))).await;
    // More than a management request may hold.
    let bytes = vec![1; 5 * 1024 * 1024];
    let put = server.client.put(server.url("/md-impexp-1/c/a%2Fb?comp=page")).body(bytes).send().await.unwrap();
    assert_eq!(put.text().await.unwrap(), "PUT md-impexp-1 /c/a%2Fb comp=page true 5242880 nobody");
    let port = server.running.address.port();
    let local = super::client(&server.running.ca_file).resolve("acct.blob.localhost", server.running.address);
    let get = local.build().unwrap().get(format!("https://acct.blob.localhost:{port}/c/b?sig=x")).send().await.unwrap();
    assert_eq!(get.text().await.unwrap(), "GET acct /c/b sig=x false 0 nobody");
}

#[tokio::test]
async fn the_data_plane_is_told_whose_token_it_is() {
    let server = Server::with(|c| c.blobs = Some(Arc::new(Mirror))).await;
    let ask = async |token: String| {
        let response = server.client.get(server.url("/acct/c")).bearer_auth(token).send().await.unwrap();
        response.text().await.unwrap().rsplit(' ').next().unwrap().to_owned()
    };
    let answer = server.token_request(super::fake::TENANT, &[("scope", "https://storage.azure.com/.default")]).await;
    let storage = super::body(answer).await["access_token"].as_str().unwrap().to_owned();
    assert_eq!(ask(storage).await, super::fake::OBJECT);
    assert_eq!(ask(server.token().await).await, "InvalidAuthenticationTokenAudience", "a management token");
    assert_eq!(ask("junk".to_owned()).await, "InvalidAuthenticationToken");
}

#[tokio::test]
async fn exchanges_are_recorded_without_what_opens_doors() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("exchanges.jsonl");
    let server = Server::with(|c| c.record = Some(file.clone())).await;
    let token = server.token().await;
    let sent = r#"{"location": "eastus", "properties": {"adminPassword": "hidden-word"}}"#;
    assert_eq!(server.arm(Method::PUT, &gallery(), Some(sent)).await.status(), 201);
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(!text.contains("hidden-word") && !text.contains(&token), "{text}");
    let line: serde_json::Value = serde_json::from_str(text.trim_end()).unwrap();
    assert_eq!((&line["method"], &line["status"]), (&"PUT".into(), &201.into()));
    assert_eq!(line["url"], server.url(&gallery()));
    assert_eq!(line["requestBody"]["location"], "eastus");
    assert!(line["headers"]["content-type"].as_str().unwrap().starts_with("application/json"), "{line}");
    assert_eq!(line["body"]["name"], "g");
}
