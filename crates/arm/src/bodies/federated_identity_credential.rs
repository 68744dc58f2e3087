//! `Microsoft.ManagedIdentity/userAssignedIdentities/federatedIdentityCredentials`: the tokens of another issuer that are taken for
//! the identity. Issuer, subject and audience are compared exactly with what a token says.

use super::{Fields, not_offered};
use crate::{ArmError, ResourceId};
use serde_json::{Value, json};

const ROOT: &str = "federatedIdentityCredential";
/// Of one identity, as Azure's.
const MAX: usize = 20;
const MAX_TEXT: usize = 600;

/// 3 to 120 letters, digits, dashes and underscores, beginning with a letter or digit (Swagger: the resource's name).
fn check_name(name: &str) -> Result<(), ArmError> {
    let inner = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let ok = (3..=120).contains(&name.len())
        && name.chars().all(inner)
        && name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if ok {
        return Ok(());
    }
    Err(ArmError::bad_request(
        "InvalidResourceName",
        format!(
            "The federated identity credential name '{name}' is invalid: it has 3 to 120 letters, digits, dashes and underscores, \
             and begins with a letter or a digit."
        ),
    ))
}

/// `{properties: {issuer, subject, audiences}}`. `others`: names and bodies of the identity's credentials, as they are.
///
/// Errors: 400 `BadRequest` beyond 20, 409 `Conflict` where another one has the same issuer and subject.
pub fn put(id: &ResourceId, new: &Value, others: &[(String, Value)]) -> Result<Value, ArmError> {
    check_name(id.name())?;
    let new = Fields::root(ROOT, new)?;
    let given = new.object("properties")?;
    if !given.object("claimsMatchingExpression")?.is_empty() {
        return Err(not_offered(
            &given.path("claimsMatchingExpression"),
            "claims are compared exactly; give a subject",
        ));
    }
    let text = |name: &str| -> Result<String, ArmError> {
        let text = given.required_str(name)?;
        if text.is_empty() || text.len() > MAX_TEXT || text.chars().any(char::is_control) {
            return Err(ArmError::invalid_parameter(
                &given.path(name),
                format!("The value of parameter {name} is invalid."),
            ));
        }
        Ok(text)
    };
    let (issuer, subject) = (text("issuer")?, text("subject")?);
    let audiences = given.strings("audiences")?.unwrap_or_default();
    if audiences.is_empty() || audiences.len() > 10 || audiences.iter().any(|a| a.is_empty() || a.len() > MAX_TEXT) {
        return Err(ArmError::invalid_parameter(
            &given.path("audiences"),
            "The value of parameter audiences is invalid: one to ten audiences are expected.",
        ));
    }
    let others = others.iter().filter(|(name, _)| !name.eq_ignore_ascii_case(id.name()));
    let others: Vec<&Value> = others.map(|(_, body)| &body["properties"]).collect();
    if others.len() >= MAX {
        return Err(ArmError::bad_request(
            "BadRequest",
            format!("No more than {MAX} federated identity credentials can be added to a managed identity."),
        ));
    }
    if others.iter().any(|o| o["issuer"] == issuer && o["subject"] == subject) {
        return Err(ArmError::conflict(
            "Conflict",
            "Issuer and subject combination already exists for this Managed Identity.",
        ));
    }
    Ok(json!({"properties": {"issuer": issuer, "subject": subject, "audiences": audiences}}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> ResourceId {
        format!(
            "/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/i/\
             federatedIdentityCredentials/{name}"
        )
        .parse()
        .unwrap()
    }

    fn body(subject: &str) -> Value {
        json!({"properties": {"issuer": "https://i", "subject": subject, "audiences": ["api://AzureADTokenExchange"]}})
    }

    #[test]
    fn each_trusts_another_subject() {
        let mut others: Vec<(String, Value)> = (0..19).map(|n| (format!("cred{n}"), body(&format!("s{n}")))).collect();
        assert_eq!(put(&id("new"), &body("s"), &others).unwrap(), body("s"));
        assert_eq!(put(&id("CRED3"), &body("s3"), &others).unwrap(), body("s3"));
        assert_eq!(put(&id("new"), &body("s3"), &others).unwrap_err().code, "Conflict");
        others.push(("cred19".into(), body("s19")));
        assert_eq!(put(&id("new"), &body("s"), &others).unwrap_err().code, "BadRequest");
    }

    #[test]
    fn what_is_missing_or_not_offered_is_told() {
        for (name, value) in
            [("issuer", json!("")), ("subject", Value::Null), ("audiences", json!([])), ("audiences", json!(""))]
        {
            let mut body = body("s");
            body["properties"][name] = value;
            assert_eq!(put(&id("new"), &body, &[]).unwrap_err().status, 400, "{name}");
        }
        let mut flexible = body("s");
        flexible["properties"]["claimsMatchingExpression"] = json!({"languageVersion": 1, "value": "x"});
        assert_eq!(put(&id("new"), &flexible, &[]).unwrap_err().code, "OperationNotSupported");
        assert_eq!(put(&id("a"), &body("s"), &[]).unwrap_err().code, "InvalidResourceName");
    }
}
