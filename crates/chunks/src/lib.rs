//! Content store: disks cut into content-addressed chunks, stored once, read back verified.
//!
//! ```text
//! Region ── the place: one object store (or one a zone), one index, one writer, many readers
//!   ingest        DiskSource -> chunker -> zstd -> packs -> index -> manifest
//!   diff          two manifests -> where their disks differ, without reading a chunk
//!   ingest_over   a manifest and what changed since -> the manifest of a full ingest, for the price of the change
//!   reader        manifest -> segment -> chunk -> pack range, verified by BLAKE3, cached
//!   replicate     only what the target lacks, verified there
//!   gc            mark from the live manifests, delete dead packs, rewrite mostly dead ones
//!   rebuild       the index again, from the packs' own trailers
//!   scrub         reads everything, names what is wrong, mends it from another zone or region
//!   seal          what the stores hold of the packs is ciphertext, if the region has keys
//! ```
//!
//! What this crate must never do: hand out a byte that it did not verify, overwrite an object, write
//! the index before the data it names, delete data before the index forgot it, or know anything of
//! resources, operations or SQL. Which manifests are alive is the caller's knowledge.

pub mod bench;
mod cache;
pub mod chunker;
mod codec;
mod diff;
mod error;
mod frame_cache;
mod gc;
mod id;
mod index;
mod ingest;
mod log;
mod manifest;
mod moving;
mod object_stores;
mod pack;
mod params;
mod progress;
mod rate;
mod reader;
mod rebuild;
mod region;
mod replicate;
mod reseal;
mod scrub;
mod seal;
mod store;
mod trace;
mod usage;
mod writer;
mod zones;

pub use cache::Cache;
pub use diff::{Diff, DiffKind};
pub use error::{ChunkError, Result};
pub use frame_cache::FrameCache;
pub use gc::{Collected, GcEpoch};
pub use id::{ChunkId, ManifestId};
pub use ingest::Ingested;
pub use object_stores::{OpenStoreError, open_store};
pub use params::{Encryption, StoreParams};
pub use progress::Progress;
pub use rate::RateLimit;
pub use reader::{DiskExtent, DiskReader};
pub use rebuild::Rebuilt;
pub use region::{Region, RegionConfig};
pub use replicate::Replicated;
pub use reseal::Resealed;
pub use scrub::{Finding, Object, Outcome, Problem, ScrubOptions, ScrubReport};
pub use seal::{ParseKeyError, SealingKeys};
pub use store::local_store;
pub use trace::{TracedReader, Traces};
pub use usage::{Share, Usage};
