//! Deployments of templates: what a request asks for, whether it can be done, and how it is shown.
//!
//! ```text
//! request ──read──▶ Input ──plan──▶ Plan (lazuli-template) ──preflight──▶ row + operation `deployment.run`
//!                     │
//!                     └─ sealed in the row; without its secrets once the deployment has ended
//! ```
//! Resources are written through the engine's ordinary doors under the rights of whoever deploys. Never here: a value of a secure
//! parameter in a row, a step, a log line or an answer.

mod facts;
mod hanging;
mod preflight;
pub(crate) mod records;
mod run;
mod view;
mod what_if;

pub(crate) use preflight::preflight;
pub(crate) use run::{run, undo};
pub(crate) use view::{body, show, validation};
pub(crate) use what_if::what_if;

use crate::call::{Call, Caller, Urls};
use crate::provider::Context;
use crate::{Engine, db_error};
use lazuli_arm::{Above, ApiVersion, ArmError, ResourceId, ResourceType};
use lazuli_meta::model::Resource;
use lazuli_template::{Environment, Level, Plan, Template};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

pub(crate) const KIND: &str = "Microsoft.Resources/deployments";
/// Whether a type is [`KIND`], or below it.
pub(crate) fn is_of_deployments(kind: &ResourceType) -> bool {
    let (own, of) = (kind.key(), KIND.to_ascii_lowercase());
    own.strip_prefix(&of).is_some_and(|below| below.is_empty() || below.starts_with('/'))
}

/// Kind of the operation that deploys.
pub(crate) const RUN: &str = "deployment.run";

/// All that a deployment was asked to do, fixed when it was accepted.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Input {
    pub template: Value,
    /// Of every parameter, defaults evaluated.
    pub parameters: Map<String, Value>,
    pub complete: bool,
    pub location: Option<String>,
    /// Of the subscription, or of what is above subscriptions.
    #[serde(alias = "subscriptionName")]
    pub scope_name: String,
    pub group: Option<Value>,
    pub now_ms: i64,
    pub who: Who,
}

/// Under whose rights, and by which URLs, resources are written.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Who {
    #[serde(flatten)]
    identity: Identity,
    /// Theirs in other tenants, as proved with the request.
    auxiliary: Vec<Identity>,
    arm: String,
    blob_suffix: Option<String>,
    correlation_id: String,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Identity {
    tenant: String,
    principal: String,
    app_id: String,
    display_name: String,
}

impl Identity {
    fn of(caller: &Caller) -> Self {
        Self {
            tenant: caller.tenant.clone(),
            principal: caller.principal.clone(),
            app_id: caller.app_id.clone(),
            display_name: caller.display_name.clone(),
        }
    }

    /// Of a person.
    fn login(&self) -> String {
        // Clients have a GUID here, logins an `@`.
        if self.app_id.contains('@') { self.app_id.clone() } else { String::new() }
    }

    fn caller(&self, auxiliary: Vec<Caller>) -> Caller {
        Caller {
            tenant: self.tenant.clone(),
            principal: self.principal.clone(),
            app_id: self.app_id.clone(),
            display_name: self.display_name.clone(),
            auxiliary,
            ..Caller::default()
        }
    }
}

/// `internal` of a deployment's row.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Internal {
    sealed: String,
}

/// Where the input is sealed for: the row with this key, and no other.
fn place(key: &str) -> String {
    format!("{key}#input")
}

impl Who {
    pub(crate) fn of(call: &Call) -> Self {
        Self {
            identity: Identity::of(&call.caller),
            auxiliary: call.caller.auxiliary.iter().map(Identity::of).collect(),
            arm: call.urls.arm.clone(),
            blob_suffix: call.urls.blob_suffix.clone(),
            correlation_id: call.correlation_id.clone(),
        }
    }

    /// An id as they mean it.
    pub(crate) fn id(&self, text: &str) -> Result<ResourceId, lazuli_arm::ParseIdError> {
        ResourceId::parse_in(text, &self.identity.tenant)
    }

    /// A request of theirs in this version of an API.
    pub(crate) fn call(&self, api_version: &str) -> Result<Call, ArmError> {
        let api_version = match api_version {
            "" => ApiVersion::latest(),
            text => ApiVersion::parse(Some(text))?,
        };
        Ok(Call {
            caller: self.identity.caller(self.auxiliary.iter().map(|i| i.caller(vec![])).collect()),
            urls: Urls { arm: self.arm.clone(), blob_suffix: self.blob_suffix.clone() },
            api_version,
            correlation_id: self.correlation_id.clone(),
            query: BTreeMap::new(),
            if_match: None,
            if_none_match: None,
        })
    }
}

impl Input {
    /// Reads the body of a PUT, of `validate` or of `whatIf`.
    ///
    /// # Errors
    /// `InvalidTemplate`, `InvalidDeployment`, and plain words for what is not offered.
    pub async fn read(cx: Context<'_>, id: &ResourceId, request: &Value) -> Result<(Self, Plan), ArmError> {
        check_name(id.name())?;
        let properties = match &request["properties"] {
            Value::Object(properties) => properties,
            _ => {
                return Err(ArmError::bad_request("InvalidRequestContent", "The request content has no 'properties'."));
            }
        };
        refuse_unoffered(properties)?;
        let complete = mode(properties.get("mode"), id)?;
        let location = request["location"].as_str().map(str::to_owned);
        if id.resource_group.is_none() && location.is_none() {
            return Err(ArmError::bad_request(
                "LocationRequired",
                "The location property is required for this definition: a deployment that is not to a resource group is recorded in a \
                 region.",
            ));
        }
        let (scope_name, group) = surroundings(cx.engine, cx.call, id).await?;
        let mut input = Self {
            template: properties.get("template").cloned().unwrap_or_default(),
            parameters: Map::new(),
            complete,
            location,
            scope_name,
            group,
            now_ms: cx.now_ms,
            who: Who::of(cx.call),
        };
        let template = Template::parse(&input.template)?;
        let environment = input.environment(id);
        check_level(template.level, environment.level())?;
        input.parameters = template.bind(properties.get("parameters").unwrap_or(&Value::Null), &environment)?;
        let plan = Plan::new(template, input.parameters.clone(), environment)?;
        Ok((input, plan))
    }

    /// What a row was given.
    pub fn of(engine: &Engine, row: &Resource) -> Result<Self, ArmError> {
        let internal: Internal = crate::stored::internal(row)?;
        let unreadable = |cause: ArmError| {
            ArmError::new(
                500,
                "InternalServerError",
                "What the deployment was given cannot be read any more. Deploy again.",
            )
            .caused_by(cause)
        };
        let input = engine.secrets().unseal(&place(&row.key), &internal.sealed).map_err(unreadable)?;
        serde_json::from_str(&input).map_err(ArmError::internal)
    }

    pub fn plan(&self, id: &ResourceId) -> Result<Plan, ArmError> {
        Plan::new(Template::parse(&self.template)?, self.parameters.clone(), self.environment(id))
    }

    /// As it is kept in the row.
    pub fn internal(&self, engine: &Engine, key: &str) -> Result<Value, ArmError> {
        let input = serde_json::to_string(self).map_err(ArmError::internal)?;
        Ok(crate::stored::to_internal(&Internal { sealed: engine.secrets().seal(&place(key), &input)? }))
    }

    /// Without what nobody needs any more.
    fn forget_secrets(&mut self) {
        if let Ok(template) = Template::parse(&self.template) {
            for name in template.secure_parameters() {
                self.parameters.insert(name.to_owned(), Value::Null);
            }
        }
    }

    /// The same with the values of secure parameters made unreadable: for what is shown.
    pub fn masked(mut self, id: &ResourceId) -> Result<(Self, Plan), ArmError> {
        for name in Template::parse(&self.template)?.secure_parameters() {
            if let Some(value) = self.parameters.get_mut(name) {
                what_if::masked(value);
            }
        }
        let plan = self.plan(id)?;
        Ok((self, plan))
    }

    fn environment(&self, id: &ResourceId) -> Environment {
        Environment {
            tenant: self.who.identity.tenant.clone(),
            subscription: id.above.is_none().then(|| id.subscription.clone()),
            management_group: match &id.above {
                Some(Above::ManagementGroup(name)) => Some(name.clone()),
                Some(Above::Tenant(_)) | None => None,
            },
            scope_name: self.scope_name.clone(),
            group: self.group.clone(),
            deployment: json!({
                "name": id.name(), "location": self.location,
                "properties": {"template": self.template, "templateHash": view::template_hash(&self.template),
                    "mode": view::mode(self.complete), "provisioningState": "Accepted"},
            }),
            endpoint: self.who.arm.clone(),
            deployer: self.who.identity.principal.clone(),
            deployer_login: self.who.identity.login(),
            roles: lazuli_authz::rbac::built_in_roles().into_iter().map(|r| (r.role_name, r.name)).collect(),
            now: jiff::Timestamp::from_millisecond(self.now_ms).unwrap_or(jiff::Timestamp::UNIX_EPOCH),
        }
    }
}

/// Name of the subscription, or of what is above subscriptions, and the group that is deployed to.
async fn surroundings(engine: &Engine, call: &Call, id: &ResourceId) -> Result<(String, Option<Value>), ArmError> {
    if let Some(above) = &id.above {
        engine.require_scope(&call.caller, id, &id.resource_type()).await?;
        let access = engine.access_of(&call.caller).await?;
        let tenant = access.tenants.iter().find(|t| t.id.eq_ignore_ascii_case(&call.caller.tenant));
        let name = match above {
            Above::Tenant(_) => tenant.map(|t| t.display_name.clone()),
            // Azure's name of the one that each tenant has.
            Above::ManagementGroup(_) => Some("Tenant Root Group".to_owned()),
        };
        return Ok((name.unwrap_or_default(), None));
    }
    let subscription = engine.require_subscription(&call.caller, &id.subscription).await?;
    let Some(name) = &id.resource_group else { return Ok((subscription.display_name, None)) };
    let group = ResourceId::group(&id.subscription, name);
    let row = engine.db().resource(&group.key()).await.map_err(db_error)?;
    let row = row.ok_or_else(|| ArmError::group_not_found(name))?;
    Ok((subscription.display_name, Some(crate::provider::standard_view("Microsoft.Resources/resourceGroups", &row))))
}

/// Azure's own rule for names of deployments.
fn check_name(name: &str) -> Result<(), ArmError> {
    let good = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '(' | ')');
    if !name.is_empty() && name.chars().count() <= 64 && name.chars().all(good) && !name.ends_with('.') {
        return Ok(());
    }
    Err(ArmError::bad_request(
        "InvalidDeploymentName",
        format!(
            "The deployment name '{name}' is not valid: it may have 1 to 64 letters, digits, '-', '_', '(', ')' and '.', and must \
             not end with a period."
        ),
    ))
}

fn mode(given: Option<&Value>, id: &ResourceId) -> Result<bool, ArmError> {
    let word = match given {
        None | Some(Value::Null) => "Incremental",
        Some(Value::String(word)) => word,
        Some(_) => "",
    };
    match word.to_ascii_lowercase().as_str() {
        "incremental" => Ok(false),
        "complete" if id.resource_group.is_some() => Ok(true),
        "complete" => Err(ArmError::bad_request(
            "InvalidDeployment",
            "The 'mode' property value 'Complete' is not supported for this deployment: only what is in a resource group can be deployed \
             in complete mode.",
        )),
        _ => Err(ArmError::bad_request(
            "InvalidDeployment",
            format!("The 'mode' property value '{word}' is invalid. The allowed values are 'Incremental, Complete'."),
        )),
    }
}

fn check_level(template: Level, target: Level) -> Result<(), ArmError> {
    let word = |level| match level {
        Level::Group => "resource group",
        Level::Subscription => "subscription",
        Level::ManagementGroup => "management group",
        Level::Tenant => "tenant",
    };
    // The schema of groups is in many templates that are for more.
    if template == target || template == Level::Group {
        return Ok(());
    }
    Err(ArmError::bad_request(
        "InvalidTemplate",
        format!(
            "Deployment template validation failed: 'The template's $schema is for deployments to a {}, while this is a deployment to a \
             {}'.",
            word(template),
            word(target)
        ),
    ))
}

/// What Azure has and this server has not: better refused than ignored.
fn refuse_unoffered(properties: &Map<String, Value>) -> Result<(), ArmError> {
    let given = |name: &str| properties.get(name).is_some_and(|v| !v.is_null());
    for (name, why) in [
        ("templateLink", "this server fetches no templates: send the template itself in 'template'"),
        ("parametersLink", "this server fetches no parameters: send them in 'parameters'"),
        ("onErrorDeployment", "deploying an earlier deployment again on error is not offered"),
        ("extensionConfigs", "extensions are not offered"),
    ] {
        if given(name) {
            return Err(ArmError::bad_request(
                "DeploymentPropertyNotSupported",
                format!("The deployment property '{name}' is not supported: {why}."),
            )
            .target(name));
        }
    }
    if !given("template") {
        return Err(ArmError::bad_request(
            "InvalidDeployment",
            "The deployment has no template: one of 'template' and 'templateLink' is required.",
        ));
    }
    Ok(())
}
