//! The error that ARM clients see: an HTTP status, Azure's code, a message that says what to do.
//!
//! What went wrong inside (SQL, paths, sockets) is carried as [`ArmError::cause`] for the log; it is never serialised.

use serde_json::{Value, json};
use std::error::Error;
use std::fmt;

/// `{"error":{"code","message","target"?,"details"?}}` with its HTTP status.
#[derive(Debug)]
pub struct ArmError {
    pub status: u16,
    pub code: String,
    pub message: String,
    pub target: Option<String>,
    pub details: Vec<ArmError>,
    /// For the log only.
    pub cause: Option<Box<dyn Error + Send + Sync>>,
}

impl ArmError {
    pub fn new(status: u16, code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { status, code: code.into(), message: message.into(), target: None, details: vec![], cause: None }
    }

    #[must_use]
    pub fn target(mut self, target: impl Into<String>) -> Self {
        self.target = Some(target.into());
        self
    }

    #[must_use]
    pub fn caused_by(mut self, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    pub fn bad_request(code: &str, message: impl Into<String>) -> Self {
        Self::new(400, code, message)
    }

    /// `InvalidParameter` with the parameter's path as target.
    pub fn invalid_parameter(target: &str, message: impl Into<String>) -> Self {
        Self::new(400, "InvalidParameter", message).target(target)
    }

    pub fn conflict(code: &str, message: impl Into<String>) -> Self {
        Self::new(409, code, message)
    }

    /// The text of recorded 404s (wire.md §2). `path` with types and names by turns, e.g. `Microsoft.Compute/snapshots/s1`.
    pub fn resource_not_found(path: &str, group: &str) -> Self {
        Self::new(
            404,
            "ResourceNotFound",
            format!(
                "The Resource '{path}' under resource group '{group}' was not found. \
                 For more details please go to https://aka.ms/ARMResourceNotFoundFix"
            ),
        )
    }

    pub fn group_not_found(group: &str) -> Self {
        Self::new(404, "ResourceGroupNotFound", format!("Resource group '{group}' could not be found."))
    }

    pub fn parent_not_found(parent: &str) -> Self {
        Self::new(
            404,
            "ParentResourceNotFound",
            format!("Can not perform requested operation on nested resource. Parent resource '{parent}' not found."),
        )
    }

    /// 409 on an immutable property; `path` e.g. `galleryImage.properties.osType`.
    pub fn property_change_not_allowed(path: &str) -> Self {
        Self::new(409, "PropertyChangeNotAllowed", format!("Changing property '{path}' is not allowed.")).target(path)
    }

    pub fn internal(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(500, "InternalServerError", "The server encountered an internal error. Please retry the request.")
            .caused_by(cause)
    }

    /// The inner object: `{"code","message",…}`.
    pub fn to_value(&self) -> Value {
        let mut v = json!({"code": self.code, "message": self.message});
        if let Some(target) = &self.target {
            v["target"] = json!(target);
        }
        if !self.details.is_empty() {
            v["details"] = self.details.iter().map(Self::to_value).collect();
        }
        v
    }

    /// The whole body.
    pub fn envelope(&self) -> Value {
        json!({"error": self.to_value()})
    }
}

impl fmt::Display for ArmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl Error for ArmError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.cause.as_deref().map(|e| e as &(dyn Error + 'static))
    }
}
