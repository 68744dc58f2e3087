//! Virtual machines: QEMU, networks, provisioning fabric.
//!
//! One long-lived process a machine ([`host::Host`]) owns every guest of that machine: its QEMU process, its virtual
//! networks, the NBD exports of its disks' base images and the endpoints its agents talk to. The engine reaches it
//! with [`host::HostClient`] over a unix socket. The host never decides what a VM should be, it only runs the
//! [`spec::VmSpec`]s it was given; and it never touches a disk that no spec names.

pub mod accel;
pub mod guest_agent;
pub mod host;
pub mod hypervisor;
pub mod net;
pub mod overlay;
pub mod provisioning;
pub mod qmp;
pub mod spec;
pub mod uefi;

pub use host::{BaseImages, Host, HostClient, HostConfig};
pub use spec::{PowerState, ProvisioningState, VmSpec, VmStatus};
