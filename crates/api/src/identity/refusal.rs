//! Refused sign-ins, in the identity platform's words (AADSTS numbers). No text holds what was secret in a request.

use crate::context::Context;
use crate::respond::{self, Reply};
use http::StatusCode;
use lazuli_arm::ArmError;
use lazuli_engine::{
    AssertionError, DeviceError, ExternalError, FederatedError, FederationError, GrantError, SignInError,
};
use serde_json::json;

/// A refused sign-in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub status: StatusCode,
    pub error: &'static str,
    pub code: u32,
    pub message: String,
}

/// Why a sign-in has no answer of its own kind.
pub(crate) enum Failure {
    Refused(Refusal),
    Internal(ArmError),
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

const BAD: StatusCode = StatusCode::BAD_REQUEST;
const UNAUTHORIZED: StatusCode = StatusCode::UNAUTHORIZED;

/// What the words of a refusal speak of, as the request named it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Subject<'a> {
    pub tenant: &'a str,
    pub client: &'a str,
}

impl Failure {
    /// What the engine refused.
    pub(crate) fn of(error: SignInError, subject: Subject<'_>) -> Self {
        match error {
            SignInError::Directory(error) => Self::Internal(error),
            error => Self::Refused(refusal_of(&error, subject)),
        }
    }
}

fn refusal_of(error: &SignInError, Subject { tenant, client }: Subject<'_>) -> Refusal {
    let grant = |code, message: &str| Refusal::new(BAD, "invalid_grant", code, message);
    match error {
        SignInError::UnknownTenant(_) => Refusal::unknown_tenant(tenant),
        SignInError::UnknownClient(_) => Refusal::unknown_client(client, tenant),
        SignInError::WrongSecret => Refusal::wrong_secret(client),
        SignInError::Assertion(error) => of_assertion(error, client),
        SignInError::Federation(error) => of_federation(error),
        SignInError::WrongPassword => grant(50126, "Error validating credentials due to invalid username or password."),
        SignInError::LockedOut => grant(
            50053,
            "The account is locked, you've tried to sign in too many times with an incorrect user ID or password.",
        ),
        SignInError::Disabled => grant(50057, "The user account is disabled."),
        SignInError::Grant(error) => of_grant(*error),
        SignInError::Device(error) => of_device(*error),
        SignInError::External(error) => of_external(error, tenant),
        SignInError::Directory(_) => Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", 90033, ""),
    }
}

fn of_assertion(error: &AssertionError, client: &str) -> Refusal {
    let refuse = |code, message: String| Refusal::new(UNAUTHORIZED, "invalid_client", code, message);
    match error {
        AssertionError::Malformed => Refusal::new(
            BAD,
            "invalid_request",
            50027,
            "JWT token is invalid or malformed: expected iss, sub, aud, exp, jti, and x5t or x5t#S256 in its header.",
        ),
        AssertionError::Algorithm => Refusal::new(
            BAD,
            "invalid_request",
            50027,
            "JWT token is invalid or malformed: expected a signature of the algorithm RS256 or PS256.",
        ),
        AssertionError::UnknownCertificate { thumbprint } => refuse(
            700_027,
            format!(
                "Client assertion contains an invalid signature. [Reason - The key was not found., Thumbprint of key \
                 used by client: '{}', Application Id: '{client}'. The certificate with this thumbprint is not \
                 registered for the application, or not valid now.]",
                thumbprint.chars().take(64).collect::<String>()
            ),
        ),
        AssertionError::BadSignature => refuse(
            700_027,
            "Client assertion contains an invalid signature. [Reason - The key was found, but use of the key to verify \
             the signature failed.]"
                .to_owned(),
        ),
        AssertionError::WrongClient { .. } => refuse(
            700_021,
            "Client assertion application identifier doesn't match 'client_id' parameter. Review the documentation at \
             https://learn.microsoft.com/entra/identity-platform/certificate-credentials."
                .to_owned(),
        ),
        AssertionError::WrongAudience { .. } => refuse(
            700_023,
            "Client assertion audience claim does not match Realm issuer. Review the documentation at \
             https://learn.microsoft.com/entra/identity-platform/certificate-credentials."
                .to_owned(),
        ),
        AssertionError::Time { now } => refuse(
            700_024,
            format!(
                "Client assertion is not within its valid time range. Current time: {}. It may be valid for at most a day.",
                i64::try_from(*now).ok().and_then(|s| jiff::Timestamp::from_second(s).ok()).unwrap_or_default()
            ),
        ),
        AssertionError::Replayed => refuse(
            700_027,
            "Client assertion was used before for this resource. Each must have a 'jti' of its own.".to_owned(),
        ),
    }
}

fn of_federation(error: &FederationError) -> Refusal {
    let refuse = |code, message: String| Refusal::new(UNAUTHORIZED, "invalid_client", code, message);
    let unmatched = |code, what: &str, value: &str| {
        let value: String = value.chars().take(600).filter(|c| !c.is_control()).collect();
        refuse(
            code,
            format!(
                "No matching federated identity record found for presented assertion {what} '{value}'. Check your federated \
                 identity credential Subject, Audience and Issuer against the presented assertion. \
                 https://learn.microsoft.com/entra/workload-id/workload-identity-federation"
            ),
        )
    };
    match error {
        FederationError::Issuer(issuer) => unmatched(700_211, "issuer", issuer),
        FederationError::Subject(subject) => unmatched(700_213, "subject", subject),
        FederationError::Audience(audience) => unmatched(700_212, "audience", audience),
        FederationError::Keys(error) => refuse(50166, format!("Request to External OIDC endpoint failed: {error}.")),
        FederationError::Token(FederatedError::Malformed | FederatedError::Algorithm) => {
            Refusal::new(BAD, "invalid_request", 50027, format!("JWT token is invalid or malformed: {error}."))
        }
        FederationError::Token(FederatedError::UnknownKey | FederatedError::BadSignature) => {
            refuse(50013, format!("Assertion failed signature validation. [Reason - {error}.]"))
        }
        FederationError::Token(FederatedError::Time { now }) => refuse(
            700_024,
            format!(
                "Client assertion is not within its valid time range. Current time: {}.",
                i64::try_from(*now).ok().and_then(|s| jiff::Timestamp::from_second(s).ok()).unwrap_or_default()
            ),
        ),
    }
}

fn of_grant(error: GrantError) -> Refusal {
    let (name, code, message) = match error {
        GrantError::Unknown => ("invalid_grant", 70000, "Provided grant is invalid or malformed."),
        GrantError::Expired => (
            "invalid_grant",
            70008,
            "The provided authorization code or refresh token has expired due to inactivity. Send a new interactive \
             authorization request for this user and resource.",
        ),
        GrantError::CodeUsed => (
            "invalid_grant",
            54005,
            "OAuth2 Authorization code was already redeemed, please retry with a new valid code or use an existing \
             refresh token.",
        ),
        GrantError::Revoked => (
            "invalid_grant",
            50173,
            "The provided grant has expired due to it being revoked, a fresh auth token is needed. The user might have \
             changed or reset their password, or the refresh token was used before.",
        ),
        GrantError::OtherClient => {
            ("invalid_grant", 70000, "Provided grant is invalid: it was issued to another client.")
        }
        GrantError::OtherTenant => (
            "invalid_grant",
            700_005,
            "Provided Authorization Code is intended to use against other tenant, thus rejected.",
        ),
        GrantError::Redirect => (
            "invalid_client",
            500_112,
            "The reply address does not match the reply address provided when requesting Authorization code.",
        ),
        GrantError::Verifier => (
            "invalid_grant",
            501_481,
            "The Code_Verifier does not match the code_challenge supplied in the authorization request.",
        ),
    };
    Refusal::new(BAD, name, code, message)
}

fn of_device(error: DeviceError) -> Refusal {
    let (name, code, message) = match error {
        DeviceError::Pending => {
            ("authorization_pending", 70016, "OAuth 2.0 device flow error. Authorization is pending. Continue polling.")
        }
        DeviceError::SlowDown => {
            ("slow_down", 70016, "OAuth 2.0 device flow error. Authorization is pending. Continue polling, less often.")
        }
        DeviceError::Declined => ("authorization_declined", 65004, "User declined to consent to access the app."),
        DeviceError::Expired => (
            "expired_token",
            70020,
            "The provided value for the input parameter 'device_code' is not valid. This device code has expired.",
        ),
        DeviceError::Unknown => {
            ("bad_verification_code", 70018, "The provided value for the input parameter 'device_code' is not valid.")
        }
        DeviceError::TooMany => {
            return Refusal::new(
                StatusCode::TOO_MANY_REQUESTS,
                "temporarily_unavailable",
                90055,
                "Too many device codes are asked for. Try again in a minute.",
            );
        }
    };
    Refusal::new(BAD, name, code, message)
}

/// What a person reads on a page. The causes are in the log, for the operator.
fn of_external(error: &ExternalError, tenant: &str) -> Refusal {
    let trouble = "There was an issue with your federated Identity Provider.";
    let refuse = |code, message: String| Refusal::new(BAD, "invalid_request", code, message);
    match error {
        ExternalError::Unknown => refuse(90013, format!("Invalid input received from the user: {error}.")),
        ExternalError::State => refuse(
            165_000,
            "Invalid Request: The request tokens do not match the user context. Sign in again from the beginning, in one \
             browser and with its cookies."
                .to_owned(),
        ),
        ExternalError::Provider(word) => {
            refuse(40015, format!("{trouble} It answered '{word}'. Contact your IDP to resolve this issue."))
        }
        ExternalError::Unreachable(_) => refuse(40010, format!("{trouble} It cannot be reached. Try again later.")),
        ExternalError::OtherProvider | ExternalError::IdToken(_) | ExternalError::NoLogin => {
            refuse(40008, format!("{trouble} Contact your IDP to resolve this issue."))
        }
        ExternalError::NotAdmitted { login, provider } => refuse(
            50020,
            format!(
                "User account '{login}' from identity provider '{provider}' does not exist in tenant '{tenant}'. The account \
                 needs to be added as an external user in the tenant first."
            ),
        ),
        ExternalError::LoginTaken { login, provider } => refuse(
            50020,
            format!(
                "User account '{login}' from identity provider '{provider}' is not the account of this name in tenant \
                 '{tenant}'. The operator can link the two."
            ),
        ),
        ExternalError::TooMany => Refusal::new(
            StatusCode::TOO_MANY_REQUESTS,
            "temporarily_unavailable",
            90055,
            "Too many sign-ins are begun. Try again in a minute.",
        ),
    }
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, error: &'static str, code: u32, message: impl Into<String>) -> Self {
        Self { status, error, code, message: message.into() }
    }

    pub(crate) fn unknown_tenant(tenant: &str) -> Self {
        Self::new(
            BAD,
            "invalid_request",
            90002,
            format!(
                "Tenant '{tenant}' not found. Check to make sure you have the correct tenant ID and are signing into \
                 the correct cloud. Check with your subscription administrator, this may happen if there are no active \
                 subscriptions for the tenant."
            ),
        )
    }

    pub(crate) fn missing(parameter: &str) -> Self {
        Self::new(
            BAD,
            "invalid_request",
            900_144,
            format!("The request body must contain the following parameter: '{parameter}'."),
        )
    }

    pub(crate) fn unknown_client(client: &str, tenant: &str) -> Self {
        Self::new(
            BAD,
            "unauthorized_client",
            700_016,
            format!(
                "Application with identifier '{client}' was not found in the directory '{tenant}'. This can happen if \
                 the application has not been installed by the administrator of the tenant or consented to by any user \
                 in the tenant. You may have sent your authentication request to the wrong tenant."
            ),
        )
    }

    pub(crate) fn wrong_secret(client: &str) -> Self {
        Self::new(
            UNAUTHORIZED,
            "invalid_client",
            7_000_215,
            format!(
                "Invalid client secret provided. Ensure the secret being sent in the request is the client secret \
                 value, not the client secret ID, for a secret added to app '{client}'."
            ),
        )
    }

    pub(crate) fn no_secret() -> Self {
        Self::new(
            UNAUTHORIZED,
            "invalid_client",
            7_000_218,
            "The request body must contain the following parameter: 'client_assertion' or 'client_secret'.",
        )
    }

    pub(crate) fn unknown_resource(resource: &str, tenant: &str) -> Self {
        Self::new(
            BAD,
            "invalid_resource",
            500_011,
            format!(
                "The resource principal named {resource} was not found in the tenant named {tenant}. This can happen \
                 if the application has not been installed by the administrator of the tenant or consented to by any \
                 user in the tenant. You might have sent your authentication request to the wrong tenant."
            ),
        )
    }

    pub(crate) fn bad_scope(scope: &str) -> Self {
        Self::new(
            BAD,
            "invalid_scope",
            1_002_012,
            format!(
                "The provided value for scope {scope} is not valid. Client credential flows must have a scope value \
                 with /.default suffixed to the resource identifier (application ID URI)."
            ),
        )
    }

    pub(crate) fn unsupported_grant(grant: &str) -> Self {
        Self::new(
            BAD,
            "unsupported_grant_type",
            70003,
            format!("The app requested an unsupported grant type '{grant}'."),
        )
    }

    /// Why a request of a client or of a person cannot be understood.
    pub(crate) fn invalid(code: u32, message: impl Into<String>) -> Self {
        Self::new(BAD, "invalid_request", code, message)
    }

    pub(crate) fn public_client() -> Self {
        Self::new(
            UNAUTHORIZED,
            "invalid_client",
            700_025,
            "Client is public so neither 'client_assertion' nor 'client_secret' should be presented.",
        )
    }

    pub(crate) fn several_resources(scope: &str) -> Self {
        Self::new(
            BAD,
            "invalid_request",
            28000,
            format!(
                "Provided value for the input parameter scope is not valid because it contains more than one resource. \
                 Scope {scope} is not valid."
            ),
        )
    }

    pub(crate) fn redirect(uri: &str, client: &str) -> Self {
        Self::invalid(
            50011,
            format!(
                "The redirect URI '{uri}' specified in the request does not match the redirect URIs configured for the \
                 application '{client}'. Make sure the redirect URI sent in the request matches one added to your \
                 application."
            ),
        )
    }

    /// `AADSTS…: …`, with what finds it in the log.
    pub(crate) fn description(&self, context: &Context) -> String {
        let time = jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M:%SZ").to_string();
        let (trace, correlation) = (&context.request_id, &context.correlation_id);
        format!(
            "AADSTS{}: {} Trace ID: {trace} Correlation ID: {correlation} Timestamp: {time}",
            self.code, self.message
        )
    }

    pub(crate) fn reply(&self, context: &Context) -> Reply {
        let time = jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M:%SZ").to_string();
        let (trace, correlation) = (&context.request_id, &context.correlation_id);
        let body = json!({
            "error": self.error,
            "error_description": self.description(context),
            "error_codes": [self.code],
            "timestamp": time,
            "trace_id": trace,
            "correlation_id": correlation,
            "error_uri": format!("{}/error?code={}", context.authority(), self.code),
        });
        respond::json(self.status, &body)
    }
}
