//! The rows that `meta` keeps and the changes that can be made to them.
//!
//! `meta` stores what it is given: it never interprets a body, and it never talks to anything but the database.
//! Times are milliseconds since the Unix epoch. Keys are lower-cased ARM ids, so that look-ups ignore case.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One ARM resource (a resource group is one too, of kind `microsoft.resources/resourcegroups`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Resource {
    /// Primary key: the id in lower case.
    pub key: String,
    /// Where lists show it, byte by byte: the key, or what precedes the last segment of the key and then whatever its type
    /// orders names by. Unique.
    pub sort_key: String,
    /// The id as it is shown.
    pub id: String,
    /// Resource type in lower case, e.g. `microsoft.compute/galleries/images`.
    pub kind: String,
    /// In lower case.
    pub subscription: String,
    /// In lower case; empty for what is not in a group.
    pub resource_group: String,
    /// Key of the parent resource: the gallery of a definition, the group of a top-level resource.
    pub parent: Option<String>,
    /// Last segment of the id, as it is shown.
    pub name: String,
    /// Canonical short name (`eastus`); empty where the type has none.
    pub location: String,
    /// What clients wrote and see: `{location, tags, sku, properties, ...}` without id, name and type.
    pub body: Value,
    /// What only the engine sees (content references, paths, unique ids).
    pub internal: Value,
    /// `Creating`, `Updating`, `Succeeded`, `Failed`, `Deleting`.
    pub provisioning_state: String,
    /// Changes with every write; opaque.
    pub etag: String,
    pub created_ms: i64,
    pub changed_ms: i64,
}

/// What must hold of a row for a change to be made.
#[derive(Debug, Clone, PartialEq)]
pub enum Expect {
    /// No row with this key.
    Absent,
    /// A row with exactly this etag.
    Etag(String),
    /// A row, whatever its etag.
    Present,
    /// Nothing is asked.
    Any,
}

/// State of a long-running operation.
///
/// ```text
/// Running ──> Succeeded
///    │  └───> Failed        (after its undo steps)
///    └──────> Canceled      (cancel_requested seen, after its undo steps)
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OperationState {
    Running,
    Succeeded,
    Failed,
    Canceled,
}

impl OperationState {
    /// The word that is stored and shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
            Self::Canceled => "Canceled",
        }
    }

    /// The state that [`Self::as_str`] names.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Running, Self::Succeeded, Self::Failed, Self::Canceled].into_iter().find(|state| state.as_str() == word)
    }
}

/// A long-running operation; survives restarts, is run by whoever holds its lease.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Operation {
    pub id: String,
    /// Name of the code that runs it, e.g. `image_version.create`.
    pub kind: String,
    /// Key of the resource it works on.
    pub resource_key: String,
    pub subscription: String,
    pub location: String,
    pub params: Value,
    pub state: OperationState,
    pub cancel_requested: bool,
    /// How often a worker has claimed it.
    pub attempt: i64,
    pub lease_owner: Option<String>,
    pub lease_until_ms: Option<i64>,
    /// Grows with every claim. A write made under an older fence is refused.
    pub fence: i64,
    /// Bytes (or whatever the operation counts).
    pub progress_done: i64,
    pub progress_total: i64,
    /// Free form, shown to people: what it is doing now.
    pub phase: String,
    /// `{"code","message",...}` of a failed operation.
    pub error: Option<Value>,
    /// Result shown by the operation's status (`properties.output`).
    pub output: Option<Value>,
    pub started_ms: i64,
    pub ended_ms: Option<i64>,
}

/// An operation to be started, or (state `Succeeded`) recorded as already done.
#[derive(Debug, Clone, PartialEq)]
pub struct NewOperation {
    pub id: String,
    pub kind: String,
    pub resource_key: String,
    pub subscription: String,
    pub location: String,
    pub params: Value,
    /// `Running`, or `Succeeded` for work that was done within the same transaction.
    pub state: OperationState,
    pub output: Option<Value>,
}

/// One line of the activity log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Audit {
    pub id: String,
    pub time_ms: i64,
    pub correlation_id: String,
    pub tenant: String,
    /// Object id of the caller.
    pub principal: String,
    pub subscription: String,
    pub resource_key: String,
    /// `Microsoft.Compute/galleries/write`, ...
    pub action: String,
    pub status: String,
    pub detail: Value,
}

/// A use of stored bytes by a resource: while it exists, the manifest is alive in that region.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ContentRef {
    pub resource_key: String,
    pub region: String,
    /// Hex manifest id.
    pub manifest: String,
}

/// A right to a disk's bytes over the blob data plane (one SAS).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Grant {
    pub id: String,
    pub resource_key: String,
    /// `Read` or `Write`.
    pub access: String,
    /// The account label of the URL, e.g. `md-impexp-…`, unique, lower case.
    pub account: String,
    pub container: String,
    /// Secret part of the URL's signature.
    pub secret: String,
    pub expires_ms: i64,
    /// What the data plane needs to know (size, paths, manifest).
    pub detail: Value,
}

/// A container of a storage account.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Container {
    /// Name of the account, unique on the whole server.
    pub account: String,
    pub name: String,
    /// Another one for each container that ever had this name.
    pub id: String,
    /// Changes with what clients see of the container.
    pub etag: String,
    /// Changes with every write, leases too; what [`Expect::Etag`] compares.
    pub revision: String,
    pub created_ms: i64,
    pub modified_ms: i64,
    pub body: Value,
}

/// Whether a blob's bytes are where they stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BlobState {
    /// In the content store, as far as there are any.
    Stored,
    /// At least in part in a staging file.
    Staged,
    /// Still being copied from elsewhere.
    Copying,
}

impl BlobState {
    /// The word that is stored.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stored => "Stored",
            Self::Staged => "Staged",
            Self::Copying => "Copying",
        }
    }

    /// The state that [`Self::as_str`] names.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Stored, Self::Staged, Self::Copying].into_iter().find(|state| state.as_str() == word)
    }
}

/// A blob of a storage account, or a snapshot of one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Blob {
    pub account: String,
    pub container: String,
    pub name: String,
    /// The snapshot's time as clients write it; `None`: the blob itself.
    pub snapshot: Option<String>,
    /// Names its staging files and its content references; another one for each blob that ever had this name.
    pub id: String,
    /// `BlockBlob`, `PageBlob`, `AppendBlob`.
    pub kind: String,
    pub size: i64,
    pub state: BlobState,
    /// Changes with what clients see of the blob.
    pub etag: String,
    /// Changes with every write, leases too; what [`Expect::Etag`] compares.
    pub revision: String,
    pub created_ms: i64,
    pub modified_ms: i64,
    /// What clients wrote and see.
    pub body: Value,
    /// Where the bytes are.
    pub content: Value,
}

/// Which containers a list shows, in the order of their names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerQuery {
    pub account: String,
    pub prefix: Option<String>,
    /// Only names after this one.
    pub after: Option<String>,
    /// Default and upper bound: 1000.
    pub limit: Option<i64>,
}

/// Which blobs a list shows: by name, the snapshots of a blob by time before the blob itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlobQuery {
    pub account: String,
    pub container: String,
    pub name: Option<String>,
    pub prefix: Option<String>,
    /// Only what follows the blob of this name (snapshot given: that snapshot of it).
    pub after: Option<(String, Option<String>)>,
    /// Only what follows every name that begins so.
    pub after_prefix: Option<String>,
    pub snapshots: bool,
    /// Default and upper bound: 1000.
    pub limit: Option<i64>,
}

/// What a client holds and can redeem, or has redeemed; what its states mean is the engine's affair.
#[derive(Debug, Clone, PartialEq)]
pub struct Ticket {
    /// A hash of what the client holds.
    pub id: String,
    pub kind: String,
    /// Names the tickets that end together.
    pub session: String,
    pub state: String,
    pub expires_ms: i64,
    pub body: Value,
}

/// A key that tokens are signed with. Times are milliseconds since the Unix epoch; `i64::MAX` stands for never.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSigningKey {
    /// As tokens name it.
    pub id: String,
    /// The key that it follows; empty of the first, its own id of one that only verifies.
    pub predecessor: String,
    pub sealed: String,
    pub created_ms: i64,
    pub signs_from_ms: i64,
    pub ends_ms: i64,
}

/// A computer that runs virtual machines beside the server's own.
#[derive(Debug, Clone, PartialEq)]
pub struct Worker {
    pub id: String,
    /// As people call it.
    pub name: String,
    /// How it is reached and what it has room for.
    pub body: Value,
    /// When it was heard of last.
    pub seen_ms: i64,
    /// It is there until then.
    pub lease_until_ms: i64,
}

/// One thing to be done in a [`Write`].
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Inserts or replaces a resource. `created_ms` of an existing row is kept.
    PutResource {
        resource: Resource,
        expect: Expect,
    },
    /// With the role assignments and locks at it.
    DeleteResource {
        key: String,
        expect: Expect,
    },
    /// The row must exist and must not be `Deleting`; else [`Conflict::Missing`] or [`Conflict::Deleting`].
    RequireResource {
        key: String,
    },
    /// No row may have this key as its parent; else [`Conflict::HasChildren`] with some of their ids.
    RequireNoChildren {
        key: String,
    },
    StartOperation(NewOperation),
    /// Ends a running operation. Needs `Write::fence`.
    EndOperation {
        id: String,
        state: OperationState,
        output: Option<Value>,
        error: Option<Value>,
    },
    /// Stores the output of a finished step. Needs `Write::fence`.
    PutStep {
        operation: String,
        step: String,
        output: Value,
    },
    Audit(Audit),
    PutContentRef(ContentRef),
    DeleteContentRef(ContentRef),
    /// All references of a resource.
    DeleteContentRefs {
        resource_key: String,
    },
    PutGrant(Grant),
    DeleteGrant {
        id: String,
    },
    DeleteGrantsOf {
        resource_key: String,
    },
    /// Inserts or replaces by id; the same (scope, role, principal) under another id is [`Conflict::Exists`].
    PutRoleAssignment(RoleAssignment),
    DeleteRoleAssignment {
        id: String,
    },
    /// Nobody changed who may do what since [`crate::Db::identity_changes`] said this; else [`Conflict::Etag`].
    RequireIdentity {
        changes: i64,
    },
    PutCustomRole(CustomRole),
    DeleteCustomRole {
        id: String,
    },
    PutLock(ManagementLock),
    DeleteLock {
        key: String,
    },
    PutTenant(Tenant),
    PutSubscription(Subscription),
    /// Another principal with its application id or login in the tenant: [`Conflict::Exists`].
    PutPrincipal(Principal),
    /// With its memberships, role assignments and credentials.
    DeletePrincipal {
        id: String,
    },
    PutGroupMember {
        group: String,
        member: String,
    },
    DeleteGroupMember {
        group: String,
        member: String,
    },
    PutApplication(Application),
    /// With its credentials; its principals are the caller's.
    DeleteApplication {
        id: String,
    },
    PutCredential(Credential),
    DeleteCredential {
        id: String,
    },
    /// The reference must exist; else [`Conflict::Missing`]. For who takes over bytes that another keeps alive.
    RequireContentRef(ContentRef),
    /// All references of the resources below this key (key + `/…`).
    DeleteContentRefsBelow {
        key: String,
    },
    PutContainer {
        container: Container,
        expect: Expect,
    },
    /// With all its blobs and block lists. Their content references are the caller's.
    DeleteContainer {
        account: String,
        name: String,
        expect: Expect,
    },
    /// The container must exist and have this id; else [`Conflict::Missing`].
    RequireContainer {
        account: String,
        name: String,
        id: String,
    },
    PutBlob {
        blob: Blob,
        expect: Expect,
    },
    /// With its block list.
    DeleteBlob {
        account: String,
        container: String,
        name: String,
        snapshot: Option<String>,
        expect: Expect,
    },
    /// The committed blocks of a blob that is in this very write.
    PutBlockList {
        /// [`Blob::id`].
        blob: String,
        account: String,
        container: String,
        blocks: Value,
    },
    DeleteBlockList {
        blob: String,
    },
    /// Every container and blob of an account. Their content references are the caller's.
    DeleteAccountData {
        account: String,
    },
}

/// Changes made in one transaction: all of them, or none.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Write {
    /// `(operation id, fence)`: the whole write is refused with [`Conflict::Fenced`] when the operation is no longer
    /// running under this fence.
    pub fence: Option<(String, i64)>,
    pub changes: Vec<Change>,
}

/// Why a [`Write`] was refused. Nothing of it was done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// `key` is that of the row that is in the way (the id, where the row has no key).
    #[error("{key} exists already")]
    Exists { key: String },
    #[error("{key} does not exist")]
    Missing { key: String },
    #[error("{key} was changed meanwhile")]
    Etag { key: String },
    #[error("{key} is being deleted")]
    Deleting { key: String },
    /// `children`: the ids (as shown) of at most ten of them, in the order of lists.
    #[error("{key} still has children: {}", children.join(", "))]
    HasChildren { key: String, children: Vec<String> },
    #[error("operation {operation} is no longer run by this worker")]
    Fenced { operation: String },
}

/// Which resources a list shows, by [`Resource::sort_key`]. All given conditions hold. An index serves each combination
/// without sorting: a page costs the same however many resources there are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResourceQuery {
    pub kind: Option<String>,
    pub parent: Option<String>,
    /// Everything below this key (key + `/…`): a subscription's, a group's, a resource's.
    pub under: Option<String>,
    /// From the last one to the first.
    pub descending: bool,
    /// Only what follows this [`Resource::sort_key`] (precedes it, if `descending`).
    pub after: Option<String>,
    /// Default and upper bound: 1000.
    pub limit: Option<i64>,
}

/// Which operations a list shows; newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OperationQuery {
    pub resource_key: Option<String>,
    pub kind: Option<String>,
    pub state: Option<OperationState>,
    /// Default and upper bound: 1000.
    pub limit: Option<i64>,
}

/// Which lines of the activity log a list shows; newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditQuery {
    pub subscription: Option<String>,
    pub resource_key: Option<String>,
    /// Everything below this key (key + `/…`).
    pub under: Option<String>,
    /// Not older than this.
    pub since_ms: Option<i64>,
    /// For paging: only what follows the line with this `(time_ms, id)`, that is, what is older.
    pub before: Option<(i64, String)>,
    /// Default and upper bound: 1000.
    pub limit: Option<i64>,
}

/// Identity rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenant {
    pub id: String,
    pub display_name: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscription {
    pub id: String,
    pub tenant: String,
    pub display_name: String,
    pub state: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Principal {
    /// Object id.
    pub id: String,
    pub tenant: String,
    pub app_id: String,
    pub display_name: String,
    /// `ServicePrincipal`, `User`, `Group`, `ManagedIdentity`.
    pub kind: String,
    /// Salted hash of its client secret, opaque to `meta`.
    pub secret_hash: String,
    /// How a user signs in (its principal name, in lower case); empty for all others. Unique in a tenant.
    pub login: String,
    /// What the directory shows of it besides.
    pub body: Value,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleAssignment {
    pub id: String,
    /// Lower-cased scope.
    pub scope: String,
    /// Last segment of the role definition's id.
    pub role: String,
    pub principal: String,
    /// What is shown of it besides.
    pub body: Value,
}

/// A custom role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CustomRole {
    /// Last segment of its id.
    pub id: String,
    pub tenant: String,
    pub body: Value,
}

/// A management lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManagementLock {
    /// Its id in lower case.
    pub key: String,
    /// What it locks, in lower case.
    pub scope: String,
    /// `CanNotDelete`, `ReadOnly`.
    pub level: String,
    pub body: Value,
}

/// An application as its home tenant registers it; the principals by which tenants know it bear its application id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Application {
    /// Object id.
    pub id: String,
    pub tenant: String,
    pub app_id: String,
    pub body: Value,
}

/// One of the ways in which an application or a user proves who it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    /// Key id.
    pub id: String,
    /// An application id, or a principal's object id.
    pub owner: String,
    /// `Secret`, `Certificate`, `Federated`, `Password`.
    pub kind: String,
    /// A hash, a certificate, an issuer: opaque to `meta`.
    pub verifier: String,
    pub expires_ms: i64,
    pub body: Value,
}
