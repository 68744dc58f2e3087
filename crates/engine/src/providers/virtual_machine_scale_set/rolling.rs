//! `…/virtualMachineScaleSets/{set}/rollingUpgrades/latest`: how far the upgrade is that runs, or that ran last. It has no row: the
//! set remembers it, and its operation (`operations/virtual_machine_scale_set.rs`) keeps that up to date.
//!
//! ```text
//! RollingForward ─┬─ every machine is of the model ─> Completed
//!                 ├─ too many are not well ─────────> Faulted
//!                 └─ cancel, after the batch ───────> Cancelled
//! ```

use super::{ScaleSetInternal, start};
use crate::call::Listing;
use crate::operations::virtual_machine_scale_set::{What, Work};
use crate::provider::{ActionPlan, Context, Elsewhere, Kept, Provider};
use crate::stored::{change_internal, internal};
use crate::{db_error, time_text};
use async_trait::async_trait;
use lazuli_arm::bodies::virtual_machine_scale_set as body;
use lazuli_arm::{ArmError, ResourceId};
use lazuli_meta::model::Resource;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const KIND: &str = "Microsoft.Compute/virtualMachineScaleSets/rollingUpgrades";
/// The one that there is.
const LATEST: &str = "latest";
/// The action on a set that ends it.
pub(crate) const CANCEL: &str = "rollingUpgrades/cancel";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Code {
    RollingForward,
    Cancelled,
    Completed,
    Faulted,
}

/// What a set remembers of a rolling upgrade.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RollingUpgrade {
    pub code: Code,
    pub started_ms: i64,
    /// When somebody asked for its end.
    pub canceled_ms: Option<i64>,
    pub policy: Value,
    /// Numbers of machines.
    pub successful: usize,
    pub failed: usize,
    pub in_progress: usize,
    pub pending: usize,
    /// What ended it.
    pub error: Value,
}

impl RollingUpgrade {
    pub(crate) fn begun(set: &Value, now_ms: i64) -> Self {
        Self {
            code: Code::RollingForward,
            started_ms: now_ms,
            canceled_ms: None,
            policy: body::rolling(set).shown(),
            successful: 0,
            failed: 0,
            in_progress: 0,
            pending: 0,
            error: Value::Null,
        }
    }

    pub(crate) fn runs(&self) -> bool {
        self.code == Code::RollingForward
    }

    pub(crate) fn end(&mut self, code: Code, error: Value) {
        self.code = code;
        self.error = error;
        self.in_progress = 0;
    }

    fn shown(&self, set: &Resource) -> Value {
        let (action, at) = self.canceled_ms.map_or(("Start", self.started_ms), |at| ("Cancel", at));
        let mut properties = json!({
            "policy": self.policy,
            "runningStatus": {"code": self.code, "startTime": time_text(self.started_ms), "lastAction": action,
                "lastActionTime": time_text(at)},
            "progress": {"successfulInstanceCount": self.successful, "failedInstanceCount": self.failed,
                "inProgressInstanceCount": self.in_progress, "pendingInstanceCount": self.pending},
        });
        if !self.error.is_null() {
            properties["error"] = self.error.clone();
        }
        json!({"id": format!("{}/rollingUpgrades/{LATEST}", set.id), "name": LATEST, "type": KIND,
            "location": set.location, "properties": properties})
    }
}

/// An upgrade that somebody asks for, whatever the policy of the set is.
pub(super) fn begin(cx: Context<'_>, set: &Resource, what: What) -> Result<ActionPlan, ArmError> {
    let mut busy = Resource { provisioning_state: "Updating".into(), ..set.clone() };
    let upgrade = RollingUpgrade::begun(&set.body, cx.now_ms);
    change_internal(&mut busy, |state: &mut ScaleSetInternal| state.rolling = Some(upgrade.clone()));
    Ok(ActionPlan::Start { start: start(cx, Work::Roll { what })?, resource: Some(busy), changes: vec![] })
}

/// Ends the upgrade that runs, after the machines that it works on.
///
/// # Errors
/// `OperationNotAllowed` where none runs.
pub(super) fn cancel(cx: Context<'_>, set: &Resource) -> Result<ActionPlan, ArmError> {
    if !internal::<ScaleSetInternal>(set)?.rolling.is_some_and(|upgrade| upgrade.runs()) {
        return Err(ArmError::conflict("OperationNotAllowed", "There is no ongoing Rolling Upgrade to cancel."));
    }
    let mut asked = set.clone();
    change_internal(&mut asked, |state: &mut ScaleSetInternal| {
        if let Some(upgrade) = &mut state.rolling {
            upgrade.canceled_ms = Some(cx.now_ms);
        }
    });
    Ok(ActionPlan::Start { start: start(cx, Work::CancelRolling)?, resource: Some(asked), changes: vec![] })
}

pub(crate) struct RollingUpgrades;

#[async_trait]
impl Provider for RollingUpgrades {
    fn resource_type(&self) -> &'static str {
        KIND
    }

    fn elsewhere(&self) -> Option<&dyn Elsewhere> {
        Some(self)
    }

    fn not_written(&self, id: &ResourceId) -> ArmError {
        ArmError::bad_request(
            "OperationNotAllowed",
            format!(
                "'{id}' is shown, and written by nobody: start an upgrade with osRollingUpgrade, end it with {CANCEL}."
            ),
        )
    }
}

#[async_trait]
impl Elsewhere for RollingUpgrades {
    async fn get(&self, cx: Context<'_>, id: &ResourceId) -> Result<Option<Kept>, ArmError> {
        let Some(set) = id.parent().filter(|_| id.name().eq_ignore_ascii_case(LATEST)) else { return Ok(None) };
        let Some(set) = cx.engine.db().resource(&set.key()).await.map_err(db_error)? else { return Ok(None) };
        let upgrade = internal::<ScaleSetInternal>(&set)?.rolling;
        Ok(upgrade.map(|upgrade| Kept { view: upgrade.shown(&set), etag: set.etag.clone(), operation: None }))
    }

    async fn list(&self, cx: Context<'_>, parent: &ResourceId) -> Result<Listing, ArmError> {
        let latest = parent.child("rollingUpgrades", LATEST);
        let items = self.get(cx, &latest).await?.map(|kept| kept.view).into_iter().collect();
        Ok(Listing { items, next: None })
    }
}
