//! Disk-image formats: VHD, raw, sparse files, provisioning media. Sync; no network.

pub mod media;
pub mod raw;
pub mod source;
pub mod vhd;

pub use raw::RawFile;
pub use source::DiskSource;
