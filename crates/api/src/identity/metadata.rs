//! `GET /metadata/endpoints`: what a client needs to know of this cloud (az-cli.md §1).

use crate::context::Context;
use crate::net::hosts::Cloud;
use crate::respond::{self, Reply};
use http::StatusCode;
use serde_json::{Value, json};

/// An object for api-versions of 2022 and later, a list of clouds for older ones.
pub(crate) fn endpoints(context: &Context) -> Reply {
    let version = context.query.get("api-version").map_or("", String::as_str);
    let own = match context.cloud() {
        None => own_cloud(&context.base),
        Some(Cloud::Public) => azure_cloud(),
        Some(Cloud::China) => azure_china_cloud(),
    };
    let body = if version >= "2022" {
        own
    } else if version.starts_with("2015") {
        // The first form of this document, without suffixes.
        json!({
            "galleryEndpoint": own["gallery"], "graphEndpoint": own["graph"], "portalEndpoint": own["portal"],
            "authentication": own["authentication"],
        })
    } else {
        Value::from(vec![own])
    };
    respond::json(StatusCode::OK, &body)
}

/// This server under its own name. Its name is not `AzureCloud`: az would then insist on Azure's own sign-in host.
fn own_cloud(base: &str) -> Value {
    let authority = base.trim_start_matches("https://");
    let port = authority.rsplit_once(':').filter(|(_, p)| p.bytes().all(|b| b.is_ascii_digit()));
    // Account names become host labels; below an address they cannot, `localhost` takes them.
    let storage = port.map_or_else(|| "localhost".to_owned(), |(_, port)| format!("localhost:{port}"));
    json!({
        "name": "Lazuli",
        "portal": base,
        "resourceManager": base,
        "authentication": {
            "loginEndpoint": base, "audiences": [base, "https://management.azure.com/"],
            "tenant": "common", "identityProvider": "AAD",
        },
        "media": base,
        "graph": base,
        "graphAudience": base,
        "microsoftGraphResourceId": format!("{base}/graph"),
        "batch": base,
        "gallery": base,
        "sqlManagement": base,
        "activeDirectoryDataLake": base,
        "suffixes": {"storage": storage, "keyVaultDns": format!("vault.{authority}")},
    })
}

fn azure_cloud() -> Value {
    json!({
        "name": "AzureCloud",
        "portal": "https://portal.azure.com",
        "resourceManager": "https://management.azure.com/",
        "authentication": {
            "loginEndpoint": "https://login.microsoftonline.com",
            "audiences": ["https://management.core.windows.net/", "https://management.azure.com/"],
            "tenant": "common", "identityProvider": "AAD",
        },
        "media": "https://rest.media.azure.net",
        "graph": "https://graph.windows.net/",
        "graphAudience": "https://graph.windows.net/",
        "microsoftGraphResourceId": "https://graph.microsoft.com/",
        "batch": "https://batch.core.windows.net/",
        "gallery": "https://gallery.azure.com/",
        "sqlManagement": "https://management.core.windows.net:8443/",
        "activeDirectoryDataLake": "https://datalake.azure.net/",
        "vmImageAliasDoc":
            "https://raw.githubusercontent.com/Azure/azure-rest-api-specs/main/arm-compute/quickstart-templates/aliases.json",
        "suffixes": {
            "storage": "core.windows.net", "keyVaultDns": "vault.azure.net", "acrLoginServer": "azurecr.io",
            "sqlServerHostname": "database.windows.net", "azureDataLakeStoreFileSystem": "azuredatalakestore.net",
        },
    })
}

fn azure_china_cloud() -> Value {
    json!({
        "name": "AzureChinaCloud",
        "portal": "https://portal.azure.cn",
        "resourceManager": "https://management.chinacloudapi.cn",
        "authentication": {
            "loginEndpoint": "https://login.chinacloudapi.cn",
            "audiences": ["https://management.core.chinacloudapi.cn", "https://management.chinacloudapi.cn"],
            "tenant": "common", "identityProvider": "AAD",
        },
        "media": "https://rest.media.chinacloudapi.cn",
        "graph": "https://graph.chinacloudapi.cn",
        "graphAudience": "https://graph.chinacloudapi.cn",
        "microsoftGraphResourceId": "https://microsoftgraph.chinacloudapi.cn",
        "batch": "https://batch.chinacloudapi.cn",
        "gallery": "https://gallery.chinacloudapi.cn",
        "sqlManagement": "https://management.core.chinacloudapi.cn:8443",
        "activeDirectoryDataLake": "",
        "suffixes": {
            "storage": "core.chinacloudapi.cn", "keyVaultDns": "vault.azure.cn", "acrLoginServer": "azurecr.cn",
            "sqlServerHostname": "database.chinacloudapi.cn",
        },
    })
}
