//! Which host takes a machine: a pure decision over what is known of all of them.
//!
//! A host takes machines while the memory of all that are placed on it fits. The machines of one virtual network are on one host,
//! since a network does not reach beyond it; those of a network that is on a LAN are on any host that has that LAN. Of the hosts with
//! room the one with the most free memory is chosen.

use lazuli_arm::ArmError;
use std::cmp::Reverse;
use std::collections::BTreeSet;

/// A host that may take machines of the region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    /// Id of the worker; `None`: the server's own host.
    pub worker: Option<String>,
    /// As people call it.
    pub name: String,
    pub is_there: bool,
    pub memory_mib: u64,
    /// Of the machines that are placed there.
    pub used_mib: u64,
    /// The networks of those machines.
    pub networks: BTreeSet<String>,
    /// Networks whose LANs it has.
    pub lans: BTreeSet<String>,
}

impl Candidate {
    pub(super) fn free_mib(&self) -> u64 {
        self.memory_mib.saturating_sub(self.used_mib)
    }
}

/// What a machine needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted<'a> {
    pub machine: &'a str,
    pub memory_mib: u64,
    pub networks: &'a [String],
    /// Those that are on a LAN.
    pub lans: &'a [String],
}

/// # Errors
/// `AllocationFailed` with the reason.
pub(super) fn choose<'c>(wanted: &Wanted<'_>, candidates: &'c [Candidate]) -> Result<&'c Candidate, ArmError> {
    let shares = |c: &&Candidate| wanted.networks.iter().any(|n| c.networks.contains(n));
    let holders: Vec<&Candidate> = candidates.iter().filter(shares).collect();
    match holders.as_slice() {
        [] => {}
        [one] => return check(wanted, one).map(|()| *one),
        [one, other, ..] => {
            return Err(failed(
                wanted,
                &format!("its virtual networks are on different hosts ('{}' and '{}')", one.name, other.name),
            ));
        }
    }
    if let Some(lan) = wanted.lans.iter().find(|lan| !candidates.iter().any(|c| c.lans.contains(*lan))) {
        return Err(failed(wanted, &format!("no host of the region has the LAN of the virtual network {lan}")));
    }
    let fit = candidates.iter().filter(|c| check(wanted, c).is_ok());
    // The first of equals: the server's own host, then by name.
    fit.min_by_key(|c| (Reverse(c.free_mib()), c.worker.is_some(), c.name.clone())).ok_or_else(|| {
        let lan = if wanted.lans.is_empty() { "" } else { " and the LAN of its virtual network" };
        let memory = wanted.memory_mib;
        failed(wanted, &format!("no host of the region that is there has {memory} MiB of memory free{lan}"))
    })
}

fn check(wanted: &Wanted<'_>, candidate: &Candidate) -> Result<(), ArmError> {
    let host = &candidate.name;
    let on = format!("host '{host}', where the other machines of its virtual network are,");
    if !candidate.is_there {
        return Err(failed(wanted, &format!("{on} is not there")));
    }
    if let Some(lan) = wanted.lans.iter().find(|lan| !candidate.lans.contains(*lan)) {
        return Err(failed(wanted, &format!("{on} has not the LAN of the virtual network {lan}")));
    }
    if candidate.free_mib() < wanted.memory_mib {
        let (free, needed) = (candidate.free_mib(), wanted.memory_mib);
        return Err(failed(wanted, &format!("{on} has {free} MiB of memory free, and {needed} MiB are needed")));
    }
    Ok(())
}

fn failed(wanted: &Wanted<'_>, why: &str) -> ArmError {
    ArmError::conflict(
        "AllocationFailed",
        format!(
            "Allocation failed. We do not have sufficient capacity for the requested VM size of '{}' in this region: {why}.",
            wanted.machine
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str, memory_mib: u64, used_mib: u64, networks: &[&str]) -> Candidate {
        Candidate {
            worker: (name != "own").then(|| format!("id-{name}")),
            name: name.to_owned(),
            is_there: true,
            memory_mib,
            used_mib,
            networks: networks.iter().map(|n| (*n).to_owned()).collect(),
            lans: BTreeSet::new(),
        }
    }

    fn with_lan(candidate: Candidate) -> Candidate {
        Candidate { lans: ["lan".to_owned()].into(), ..candidate }
    }

    fn away(candidate: Candidate) -> Candidate {
        Candidate { is_there: false, ..candidate }
    }

    fn check(networks: &[&str], hosts: &[Candidate]) -> Result<String, String> {
        // A network named `lan` is on one.
        let (lans, networks): (Vec<String>, Vec<String>) =
            networks.iter().map(|n| (*n).to_owned()).partition(|n| n == "lan");
        let wanted = Wanted { machine: "vm1", memory_mib: 1024, networks: &networks, lans: &lans };
        choose(&wanted, hosts).map(|c| c.name.clone()).map_err(|e| {
            assert_eq!(e.code, "AllocationFailed");
            e.message
        })
    }

    #[test]
    fn the_host_with_the_most_free_memory_takes_it() {
        let hosts = [host("own", 4096, 3072, &[]), host("b", 4096, 1024, &["x"]), host("a", 9000, 8000, &[])];
        assert_eq!(check(&["n"], &hosts).unwrap(), "b");
        assert_eq!(check(&["n"], &[host("b", 2048, 0, &[]), host("a", 2048, 0, &[])]).unwrap(), "a");
        assert_eq!(check(&["n"], &[host("a", 2048, 0, &[]), host("own", 2048, 0, &[])]).unwrap(), "own");
    }

    #[test]
    fn exactly_full_is_not_too_full() {
        assert_eq!(check(&["n"], &[host("a", 2048, 1024, &[])]).unwrap(), "a");
        let refused = check(&["n"], &[host("a", 2048, 1025, &[]), host("own", 0, 0, &[])]).unwrap_err();
        assert!(refused.contains("1024 MiB of memory free"), "{refused}");
        // More was placed than there is: the host lost memory since.
        check(&["n"], &[host("a", 2048, 9999, &[])]).unwrap_err();
        check(&["n"], &[]).unwrap_err();
    }

    #[test]
    fn nobody_is_placed_on_a_host_that_is_away() {
        assert_eq!(check(&["n"], &[away(host("b", 9999, 0, &[])), host("a", 2048, 0, &[])]).unwrap(), "a");
        check(&["n"], &[away(host("b", 9999, 0, &[]))]).unwrap_err();
    }

    #[test]
    fn a_network_keeps_its_machines_together() {
        let others = [host("own", 9999, 0, &[]), host("a", 2048, 1024, &["n", "m"]), host("b", 2048, 0, &["k"])];
        assert_eq!(check(&["n"], &others).unwrap(), "a");
        assert_eq!(check(&["n", "m"], &others).unwrap(), "a");
        let apart = check(&["n", "k"], &others).unwrap_err();
        assert!(apart.contains("'a' and 'b'"), "{apart}");
        let full = check(&["n"], &[host("own", 9999, 0, &[]), host("a", 2048, 1025, &["n"])]).unwrap_err();
        assert!(full.contains("'a'") && full.contains("1023 MiB") && full.contains("virtual network"), "{full}");
        let gone = check(&["n"], &[host("own", 9999, 0, &[]), away(host("a", 2048, 0, &["n"]))]).unwrap_err();
        assert!(gone.contains("'a'") && gone.contains("is not there"), "{gone}");
    }

    #[test]
    fn a_network_on_a_lan_is_on_every_host_that_has_it() {
        let hosts =
            [host("own", 9999, 0, &[]), with_lan(host("a", 2048, 1024, &[])), with_lan(host("b", 4096, 1024, &["n"]))];
        assert_eq!(check(&["lan"], &hosts).unwrap(), "b");
        assert_eq!(check(&["lan"], &hosts[..2]).unwrap(), "a");
        assert_eq!(check(&["lan", "n"], &hosts).unwrap(), "b");
        let none = check(&["lan"], &hosts[..1]).unwrap_err();
        assert!(none.contains("has the LAN of the virtual network lan"), "{none}");
        let full = check(&["lan"], &[host("own", 9999, 0, &[]), with_lan(host("a", 2048, 1025, &[]))]).unwrap_err();
        assert!(full.contains("1024 MiB of memory free and the LAN"), "{full}");
        let apart =
            check(&["lan", "n"], &[with_lan(host("own", 9999, 0, &[])), host("a", 2048, 0, &["n"])]).unwrap_err();
        assert!(apart.contains("'a'") && apart.contains("has not the LAN"), "{apart}");
    }
}
