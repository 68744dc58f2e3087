//! Why the directory refuses, with Graph's codes and words.

use lazuli_arm::ArmError;

/// What a request cannot have.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    #[error("Resource '{0}' does not exist or one of its queried reference-property objects are not present.")]
    NotFound(String),
    #[error("Insufficient privileges to complete the operation.")]
    Denied,
    #[error("{message}")]
    Refused { status: u16, code: &'static str, message: String },
    #[error(transparent)]
    Failed(#[from] ArmError),
}

impl DirectoryError {
    /// 400 `Request_BadRequest`.
    pub(super) fn bad(message: impl Into<String>) -> Self {
        Self::Refused { status: 400, code: "Request_BadRequest", message: message.into() }
    }

    pub(super) fn required(property: &str, resource: &str) -> Self {
        Self::bad(format!("A value is required for property '{property}' of resource '{resource}'."))
    }

    pub(super) fn invalid(property: &str, resource: &str) -> Self {
        Self::bad(format!("Invalid value specified for property '{property}' of resource '{resource}'."))
    }

    /// Another object has this value already.
    pub(super) fn taken(property: &str) -> Self {
        Self::bad(format!("Another object with the same value for property {property} already exists."))
    }

    /// What is a member or an owner already.
    pub(super) fn linked(relation: &str) -> Self {
        Self::bad(format!(
            "One or more added object references already exist for the following modified properties: '{relation}'."
        ))
    }

    pub fn status(&self) -> u16 {
        match self {
            Self::NotFound(_) => 404,
            Self::Denied => 403,
            Self::Refused { status, .. } => *status,
            Self::Failed(error) => error.status,
        }
    }

    pub fn code(&self) -> &str {
        match self {
            Self::NotFound(_) => "Request_ResourceNotFound",
            Self::Denied => "Authorization_RequestDenied",
            Self::Refused { code, .. } => code,
            Self::Failed(error) => &error.code,
        }
    }

    /// What the client is told; never a cause.
    pub fn message(&self) -> String {
        match self {
            Self::Failed(error) => error.message.clone(),
            other => other.to_string(),
        }
    }
}
