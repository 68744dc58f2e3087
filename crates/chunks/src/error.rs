//! What can go wrong in the content store, sorted by what the caller must do about it.

use std::error::Error as StdError;
use std::io;

pub type Result<T, E = ChunkError> = std::result::Result<T, E>;

/// An error of the content store. The cause is kept as the source and never repeated in the text.
#[derive(Debug, thiserror::Error)]
pub enum ChunkError {
    /// The region does not hold this manifest, chunk or pack.
    #[error("{what} is not in region {region}")]
    NotFound { what: String, region: String },

    /// Stored bytes do not match their hash or their format. They were not handed out.
    #[error("{what} is damaged: {detail}")]
    Corrupt { what: String, detail: String },

    /// The device or quota behind the store (or its index) has no room. Nothing that existed was
    /// harmed; free some space and try again.
    #[error("the store of region {region} is full")]
    StoreFull {
        region: String,
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },

    /// The caller's cancellation token fired.
    #[error("cancelled")]
    Cancelled,

    /// Another process writes to this region's index.
    #[error("region {region} is already open for writing by another process")]
    Locked { region: String },

    /// The region was opened read-only, or a change was asked of a reader.
    #[error("region {region} is open read-only")]
    ReadOnly { region: String },

    /// The store was made with parameters this version does not know.
    #[error("the store of region {region} cannot be used: {detail}")]
    Incompatible { region: String, detail: String },

    /// The object store failed.
    #[error("cannot {action} in the store of region {region}")]
    Store {
        action: String,
        region: String,
        #[source]
        source: object_store::Error,
    },

    /// The index directory failed.
    #[error("cannot {action} the index of region {region}")]
    Index {
        action: &'static str,
        region: String,
        #[source]
        source: io::Error,
    },

    /// A read beyond the disk's end.
    #[error("bytes {offset}+{len} lie beyond the disk's end at {size}")]
    OutOfRange { offset: u64, len: u64, size: u64 },

    /// The disk being ingested could not be read.
    #[error("cannot read the source disk at byte {offset}")]
    Source {
        offset: u64,
        #[source]
        source: io::Error,
    },

    /// A task of the store's own ended abnormally.
    #[error("a worker of the store ended abnormally")]
    Worker {
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
}

impl ChunkError {
    /// Whether trying the same again without changing anything is futile.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::NotFound { .. }
            | Self::Corrupt { .. }
            | Self::StoreFull { .. }
            | Self::Cancelled
            | Self::ReadOnly { .. }
            | Self::OutOfRange { .. }
            | Self::Incompatible { .. } => true,
            Self::Locked { .. } | Self::Index { .. } | Self::Worker { .. } => false,
            Self::Store { source, .. } => store_error_is_permanent(source),
            Self::Source { source, .. } => matches!(
                source.kind(),
                io::ErrorKind::UnexpectedEof
                    | io::ErrorKind::InvalidData
                    | io::ErrorKind::InvalidInput
                    | io::ErrorKind::NotFound
                    | io::ErrorKind::PermissionDenied
            ),
        }
    }

    pub(crate) fn corrupt(what: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Corrupt { what: what.into(), detail: detail.into() }
    }

    pub(crate) fn not_found(what: impl Into<String>, region: &str) -> Self {
        Self::NotFound { what: what.into(), region: region.to_owned() }
    }

    /// Sorts an object-store error: a full device is told apart from everything else.
    pub(crate) fn store(action: impl Into<String>, region: &str, source: object_store::Error) -> Self {
        if is_storage_full(&source) {
            return Self::StoreFull { region: region.to_owned(), source: Box::new(source) };
        }
        Self::Store { action: action.into(), region: region.to_owned(), source }
    }

    pub(crate) fn index(action: &'static str, region: &str, source: io::Error) -> Self {
        if is_storage_full(&source) {
            return Self::StoreFull { region: region.to_owned(), source: Box::new(source) };
        }
        Self::Index { action, region: region.to_owned(), source }
    }

    pub(crate) fn worker(source: impl StdError + Send + Sync + 'static) -> Self {
        Self::Worker { source: Box::new(source) }
    }
}

pub(crate) fn store_error_is_permanent(error: &object_store::Error) -> bool {
    use object_store::Error as E;
    is_storage_full(error) || !matches!(error, E::Generic { .. } | E::JoinError { .. })
}

/// Walks the chain of causes for an `io::Error` that says "no room".
pub(crate) fn is_storage_full(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(e) = next {
        if let Some(io) = e.downcast_ref::<io::Error>() {
            if matches!(
                io.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
            ) {
                return true;
            }
            // An io::Error's `source` skips the error it wraps.
            if let Some(inner) = io.get_ref()
                && is_storage_full(inner)
            {
                return true;
            }
        }
        next = e.source();
    }
    false
}
