//! The custom script on a real guest: it is run by the agent of a Debian, fetches what it needs, and is shown as it ended.

use lazuli_testkit::{MachineSite, guests};
use serde_json::{Value, json};

const EXTENSION: &str = "Microsoft.Compute/virtualMachines/vm0/extensions/script";

fn script(settings: &Value, protected: &Value) -> Value {
    json!({"properties": {"publisher": "Microsoft.Azure.Extensions", "type": "CustomScript", "typeHandlerVersion": "2.1",
        "settings": settings, "protectedSettings": protected}})
}

#[tokio::test]
#[ignore = "takes minutes under emulation: scripts/test long vm"]
async fn a_debian_runs_custom_scripts() {
    let site = MachineSite::start("V2", 1).await;
    let source = site.upload(&guests::debian().unwrap()).await;
    let image = site.version("Generalized", "1.0.0", json!({"osDiskImage": {"source": {"id": source}}})).await;
    let mut body = site.machine_body(0, &image, Some("azureuser"));
    body["properties"]["hardwareProfile"]["vmSize"] = json!("Standard_B1s");
    site.put("Microsoft.Compute/virtualMachines/vm0", body).await;

    // At once: the guest has reported that it is provisioned, its agent comes up later.
    let command =
        json!({"commandToExecute": "echo $(hostname) is $(id -un); echo noted >&2; echo here > /var/tmp/mark"});
    let shown = site.put(EXTENSION, script(&command, &json!({}))).await;
    assert_eq!(shown["properties"]["provisioningState"], "Succeeded");
    let status = async || {
        let view = site.arm.get(&format!("{}/instanceView", site.machine_path(0))).await.expect("an instance view");
        view["extensions"][0]["statuses"][0].clone()
    };
    let first = status().await;
    assert_eq!(first["code"], "ProvisioningState/succeeded");
    let message = first["message"].as_str().unwrap_or_default().to_owned();
    assert_eq!(message.trim(), "Enable succeeded: \n[stdout]\nvm0 is root\n\n[stderr]\nnoted");
    assert_eq!(site.run(0, "azureuser", "cat /var/tmp/mark").await, "here");

    // `#!/bin/sh` and `echo "$0"; exit 7`.
    let failing = json!({"script": "IyEvYmluL3NoCmVjaG8gIiQwIjsgZXhpdCA3Cg=="});
    let mut body = script(&json!({}), &failing);
    body["location"] = json!("eastus");
    let error = site.arm.put(&site.path(EXTENSION), &body).await.expect_err("it fails");
    let error = format!("{error:#}");
    assert!(error.contains("command terminated with exit status=7") && error.contains("./script.sh"), "{error}");
    assert_eq!(status().await["level"], "Error");
}
