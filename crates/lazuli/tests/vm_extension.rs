//! What is run in a real guest by its agent: the custom script and VM applications, on one Debian. They fetch what they need, and are
//! shown as they ended.

use lazuli_testkit::{MachineSite, guests};
use reqwest::Method;
use serde_json::{Value, json};

const MACHINE: &str = "Microsoft.Compute/virtualMachines/vm0";
const EXTENSION: &str = "Microsoft.Compute/virtualMachines/vm0/extensions/script";
const ACCOUNT: &str = "Microsoft.Storage/storageAccounts/packages";
/// More than one read of the store, and no whole number of sectors.
const PACKAGE_LEN: usize = (3 << 20) + 77;

#[tokio::test]
#[ignore = "takes minutes under emulation: scripts/test long vm"]
async fn a_debian_runs_custom_scripts_and_installs_applications() {
    let site = MachineSite::start("V2", 1).await;
    let source = site.upload(&guests::debian().unwrap()).await;
    let image = site.version("Generalized", "1.0.0", json!({"osDiskImage": {"source": {"id": source}}})).await;
    applications(&site).await;
    let mut body = site.machine_body(0, &image, Some("azureuser"));
    body["properties"]["hardwareProfile"]["vmSize"] = json!("Standard_B1s");
    body["properties"]["applicationProfile"] = profile(&site, &[("tool", "1.0.0")]);
    site.put(MACHINE, body).await;
    custom_scripts(&site).await;
    applications_come_and_go(&site).await;
}

fn script(settings: &Value, protected: &Value) -> Value {
    json!({"location": "eastus", "properties": {"publisher": "Microsoft.Azure.Extensions", "type": "CustomScript",
        "typeHandlerVersion": "2.1", "settings": settings, "protectedSettings": protected}})
}

/// The extension of this name, as the machine's instance view has it.
async fn shown(site: &MachineSite, name: &str) -> Value {
    let view = site.arm.get(&format!("{}/instanceView", site.machine_path(0))).await.expect("an instance view");
    let all = view["extensions"].as_array().cloned().unwrap_or_default();
    all.into_iter().find(|e| e["name"] == name).unwrap_or_else(|| panic!("no {name}: {view}"))
}

async fn custom_scripts(site: &MachineSite) {
    let command =
        json!({"commandToExecute": "echo $(hostname) is $(id -un); echo noted >&2; echo here > /var/tmp/mark"});
    let put = site.put(EXTENSION, script(&command, &json!({}))).await;
    assert_eq!(put["properties"]["provisioningState"], "Succeeded");
    let status = async || shown(site, "script").await["statuses"][0].clone();
    let first = status().await;
    assert_eq!(first["code"], "ProvisioningState/succeeded");
    let message = first["message"].as_str().unwrap_or_default().to_owned();
    assert_eq!(message.trim(), "Enable succeeded: \n[stdout]\nvm0 is root\n\n[stderr]\nnoted");
    assert_eq!(site.run(0, "azureuser", "cat /var/tmp/mark").await, "here");

    // `#!/bin/sh` and `echo "$0"; exit 7`.
    let failing = json!({"script": "IyEvYmluL3NoCmVjaG8gIiQwIjsgZXhpdCA3Cg=="});
    let error = site.arm.put(&site.path(EXTENSION), &script(&json!({}), &failing)).await.expect_err("it fails");
    let error = format!("{error:#}");
    assert!(error.contains("command terminated with exit status=7") && error.contains("./script.sh"), "{error}");
    assert_eq!(status().await["level"], "Error");
}

fn package() -> Vec<u8> {
    (0..PACKAGE_LEN).map(|n| u8::try_from(n % 251).unwrap_or_default()).collect()
}

/// Application `tool` in versions 1.0.0 and 2.0.0, and `broken`.
async fn applications(site: &MachineSite) {
    site.put(ACCOUNT, json!({"kind": "StorageV2", "sku": {"name": "Standard_LRS"}})).await;
    let container = format!("{ACCOUNT}/blobServices/default/containers/apps");
    site.arm.put(&site.path(&container), &json!({"properties": {}})).await.expect("a container");
    let rights = json!({"canonicalizedResource": "/blob/packages/apps", "signedResource": "c", "signedPermission": "rcw",
        "signedExpiry": "2099-01-01T00:00:00Z"});
    let sas = site.arm.post(&format!("{}/listServiceSas", site.path(ACCOUNT)), Some(&rights)).await.expect("a SAS");
    let sas = sas["serviceSasToken"].as_str().expect("a SAS").to_owned();
    let endpoint = site.server.credential("armEndpoint").to_owned();
    for (name, bytes) in [("package", package()), ("config", b"name=value\n".to_vec())] {
        let request = site.arm.http().put(format!("{endpoint}/packages/apps/{name}?{sas}"));
        let request = request.header("x-ms-version", "2021-12-02").header("x-ms-blob-type", "BlockBlob").body(bytes);
        let answer = request.send().await.expect("the blob service answers");
        assert!(answer.status().is_success(), "{name}: {}", answer.text().await.unwrap_or_default());
    }
    for name in ["tool", "broken"] {
        let application = format!("Microsoft.Compute/galleries/g/applications/{name}");
        site.put(&application, json!({"properties": {"supportedOSType": "Linux"}})).await;
    }
    let source = json!({"mediaLink": format!("{endpoint}/packages/apps/package"),
        "defaultConfigurationLink": format!("{endpoint}/packages/apps/config")});
    let version = async |name: &str, version: &str, actions: Value| {
        let profile = json!({"source": source, "manageActions": actions, "targetRegions": [{"name": "eastus"}],
            "settings": {"packageFileName": "tool.bin"}});
        let below = format!("Microsoft.Compute/galleries/g/applications/{name}/versions/{version}");
        site.put(&below, json!({"properties": {"publishingProfile": profile}})).await;
    };
    let install = "sha256sum < tool.bin > /opt/sum && cp tool_config /opt/config && pwd > /opt/where";
    let remove = "echo removed >> /opt/where; rm /opt/sum /opt/config";
    version("tool", "1.0.0", json!({"install": install, "remove": remove})).await;
    let update = "set -e; test -f tool.bin; echo 2 >> /opt/config";
    version("tool", "2.0.0", json!({"install": "false", "remove": remove, "update": update})).await;
    let failing = "echo there is no room >&2; exit 9";
    version("broken", "1.0.0", json!({"install": failing, "remove": "true"})).await;
}

fn profile(site: &MachineSite, names: &[(&str, &str)]) -> Value {
    let id = |(name, version): &(&str, &str)| {
        site.path(&format!("Microsoft.Compute/galleries/g/applications/{name}/versions/{version}"))
    };
    let entries: Vec<Value> = names.iter().map(|n| json!({"packageReferenceId": id(n)})).collect();
    json!({ "galleryApplications": entries })
}

async fn applications_come_and_go(site: &MachineSite) {
    let folder = "/var/lib/waagent/Microsoft.CPlat.Core.VMApplicationManagerLinux";
    // Installed with the machine.
    let digest = {
        use std::io::Write as _;
        use std::process::{Command, Stdio};
        let mut sum =
            Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("sha256sum");
        sum.stdin.take().expect("a pipe").write_all(&package()).expect("it reads");
        String::from_utf8(sum.wait_with_output().expect("it ends").stdout).expect("text").trim().to_owned()
    };
    let status = async || shown(site, "VMAppExtension").await;
    let first = status().await;
    assert_eq!(first["statuses"][0]["code"], "ProvisioningState/succeeded", "{first}");
    assert_eq!(first["substatuses"][0]["message"], "Install SUCCESS");
    assert_eq!(site.run(0, "azureuser", "cat /opt/sum").await, digest, "the very bytes of the package");
    assert_eq!(site.run(0, "azureuser", "cat /opt/config").await, "name=value");
    assert_eq!(site.run(0, "azureuser", "cat /opt/where").await, format!("{folder}/tool/1.0.0"));

    let set = async |names: &[(&str, &str)]| {
        let patch = json!({"properties": {"applicationProfile": profile(site, names)}});
        let path = site.machine_path(0);
        let accepted = site.arm.send(Method::PATCH, &path, Some(&patch)).await.expect("an answer");
        site.arm.finish(accepted, &path).await
    };
    set(&[("tool", "2.0.0"), ("broken", "1.0.0")]).await.expect("a failure fails no machine that is not to fail");
    assert_eq!(site.run(0, "azureuser", "tail -n 1 /opt/config").await, "2");
    let second = status().await;
    assert_eq!(second["substatuses"][0]["message"], "Update SUCCESS");
    let failure = second["substatuses"][1]["message"].as_str().unwrap_or_default().to_owned();
    assert!(failure.contains("exit status=9") && failure.contains("there is no room"), "{failure}");

    set(&[]).await.expect("all are removed");
    assert_eq!(site.run(0, "azureuser", "tail -n 1 /opt/where; ls /opt").await, "removed\nwhere");
    let gone = format!("sudo test ! -e {folder}/tool/2.0.0 && echo gone");
    assert_eq!(site.run(0, "azureuser", &gone).await, "gone");
}
