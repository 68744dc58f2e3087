//! PUT, PATCH, DELETE and POST: the engine's result in the wire shape of its type.

use super::answer::first_answer;
use super::lro::{self, Family, Headers, PollUrls, Shape, Verb};
use super::{Arm, set_etag};
use crate::respond::{self, Reply};
use http::{HeaderName, HeaderValue, StatusCode, header};
use lazuli_arm::{ArmError, ResourceId, lenient_json, locations};
use lazuli_engine::call::{ActionReply, Deleted, Written};
use serde_json::{Value, json};
use std::time::Duration;

const ASYNC_OPERATION: HeaderName = HeaderName::from_static("azure-asyncoperation");
/// For types whose DELETE has no long-running form: so long is waited for the engine's operation.
const SYNCHRONOUS_WAIT: Duration = Duration::from_secs(60);
const SYNCHRONOUS_POLL: Duration = Duration::from_millis(100);

impl Arm<'_> {
    pub(super) async fn put(&self, id: &ResourceId) -> Result<Reply, ArmError> {
        let body = lenient_json::parse_object(self.body)?;
        let written = self.app.backend.put(&self.call, id, body.clone()).await?;
        let verb = if written.created { Verb::Create } else { Verb::Update };
        self.written(id, verb, &body, &written)
    }

    pub(super) async fn patch(&self, id: &ResourceId) -> Result<Reply, ArmError> {
        let body = lenient_json::parse(self.body)?.unwrap_or_else(|| json!({}));
        let written = self.app.backend.patch(&self.call, id, body.clone()).await?;
        self.written(id, Verb::Patch, &body, &written)
    }

    fn written(&self, id: &ResourceId, verb: Verb<'_>, sent: &Value, written: &Written) -> Result<Reply, ArmError> {
        let shape = lro::shape_of(&id.resource_type().key(), verb);
        let with_operation = written.operation.as_deref().filter(|_| shape.headers != Headers::None);
        // Without an operation to wait for, `202` or an empty body would leave the client with nothing.
        let (status, body) = match with_operation {
            None if shape.status == StatusCode::ACCEPTED => (StatusCode::OK, true),
            None => (shape.status, true),
            Some(_) => (shape.status, shape.body),
        };
        let mut response = match with_operation {
            _ if !body => respond::empty(status),
            None => respond::json(status, &written.resource),
            Some(_) => respond::json(status, &first_answer(shape, verb, sent, &written.resource)),
        };
        set_etag(&mut response, &written.etag);
        if let Some(operation) = with_operation {
            let location = written.resource.get("location").and_then(Value::as_str).map(short_name);
            let location = location.unwrap_or_else(|| "global".to_owned());
            self.operation_headers(&mut response, id, shape, &location, operation);
        }
        Ok(response)
    }

    pub(super) async fn delete(&self, id: &ResourceId) -> Result<Reply, ArmError> {
        let kind = id.resource_type().key();
        let shape = lro::shape_of(&kind, Verb::Delete);
        // Read while it is still there: its region is part of the poll URL, and some types show what was deleted.
        let before = match shape.headers == Headers::None || matches!(shape.family, Family::Results) {
            true => self.app.backend.get(&self.call, id).await.ok().map(|(value, _)| value),
            false => None,
        };
        let location = self.location_of(id, before.as_ref()).await;
        let operation = match self.app.backend.delete(&self.call, id).await? {
            Deleted::Absent if id.is_group() => return Err(ArmError::group_not_found(id.name())),
            Deleted::Absent => return Ok(respond::empty(StatusCode::NO_CONTENT)),
            Deleted::Done { operation } | Deleted::Started { operation } => operation,
        };
        if shape.headers == Headers::None {
            self.wait(&id.subscription, &operation).await?;
            let shows_what_was = kind.ends_with("microsoft.authorization/roleassignments");
            return Ok(match before.filter(|_| shows_what_was) {
                Some(value) => respond::json(shape.status, &value),
                None => respond::empty(shape.status),
            });
        }
        let mut response = respond::empty(shape.status);
        self.operation_headers(&mut response, id, shape, &location, &operation);
        Ok(response)
    }

    /// `POST {resource}/{action}`. On a provider, the action keeps its namespace.
    pub(super) async fn action(&self, parent: &ResourceId, action: &str) -> Result<Reply, ArmError> {
        let body = lenient_json::parse(self.body)?.unwrap_or(Value::Null);
        let kind = parent.resource_type().key();
        match self.app.backend.action(&self.call, parent, action, body).await? {
            ActionReply::Done(Some(value)) => Ok(respond::json(StatusCode::OK, &value)),
            ActionReply::Done(None) => Ok(respond::empty(lro::done_without_result(&kind, action))),
            ActionReply::Started { operation } => {
                let lower = action.to_ascii_lowercase();
                let shape = lro::shape_of(&kind, Verb::Action(&lower));
                if shape.headers == Headers::None {
                    self.wait(&parent.subscription, &operation).await?;
                    return Ok(respond::empty(shape.status));
                }
                let resource = match shape.body {
                    true => Some(self.app.backend.get(&self.call, parent).await?.0),
                    false => None,
                };
                let location = self.location_of(parent, resource.as_ref()).await;
                let mut response = match resource {
                    // The one action with a body shows the disks that it is about to change (Swagger: `StorageProfile`).
                    Some(value) => respond::json(shape.status, &value["properties"]["storageProfile"]),
                    None => respond::empty(shape.status),
                };
                self.operation_headers(&mut response, parent, shape, &location, &operation);
                Ok(response)
            }
        }
    }

    fn operation_headers(&self, response: &mut Reply, id: &ResourceId, shape: Shape, location: &str, operation: &str) {
        let resource = id.to_string();
        let urls = PollUrls {
            base: &self.context.base,
            subscription: &id.subscription,
            location,
            resource: &resource,
            namespace: &id.namespace,
            operation,
            api_version: self.call.api_version.as_str(),
        };
        let headers = response.headers_mut();
        if matches!(shape.headers, Headers::Async | Headers::Both) {
            respond::set(headers, ASYNC_OPERATION, &urls.status(shape.family));
        }
        if matches!(shape.headers, Headers::Location | Headers::Both) {
            respond::set(headers, header::LOCATION, &urls.result(shape.family));
        }
        if shape.headers != Headers::None {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(self.app.retry_after_seconds));
        }
    }

    /// Region of the resource, or of the nearest parent that has one.
    async fn location_of(&self, id: &ResourceId, known: Option<&Value>) -> String {
        let of = |value: &Value| value.get("location").and_then(Value::as_str).map(short_name);
        if let Some(location) = known.and_then(of) {
            return location;
        }
        let mut next = Some(id.clone());
        while let Some(id) = next {
            // A parent that cannot be read only makes the URL less telling.
            let value = self.app.backend.get(&self.call, &id).await.ok();
            if let Some(location) = value.as_ref().and_then(|(value, _)| of(value)) {
                return location;
            }
            next = id.parent().filter(|p| p.resource_group.is_some());
        }
        "global".to_owned()
    }

    /// Until the operation has ended; its error, if it failed.
    async fn wait(&self, subscription: &str, operation: &str) -> Result<(), ArmError> {
        let ended = async {
            loop {
                let view = self.app.backend.operation(&self.call, subscription, operation).await?;
                match view.status {
                    "InProgress" => tokio::time::sleep(SYNCHRONOUS_POLL).await,
                    "Succeeded" => return Ok(()),
                    _ => return Err(super::operations::failure(&view)),
                }
            }
        };
        let late =
            |_| ArmError::new(504, "GatewayTimeout", "The operation goes on; read the resource to see its state.");
        tokio::time::timeout(SYNCHRONOUS_WAIT, ended).await.map_err(late)?
    }
}

fn short_name(location: &str) -> String {
    locations::normalize(location).map_or_else(|| location.replace(' ', "").to_ascii_lowercase(), |l| l.name.to_owned())
}
