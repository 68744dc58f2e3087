//! The data plane of managed disks over TLS, as storage clients speak to it (wire.md §5).

mod world;

use http::StatusCode;
use lazuli_meta::model::{Change, Expect, Resource, Write};
use reqwest::{Client, Method, RequestBuilder, Response};
use std::os::unix::fs::FileExt;
use tempfile::TempDir;
use world::World;

const MIB: u64 = 1 << 20;
const SIZE: u64 = 6 * MIB + 512;
const UPLOAD: &str = "md-impexp-abc123";

struct Session {
    world: World,
    client: Client,
    url: String,
    _dir: TempDir,
}

impl Session {
    async fn start() -> Self {
        let dir = TempDir::new().unwrap();
        let world = World::start(dir.path()).await;
        let pem = std::fs::read(&world.running.ca_file).unwrap();
        let ca = reqwest::Certificate::from_pem(&pem).unwrap();
        let client = Client::builder().tls_certs_only([ca]).no_proxy().build().unwrap();
        let url = world.upload(UPLOAD, SIZE).await;
        Self { world, client, url, _dir: dir }
    }

    fn ask(&self, method: Method, query: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{query}", self.url)).header("x-ms-version", "2025-07-05")
    }

    fn page(&self, write: &str, range: &str, body: Vec<u8>) -> RequestBuilder {
        self.ask(Method::PUT, "&comp=page").header("x-ms-page-write", write).header("x-ms-range", range).body(body)
    }
}

fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response.headers().get(name).unwrap_or_else(|| panic!("no {name}: {response:?}")).to_str().unwrap()
}

async fn sent(request: RequestBuilder, status: u16) -> Response {
    let response = request.send().await.unwrap();
    let found = response.status();
    if found != StatusCode::from_u16(status).unwrap() {
        let shown = format!("{response:?}");
        panic!("{status} expected: {shown}\n{}", response.text().await.unwrap());
    }
    response
}

async fn refused(request: RequestBuilder, status: u16, code: &str) -> String {
    let response = sent(request, status).await;
    assert_eq!(header(&response, "x-ms-error-code"), code);
    header(&response, "x-ms-request-id");
    let text = response.text().await.unwrap();
    assert!(text.contains(&format!("<Code>{code}</Code>")), "{text}");
    text
}

/// What azcopy does to a host of its own (az-cli.md §6): create, pages, checksum, look, list, read.
#[tokio::test]
async fn a_page_blob_is_made_filled_and_read() {
    let s = Session::start().await;
    let create = s.ask(Method::PUT, "").header("x-ms-blob-type", "PageBlob").header("if-none-match", "*");
    let made = sent(create.header("x-ms-blob-content-length", SIZE).header("x-ms-client-request-id", "me"), 201).await;
    assert_eq!(header(&made, "x-ms-client-request-id"), "me");
    assert_eq!(header(&made, "x-ms-version"), "2025-07-05");
    assert!(header(&made, "etag").starts_with("\"0x8D"));

    let crc = "AAAAAAAAAAA=";
    let wrong = s.page("update", "bytes=0-511", vec![1; 512]).header("x-ms-content-crc64", crc);
    refused(wrong, 400, "Crc64Mismatch").await;
    let wrong = s.page("update", "bytes=0-511", vec![1; 512]).header("content-md5", "1B2M2Y8AsgTpgAmY7PhCfg==");
    refused(wrong, 400, "Md5Mismatch").await;
    let written = sent(s.page("update", "bytes=1048576-1049599", vec![1; 1024]), 201).await;
    assert_ne!(header(&written, "etag"), header(&made, "etag"));
    let crc = header(&written, "x-ms-content-crc64").to_owned();
    assert_eq!(header(&written, "x-ms-blob-sequence-number"), "0");
    let checked = s.page("update", "bytes=1048576-1049599", vec![1; 1024]).header("x-ms-content-crc64", crc);
    let checked = sent(checked, 201).await;
    let chained = s.page("update", "bytes=0-511", vec![2; 512]).header("if-match", header(&checked, "etag"));
    sent(chained, 201).await;
    let stale = s.page("update", "bytes=0-511", vec![3; 512]).header("if-match", header(&checked, "etag"));
    refused(stale, 412, "ConditionNotMet").await;
    let md5 = s.ask(Method::PUT, "&comp=properties").header("x-ms-blob-content-md5", "1B2M2Y8AsgTpgAmY7PhCfg==");
    sent(md5, 200).await;
    sent(s.page("clear", "bytes=1049088-1049599", Vec::new()), 201).await;

    let head = sent(s.ask(Method::HEAD, ""), 200).await;
    for (name, value) in [
        ("content-length", SIZE.to_string().as_str()),
        ("x-ms-blob-type", "PageBlob"),
        ("accept-ranges", "bytes"),
        ("content-md5", "1B2M2Y8AsgTpgAmY7PhCfg=="),
        ("content-type", "application/octet-stream"),
    ] {
        assert_eq!(header(&head, name), value);
    }
    assert!(header(&head, "last-modified").ends_with(" GMT"));
    let list = sent(s.ask(Method::GET, "&comp=pagelist"), 200).await;
    assert_eq!(header(&list, "x-ms-blob-content-length"), SIZE.to_string());
    let list = list.text().await.unwrap();
    assert!(list.contains("<PageRange><Start>0</Start>"), "{list}");
    assert!(list.contains("<PageRange><Start>1048576</Start>"), "{list}");
    let part = sent(s.ask(Method::GET, "&comp=pagelist&maxresults=1"), 200).await.text().await.unwrap();
    assert!(part.contains("<NextMarker>1048576</NextMarker>"), "{part}");
    let part = sent(s.ask(Method::GET, "&comp=pagelist&maxresults=1&marker=1048576"), 200).await.text().await.unwrap();
    assert!(part.contains("<Start>1048576</Start>") && !part.contains("NextMarker"), "{part}");

    let both = s.ask(Method::GET, "").header("range", "bytes=0-0").header("x-ms-range", "bytes=1048575-1048577");
    let part = sent(both, 206).await;
    assert_eq!(header(&part, "content-range"), format!("bytes 1048575-1048577/{SIZE}"));
    assert_eq!(part.bytes().await.unwrap().as_ref(), [0, 1, 1]);
    let whole = sent(s.ask(Method::GET, ""), 200).await.bytes().await.unwrap();
    assert_eq!(whole, std::fs::read(s.world.staging(UPLOAD)).unwrap());
    sent(s.ask(Method::GET, "").header("if-none-match", header(&head, "etag")), 304).await;
    refused(s.ask(Method::GET, "").header("range", format!("bytes={SIZE}-")), 416, "InvalidRange").await;
}

/// A refused body is not held against the connection or the server.
#[tokio::test]
async fn a_body_that_is_too_large_is_refused_and_the_server_goes_on() {
    let s = Session::start().await;
    let large = vec![1; usize::try_from(5 * MIB).unwrap()];
    let range = format!("bytes=0-{}", 5 * MIB - 1);
    refused(s.page("update", &range, large), 413, "RequestBodyTooLarge").await;
    refused(s.page("update", "bytes=0-511", vec![1; 1024]), 416, "InvalidPageRange").await;
    refused(s.page("update", "bytes=0-510", vec![1; 511]), 416, "InvalidPageRange").await;
    refused(s.page("update", "pages=0-511", vec![1; 512]), 400, "InvalidHeaderValue").await;
    let largest = vec![7; usize::try_from(4 * MIB).unwrap()];
    sent(s.page("update", &format!("bytes=0-{}", 4 * MIB - 1), largest), 201).await;
}

#[tokio::test]
async fn only_the_signature_counts_and_only_while_it_is_granted() {
    let s = Session::start().await;
    let wrong = s.url.replace("sig=a", "sig=b");
    let text = refused(s.client.get(&wrong), 403, "AuthenticationFailed").await;
    assert!(text.contains("<AuthenticationErrorDetail>"), "{text}");
    let unsigned = s.url.split('?').next().unwrap();
    refused(s.client.get(unsigned), 403, "AuthenticationFailed").await;
    // A large body before a refusal: the client still sees the refusal.
    let body = vec![1; usize::try_from(4 * MIB).unwrap()];
    let put = s.client.put(format!("{wrong}&comp=page")).header("x-ms-page-write", "update");
    refused(put.header("x-ms-range", format!("bytes=0-{}", 4 * MIB - 1)).body(body), 403, "AuthenticationFailed").await;
    refused(s.client.get(s.url.replace("abcd", "other")), 404, "BlobNotFound").await;
    refused(s.client.get(s.url.replace("/c0ntainer", "/other")), 404, "ContainerNotFound").await;
    refused(s.client.get(s.url.replace("md-impexp", "account")), 404, "ResourceNotFound").await;
    // azcopy and some SDKs escape the slash.
    sent(s.client.head(s.url.replace("c0ntainer/", "c0ntainer%2F")), 200).await;

    let grant = s.world.db.grant_by_account(UPLOAD).await.unwrap().unwrap();
    let end = Change::DeleteGrant { id: grant.id };
    s.world.db.write(Write { fence: None, changes: vec![end] }).await.unwrap();
    s.world.blobs.end_upload(&s.world.staging(UPLOAD)).await.unwrap();
    refused(s.page("update", "bytes=0-511", vec![1; 512]), 403, "AuthenticationFailed").await;
}

/// `dataAccessAuthMode`: who has the URL is told for what to sign in, as azcopy asks for it.
#[tokio::test]
async fn a_disk_that_asks_for_identities_says_so() {
    let s = Session::start().await;
    let key = "/subscriptions/s/disk".to_owned();
    let disk = Resource {
        sort_key: key.clone(),
        id: key.clone(),
        key,
        kind: "microsoft.compute/disks".into(),
        subscription: "s".into(),
        resource_group: String::new(),
        parent: None,
        name: "disk".into(),
        location: "eastus".into(),
        body: serde_json::json!({"properties": {"dataAccessAuthMode": "AzureActiveDirectory"}}),
        internal: serde_json::Value::Null,
        provisioning_state: "Succeeded".into(),
        etag: "e".into(),
        created_ms: 0,
        changed_ms: 0,
    };
    let put = Change::PutResource { resource: disk, expect: Expect::Absent };
    s.world.db.write(Write { fence: None, changes: vec![put] }).await.unwrap();
    let response = sent(s.ask(Method::HEAD, ""), 401).await;
    assert!(header(&response, "www-authenticate").contains("resource_id=https://disk.azure.com/"));
    refused(s.page("update", "bytes=0-511", vec![1; 512]), 401, "NoAuthenticationInformation").await;
    refused(s.ask(Method::GET, "").bearer_auth("no.token.atall"), 401, "NoAuthenticationInformation").await;
}

#[tokio::test]
async fn what_the_blob_of_a_disk_cannot_do_is_said() {
    let s = Session::start().await;
    let create = |kind, size: u64| {
        s.ask(Method::PUT, "").header("x-ms-blob-type", kind).header("x-ms-blob-content-length", size)
    };
    let text = refused(create("PageBlob", 1024), 400, "InvalidHeaderValue").await;
    assert!(text.contains(&SIZE.to_string()), "the size to use is told: {text}");
    refused(create("BlockBlob", SIZE), 409, "InvalidBlobType").await;
    refused(create("PageBlob", SIZE).header("x-ms-copy-source", "https://x/"), 400, "UnsupportedOperation").await;
    refused(s.ask(Method::PUT, "&comp=lease").header("x-ms-lease-action", "acquire"), 400, "UnsupportedOperation")
        .await;
    let resize = |size: u64| s.ask(Method::PUT, "&comp=properties").header("x-ms-blob-content-length", size);
    refused(resize(512), 400, "InvalidHeaderValue").await;
    sent(resize(SIZE), 200).await;
    sent(s.ask(Method::PUT, "&comp=metadata").header("x-ms-meta-a", "b"), 200).await;
    assert_eq!(header(&sent(s.ask(Method::GET, "&comp=metadata"), 200).await, "x-ms-meta-a"), "b");
    let number = s.ask(Method::PUT, "&comp=properties").header("x-ms-sequence-number-action", "update");
    let done = sent(number.header("x-ms-blob-sequence-number", "7"), 200).await;
    assert_eq!(header(&done, "x-ms-blob-sequence-number"), "7");

    // azcopy deletes what it failed to upload: the pages are cleared, the upload stays possible.
    sent(s.page("update", "bytes=0-511", vec![1; 512]), 201).await;
    sent(s.ask(Method::DELETE, ""), 202).await;
    let list = sent(s.ask(Method::GET, "&comp=pagelist"), 200).await.text().await.unwrap();
    assert!(!list.contains("PageRange"), "{list}");
    sent(create("PageBlob", SIZE).header("if-none-match", "*"), 201).await;
}

#[tokio::test]
async fn a_stored_disk_is_downloaded() {
    let s = Session::start().await;
    let raw = s.world.dir.join("disk.raw");
    let file = std::fs::File::create_new(&raw).unwrap();
    file.set_len(16 * MIB).unwrap();
    file.write_all_at(&[5; 70_000], 9 * MIB).unwrap();
    let url = s.world.stored("md-abc123", &raw).await;
    let whole = sent(s.client.get(&url), 200).await;
    let etag = header(&whole, "etag").to_owned();
    let whole = whole.bytes().await.unwrap();
    assert_eq!(whole.len() as u64, 16 * MIB + 512);
    assert!(
        whole[..whole.len() - 512] == std::fs::read(&raw).unwrap()
            && whole[whole.len() - 512..].starts_with(b"conectix")
    );
    let md5 = s.client.get(&url).header("x-ms-range", "bytes=0-511").header("x-ms-range-get-content-md5", "true");
    assert_eq!(header(&sent(md5, 206).await, "content-md5"), ZEROS_MD5);
    let head = sent(s.client.head(&url), 200).await;
    assert_eq!(header(&head, "etag"), etag);
    let unmodified = s.client.get(&url).header("if-unmodified-since", header(&head, "last-modified"));
    sent(unmodified.header("range", "bytes=0-0"), 206).await;
    let put = s.client.put(format!("{url}&comp=page")).header("x-ms-page-write", "update");
    refused(put.header("x-ms-range", "bytes=0-511").body(vec![1; 512]), 403, "AuthorizationPermissionMismatch").await;
    refused(s.client.delete(&url), 403, "AuthorizationPermissionMismatch").await;
}

/// Of 512 zeros.
const ZEROS_MD5: &str = "v2GerAzfP2jUluqTRBN+iw==";

/// Through the proxy the account is a host label, with the zone that such URLs have.
#[tokio::test]
async fn accounts_are_host_names_behind_the_proxy() {
    let s = Session::start().await;
    let pem = std::fs::read(&s.world.running.ca_file).unwrap();
    let ca = reqwest::Certificate::from_pem(&pem).unwrap();
    let proxy = format!("http://{}", s.world.running.proxy_address.unwrap());
    let proxy = reqwest::Proxy::https(&proxy).unwrap();
    let client = Client::builder().tls_certs_only([ca]).proxy(proxy).build().unwrap();
    let rest = s.url.split_once(UPLOAD).unwrap().1;
    for suffix in ["z01.blob.core.windows.net", "z01.blob.storage.azure.net", "blob.core.chinacloudapi.cn"] {
        let head = sent(client.head(format!("https://{UPLOAD}.{suffix}{rest}")), 200).await;
        assert_eq!(header(&head, "content-length"), SIZE.to_string());
    }
}
