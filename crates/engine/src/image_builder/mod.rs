//! Image Builder: what its resources, operations and reconcilers have in common.
//!
//! ```text
//! PUT imageTemplates/t ─> image_template.create   staging group, source and rights looked at, scripts fetched
//! POST …/t/run         ─> image_template.run      build, customize, validate, distribute
//! triggers             ─> reconcilers/image_triggers.rs starts the same
//! DELETE …/t           ─> image_template.delete   the staging group goes
//! ```
//! The service has no rights of its own beyond the template's staging group ([`service_call`]): sources are read and results
//! written as the template's identity, and only as long as that has the rights (RB-5, RB-6). Never here: a secret of a user's URL in
//! a log, a step or an error.

pub(crate) mod dry_run;
pub(crate) mod fetch;
pub(crate) mod log;
mod own_blob;
mod quota;
pub(crate) mod rights;
pub(crate) mod rules;
pub(crate) mod staging;

use crate::call::{Call, Caller, Urls};
use crate::stored::internal;
use crate::{Engine, db_error};
use lazuli_arm::{ApiVersion, ArmError};
use lazuli_meta::model::Resource;
use rules::LastRun;
use serde::{Deserialize, Serialize};
use staging::Staging;
use std::collections::BTreeMap;

pub(crate) const KIND: &str = "Microsoft.VirtualMachineImages/imageTemplates";
/// The operation of a run; its code is looked for by this name.
pub(crate) const RUN: &str = "image_template.run";
/// So many runs that a trigger started must fail, one after the other, until triggers rest.
pub(crate) const FAILURES: u32 = 3;

/// What the operator decides about Image Builder.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImageBuilderConfig {
    /// A PUT on a template that is there replaces it. Azure refuses that.
    pub editable: bool,
    /// Hosts (as URLs name them) that scripts may be fetched from although their addresses are this machine's or a link's own.
    pub fetch_from: Vec<String>,
    /// The largest script or file of a template.
    pub max_file_mib: u64,
    /// How often triggers are looked at.
    pub trigger_seconds: u64,
}

impl Default for ImageBuilderConfig {
    fn default() -> Self {
        Self { editable: false, fetch_from: vec![], max_file_mib: 256, trigger_seconds: 30 }
    }
}

/// `internal` of an image template.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct TemplateInternal {
    /// Chosen when the template is accepted; there once `image_template.create` has made it.
    pub staging: Staging,
    /// Shown as `source.exactVersion` once it was resolved.
    pub exact_version: Option<String>,
    /// Fetched scripts and files, by their steps' places (`customize/0`).
    pub files: BTreeMap<String, Fetched>,
    /// Why the template cannot be used.
    pub provisioning_error: Option<ProvisioningError>,
    pub last_run: Option<LastRun>,
    /// Runs in a row that a trigger started and that failed.
    pub failures: u32,
    /// `https://host:port` by which the template's author reached the server, and the suffix of blob hosts; for URLs that are shown.
    pub arm: String,
    pub blob_suffix: Option<String>,
}

/// A file in the staging group's storage account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Fetched {
    /// In the container [`staging::SCRIPTS`].
    pub blob: String,
    /// Hexadecimal, lower case.
    pub sha256: String,
    pub size_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ProvisioningError {
    #[serde(rename = "provisioningErrorCode")]
    pub code: String,
    pub message: String,
}

/// A request of the service for a template: the template's identity, which besides may do anything in the staging group.
///
/// # Errors
/// What the database says. An identity that is gone or disabled has no rights, which is no error here.
pub(crate) async fn service_call(engine: &Engine, template: &Resource) -> Result<Call, ArmError> {
    let state: TemplateInternal = internal(template)?;
    let access = engine.access().await?;
    let tenant = access.subscription(&template.subscription).map(|s| s.tenant.clone()).unwrap_or_default();
    let mut caller = Caller {
        tenant,
        display_name: format!("Image Builder for {}", template.name),
        service_scope: Some(state.staging.group.to_ascii_lowercase()),
        ..Caller::default()
    };
    if let Some(row) = identity_row(engine, template).await? {
        let id = row.body["properties"]["principalId"].as_str().unwrap_or_default();
        if let Some(principal) = access.principal(id).filter(|p| p.body["accountEnabled"] != false) {
            caller.principal.clone_from(&principal.id);
            caller.app_id.clone_from(&principal.app_id);
        }
    }
    Ok(Call {
        caller,
        urls: Urls { arm: state.arm, blob_suffix: state.blob_suffix },
        api_version: ApiVersion::latest(),
        correlation_id: uuid::Uuid::new_v4().to_string(),
        query: BTreeMap::new(),
        if_match: None,
        if_none_match: None,
    })
}

/// The row of the identity that a template has.
pub(crate) async fn identity_row(engine: &Engine, template: &Resource) -> Result<Option<Resource>, ArmError> {
    let named = template.body["identity"]["userAssignedIdentities"].as_object();
    let Some((id, _)) = named.and_then(|all| all.iter().next()) else { return Ok(None) };
    engine.db().resource(&id.to_ascii_lowercase()).await.map_err(db_error)
}

/// The refusal of a right that the template's identity lacks (recorded).
pub(crate) fn unauthorized(id: &str) -> ArmError {
    ArmError::new(
        403,
        "Unauthorized",
        format!(
            "Not authorized to access the resource: {id}. Please check the user assigned identity has the correct permissions. For \
             more details, go to https://aka.ms/azvmimagebuilderts."
        ),
    )
}
