//! What a request brings along, and what it gets back: the vocabulary between `api` and the engine.
//!
//! Nothing here knows of HTTP status codes or header names; `api` turns these values into Azure's wire shapes.

pub use crate::authorization::access::Rights;
use lazuli_arm::ApiVersion;
use serde_json::Value;
use std::collections::BTreeMap;

/// The authenticated caller of a request.
#[derive(Debug, Clone, Default)]
pub struct Caller {
    pub tenant: String,
    /// Object id of the principal.
    pub principal: String,
    /// Application id; of people, their login.
    pub app_id: String,
    pub display_name: String,
    /// The same client's identities in other tenants, each proved by a token of its own (`x-ms-authorization-auxiliary`).
    pub auxiliary: Vec<Caller>,
    /// What the request does as a whole, for the words of refusals about what it is tied to.
    pub acting: Option<Acting>,
    /// What decisions rest on, as it was when the request began; nothing where it is to be asked for each decision.
    pub rights: Rights,
    /// Where a service of the server's own acts for the caller: it may do everything at this scope (lower case) and below it,
    /// whatever the caller's roles are. Nothing that comes from outside has one.
    pub service_scope: Option<String>,
}

impl Caller {
    /// Whether the scope is the service's own.
    pub(crate) fn serves(&self, scope: &str) -> bool {
        let own = self.service_scope.as_deref().filter(|own| !own.is_empty());
        let scope = scope.to_ascii_lowercase();
        own.and_then(|own| scope.strip_prefix(own)).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// An action on a scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acting {
    pub action: String,
    /// Id as it is shown.
    pub scope: String,
}

/// How URLs that this request is given must be written, so that its client reaches them the way it came.
#[derive(Debug, Clone)]
pub struct Urls {
    /// `https://host:port` of the management endpoint, without a trailing slash.
    pub arm: String,
    /// `Some("blob.core.windows.net")` when the client came through the proxy and account names are host labels;
    /// `None` when the account is the first path segment below [`Urls::arm`].
    pub blob_suffix: Option<String>,
}

/// One ARM request, authenticated, with its path taken off.
#[derive(Debug, Clone)]
pub struct Call {
    pub caller: Caller,
    pub urls: Urls,
    pub api_version: ApiVersion,
    pub correlation_id: String,
    /// Names in lower case (`$expand`, `$filter`, `$top`, `$skiptoken`, …).
    pub query: BTreeMap<String, String>,
    pub if_match: Option<String>,
    pub if_none_match: Option<String>,
}

impl Call {
    /// The same, known to do this.
    pub(crate) fn acting(&self, scope: String, action: String) -> Self {
        let mut call = self.clone();
        call.caller.acting = Some(Acting { action, scope });
        call
    }

    /// Whether `$expand` (a comma-separated list) has this word, ignoring case.
    pub fn expands(&self, word: &str) -> bool {
        self.query.get("$expand").is_some_and(|v| v.split(',').any(|w| w.trim().eq_ignore_ascii_case(word)))
    }
}

/// Answer to a PUT or PATCH that was committed.
#[derive(Debug, Clone)]
pub struct Written {
    /// The resource as a GET shows it at this moment; what the client is answered, `api` makes of it.
    pub resource: Value,
    pub created: bool,
    /// The operation to poll; it may be finished already.
    pub operation: Option<String>,
    pub etag: String,
}

/// Answer to a DELETE.
#[derive(Debug, Clone)]
pub enum Deleted {
    /// There was no such resource.
    Absent,
    /// Gone already; poll if the type's wire shape asks for it.
    Done {
        operation: String,
    },
    Started {
        operation: String,
    },
}

/// Answer to a POST action.
#[derive(Debug, Clone)]
pub enum ActionReply {
    Started { operation: String },
    Done(Option<Value>),
}

/// A request for a resource that hangs on any scope: `{scope}/providers/{namespace}/{path…}`.
#[derive(Debug, Clone)]
pub struct Extension {
    /// As it was written; empty for the root.
    pub scope: String,
    /// `Microsoft.Authorization`, in any letter case.
    pub namespace: String,
    /// Types and names in turn.
    pub path: Vec<String>,
    pub method: Method,
    /// `Null` where there was none.
    pub body: Value,
}

/// What an [`Extension`] request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Get,
    Put,
    Patch,
    Post,
    Delete,
}

/// Done when it is answered.
#[derive(Debug, Clone)]
pub struct ExtensionReply {
    pub status: u16,
    pub body: Option<Value>,
}

/// One page of a list.
#[derive(Debug, Clone)]
pub struct Listing {
    pub items: Vec<Value>,
    /// Opaque; the value of `$skiptoken` for the next page.
    pub next: Option<String>,
}

/// A long-running operation as its polls show it.
#[derive(Debug, Clone)]
pub struct OperationView {
    pub id: String,
    /// `InProgress`, `Succeeded`, `Failed`, `Canceled`.
    pub status: &'static str,
    /// RFC 3339.
    pub start: String,
    pub end: Option<String>,
    /// 0–100 where it is known.
    pub percent: Option<f64>,
    /// `{"code","message"}`.
    pub error: Option<Value>,
    /// Result of an action (e.g. `{"accessSAS": …}`).
    pub output: Option<Value>,
    /// The resource as it is now, for PUT and PATCH operations that ended well.
    pub resource: Option<Value>,
    /// Lower-case type the operation works on.
    pub resource_kind: String,
    pub operation_kind: String,
}

/// A registered namespace, as `providers` shows it.
#[derive(Debug, Clone)]
pub struct ProviderInfo {
    pub namespace: String,
    /// Types below the namespace, e.g. `galleries/images`.
    pub types: Vec<String>,
}

impl Call {
    /// The server itself, for what it does on its own account.
    pub(crate) fn system(subscription: &str) -> Self {
        Self {
            caller: Caller {
                tenant: String::new(),
                principal: String::new(),
                app_id: String::new(),
                display_name: format!("lazuli for {subscription}"),
                ..Caller::default()
            },
            urls: Urls { arm: String::new(), blob_suffix: None },
            api_version: ApiVersion::latest(),
            correlation_id: String::new(),
            query: BTreeMap::new(),
            if_match: None,
            if_none_match: None,
        }
    }
}
