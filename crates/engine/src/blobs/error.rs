//! Why a request for a blob was refused, in the data plane's terms. `api` gives these Azure's codes and words.

use lazuli_chunks::ChunkError;
use lazuli_meta::MetaError;
use std::error::Error as StdError;
use std::io;

type Cause = Box<dyn StdError + Send + Sync>;

/// A refusal or a failure of the data plane.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// No such grant, a wrong signature, or a grant that was ended: all the same to whoever has no valid URL.
    #[error("the signature is not valid: {0}")]
    Unauthenticated(&'static str),
    /// The signature is right, its time is over.
    #[error("the access ended")]
    Expired { expires_ms: i64, now_ms: i64 },
    /// The disk asks for a bearer token besides the URL (`dataAccessAuthMode`), and there is none that is valid.
    #[error("the disk's bytes are for those who sign in")]
    IdentityRequired,
    /// Whoever signed in may not have the disk's bytes.
    #[error("{principal} may not have the disk's bytes")]
    NotPermitted { principal: String },
    #[error("there is no such container")]
    NoContainer,
    #[error("there is no such blob")]
    NoBlob,
    /// A write over a grant for reading.
    #[error("the access is for reading only")]
    ReadOnly,
    /// Not made of whole pages, empty, or beyond the blob's end.
    #[error("bytes {start}+{len} are not whole pages of a blob of {size} bytes")]
    PageRange { start: u64, len: u64, size: u64 },
    /// More than one Put Page may carry.
    #[error("{len} bytes are more than a single write may have")]
    TooLarge { len: u64 },
    /// The blob's size was fixed when the upload was announced.
    #[error("the blob has {expected} bytes, not {asked}")]
    SizeFixed { expected: u64, asked: u64 },
    /// A page blob's size is whole pages, at most 8 TiB.
    #[error("a page blob cannot have {size} bytes")]
    SizeInvalid { size: u64 },
    /// `If-None-Match: *` on a blob that has been created.
    #[error("the blob exists")]
    Exists,
    #[error("a condition of the request does not hold")]
    ConditionNotMet,
    /// A condition of a read: the client has this version already.
    #[error("the blob was not modified")]
    NotModified,
    #[error("the sequence number does not meet the condition")]
    SequenceNotMet,
    /// `max` or `update` with a number below the present one, or an increment beyond the last.
    #[error("the sequence number cannot be set so")]
    SequenceInvalid,
    /// More metadata than a blob may carry.
    #[error("the metadata is too large")]
    MetadataTooLarge,
    /// The two are not incremental snapshots of one family.
    #[error("the difference to the previous snapshot cannot be told")]
    NoDifference,
    #[error("the previous snapshot is the newer one")]
    PreviousNewer,
    /// The device under the staging file has no room. What was written before is unharmed.
    #[error("the server's disk is full")]
    Full {
        #[source]
        source: io::Error,
    },
    /// Something that this server needs cannot be reached now.
    #[error("temporarily unavailable")]
    Busy {
        #[source]
        source: Cause,
    },
    #[error("internal error")]
    Internal {
        #[source]
        source: Cause,
    },
}

impl BlobError {
    pub(crate) fn internal(source: impl Into<Cause>) -> Self {
        Self::Internal { source: source.into() }
    }

    pub(crate) fn of_meta(source: MetaError) -> Self {
        if source.is_transient() { Self::Busy { source: source.into() } } else { Self::internal(source) }
    }

    pub(crate) fn of_chunks(source: ChunkError) -> Self {
        if source.is_permanent() { Self::internal(source) } else { Self::Busy { source: source.into() } }
    }

    /// An error of the staging file.
    pub(crate) fn of_file(source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                Self::Full { source }
            }
            _ => Self::internal(source),
        }
    }
}
