//! What a template sees of the world around its deployment.

use serde_json::{Value, json};

/// Where a deployment deploys to, and what its functions tell of that place. One instant for the whole deployment.
#[derive(Debug, Clone)]
pub struct Environment {
    pub tenant: String,
    /// Of deployments to a subscription or a group.
    pub subscription: Option<String>,
    /// Of deployments to a management group.
    pub management_group: Option<String>,
    /// Display name of the subscription, of the management group, or of the tenant that is deployed to.
    pub scope_name: String,
    /// What `resourceGroup()` shows (`id`, `name`, `location`, `tags`, …), of deployments to a group.
    pub group: Option<Value>,
    /// What `deployment()` shows.
    pub deployment: Value,
    /// `https://host:port` of this server.
    pub endpoint: String,
    /// Object id of who deploys.
    pub deployer: String,
    /// Login of a person who deploys; empty for others.
    pub deployer_login: String,
    /// Names and ids of the built-in roles.
    pub roles: Vec<(String, String)>,
    pub now: jiff::Timestamp,
}

/// To what a template deploys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Tenant,
    ManagementGroup,
    Subscription,
    Group,
}

pub(crate) fn management_group_id(name: &str) -> String {
    format!("/providers/Microsoft.Management/managementGroups/{name}")
}

impl Environment {
    pub fn level(&self) -> Level {
        match (&self.management_group, &self.subscription, &self.group) {
            (_, _, Some(_)) => Level::Group,
            (_, Some(_), None) => Level::Subscription,
            (Some(_), None, None) => Level::ManagementGroup,
            (None, None, None) => Level::Tenant,
        }
    }

    /// Name of the group that is deployed to.
    pub fn group_name(&self) -> Option<&str> {
        self.group.as_ref()?["name"].as_str()
    }

    /// `/subscriptions/S/resourceGroups/G`, `/subscriptions/S`, the management group, or nothing: what ids of resources begin with.
    pub fn scope(&self) -> String {
        if let Some(group) = &self.management_group {
            return management_group_id(group);
        }
        let subscription = self.subscription.as_ref().map_or_else(String::new, |s| format!("/subscriptions/{s}"));
        let group = self.group_name().map_or_else(String::new, |g| format!("/resourceGroups/{g}"));
        subscription + &group
    }

    pub(crate) fn subscription_value(&self) -> Option<Value> {
        let id = self.subscription.as_ref()?;
        Some(json!({"id": format!("/subscriptions/{id}"), "subscriptionId": id, "tenantId": self.tenant,
            "displayName": self.scope_name}))
    }

    /// What `managementGroup()` shows: each tenant has the one at its root, which has no parent.
    pub(crate) fn management_group_value(&self) -> Option<Value> {
        let name = self.management_group.as_ref()?;
        Some(
            json!({"id": management_group_id(name), "name": name, "type": "/providers/Microsoft.Management/managementGroups",
            "properties": {"details": {"parent": null}, "displayName": self.scope_name, "tenantId": self.tenant}}),
        )
    }

    pub(crate) fn tenant_value(&self) -> Value {
        json!({"countryCode": null, "displayName": null, "id": format!("/tenants/{}", self.tenant), "tenantId": self.tenant})
    }

    pub(crate) fn deployer_value(&self) -> Value {
        json!({"objectId": self.deployer, "tenantId": self.tenant, "userPrincipalName": self.deployer_login})
    }

    /// What `environment()` shows: every endpoint that this server has is its own.
    pub(crate) fn environment_value(&self) -> Value {
        let own = &self.endpoint;
        json!({
            "name": "Lazuli", "resourceManager": own, "portal": own,
            "authentication": {"loginEndpoint": own, "audiences": [own], "tenant": "common", "identityProvider": "AAD"},
            "suffixes": {"storage": own.trim_start_matches("https://")},
        })
    }
}
