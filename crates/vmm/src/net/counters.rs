//! What a Vnet has carried and refused, since it started.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// The running totals; see [`CountersSnapshot`].
        #[derive(Debug, Default)]
        pub struct Counters { $(pub(super) $name: Counter,)* }

        /// The totals at one moment.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct CountersSnapshot { $($(#[$doc])* pub $name: u64,)* }

        impl Counters {
            pub fn snapshot(&self) -> CountersSnapshot {
                CountersSnapshot { $($name: self.$name.0.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Frames received from guests.
    frames_in,
    /// Frames sent to guests.
    frames_out,
    /// Frames that could not be understood, or are of no kind that the network carries (IPv6, multicast).
    ignored,
    /// Frames with a source address that is not the NIC's.
    spoofed,
    /// Frames lost because a guest did not take them in time.
    overrun,
    /// TCP connections opened, in either direction.
    tcp_opened,
    /// TCP connections and UDP flows refused because the NIC has too many, or may not go there.
    refused,
    /// UDP flows opened, in either direction.
    udp_opened,
    /// DNS questions answered or forwarded.
    dns_queries,
    /// DHCP requests answered.
    dhcp_replies,
    /// Frames sent to the LAN.
    to_lan,
    /// Frames received from the LAN.
    from_lan,
}

#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(super) fn bump(&self) {
        self.add(1);
    }
}
