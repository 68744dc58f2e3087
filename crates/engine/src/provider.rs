//! What a resource type says about itself.
//!
//! A type is one file in `providers/`. It decides (what a body becomes, which operation a write starts, what a read shows); it
//! never writes: the engine commits the row, its operation and its audit record in one transaction (`write.rs`).

use crate::Engine;
use crate::call::{ActionReply, Call, Listing};
use async_trait::async_trait;
use lazuli_arm::bodies::merge_patch;
use lazuli_arm::{ArmError, ResourceId};
use lazuli_meta::model::{Change, Resource};
use serde_json::Value;

/// What a provider may look at while it decides.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    pub engine: &'a Engine,
    pub call: &'a Call,
    /// Milliseconds since the Unix epoch; one instant for the whole decision.
    pub now_ms: i64,
}

/// The operation that a write starts.
#[derive(Debug, Clone, PartialEq)]
pub struct Start {
    /// Name of an [`crate::operation::Operation`].
    pub kind: &'static str,
    pub params: Value,
}

/// What a PUT or PATCH makes of a resource.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// `{location, tags, properties, …}` without id, name, type and provisioningState.
    pub body: Value,
    pub internal: Value,
    /// `None`: the write is complete when it is committed.
    pub start: Option<Start>,
    /// Committed in the same transaction (children, content references, grants).
    pub changes: Vec<Change>,
}

/// What a DELETE does. The row is removed at once unless an operation is started, which then removes it.
#[derive(Debug, Clone, Default)]
pub struct DeletePlan {
    pub start: Option<Start>,
    pub changes: Vec<Change>,
}

/// What a POST action does.
#[derive(Debug, Clone)]
pub enum ActionPlan {
    /// Starts an operation; the row (if given) is replaced in the same transaction.
    Start { start: Start, resource: Option<Resource>, changes: Vec<Change> },
    /// Already done.
    Done { reply: Option<Value>, resource: Option<Resource>, changes: Vec<Change> },
    /// Nothing was changed: only the activity log hears of it.
    Show(Value),
}

/// A resource that has no row of its own, as it is shown.
#[derive(Debug, Clone)]
pub struct Kept {
    pub view: Value,
    pub etag: String,
    /// What a write has started, where it is not done with it: to be polled.
    pub operation: Option<String>,
}

/// Resources that the data plane keeps (the containers of a storage account): management requests for them are requests to it.
/// The engine authorizes them, and sees that their parents are there; `record` (operation and audit) is to be committed
/// together with what is written. What clients do not write is refused as [`Provider::not_written`] says.
#[async_trait]
pub trait Elsewhere: Provider {
    async fn get(&self, cx: Context<'_>, id: &ResourceId) -> Result<Option<Kept>, ArmError>;

    async fn list(&self, cx: Context<'_>, parent: &ResourceId) -> Result<Listing, ArmError>;

    /// As [`Provider::view`].
    async fn view(&self, _cx: Context<'_>, _id: &ResourceId, _name: &str) -> Result<Option<Value>, ArmError> {
        Ok(None)
    }

    /// The second: whether it is new.
    async fn put(
        &self,
        _cx: Context<'_>,
        id: &ResourceId,
        _body: &Value,
        _record: Vec<Change>,
    ) -> Result<(Kept, bool), ArmError> {
        Err(self.not_written(id))
    }

    /// `None`: there is no such resource.
    async fn patch(
        &self,
        _cx: Context<'_>,
        id: &ResourceId,
        _patch: &Value,
        _record: Vec<Change>,
    ) -> Result<Option<Kept>, ArmError> {
        Err(self.not_written(id))
    }

    /// Whether there was one.
    async fn delete(&self, _cx: Context<'_>, id: &ResourceId, _record: Vec<Change>) -> Result<bool, ArmError> {
        Err(self.not_written(id))
    }
}

#[async_trait]
pub trait Provider: Send + Sync {
    /// As shown: `Microsoft.Compute/galleries/images`.
    fn resource_type(&self) -> &'static str;

    /// The type as rights name it: `{this}/read`. Azure names but a few otherwise.
    fn right_type(&self) -> &'static str {
        self.resource_type()
    }

    /// Given by types whose resources are no rows; of all else here, only the type's names are asked then.
    fn elsewhere(&self) -> Option<&dyn Elsewhere> {
        None
    }

    /// Checks a new body against the old one and normalises it.
    async fn put(
        &self,
        _cx: Context<'_>,
        id: &ResourceId,
        _body: Value,
        _old: Option<&Resource>,
    ) -> Result<Plan, ArmError> {
        Err(self.not_written(id))
    }

    /// The answer to who would write a type that has no [`Provider::put`]: what it is written by.
    fn not_written(&self, id: &ResourceId) -> ArmError {
        ArmError::new(405, "OperationNotAllowed", format!("'{id}' is shown, and written by nobody."))
    }

    /// By default RFC 7396 merge on the stored body, then [`Provider::put`].
    async fn patch(&self, cx: Context<'_>, id: &ResourceId, patch: Value, old: &Resource) -> Result<Plan, ArmError> {
        self.put(cx, id, merge_patch(&old.body, &patch), Some(old)).await
    }

    /// What a PATCH makes of a resource that is not there; `None`: nothing, it is not found.
    async fn patch_absent(&self, _cx: Context<'_>, _id: &ResourceId, _patch: &Value) -> Result<Option<Plan>, ArmError> {
        Ok(None)
    }

    async fn delete(&self, _cx: Context<'_>, _old: &Resource) -> Result<DeletePlan, ArmError> {
        Ok(DeletePlan::default())
    }

    /// What a GET shows. By default the stored body with id, name, type and provisioningState.
    async fn show(&self, _cx: Context<'_>, row: &Resource) -> Result<Value, ArmError> {
        Ok(standard_view(self.resource_type(), row))
    }

    /// What a list shows of its page. By default each as [`Provider::show`] has it; for types that show something of other rows,
    /// which are asked for once a page.
    async fn show_page(&self, cx: Context<'_>, rows: &[Resource]) -> Result<Vec<Value>, ArmError> {
        let mut items = Vec::with_capacity(rows.len());
        for row in rows {
            items.push(self.show(cx, row).await?);
        }
        Ok(items)
    }

    /// The words that [`Provider::view`] knows: `GET {resource}/{word}`.
    fn views(&self) -> &'static [&'static str] {
        &[]
    }

    /// The POST actions that [`Provider::action`] knows, as Azure spells them. Whoever asks for one needs the right
    /// `{type}/{action}/action`; one that is not here cannot be asked for.
    fn actions(&self) -> &'static [&'static str] {
        &[]
    }

    async fn action(
        &self,
        _cx: Context<'_>,
        row: &Resource,
        action: &str,
        _body: Value,
    ) -> Result<ActionPlan, ArmError> {
        Err(unknown_action(&row.id, action))
    }

    /// Whether an action is for what is under way on the resource, and so may come meanwhile.
    fn interrupts(&self, _action: &str) -> bool {
        false
    }

    /// An action on a resource that need not exist. `None` where the type has none of that name.
    async fn absent_action(
        &self,
        _cx: Context<'_>,
        _id: &ResourceId,
        _action: &str,
        _body: &Value,
    ) -> Result<Option<ActionReply>, ArmError> {
        Ok(None)
    }

    /// An action on the namespace itself, at a subscription or a group: `…/providers/Microsoft.Storage/checkNameAvailability`.
    /// `None` where this type knows none of that name. Whoever answers asks for the right first.
    async fn namespace_action(
        &self,
        _cx: Context<'_>,
        _scope: &ResourceId,
        _action: &str,
        _body: &Value,
    ) -> Result<Option<Value>, ArmError> {
        Ok(None)
    }

    /// Sub-resource GETs such as `…/instanceView`; `None` where there is no such view.
    async fn view(&self, _cx: Context<'_>, _row: &Resource, _name: &str) -> Result<Option<Value>, ArmError> {
        Ok(None)
    }

    /// What clients hold against a later write (`If-Match`). It changes at least with every change that a client asks for; by
    /// default with every change of the row.
    fn etag(&self, row: &Resource) -> String {
        row.etag.clone()
    }

    /// The answer to a request for a resource of this id that is not there.
    fn absent(&self, id: &ResourceId) -> ArmError {
        crate::write::not_found(self.resource_type(), id)
    }

    /// What lists go by ([`Resource::sort_key`]): names, ignoring their letters' case.
    fn sort_key(&self, key: &str) -> String {
        key.to_owned()
    }

    /// Whether Azure tracks such resources, so that the list of all resources shows them. Settings and parts of others (a
    /// subnet, the rules of a group) are shown by their own lists alone.
    fn is_tracked(&self) -> bool {
        true
    }

    /// A group's resources are deleted in growing rank: users before what they use.
    fn delete_rank(&self) -> u8 {
        100
    }

    /// Whether a list of a subscription leaves out what is in its groups.
    fn lists_own_scope(&self) -> bool {
        false
    }

    /// The resource that must exist for a list below `parent`, and that the rows of the list have as their parent.
    fn list_parent(&self, parent: &ResourceId) -> ResourceId {
        parent.clone()
    }

    /// As Azure's errors name an update of the type: `Update Gallery Image Version`.
    fn update_title(&self) -> &'static str {
        "Update"
    }

    /// Whether a PUT or PATCH may come while an operation on the resource is running.
    fn writable_while_running(&self) -> bool {
        false
    }
}

/// The stored body, framed by id, name, type and with `properties.provisioningState`.
pub fn standard_view(resource_type: &str, row: &Resource) -> Value {
    let mut view = serde_json::Map::new();
    view.insert("name".into(), row.name.clone().into());
    view.insert("id".into(), row.id.clone().into());
    view.insert("type".into(), resource_type.into());
    if let Value::Object(body) = &row.body {
        for (name, value) in body {
            view.insert(name.clone(), value.clone());
        }
    }
    let properties = view.entry("properties").or_insert_with(|| Value::Object(serde_json::Map::new()));
    if let Value::Object(properties) = properties {
        properties.insert("provisioningState".into(), row.provisioning_state.clone().into());
    }
    Value::Object(view)
}

pub fn unknown_action(id: &str, action: &str) -> ArmError {
    ArmError::new(404, "InvalidResourceAction", format!("The resource '{id}' has no action '{action}'."))
}
