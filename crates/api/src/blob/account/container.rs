//! Containers and the lists of their blobs.

use super::super::reply::{Failure, insert};
use super::super::request::Ask;
use super::Planned;
use super::reply::{container_written, describe_container};
use super::service::xml as xml_reply;
use super::xml::{self, Include};
use crate::respond::{Reply, empty};
use axum::body::Body;
use http::{HeaderMap, StatusCode};
use lazuli_engine::storage::LeaseAction;
use uuid::Uuid;

impl Planned<'_> {
    fn public_access(&self) -> Result<Option<String>, Failure> {
        let Some(text) = self.ask.header("x-ms-blob-public-access") else { return Ok(None) };
        if !matches!(text, "container" | "blob") {
            return Err(Failure::bad_header("x-ms-blob-public-access", text, "It is container or blob."));
        }
        if !self.account.allow_public_access {
            let message = "Public access is not permitted on this storage account.";
            return Err(Failure::new(409, "PublicAccessNotPermitted", message));
        }
        Ok(Some(text.to_owned()))
    }

    pub(super) async fn create_container(&self) -> Result<Reply, Failure> {
        let (metadata, access) = (self.ask.metadata(), self.public_access()?);
        let made = self.storage().create_container(&self.target(), &self.ask.container, metadata, access).await?;
        Ok(container_written(StatusCode::CREATED, &made))
    }

    pub(super) async fn get_container(&self) -> Result<Reply, Failure> {
        let found = self.storage().container(&self.target(), &self.ask.container, &self.access()?).await?;
        let mut response = empty(StatusCode::OK);
        describe_container(response.headers_mut(), &found);
        Ok(response)
    }

    pub(super) async fn delete_container(&self) -> Result<Reply, Failure> {
        self.storage().delete_container(&self.target(), &self.ask.container, &self.access()?).await?;
        Ok(empty(StatusCode::ACCEPTED))
    }

    pub(super) async fn set_container_metadata(&self) -> Result<Reply, Failure> {
        let (name, metadata) = (&self.ask.container, self.ask.metadata());
        let done = self.storage().set_container_metadata(&self.target(), name, metadata, &self.access()?).await?;
        Ok(container_written(StatusCode::OK, &done))
    }

    pub(super) async fn get_acl(&self) -> Result<Reply, Failure> {
        let found = self.storage().container(&self.target(), &self.ask.container, &self.access()?).await?;
        let mut response = xml_reply(StatusCode::OK, xml::policy_list(&found.body.policies));
        let headers = response.headers_mut();
        headers.extend(container_written(StatusCode::OK, &found).headers().clone());
        if let Some(access) = &found.body.public_access {
            insert(headers, "x-ms-blob-public-access", access);
        }
        Ok(response)
    }

    pub(super) async fn set_acl(&self, body: &mut Option<Body>) -> Result<Reply, Failure> {
        let document = self.document(body).await?;
        let policies = if document.is_empty() { Vec::new() } else { xml::policies(&document)? };
        let (name, access) = (&self.ask.container, self.public_access()?);
        let done = self.storage().set_container_acl(&self.target(), name, access, policies, &self.access()?).await?;
        Ok(container_written(StatusCode::OK, &done))
    }

    pub(super) async fn lease_container(&self) -> Result<Reply, Failure> {
        let action = lease_action(self.ask)?;
        let access = lazuli_engine::storage::Access { conditions: self.ask.conditions()?, lease: None };
        let done = self.storage().lease_container(&self.target(), &self.ask.container, &action, &access).await?;
        let (container, id, seconds) = done;
        let mut response = container_written(lease_status(&action), &container);
        lease_headers(response.headers_mut(), &action, id, seconds);
        Ok(response)
    }

    pub(super) async fn list_blobs(&self) -> Result<Reply, Failure> {
        let query = self.list_query()?;
        let page = self.storage().list_blobs(&self.target(), &self.ask.container, &query).await?;
        let include = Include { metadata: self.includes("metadata"), copy: self.includes("copy") };
        let tier = self.default_tier();
        let text = xml::blob_list(&self.endpoint(), &self.ask.container, &query, &page, include, tier);
        Ok(xml_reply(StatusCode::OK, text))
    }

    /// What blobs have that name no tier.
    pub(super) fn default_tier(&self) -> &str {
        self.account.access_tier.as_deref().unwrap_or("Hot")
    }
}

/// What `x-ms-lease-action` and its companions ask for.
pub(super) fn lease_action(ask: &Ask) -> Result<LeaseAction, Failure> {
    const ID: &str = "x-ms-lease-id";
    const PROPOSED: &str = "x-ms-proposed-lease-id";
    let guid = |name: &'static str| -> Result<Option<String>, Failure> {
        let Some(text) = ask.header(name) else { return Ok(None) };
        let id = Uuid::parse_str(text).map_err(|_| Failure::bad_header(name, text, "It is a GUID."))?;
        Ok(Some(id.to_string()))
    };
    let id = || guid(ID)?.ok_or_else(|| Failure::missing_header(ID));
    let number = |name: &'static str| -> Result<Option<i64>, Failure> {
        let Some(text) = ask.header(name) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| Failure::bad_header(name, text, ""))
    };
    let action = ask.header("x-ms-lease-action").ok_or_else(|| Failure::missing_header("x-ms-lease-action"))?;
    Ok(match action.to_ascii_lowercase().as_str() {
        "acquire" => {
            const DURATION: &str = "x-ms-lease-duration";
            let seconds = match number(DURATION)?.ok_or_else(|| Failure::missing_header(DURATION))? {
                -1 => None,
                seconds @ 15..=60 => Some(seconds),
                other => return Err(Failure::bad_header(DURATION, &other.to_string(), "It is -1 or 15 to 60.")),
            };
            LeaseAction::Acquire { proposed: guid(PROPOSED)?, seconds }
        }
        "renew" => LeaseAction::Renew { id: id()? },
        "change" => {
            let proposed = guid(PROPOSED)?.ok_or_else(|| Failure::missing_header(PROPOSED))?;
            LeaseAction::Change { id: id()?, proposed }
        }
        "release" => LeaseAction::Release { id: id()? },
        "break" => {
            const PERIOD: &str = "x-ms-lease-break-period";
            let seconds = number(PERIOD)?;
            if let Some(other) = seconds.filter(|s| !(0..=60).contains(s)) {
                return Err(Failure::bad_header(PERIOD, &other.to_string(), "It is 0 to 60."));
            }
            LeaseAction::Break { seconds }
        }
        _ => return Err(Failure::bad_header("x-ms-lease-action", action, "")),
    })
}

pub(super) fn lease_status(action: &LeaseAction) -> StatusCode {
    match action {
        LeaseAction::Acquire { .. } => StatusCode::CREATED,
        LeaseAction::Break { .. } => StatusCode::ACCEPTED,
        _ => StatusCode::OK,
    }
}

pub(super) fn lease_headers(headers: &mut HeaderMap, action: &LeaseAction, id: Option<String>, seconds: i64) {
    match (action, id) {
        (LeaseAction::Break { .. }, _) => insert(headers, "x-ms-lease-time", &seconds.to_string()),
        (LeaseAction::Release { .. }, _) | (_, None) => {}
        (_, Some(id)) => insert(headers, "x-ms-lease-id", &id),
    }
}
