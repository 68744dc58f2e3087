//! `priority`, `evictionPolicy` and `billingProfile`: kept and shown. Nobody takes the room of a machine away here, so that a Spot
//! machine is one like any other.

use super::super::{Fields, unchanged};
use crate::ArmError;
use serde_json::{Map, Value, json};

/// Takes them over into `body`.
///
/// # Errors
/// `InvalidParameter`; 409 `OperationNotAllowed` in Azure's words where something is said of Spot machines and it is none.
pub(super) fn keep(properties: &Fields<'_>, body: &mut Map<String, Value>) -> Result<(), ArmError> {
    if let Some(priority) = properties.one_of("priority", &["Regular", "Low", "Spot"])? {
        body.insert("priority".into(), priority.into());
    }
    let spot = body.get("priority").is_some_and(|p| p == "Spot" || p == "Low");
    let only_spot = |what: &str| {
        Err(ArmError::conflict(
            "OperationNotAllowed",
            format!(
                "{what} can be set only on Azure Spot Virtual Machines. For more information, see \
                 http://aka.ms/AzureSpot/errormessages."
            ),
        ))
    };
    match properties.one_of("evictionPolicy", &["Deallocate", "Delete"])? {
        Some(_) if !spot => return only_spot("Eviction policy"),
        Some(policy) => drop(body.insert("evictionPolicy".into(), policy.into())),
        None => {}
    }
    let billing = properties.object("billingProfile")?;
    match billing.get("maxPrice") {
        Some(_) if !spot => only_spot("Max price"),
        Some(price) => {
            let path = billing.path("maxPrice");
            let number = price.as_f64().or_else(|| price.as_str()?.trim().parse().ok());
            let Some(number) = number.filter(|n| *n > 0.0 || *n == -1.0) else {
                let message = format!("The value of parameter {path} is invalid: -1 or a price above 0 is expected.");
                return Err(ArmError::invalid_parameter(&path, message));
            };
            body.insert("billingProfile".into(), json!({ "maxPrice": number }));
            Ok(())
        }
        None => Ok(()),
    }
}

/// A machine stays what it is.
///
/// # Errors
/// `PropertyChangeNotAllowed`.
pub(super) fn check_unchanged(properties: &Fields<'_>, before: &Value) -> Result<(), ArmError> {
    let regular = json!("Regular");
    let stored = before.get("priority").unwrap_or(&regular);
    unchanged(&properties.path("priority"), properties.get("priority"), Some(stored))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(given: Value) -> Result<Value, String> {
        let mut body = Map::new();
        let fields = Fields::root("virtualMachine.properties", &given).unwrap();
        keep(&fields, &mut body).map_err(|e| format!("{}: {}", e.code, e.message))?;
        Ok(body.into())
    }

    #[test]
    fn what_is_said_of_spot_machines_is_kept_for_them_alone() {
        let spot = json!({"priority": "spot", "evictionPolicy": "delete", "billingProfile": {"maxPrice": "-1"}});
        let shown = json!({"priority": "Spot", "evictionPolicy": "Delete", "billingProfile": {"maxPrice": -1.0}});
        assert_eq!(kept(spot).unwrap(), shown);
        assert_eq!(kept(json!({"priority": "Regular", "billingProfile": {}})).unwrap(), json!({"priority": "Regular"}));
        for (given, told) in [
            (
                json!({"priority": "High"}),
                "InvalidParameter: The value 'High' of parameter virtualMachine.properties.priority",
            ),
            (json!({"evictionPolicy": "Delete"}), "OperationNotAllowed: Eviction policy can be set only on Azure Spot"),
            (
                json!({"billingProfile": {"maxPrice": 1}}),
                "OperationNotAllowed: Max price can be set only on Azure Spot",
            ),
            (
                json!({"priority": "Spot", "billingProfile": {"maxPrice": 0}}),
                "InvalidParameter: The value of parameter",
            ),
        ] {
            let error = kept(given).unwrap_err();
            assert!(error.starts_with(told), "{error}");
        }
    }

    #[test]
    fn a_machine_stays_spot_or_not() {
        let asked = |priority: &str, before: Value| {
            let given = json!({"priority": priority});
            check_unchanged(&Fields::root("virtualMachine.properties", &given).unwrap(), &before)
        };
        asked("regular", json!({})).unwrap();
        asked("Spot", json!({"priority": "Spot"})).unwrap();
        assert_eq!(asked("Spot", json!({})).unwrap_err().code, "PropertyChangeNotAllowed");
    }
}
