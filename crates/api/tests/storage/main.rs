//! Storage accounts over TLS, signed with shared keys and SAS, as their clients speak to them. What the clients themselves do
//! is in the compatibility tests.

use http::StatusCode;
use lazuli_api::{Running, ServeConfig, StoragePlane, serve};
use lazuli_arm::ApiVersion;
use lazuli_authz::sas::{Target, sign_service};
use lazuli_authz::shared_key::{Request, Scheme, authorization};
use lazuli_engine::call::{Call, Caller, Urls};
use lazuli_engine::{Bootstrap, Engine, EngineConfig};
use reqwest::{Client, Method, RequestBuilder, Response};
use serde_json::json;
use std::sync::Arc;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

const ACCOUNT: &str = "acct1";
const VERSION: &str = "2021-12-02";

struct World {
    client: Client,
    running: Running,
    key: Vec<u8>,
    _dir: TempDir,
}

impl World {
    async fn start() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let dir = TempDir::new().unwrap();
        let engine = Engine::open(EngineConfig::local(dir.path())).await.unwrap();
        let owner = Bootstrap::generate().unwrap();
        engine.bootstrap(&owner).await.unwrap();
        let call = Call {
            caller: Caller {
                tenant: owner.tenant_id,
                principal: owner.object_id,
                app_id: owner.client_id,
                display_name: "owner".into(),
                ..Caller::default()
            },
            urls: Urls { arm: "https://127.0.0.1:1".into(), blob_suffix: None },
            api_version: ApiVersion::parse(Some("2024-03-03")).unwrap(),
            correlation_id: "c".into(),
            query: Default::default(),
            if_match: None,
            if_none_match: None,
        };
        let group = format!("/subscriptions/{}/resourceGroups/rg1", owner.subscription_id);
        engine.put(&call, &group.parse().unwrap(), json!({"location": "eastus"})).await.unwrap();
        let id = format!("{group}/providers/Microsoft.Storage/storageAccounts/{ACCOUNT}");
        let body = json!({"location": "eastus", "kind": "StorageV2", "sku": {"name": "Standard_LRS"},
            "properties": {"allowBlobPublicAccess": true}});
        engine.put(&call, &id.parse().unwrap(), body).await.unwrap();
        let key = engine.storage_account(ACCOUNT).await.unwrap().unwrap().keys[0].as_ref().to_vec();
        let mut config = ServeConfig::new(dir.path(), Arc::new(engine.clone()));
        config.blobs = Some(Arc::new(StoragePlane::new(engine)));
        config.proxy_listen = Some(([127, 0, 0, 1], 0).into());
        let running = serve(config, CancellationToken::new()).await.unwrap();
        let pem = std::fs::read(&running.ca_file).unwrap();
        let ca = reqwest::Certificate::from_pem(&pem).unwrap();
        let client = Client::builder().tls_certs_only([ca]).no_proxy().build().unwrap();
        Self { client, running, key, _dir: dir }
    }

    fn plain(&self, method: Method, path: &str) -> RequestBuilder {
        let url = format!("{}/{ACCOUNT}{path}", self.running.base_url);
        self.client.request(method, url).header("x-ms-version", VERSION)
    }

    /// Sent with a signature of the account's key.
    async fn send(&self, request: RequestBuilder, status: u16) -> Response {
        let date = jiff::Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        let mut request = request.header("x-ms-date", date).build().unwrap();
        let length = request.body().and_then(|b| b.as_bytes()).map_or(0, <[u8]>::len);
        request.headers_mut().insert("content-length", length.to_string().parse().unwrap());
        let headers: Vec<(&str, &str)> =
            request.headers().iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        let signed = Request {
            method: request.method().as_str(),
            path: request.url().path(),
            query: request.url().query().unwrap_or_default(),
            headers: &headers,
        };
        let value = authorization(Scheme::SharedKey, ACCOUNT, &signed, &self.key);
        request.headers_mut().insert("authorization", value.parse().unwrap());
        expect(self.client.execute(request).await.unwrap(), status).await
    }

    async fn refused(&self, request: RequestBuilder, status: u16, code: &str) -> String {
        let response = self.send(request, status).await;
        assert_eq!(header(&response, "x-ms-error-code"), code);
        let text = response.text().await.unwrap();
        assert!(text.contains(&format!("<Code>{code}</Code>")), "{text}");
        text
    }

    async fn container(&self, name: &str) {
        self.send(self.plain(Method::PUT, &format!("/{name}?restype=container")), 201).await;
    }

    fn sas(&self, blob: Option<&str>, permissions: &str) -> String {
        let target = Target { account: ACCOUNT, container: "cont", blob, snapshot: None };
        let fields = [
            ("sv", VERSION),
            ("sr", if blob.is_some() { "b" } else { "c" }),
            ("sp", permissions),
            ("se", "2999-01-01T00:00:00Z"),
        ];
        sign_service(&fields, &target, &self.key).unwrap()
    }
}

async fn expect(response: Response, status: u16) -> Response {
    if response.status() != StatusCode::from_u16(status).unwrap() {
        let shown = format!("{response:?}");
        panic!("{status} expected: {shown}\n{}", response.text().await.unwrap());
    }
    response
}

fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response.headers().get(name).unwrap_or_else(|| panic!("no {name}: {response:?}")).to_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_of_all_kinds_with_a_shared_key() {
    let w = World::start().await;
    w.container("cont").await;
    let twice = w.plain(Method::PUT, "/cont?restype=container");
    w.refused(twice, 409, "ContainerAlreadyExists").await;
    let block = w.plain(Method::PUT, "/cont/d%2Fa%20b.txt").header("x-ms-blob-type", "BlockBlob");
    let made = w.send(block.header("content-type", "text/plain").header("x-ms-meta-k", "v").body("hello"), 201).await;
    assert_eq!(header(&made, "content-md5"), "XUFAKrxLKna5cZ2REBfFkg==");
    assert_eq!(header(&made, "x-ms-version"), VERSION);
    let got = w.send(w.plain(Method::GET, "/cont/d/a%20b.txt").header("x-ms-range", "bytes=1-3"), 206).await;
    for (name, value) in [
        ("content-range", "bytes 1-3/5"),
        ("content-type", "text/plain"),
        ("x-ms-meta-k", "v"),
        ("x-ms-blob-type", "BlockBlob"),
        ("x-ms-access-tier", "Hot"),
        ("x-ms-lease-state", "available"),
        ("x-ms-blob-content-md5", "XUFAKrxLKna5cZ2REBfFkg=="),
    ] {
        assert_eq!(header(&got, name), value);
    }
    let etag = header(&got, "etag").to_owned();
    assert_eq!(got.bytes().await.unwrap().as_ref(), b"ell");
    let same = w.plain(Method::GET, "/cont/d/a%20b.txt").header("if-none-match", etag);
    w.send(same, 304).await;
    w.refused(w.plain(Method::GET, "/cont/d/a%20b.txt").header("range", "bytes=5-"), 416, "InvalidRange").await;
    let corrupt = w.plain(Method::PUT, "/cont/x").header("x-ms-blob-type", "BlockBlob");
    let corrupt = corrupt.header("content-md5", "1B2M2Y8AsgTpgAmY7PhCfg==").body("hello");
    w.refused(corrupt, 400, "Md5Mismatch").await;
    w.refused(w.plain(Method::GET, "/cont/x"), 404, "BlobNotFound").await;
    w.refused(w.plain(Method::GET, "/none/x"), 404, "ContainerNotFound").await;

    let page = w.plain(Method::PUT, "/cont/p").header("x-ms-blob-type", "PageBlob");
    w.send(page.header("x-ms-blob-content-length", 4096), 201).await;
    let put = |body: Vec<u8>| {
        let put = w.plain(Method::PUT, "/cont/p?comp=page").header("x-ms-page-write", "update");
        put.header("x-ms-range", "bytes=512-1023").body(body)
    };
    let done = w.send(put(vec![1; 512]), 201).await;
    header(&done, "x-ms-content-crc64");
    assert_eq!(header(&done, "x-ms-blob-sequence-number"), "0");
    w.refused(put(vec![1; 511]), 416, "InvalidPageRange").await;
    let list = w.send(w.plain(Method::GET, "/cont/p?comp=pagelist"), 200).await;
    assert_eq!(header(&list, "x-ms-blob-content-length"), "4096");
    assert!(list.text().await.unwrap().contains("<PageRange><Start>512</Start><End>1023</End></PageRange>"));
    w.refused(w.plain(Method::PUT, "/cont/p?comp=block&blockid=AAAA").body("x"), 409, "InvalidBlobType").await;

    let append = w.plain(Method::PUT, "/cont/a").header("x-ms-blob-type", "AppendBlob");
    w.send(append, 201).await;
    let appended = w.send(w.plain(Method::PUT, "/cont/a?comp=appendblock").body("one"), 201).await;
    assert_eq!(header(&appended, "x-ms-blob-append-offset"), "0");

    let text =
        w.send(w.plain(Method::GET, "/cont?restype=container&comp=list&delimiter=/"), 200).await.text().await.unwrap();
    assert!(text.contains("<BlobPrefix><Name>d/</Name></BlobPrefix>"), "{text}");
    assert!(text.contains("<BlobType>AppendBlob</BlobType>") && text.contains("<Name>p</Name>"), "{text}");
    let copy = w
        .plain(Method::PUT, "/cont/copy")
        .header("x-ms-copy-source", format!("{}/{ACCOUNT}/cont/p", w.running.base_url));
    assert_eq!(header(&w.send(copy, 202).await, "x-ms-copy-status"), "success");
    let foreign = w.plain(Method::PUT, "/cont/copy").header("x-ms-copy-source", "https://example.com/acct1/cont/p");
    w.refused(foreign, 404, "CannotVerifyCopySource").await;
    w.send(w.plain(Method::DELETE, "/cont/p"), 202).await;
    assert_eq!(w.send(w.plain(Method::GET, "/cont/copy"), 200).await.bytes().await.unwrap().len(), 4096);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_do_what() {
    let w = World::start().await;
    w.container("cont").await;
    let put = |path: &str| w.plain(Method::PUT, path).header("x-ms-blob-type", "BlockBlob").body("hello");
    w.send(put("/cont/b"), 201).await;
    let code = |response: Response| {
        let code = response.headers().get("x-ms-error-code").map(|v| v.to_str().unwrap().to_owned());
        (response.status().as_u16(), code.unwrap_or_default())
    };
    let refused = |status: u16, code: &str| (status, code.to_owned());
    let nobody = w.plain(Method::GET, "/cont/b").send().await.unwrap();
    assert!(header(&nobody, "www-authenticate").starts_with("Bearer "));
    assert_eq!(code(nobody), refused(401, "NoAuthenticationInformation"));
    let forged = w.plain(Method::GET, "/cont/b").header("authorization", format!("SharedKey {ACCOUNT}:AAAA"));
    let forged = forged.header("x-ms-date", jiff::Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string());
    assert_eq!(code(forged.send().await.unwrap()), refused(403, "AuthenticationFailed"));
    let strange = w.plain(Method::GET, "/cont/b").header("authorization", "Basic eDp5");
    assert_eq!(code(strange.send().await.unwrap()), refused(400, "InvalidAuthenticationInfo"));

    let with = |method: Method, path: &str, sas: &str| w.plain(method, &format!("{path}?{sas}"));
    let read = w.sas(Some("b"), "r");
    assert_eq!(with(Method::GET, "/cont/b", &read).send().await.unwrap().status(), 200);
    assert_eq!(
        code(with(Method::GET, "/cont/other", &read).send().await.unwrap()),
        refused(403, "AuthenticationFailed")
    );
    let delete = with(Method::DELETE, "/cont/b", &read).send().await.unwrap();
    assert_eq!(code(delete), refused(403, "AuthorizationPermissionMismatch"));
    let create = w.sas(None, "c");
    let make = |path: &str| with(Method::PUT, path, &create).header("x-ms-blob-type", "BlockBlob").body("x").send();
    assert_eq!(make("/cont/new").await.unwrap().status(), 201);
    assert_eq!(code(make("/cont/new").await.unwrap()), refused(403, "UnauthorizedBlobOverwrite"));
    let list = format!("/cont?restype=container&comp=list&{}", w.sas(None, "l"));
    assert_eq!(w.plain(Method::GET, &list).send().await.unwrap().status(), 200);
    let acl = format!("/cont?restype=container&comp=acl&{}", w.sas(None, "rwdl"));
    assert_eq!(code(w.plain(Method::GET, &acl).send().await.unwrap()), refused(403, "AuthorizationPermissionMismatch"));

    // A stored policy gives what the URL leaves out, and takes it back.
    let policies = "<SignedIdentifiers><SignedIdentifier><Id>p</Id><AccessPolicy><Expiry>2999-01-01</Expiry>\
                    <Permission>r</Permission></AccessPolicy></SignedIdentifier></SignedIdentifiers>";
    let acl = || w.plain(Method::PUT, "/cont?restype=container&comp=acl");
    w.send(acl().body(policies), 200).await;
    let shown = w.send(w.plain(Method::GET, "/cont?restype=container&comp=acl"), 200).await.text().await.unwrap();
    assert!(shown.contains("<Id>p</Id>") && shown.contains("<Permission>r</Permission>"), "{shown}");
    let target = Target { account: ACCOUNT, container: "cont", blob: Some("b"), snapshot: None };
    let stored = sign_service(&[("sv", VERSION), ("sr", "b"), ("si", "p")], &target, &w.key).unwrap();
    assert_eq!(with(Method::GET, "/cont/b", &stored).send().await.unwrap().status(), 200);
    w.send(acl().header("x-ms-blob-public-access", "blob"), 200).await;
    assert_eq!(code(with(Method::GET, "/cont/b", &stored).send().await.unwrap()), refused(403, "AuthenticationFailed"));
    // Blobs of a public container are everybody's to read, its list is not.
    assert_eq!(w.plain(Method::GET, "/cont/b").send().await.unwrap().status(), 200);
    let list = w.plain(Method::GET, "/cont?restype=container&comp=list").send().await.unwrap();
    assert_eq!(code(list), refused(401, "NoAuthenticationInformation"));
    let write = put("/cont/b").send().await.unwrap();
    assert_eq!(code(write), refused(401, "NoAuthenticationInformation"));
    let other = w.client.get(format!("{}/nosuchaccount/cont/b", w.running.base_url)).send().await.unwrap();
    assert_eq!(code(other), refused(404, "ResourceNotFound"));
}

/// A SAS that was altered in any of what it says is none; so is one that is used where it does not reach.
#[tokio::test(flavor = "multi_thread")]
async fn an_altered_sas_opens_nothing() {
    let w = World::start().await;
    w.container("cont").await;
    w.container("other").await;
    for path in ["/cont/b", "/cont/c", "/other/b"] {
        w.send(w.plain(Method::PUT, path).header("x-ms-blob-type", "BlockBlob").body("hello"), 201).await;
    }
    let sas = w.sas(Some("b"), "r");
    let field = |name: &str| sas.split('&').find(|f| f.starts_with(&format!("{name}="))).unwrap().to_owned();
    assert_eq!(w.plain(Method::GET, &format!("/cont/b?{sas}")).send().await.unwrap().status(), 200);
    for (what, altered) in [
        ("permissions", sas.replace(&field("sp"), "sp=rwdl")),
        ("scope", sas.replace(&field("sr"), "sr=c")),
        ("end", sas.replace(&field("se"), "se=2998-01-01T00%3A00%3A00Z")),
        ("start", format!("{sas}&st=2020-01-01T00%3A00%3A00Z")),
        ("version", sas.replace(&field("sv"), "sv=2020-10-02")),
        ("signature", sas.replace(&field("sig"), &format!("sig=AAAA{}", &field("sig")[8..]))),
        ("protocol", format!("{sas}&spr=https")),
        ("address", format!("{sas}&sip=127.0.0.1")),
    ] {
        assert_ne!(altered, sas, "{what}");
        let answer = w.plain(Method::GET, &format!("/cont/b?{altered}")).send().await.unwrap();
        assert_eq!(
            (answer.status().as_u16(), header(&answer, "x-ms-error-code")),
            (403, "AuthenticationFailed"),
            "{what}"
        );
        let message = answer.text().await.unwrap();
        assert!(!message.contains("hello") && !message.contains(&field("sig")), "{what}: {message}");
    }
    for path in ["/cont/c", "/other/b", "/cont/B", "/cont/b%2F..%2Fc", "/cont/x/../c"] {
        let answer = w.plain(Method::GET, &format!("{path}?{sas}")).send().await.unwrap();
        assert!([403, 404].contains(&answer.status().as_u16()), "{path}: {}", answer.status());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_leases_and_what_is_not_there() {
    let w = World::start().await;
    w.container("cont").await;
    let block = |id: &str| w.plain(Method::PUT, &format!("/cont/b?comp=block&blockid={id}")).body(id.to_owned());
    for id in ["AAAA", "BBBB"] {
        w.send(block(id), 201).await;
    }
    let all = || w.plain(Method::GET, "/cont/b?comp=blocklist&blocklisttype=all");
    let lists = w.send(all(), 200).await.text().await.unwrap();
    assert!(lists.contains("<CommittedBlocks></CommittedBlocks><UncommittedBlocks><Block><Name>AAAA"), "{lists}");
    let commit = |list: &str| {
        let body = format!("<?xml version=\"1.0\"?><BlockList>{list}</BlockList>");
        w.plain(Method::PUT, "/cont/b?comp=blocklist").header("x-ms-blob-content-type", "text/plain").body(body)
    };
    w.refused(commit("<Latest>CCCC</Latest>"), 400, "InvalidBlockList").await;
    w.refused(commit("<Latest>"), 400, "InvalidXmlDocument").await;
    w.send(commit("<Uncommitted>BBBB</Uncommitted><Latest>AAAA</Latest>"), 201).await;
    let got = w.send(w.plain(Method::GET, "/cont/b"), 200).await;
    assert_eq!(header(&got, "content-type"), "text/plain");
    assert_eq!(got.text().await.unwrap(), "BBBBAAAA");

    let lease =
        |action: &str| w.plain(Method::PUT, "/cont/b?comp=lease").header("x-ms-lease-action", action.to_owned());
    let got = w.send(lease("acquire").header("x-ms-lease-duration", "15"), 201).await;
    let id = header(&got, "x-ms-lease-id").to_owned();
    w.refused(lease("acquire").header("x-ms-lease-duration", "15"), 409, "LeaseAlreadyPresent").await;
    w.refused(lease("acquire").header("x-ms-lease-duration", "14"), 400, "InvalidHeaderValue").await;
    w.refused(w.plain(Method::DELETE, "/cont/b"), 412, "LeaseIdMissing").await;
    let head = w.send(w.plain(Method::HEAD, "/cont/b"), 200).await;
    assert_eq!((header(&head, "x-ms-lease-state"), header(&head, "x-ms-lease-duration")), ("leased", "fixed"));
    let broken = w.send(lease("break").header("x-ms-lease-break-period", "0"), 202).await;
    assert_eq!(header(&broken, "x-ms-lease-time"), "0");
    w.refused(lease("renew").header("x-ms-lease-id", &id), 409, "LeaseIsBrokenAndCannotBeRenewed").await;
    let snapshot = w.send(w.plain(Method::PUT, "/cont/b?comp=snapshot"), 201).await;
    let time = header(&snapshot, "x-ms-snapshot").to_owned();
    w.refused(w.plain(Method::DELETE, "/cont/b"), 409, "SnapshotsPresent").await;
    assert_eq!(
        w.send(w.plain(Method::GET, &format!("/cont/b?snapshot={time}")), 200).await.text().await.unwrap(),
        "BBBBAAAA"
    );
    w.send(w.plain(Method::DELETE, "/cont/b").header("x-ms-delete-snapshots", "include"), 202).await;

    for (method, path, status, code) in [
        (Method::PUT, "/cont/b?comp=undelete", 400, "UnsupportedQueryParameter"),
        (Method::POST, "/?comp=batch", 400, "UnsupportedQueryParameter"),
        (Method::PUT, "/cont/b", 400, "MissingRequiredHeader"),
        (Method::PUT, "/-bad-?restype=container", 400, "InvalidResourceName"),
        (Method::GET, "/cont?restype=container&comp=list&maxresults=0", 400, "InvalidQueryParameterValue"),
    ] {
        w.refused(w.plain(method, path), status, code).await;
    }
    let info = w.send(w.plain(Method::GET, "/?restype=account&comp=properties"), 200).await;
    assert_eq!((header(&info, "x-ms-sku-name"), header(&info, "x-ms-account-kind")), ("Standard_LRS", "StorageV2"));
    let cors = "<StorageServiceProperties><Cors><CorsRule><AllowedOrigins>*</AllowedOrigins></CorsRule></Cors></StorageServiceProperties>";
    let set = |body: &str| w.plain(Method::PUT, "/?restype=service&comp=properties").body(body.to_owned());
    w.refused(set(cors), 400, "UnsupportedXmlNode").await;
    let now = w.send(w.plain(Method::GET, "/?restype=service&comp=properties"), 200).await.text().await.unwrap();
    w.send(set(&now), 202).await;
}
