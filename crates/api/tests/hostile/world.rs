//! A served engine with a resource of each kind in one tenant, and callers who may not see any of them.

use lazuli_api::{Running, ServeConfig, StoragePlane, serve};
use lazuli_authz::sas::{Target, sign_service};
use lazuli_engine::{Bootstrap, Engine, EngineConfig};
use reqwest::{Client, Method, Response};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio_util::sync::{CancellationToken, DropGuard};

/// In the tags, descriptions and bytes of everything that is the owner's.
pub const SECRET: &str = "for-the-owner-alone";
const API: &str = "api-version=2024-03-03";
const ARM: &str = "https://management.azure.com//.default";
const STORAGE: &str = "https://storage.azure.com/.default";

pub struct World {
    pub engine: Engine,
    pub client: Client,
    pub subscription: String,
    pub owner: String,
    /// Object id of the owner, and the id of the role Owner.
    pub owner_object: String,
    pub owner_role: String,
    pub owner_storage: String,
    /// Owner of a subscription in another tenant.
    pub foreign: String,
    pub foreign_storage: String,
    /// A client of the same tenant without any role.
    pub nobody: String,
    pub nobody_storage: String,
    pub nobody_object: String,
    /// Of the right form, signed by somebody else.
    pub forged: String,
    pub operation: String,
    pub running: Running,
    _dir: TempDir,
    _guard: DropGuard,
}

/// The path of a route with the names of what is there.
pub fn names(path: &str, w: &World) -> String {
    let mut path = path
        .replace("{subscription}", &w.subscription)
        .replace("{group}", "rg1")
        .replace("{operation}", &w.operation)
        .replace("{location}", "eastus")
        .replace("{id}", "11111111-0000-4000-8000-000000000001")
        .replace("{shared}", &format!("{}-GALLERY", w.subscription));
    for (word, name) in NAMES {
        path = path.replace(&format!("{{{word}}}"), name);
    }
    while let Some((before, rest)) = path.split_once('{') {
        let (_, after) = rest.split_once('}').expect("a closing brace");
        path = format!("{before}x{after}");
    }
    path
}

const NAMES: [(&str, &str); 20] = [
    ("disks", "disk"),
    ("snapshots", "snapshot"),
    ("diskAccesses", "access"),
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
];

impl World {
    pub async fn start() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let dir = TempDir::new().unwrap();
        let mut settings = EngineConfig::local(dir.path());
        // There is no host process: operations on machines give up soon.
        settings.host_time = Duration::from_secs(1);
        let engine = Engine::open(settings).await.unwrap();
        let owner = Bootstrap::generate().unwrap();
        engine.bootstrap(&owner).await.unwrap();
        engine.grant_role(&owner.client_id, "Storage Blob Data Owner", &owner.subscription_id).await.unwrap();
        let other = engine.create_tenant("other").await.unwrap().id;
        let theirs = engine.create_subscription(&other, "theirs").await.unwrap().id;
        let foreign = engine.create_client(&other, "foreign", None).await.unwrap();
        engine.grant_role(&foreign.client_id, "Owner", &theirs).await.unwrap();
        let nobody = engine.create_client(&owner.tenant_id, "nobody", None).await.unwrap();

        let stop = CancellationToken::new();
        let (worker, stopped) = (engine.clone(), stop.clone());
        tokio::spawn(async move { worker.run(stopped).await });
        let mut config = ServeConfig::new(dir.path(), Arc::new(engine.clone()));
        config.blobs = Some(Arc::new(StoragePlane::new(engine.clone())));
        let running = serve(config, stop.clone()).await.unwrap();
        let ca = reqwest::Certificate::from_pem(&std::fs::read(&running.ca_file).unwrap()).unwrap();
        let client = Client::builder().tls_certs_only([ca]).no_proxy().build().unwrap();

        let tokens = async |tenant: &str, id: &str, secret: &str| {
            let of = async |scope: &str| token(&client, &running.base_url, tenant, id, secret, scope).await;
            (of(ARM).await, of(STORAGE).await)
        };
        let secret = |secret: &Option<String>| secret.clone().unwrap();
        let (owners, owner_storage) = tokens(&owner.tenant_id, &owner.client_id, &owner.client_secret).await;
        let (foreigns, foreign_storage) = tokens(&other, &foreign.client_id, &secret(&foreign.client_secret)).await;
        let (nobodys, nobody_storage) =
            tokens(&owner.tenant_id, &nobody.client_id, &secret(&nobody.client_secret)).await;
        let (signed, _) = owners.rsplit_once('.').unwrap();
        let forged = format!("{signed}.{}", "A".repeat(342));
        let mut world = Self {
            engine,
            client: client.clone(),
            subscription: owner.subscription_id.clone(),
            owner: owners,
            owner_object: owner.object_id,
            owner_role: format!(
                "/subscriptions/{}/providers/Microsoft.Authorization/roleDefinitions/{}",
                owner.subscription_id,
                lazuli_authz::rbac::OWNER
            ),
            owner_storage,
            foreign: foreigns,
            foreign_storage,
            nobody: nobodys,
            nobody_storage,
            nobody_object: nobody.object_id.clone(),
            forged,
            operation: String::new(),
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

    fn compute(&self, below: &str) -> String {
        self.path("Compute", below)
    }

    fn path(&self, namespace: &str, below: &str) -> String {
        format!("/subscriptions/{}/resourceGroups/rg1/providers/Microsoft.{namespace}/{below}", self.subscription)
    }

    async fn poll(&self, url: &str) -> Value {
        let begin = Instant::now();
        loop {
            let answer = self.client.get(url).bearer_auth(&self.owner).send().await.unwrap();
            let body: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap_or_default();
            if body["status"] != "InProgress" && body["status"] != "Running" {
                return body;
            }
            assert!(begin.elapsed() < Duration::from_secs(60), "{url} does not end");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Puts and waits; the id of its operation, if it has one.
    async fn put(&self, path: &str, mut body: Value) -> Option<String> {
        body["location"] = json!("eastus");
        body["tags"] = json!({"secret": SECRET});
        self.put_plain(path, body).await
    }

    async fn put_plain(&self, path: &str, body: Value) -> Option<String> {
        let answer = self.arm("PUT", path, &self.owner, Some(body)).await;
        let status = answer.status();
        let poll = answer.headers().get("azure-asyncoperation").or(answer.headers().get("location"));
        let poll = poll.map(|url| url.to_str().unwrap().to_owned());
        assert!(status.is_success(), "{path}: {status} {}", answer.text().await.unwrap());
        let poll = poll?;
        let done = self.poll(&poll).await;
        assert!(done["error"].is_null(), "{path}: {done}");
        let (address, _) = poll.split_once('?').unwrap_or((&poll, ""));
        address.rsplit('/').next().map(str::to_owned)
    }

    async fn populate(&mut self) {
        let w = &*self;
        let link = |namespace: &str, below: &str| json!({"id": w.path(namespace, below)});
        w.put(&format!("/subscriptions/{}/resourceGroups/rg1", w.subscription), json!({})).await;
        let disk = json!({"sku": {"name": "Standard_LRS"}, "properties": {"osType": "Linux", "hyperVGeneration": "V2",
            "creationData": {"createOption": "Empty"}, "diskSizeGB": 1}});
        let operation = w.put(&w.compute("disks/disk"), disk).await.unwrap();
        w.put(
            &w.compute("snapshots/snapshot"),
            json!({"properties": {"creationData": {"createOption": "Copy", "sourceResourceId": w.compute("disks/disk")}}}),
        )
        .await;
        w.put(&w.compute("diskAccesses/access"), json!({})).await;
        w.put(
            &w.compute("images/image"),
            json!({"properties": {"hyperVGeneration": "V2", "storageProfile": {"osDisk": {"osType": "Linux",
                "osState": "Generalized", "managedDisk": link("Compute", "disks/disk")}}}}),
        )
        .await;
        w.put(
            &w.compute("galleries/gallery"),
            json!({"properties": {"description": SECRET, "sharingProfile": {"permissions": "Groups"}}}),
        )
        .await;
        let definition = json!({"properties": {"osType": "Linux", "osState": "Generalized", "hyperVGeneration": "V2",
            "identifier": {"publisher": "p", "offer": "o", "sku": "s"}}});
        w.put(&w.compute("galleries/gallery/images/image"), definition).await;
        let version =
            json!({"properties": {"storageProfile": {"osDiskImage": {"source": link("Compute", "disks/disk")}}}});
        w.put(&w.compute("galleries/gallery/images/image/versions/1.0.0"), version).await;
        let application = json!({"properties": {"supportedOSType": "Linux", "description": SECRET}});
        w.put(&w.compute("galleries/gallery/applications/app"), application).await;
        // With the owner's own subscription: no other sees it either.
        let groups = json!([{"type": "Subscriptions", "ids": [w.subscription]}]);
        let share = json!({"operationType": "Add", "groups": groups});
        let shared = w.arm("POST", &w.compute("galleries/gallery/share"), &w.owner, Some(share)).await;
        assert_eq!(shared.status(), 202);
        w.networks(&link).await;
        w.accounts().await;
        w.others(&link).await;
        self.operation = operation;
    }

    async fn networks(&self, link: &impl Fn(&str, &str) -> Value) {
        let at = |below: &str| self.path("Network", below);
        self.put(&at("networkSecurityGroups/nsg"), json!({})).await;
        let rule = json!({"properties": {"priority": 100, "access": "Allow", "protocol": "Tcp", "direction": "Inbound",
            "description": SECRET, "sourceAddressPrefix": "*", "sourcePortRange": "*", "destinationAddressPrefix": "*",
            "destinationPortRange": "22"}});
        self.put_plain(&at("networkSecurityGroups/nsg/securityRules/rule"), rule).await;
        let network = json!({"properties": {"addressSpace": {"addressPrefixes": ["10.0.0.0/16"]},
            "subnets": [{"name": "subnet", "properties": {"addressPrefix": "10.0.0.0/24"}}]}});
        self.put(&at("virtualNetworks/net"), network).await;
        self.put(
            &at("publicIPAddresses/ip"),
            json!({"sku": {"name": "Standard"}, "properties": {
            "publicIPAllocationMethod": "Static"}}),
        )
        .await;
        let nic = json!({"properties": {"ipConfigurations": [{"name": "ip", "properties": {
            "subnet": link("Network", "virtualNetworks/net/subnets/subnet")}}]}});
        self.put(&at("networkInterfaces/nic"), nic).await;
    }

    async fn accounts(&self) {
        let account = self.path("Storage", "storageAccounts/ownersaccount");
        self.put(&account, json!({"kind": "StorageV2", "sku": {"name": "Standard_LRS"}})).await;
        let container = format!("{account}/blobServices/default/containers/data");
        self.put_plain(&container, json!({"properties": {"metadata": {"secret": SECRET}}})).await;
        let url = format!("{}/ownersaccount/data/blob", self.running.base_url);
        let put = self.client.put(url).bearer_auth(&self.owner_storage).header("x-ms-version", "2021-12-02");
        let put = put.header("x-ms-blob-type", "BlockBlob").header("x-ms-meta-secret", SECRET).body(SECRET);
        let answer = put.send().await.unwrap();
        assert_eq!(answer.status(), 201, "{}", answer.text().await.unwrap());
    }

    async fn others(&self, link: &impl Fn(&str, &str) -> Value) {
        let template = json!({"$schema": "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#",
            "contentVersion": "1.0.0.0", "resources": [], "outputs": {"o": {"type": "string", "value": SECRET}}});
        let deployment = json!({"properties": {"mode": "Incremental", "template": template}});
        self.put_plain(&self.path("Resources", "deployments/deployment"), deployment).await;
        self.put(&self.path("ManagedIdentity", "userAssignedIdentities/identity"), json!({})).await;
        let image = json!({"location": "eastus", "properties": {"osType": "Linux", "description": SECRET,
            "storageProfile": {"osDiskImage": {"source": link("Compute", "disks/disk")}},
            "publishingProfile": {"targetRegions": [{"name": "eastus"}]}}});
        let path = format!("/subscriptions/{}/providers/Lazuli.Images/platformImages/p:o:s:1.0.0", self.subscription);
        self.put_plain(&path, image).await;
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
