//! Virtual machines: QEMU, networks, provisioning fabric.
