//! Disk-image formats: VHD, raw, sparse files, qcow2 overlays, provisioning media. Sync; no network.

pub mod changes;
pub mod media;
pub mod qcow2;
pub mod raw;
pub mod source;
pub mod vhd;

pub use changes::{ChangeKind, ChangedSource};
pub use qcow2::{Qcow2, Qcow2Error};
pub use raw::RawFile;
pub use source::DiskSource;
