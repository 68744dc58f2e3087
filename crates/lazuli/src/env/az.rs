//! The files of az's configuration folder, in az's own formats.

use crate::credentials::Credentials;
use crate::files;
use anyhow::Context;
use serde_json::{Value, json};
use std::path::Path;

/// The registered cloud's name.
pub const CLOUD: &str = "Lazuli";

/// What `az cloud register` stores, and `az cloud set`.
pub fn register_cloud(folder: &Path, arm: &str) -> anyhow::Result<()> {
    files::private_dir(folder)?;
    files::replace(&folder.join("clouds.config"), cloud(arm).as_bytes(), 0o600)
}

/// The ini section of the cloud. Keys are the attributes of az's `CloudEndpoints` and `CloudSuffixes`.
fn cloud(arm: &str) -> String {
    const ENDPOINTS: &[&str] = &[
        "management",
        "resource_manager",
        "sql_management",
        "batch_resource_id",
        "gallery",
        "active_directory",
        "active_directory_resource_id",
        "active_directory_graph_resource_id",
        "media_resource_id",
        "portal",
    ];
    let authority = arm.trim_start_matches("https://");
    // As the server's own metadata says: account names become labels before it, which an address cannot carry.
    let storage = authority.rsplit_once(':').map_or_else(|| "localhost".to_owned(), |(_, p)| format!("localhost:{p}"));
    let mut text = format!("[{CLOUD}]\nprofile = latest\n");
    for name in ENDPOINTS {
        text.push_str(&format!("endpoint_{name} = {arm}\n"));
    }
    text.push_str(&format!("endpoint_microsoft_graph_resource_id = {arm}/graph\n"));
    text.push_str(&format!("suffix_storage_endpoint = {storage}\nsuffix_keyvault_dns = .vault.{authority}\n"));
    text
}

/// What `az cloud set` and `az login --service-principal` store. Other sign-ins in the folder are kept.
pub fn sign_in(folder: &Path, cloud: &str, credentials: &Credentials) -> anyhow::Result<()> {
    files::private_dir(folder)?;
    let config = folder.join("config");
    if !config.exists() {
        let text = format!("[cloud]\nname = {cloud}\n\n[core]\ncollect_telemetry = false\n");
        files::replace(&config, text.as_bytes(), 0o600)?;
    }
    let entries = folder.join("service_principal_entries.json");
    update(&entries, json!([]), |list| put_entry(list, credentials))?;
    let profile = folder.join("azureProfile.json");
    let new = json!({"installationId": uuid::Uuid::new_v4().to_string(), "subscriptions": []});
    update(&profile, new, |profile| put_subscription(profile, cloud, credentials))
}

fn update(path: &Path, new: Value, change: impl FnOnce(&mut Value)) -> anyhow::Result<()> {
    let text = files::read_if_there(path)?;
    let before = match &text {
        // az writes this file with a byte order mark.
        Some(text) => serde_json::from_str(text.trim_start_matches('\u{feff}'))
            .with_context(|| format!("{} is damaged; remove it", path.display()))?,
        None => new,
    };
    let mut after = before.clone();
    change(&mut after);
    if text.is_some() && before == after {
        return Ok(());
    }
    files::replace(path, after.to_string().as_bytes(), 0o600)
}

fn put_entry(list: &mut Value, credentials: &Credentials) {
    let entry = json!({
        "client_id": credentials.client_id,
        "tenant": credentials.tenant_id,
        "client_secret": credentials.client_secret,
    });
    put(list, entry, |e| e["client_id"] == *credentials.client_id && e["tenant"] == *credentials.tenant_id);
}

fn put_subscription(profile: &mut Value, cloud: &str, credentials: &Credentials) {
    let list = &mut profile["subscriptions"];
    let ours = |s: &Value| s["id"] == *credentials.subscription_id && s["environmentName"] == *cloud;
    let known = list.as_array().into_iter().flatten();
    if known.clone().any(|s| ours(s) && s["user"]["name"] == *credentials.client_id) {
        return;
    }
    let default = !known.clone().any(|s| !ours(s) && s["environmentName"] == *cloud && s["isDefault"] == true);
    let subscription = json!({
        "id": credentials.subscription_id,
        "name": "Lazuli",
        "state": "Enabled",
        "user": {"name": credentials.client_id, "type": "servicePrincipal"},
        "isDefault": default,
        "tenantId": credentials.tenant_id,
        "environmentName": cloud,
        "homeTenantId": credentials.tenant_id,
        "managedByTenants": [],
    });
    put(list, subscription, ours);
}

/// Replaces what `same` finds, or appends.
fn put(list: &mut Value, item: Value, same: impl Fn(&Value) -> bool) {
    match list.as_array_mut() {
        Some(items) => match items.iter_mut().find(|i| same(i)) {
            Some(old) => *old = item,
            None => items.push(item),
        },
        None => *list = json!([item]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials(secret: &str) -> Credentials {
        Credentials {
            tenant_id: "t".into(),
            subscription_id: "s".into(),
            object_id: "o".into(),
            client_id: "c".into(),
            client_secret: secret.into(),
            arm_endpoint: None,
            proxy_endpoint: None,
            ca_file: "/ca.pem".into(),
        }
    }

    fn read(folder: &Path, name: &str) -> Value {
        serde_json::from_str(&std::fs::read_to_string(folder.join(name)).unwrap()).unwrap()
    }

    #[test]
    fn signing_in_again_renews_the_secret_and_keeps_the_users_choice() {
        let temp = tempfile::tempdir().unwrap();
        sign_in(temp.path(), CLOUD, &credentials("old")).unwrap();
        let mut profile = read(temp.path(), "azureProfile.json");
        profile["subscriptions"][0]["isDefault"] = json!(false);
        std::fs::write(temp.path().join("azureProfile.json"), format!("\u{feff}{profile}")).unwrap();
        std::fs::write(temp.path().join("config"), "[cloud]\nname = Other\n").unwrap();

        sign_in(temp.path(), CLOUD, &credentials("new")).unwrap();
        let entries = read(temp.path(), "service_principal_entries.json");
        assert_eq!(entries, json!([{"client_id": "c", "tenant": "t", "client_secret": "new"}]));
        let text = std::fs::read_to_string(temp.path().join("azureProfile.json")).unwrap();
        assert!(text.contains("\"isDefault\":false"), "{text}");
        assert!(std::fs::read_to_string(temp.path().join("config")).unwrap().contains("Other"));
    }

    #[test]
    fn the_cloud_names_the_servers_port_everywhere() {
        let text = cloud("https://127.0.0.1:4711");
        assert!(text.contains("endpoint_active_directory = https://127.0.0.1:4711\n"), "{text}");
        assert!(text.contains("suffix_storage_endpoint = localhost:4711\n"), "{text}");
    }
}
