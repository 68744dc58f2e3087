//! Reads what a template's expressions ask for, under the rights of whoever deploys.

use super::Who;
use super::hanging::Hanging;
use crate::Engine;
use crate::call::ActionReply;
use lazuli_arm::ArmError;
use lazuli_template::{Evaluated, Facts, Request};
use serde_json::Value;

/// So often does an expression's value lead to another question.
const ROUNDS: usize = 16;

/// A value, with whatever had to be read for it.
pub(super) async fn settled(
    engine: &Engine,
    who: &Who,
    mut evaluate: impl FnMut(&Facts) -> Result<Evaluated, ArmError>,
) -> Result<Value, ArmError> {
    let mut facts = Facts::default();
    for _ in 0..ROUNDS {
        match evaluate(&facts)? {
            Evaluated::Ready(value) => return Ok(value),
            Evaluated::Needs(requests) => {
                for request in requests {
                    let answer = ask(engine, who, &request).await?;
                    facts.insert(request, answer);
                }
            }
        }
    }
    Err(ArmError::bad_request("InvalidTemplate", "The template's references lead to each other without an end."))
}

async fn ask(engine: &Engine, who: &Who, request: &Request) -> Result<Value, ArmError> {
    if let (Some(hanging), Request::Resource { api_version, .. }) = (Hanging::parse(request.id()), request) {
        return hanging.get(engine, &who.call(api_version)?).await;
    }
    let id = who.id(request.id()).map_err(|e| {
        let message = format!("The template reference '{}' is not a resource that can be read here.", request.id());
        ArmError::bad_request("InvalidTemplate", message).caused_by(e)
    })?;
    match request {
        Request::Resource { api_version, .. } => engine.get(&who.call(api_version)?, &id).await,
        Request::List { action, api_version, body, .. } => {
            let body =
                if body.is_empty() { Value::Null } else { serde_json::from_str(body).map_err(ArmError::internal)? };
            match engine.action(&who.call(api_version)?, &id, action, body).await? {
                ActionReply::Done(reply) => Ok(reply.unwrap_or_default()),
                ActionReply::Started { .. } => Err(ArmError::bad_request(
                    "InvalidTemplate",
                    format!("The action '{action}' takes its time and gives no list: it cannot be used in a template."),
                )),
            }
        }
    }
}
