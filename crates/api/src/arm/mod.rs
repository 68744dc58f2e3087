//! Azure Resource Manager's front: a path becomes a resource id, a method becomes a call, a result becomes the status
//! and headers that clients expect of that type ([`lro`]).
//!
//! Nothing here knows what a resource means.

mod answer;
mod catalogue;
mod extension;
mod log_stream;
pub(crate) mod lro;
mod operations;
mod writes;

use crate::app::{App, method_not_allowed, no_route};
use crate::context::Context;
use crate::respond::{self, Reply};
use http::{HeaderName, Method, StatusCode, header};
use lazuli_arm::{ApiVersion, ArmError, ParseIdError, ResourceId, ResourceType, Target, parse_target, parse_target_in};
use lazuli_engine::call::{Call, Caller, Listing, ProviderInfo, Urls};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::sync::Arc;

const DEPLOYMENTS: &str = "microsoft.resources/deployments";

/// Everything that the answer to one management request needs.
pub(crate) struct Arm<'a> {
    pub app: &'a Arc<App>,
    pub context: &'a Arc<Context>,
    pub call: Call,
    pub body: &'a [u8],
}

/// Answers an authenticated management request.
pub(crate) async fn handle(
    app: &Arc<App>,
    context: &Arc<Context>,
    caller: Caller,
    body: &[u8],
) -> Result<Reply, ArmError> {
    let arm = Arm { app, context, call: call(context, caller)?, body };
    let reply = dispatch(&arm).await?;
    // Who may ask for it is asked of every route of the table (tests/hostile): what is not in the table, nobody has looked at.
    debug_assert!(
        !reply.status().is_success() || app.backend.has_route(context.method.as_str(), &with_provider(&context.path)),
        "{} {} is in no table of routes (engine/src/routes.rs)",
        context.method,
        context.path
    );
    Ok(reply)
}

async fn dispatch(arm: &Arm<'_>) -> Result<Reply, ArmError> {
    let context = arm.context;
    if let Some(reply) = extension::handle(arm).await? {
        return Ok(reply);
    }
    if let Some(reply) = catalogue::handle(arm).await? {
        return Ok(reply);
    }
    if let Some(reply) = operations::handle(arm).await? {
        return Ok(reply);
    }
    if let Some((parent, collection)) = generic_list(context) {
        return arm.list(&parent, &collection).await;
    }
    if let Some((group, action)) = group_action(context) {
        return arm.action(&group, &action).await;
    }
    match target(arm).map_err(|e| no_route(context).caused_by(e))? {
        Target::Resource(id) => arm.resource(&id).await,
        Target::Collection { parent, collection } => arm.collection(&parent, &collection).await,
    }
}

/// What a path leads to. Above subscriptions there are deployments alone: the caller's tenant's, and those of management groups.
fn target(arm: &Arm<'_>) -> Result<Target, ParseIdError> {
    let path = with_provider(&arm.context.path);
    let found = parse_target_in(&path, &arm.call.caller.tenant)?;
    let (id, kind) = match &found {
        Target::Resource(id) => (id, id.resource_type().key()),
        Target::Collection { parent, collection } => (parent, collection.key()),
    };
    let is_deployment = kind.strip_prefix(DEPLOYMENTS).is_some_and(|below| below.is_empty() || below.starts_with('/'));
    if id.above.is_none() || is_deployment { Ok(found) } else { parse_target(&path) }
}

fn call(context: &Context, caller: Caller) -> Result<Call, ArmError> {
    let condition = |name: HeaderName| context.header(name.as_str()).map(|v| bare_etag(&v));
    Ok(Call {
        caller,
        urls: Urls { arm: context.base.clone(), blob_suffix: context.blob_suffix() },
        api_version: ApiVersion::parse(context.query.get("api-version").map(String::as_str))?,
        correlation_id: context.correlation_id.clone(),
        query: context.query.clone(),
        if_match: condition(header::IF_MATCH),
        if_none_match: condition(header::IF_NONE_MATCH),
    })
}

/// `W/"x"` and `"x"` are `x`; `*` stays.
fn bare_etag(value: &str) -> String {
    value.trim().trim_start_matches("W/").trim_matches('"').to_owned()
}

/// `…/resourceGroups/G/deployments/…`, without a provider, is how Azure's description writes the operations of a deployment.
fn with_provider(path: &str) -> Cow<'_, str> {
    let segments: Vec<&str> = path.split('/').filter(|s| !s.is_empty()).collect();
    match segments.as_slice() {
        [subscriptions, id, groups, group, deployments, rest @ ..]
            if groups.eq_ignore_ascii_case("resourceGroups") && deployments.eq_ignore_ascii_case("deployments") =>
        {
            let mut whole = format!("/{subscriptions}/{id}/{groups}/{group}/providers/Microsoft.Resources/deployments");
            for segment in rest {
                whole.push('/');
                whole.push_str(segment);
            }
            Cow::Owned(whole)
        }
        _ => Cow::Borrowed(path),
    }
}

/// `{subscription or group}/resources`: the generic list, which has no namespace in its path.
fn generic_list(context: &Context) -> Option<(ResourceId, ResourceType)> {
    let segments = context.segments();
    let is = |i: usize, word: &str| segments[i].eq_ignore_ascii_case(word);
    let parent = match segments.len() {
        3 if is(0, "subscriptions") && is(2, "resources") => ResourceId::subscription(segments[1]),
        5 if is(0, "subscriptions") && is(2, "resourceGroups") && is(4, "resources") => {
            ResourceId::group(segments[1], segments[3])
        }
        _ => return None,
    };
    let collection = ResourceType { namespace: "Microsoft.Resources".into(), types: vec!["resources".into()] };
    Some((parent, collection))
}

/// `POST {group}/{action}`: an action of the group itself, which has no namespace in its path.
fn group_action(context: &Context) -> Option<(ResourceId, String)> {
    match context.segments().as_slice() {
        [subscriptions, id, groups, group, action]
            if context.method == Method::POST
                && subscriptions.eq_ignore_ascii_case("subscriptions")
                && groups.eq_ignore_ascii_case("resourceGroups") =>
        {
            Some((ResourceId::group(id, group), (*action).to_owned()))
        }
        _ => None,
    }
}

impl Arm<'_> {
    async fn resource(&self, id: &ResourceId) -> Result<Reply, ArmError> {
        match self.context.method {
            Method::GET => self.get(id).await,
            Method::HEAD => self.app.backend.get(&self.call, id).await.map(|_| respond::empty(StatusCode::NO_CONTENT)),
            Method::PUT => self.put(id).await,
            Method::PATCH => self.patch(id).await,
            Method::DELETE => self.delete(id).await,
            Method::POST => self.deep_action(id).await,
            _ => Err(method_not_allowed(self.context)),
        }
    }

    /// `POST {resource}/{word}/{word}`: an action of two words, as `…/rollingUpgrades/cancel`, looks like a resource.
    async fn deep_action(&self, id: &ResourceId) -> Result<Reply, ArmError> {
        let (Some(parent), Some((word, _))) = (id.parent().filter(|p| !p.segments.is_empty()), id.segments.last())
        else {
            return Err(method_not_allowed(self.context));
        };
        match self.action(&parent, &format!("{word}/{}", id.name())).await {
            Err(error) if error.code == "InvalidResourceAction" => Err(method_not_allowed(self.context)),
            answer => answer,
        }
    }

    async fn collection(&self, parent: &ResourceId, collection: &ResourceType) -> Result<Reply, ArmError> {
        match self.context.method {
            Method::GET if log_stream::is_one(parent, collection) => log_stream::open(self, parent).await,
            Method::GET => match self.view(parent, collection).await? {
                Some(view) => Ok(respond::json(StatusCode::OK, &view)),
                None => self.list(parent, collection).await,
            },
            Method::HEAD => self.list(parent, collection).await.map(|_| respond::empty(StatusCode::NO_CONTENT)),
            Method::POST => {
                let word = collection.types.last().map_or("", String::as_str);
                let on_provider = parent.segments.is_empty();
                let action = if on_provider { format!("{}/{word}", collection.namespace) } else { word.to_owned() };
                self.action(parent, &action).await
            }
            _ => Err(method_not_allowed(self.context)),
        }
    }

    async fn get(&self, id: &ResourceId) -> Result<Reply, ArmError> {
        let (value, etag) = self.app.backend.get(&self.call, id).await?;
        let mut response = respond::json(StatusCode::OK, &value);
        set_etag(&mut response, &etag);
        Ok(response)
    }

    /// `GET {resource}/{word}` where the word names no type: `…/virtualMachines/x/instanceView`.
    async fn view(&self, parent: &ResourceId, collection: &ResourceType) -> Result<Option<Value>, ArmError> {
        let is_type = |p: &ProviderInfo| {
            p.namespace.eq_ignore_ascii_case(&collection.namespace)
                && p.types.iter().any(|t| t.eq_ignore_ascii_case(&collection.types.join("/")))
        };
        if parent.segments.is_empty() || self.app.backend.providers().iter().any(is_type) {
            return Ok(None);
        }
        let word = collection.types.last().map_or("", String::as_str);
        self.app.backend.view(&self.call, parent, word).await
    }

    async fn list(&self, parent: &ResourceId, collection: &ResourceType) -> Result<Reply, ArmError> {
        let Listing { items, next } = self.app.backend.list(&self.call, parent, collection).await?;
        if is_bare_list(collection) {
            return Ok(respond::json(StatusCode::OK, &Value::from(items)));
        }
        let mut page = json!({"value": items});
        if let Some(token) = next {
            page["nextLink"] = Value::from(self.next_link(&token));
        }
        Ok(respond::json(StatusCode::OK, &page))
    }

    /// The same request with another `$skiptoken`.
    fn next_link(&self, token: &str) -> String {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(self.context.query.iter().filter(|(name, _)| name.as_str() != "$skiptoken"));
        query.append_pair("$skiptoken", token);
        format!("{}{}?{}", self.context.base, self.context.raw_path, query.finish())
    }
}

pub(crate) fn set_etag(response: &mut Reply, etag: &str) {
    respond::set(response.headers_mut(), header::ETAG, &format!("\"{}\"", etag.trim_matches('"')));
}

/// Lists of platform images are arrays without an envelope (wire.md §2).
fn is_bare_list(collection: &ResourceType) -> bool {
    let key = collection.key();
    key.starts_with("microsoft.compute/locations/publishers")
        || key.starts_with("microsoft.compute/locations/edgezones/publishers")
}

#[cfg(test)]
mod tests {
    use super::with_provider;

    #[test]
    fn operations_of_deployments_may_leave_out_the_provider() {
        let whole = "/subscriptions/s/resourcegroups/g/providers/Microsoft.Resources/deployments/d/operations";
        assert_eq!(with_provider("/subscriptions/s/resourcegroups/g/deployments/d/operations"), whole);
        assert_eq!(with_provider(whole), whole);
        assert_eq!(with_provider("/subscriptions/s/deployments/d"), "/subscriptions/s/deployments/d");
    }
}
