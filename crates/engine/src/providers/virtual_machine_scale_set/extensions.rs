//! `…/virtualMachineScaleSets/{set}/extensions`: the extensions of a set's model, each as a resource. They have no rows: what is written
//! to one is written to the model, and what that starts on the set's machines is polled.

use super::{gone, set_of};
use crate::call::{Listing, Written};
use crate::db_error;
use crate::provider::{Context, Elsewhere, Kept, Plan, Provider};
use async_trait::async_trait;
use lazuli_arm::bodies::{Fields, merge_patch, virtual_machine_scale_set as body};
use lazuli_arm::{ArmError, ResourceId};
use lazuli_meta::model::{Change, Resource, Write};
use serde_json::{Value, json};

const KIND: &str = "Microsoft.Compute/virtualMachineScaleSets/extensions";

pub(crate) struct ScaleSetExtension;

#[async_trait]
impl Provider for ScaleSetExtension {
    fn resource_type(&self) -> &'static str {
        KIND
    }

    fn elsewhere(&self) -> Option<&dyn Elsewhere> {
        Some(self)
    }

    async fn put(
        &self,
        _cx: Context<'_>,
        id: &ResourceId,
        _body: Value,
        _old: Option<&Resource>,
    ) -> Result<Plan, ArmError> {
        Err(ArmError::internal(format!("{id} has no row")))
    }
}

#[async_trait]
impl Elsewhere for ScaleSetExtension {
    async fn get(&self, cx: Context<'_>, id: &ResourceId) -> Result<Option<Kept>, ArmError> {
        Ok(set_of(cx, id).await?.and_then(|set| kept(&set, id.name(), None)))
    }

    async fn list(&self, cx: Context<'_>, parent: &ResourceId) -> Result<Listing, ArmError> {
        let set = cx.engine.db().resource(&parent.key()).await.map_err(db_error)?;
        let items = set.iter().flat_map(|set| body::extensions(&set.body).iter().map(move |e| view(set, e))).collect();
        Ok(Listing { items, next: None })
    }

    async fn put(
        &self,
        cx: Context<'_>,
        id: &ResourceId,
        new: &Value,
        record: Vec<Change>,
    ) -> Result<(Kept, bool), ArmError> {
        let set = set_of(cx, id).await?.ok_or_else(|| self.absent(id))?;
        let properties = Fields::root("virtualMachineScaleSetExtension", new)?.object("properties")?;
        if properties.is_empty() {
            return Err(Fields::root("virtualMachineScaleSetExtension", new)?.missing("properties"));
        }
        let entry = json!({"name": id.name(), "properties": new["properties"]});
        let mut extensions = body::extensions(&set.body).to_vec();
        let known = extensions.iter_mut().find(|e| is(e, id.name()));
        let created = known.is_none();
        match known {
            Some(known) => *known = entry,
            None => extensions.push(entry),
        }
        Ok((self.remodel(cx, id, &set, extensions, record).await?, created))
    }

    async fn patch(
        &self,
        cx: Context<'_>,
        id: &ResourceId,
        patch: &Value,
        record: Vec<Change>,
    ) -> Result<Option<Kept>, ArmError> {
        let Some(set) = set_of(cx, id).await? else { return Ok(None) };
        let mut extensions = body::extensions(&set.body).to_vec();
        let Some(known) = extensions.iter_mut().find(|e| is(e, id.name())) else { return Ok(None) };
        known["properties"] = merge_patch(&known["properties"], &patch["properties"]);
        self.remodel(cx, id, &set, extensions, record).await.map(Some)
    }

    /// Returns when the set is done with it: machines lose it as the set's upgrade policy says.
    async fn delete(&self, cx: Context<'_>, id: &ResourceId, record: Vec<Change>) -> Result<bool, ArmError> {
        let Some(set) = set_of(cx, id).await? else { return Ok(false) };
        let mut extensions = body::extensions(&set.body).to_vec();
        let before = extensions.len();
        extensions.retain(|e| !is(e, id.name()));
        if extensions.len() == before {
            return Ok(false);
        }
        let written = write(cx, &set, extensions, record).await?;
        match written.operation {
            Some(operation) => gone(cx, &operation, id.name(), &set.name).await.map(|()| true),
            None => Ok(true),
        }
    }
}

impl ScaleSetExtension {
    async fn remodel(
        &self,
        cx: Context<'_>,
        id: &ResourceId,
        set: &Resource,
        extensions: Vec<Value>,
        record: Vec<Change>,
    ) -> Result<Kept, ArmError> {
        let operation = write(cx, set, extensions, record).await?.operation;
        let set = set_of(cx, id).await?.ok_or_else(|| self.absent(id))?;
        kept(&set, id.name(), operation).ok_or_else(|| self.absent(id))
    }
}

/// The model as it was read, with these extensions: nobody else's change of it is lost.
async fn write(
    cx: Context<'_>,
    set: &Resource,
    extensions: Vec<Value>,
    record: Vec<Change>,
) -> Result<Written, ArmError> {
    let mut call = cx.call.clone();
    (call.if_match, call.if_none_match) = (Some(set.etag.clone()), None);
    let model = json!({"extensionProfile": {"extensions": extensions}});
    let body = json!({"location": set.location, "properties": {"virtualMachineProfile": model}});
    let id = set.id.parse().map_err(ArmError::internal)?;
    let written = Box::pin(cx.engine.put(&call, &id, body)).await?;
    cx.engine.db().write(Write { fence: None, changes: record }).await.map_err(ArmError::internal)?;
    Ok(written)
}

fn is(extension: &Value, name: &str) -> bool {
    extension["name"].as_str().is_some_and(|n| n.eq_ignore_ascii_case(name))
}

fn kept(set: &Resource, name: &str, operation: Option<String>) -> Option<Kept> {
    let extension = body::extensions(&set.body).iter().find(|e| is(e, name))?;
    Some(Kept { view: view(set, extension), etag: set.etag.clone(), operation })
}

fn view(set: &Resource, extension: &Value) -> Value {
    let mut properties = extension["properties"].clone();
    properties["provisioningState"] = json!(set.provisioning_state);
    let name = extension["name"].as_str().unwrap_or_default();
    json!({"name": name, "id": format!("{}/extensions/{name}", set.id), "type": KIND, "properties": properties})
}
