//! Why a Vnet could not do what it was told.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;

use super::Protocol;

#[derive(Debug, thiserror::Error)]
pub enum NetError {
    #[error("network interface {nic} is not valid: {reason}")]
    InvalidNic { nic: String, reason: &'static str },
    #[error("network interface {nic} is attached already")]
    AlreadyAttached { nic: String },
    #[error("network interface {nic} is not attached")]
    NotAttached { nic: String },
    #[error("address {address} is in use by network interface {by}")]
    AddressInUse { address: Ipv4Addr, by: String },
    #[error("MAC address of network interface {nic} is in use by network interface {by}")]
    MacInUse { nic: String, by: String },
    /// The MAC address, the address or the socket of a NIC changes only by detaching and attaching it.
    #[error("the {what} of network interface {nic} cannot change while it is attached: detach it first")]
    Fixed { nic: String, what: &'static str },
    #[error("cannot listen on the unix socket {}", path.display())]
    Socket {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A port of the public address cannot be opened. Nothing of the request was done.
    #[error("cannot listen on {protocol} {address}: {}", advice(source, *address))]
    Listen {
        protocol: Protocol,
        address: SocketAddrV4,
        #[source]
        source: io::Error,
    },
    /// The operator's word for the LAN does not admit it.
    #[error("network interface {nic} cannot be on the LAN of its virtual network: {reason}")]
    NotOnLan { nic: String, reason: String },
    #[error("the virtual network cannot reach its LAN: {0}")]
    Uplink(#[from] UplinkError),
    /// A private link was not made.
    #[error("nothing answers on port {port} of the interface {nic}")]
    Refused { nic: String, port: u16 },
    #[error("the virtual network has been stopped")]
    Stopped,
}

/// What keeps a virtual network off its LAN, and what the operator can do about it.
#[derive(Debug, thiserror::Error)]
pub enum UplinkError {
    #[error("the [[bridges]] entry of {network} names neither a bridge nor a tap on this computer")]
    NotHere { network: String },
    #[error(
        "there is no network device {bridge} on this computer: make it with `ip link add {bridge} type bridge`, put the LAN's card \
         into it with `ip link set CARD master {bridge}`, and set both up"
    )]
    NoBridge { bridge: String },
    #[error(
        "the network device {bridge} is no bridge: make one with `ip link add br0 type bridge` and put {bridge} into it"
    )]
    NotABridge { bridge: String },
    #[error(
        "a port of the bridge {bridge} cannot be made without CAP_NET_ADMIN: give it to the service (AmbientCapabilities=CAP_NET_ADMIN) or \
         to the program (`sudo setcap cap_net_admin=+ep PATH-OF-LAZULI`), or name a tap that was made beforehand (docs/networks.md)"
    )]
    NotPermitted {
        bridge: String,
        #[source]
        source: io::Error,
    },
    #[error("/dev/net/tun cannot be opened: load its module with `modprobe tun`, and let this process open it")]
    NoTun {
        #[source]
        source: io::Error,
    },
    #[error(
        "there is no tap {tap} on this computer: make it with `ip tuntap add dev {tap} mode tap user NAME-OF-THIS-USER`, put it on the \
         bridge with `ip link set {tap} master BRIDGE up`"
    )]
    NoTap { tap: String },
    #[error(
        "the network device {tap} is no tap of one queue: make another with `ip tuntap add dev NAME mode tap user NAME-OF-THIS-USER`"
    )]
    NotATap { tap: String },
    #[error("the tap {tap} is another user's: make it with `ip tuntap add dev {tap} mode tap user NAME-OF-THIS-USER`")]
    NotMine { tap: String },
    #[error("the tap {tap} is down: `ip link set {tap} up`")]
    Down { tap: String },
    #[error("another process uses the tap {tap}")]
    Busy { tap: String },
    #[error("the network device {device} cannot be used")]
    Device {
        device: String,
        #[source]
        source: io::Error,
    },
}

/// What the operator can do about a port that cannot be opened.
fn advice(source: &io::Error, address: SocketAddrV4) -> String {
    let port = address.port();
    match source.kind() {
        io::ErrorKind::PermissionDenied => format!(
            "ports below 1024 need a permission; give it to all programs with `sudo sysctl -w net.ipv4.ip_unprivileged_port_start={port}` \
             or to this one with `sudo setcap cap_net_bind_service=+ep PATH-OF-LAZULI`, then try again"
        ),
        io::ErrorKind::AddrInUse => {
            format!("another program listens there; `ss -lnp 'sport = :{port}'` names it")
        }
        io::ErrorKind::AddrNotAvailable => {
            format!(
                "{} is not an address of this machine; choose one in 127.0.0.0/8 or configure it first",
                address.ip()
            )
        }
        _ => "the operating system refused".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_privileged_port_says_what_to_do() {
        let e = NetError::Listen {
            protocol: Protocol::Tcp,
            address: "127.0.1.5:22".parse().unwrap(),
            source: io::ErrorKind::PermissionDenied.into(),
        };
        let text = e.to_string();
        assert!(text.contains("TCP 127.0.1.5:22"), "{text}");
        assert!(text.contains("ip_unprivileged_port_start=22"), "{text}");
        assert!(text.contains("cap_net_bind_service"), "{text}");
    }
}
