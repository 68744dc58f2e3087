//! Disk-image formats: VHD, raw, sparse files, provisioning media. Sync; no network.

pub mod source;

pub use source::DiskSource;
