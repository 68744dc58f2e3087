//! GET, lists and operation status.

use crate::authorization::access::Access;
use crate::authorization::not_authorized;
use crate::call::{Call, Listing, OperationView};
use crate::provider::{Context, Elsewhere, Provider};
use crate::providers::virtual_machine_scale_set::uniform_sets;
use crate::write::not_found;
use crate::{Engine, db_error, now_ms, time_text};
use lazuli_arm::{Above, ArmError, ResourceId, ResourceType};
use lazuli_authz::rbac::Plane;
use lazuli_meta::model::{Operation, OperationState, Resource, ResourceQuery};
use serde_json::{Value, json};
use std::collections::HashSet;

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
        if let Some(found) = self.extension_get(call, id).await? {
            return Ok((found, String::new()));
        }
        if let Some(found) = self.shared_get(call, id).await? {
            return Ok(found);
        }
        if let Some(found) = self.deployment_operation(call, id).await? {
            return Ok((found, String::new()));
        }
        let provider = self.provider_of(id)?;
        let cx = Context { engine: self, call, now_ms: now_ms() };
        if let Some(elsewhere) = provider.elsewhere() {
            self.require_scope(&call.caller, id, &id.resource_type()).await?;
            self.authorize(&call.caller, &id.to_string(), &format!("{}/read", provider.right_type())).await?;
            return match elsewhere.get(cx, id).await? {
                Some(kept) => Ok((kept.view, kept.etag)),
                None => Err(self.explain_absent(provider.as_ref(), id).await?),
            };
        }
        let row = self.readable_row(call, id, provider.as_ref()).await?;
        Ok((provider.show(cx, &row).await?, provider.etag(&row)))
    }

    /// A view below a resource, such as `…/virtualMachines/x/instanceView`; `None` where the type has no such view. Every
    /// resource has `…/usage`.
    ///
    /// # Errors
    /// As [`Engine::get`].
    pub async fn view(&self, call: &Call, id: &ResourceId, name: &str) -> Result<Option<Value>, ArmError> {
        if crate::platform_images::is_in_catalogue(id)
            || crate::extension_images::is_in_catalogue(id)
            || crate::shared_galleries::is_shared_view(id)
        {
            return Ok(None);
        }
        let provider = self.provider_of(id)?;
        if let Some(elsewhere) = provider.elsewhere() {
            self.require_scope(&call.caller, id, &id.resource_type()).await?;
            self.authorize(&call.caller, &id.to_string(), &format!("{}/read", provider.right_type())).await?;
            let cx = Context { engine: self, call, now_ms: now_ms() };
            return Elsewhere::view(elsewhere, cx, id, name).await;
        }
        let row = self.readable_row(call, id, provider.as_ref()).await?;
        if name.eq_ignore_ascii_case("usage") {
            return crate::usage::of(self, &row).await.map(Some);
        }
        let cx = Context { engine: self, call, now_ms: now_ms() };
        provider.view(cx, &row, name).await
    }

    pub(crate) async fn readable_row(
        &self,
        call: &Call,
        id: &ResourceId,
        provider: &dyn Provider,
    ) -> Result<Resource, ArmError> {
        self.require_scope(&call.caller, id, &id.resource_type()).await?;
        self.authorize(&call.caller, &id.to_string(), &format!("{}/read", provider.right_type())).await?;
        let key = id.key();
        let row = match call.caller.rights.row(&key) {
            Some(row) => Some(row),
            None => self.db().resource(&key).await.map_err(db_error)?,
        };
        match row {
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
                Err(self.absent(provider, id).await?)
            }
        }
    }

    /// Azure's front looks for the outermost resource first, and says so if that is what is missing (recorded: subnets of a
    /// network that is not there). The network service has words of its own for what is missing inside of it (recorded code).
    async fn absent(&self, provider: &dyn Provider, id: &ResourceId) -> Result<ArmError, ArmError> {
        if id.segments.len() > 1 {
            let mut root = id.clone();
            root.segments.truncate(1);
            if self.db().resource(&root.key()).await.map_err(db_error)?.is_none() {
                let outermost = provider.resource_type().splitn(3, '/').take(2).collect::<Vec<_>>().join("/");
                return Ok(not_found(&outermost, &root));
            }
            if id.namespace.eq_ignore_ascii_case("Microsoft.Network") {
                return Ok(ArmError::new(404, "NotFound", format!("Resource {id} not found.")));
            }
        }
        Ok(provider.absent(id))
    }

    /// All resources of a type below a subscription, a group or a parent; `Microsoft.Resources/resources` lists every type.
    ///
    /// # Errors
    /// 404 for a missing parent or an unknown type.
    pub async fn list(&self, call: &Call, parent: &ResourceId, collection: &ResourceType) -> Result<Listing, ArmError> {
        if let Some(listing) = self.sizes_list(call, parent, collection).await? {
            return Ok(listing);
        }
        if let Some(listing) = self.catalogue_list(call, parent, collection).await? {
            return Ok(listing);
        }
        if let Some(listing) = self.extension_list(call, parent, collection).await? {
            return Ok(listing);
        }
        if let Some(listing) = self.shared_list(call, parent, collection).await? {
            return Ok(listing);
        }
        self.require_scope(&call.caller, parent, collection).await?;
        let region = region_of_machines(parent, collection)?;
        let whole = (ResourceId::subscription(&parent.subscription), machines());
        let (parent, collection) = if region.is_some() { (&whole.0, &whole.1) } else { (parent, collection) };
        let every = collection.key() == "microsoft.resources/resources";
        let provider = if every { None } else { Some(self.provider(collection)?) };
        let right = provider.map_or("Microsoft.Resources/subscriptions/resources", |p| p.right_type());
        let right = format!("{right}/read");
        let elsewhere = provider.and_then(|p| p.elsewhere());
        let access = self.access_of(&call.caller).await?;
        Self::may_list(&access, call, parent, &right, every, elsewhere.is_some() || parent.above.is_some())?;
        let above = provider.map_or_else(|| parent.clone(), |p| p.list_parent(parent));
        if above.resource_group.is_some() && self.db().resource(&above.key()).await.map_err(db_error)?.is_none() {
            let parent_type = self.provider_of(&above)?.resource_type();
            return Err(not_found(parent_type, &above));
        }
        if let Some(elsewhere) = elsewhere {
            return elsewhere.list(Context { engine: self, call, now_ms: now_ms() }, parent).await;
        }
        let mut query = ResourceQuery {
            kind: provider.map(|p| p.resource_type().to_ascii_lowercase()),
            under: Some(parent.key()),
            ..ResourceQuery::default()
        };
        let own_scope = provider.is_some_and(|p| p.lists_own_scope()) && parent.resource_group.is_none();
        if every {
            apply_filter(&mut query, &parent.subscription, call.query.get("$filter").map_or("", String::as_str))?;
        }
        // Machines of Uniform scale sets are instances of their sets alone.
        let of_machines =
            every || provider.is_some_and(|p| p.resource_type() == crate::providers::virtual_machine::KIND);
        let uniform = match of_machines {
            true => uniform_sets(self, &parent.key()).await?,
            false => HashSet::new(),
        };
        let hidden = |row: &Resource| {
            let set = row.body["properties"]["virtualMachineScaleSet"]["id"].as_str();
            set.is_some_and(|id| uniform.contains(&id.to_ascii_lowercase()))
        };
        let tracked = |kind: &str| self.provider_of_kind(kind).is_some_and(|p| p.is_tracked());
        let readable = |row: &Resource| {
            let of_row = self.provider_of_kind(&row.kind).map(|p| format!("{}/read", p.right_type()));
            of_row.is_some_and(|right| access.allows(&call.caller.principal, &row.key, &right, Plane::Control))
        };
        let wanted = |r: &Resource| {
            (!every || tracked(&r.kind))
                && (!own_scope || r.resource_group.is_empty())
                && region.is_none_or(|region| r.location == region)
                && !hidden(r)
                && readable(r)
        };
        let (rows, next) = self.page(query, call, wanted).await?;
        let cx = Context { engine: self, call, now_ms: now_ms() };
        let items = match provider {
            Some(provider) => provider.show_page(cx, &rows).await?,
            None => {
                let shown_by = |row: &Resource| Some(self.provider_of_kind(&row.kind)?.resource_type());
                rows.iter().filter_map(|row| Some(generic_item(cx, shown_by(row)?, row))).collect()
            }
        };
        Ok(Listing { items, next })
    }

    /// Who may read one of them may ask for the list, and sees that one. What is kept elsewhere (`whole`) is not looked at one by
    /// one: its list is for who may read all of it. So is what a tenant has, which no role below it tells of.
    fn may_list(
        access: &Access,
        call: &Call,
        parent: &ResourceId,
        right: &str,
        every: bool,
        whole: bool,
    ) -> Result<(), ArmError> {
        let (principal, scope) = (&call.caller.principal, parent.to_string());
        let may = match whole {
            true => access.allows(principal, &scope, right, Plane::Control),
            false => access.allows_below(principal, &scope, right) || every && access.reaches(principal, &scope),
        };
        if may { Ok(()) } else { Err(not_authorized(&call.caller, &scope, right)) }
    }

    /// A page, found and ordered by the database: neither what precedes nor what follows is read. The token is the
    /// [`Resource::sort_key`] of the last item shown.
    async fn page(
        &self,
        mut query: ResourceQuery,
        call: &Call,
        wanted: impl Fn(&Resource) -> bool,
    ) -> Result<(Vec<Resource>, Option<String>), ArmError> {
        let top = top(call, "$top")?;
        query.after = call.query.get("$skiptoken").cloned();
        query.limit = Some(i64::try_from(top + 1).unwrap_or(PAGE).min(PAGE));
        let mut rows: Vec<Resource> = Vec::new();
        loop {
            let some = self.db().resources(&query).await.map_err(db_error)?;
            let last = some.last().map(|r| r.sort_key.clone());
            let more = Some(i64::try_from(some.len()).unwrap_or(i64::MAX)) >= query.limit;
            rows.extend(some.into_iter().filter(&wanted));
            if rows.len() > top {
                rows.truncate(top);
                let next = rows.last().map(|r| r.sort_key.clone());
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
                Some(last) if more => query.after = Some(last.sort_key.clone()),
                _ => return Ok(rows),
            }
        }
    }

    /// A long-running operation. `subscription`: empty for what is above them in the caller's tenant.
    ///
    /// # Errors
    /// 404 for an id that is unknown in this subscription.
    pub async fn operation(&self, call: &Call, subscription: &str, id: &str) -> Result<OperationView, ArmError> {
        if !subscription.is_empty() {
            self.require_subscription(&call.caller, subscription).await?;
        }
        let operation = self.db().operation(&id.to_ascii_lowercase()).await.map_err(db_error)?;
        let absent = || ArmError::new(404, "NotFound", format!("The operation '{id}' could not be found."));
        let operation = operation.filter(|o| o.subscription.eq_ignore_ascii_case(subscription)).ok_or_else(absent)?;
        let here = !subscription.is_empty() || is_in_tenant(&operation.resource_key, &call.caller.tenant);
        if !here || !self.may_poll(call, &operation).await? {
            // Told apart from an unknown one, it would tell that it exists.
            return Err(absent());
        }
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

    /// Who may do something of the kind to the resource may see how it goes; the result of an access (a SAS) only who may have it.
    async fn may_poll(&self, call: &Call, operation: &Operation) -> Result<bool, ArmError> {
        let access = self.access_of(&call.caller).await?;
        let Some(kind) = kind_of_key(&operation.resource_key) else { return Ok(false) };
        let words: &[&str] = match operation.kind.ends_with("_access") {
            true => &["beginGetAccess/action", "endGetAccess/action"],
            false => &["read", "write", "delete"],
        };
        let provider = self.provider_of_kind(&kind);
        let actions = provider.map_or(&[][..], |p| p.actions());
        let kind = provider.map_or(kind.as_str(), |p| p.right_type());
        let more = if operation.kind.ends_with("_access") { &[][..] } else { actions };
        let more = more.iter().map(|a| format!("{kind}/{a}/action"));
        let mut rights = words.iter().map(|w| format!("{kind}/{w}")).chain(more);
        Ok(rights.any(|r| access.allows(&call.caller.principal, &operation.resource_key, &r, Plane::Control)))
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

fn machines() -> ResourceType {
    ResourceType { namespace: "Microsoft.Compute".into(), types: vec!["virtualMachines".into()] }
}

/// The region of `…/Microsoft.Compute/locations/{region}/virtualMachines`; `None` for any other list.
fn region_of_machines(parent: &ResourceId, collection: &ResourceType) -> Result<Option<&'static str>, ArmError> {
    if collection.key() != "microsoft.compute/locations/virtualmachines" {
        return Ok(None);
    }
    crate::sizes::region(parent.name()).map(Some)
}

/// A resource in the list of all resources: without its properties (Swagger resources.json, `GenericResourceExpanded`).
fn generic_item(cx: Context<'_>, resource_type: &str, row: &Resource) -> Value {
    let mut item = json!({"id": row.id, "name": row.name, "type": resource_type});
    for name in ["location", "kind", "sku", "plan", "identity", "managedBy", "zones", "extendedLocation", "tags"] {
        if let Some(value) = row.body.get(name) {
            item[name] = value.clone();
        }
    }
    for (name, value) in [
        ("createdTime", time_text(row.created_ms)),
        ("changedTime", time_text(row.changed_ms)),
        ("provisioningState", row.provisioning_state.clone()),
    ] {
        if cx.call.expands(name) {
            item[name] = value.into();
        }
    }
    item
}

/// The lower-case type of the resource with this key.
fn kind_of_key(key: &str) -> Option<String> {
    ResourceId::of_key(key).ok().map(|id| id.resource_type().key())
}

/// Whether a resource is above subscriptions, and of this tenant.
fn is_in_tenant(key: &str, tenant: &str) -> bool {
    let above = ResourceId::of_key(key).ok().and_then(|id| id.above);
    above.is_some_and(|above| match above {
        // Each tenant has the management group at its root, of its own name.
        Above::Tenant(name) | Above::ManagementGroup(name) => name.eq_ignore_ascii_case(tenant),
    })
}

fn view_of(operation: Operation, resource: Option<Value>) -> OperationView {
    #[expect(clippy::cast_precision_loss, reason = "a percentage needs no more")]
    let percent = (operation.progress_total > 0)
        .then(|| (operation.progress_done as f64 * 100.0 / operation.progress_total as f64).clamp(0.0, 100.0));
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
        resource_kind: kind_of_key(&operation.resource_key).unwrap_or_default(),
        operation_kind: operation.kind,
    }
}

/// How many items the client wants, in the query member of this name.
pub(crate) fn top(call: &Call, name: &str) -> Result<usize, ArmError> {
    let Some(text) = call.query.get(name) else { return Ok(usize::try_from(PAGE).unwrap_or(usize::MAX)) };
    text.parse().ok().filter(|n| (1..=1000).contains(n)).ok_or_else(|| {
        ArmError::invalid_parameter(name, format!("The value '{text}' of {name} is not between 1 and 1000."))
    })
}

/// `resourceGroup eq 'x'`, `resourceType eq 'y'`, joined by `and`: what az sends.
fn apply_filter(query: &mut ResourceQuery, subscription: &str, filter: &str) -> Result<(), ArmError> {
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
            "resourcegroup" => query.under = Some(ResourceId::group(subscription, &value).key()),
            "resourcetype" => query.kind = Some(value),
            _ => return Err(bad()),
        }
    }
    Ok(())
}
