//! Removes a template with all that was made for it: its staging group, or what is in the one that the user named (IB-26, IB-30).
//! What was distributed stays.

use crate::call::Call;
use crate::db_error;
use crate::image_builder::TemplateInternal;
use crate::image_builder::staging::{Staging, is_of};
use crate::operation::{OpContext, OpError, Operation, Outcome};
use crate::operations::resource_group_delete::{contents, delete_one, next_to_delete};
use crate::providers::delete_children;
use crate::stored::internal;
use async_trait::async_trait;
use lazuli_arm::ArmError;
use lazuli_meta::model::Resource;
use serde_json::json;

pub(crate) struct ImageTemplateDelete;

#[async_trait]
impl Operation for ImageTemplateDelete {
    fn kind(&self) -> &'static str {
        "image_template.delete"
    }

    async fn run(&self, cx: &OpContext) -> Result<Outcome, OpError> {
        let row = cx.resource().await?;
        let staging = internal::<TemplateInternal>(&row)?.staging;
        // A group that another template uses, or that somebody made under this name later, is not this one's.
        while let Some(group) = group_of(cx, &staging, &row).await? {
            if staging.existed {
                empty(cx, &group, &row).await?;
                break;
            }
            delete_one(cx, group).await?;
            cx.check()?;
        }
        // What a run wrote while it was being stopped.
        let children = cx.engine.db().children(&row.key, 1000).await.map_err(db_error)?;
        Ok(Outcome { changes: delete_children(children), ..Outcome::deleted() })
    }
}

async fn group_of(cx: &OpContext, staging: &Staging, template: &Resource) -> Result<Option<Resource>, OpError> {
    // It failed before anything was chosen.
    let Ok(id) = staging.group_id() else { return Ok(None) };
    let row = cx.engine.db().resource(&id.key()).await.map_err(db_error)?;
    Ok(row.filter(|group| is_of(group, template)))
}

/// Everything in the group, and the tags that say whose it is.
async fn empty(cx: &OpContext, group: &Resource, template: &Resource) -> Result<(), OpError> {
    loop {
        cx.check()?;
        let Some(next) = next_to_delete(cx, contents(cx, group).await?) else { break };
        delete_one(cx, next).await?;
    }
    let mut tags = group.body["tags"].as_object().cloned().unwrap_or_default();
    for name in ["usedBy", "createdBy", "imageTemplateName", "imageTemplateResourceGroupName"] {
        tags.shift_remove(name);
    }
    let call: Call = crate::image_builder::service_call(&cx.engine, template).await?;
    let id = group.id.parse().map_err(ArmError::internal)?;
    crate::on_behalf::put(cx, &call, &id, &json!({"location": group.location, "tags": tags})).await
}
