//! Virtual machines: QEMU, networks, provisioning fabric.

pub mod net;
