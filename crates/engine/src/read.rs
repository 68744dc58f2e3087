//! GET, lists and operation status.

use crate::call::{Call, Listing, OperationView};
use crate::provider::Context;
use crate::write::not_found;
use crate::{Engine, db_error, now_ms, time_text};
use lazuli_arm::{ArmError, ResourceId, ResourceType};
use lazuli_meta::model::{Operation, OperationState, Resource, ResourceQuery};
use serde_json::Value;

/// Items of a page where the client does not ask for fewer.
const PAGE: i64 = 1000;

impl Engine {
    /// A resource as a GET shows it.
    ///
    /// # Errors
    /// `ResourceNotFound`, `ResourceGroupNotFound`, `AuthorizationFailed`.
    pub async fn get(&self, call: &Call, id: &ResourceId) -> Result<Value, ArmError> {
        Ok(self.get_with_etag(call, id).await?.0)
    }

    /// The resource and its etag.
    ///
    /// # Errors
    /// As [`Engine::get`].
    pub async fn get_with_etag(&self, call: &Call, id: &ResourceId) -> Result<(Value, String), ArmError> {
        if let Some(found) = self.catalogue_get(call, id).await? {
            return Ok(found);
        }
        let provider = self.provider_of(id)?;
        let row = self.readable_row(call, id, provider.resource_type()).await?;
        let cx = Context { engine: self, call, now_ms: now_ms() };
        Ok((provider.show(cx, &row).await?, row.etag))
    }

    /// A view below a resource, such as `…/virtualMachines/x/instanceView`; `None` where the type has no such view. Every
    /// resource has `…/usage`.
    ///
    /// # Errors
    /// As [`Engine::get`].
    pub async fn view(&self, call: &Call, id: &ResourceId, name: &str) -> Result<Option<Value>, ArmError> {
        if crate::platform_images::is_in_catalogue(id) {
            return Ok(None);
        }
        let provider = self.provider_of(id)?;
        let row = self.readable_row(call, id, provider.resource_type()).await?;
        if name.eq_ignore_ascii_case("usage") {
            return crate::usage::of(self, &row).await.map(Some);
        }
        let cx = Context { engine: self, call, now_ms: now_ms() };
        provider.view(cx, &row, name).await
    }

    async fn readable_row(&self, call: &Call, id: &ResourceId, resource_type: &str) -> Result<Resource, ArmError> {
        self.require_subscription(&call.caller, &id.subscription).await?;
        self.authorize(&call.caller, &id.key(), &format!("{resource_type}/read")).await?;
        match self.db().resource(&id.key()).await.map_err(db_error)? {
            Some(row) => Ok(row),
            None => {
                if let Some(group) = &id.resource_group
                    && !id.is_group()
                {
                    let group = ResourceId::group(&id.subscription, group);
                    if self.db().resource(&group.key()).await.map_err(db_error)?.is_none() {
                        return Err(ArmError::group_not_found(group.name()));
                    }
                }
                Err(not_found(resource_type, id))
            }
        }
    }

    /// All resources of a type below a subscription, a group or a parent; `Microsoft.Resources/resources` lists every type.
    ///
    /// # Errors
    /// 404 for a missing parent or an unknown type.
    pub async fn list(&self, call: &Call, parent: &ResourceId, collection: &ResourceType) -> Result<Listing, ArmError> {
        if let Some(listing) = self.catalogue_list(call, parent, collection).await? {
            return Ok(listing);
        }
        self.require_subscription(&call.caller, &parent.subscription).await?;
        let every = collection.key() == "microsoft.resources/resources";
        let provider = if every { None } else { Some(self.provider(collection)?) };
        let right = provider.map_or("Microsoft.Resources/subscriptions/resources", |p| p.resource_type());
        self.authorize(&call.caller, &parent.key(), &format!("{right}/read")).await?;
        let parent = &provider.map_or_else(|| parent.clone(), |p| p.list_parent(parent));
        if parent.resource_group.is_some() && self.db().resource(&parent.key()).await.map_err(db_error)?.is_none() {
            let parent_type = self.provider_of(parent)?.resource_type();
            return Err(not_found(parent_type, parent));
        }
        let mut query = ResourceQuery {
            subscription: Some(parent.subscription.to_ascii_lowercase()),
            resource_group: parent.resource_group.as_ref().map(|g| g.to_ascii_lowercase()),
            kind: provider.map(|p| p.resource_type().to_ascii_lowercase()),
            parent: (!parent.segments.is_empty()).then(|| parent.key()),
            ..ResourceQuery::default()
        };
        if every {
            apply_filter(&mut query, call.query.get("$filter").map_or("", String::as_str))?;
        }
        let (rows, next) = match provider {
            // Children have an order of their own (versions go by number), and are few beside the whole.
            Some(provider) if query.parent.is_some() => {
                let mut rows = self.all_rows(query).await?;
                rows.sort_by(|a, b| provider.order(a, b));
                page(rows, call)?
            }
            _ => self.page_by_key(query, call, |r| !every || r.kind != "microsoft.resources/resourcegroups").await?,
        };
        let cx = Context { engine: self, call, now_ms: now_ms() };
        let mut items = Vec::with_capacity(rows.len());
        for row in &rows {
            if let Some(provider) = self.provider_of_kind(&row.kind) {
                items.push(provider.show(cx, row).await?);
            }
        }
        Ok(Listing { items, next })
    }

    /// A page in the order of the keys, which the database has: what follows is not read.
    async fn page_by_key(
        &self,
        mut query: ResourceQuery,
        call: &Call,
        wanted: impl Fn(&Resource) -> bool,
    ) -> Result<(Vec<Resource>, Option<String>), ArmError> {
        let top = top(call)?;
        query.after = call.query.get("$skiptoken").cloned();
        query.limit = Some(i64::try_from(top + 1).unwrap_or(PAGE).min(PAGE));
        let mut rows: Vec<Resource> = Vec::new();
        loop {
            let some = self.db().resources(&query).await.map_err(db_error)?;
            let last = some.last().map(|r| r.key.clone());
            let more = Some(i64::try_from(some.len()).unwrap_or(i64::MAX)) >= query.limit;
            rows.extend(some.into_iter().filter(&wanted));
            if rows.len() > top {
                rows.truncate(top);
                let next = rows.last().map(|r| r.key.clone());
                return Ok((rows, next));
            }
            if !more {
                return Ok((rows, None));
            }
            query.after = last;
        }
    }

    /// Every row of a query, over all its pages.
    pub(crate) async fn all_rows(&self, mut query: ResourceQuery) -> Result<Vec<Resource>, ArmError> {
        let mut rows: Vec<Resource> = Vec::new();
        query.limit = Some(PAGE);
        loop {
            let some = self.db().resources(&query).await.map_err(db_error)?;
            let more = i64::try_from(some.len()).unwrap_or(i64::MAX) >= PAGE;
            rows.extend(some);
            match rows.last() {
                Some(last) if more => query.after = Some(last.key.clone()),
                _ => return Ok(rows),
            }
        }
    }

    /// A long-running operation.
    ///
    /// # Errors
    /// 404 for an id that is unknown in this subscription.
    pub async fn operation(&self, call: &Call, subscription: &str, id: &str) -> Result<OperationView, ArmError> {
        self.require_subscription(&call.caller, subscription).await?;
        let operation = self.db().operation(&id.to_ascii_lowercase()).await.map_err(db_error)?;
        let Some(operation) = operation.filter(|o| o.subscription.eq_ignore_ascii_case(subscription)) else {
            return Err(ArmError::new(404, "NotFound", format!("The operation '{id}' could not be found.")));
        };
        let row = self.db().resource(&operation.resource_key).await.map_err(db_error)?;
        let mut resource = None;
        // An action's result is its output alone: endGetAccess was recorded to end with an empty body.
        let action = operation.kind.ends_with("_access");
        if operation.state == OperationState::Succeeded
            && !action
            && let Some(row) = &row
            && let Some(provider) = self.provider_of_kind(&row.kind)
        {
            let cx = Context { engine: self, call, now_ms: now_ms() };
            resource = Some(provider.show(cx, row).await?);
        }
        Ok(view_of(operation, resource))
    }

    /// Asks a running operation to stop.
    ///
    /// # Errors
    /// As [`Engine::operation`].
    pub async fn cancel_operation(&self, call: &Call, subscription: &str, id: &str) -> Result<(), ArmError> {
        let operation = self.operation(call, subscription, id).await?;
        self.db().request_cancel(&operation.id).await.map_err(db_error)?;
        Ok(())
    }
}

fn view_of(operation: Operation, resource: Option<Value>) -> OperationView {
    #[expect(clippy::cast_precision_loss, reason = "a percentage needs no more")]
    let percent = (operation.progress_total > 0)
        .then(|| (operation.progress_done as f64 * 100.0 / operation.progress_total as f64).clamp(0.0, 100.0));
    let kind_of_key = lazuli_arm::parse_target(&operation.resource_key).ok().and_then(|t| match t {
        lazuli_arm::Target::Resource(id) => Some(id.resource_type().key()),
        lazuli_arm::Target::Collection { .. } => None,
    });
    OperationView {
        id: operation.id,
        status: match operation.state {
            OperationState::Running => "InProgress",
            OperationState::Succeeded => "Succeeded",
            OperationState::Failed => "Failed",
            OperationState::Canceled => "Canceled",
        },
        start: time_text(operation.started_ms),
        end: operation.ended_ms.map(time_text),
        percent,
        error: operation.error,
        output: operation.output,
        resource,
        resource_kind: kind_of_key.unwrap_or_default(),
        operation_kind: operation.kind,
    }
}

/// How many items the client wants.
fn top(call: &Call) -> Result<usize, ArmError> {
    let Some(text) = call.query.get("$top") else { return Ok(usize::try_from(PAGE).unwrap_or(usize::MAX)) };
    text.parse().ok().filter(|n| (1..=1000).contains(n)).ok_or_else(|| {
        ArmError::invalid_parameter("$top", format!("The value '{text}' of $top is not between 1 and 1000."))
    })
}

/// Cuts a page out of a sorted list. The token is the key of the last item shown.
fn page(rows: Vec<Resource>, call: &Call) -> Result<(Vec<Resource>, Option<String>), ArmError> {
    let top = top(call)?;
    let start = match call.query.get("$skiptoken") {
        None => 0,
        Some(token) => rows.iter().position(|r| r.key == *token).map_or(rows.len(), |i| i + 1),
    };
    let mut rest: Vec<Resource> = rows.into_iter().skip(start).collect();
    let more = rest.len() > top;
    rest.truncate(top);
    let next = if more { rest.last().map(|r| r.key.clone()) } else { None };
    Ok((rest, next))
}

/// `resourceGroup eq 'x'`, `resourceType eq 'y'`, joined by `and`: what az sends.
fn apply_filter(query: &mut ResourceQuery, filter: &str) -> Result<(), ArmError> {
    for term in filter.split(" and ").map(str::trim).filter(|t| !t.is_empty()) {
        let bad = || {
            ArmError::bad_request(
                "InvalidFilterInQueryString",
                format!("Invalid $filter '{filter}' specified in the query string."),
            )
        };
        let (name, value) = term.split_once(" eq ").ok_or_else(bad)?;
        let value = value.trim().trim_matches('\'').to_ascii_lowercase();
        match name.trim().to_ascii_lowercase().as_str() {
            "resourcegroup" => query.resource_group = Some(value),
            "resourcetype" => query.kind = Some(value),
            _ => return Err(bad()),
        }
    }
    Ok(())
}
