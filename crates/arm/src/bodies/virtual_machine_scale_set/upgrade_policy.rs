//! `upgradePolicy`: how machines that are not of the model as it is now come to be so, and when that must end.

use super::super::{Fields, not_offered};
use crate::ArmError;
use serde_json::{Map, Value, json};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upgrades {
    /// When somebody asks for it.
    Manual,
    /// With each change of the model.
    Automatic,
    /// The same, some at a time.
    Rolling,
}

/// What a stored body's policy is.
pub fn upgrades(body: &Value) -> Upgrades {
    match body["properties"]["upgradePolicy"]["mode"].as_str() {
        Some("Automatic") => Upgrades::Automatic,
        Some("Rolling") => Upgrades::Rolling,
        _ => Upgrades::Manual,
    }
}

/// The numbers of `rollingUpgradePolicy`; percentages are of machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rolling {
    batch: usize,
    unhealthy: usize,
    unhealthy_upgraded: usize,
    pub pause_seconds: u64,
    /// Machines that are not well are upgraded before the others.
    pub unhealthy_first: bool,
}

/// What a stored body says, or Azure's defaults.
pub fn rolling(body: &Value) -> Rolling {
    let policy = &body["properties"]["upgradePolicy"]["rollingUpgradePolicy"];
    let percent = |name: &str| policy[name].as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or(20);
    Rolling {
        batch: percent("maxBatchInstancePercent"),
        unhealthy: percent("maxUnhealthyInstancePercent"),
        unhealthy_upgraded: percent("maxUnhealthyUpgradedInstancePercent"),
        pause_seconds: policy["pauseTimeBetweenBatches"].as_str().and_then(seconds).unwrap_or(0),
        unhealthy_first: policy["prioritizeUnhealthyInstances"] == true,
    }
}

impl Rolling {
    /// As `RollingUpgradeStatusInfo` shows it.
    pub fn shown(&self) -> Value {
        json!({
            "maxBatchInstancePercent": self.batch,
            "maxUnhealthyInstancePercent": self.unhealthy,
            "maxUnhealthyUpgradedInstancePercent": self.unhealthy_upgraded,
            "pauseTimeBetweenBatches": format!("PT{}S", self.pause_seconds),
        })
    }

    /// Machines that are upgraded at the same time, of so many.
    pub fn batch_of(&self, machines: usize) -> usize {
        (machines * self.batch / 100).max(1)
    }

    /// Whether the next batch may begin, with so many of all machines not well.
    ///
    /// # Errors
    /// Azure's text (opencga issue 987).
    pub fn check_before(&self, unhealthy: usize, machines: usize) -> Result<(), ArmError> {
        let percent = percent_of(unhealthy, machines);
        if percent <= self.unhealthy {
            return Ok(());
        }
        Err(ArmError::conflict(
            "MaxUnhealthyInstancePercentExceededInRollingUpgrade",
            format!(
                "Rolling Upgrade failed after exceeding the MaxUnhealthyInstancePercent value defined in the RollingUpgradePolicy. \
                 {percent}% of instances are in an unhealthy state - more than the threshold of {}%. To apply upgrades, consider \
                 increasing the MaxUnhealthyInstancePercent value.",
                self.unhealthy
            ),
        ))
    }

    /// Whether the upgrade may go on after a batch: `failed` of the `upgraded` are not well, the first of them for this reason.
    ///
    /// # Errors
    /// Azure's text (AzureTRE issue 1591).
    pub fn check_after(&self, failed: usize, upgraded: usize, first: &str, why: &str) -> Result<(), ArmError> {
        let percent = percent_of(failed, upgraded);
        if percent <= self.unhealthy_upgraded {
            return Ok(());
        }
        Err(ArmError::conflict(
            "MaxUnhealthyUpgradedInstancePercentExceededInRollingUpgrade",
            format!(
                "Rolling Upgrade failed after exceeding the MaxUnhealthyUpgradedInstancePercent value defined in the \
                 RollingUpgradePolicy. {percent}% of instances are in an unhealthy state after being upgraded - more than the \
                 threshold of {}%. The most impactful error is: {why}. First failed instance ID is: {first}.",
                self.unhealthy_upgraded
            ),
        ))
    }
}

fn percent_of(part: usize, all: usize) -> usize {
    (part * 100).checked_div(all).unwrap_or(0)
}

/// Seconds of an ISO 8601 duration as `PT1M30S`.
fn seconds(text: &str) -> Option<u64> {
    let duration: jiff::SignedDuration = text.parse().ok()?;
    u64::try_from(duration.as_secs()).ok()
}

/// Azure's defaults; what is not given stays.
pub(super) fn settled(properties: &Fields<'_>, stored: Option<&Value>) -> Result<Value, ArmError> {
    let given = properties.object("upgradePolicy")?;
    let before = stored.map_or(&Value::Null, |s| &s["upgradePolicy"]);
    let automatic = given.object("automaticOSUpgradePolicy")?;
    if automatic.bool("enableAutomaticOSUpgrade")? == Some(true) {
        let why = "machines are brought to a new image version when somebody asks for it (osRollingUpgrade)";
        return Err(not_offered(&automatic.path("enableAutomaticOSUpgrade"), why));
    }
    let mode = given.one_of("mode", &["Manual", "Automatic", "Rolling"])?;
    let mode = mode.or(before["mode"].as_str()).unwrap_or("Manual");
    let mut policy = json!({ "mode": mode });
    let rolling = given.object("rollingUpgradePolicy")?;
    let before = &before["rollingUpgradePolicy"];
    if mode == "Rolling" || !rolling.is_empty() || before.is_object() {
        policy["rollingUpgradePolicy"] = settled_rolling(&rolling, before)?;
    }
    Ok(policy)
}

fn settled_rolling(rolling: &Fields<'_>, before: &Value) -> Result<Value, ArmError> {
    let mut settled = Map::new();
    for (name, low) in
        [("maxBatchInstancePercent", 5), ("maxUnhealthyInstancePercent", 5), ("maxUnhealthyUpgradedInstancePercent", 0)]
    {
        let percent = rolling.int_within(name, low, 100)?.or(before[name].as_i64()).unwrap_or(20);
        settled.insert(name.into(), percent.into());
    }
    let pause = rolling.str("pauseTimeBetweenBatches")?;
    let pause = pause.or_else(|| before["pauseTimeBetweenBatches"].as_str().map(str::to_owned));
    let pause = pause.unwrap_or_else(|| "PT0S".to_owned());
    if seconds(&pause).is_none() {
        let path = rolling.path("pauseTimeBetweenBatches");
        return Err(ArmError::invalid_parameter(&path, format!("'{pause}' is no ISO 8601 duration, as PT1M is.")));
    }
    settled.insert("pauseTimeBetweenBatches".into(), pause.into());
    for (name, why) in [
        ("maxSurge", "a machine goes before the one that takes its place comes"),
        ("rollbackFailedInstancesOnPolicyBreach", "a machine that failed is left to be looked at"),
    ] {
        if rolling.bool(name)? == Some(true) {
            return Err(not_offered(&rolling.path(name), why));
        }
    }
    // Batches go by no zones here, whether that is asked for or not.
    for name in ["enableCrossZoneUpgrade", "prioritizeUnhealthyInstances"] {
        if let Some(value) = rolling.bool(name)?.or(before[name].as_bool()) {
            settled.insert(name.into(), value.into());
        }
    }
    Ok(Value::Object(settled))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(policy: &Value, old: Option<&Value>) -> Result<Value, ArmError> {
        let properties = json!({ "upgradePolicy": policy });
        let stored = old.map(|old| json!({ "upgradePolicy": old }));
        settled(&Fields::root("set.properties", &properties).unwrap(), stored.as_ref())
    }

    fn body(policy: &Value) -> Value {
        json!({"properties": {"upgradePolicy": policy}})
    }

    #[test]
    fn upgrades_in_batches() {
        let set = made(&json!({"mode": "Rolling"}), None).unwrap();
        assert_eq!(upgrades(&body(&set)), Upgrades::Rolling);
        assert_eq!((rolling(&body(&set)).batch_of(10), rolling(&body(&set)).batch_of(3)), (2, 1));
        let given = json!({"maxBatchInstancePercent": 50, "pauseTimeBetweenBatches": "PT1M30S"});
        let set = made(&json!({ "rollingUpgradePolicy": given }), Some(&set)).unwrap();
        let numbers = rolling(&body(&set));
        assert_eq!((numbers.batch_of(10), numbers.pause_seconds), (5, 90));
        assert_eq!(numbers.shown()["pauseTimeBetweenBatches"], "PT90S");
        assert_eq!(upgrades(&body(&made(&json!({}), None).unwrap())), Upgrades::Manual);
    }

    #[test]
    fn thresholds_end_an_upgrade() {
        let numbers = rolling(&json!({}));
        numbers.check_before(1, 5).unwrap();
        insta::assert_snapshot!(numbers.check_before(2, 5).unwrap_err().message, @"Rolling Upgrade failed after exceeding the MaxUnhealthyInstancePercent value defined in the RollingUpgradePolicy. 40% of instances are in an unhealthy state - more than the threshold of 20%. To apply upgrades, consider increasing the MaxUnhealthyInstancePercent value.");
        numbers.check_after(0, 0, "", "").unwrap();
        numbers.check_after(1, 5, "0", "x").unwrap();
        let error = numbers.check_after(1, 1, "0", "Allocation failed").unwrap_err();
        assert_eq!(error.code, "MaxUnhealthyUpgradedInstancePercentExceededInRollingUpgrade");
        insta::assert_snapshot!(error.message, @"Rolling Upgrade failed after exceeding the MaxUnhealthyUpgradedInstancePercent value defined in the RollingUpgradePolicy. 100% of instances are in an unhealthy state after being upgraded - more than the threshold of 20%. The most impactful error is: Allocation failed. First failed instance ID is: 0.");
    }

    #[test]
    fn what_would_not_be_done_is_refused() {
        for (policy, target) in [
            (json!({"automaticOSUpgradePolicy": {"enableAutomaticOSUpgrade": true}}), "enableAutomaticOSUpgrade"),
            (json!({"rollingUpgradePolicy": {"maxSurge": true}}), "maxSurge"),
            (json!({"rollingUpgradePolicy": {"pauseTimeBetweenBatches": "soon"}}), "pauseTimeBetweenBatches"),
            (json!({"rollingUpgradePolicy": {"maxBatchInstancePercent": 4}}), "maxBatchInstancePercent"),
            (json!({"mode": "Sometimes"}), "mode"),
        ] {
            let error = made(&policy, None).unwrap_err();
            assert!(error.target.as_deref().unwrap_or_default().ends_with(target), "{target}: {error:?}");
        }
        made(&json!({"automaticOSUpgradePolicy": {"enableAutomaticOSUpgrade": false}}), None).unwrap();
    }
}
