//! Disk-image formats in and out, what is on a disk, and provisioning media. Sync; no network.
//!
//! ```text
//! format.rs ─> raw, vhd, vhdx, qcow2, vmdk ─> DiskSource ─┬─> ingest, uploads
//!                                                         ├─> export/: any range of a file of another format
//!                                                         └─> check/: what would keep the disk from booting here
//! ```

pub mod changes;
pub mod check;
mod crc;
pub mod export;
mod fields;
pub mod format;
pub mod media;
mod packing;
pub mod qcow2;
pub mod raw;
pub mod source;
mod table;
pub mod vhd;
pub mod vhdx;
pub mod vmdk;

pub use changes::{ChangeKind, ChangedSource};
pub use format::{Format, Image, ImageError};
pub use qcow2::{Qcow2, Qcow2Error};
pub use raw::RawFile;
pub use source::DiskSource;
