//! Paths that mean to lead elsewhere than they say: `..`, encoded slashes and dots, case, what looks like a letter. They are sent as
//! they are; every usual client would have tidied them up.
//!
//! The caller may read one group, and nothing else. What is tried must stay in it, or be refused.

use crate::world::{SECRET, World};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::json;
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// What is sent is exactly this path.
async fn raw(w: &World, path: &str, token: &str) -> (u16, String) {
    let mut roots = rustls::RootCertStore::empty();
    let pem = std::fs::read(&w.running.ca_file).unwrap();
    roots.add(CertificateDer::from_pem_slice(&pem).unwrap()).unwrap();
    let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let stream = tokio::net::TcpStream::connect(w.running.address).await.unwrap();
    let name = ServerName::from(w.running.address.ip());
    let mut stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n",
        w.running.address
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A server that closes without a farewell has answered all the same.
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok());
    (status.unwrap_or_else(|| panic!("{path}: {answer}")), answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn crooked_paths_lead_nowhere_else() {
    let w = World::start().await;
    let sub = &w.subscription;
    // A group of the caller's own, which it may read.
    let group = format!("/subscriptions/{sub}/resourceGroups/mine");
    let made = w.arm("PUT", &group, &w.owner, Some(json!({"location": "eastus"}))).await;
    assert_eq!(made.status(), 201);
    w.engine.grant_role(&w.nobody_object, "Reader", &group).await.unwrap();
    let (status, _) = raw(&w, &format!("{group}?api-version=2022-09-01"), &w.nobody).await;
    assert_eq!(status, 200, "it reads its own");

    let disk = "providers/Microsoft.Compute/disks/disk";
    let api = "?api-version=2024-03-02";
    let mut wrong = Vec::new();
    for path in [
        // Up and down again.
        format!("{group}/../rg1/{disk}"),
        format!("{group}/%2e%2e/rg1/{disk}"),
        format!("{group}/..%2frg1/{disk}"),
        format!("{group}%2f..%2frg1%2f{disk}"),
        format!("{group}%2F%2E%2E%2Frg1/{disk}"),
        format!("{group}/.%2e/rg1/{disk}"),
        format!("{group}/./../rg1/{disk}"),
        format!("{group}\\..\\rg1/{disk}").replace('\\', "%5c"),
        format!("{group}/%252e%252e/rg1/{disk}"),
        format!("{group}/..;/rg1/{disk}"),
        format!("{group}/providers/Microsoft.Compute/disks/../../../../rg1/{disk}"),
        // One name within another.
        format!("{group}%2frg1/{disk}"),
        format!("{group}/resourceGroups/rg1/{disk}"),
        format!("{group}/providers/Microsoft.Resources/resourceGroups/rg1/{disk}"),
        format!("{group}%00/{disk}"),
        format!("{group}%0d%0aX-Header:%20x/{disk}"),
        // The same in other letters, and letters that look like others.
        format!("/SUBSCRIPTIONS/{}/RESOURCEGROUPS/RG1/{}", sub.to_uppercase(), disk.to_uppercase()),
        format!("/subscriptions/{sub}/resourcegroups/Rg1/{disk}"),
        format!("/subscriptions/{sub}/resourceGroups/%EF%BD%92g1/{disk}"),
        format!("/subscriptions/{sub}/resourceGroups/rg1%20/{disk}"),
        format!("/subscriptions/{sub}/resourceGroups/rg1./{disk}"),
        format!("//subscriptions//{sub}//resourceGroups//rg1//{disk}//"),
        // Another tenant's and nobody's.
        format!("/subscriptions/{}/resourceGroups/rg1/{disk}", "00000000-0000-0000-0000-000000000000"),
        format!("/subscriptions/{sub}%20/resourceGroups/mine/{disk}"),
        format!("/subscriptions/{sub}/resourceGroups/mine/../../{sub}/resourceGroups/rg1/{disk}"),
    ] {
        let (status, answer) = raw(&w, &format!("{path}{api}"), &w.nobody).await;
        let (head, _) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        if ![400, 401, 403, 404].contains(&status) || answer.contains(SECRET) || head.contains("\r\nX-Header") {
            wrong.push(format!("{path}: {answer}"));
        }
    }
    assert!(wrong.is_empty(), "{} answers:\n{}", wrong.len(), wrong.join("\n"));
    // The test is not blind: the same in other letters opens to who may read it.
    let loud = format!("/SUBSCRIPTIONS/{}/RESOURCEGROUPS/RG1/{}{api}", sub.to_uppercase(), disk.to_uppercase());
    let (status, answer) = raw(&w, &loud, &w.owner).await;
    assert!(status == 200 && answer.contains(SECRET), "{answer}");
}
