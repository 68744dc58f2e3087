//! A served engine with a resource of each kind in one tenant, and callers who may not see any of them.

use lazuli_api::{Running, ServeConfig, StoragePlane, serve};
use lazuli_authz::sas::{Target, sign_service};
use lazuli_engine::base_images::StoredImages;
use lazuli_engine::{Bootstrap, Engine, EngineConfig, RegionStores};
use lazuli_meta::Db;
use lazuli_vmm::host::{Host, HostConfig};
use lazuli_vmm::hypervisor::Fake;
use reqwest::{Client, Method, Response};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio_util::sync::{CancellationToken, DropGuard};

/// In the tags, descriptions and bytes of everything that is the owner's.
pub const SECRET: &str = "for-the-owner-alone";
const API: &str = "api-version=2024-03-03";
const ARM: &str = "https://management.azure.com//.default";
const GRAPH: &str = "https://graph.microsoft.com/.default";
const STORAGE: &str = "https://storage.azure.com/.default";

struct Tokens {
    arm: String,
    storage: String,
    graph: String,
}

pub struct World {
    pub engine: Engine,
    pub client: Client,
    pub subscription: String,
    pub tenant: String,
    /// Of the whole tenant.
    pub owner: String,
    /// Object id of the owner, and the id of the role Owner.
    pub owner_object: String,
    pub owner_role: String,
    pub owner_storage: String,
    pub owner_graph: String,
    /// Owner of a subscription in another tenant.
    pub foreign: String,
    pub foreign_storage: String,
    pub foreign_graph: String,
    /// A client of the same tenant without any role.
    pub nobody: String,
    pub nobody_storage: String,
    pub nobody_graph: String,
    pub nobody_object: String,
    /// Of the right form, signed by somebody else.
    pub forged: String,
    pub forged_graph: String,
    pub operation: String,
    /// What is in the owner's directory: object ids by their sets (`users`, …), `federated`.
    pub directory: BTreeMap<&'static str, String>,
    pub running: Running,
    pub db: Db,
    _dir: TempDir,
    _guard: DropGuard,
}

/// The path of a route with the names of what is there. A place whose name is not known here is a defect: nobody would be kept from
/// anything there.
pub fn names(path: &str, w: &World) -> String {
    let mut path = path
        .replace("{subscription}", &w.subscription)
        .replace("{managementGroup}", &w.tenant)
        .replace("{group}", "rg1")
        .replace("{operation}", &w.operation)
        .replace("{location}", "eastus")
        .replace("{id}", "11111111-0000-4000-8000-000000000001")
        .replace("{shared}", &format!("{}-GALLERY", w.subscription))
        // Machines of scale sets are numbered.
        .replace("{virtualMachineScaleSets}/virtualMachines/{virtualMachines}", "set/virtualMachines/0");
    for (word, name) in EXTENSION {
        path = path.replace(word, name);
    }
    for (word, name) in NAMES {
        path = path.replace(&format!("{{{word}}}"), name);
    }
    assert!(!path.contains('{'), "{path}: put one into the world (populate.rs), and its name into NAMES");
    path
}

const NAMES: [(&str, &str); 37] = [
    ("disks", "disk"),
    ("snapshots", "snapshot"),
    ("diskAccesses", "access"),
    ("availabilitySets", "available"),
    ("galleries", "gallery"),
    ("images", "image"),
    ("versions", "1.0.0"),
    ("applications", "app"),
    ("storageAccounts", "ownersaccount"),
    ("blobServices", "default"),
    ("containers", "data"),
    ("virtualNetworks", "net"),
    ("subnets", "subnet"),
    ("networkInterfaces", "nic"),
    ("networkSecurityGroups", "nsg"),
    ("securityRules", "rule"),
    ("publicIPAddresses", "ip"),
    ("deployments", "deployment"),
    ("platformImages", "p:o:s:1.0.0"),
    ("virtualMachines", "machine"),
    ("userAssignedIdentities", "identity"),
    ("federatedIdentityCredentials", "federated"),
    ("virtualMachineScaleSets", "set"),
    ("rollingUpgrades", "latest"),
    ("extensions", "script"),
    ("imageTemplates", "template"),
    ("triggers", "trigger"),
    ("runOutputs", "output"),
    // There are no private endpoints that could have made one.
    ("privateEndpointConnections", "none"),
    ("softDeletedArtifactTypes", "Images"),
    ("artifacts", "gone"),
    ("namespace", "Microsoft.Compute"),
    ("zone", "zone"),
    ("publisher", "p"),
    ("offer", "o"),
    ("sku", "s"),
    ("version", "1.0.0"),
];
/// Of extensions there is one kind, which the server brings along.
const EXTENSION: [(&str, &str); 3] = [
    ("{extensionPublisher}", "Microsoft.Azure.Extensions"),
    ("{extensionType}", "CustomScript"),
    ("{extensionVersion}", "2.1.10"),
];

impl World {
    pub async fn start() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let dir = TempDir::new().unwrap();
        let settings = EngineConfig::local(dir.path());
        let db = Db::open(&settings.database).await.unwrap();
        let engine = Engine::open(settings).await.unwrap();
        let owner = Bootstrap::generate().unwrap();
        engine.bootstrap(&owner).await.unwrap();
        engine.grant_role(&owner.client_id, "Storage Blob Data Owner", &owner.subscription_id).await.unwrap();
        engine.grant_role(&owner.client_id, "Owner", "/").await.unwrap();
        let other = engine.create_tenant("other").await.unwrap().id;
        let theirs = engine.create_subscription(&other, "theirs").await.unwrap().id;
        let foreign = engine.create_client(&other, "foreign", None).await.unwrap();
        engine.grant_role(&foreign.client_id, "Owner", &theirs).await.unwrap();
        let nobody = engine.create_client(&owner.tenant_id, "nobody", None).await.unwrap();

        let stop = CancellationToken::new();
        let (worker, stopped) = (engine.clone(), stop.clone());
        tokio::spawn(async move { worker.run(stopped).await });
        let images = StoredImages::new(RegionStores::new(dir.path().join("regions"), BTreeMap::new()), 1 << 20);
        let host = HostConfig::new(dir.path().join("host"), Arc::new(images), Arc::new(Fake::default()));
        tokio::spawn(Host::run(host, stop.clone()));
        let mut config = ServeConfig::new(dir.path(), Arc::new(engine.clone()));
        config.blobs = Some(Arc::new(StoragePlane::new(engine.clone())));
        config.directory = Some(engine.clone());
        let running = serve(config, stop.clone()).await.unwrap();
        let ca = reqwest::Certificate::from_pem(&std::fs::read(&running.ca_file).unwrap()).unwrap();
        let client = Client::builder().tls_certs_only([ca]).no_proxy().build().unwrap();

        let tokens = async |tenant: &str, id: &str, secret: &str| {
            let of = async |scope: &str| token(&client, &running.base_url, tenant, id, secret, scope).await;
            Tokens { arm: of(ARM).await, storage: of(STORAGE).await, graph: of(GRAPH).await }
        };
        let secret = |secret: &Option<String>| secret.clone().unwrap();
        let owners = tokens(&owner.tenant_id, &owner.client_id, &owner.client_secret).await;
        let foreigns = tokens(&other, &foreign.client_id, &secret(&foreign.client_secret)).await;
        let nobodys = tokens(&owner.tenant_id, &nobody.client_id, &secret(&nobody.client_secret)).await;
        let forged = |token: &str| format!("{}.{}", token.rsplit_once('.').unwrap().0, "A".repeat(342));
        let mut world = Self {
            engine,
            client: client.clone(),
            subscription: owner.subscription_id.clone(),
            tenant: owner.tenant_id.clone(),
            forged: forged(&owners.arm),
            forged_graph: forged(&owners.graph),
            owner: owners.arm,
            owner_graph: owners.graph,
            owner_object: owner.object_id,
            owner_role: format!(
                "/subscriptions/{}/providers/Microsoft.Authorization/roleDefinitions/{}",
                owner.subscription_id,
                lazuli_authz::rbac::OWNER
            ),
            owner_storage: owners.storage,
            foreign: foreigns.arm,
            foreign_storage: foreigns.storage,
            foreign_graph: foreigns.graph,
            nobody: nobodys.arm,
            nobody_storage: nobodys.storage,
            nobody_graph: nobodys.graph,
            nobody_object: nobody.object_id.clone(),
            operation: String::new(),
            directory: BTreeMap::new(),
            db,
            running,
            _dir: dir,
            _guard: stop.drop_guard(),
        };
        world.populate().await;
        world
    }

    /// A request to the management endpoint; an empty token: none.
    pub async fn arm(&self, method: &str, path: &str, token: &str, body: Option<Value>) -> Response {
        let mark = if path.contains('?') { '&' } else { '?' };
        let url = format!("{}{path}{mark}{API}", self.running.base_url);
        let mut request = self.client.request(method.parse().unwrap(), url);
        if !token.is_empty() {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        request.send().await.unwrap()
    }

    /// A request to the directory, below its version.
    pub async fn graph(&self, method: &str, path: &str, token: &str, body: Option<Value>) -> Response {
        let url = format!("{}/graph/v1.0/{path}", self.running.base_url);
        let mut request = self.client.request(method.parse().unwrap(), url).bearer_auth(token);
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        request.send().await.unwrap()
    }

    /// A request to the owner's storage account, or to another one.
    pub async fn blob(&self, method: Method, path: &str, token: &str) -> Response {
        let url = format!("{}/ownersaccount{path}", self.running.base_url);
        let mut request = self.client.request(method, url).header("x-ms-version", "2021-12-02");
        if !token.is_empty() {
            request = request.bearer_auth(token);
        }
        request.send().await.unwrap()
    }

    /// A service SAS that allows everything, signed with a key that is not the account's.
    pub fn foreign_sas(&self) -> String {
        let target = Target { account: "ownersaccount", container: "data", blob: None, snapshot: None };
        let fields = [("sv", "2021-12-02"), ("sr", "c"), ("sp", "racwdl"), ("se", "2999-01-01T00:00:00Z")];
        sign_service(&fields, &target, &[7; 64]).unwrap()
    }

    pub async fn disk_sas(&self) -> String {
        let path = self.compute("disks/disk/beginGetAccess");
        let body = json!({"access": "Read", "durationInSeconds": 3600});
        let accepted = self.arm("POST", &path, &self.owner, Some(body)).await;
        let poll = accepted.headers()["azure-asyncoperation"].to_str().unwrap().to_owned();
        let done = self.poll(&poll).await;
        done["properties"]["output"]["accessSAS"].as_str().unwrap_or_else(|| panic!("{done}")).to_owned()
    }

    /// Every row as the owner sees it.
    pub async fn everything(&self) -> Value {
        let path = format!("/subscriptions/{}/resources", self.subscription);
        let resources = self.arm("GET", &path, &self.owner, None).await.text().await.unwrap();
        let mut all = vec![resources];
        for (list, below) in [("roleAssignments", "Authorization"), ("locks", "Authorization")] {
            let path = format!("/subscriptions/{}/providers/Microsoft.{below}/{list}", self.subscription);
            all.push(self.arm("GET", &path, &self.owner, None).await.text().await.unwrap());
        }
        all.push(self.arm("GET", &self.compute("disks/disk"), &self.owner, None).await.text().await.unwrap());
        all.push(self.arm("GET", &self.compute("galleries/gallery"), &self.owner, None).await.text().await.unwrap());
        json!(all)
    }

    /// The path of an operation of the directory with the names of what is there.
    pub fn object(&self, path: &str) -> String {
        let named =
            self.directory.iter().fold(path.to_owned(), |path, (word, id)| path.replace(&format!("{{{word}}}"), id));
        assert!(!named.contains('{'), "{path}: put one into the directory (populate.rs)");
        named
    }

    /// The directory as its administrator sees it.
    pub async fn whole_directory(&self) -> Vec<String> {
        let mut all = Vec::new();
        let group = &self.directory["groups"];
        for path in ["users", "groups", "applications", "servicePrincipals", &format!("groups/{group}/members")] {
            all.push(self.graph("GET", path, &self.owner_graph, None).await.text().await.unwrap());
        }
        all
    }

    pub fn compute(&self, below: &str) -> String {
        self.path("Compute", below)
    }

    pub fn path(&self, namespace: &str, below: &str) -> String {
        format!("/subscriptions/{}/resourceGroups/rg1/providers/Microsoft.{namespace}/{below}", self.subscription)
    }

    pub async fn poll(&self, url: &str) -> Value {
        let begin = Instant::now();
        loop {
            let answer = self.client.get(url).bearer_auth(&self.owner).send().await.unwrap();
            let accepted = answer.status() == 202;
            let body: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap_or_default();
            if !accepted && body["status"] != "InProgress" && body["status"] != "Running" {
                return body;
            }
            assert!(begin.elapsed() < Duration::from_secs(60), "{url} does not end");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Puts and waits; the id of its operation, if it has one.
    pub async fn put(&self, path: &str, mut body: Value) -> Option<String> {
        body["location"] = json!("eastus");
        body["tags"] = json!({"secret": SECRET});
        self.put_plain(path, body).await
    }

    pub async fn put_plain(&self, path: &str, body: Value) -> Option<String> {
        let answer = self.arm("PUT", path, &self.owner, Some(body)).await;
        self.done(answer).await
    }

    /// Waits for what was accepted; the id of its operation, if it has one.
    pub async fn done(&self, answer: Response) -> Option<String> {
        let (status, path) = (answer.status(), answer.url().path().to_owned());
        let poll = answer.headers().get("azure-asyncoperation").or(answer.headers().get("location"));
        let poll = poll.map(|url| url.to_str().unwrap().to_owned());
        assert!(status.is_success(), "{path}: {status} {}", answer.text().await.unwrap());
        let poll = poll?;
        let done = self.poll(&poll).await;
        assert!(done["error"].is_null(), "{path}: {done}");
        let (address, _) = poll.split_once('?').unwrap_or((&poll, ""));
        address.rsplit('/').next().map(str::to_owned)
    }
}

async fn token(client: &Client, base: &str, tenant: &str, id: &str, secret: &str, scope: &str) -> String {
    let form = url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs([
            ("grant_type", "client_credentials"),
            ("client_id", id),
            ("client_secret", secret),
            ("scope", scope),
        ])
        .finish();
    let request = client.post(format!("{base}/{tenant}/oauth2/v2.0/token"));
    let request = request.header("content-type", "application/x-www-form-urlencoded").body(form);
    let answer: Value = serde_json::from_str(&request.send().await.unwrap().text().await.unwrap()).unwrap();
    answer["access_token"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}
