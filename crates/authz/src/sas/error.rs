//! Why a SAS does not open what it was used for, in Azure's words.

use jiff::Timestamp;
use std::net::IpAddr;

/// All are answered with 403; [`SasError::code`] and [`SasError::message`] are what Azure says. The `Display` text is the
/// `AuthenticationErrorDetail` of those whose code is `AuthenticationFailed`. Keys are never part of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SasError {
    #[error("Signature fields not well formed: {field}.")]
    Malformed { field: String },
    #[error("The version '{version}' of the signature is not supported: it is 2015-04-05 or later.")]
    Version { version: String },
    #[error("Signature did not match. String to sign used was {string_to_sign}")]
    Signature { string_to_sign: String },
    #[error("Signature not valid in the specified time frame: Start [{start}] - Expiry [{expiry}] - Current [{now}]")]
    Time { start: String, expiry: String, now: Timestamp },
    #[error("Access policy: the signed identifier is not one of the container's stored access policies.")]
    NoPolicy,
    #[error("The signature is for another user than the one of the access token.")]
    DelegatedUser,
    #[error("The signature is not for the Blob service.")]
    Service,
    #[error("The signature is not for resources of this type.")]
    ResourceType,
    #[error("The signature does not give this permission.")]
    Permission,
    #[error("The signature asks for HTTPS.")]
    Protocol,
    #[error("The signature is not for this address.")]
    Address { ip: Option<IpAddr> },
}

impl SasError {
    pub(super) fn malformed(field: &str) -> Self {
        Self::Malformed { field: field.to_owned() }
    }

    pub(super) fn time(start: &str, expiry: &str, now: Timestamp) -> Self {
        Self::Time { start: start.to_owned(), expiry: expiry.to_owned(), now }
    }

    /// Azure's error code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Malformed { .. }
            | Self::Version { .. }
            | Self::Signature { .. }
            | Self::Time { .. }
            | Self::NoPolicy
            | Self::DelegatedUser => "AuthenticationFailed",
            Self::Service => "AuthorizationServiceMismatch",
            Self::ResourceType => "AuthorizationResourceTypeMismatch",
            Self::Permission => "AuthorizationPermissionMismatch",
            Self::Protocol => "AuthorizationProtocolMismatch",
            Self::Address { .. } => "AuthorizationSourceIPMismatch",
        }
    }

    /// Azure's message for the code.
    pub fn message(&self) -> String {
        let with = |what: &str| format!("This request is not authorized to perform this operation using this {what}.");
        match self {
            Self::Service => with("service"),
            Self::ResourceType => with("resource type"),
            Self::Permission => with("permission"),
            Self::Protocol => with("protocol"),
            Self::Address { ip: Some(ip) } => with(&format!("source IP {ip}")),
            Self::Address { ip: None } => with("source IP"),
            _ => "Server failed to authenticate the request. Make sure the value of Authorization header is formed \
                  correctly including the signature."
                .to_owned(),
        }
    }
}
