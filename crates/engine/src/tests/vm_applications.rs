//! VM applications in machines: installed with them, updated and removed later, by a fake guest that keeps what it was told to run.

use super::applications::{account, put_blob};
use super::site::{Site, VM, link, until};
use lazuli_arm::ArmError;
use lazuli_vmm::spec::HostedFile;
use serde_json::{Value, json};

const FOLDER: &str = "/var/lib/waagent/Microsoft.CPlat.Core.VMApplicationManagerLinux";
const PLUGIN: &str = "http://168.63.129.16:32526/applications";

/// Version 1.0.0 of `app1` and `app2`, both with a default configuration.
async fn prepared() -> Site {
    let site = Site::start().await;
    let account = account(&site.server).await;
    put_blob(&site.server, &account, "package", &[b'p'; 1500]).await;
    put_blob(&site.server, &account, "config", b"k=v").await;
    put_blob(&site.server, &account, "own", &[b'o'; 600]).await;
    for name in ["app1", "app2"] {
        site.application(name, json!({"supportedOSType": "Linux"})).await;
        site.application_version(name, "1.0.0", &["eastus"], json!({})).await.unwrap();
    }
    site
}

/// An entry of a profile.
fn entry(site: &Site, name: &str, version: &str, more: &Value) -> Value {
    let id = site.server.id(&format!("galleries/g/applications/{name}/versions/{version}")).to_string();
    lazuli_arm::bodies::merge_patch(&json!({ "packageReferenceId": id }), more)
}

impl Site {
    async fn application(&self, name: &str, properties: Value) {
        let body = json!({"location": "eastus", "properties": properties});
        self.server.put(&format!("galleries/g/applications/{name}"), body).await.unwrap();
    }

    fn blob(&self, name: &str) -> String {
        format!("{}/acct1/apps/{name}", self.server.call.urls.arm)
    }

    /// Its commands say what they do with which version.
    async fn application_version(
        &self,
        name: &str,
        version: &str,
        regions: &[&str],
        more: Value,
    ) -> Result<Value, ArmError> {
        let regions: Vec<Value> = regions.iter().map(|r| json!({"name": r})).collect();
        let profile = json!({"source": {"mediaLink": self.blob("package"), "defaultConfigurationLink": self.blob("config")},
            "manageActions": {"install": format!("install {name} {version}"), "remove": format!("remove {name} {version}")},
            "targetRegions": regions});
        let profile = lazuli_arm::bodies::merge_patch(&profile, &more);
        let body = json!({"location": "eastus", "properties": {"publishingProfile": profile}});
        self.server.put(&format!("galleries/g/applications/{name}/versions/{version}"), body).await
    }

    /// The machine's PUT with these applications, on a new machine or on the one that is there.
    async fn with(&self, entries: Value) -> Result<Value, ArmError> {
        self.create(|b| b["properties"]["applicationProfile"] = json!({"galleryApplications": entries})).await
    }

    async fn set_applications(&self, entries: Value) -> Result<(), ArmError> {
        self.patch(json!({"properties": {"applicationProfile": {"galleryApplications": entries}}})).await
    }

    /// The extension, as the machine's instance view has it.
    async fn shown(&self) -> Value {
        let view = self.server.engine.view(&self.server.call, &self.server.id(VM), "instanceView").await;
        view.unwrap().unwrap()["extensions"][0].clone()
    }

    /// The commands that were run, and how many files were fetched for each.
    async fn ran(&self) -> Vec<(String, usize)> {
        let all = self.fake.ran(self.vm_id().await);
        let one = |told: &String| {
            let (arguments, command) = told.split_once('|').unwrap();
            (command.to_owned(), arguments.matches(PLUGIN).count())
        };
        all.iter().map(one).collect()
    }

    async fn results(&self) -> Vec<String> {
        let shown = self.shown().await;
        let all = shown["substatuses"].as_array().cloned().unwrap_or_default();
        all.iter().map(|s| format!("{}: {}", s["code"].as_str().unwrap(), s["message"].as_str().unwrap())).collect()
    }
}

fn told(command: &str, files: usize) -> (String, usize) {
    (command.to_owned(), files)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_is_made_with_its_applications() {
    let site = prepared().await;
    let own = json!({"configurationReference": site.blob("own"), "order": 1});
    let shown =
        site.with(json!([entry(&site, "app1", "1.0.0", &json!({})), entry(&site, "app2", "1.0.0", &own)])).await;
    let shown = shown.unwrap();
    assert_eq!(shown["properties"]["provisioningState"], "Succeeded");
    assert_eq!(shown["properties"]["applicationProfile"]["galleryApplications"][1]["order"], 1);
    let id = site.vm_id().await;
    let ran = site.fake.ran(id);
    let expected = format!(
        "{FOLDER}/app2/1.0.0,keep,{PLUGIN}/app2/package,app2,1500,{PLUGIN}/app2/config,app2_config,600|install app2 1.0.0"
    );
    assert_eq!(ran[0], expected, "what has an order comes first");
    assert_eq!(site.ran().await, [told("install app2 1.0.0", 2), told("install app1 1.0.0", 2)]);

    // The host has the very bytes for this guest, in its own region.
    let spec = site.defined(id).unwrap();
    let file = |name: &str| spec.applications.iter().find(|a| a.name == name).unwrap();
    let bytes = async |file: &HostedFile| {
        let base = file.base.as_ref().unwrap();
        let (region, manifest) = base.source.split_once('/').unwrap();
        let mut bytes = site.server.stored(region, manifest).await;
        bytes.extend(hex::decode(&file.tail).unwrap());
        bytes
    };
    assert_eq!(bytes(&file("app1").package).await, [b'p'; 1500]);
    let configs = [file("app1"), file("app2")].map(|a| a.config.clone().unwrap());
    assert_eq!((configs[0].base.as_ref(), configs[0].tail.as_str()), (None, "6b3d76"));
    assert_eq!(bytes(&configs[1]).await, [b'o'; 600]);

    let view = site.shown().await;
    assert_eq!(
        (&view["name"], &view["type"]),
        (&json!("VMAppExtension"), &json!("Microsoft.CPlat.Core.VMApplicationManagerLinux"))
    );
    assert_eq!(view["statuses"][0]["code"], "ProvisioningState/succeeded");
    assert_eq!(
        site.results().await,
        ["ComponentStatus/app2/succeeded: Install SUCCESS", "ComponentStatus/app1/succeeded: Install SUCCESS"]
    );
    // A configuration of its own is the machine's as long as it is there, whatever becomes of the blob.
    let held = async || site.server.engine.db().content_refs_of(&site.server.id(VM).key()).await.unwrap().len();
    assert_eq!(held().await, 1);
    site.server.delete(VM).await.unwrap();
    assert_eq!(held().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn applications_come_change_and_go_while_it_runs() {
    let site = prepared().await;
    site.create(|_| {}).await.unwrap();
    assert_eq!(site.shown().await, Value::Null);
    let own = json!({"configurationReference": site.blob("own")});
    site.set_applications(json!([entry(&site, "app1", "latest", &own)])).await.unwrap();
    assert_eq!(site.ran().await, [told("install app1 1.0.0", 2)]);
    site.patch(json!({"tags": {"a": "b"}})).await.unwrap();
    site.set_applications(json!([entry(&site, "app1", "latest", &own)])).await.unwrap();
    assert_eq!(site.ran().await.len(), 1, "what is there is not installed again");

    // A newer one; while the machine is off nobody could install it.
    let update = json!({"manageActions": {"update": "update app1"}, "settings": {"packageFileName": "x.deb"}});
    site.application_version("app1", "1.0.10", &["eastus"], update).await.unwrap();
    site.power("deallocate").await.unwrap();
    site.patch(json!({"tags": {"a": "c"}})).await.unwrap();
    let second = entry(&site, "app2", "1.0.0", &json!({}));
    let error = site.set_applications(json!([second])).await.unwrap_err();
    assert_eq!(error.message, "Cannot modify extensions in the VM when the VM is not running.");
    site.power("start").await.unwrap();
    site.set_applications(json!([entry(&site, "app1", "latest", &own)])).await.unwrap();
    let ran = site.fake.ran(site.vm_id().await);
    assert_eq!(ran.len(), 2);
    assert!(ran[1].starts_with(&format!("{FOLDER}/app1/1.0.10,keep,{PLUGIN}/app1/package,x.deb,")), "{}", ran[1]);
    assert!(ran[1].ends_with("|update app1"), "{}", ran[1]);

    // Whatever becomes of a version: the machine knows how to take it out again.
    site.set_applications(json!([entry(&site, "app1", "1.0.10", &own)])).await.unwrap();
    site.server.delete("galleries/g/applications/app1/versions/1.0.10").await.unwrap();
    site.patch(json!({"tags": {"a": "d"}})).await.unwrap();
    site.set_applications(json!([second])).await.unwrap();
    let ran = site.fake.ran(site.vm_id().await);
    assert_eq!(ran[2], format!("{FOLDER}/app1/1.0.10,drop|remove app1 1.0.10"));
    assert_eq!(site.results().await, ["ComponentStatus/app2/succeeded: Install SUCCESS"]);
    let held = site.server.engine.db().content_refs_of(&site.server.id(VM).key()).await.unwrap();
    assert_eq!(held.len(), 0, "its configuration is let go of");
    site.set_applications(json!([])).await.unwrap();
    assert_eq!(site.ran().await.last().unwrap(), &told("remove app2 1.0.0", 0));
    assert_eq!(site.results().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_told_and_fails_the_machine_where_it_is_to() {
    let site = prepared().await;
    let bad = json!({"manageActions": {"install": "echo no room; exit 3"}});
    site.application_version("app1", "2.0.0", &["eastus"], bad).await.unwrap();
    let failing = |more: Value| entry(&site, "app1", "2.0.0", &more);
    let after = entry(&site, "app2", "1.0.0", &json!({"order": 2}));
    let shown = site.with(json!([failing(json!({"order": 1})), after])).await.unwrap();
    assert_eq!(shown["properties"]["provisioningState"], "Succeeded");
    let results = site.results().await;
    assert!(
        results[0].starts_with(
            "ComponentStatus/app1/failed: Install FAILED Error executing command 'echo no room; exit 3': command terminated with exit \
             status=3\n[stdout]\n"
        ),
        "{results:?}"
    );
    assert_eq!(results[1], "ComponentStatus/app2/skipped: skipped, lower order operation failed");
    assert_eq!(site.shown().await["statuses"][0]["code"], "ProvisioningState/succeeded");

    // Out, and in again where it may not fail.
    site.set_applications(json!([])).await.unwrap();
    let error = site.set_applications(json!([failing(json!({"treatFailureAsDeploymentFailure": true}))])).await;
    let error = error.unwrap_err();
    assert_eq!(error.code, "VMExtensionProvisioningError");
    assert!(error.message.contains("extension 'VMAppExtension' (publisher 'Microsoft.CPlat.Core'"), "{error}");
    assert!(error.message.contains("exit status=3"), "{error}");
    let shown = site.server.get(VM).await.unwrap();
    assert_eq!(shown["properties"]["provisioningState"], "Failed");
    assert_eq!(
        shown["properties"]["applicationProfile"]["galleryApplications"][0]["treatFailureAsDeploymentFailure"],
        true
    );
    assert!(site.fake.is_running(site.vm_id().await), "the machine itself is well");
    site.set_applications(json!([])).await.unwrap();
    assert_eq!(site.server.get(VM).await.unwrap()["properties"]["provisioningState"], "Succeeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_fails_with_its_applications_is_made_all_the_same() {
    let site = prepared().await;
    let bad = json!({"manageActions": {"install": "exit 3"}});
    site.application_version("app1", "2.0.0", &["eastus"], bad).await.unwrap();
    let fatal = json!({"treatFailureAsDeploymentFailure": true});
    let error = site.with(json!([entry(&site, "app1", "2.0.0", &fatal)])).await.unwrap_err();
    assert_eq!(error.code, "VMExtensionProvisioningError");
    assert_eq!(site.server.internal(VM).await["created"], true);
    assert_eq!(site.server.internal(VM).await["adminPassword"], Value::Null);
    site.set_applications(json!([entry(&site, "app1", "1.0.0", &fatal)])).await.unwrap();
    assert_eq!(site.server.get(VM).await.unwrap()["properties"]["provisioningState"], "Succeeded");

    // Nobody answers in the guest.
    site.fake.stop_agent(site.vm_id().await);
    let error = site.set_applications(json!([])).await.unwrap_err();
    assert_eq!(error.code, "VMAgentStatusCommunicationError");
    site.fake.start_agent(site.vm_id().await);
    site.set_applications(json!([])).await.unwrap();
    assert_eq!(site.ran().await.last().unwrap(), &told("remove app1 1.0.0", 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_deployed_is_refused() {
    let site = prepared().await;
    site.application("win", json!({"supportedOSType": "Windows"})).await;
    site.application_version("win", "1.0.0", &["eastus"], json!({})).await.unwrap();
    let elsewhere = async |name: &str, version: &str, more: Value| {
        site.application_version(name, version, &["eastus", "westus"], more).await.unwrap();
    };
    elsewhere("app1", "3.0.0", json!({"settings": {"scriptBehaviorAfterReboot": "Rerun"}})).await;
    elsewhere("app1", "4.0.0", json!({"manageActions": null})).await;
    site.application("app3", json!({"supportedOSType": "Linux"})).await;
    let cases = [
        (
            json!([entry(&site, "app9", "1.0.0", &json!({}))]),
            "GalleryImageNotFound",
            "is not available in eastus region",
        ),
        (
            json!([entry(&site, "app1", "9.0.0", &json!({}))]),
            "GalleryImageNotFound",
            "is not available in eastus region",
        ),
        (json!([entry(&site, "app3", "latest", &json!({}))]), "GalleryImageNotFound", "no latest"),
        (
            json!([entry(&site, "win", "1.0.0", &json!({}))]),
            "InvalidParameter",
            "Version 1.0.0 supports OS Windows, while current OSDisk's OS is Linux.",
        ),
        (json!([entry(&site, "app1", "3.0.0", &json!({}))]), "OperationNotSupported", "scriptBehaviorAfterReboot"),
        (json!([entry(&site, "app1", "4.0.0", &json!({}))]), "OperationNotSupported", "manageActions"),
        (
            json!([entry(&site, "app1", "1.0.0", &json!({})), entry(&site, "app1", "latest", &json!({}))]),
            "OperationNotSupported",
            "4.0.0",
        ),
        (
            json!([entry(&site, "app2", "1.0.0", &json!({})), entry(&site, "app2", "latest", &json!({}))]),
            "InvalidParameter",
            "Duplicate application name app2",
        ),
        (
            json!([entry(&site, "app1", "1.0.0", &json!({"configurationReference": site.blob("none")}))]),
            "BlobNotFound",
            "",
        ),
        (
            json!([entry(&site, "app1", "1.0.0", &json!({"configurationReference": "https://example.org/c"}))]),
            "InvalidParameter",
            "nothing is fetched from elsewhere",
        ),
        (json!([entry(&site, "app1", "1.0.0", &json!({"enableAutomaticUpgrade": true}))]), "OperationNotSupported", ""),
    ];
    for (entries, code, text) in cases {
        let error = site.with(entries.clone()).await.unwrap_err();
        assert_eq!(error.code, code, "{entries}: {error}");
        assert!(error.message.contains(text), "{text}: {error}");
    }
    let agentless = site
        .create(|b| {
            b["properties"]["osProfile"]["linuxConfiguration"] = json!({"provisionVMAgent": false});
            let entries = json!([entry(&site, "app1", "1.0.0", &json!({}))]);
            b["properties"]["applicationProfile"] = json!({ "galleryApplications": entries });
        })
        .await;
    assert!(agentless.unwrap_err().message.contains("extension operations are disallowed"));
    assert_eq!(site.server.get(VM).await.unwrap_err().status, 404, "nothing is left of it");

    // Where a version is not replicated to.
    let space = json!({"addressSpace": {"addressPrefixes": ["10.1.0.0/16"]},
        "subnets": [{"name": "s", "properties": {"addressPrefix": "10.1.0.0/24"}}]});
    let network = json!({"location": "westus", "properties": space});
    site.server.put("virtualNetworks/w", network).await.unwrap();
    let ip = json!({"name": "ip", "properties": {"subnet": link(&site.server, "virtualNetworks/w/subnets/s")}});
    let nic = json!({"location": "westus", "properties": {"ipConfigurations": [ip]}});
    site.server.put("networkInterfaces/n2", nic).await.unwrap();
    let west = async |name: &str, version: &str| {
        let entries = json!([entry(&site, name, version, &json!({}))]);
        let nic = link(&site.server, "networkInterfaces/n2");
        let change = |b: &mut Value| {
            b["location"] = json!("westus");
            b["properties"]["applicationProfile"] = json!({ "galleryApplications": entries });
            b["properties"]["networkProfile"]["networkInterfaces"] = json!([nic]);
        };
        site.create(change).await
    };
    let error = west("app2", "1.0.0").await.unwrap_err();
    assert_eq!(error.code, "GalleryImageNotFound");
    assert!(error.message.contains("is not available in westus region"), "{error}");
    elsewhere("app2", "2.0.0", json!({})).await;
    west("app2", "2.0.0").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_installation_is_not_repeated_after_the_server_was_restarted() {
    let site = {
        let site = Site::configured(|c| c.agent_time = std::time::Duration::from_secs(600)).await;
        let account = account(&site.server).await;
        put_blob(&site.server, &account, "package", b"small").await;
        put_blob(&site.server, &account, "config", b"k=v").await;
        site.application("app1", json!({"supportedOSType": "Linux"})).await;
        site.application_version("app1", "1.0.0", &["eastus"], json!({})).await.unwrap();
        site
    };
    site.create(|_| {}).await.unwrap();
    let id = site.vm_id().await;
    site.fake.stop_agent(id);
    let profile = json!({"galleryApplications": [entry(&site, "app1", "1.0.0", &json!({}))]});
    let patch = json!({"properties": {"applicationProfile": profile}});
    let written = site.server.engine.patch(&site.server.call, &site.server.id(VM), patch).await.unwrap();
    let operation = written.operation.unwrap();
    let phase = async |site: &Site| site.server.engine.db().operation(&operation).await.unwrap().unwrap().phase;
    until("it waits", async || phase(&site).await == "waiting for the guest's agent").await;
    let site = site.restart_server().await;
    site.fake.start_agent(id);
    site.server.end(&operation).await.unwrap();
    assert_eq!(site.ran().await, [told("install app1 1.0.0", 2)], "nothing had been run before");
    assert!(site.fake.is_running(id));
}
