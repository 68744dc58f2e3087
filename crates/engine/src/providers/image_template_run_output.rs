//! `Microsoft.VirtualMachineImages/imageTemplates/runOutputs`: what a template's last run has distributed, a row a distributor.
//! Written by runs alone.

use crate::image_builder::KIND as TEMPLATE;
use crate::provider::{Context, Provider, standard_view};
use crate::providers::user_assigned_identity::lower_group;
use async_trait::async_trait;
use lazuli_arm::{ArmError, ResourceId};
use lazuli_meta::model::{Change, Expect, Resource};
use serde_json::{Value, json};

pub(crate) const KIND: &str = "Microsoft.VirtualMachineImages/imageTemplates/runOutputs";

pub(crate) struct RunOutput;

/// What a distributor made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Artifact {
    /// Id of a version or a managed image.
    Id(String),
    /// URL of a VHD.
    Uri(String),
}

/// The row of a run output, in the place of an earlier run's.
pub(crate) fn put_change(
    template: &Resource,
    name: &str,
    artifact: &Artifact,
    now_ms: i64,
) -> Result<Change, ArmError> {
    let template_id: ResourceId = template.id.parse().map_err(ArmError::internal)?;
    let id = template_id.child("runOutputs", name);
    let properties = match artifact {
        Artifact::Id(id) => json!({"artifactId": id}),
        Artifact::Uri(uri) => json!({"artifactUri": uri}),
    };
    let resource = super::child_row(&id, KIND, &template.key, json!({"properties": properties}), None, now_ms);
    Ok(Change::PutResource { resource, expect: Expect::Any })
}

#[async_trait]
impl Provider for RunOutput {
    fn resource_type(&self) -> &'static str {
        KIND
    }

    fn not_written(&self, id: &ResourceId) -> ArmError {
        ArmError::new(
            405,
            "OperationNotAllowed",
            format!("The run output '{}' is written by a run of its template ({TEMPLATE}) alone.", id.name()),
        )
    }

    async fn show(&self, _cx: Context<'_>, row: &Resource) -> Result<Value, ArmError> {
        let mut view = standard_view(KIND, row);
        view["id"] = json!(lower_group(&row.id));
        Ok(view)
    }

    fn is_tracked(&self) -> bool {
        false
    }

    fn delete_rank(&self) -> u8 {
        3
    }
}
