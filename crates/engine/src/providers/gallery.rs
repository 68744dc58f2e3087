//! `Microsoft.Compute/galleries`: a name, unique in its subscription, for definitions and their versions.

use super::arm_context;
use crate::provider::{ActionPlan, Context, DeletePlan, Plan, Provider, Start, standard_view, unknown_action};
use crate::shared_galleries::{entry_changes, name_claim};
use async_trait::async_trait;
use lazuli_arm::bodies::gallery;
use lazuli_arm::{ArmError, ResourceId};
use lazuli_meta::model::Resource;
use serde_json::{Value, json};

const KIND: &str = "Microsoft.Compute/galleries";

pub(crate) struct Gallery;

#[async_trait]
impl Provider for Gallery {
    fn resource_type(&self) -> &'static str {
        KIND
    }

    async fn put(
        &self,
        cx: Context<'_>,
        id: &ResourceId,
        body: Value,
        old: Option<&Resource>,
    ) -> Result<Plan, ArmError> {
        let body = gallery::put(id, &body, old.map(|o| &o.body), &arm_context(cx))?;
        let mut changes = Vec::new();
        if old.is_none() {
            let name = name_claim(&id.subscription, id.name());
            if name.owner(cx.engine).await?.is_some() {
                return Err(gallery::name_taken(id));
            }
            changes.push(name.take(&id.to_string()));
        }
        Ok(Plan { body, internal: json!({}), start: None, changes })
    }

    async fn patch(&self, cx: Context<'_>, id: &ResourceId, patch: Value, old: &Resource) -> Result<Plan, ArmError> {
        let body = gallery::patch(id, &patch, &old.body, &arm_context(cx))?;
        Ok(Plan { body, internal: old.internal.clone(), ..Plan::default() })
    }

    async fn delete(&self, _cx: Context<'_>, old: &Resource) -> Result<DeletePlan, ArmError> {
        if gallery::is_shared(&old.body) {
            return Err(ArmError::conflict(
                "OperationNotAllowed",
                format!(
                    "The gallery '{}' cannot be deleted while it is shared. Reset its sharing first (POST …/share with \
                     operationType 'Reset', or `az sig share reset`), then retry.",
                    old.name
                ),
            ));
        }
        Ok(DeletePlan { start: None, changes: vec![name_claim(&old.subscription, &old.name).give_up()] })
    }

    async fn show(&self, cx: Context<'_>, row: &Resource) -> Result<Value, ArmError> {
        let selects = cx.call.query.get("$select").is_some_and(|s| s.eq_ignore_ascii_case("Permissions"));
        let with_groups = selects || cx.call.expands("SharingProfile/Groups");
        let shown = Resource { body: gallery::show(&row.body, with_groups), ..row.clone() };
        Ok(standard_view(KIND, &shown))
    }

    fn actions(&self) -> &'static [&'static str] {
        &["share"]
    }

    async fn action(
        &self,
        _cx: Context<'_>,
        row: &Resource,
        action: &str,
        body: Value,
    ) -> Result<ActionPlan, ArmError> {
        if !action.eq_ignore_ascii_case("share") {
            return Err(unknown_action(&row.id, action));
        }
        let (shared, answer) = gallery::share(&row.body, &body)?;
        let start = Start { kind: "gallery.share", params: answer };
        let changes = entry_changes(row, &shared);
        let resource = Resource { body: shared, ..row.clone() };
        Ok(ActionPlan::Start { start, resource: Some(resource), changes })
    }

    fn delete_rank(&self) -> u8 {
        40
    }

    fn update_title(&self) -> &'static str {
        "Update Gallery"
    }
}
