//! Image Builder builds for real: a template's scripts run in a machine of the source, and machines of every result have what they did
//! (IB-2, IB-4, IB-9, IB-23, IB-26), on the tiny guest.

use lazuli_testkit::{Arm, TestServer, blob, guests, wait_for};
use reqwest::Method;
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

const HOME: &str = "eastus";
const GROUP: &str = "builds";
/// The guest, as it was uploaded.
const DISK: &str = "Microsoft.Compute/disks/source";
/// Contributor.
const ROLE: &str = "b24988ac-6180-42a0-ab88-20f7382dd24c";
/// The tiny guest has neither of the agents: it is generalized by a script of its own.
const OWN_DEPROVISIONING: &str = "echo deprovision > /tmp/DeprovisioningScript.sh";

/// `#!/bin/sh`, `mkdir -p /srv; echo corporate > /srv/settings; httpd -p 8080 -h /srv`
const SERVES_SETTINGS: &str =
    "IyEvYmluL3NoCm1rZGlyIC1wIC9zcnY7IGVjaG8gY29ycG9yYXRlID4gL3Nydi9zZXR0aW5nczsgaHR0cGQgLXAgODA4MCAtaCAvc3J2Cg==";

struct Site {
    arm: Arm,
}

impl Site {
    fn path(&self, below: &str) -> String {
        self.arm.group_path(GROUP, &format!("/providers/{below}"))
    }

    async fn put(&self, below: &str, body: Value) -> Value {
        self.arm.put(&self.path(below), &body).await.unwrap_or_else(|e| panic!("PUT {below}: {e:#}"))
    }

    /// A gallery with the guest as version 1.0.0, and an identity that may write in the group.
    async fn prepare(&self, guest: &Path) -> String {
        self.arm.put(&self.arm.group_path(GROUP, ""), &json!({"location": HOME})).await.unwrap();
        self.put("Microsoft.Compute/galleries/g", json!({"location": HOME})).await;
        self.definition("linux", None).await;
        self.upload(guest).await;
        self.version("linux").await;
        let below = "Microsoft.ManagedIdentity/userAssignedIdentities/builder";
        let identity = self.put(below, json!({"location": HOME})).await;
        let assignment = "Microsoft.Authorization/roleAssignments/11111111-2222-3333-4444-555555555555";
        let role = self.arm.path(&format!("/providers/Microsoft.Authorization/roleDefinitions/{ROLE}"));
        let properties = json!({"roleDefinitionId": role, "principalId": identity["properties"]["principalId"],
            "principalType": "ServicePrincipal"});
        let assigned =
            self.arm.send(Method::PUT, &self.path(assignment), Some(&json!({"properties": properties}))).await;
        assigned.unwrap().ok().unwrap();
        self.path(below)
    }

    /// The id of a new definition of this name, perhaps with a purchase plan.
    async fn definition(&self, name: &str, plan: Option<&Value>) -> String {
        let identifier = json!({"publisher": "builds", "offer": "linux", "sku": name});
        let mut properties =
            json!({"osType": "Linux", "osState": "Generalized", "hyperVGeneration": "V2", "identifier": identifier});
        if let Some(plan) = plan {
            properties["purchasePlan"] = plan.clone();
        }
        let below = format!("Microsoft.Compute/galleries/g/images/{name}");
        self.put(&below, json!({"location": HOME, "properties": properties})).await;
        self.path(&below)
    }

    /// The guest as version 1.0.0 of a definition; its id.
    async fn version(&self, definition: &str) -> String {
        let storage = json!({"osDiskImage": {"source": {"id": self.path(DISK)}}});
        let properties = json!({"publishingProfile": {"targetRegions": [{"name": HOME}]}, "storageProfile": storage});
        let below = format!("Microsoft.Compute/galleries/g/images/{definition}/versions/1.0.0");
        self.put(&below, json!({"location": HOME, "properties": properties})).await;
        self.path(&below)
    }

    async fn upload(&self, vhd: &Path) {
        let disk = self.path(DISK);
        let bytes = std::fs::metadata(vhd).unwrap().len();
        let create = json!({"createOption": "Upload", "uploadSizeBytes": bytes});
        let properties = json!({"osType": "Linux", "hyperVGeneration": "V2", "creationData": create});
        self.put(DISK, json!({"location": HOME, "properties": properties})).await;
        let access = json!({"access": "Write", "durationInSeconds": 3600});
        let granted = self.arm.post(&format!("{disk}/beginGetAccess"), Some(&access)).await.unwrap();
        blob::upload(self.arm.http(), granted["accessSAS"].as_str().unwrap(), vhd).await.unwrap();
        self.arm.post(&format!("{disk}/endGetAccess"), None).await.unwrap();
    }

    /// A machine of an image in a network of its own; the subnet's id and the machine's address there.
    async fn machine(&self, name: &str, region: &str, image: &str, custom_data: &str) -> (String, String) {
        let subnet = json!({"name": "build", "properties": {"addressPrefix": "10.9.0.0/24"}});
        let space = json!({"addressSpace": {"addressPrefixes": ["10.9.0.0/16"]}, "subnets": [subnet]});
        let network = format!("Microsoft.Network/virtualNetworks/{name}");
        self.put(&network, json!({"location": region, "properties": space})).await;
        let subnet = self.path(&format!("{network}/subnets/build"));
        let configuration = json!([{"name": "main", "properties": {"subnet": {"id": subnet}}}]);
        let nic = format!("Microsoft.Network/networkInterfaces/{name}");
        let shown =
            self.put(&nic, json!({"location": region, "properties": {"ipConfigurations": configuration}})).await;
        let address = shown["properties"]["ipConfigurations"][0]["properties"]["privateIPAddress"].as_str().unwrap();
        let machine = json!({"location": region, "properties": {
            "hardwareProfile": {"vmSize": "Standard_B1ls"},
            "storageProfile": {"imageReference": {"id": image}, "osDisk": {"createOption": "FromImage"}},
            "osProfile": {"computerName": name, "adminUsername": "azureuser", "adminPassword": "Correct-Horse-1",
                "customData": custom_data},
            "networkProfile": {"networkInterfaces": [{"id": self.path(&nic)}]}}});
        self.put(&format!("Microsoft.Compute/virtualMachines/{name}"), machine).await;
        (subnet, address.to_owned())
    }

    /// Creates a template, which takes the newest version and may be told more.
    async fn template(&self, name: &str, identity: &str, properties: Value) -> String {
        let definition = self.path("Microsoft.Compute/galleries/g/images/linux");
        let source = json!({"type": "SharedImageVersion", "imageVersionId": format!("{definition}/versions/1.0.0")});
        let mut body = json!({"location": HOME, "identity": {"type": "UserAssigned", "userAssignedIdentities": {identity: {}}},
            "properties": {"source": source, "vmProfile": {"vmSize": "Standard_B1ls"}}});
        for (name, value) in properties.as_object().unwrap() {
            body["properties"][name] = value.clone();
        }
        let path = self.path(&format!("Microsoft.VirtualMachineImages/imageTemplates/{name}"));
        let path = format!("{path}?api-version=2024-02-01");
        self.arm.put(&path, &body).await.unwrap_or_else(|e| panic!("{name}: {e:#}"));
        path.split('?').next().unwrap().to_owned()
    }

    async fn run(&self, template: &str) -> anyhow::Result<Value> {
        self.arm.post(&format!("{template}/run?api-version=2024-02-01"), None).await
    }

    /// Runs a template to its end: what its log says, and what came of it.
    async fn logged(&self, template: &str) -> (String, anyhow::Result<Value>) {
        let run = format!("{template}/run?api-version=2024-02-01");
        let accepted = self.arm.send(Method::POST, &run, None).await.unwrap();
        // It ends with the run.
        let log = self.arm.text(&format!("{template}/logStream?api-version=2024-02-01")).await.unwrap();
        (log, self.arm.finish(accepted, &run).await)
    }

    /// Waits until scripts run.
    async fn customizes(&self, template: &str) {
        let customizes = async || {
            let shown = self.show(template).await;
            (shown["properties"]["lastRunStatus"]["runSubState"] == "Customizing").then_some(())
        };
        wait_for("the run customizes", Duration::from_secs(180), customizes).await;
    }

    /// All machines there are.
    async fn machines(&self) -> Vec<Value> {
        let all = self.arm.get(&self.arm.path("/providers/Microsoft.Compute/virtualMachines")).await.unwrap();
        all["value"].as_array().unwrap().clone()
    }

    /// Runs a template whose version must have this number, and at least `written` bytes of its own, but not much more.
    async fn build(&self, server: &TestServer, template: &str, number: &str, written: u64) {
        if let Err(error) = self.run(template).await {
            panic!("{template}: {error:#}\n{}", server.log());
        }
        let output = self.show(&format!("{template}/runOutputs/gallery")).await;
        let version = output["properties"]["artifactId"].as_str().unwrap();
        assert!(version.ends_with(&format!("/versions/{number}")), "{version}");
        let usage = self.arm.get(&format!("{version}/usage")).await.unwrap();
        let region = &usage["regions"][0];
        let (own, all) =
            (region["freedByDelete"]["storedBytes"].as_u64().unwrap(), region["storedBytes"].as_u64().unwrap());
        eprintln!("{version}: {own} bytes of its own of {all} stored");
        assert!((written..all / 3).contains(&own), "{usage}");
    }

    /// Runs a template that does not succeed: how its run ended, and why.
    async fn fails(&self, template: &str) -> (String, String) {
        let error = self.run(template).await.unwrap_err().to_string();
        let last = self.show(template).await["properties"]["lastRunStatus"].clone();
        let text = |name: &str| last[name].as_str().unwrap().to_owned();
        assert!(error.contains(text("message").split(". ").next().unwrap()), "{error}: {last}");
        (text("runState"), text("message"))
    }

    async fn output(&self, template: &str, name: &str) -> Value {
        let shown = self.arm.get(&format!("{template}/runOutputs/{name}?api-version=2024-02-01")).await;
        shown.map(|output| output["properties"].clone()).unwrap_or_default()
    }

    async fn show(&self, path: &str) -> Value {
        self.arm.get(&format!("{path}?api-version=2024-02-01")).await.unwrap()
    }

    /// Types of what is in a template's staging group.
    async fn staged(&self, template: &Value) -> Vec<String> {
        let group = template["properties"]["exactStagingResourceGroup"].as_str().unwrap();
        let all = self.arm.get(&format!("{group}/resources")).await.unwrap();
        all["value"].as_array().unwrap().iter().map(|r| r["type"].as_str().unwrap().to_owned()).collect()
    }
}

#[tokio::test]
async fn a_template_becomes_images_in_every_place_it_names() {
    let server = TestServer::start().await.unwrap();
    let site = Site { arm: server.arm().await.unwrap() };
    let identity = site.prepare(&guests::tiny().unwrap()).await;
    let definition = site.path("Microsoft.Compute/galleries/g/images/linux");
    let image = site.path("Microsoft.Compute/images/result");
    let inline = json!(["echo built | sudo tee /var/lib/mark", OWN_DEPROVISIONING]);
    let check = json!(["grep built /var/lib/mark", "test ! -e /tmp/DeprovisioningScript.sh"]);
    let template = site
        .template("web", &identity, json!({
            "customize": [{"type": "Shell", "name": "mark", "inline": inline}],
            "validate": {"inVMValidations": [{"type": "Shell", "name": "marked", "inline": check}]},
            "distribute": [
                {"type": "SharedImage", "runOutputName": "gallery", "galleryImageId": definition, "artifactTags": {"made": "here"},
                    "targetRegions": [{"name": HOME}]},
                {"type": "ManagedImage", "runOutputName": "image", "imageId": image, "location": HOME},
                {"type": "VHD", "runOutputName": "vhd"},
            ],
        }))
        .await;
    if let Err(error) = site.run(&template).await {
        panic!("{error:#}\n{}", server.log());
    }

    let shown = site.show(&template).await;
    let last = &shown["properties"]["lastRunStatus"];
    assert_eq!(last["runState"], "Succeeded", "{last}");
    let output = async |name: &str| site.show(&format!("{template}/runOutputs/{name}")).await["properties"].clone();
    let version = output("gallery").await["artifactId"].as_str().unwrap().to_owned();
    assert!(version.ends_with("/versions/1.0.1"), "{version}");
    let version = site.arm.get(&version).await.unwrap();
    assert_eq!(version["tags"]["made"], "here");
    assert_eq!(site.arm.get(&image).await.unwrap()["properties"]["provisioningState"], "Succeeded");
    assert!(output("vhd").await["artifactUri"].as_str().unwrap().ends_with("/vhds/vhd.vhd"));
    assert_eq!(site.staged(&shown).await, ["Microsoft.Storage/storageAccounts"], "all else is gone");

    // Again: the next number, and the image makes room for the new one.
    site.run(&template).await.unwrap();
    let version = output("gallery").await["artifactId"].as_str().unwrap().to_owned();
    assert!(version.ends_with("/versions/1.0.2"), "{version}");
}

#[tokio::test]
async fn a_run_that_fails_says_why_and_leaves_nothing() {
    let server = TestServer::start().await.unwrap();
    let site = Site { arm: server.arm().await.unwrap() };
    let identity = site.prepare(&guests::tiny().unwrap()).await;
    let image = site.path("Microsoft.Compute/images/never");
    let distribute = json!([{"type": "ManagedImage", "runOutputName": "image", "imageId": image, "location": HOME}]);
    let inline = json!(["echo before", "exit 42", "echo after"]);
    let customize = json!([{"type": "Shell", "name": "breaks", "inline": inline}]);
    let template = site.template("broken", &identity, json!({"customize": customize, "distribute": distribute})).await;
    let (told, ended) = site.logged(&template).await;
    let error = ended.unwrap_err().to_string();
    assert!(error.contains("'breaks' ended with exit code 42") && error.contains("customization.log"), "{error}");
    let at = |text: &str| told.find(text).unwrap_or_else(|| panic!("{text}: {told}"));
    assert!(at("[breaks] out: before\n\n") < at("[run] --- failed: 'breaks' ended with exit code 42"), "{told}");
    assert!(at("event: end\n") > at("[run] --- takes back what was made") && !told.contains("out: after"), "{told}");
    let shown = site.show(&template).await;
    let last = &shown["properties"]["lastRunStatus"];
    assert_eq!((&last["runState"], &shown["properties"]["provisioningState"]), (&json!("Failed"), &json!("Succeeded")));
    assert!(last["message"].as_str().unwrap().contains("exit code 42"), "{last}");
    assert_eq!(site.staged(&shown).await, ["Microsoft.Storage/storageAccounts"]);
    assert!(site.arm.get(&image).await.is_err());

    // Playbooks run in the machine, and this one has no Ansible.
    let playbook = json!(["- hosts: all", "  tasks: []"]);
    let customize = json!([{"type": "Ansible", "name": "site", "inline": playbook, "extraVars": {"port": 8080}}]);
    let distribute = json!([{"type": "ManagedImage", "runOutputName": "image", "imageId": image, "location": HOME}]);
    let template = site.template("ansible", &identity, json!({"customize": customize, "distribute": distribute})).await;
    let error = site.run(&template).await.unwrap_err().to_string();
    assert!(error.contains("'site' ended with exit code 127"), "{error}");
}

/// What scripts do to their machine, and what a source is found to be, fails the run in words, and leaves nothing.
#[tokio::test]
async fn scripts_that_break_their_machine_are_told() {
    let server = TestServer::start().await.unwrap();
    let site = Site { arm: server.arm().await.unwrap() };
    let identity = site.prepare(&guests::tiny().unwrap()).await;
    // Bytes that are no text, a child that stays and prints, and a disk that is full.
    let fills = json!([
        "head -c 1000000 /dev/urandom",
        "(while :; do echo tick; sleep 1; done) &",
        "sudo dd if=/dev/zero of=/fill bs=65536"
    ]);
    let restarts = json!(["sudo reboot -f", "sleep 600"]);
    let stops = json!(["sudo killall dropbear", "sleep 600"]);
    let customize = |name: &str, lines: Value| json!({"customize": [{"type": "Shell", "name": name, "inline": lines}]});
    let source_only = json!({"validate": {"sourceValidationOnly": true, "inVMValidations": [
        {"type": "Shell", "name": "right", "inline": ["test ! -e /fill"]},
        {"type": "Shell", "name": "wrong", "inline": ["test -e /fill"]}]}});
    for (name, mut properties, told) in [
        ("fills", customize("fills", fills), "'fills' ended with exit code 1"),
        ("restarts", customize("restarts", restarts), "the connection to the machine was lost while 'restarts' ran"),
        ("stops", customize("stops", stops), "the connection to the machine was lost while 'stops' ran"),
        ("source", source_only, "'wrong' ended with exit code 1"),
    ] {
        properties["distribute"] = json!([{"type": "VHD", "runOutputName": "vhd"}]);
        let template = site.template(name, &identity, properties).await;
        let (state, message) = site.fails(&template).await;
        assert_eq!(state, "Failed", "{message}");
        assert!(message.starts_with(told), "{message}");
        let shown = site.show(&template).await;
        assert_eq!(site.staged(&shown).await, ["Microsoft.Storage/storageAccounts"], "{name}");
    }
}

/// A build's time counts from its start, and its end is that of a script that hangs, and of the machine. The shortest time that can be
/// asked for is six minutes: of the run that begins here, the database says that it began four and a half minutes ago.
#[tokio::test]
async fn a_script_that_hangs_ends_with_the_time_of_its_build() {
    use sqlx::{ConnectOptions as _, Executor as _};
    const BEGAN_EARLIER: &str = "CREATE TRIGGER began_earlier AFTER INSERT ON operations \
        WHEN NEW.kind = 'image_template.run' \
        BEGIN UPDATE operations SET started_ms = started_ms - 270000 WHERE id = NEW.id; END";
    let server = TestServer::start().await.unwrap();
    let site = Site { arm: server.arm().await.unwrap() };
    let identity = site.prepare(&guests::tiny().unwrap()).await;
    let properties = json!({
        "customize": [{"type": "Shell", "name": "hangs", "inline": ["echo begun", "sleep 100000"]}],
        "distribute": [{"type": "VHD", "runOutputName": "vhd"}],
        "buildTimeoutInMinutes": 6,
    });
    let template = site.template("hangs", &identity, properties).await;
    let database = sqlx::sqlite::SqliteConnectOptions::new().filename(server.dir().join("lazuli.db"));
    let mut database = database.connect().await.unwrap();
    database.execute(BEGAN_EARLIER).await.unwrap();
    let machines = async {
        site.customizes(&template).await;
        site.machines().await.len()
    };
    let begin = Instant::now();
    let ((told, ended), machines) = tokio::join!(site.logged(&template), machines);
    assert!(begin.elapsed() < Duration::from_secs(300), "it had a minute and a half: {:?}", begin.elapsed());
    assert_eq!(machines, 1);
    let stopped = "The build was stopped because it took longer than buildTimeoutInMinutes allows (6 minutes). ";
    let at = |text: &str| told.find(text).unwrap_or_else(|| panic!("{text}: {told}"));
    assert!(at("[hangs] out: begun\n") < at(&format!("[run] --- failed: {stopped}")), "{told}");
    let error = ended.unwrap_err().to_string();
    assert!(error.contains(stopped), "{error}");
    let shown = site.show(&template).await;
    let last = &shown["properties"]["lastRunStatus"];
    assert_eq!(last["runState"], "Failed");
    assert!(last["message"].as_str().unwrap().starts_with(stopped), "{last}");
    assert_eq!(site.staged(&shown).await, ["Microsoft.Storage/storageAccounts"]);
    assert_eq!(site.machines().await, Vec::<Value>::new());
    assert_eq!(site.output(&template, "vhd").await, Value::Null);
}

/// With `sourceValidationOnly` the source says what it is, and nothing is made of it. (One that is found wanting: see
/// `scripts_that_break_their_machine_are_told`.)
#[tokio::test]
async fn a_source_is_validated_alone() {
    let server = TestServer::start().await.unwrap();
    let site = Site { arm: server.arm().await.unwrap() };
    let identity = site.prepare(&guests::tiny().unwrap()).await;
    let definition = site.path("Microsoft.Compute/galleries/g/images/linux");
    let image = site.path("Microsoft.Compute/images/never");
    let properties = json!({
        "customize": [{"type": "Shell", "name": "never", "inline": ["exit 9"]}],
        "validate": {"sourceValidationOnly": true, "inVMValidations": [
            {"type": "Shell", "name": "system", "inline": [". /etc/os-release", "echo found $ID"]},
            {"type": "Shell", "name": "user", "inline": ["test $(id -un) = packer"]}]},
        "distribute": [
            {"type": "SharedImage", "runOutputName": "gallery", "galleryImageId": definition, "targetRegions": [{"name": HOME}]},
            {"type": "ManagedImage", "runOutputName": "image", "imageId": image, "location": HOME},
            {"type": "VHD", "runOutputName": "vhd"},
        ],
    });
    let template = site.template("source", &identity, properties).await;
    let (told, ended) = site.logged(&template).await;
    if let Err(error) = ended {
        panic!("{error:#}\n{}", server.log());
    }
    let at = |text: &str| told.find(text).unwrap_or_else(|| panic!("{text}: {told}"));
    assert!(at("[run] --- phase Validating\n") < at("[system] out: found tiny\n"), "{told}");
    at("[user] --- ended with exit code 0");
    for never in ["[never]", "phase Building", "phase Customizing", "phase Distributing"] {
        assert!(!told.contains(never), "{never}: {told}");
    }
    let shown = site.show(&template).await;
    assert_eq!(shown["properties"]["lastRunStatus"]["runState"], "Succeeded", "{shown}");
    assert_eq!(site.staged(&shown).await, ["Microsoft.Storage/storageAccounts"]);
    assert_eq!(site.machines().await, Vec::<Value>::new());
    for name in ["gallery", "image", "vhd"] {
        assert_eq!(site.output(&template, name).await, Value::Null, "{name}");
    }
    let versions = site.arm.get(&format!("{definition}/versions")).await.unwrap();
    assert_eq!(versions["value"].as_array().unwrap().len(), 1, "the source is all there is: {versions}");
    assert!(site.arm.get(&image).await.is_err());
}

/// Whoever builds of an image with a purchase plan has a result of that plan (ID-9): only a definition of the same plan takes it, and
/// machines of it must name it.
#[tokio::test]
async fn a_result_is_of_the_plan_of_its_source() {
    let server = TestServer::start().await.unwrap();
    let site = Site { arm: server.arm().await.unwrap() };
    let identity = site.prepare(&guests::tiny().unwrap()).await;
    let plan = json!({"name": "hardened-1", "publisher": "contoso", "product": "hardened"});
    site.definition("source", Some(&plan)).await;
    let source = site.version("source").await;
    let (same, none) = (site.definition("same", Some(&plan)).await, site.definition("none", None).await);
    let properties = json!({
        "source": {"type": "SharedImageVersion", "imageVersionId": source},
        "customize": [{"type": "Shell", "inline": [OWN_DEPROVISIONING]}],
        "validate": {"inVMValidations": [{"type": "Shell", "inline": ["true"]}]},
        "distribute": [
            {"type": "SharedImage", "runOutputName": "same", "galleryImageId": same, "targetRegions": [{"name": HOME}]},
            {"type": "SharedImage", "runOutputName": "none", "galleryImageId": none, "targetRegions": [{"name": HOME}]},
        ],
    });
    let template = site.template("planned", &identity, properties).await;
    let (state, message) = site.fails(&template).await;
    assert_eq!(state, "PartiallySucceeded", "{message}");
    assert!(message.starts_with("Failed in distributing 1 images out of total 2: 'none': "), "{message}");
    assert!(message.contains("has a different plan"), "{message}");
    let version = site.output(&template, "same").await["artifactId"].as_str().unwrap().to_owned();
    assert!(version.ends_with("/images/same/versions/1.0.0"), "{version}");
    assert_eq!(site.output(&template, "none").await, Value::Null);
    assert_eq!(site.machines().await, Vec::<Value>::new());

    let machine = site.path("Microsoft.Compute/virtualMachines/vm");
    let interface = site.path("Microsoft.Network/networkInterfaces/none");
    let refused = async |plan: Option<&Value>| {
        let mut body = json!({"location": HOME, "properties": {
            "hardwareProfile": {"vmSize": "Standard_B1ls"},
            "storageProfile": {"imageReference": {"id": version}, "osDisk": {"createOption": "FromImage"}},
            "osProfile": {"computerName": "vm", "adminUsername": "azureuser", "adminPassword": "Correct-Horse-1"},
            "networkProfile": {"networkInterfaces": [{"id": interface}]}}});
        if let Some(plan) = plan {
            body["plan"] = plan.clone();
        }
        let reply = site.arm.send(Method::PUT, &machine, Some(&body)).await.unwrap();
        (reply.error_code().to_owned(), reply.error_message().to_owned())
    };
    let other = json!({"name": "hardened-2", "publisher": "contoso", "product": "hardened"});
    for (given, told) in [(None, "requires Plan information"), (Some(&other), "is not as expected")] {
        let (code, message) = refused(given).await;
        assert!(code == "VMMarketplaceInvalidInput" && message.contains(told), "{code}: {message}");
    }
    // With its plan it lacks nothing but its interface.
    let (code, message) = refused(Some(&plan)).await;
    assert!(code != "VMMarketplaceInvalidInput" && message.contains("networkInterfaces/none"), "{code}: {message}");
}

/// Results are there or not, each for itself, and the run says which. What was found wanting has failed, wherever it went; a run goes
/// on when its source goes, and the next one says that it is gone.
#[tokio::test]
async fn results_that_cannot_all_be_had_are_told() {
    let server = TestServer::start().await.unwrap();
    let site = Site { arm: server.arm().await.unwrap() };
    let identity = site.prepare(&guests::tiny().unwrap()).await;
    let source = site.path("Microsoft.Compute/galleries/g/images/linux/versions/1.0.0");
    let image = site.path("Microsoft.Compute/images/result");
    let distribute = json!([
        {"type": "SharedImage", "runOutputName": "gallery", "galleryImageId": source, "targetRegions": [{"name": HOME}]},
        {"type": "ManagedImage", "runOutputName": "image", "imageId": image, "location": HOME},
    ]);
    let customize = json!([{"type": "Shell", "inline": [OWN_DEPROVISIONING]}]);
    let properties = json!({"customize": customize, "distribute": distribute, "additionalDataDisks": [{"sizeGB": 1}]});
    let template = site.template("taken", &identity, properties).await;
    let (state, message) = site.fails(&template).await;
    assert_eq!(state, "PartiallySucceeded", "{message}");
    assert!(message.starts_with("Failed in distributing 1 images out of total 2: 'gallery': "), "{message}");
    assert!(message.contains("exists already"), "{message}");
    assert_eq!(site.output(&template, "gallery").await, Value::Null);
    assert_eq!(site.output(&template, "image").await["artifactId"], json!(image));
    let disks = site.arm.get(&image).await.unwrap()["properties"]["storageProfile"]["dataDisks"].clone();
    assert_eq!(
        (&disks[0]["lun"], &disks[0]["diskSizeGB"]),
        (&json!(0), &json!(1)),
        "data disks are part of the result"
    );

    // In another region, with its data disk, and found wanting.
    let image = site.path("Microsoft.Compute/images/elsewhere");
    let distribute =
        json!([{"type": "ManagedImage", "runOutputName": "image", "imageId": image, "location": "westus2"}]);
    let customize = json!([{"type": "Shell", "inline": ["sleep 10", OWN_DEPROVISIONING]}]);
    let wrong =
        json!({"continueDistributeOnFailure": true, "inVMValidations": [{"type": "Shell", "inline": ["exit 9"]}]});
    let properties = json!({"customize": customize, "validate": wrong, "distribute": distribute,
        "additionalDataDisks": [{"sizeGB": 1}]});
    let template = site.template("wanting", &identity, properties).await;
    let source_goes = async {
        site.customizes(&template).await;
        site.arm.delete(&source).await.unwrap();
    };
    let ((state, message), ()) = tokio::join!(site.fails(&template), source_goes);
    assert_eq!(state, "Failed", "{message}");
    assert!(message.starts_with("'Shell validate/0' ended with exit code 9"), "{message}");
    let shown = site.arm.get(&image).await.unwrap();
    let disks = &shown["properties"]["storageProfile"]["dataDisks"];
    assert_eq!((&shown["location"], &disks[0]["lun"]), (&json!("westus2"), &json!(0)), "{shown}");
    let (state, message) = site.fails(&template).await;
    assert_eq!(state, "Failed");
    assert!(message.contains("The source of the template cannot be used"), "{message}");
    assert_eq!(site.staged(&site.show(&template).await).await, ["Microsoft.Storage/storageAccounts"]);
}

/// A build machine in the template's own network has no public address, and reaches what is there (IB-8, IB-25); one elsewhere does not.
#[tokio::test]
async fn a_build_in_a_network_reaches_what_is_there_without_a_public_address() {
    let server = TestServer::start().await.unwrap();
    let site = Site { arm: server.arm().await.unwrap() };
    let identity = site.prepare(&guests::tiny().unwrap()).await;
    let source = site.path("Microsoft.Compute/galleries/g/images/linux/versions/1.0.0");
    let (subnet, address) = site.machine("config", HOME, &source, SERVES_SETTINGS).await;

    let inline = json!([format!("wget -qO- http://{address}:8080/settings | grep corporate"), OWN_DEPROVISIONING]);
    let image = site.path("Microsoft.Compute/images/configured");
    let template = site
        .template(
            "inside",
            &identity,
            json!({
                "vmProfile": {"vmSize": "Standard_B1ls", "vnetConfig": {"subnetId": subnet}},
                "customize": [{"type": "Shell", "name": "reach", "inline": inline}],
                "distribute": [{"type": "ManagedImage", "runOutputName": "image", "imageId": image, "location": HOME}],
            }),
        )
        .await;
    if let Err(error) = site.run(&template).await {
        panic!("{error:#}\n{}", server.log());
    }
    let addresses = site.arm.path("/providers/Microsoft.Network/publicIPAddresses");
    assert_eq!(site.arm.get(&addresses).await.unwrap()["value"], json!([]));

    // In a network of its own it does not reach it.
    let inline = json!([format!("if wget -T 10 -qO- http://{address}:8080/settings; then exit 1; else exit 7; fi")]);
    let customize = json!([{"type": "Shell", "name": "outside", "inline": inline}]);
    let distribute = json!([{"type": "VHD", "runOutputName": "vhd"}]);
    let template = site.template("outside", &identity, json!({"customize": customize, "distribute": distribute})).await;
    let (_, message) = site.fails(&template).await;
    assert!(message.starts_with("'outside' ended with exit code 7"), "{message}");
}

/// A start of the result is traced, and the trace is there with every image that was made of it, wherever it is.
#[tokio::test]
async fn the_trace_of_a_start_goes_along_with_the_results() {
    let server = TestServer::start().await.unwrap();
    let site = Site { arm: server.arm().await.unwrap() };
    let identity = site.prepare(&guests::tiny().unwrap()).await;
    let definition = site.path("Microsoft.Compute/galleries/g/images/linux");
    let image = site.path("Microsoft.Compute/images/quick");
    let properties = json!({
        "optimize": {"vmBoot": {"state": "Enabled"}},
        "customize": [{"type": "Shell", "name": "own", "inline": [OWN_DEPROVISIONING]}],
        "distribute": [
            {"type": "SharedImage", "runOutputName": "gallery", "galleryImageId": definition,
                "targetRegions": [{"name": HOME}, {"name": "westus"}]},
            {"type": "ManagedImage", "runOutputName": "image", "imageId": image, "location": HOME},
        ],
    });
    let template = site.template("quick", &identity, properties).await;
    let (told, ended) = site.logged(&template).await;
    ended.unwrap_or_else(|e| panic!("{e:#}\n{}", server.log()));
    assert!(told.contains("[optimize] --- the image was started once: first starts will fetch "), "{told}");
    let version = site.output(&template, "gallery").await["artifactId"].as_str().unwrap().to_owned();
    for image in [&version, &image] {
        let build = site.arm.get(&format!("{image}/build")).await.unwrap();
        let fetched = build["bootTrace"]["fetchedAheadBytes"].as_u64();
        // A kernel and an initial ramdisk at least, and not the whole disk.
        assert!(fetched.is_some_and(|bytes| (4 << 20..64 << 20).contains(&bytes)), "{image}: {build}");
    }
    // Hosts are told of it in each region, in one that is added later too.
    let path = format!("{version}?api-version=2024-03-03");
    let regions = json!([{"name": HOME}, {"name": "westus"}, {"name": "northeurope"}]);
    let body = json!({"properties": {"publishingProfile": {"targetRegions": regions}}});
    let reply = site.arm.send(Method::PATCH, &path, Some(&body)).await.unwrap();
    site.arm.finish(reply, &path).await.unwrap();
    for (name, region) in [("west", "westus"), ("north", "northeurope")] {
        site.machine(name, region, &version, "").await;
        let id = site.arm.get(&site.path(&format!("Microsoft.Compute/virtualMachines/{name}"))).await.unwrap();
        let id = id["properties"]["vmId"].as_str().unwrap();
        let told = std::fs::read_to_string(server.dir().join(format!("host/vms/{id}/vm.json"))).unwrap();
        let told: Value = serde_json::from_str(&told).unwrap();
        let source = told["os_disk"]["base"]["source"].as_str().unwrap();
        assert!(source.starts_with(&format!("{region}/")) && source.contains('+'), "{source}");
    }
    assert_eq!(site.staged(&site.show(&template).await).await, ["Microsoft.Storage/storageAccounts"]);
}

/// A baseline that a department goes on from (IB-5). Numbers follow their schemes, and each version keeps only what its build has
/// changed: a MiB that cannot be compressed, and what a boot leaves behind.
#[tokio::test]
async fn chained_builds_keep_only_what_they_change() {
    const WRITTEN: u64 = 1 << 20;
    let server = TestServer::start().await.unwrap();
    let site = Site { arm: server.arm().await.unwrap() };
    let identity = site.prepare(&guests::tiny().unwrap()).await;
    let chain = [("baseline", "linux", "Latest"), ("department", "baseline", "Source")];
    let mut templates = Vec::new();
    for (name, from, scheme) in chain {
        let definition = site.definition(name, None).await;
        let source = site.path(&format!("Microsoft.Compute/galleries/g/images/{from}/versions/latest"));
        let inline = json!([
            format!("head -c {WRITTEN} /dev/urandom | sudo tee /var/lib/{name} > /dev/null"),
            OWN_DEPROVISIONING
        ]);
        let properties = json!({
            "source": {"type": "SharedImageVersion", "imageVersionId": source},
            "customize": [{"type": "Shell", "name": name, "inline": inline}],
            "distribute": [{"type": "SharedImage", "runOutputName": "gallery", "galleryImageId": definition,
                "versioning": {"scheme": scheme}, "targetRegions": [{"name": HOME}]}],
        });
        // The first run of the template before has made what this one starts from.
        templates.push(site.template(name, &identity, properties).await);
        site.build(&server, templates.last().unwrap(), "1.0.0", WRITTEN).await;
    }
    for template in &templates {
        site.build(&server, template, "1.0.1", WRITTEN).await;
    }
}

/// Whatever stops a run at whatever moment: nothing is left of it, and the template can be run again. The moments come from a seed,
/// which is printed; `LAZULI_BUILDS_SEED` repeats them, `LAZULI_BUILDS_ROUNDS` asks for more than a few (scripts/test long builds).
#[tokio::test]
async fn runs_that_are_stopped_at_random_leave_nothing() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
    let rounds = number("LAZULI_BUILDS_ROUNDS").unwrap_or(3);
    let mut seed = number("LAZULI_BUILDS_SEED").unwrap_or_else(|| uuid::Uuid::new_v4().as_u64_pair().0);
    eprintln!("LAZULI_BUILDS_SEED={seed}");
    let mut server = TestServer::start().await.unwrap();
    let mut site = Site { arm: server.arm().await.unwrap() };
    let identity = site.prepare(&guests::tiny().unwrap()).await;
    let image = site.path("Microsoft.Compute/images/result");
    let template = site
        .template(
            "stopped",
            &identity,
            json!({
                "customize": [{"type": "Shell", "inline": [OWN_DEPROVISIONING]}],
                "optimize": {"vmBoot": {"state": "Enabled"}},
                "validate": {"inVMValidations": [{"type": "Shell", "inline": ["true"]}]},
                "distribute": [{"type": "ManagedImage", "runOutputName": "image", "imageId": image, "location": HOME}],
            }),
        )
        .await;
    let begin = Instant::now();
    site.run(&template).await.unwrap();
    let whole = begin.elapsed();
    for round in 0..rounds {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let moment = whole.mul_f64(f64::from(u32::try_from(seed >> 32).unwrap()) / f64::from(u32::MAX));
        let run = format!("{template}/run?api-version=2024-02-01");
        let accepted = site.arm.send(Method::POST, &run, None).await.unwrap();
        assert!(accepted.status.is_success(), "round {round}: {}", accepted.body);
        // The moment is the test's choice: there is nothing to wait for.
        tokio::time::sleep(moment).await;
        let phase = site.show(&template).await["properties"]["lastRunStatus"].clone();
        let kill = seed & 1 == 0;
        eprintln!("round {round}: {} after {moment:?}: {phase}", if kill { "kill" } else { "cancel" });
        if kill {
            server.kill().unwrap();
            server.restart().await.unwrap();
            site = Site { arm: server.arm().await.unwrap() };
        } else {
            let cancel = format!("{template}/cancel?api-version=2024-02-01");
            // It may have ended by itself.
            drop(site.arm.send(Method::POST, &cancel, None).await.unwrap());
        }
        let ended = async || {
            let shown = site.show(&template).await;
            let state = shown["properties"]["lastRunStatus"]["runState"].as_str().map(str::to_owned);
            state.filter(|s| s != "Running" && s != "Canceling").map(|_| shown)
        };
        let shown = wait_for("the run's end", Duration::from_secs(300), ended).await;
        eprintln!("round {round}: {}", shown["properties"]["lastRunStatus"]);
        assert_eq!(site.staged(&shown).await, ["Microsoft.Storage/storageAccounts"], "round {round}");
        assert_eq!(site.machines().await, Vec::<Value>::new(), "round {round}");
    }
    site.run(&template).await.unwrap();
}

/// Shell lines that make a Debian guest stand for Windows: the listener of the tests, and what provisions it.
fn stand_in() -> Vec<String> {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/winrm");
    let unit = "[Unit]\nAfter=network-online.target cloud-final.service\nWants=network-online.target\n[Service]\n\
                ExecStart=/opt/winrm/guest.py\nRestart=on-failure\nRestartSec=2\n[Install]\nWantedBy=cloud-init.target\n";
    let put = |path: &str, bytes: &[u8]| {
        use base64::Engine as _;
        let text = base64::engine::general_purpose::STANDARD.encode(bytes);
        format!("echo {text} | base64 -d | sudo tee {path} > /dev/null")
    };
    let mut lines = vec!["sudo mkdir -p /opt/winrm".to_owned()];
    for name in ["guest.py", "listener.py", "windows.py"] {
        lines.push(put(&format!("/opt/winrm/{name}"), &std::fs::read(from.join(name)).unwrap()));
    }
    lines.push("sudo chmod 755 /opt/winrm/guest.py /opt/winrm/listener.py".to_owned());
    lines.push(put("/etc/systemd/system/stand-in.service", unit.as_bytes()));
    lines.push("sudo systemctl enable stand-in.service".to_owned());
    lines
}

/// A whole build of a source whose system is called Windows. It is a Debian guest with the WinRM listener of the tests, which takes the
/// disc for Windows: everything that is not Windows itself is real. Several boots of Debian: `scripts/test long windows`.
#[tokio::test]
#[ignore = "minutes under emulation; scripts/test long windows"]
async fn a_source_with_windows_is_built_over_winrm() {
    let server = TestServer::start().await.unwrap();
    let site = Site { arm: server.arm().await.unwrap() };
    let identity = site.prepare(&guests::debian().unwrap()).await;
    let vhd = json!([{"type": "VHD", "runOutputName": "vhd"}]);
    let customize = json!([{"type": "Shell", "name": "stand-in", "inline": stand_in()}]);
    let profile = json!({"vmSize": "Standard_B1s"});
    let template = site
        .template("stand-in", &identity, json!({"customize": customize, "distribute": vhd, "vmProfile": profile}))
        .await;
    if let Err(error) = site.run(&template).await {
        panic!("{error:#}\n{}", server.log());
    }
    let output = site.show(&format!("{template}/runOutputs/vhd")).await;
    let os_disk =
        json!({"osType": "Windows", "osState": "Generalized", "blobUri": output["properties"]["artifactUri"]});
    let windows = "Microsoft.Compute/images/windows";
    let properties = json!({"hyperVGeneration": "V2", "storageProfile": {"osDisk": os_disk}});
    site.put(windows, json!({"location": HOME, "properties": properties})).await;

    let image = site.path("Microsoft.Compute/images/result");
    let system = json!(["test \"$RUN_AS\" = SYSTEM; echo built > /var/lib/windows/mark"]);
    let own = json!(["test \"$RUN_AS\" = packer; exit 3"]);
    let template = site
        .template("windows", &identity, json!({
            "source": {"type": "ManagedImage", "imageId": site.path(windows)},
            "vmProfile": profile,
            "customize": [
                {"type": "PowerShell", "name": "mark", "inline": system, "runElevated": true, "runAsSystem": true},
                {"type": "PowerShell", "name": "own", "inline": own, "runElevated": true, "validExitCodes": [0, 3]},
                {"type": "WindowsRestart", "name": "restart", "restartCheckCommand": "test -e /var/lib/windows/mark"},
                {"type": "WindowsUpdate", "name": "update"},
            ],
            "validate": {"inVMValidations": [{"type": "PowerShell", "name": "marked", "inline": ["grep built /var/lib/windows/mark"]}]},
            "distribute": [{"type": "ManagedImage", "runOutputName": "image", "imageId": image, "location": HOME}],
        }))
        .await;
    if let Err(error) = site.run(&template).await {
        panic!("{error:#}\n{}", server.log());
    }
    let shown = site.show(&template).await;
    assert_eq!(shown["properties"]["lastRunStatus"]["runState"], "Succeeded");
    assert_eq!(site.arm.get(&image).await.unwrap()["properties"]["storageProfile"]["osDisk"]["osType"], "Windows");
    assert_eq!(site.staged(&shown).await, ["Microsoft.Storage/storageAccounts"], "all else is gone");
}
