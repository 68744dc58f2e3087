//! Disk-image formats: VHD, raw, sparse files, provisioning media.
