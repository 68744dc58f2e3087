//! Boot diagnostics as a request sees them: where they may go, and the URLs by which they are read.

use super::{MachineInternal, not_allowed};
use crate::boot_diagnostics::{Part, refresh};
use crate::grant::{GrantDetail, new_grant, sas_url};
use crate::provider::{ActionPlan, Context};
use crate::storage::vhd::account_of_service;
use crate::stored::internal;
use lazuli_arm::bodies::virtual_machine::{BootDiagnostics, boot_diagnostics};
use lazuli_arm::{ArmError, ResourceId};
use lazuli_meta::model::{Change, Resource};
use serde_json::{Value, json};

/// Minutes for which the URLs are good, unless the request says (Swagger).
const MINUTES: i64 = 120;
const MOST_MINUTES: i64 = 1440;

/// The storage account that a body names for them, in its machine's subscription and region.
///
/// # Errors
/// `StorageAccountNotFound` in Azure's words.
pub(super) async fn account(cx: Context<'_>, id: &ResourceId, body: &Value) -> Result<Option<String>, ArmError> {
    let BootDiagnostics::Account(url) = boot_diagnostics(body) else { return Ok(None) };
    let name = account_of_service(&url, &cx.call.urls.arm);
    let found = match &name {
        Some(name) => cx.engine.storage_account(name).await?,
        None => None,
    };
    let found = found.filter(|account| {
        let subscription = format!("/subscriptions/{}/", id.subscription.to_ascii_lowercase());
        account.key.starts_with(&subscription) && body["location"] == account.location
    });
    found.map(|account| Some(account.name)).ok_or_else(|| {
        ArmError::bad_request(
            "StorageAccountNotFound",
            format!(
                "Storage account {} not found. Ensure storage account is not deleted and belongs to the same Azure location as \
                 the VM.",
                name.unwrap_or(url)
            ),
        )
        .target("diagnosticsProfile.bootDiagnostics.storageUri")
    })
}

/// `retrieveBootDiagnosticsData`: log and picture as they are now, by URLs that end.
///
/// # Errors
/// `OperationNotAllowed` where they are off or in a storage account of the caller's; `InvalidParameter`.
pub(super) async fn retrieve(cx: Context<'_>, row: &Resource) -> Result<ActionPlan, ArmError> {
    let refuse = |why: &str| Err(not_allowed("retrieveBootDiagnosticsData", &row.name, why));
    match boot_diagnostics(&row.body) {
        BootDiagnostics::Managed => {}
        BootDiagnostics::Off => return refuse("since boot diagnostics is not enabled on it"),
        BootDiagnostics::Account(_) => {
            return refuse("since its boot diagnostics are in a storage account, which its instance view names");
        }
    }
    let minutes = match cx.call.query.get("sasuriexpirationtimeinminutes") {
        None => MINUTES,
        Some(text) => text.parse().ok().filter(|m| (1..=MOST_MINUTES).contains(m)).ok_or_else(|| {
            ArmError::invalid_parameter(
                "sasUriExpirationTimeInMinutes",
                format!(
                    "The value {text} of parameter sasUriExpirationTimeInMinutes is out of range. The value must be between 1 \
                     and {MOST_MINUTES}, inclusive."
                ),
            )
        })?,
    };
    let state: MachineInternal = internal(row)?;
    refresh(cx.engine, row, &state).await;
    let mut changes = Vec::new();
    let mut url = |part: Part| {
        let detail = GrantDetail::File {
            path: part.path(cx.engine, state.vm_id),
            name: part.blob_name(row, state.vm_id),
            content_type: part.content_type().to_owned(),
        };
        let grant = new_grant(&row.key, "Read", &detail, cx.now_ms.saturating_add(minutes * 60_000));
        let url = sas_url(&grant, &cx.call.urls);
        changes.push(Change::PutGrant(grant));
        url
    };
    let reply = json!({"consoleScreenshotBlobUri": url(Part::Screen), "serialConsoleLogBlobUri": url(Part::Log)});
    Ok(ActionPlan::Done { reply: Some(reply), resource: None, changes })
}
