//! Extensions of machines: the custom script runs in the guest once for each set of settings, and is shown as it ended.

use super::site::{Site, VM, until};
use crate::call::Call;
use lazuli_arm::{ArmError, ResourceId, ResourceType};
use serde_json::{Value, json};

pub(super) const EXTENSION: &str = "virtualMachines/vm1/extensions/script";

pub(super) fn extension(settings: &Value, protected: &Value) -> Value {
    json!({"location": "eastus", "properties": {"publisher": "Microsoft.Azure.Extensions", "type": "CustomScript",
        "typeHandlerVersion": "2.1", "autoUpgradeMinorVersion": true, "settings": settings, "protectedSettings": protected}})
}

impl Site {
    async fn set(&self, settings: Value, protected: Value) -> Result<Value, ArmError> {
        self.server.put(EXTENSION, extension(&settings, &protected)).await
    }

    async fn status(&self) -> Value {
        let call = expanding(&self.server.call);
        let shown = self.server.engine.get(&call, &self.server.id(EXTENSION)).await.unwrap();
        shown["properties"]["instanceView"]["statuses"][0].clone()
    }
}

fn expanding(call: &Call) -> Call {
    let mut call = call.clone();
    call.query.insert("$expand".into(), "instanceView".into());
    call
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_runs_once_for_each_set_of_settings() {
    let site = Site::start().await;
    let server = &site.server;
    let missing = site.set(json!({"commandToExecute": "true"}), json!({})).await.unwrap_err();
    assert_eq!(missing.status, 404, "its machine is not there: {missing}");
    site.create(|_| {}).await.unwrap();

    let files = json!({"fileUris": ["https://h/a.sh?sig=s"]});
    let shown = site.set(files.clone(), json!({"commandToExecute": "sh a.sh a-secret"})).await.unwrap();
    assert_eq!(shown["properties"]["provisioningState"], "Succeeded");
    assert_eq!(shown["type"], "Microsoft.Compute/virtualMachines/extensions");
    assert!(!shown.to_string().contains("a-secret"), "protected settings are never shown");
    assert!(!server.internal(EXTENSION).await["sealed"].to_string().contains("a-secret"), "nor kept readable");
    let first = site.status().await;
    let message = first["message"].as_str().unwrap();
    assert!(message.starts_with("Enable succeeded: \n[stdout]\n"), "{message}");
    assert!(
        message.contains(
            "custom-script,/var/lib/waagent/custom-script/download/0,command,https://h/a.sh?sig=s|sh a.sh a-secret"
        ),
        "{message}"
    );

    site.set(files.clone(), json!({"commandToExecute": "sh a.sh a-secret"})).await.unwrap();
    assert_eq!(site.status().await, first, "the same settings are not run again");
    site.set(files, json!({"script": "dHJ1ZQ=="})).await.unwrap();
    let again = site.status().await;
    assert!(
        again["message"]
            .as_str()
            .unwrap()
            .contains("custom-script,/var/lib/waagent/custom-script/download/1,script,https://h/a.sh?sig=s|dHJ1ZQ=="),
        "{again}"
    );

    let view = server.engine.view(&server.call, &server.id(VM), "instanceView").await.unwrap().unwrap();
    assert_eq!(view["extensions"][0]["type"], "Microsoft.Azure.Extensions.CustomScript");
    assert_eq!(view["extensions"][0]["statuses"][0], again);
    assert_eq!(view["vmAgent"]["extensionHandlers"][0]["status"]["displayStatus"], "Ready");
    assert_eq!(server.list(VM, "Microsoft.Compute/virtualMachines/extensions").await, ["script"]);

    let second = extension(&json!({"commandToExecute": "true"}), &Value::Null);
    let error = server.put("virtualMachines/vm1/extensions/other", second).await.unwrap_err();
    assert!(error.message.starts_with("Multiple VMExtensions per handler"), "{error}");
    server.delete(EXTENSION).await.unwrap();
    assert_eq!(server.get(EXTENSION).await.unwrap_err().status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_told_and_kept() {
    let site = Site::start().await;
    let server = &site.server;
    site.create(|_| {}).await.unwrap();
    let error = site.set(json!({"commandToExecute": "exit 3"}), Value::Null).await.unwrap_err();
    assert_eq!(error.code, "VMExtensionProvisioningError");
    assert!(error.message.contains("command terminated with exit status=3"), "{error}");
    assert_eq!(server.get(EXTENSION).await.unwrap()["properties"]["provisioningState"], "Failed");
    let status = site.status().await;
    assert_eq!((&status["code"], &status["level"]), (&json!("ProvisioningState/failed/1"), &json!("Error")));
    assert_eq!(server.get(VM).await.unwrap()["properties"]["provisioningState"], "Succeeded", "its machine is well");

    let error = site.set(json!({"commandToExecute": "a", "script": "b"}), Value::Null).await.unwrap_err();
    assert!(error.message.contains("invalid configuration: 'commandToExecute' and 'script'"), "{error}");
    let mut suppressed = extension(&json!({"commandToExecute": "exit 3 # again"}), &Value::Null);
    suppressed["properties"]["suppressFailures"] = json!(true);
    let shown = server.put(EXTENSION, suppressed).await.unwrap();
    assert_eq!(shown["properties"]["provisioningState"], "Succeeded");
    assert_eq!(site.status().await["level"], "Error");

    site.fake.stop_agent(site.vm_id().await);
    let error = site.set(json!({"commandToExecute": "true"}), Value::Null).await.unwrap_err();
    assert_eq!(error.code, "VMAgentStatusCommunicationError");
    site.power("deallocate").await.unwrap();
    let error = site.set(json!({"commandToExecute": "false"}), Value::Null).await.unwrap_err();
    assert_eq!(error.message, "Cannot modify extensions in the VM when the VM is not running.");
    // It goes with its machine.
    server.delete(VM).await.unwrap();
    assert_eq!(server.get(EXTENSION).await.unwrap_err().status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_catalogue_says_what_there_is() {
    let site = Site::start().await;
    let server = &site.server;
    let base = format!("/subscriptions/{}/providers/Microsoft.Compute/locations/eastus", server.group.subscription);
    let list = async |parent: &str, word: &str| {
        let parent: ResourceId = parent.parse().unwrap();
        let mut types: Vec<String> = parent.resource_type().types;
        types.push(word.to_owned());
        let collection = ResourceType { namespace: "Microsoft.Compute".into(), types };
        let listed = server.engine.list(&server.call, &parent, &collection).await?;
        Ok::<_, ArmError>(listed.items.iter().map(|i| i["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>())
    };
    assert_eq!(list(&base, "publishers").await.unwrap(), ["Microsoft.Azure.Extensions"]);
    let of = |publisher: &str| format!("{base}/publishers/{publisher}/artifacttypes/vmextension");
    assert_eq!(list(&of("microsoft.azure.extensions"), "types").await.unwrap(), ["CustomScript"]);
    let kind = format!("{}/types/customscript", of("Microsoft.Azure.Extensions"));
    assert_eq!(list(&kind, "versions").await.unwrap(), ["2.1.10"]);
    assert_eq!(list(&of("Canonical"), "types").await.unwrap_err().status, 404);
    let one: ResourceId = format!("{kind}/versions/2.1.10").parse().unwrap();
    assert_eq!(server.engine.get(&server.call, &one).await.unwrap()["properties"]["operatingSystem"], "Linux");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_comes_up_later_is_waited_for() {
    let site = Site::configured(|c| c.agent_time = std::time::Duration::from_secs(600)).await;
    site.create(|_| {}).await.unwrap();
    let id = site.vm_id().await;
    site.fake.stop_agent(id);
    let body = extension(&json!({"commandToExecute": "true"}), &Value::Null);
    let written = site.server.engine.put(&site.server.call, &site.server.id(EXTENSION), body).await.unwrap();
    let operation = written.operation.unwrap();
    let phase = async || site.server.engine.db().operation(&operation).await.unwrap().unwrap().phase;
    until("it waits", async || phase().await == "waiting for the guest's agent").await;
    site.fake.start_agent(id);
    site.server.end(&operation).await.unwrap();
    assert_eq!(site.status().await["code"], "ProvisioningState/succeeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_without_an_agent_takes_no_extensions() {
    let site = Site::start().await;
    let server = &site.server;
    site.create(|b| b["properties"]["osProfile"]["linuxConfiguration"] = json!({"provisionVMAgent": false}))
        .await
        .unwrap();
    let told = "This operation cannot be performed when extension operations are disallowed.";
    let extension = site.set(json!({"commandToExecute": "true"}), json!({})).await.unwrap_err();
    let request = json!({"commandId": "RunShellScript", "script": ["true"]});
    let command = server.engine.action(&server.call, &server.id(VM), "runCommand", request).await.unwrap_err();
    for error in [extension, command] {
        assert_eq!((error.status, error.code.as_str()), (409, "OperationNotAllowed"));
        assert!(error.message.starts_with(told), "{error}");
    }
}
