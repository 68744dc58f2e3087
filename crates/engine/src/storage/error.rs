//! Why a request to a storage account was refused, in the blob service's own words. `api` gives them their status codes.

use crate::blobs::BlobError;
use lazuli_chunks::ChunkError;
use lazuli_meta::model::Conflict;
use lazuli_meta::{MetaError, WriteError};
use std::io;

macro_rules! codes {
    ($($code:ident $text:literal,)*) => {
        /// The blob service's error codes (Blob data plane Swagger, `ErrorCode`).
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Code { $($code,)* }

        impl Code {
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$code => stringify!($code),)* }
            }

            pub fn text(self) -> &'static str {
                match self { $(Self::$code => $text,)* }
            }
        }
    };
}

codes! {
    AppendPositionConditionNotMet "The append position condition specified was not met.",
    BlobAlreadyExists "The specified blob already exists.",
    BlobNotFound "The specified blob does not exist.",
    BlockCountExceedsLimit "The committed block count cannot exceed the maximum limit of 50,000 blocks.",
    BlockListTooLong "The block list may not contain more than 50,000 blocks.",
    CannotVerifyCopySource "Could not verify the copy source within the specified time.",
    ContainerAlreadyExists "The specified container already exists.",
    ContainerNotFound "The specified container does not exist.",
    CopyIdMismatch "The specified copy ID did not match the copy ID for the pending copy operation.",
    InvalidBlobOrBlock "The specified blob or block content is invalid.",
    InvalidBlobTier "The specified blob tier is invalid.",
    InvalidBlobType "The blob type is invalid for this operation.",
    InvalidBlockId "The specified block ID is invalid. The block ID must be Base64-encoded.",
    InvalidBlockList "The specified block list is invalid.",
    InvalidOperation "The operation is not possible on this blob.",
    InvalidRange "The range specified is invalid for the current size of the resource.",
    InvalidResourceName "The specified resource name contains invalid characters.",
    InvalidInput "One of the request inputs is not valid.",
    InvalidSourceBlobType "The copy source blob type is invalid for this operation.",
    LeaseAlreadyBroken "The lease has already been broken and cannot be broken again.",
    LeaseAlreadyPresent "There is already a lease present.",
    LeaseIdMismatchWithBlobOperation "The lease ID specified did not match the lease ID for the blob.",
    LeaseIdMismatchWithContainerOperation "The lease ID specified did not match the lease ID for the container.",
    LeaseIdMismatchWithLeaseOperation "The lease ID specified did not match the lease ID for the resource with the specified lease operation.",
    LeaseIdMissing "There is currently a lease on the resource and no lease ID was specified in the request.",
    LeaseIsBreakingAndCannotBeAcquired "The lease ID matched, but the lease is currently in breaking state and cannot be acquired until it is broken.",
    LeaseIsBreakingAndCannotBeChanged "The lease ID matched, but the lease is currently in breaking state and cannot be changed.",
    LeaseIsBrokenAndCannotBeRenewed "The lease ID matched, but the lease has been broken explicitly and cannot be renewed.",
    LeaseNotPresentWithBlobOperation "There is currently no lease on the blob.",
    LeaseNotPresentWithContainerOperation "There is currently no lease on the container.",
    LeaseNotPresentWithLeaseOperation "There is currently no lease on the resource.",
    MaxBlobSizeConditionNotMet "The max blob size condition specified was not met.",
    NoPendingCopyOperation "There is currently no pending copy operation.",
    OutOfRangeInput "One of the request inputs is out of range.",
    PendingCopyOperation "There is currently a pending copy operation.",
    PreviousSnapshotCannotBeNewer "The prevsnapshot query parameter value cannot be newer than snapshot query parameter value.",
    PreviousSnapshotNotFound "The previous snapshot is not found.",
    SnapshotsPresent "This operation is not permitted while the blob has snapshots.",
    SourceConditionNotMet "The source condition specified using HTTP conditional header(s) is not met.",
}

/// A refusal or a failure.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    #[error("{}", .0.text())]
    Refused(Code),
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The request's body ended early, was too long or did not match its checksum; `api` knows what to say.
    #[error("the body was not taken")]
    Body(#[source] io::Error),
}

impl From<Code> for StorageError {
    fn from(code: Code) -> Self {
        Self::Refused(code)
    }
}

impl From<MetaError> for StorageError {
    fn from(error: MetaError) -> Self {
        Self::Blob(BlobError::of_meta(error))
    }
}

impl From<ChunkError> for StorageError {
    fn from(error: ChunkError) -> Self {
        Self::Blob(match error {
            ChunkError::StoreFull { .. } => BlobError::Full { source: io::Error::other(error) },
            error => BlobError::of_chunks(error),
        })
    }
}

impl From<WriteError> for StorageError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Db(error) => error.into(),
            // Rows are changed under this process's own locks: somebody else was there.
            WriteError::Conflict(conflict @ (Conflict::Etag { .. } | Conflict::Exists { .. })) => {
                Self::Blob(BlobError::Busy { source: conflict.into() })
            }
            // A copy commits only while its source, a key, keeps the bytes; containers have no keys.
            WriteError::Conflict(Conflict::Missing { key }) if key.starts_with('/') => {
                Self::Refused(Code::CannotVerifyCopySource)
            }
            WriteError::Conflict(Conflict::Missing { .. }) => Self::Refused(Code::ContainerNotFound),
            WriteError::Conflict(conflict) => Self::internal(conflict),
        }
    }
}

impl StorageError {
    pub(crate) fn internal(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Blob(BlobError::internal(source))
    }

    pub(crate) fn of_file(source: io::Error) -> Self {
        Self::Blob(BlobError::of_file(source))
    }

    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Refused(code) => Some(*code),
            _ => None,
        }
    }
}
