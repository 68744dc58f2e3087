//! What is in the owner's tenant: one of each kind, with something in it that nobody else may see.

use crate::world::{SECRET, World};
use lazuli_meta::model::{Change, Expect, Resource, Write};
use serde_json::{Value, json};
use std::collections::BTreeMap;

impl World {
    pub async fn populate(&mut self) {
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
        w.put(&w.compute("availabilitySets/available"), json!({"tags": {"note": SECRET}})).await;
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
        w.machines(&link).await;
        w.templates(&link).await;
        w.deleted(&link).await;
        self.operation = operation;
        self.directory = self.people().await;
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
        let mut deployment = json!({"properties": {"mode": "Incremental", "template": template}});
        self.put_plain(&self.path("Resources", "deployments/deployment"), deployment.clone()).await;
        deployment["location"] = json!("eastus");
        for above in [String::new(), format!("/providers/Microsoft.Management/managementGroups/{}", self.tenant)] {
            let path = format!("{above}/providers/Microsoft.Resources/deployments/deployment");
            self.put_plain(&path, deployment.clone()).await;
        }
        self.put(&self.path("ManagedIdentity", "userAssignedIdentities/identity"), json!({})).await;
        let image = json!({"location": "eastus", "properties": {"osType": "Linux", "description": SECRET,
            "storageProfile": {"osDiskImage": {"source": link("Compute", "disks/disk")}},
            "publishingProfile": {"targetRegions": [{"name": "eastus"}]}}});
        let path = format!("/subscriptions/{}/providers/Lazuli.Images/platformImages/p:o:s:1.0.0", self.subscription);
        self.put_plain(&path, image).await;
    }

    async fn machines(&self, link: &impl Fn(&str, &str) -> Value) {
        let password = json!({"adminUsername": "azureuser", "adminPassword": "Tr0ub4dor&3"});
        let of_version = json!({"imageReference": link("Compute", "galleries/gallery/images/image/versions/1.0.0"),
            "osDisk": {"createOption": "FromImage"}});
        let named = |name: &str| {
            let mut profile = password.clone();
            profile[name] = json!("machine");
            profile
        };
        let machine = json!({"properties": {"hardwareProfile": {"vmSize": "Standard_B1s"}, "storageProfile": of_version,
            "osProfile": named("computerName"),
            "networkProfile": {"networkInterfaces": [link("Network", "networkInterfaces/nic")]}}});
        self.put(&self.compute("virtualMachines/machine"), machine).await;
        let script = json!({"properties": {"publisher": "Microsoft.Azure.Extensions", "type": "CustomScript",
            "typeHandlerVersion": "2.1", "forceUpdateTag": SECRET, "settings": {"commandToExecute": "true"}}});
        self.put(&self.compute("virtualMachines/machine/extensions/script"), script.clone()).await;
        let ip = json!({"name": "ip", "properties": {"subnet": link("Network", "virtualNetworks/net/subnets/subnet")}});
        let nic = json!({"name": "nic", "properties": {"primary": true, "ipConfigurations": [ip]}});
        let set = json!({"sku": {"name": "Standard_B1s", "capacity": 1}, "properties": {
            "orchestrationMode": "Uniform", "virtualMachineProfile": {"storageProfile": of_version,
                "osProfile": named("computerNamePrefix"), "networkProfile": {"networkInterfaceConfigurations": [nic]},
                "extensionProfile": {"extensions": [{"name": "script", "properties": script["properties"]}]}}}});
        self.put(&self.compute("virtualMachineScaleSets/set"), set).await;
    }

    async fn templates(&self, link: &impl Fn(&str, &str) -> Value) {
        let identity = self.path("ManagedIdentity", "userAssignedIdentities/identity");
        let shown = self.arm("GET", &identity, &self.owner, None).await.text().await.unwrap();
        let shown: Value = serde_json::from_str(&shown).unwrap();
        let group = format!("/subscriptions/{}/resourceGroups/rg1", self.subscription);
        let contributor = json!({"properties": {"principalId": shown["properties"]["principalId"], "roleDefinitionId":
            self.owner_role.replace(lazuli_authz::rbac::OWNER, lazuli_authz::rbac::CONTRIBUTOR)}});
        let assignment =
            format!("{group}/providers/Microsoft.Authorization/roleAssignments/22222222-0000-4000-8000-000000000001");
        self.put_plain(&assignment, contributor).await;
        let federated = json!({"properties": {"issuer": "https://issuer.example", "subject": SECRET,
            "audiences": ["api://AzureADTokenExchange"]}});
        self.put_plain(&format!("{identity}/federatedIdentityCredentials/federated"), federated).await;

        let source = link("Compute", "galleries/gallery/images/image/versions/latest");
        let template = json!({"identity": {"type": "UserAssigned", "userAssignedIdentities": {identity: {}}},
            "properties": {"source": {"type": "SharedImageVersion", "imageVersionId": source["id"]},
                "customize": [{"type": "Shell", "inline": ["true"]}],
                "distribute": [{"type": "VHD", "runOutputName": "output"}]}});
        let path = self.path("VirtualMachineImages", "imageTemplates/template");
        self.put(&path, template).await;
        let trigger = json!({"properties": {"kind": "SourceImage"}});
        self.put_plain(&format!("{path}/triggers/trigger"), trigger).await;
        // Runs alone write these.
        let key = path.to_ascii_lowercase();
        let output = Resource {
            key: format!("{key}/runoutputs/output"),
            sort_key: format!("{key}/runoutputs/output"),
            id: format!("{path}/runOutputs/output"),
            kind: "microsoft.virtualmachineimages/imagetemplates/runoutputs".into(),
            subscription: self.subscription.to_ascii_lowercase(),
            resource_group: "rg1".into(),
            parent: Some(key),
            name: "output".into(),
            location: String::new(),
            body: json!({"properties": {"artifactUri": SECRET}}),
            internal: json!({}),
            provisioning_state: "Succeeded".into(),
            etag: "1".into(),
            created_ms: 0,
            changed_ms: 0,
        };
        let changes = vec![Change::PutResource { resource: output, expect: Expect::Absent }];
        self.db.write(Write { fence: None, changes }).await.unwrap();
    }

    /// A version that is kept for a while after its deletion; the version of an application.
    async fn deleted(&self, link: &impl Fn(&str, &str) -> Value) {
        let gallery = self.compute("galleries/gallery");
        let policy = json!({"properties": {"softDeletePolicy": {"isSoftDeleteEnabled": true}}});
        let patched = self.arm("PATCH", &gallery, &self.owner, Some(policy)).await;
        self.done(patched).await;
        let definition = json!({"properties": {"osType": "Linux", "osState": "Generalized", "hyperVGeneration": "V2",
            "identifier": {"publisher": "p", "offer": "o", "sku": "gone"}}});
        self.put(&format!("{gallery}/images/gone"), definition).await;
        let version =
            json!({"properties": {"storageProfile": {"osDiskImage": {"source": link("Compute", "disks/disk")}}}});
        let path = format!("{gallery}/images/gone/versions/1.0.0");
        self.put(&path, version).await;
        let deleted = self.arm("DELETE", &path, &self.owner, None).await;
        self.done(deleted).await;

        let package = format!("{}/ownersaccount/data/blob", self.running.base_url);
        let version = json!({"properties": {"publishingProfile": {"source": {"mediaLink": package},
            "manageActions": {"install": "install", "remove": "remove"}, "targetRegions": [{"name": "eastus"}]}}});
        self.put(&format!("{gallery}/applications/app/versions/1.0.0"), version).await;
    }

    /// An object of each kind in the directory, with something that only its tenant may read.
    async fn people(&self) -> BTreeMap<&'static str, String> {
        let make = async |set: &str, body: Value| {
            let answer = self.graph("POST", set, &self.owner_graph, Some(body)).await;
            let (status, text) = (answer.status(), answer.text().await.unwrap());
            assert_eq!(status, 201, "{set}: {text}");
            serde_json::from_str::<Value>(&text).unwrap()
        };
        let id = |made: &Value| made["id"].as_str().unwrap().to_owned();
        let user = json!({"displayName": SECRET, "userPrincipalName": "user@contoso.example", "mailNickname": "user",
            "accountEnabled": true, "passwordProfile": {"password": "correct horse battery"}});
        let user = id(&make("users", user).await);
        let group =
            json!({"displayName": SECRET, "mailNickname": "group", "mailEnabled": false, "securityEnabled": true});
        let group = id(&make("groups", group).await);
        let member = json!({"@odata.id": format!("https://graph.microsoft.com/v1.0/directoryObjects/{user}")});
        let linked = self.graph("POST", &format!("groups/{group}/members/$ref"), &self.owner_graph, Some(member)).await;
        assert_eq!(linked.status(), 204);
        let application = make("applications", json!({"displayName": SECRET})).await;
        let principal = json!({"appId": application["appId"]});
        let principal = id(&make("servicePrincipals", principal).await);
        let application = id(&application);
        let federated = json!({"name": "federated", "issuer": "https://issuer.example", "subject": SECRET,
            "audiences": ["api://AzureADTokenExchange"]});
        make(&format!("applications/{application}/federatedIdentityCredentials"), federated).await;
        BTreeMap::from([
            ("related", user.clone()),
            ("users", user),
            ("groups", group),
            ("applications", application),
            ("servicePrincipals", principal),
            ("federated", "federated".to_owned()),
            ("cast", "microsoft.graph.user".to_owned()),
        ])
    }
}
