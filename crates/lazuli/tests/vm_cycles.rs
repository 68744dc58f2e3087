//! Machines that come and go while processes are killed leave nothing behind (reliability, law 1), and machines whose computer
//! was switched off start again with their disks.
//!
//! `LAZULI_VM_CYCLES` says how many come and go (`scripts/test long cycles`); the moments come from a seed as in `vm_crash`.

mod support;

use lazuli_testkit::{ArmFailure, MachineSite, guests, last_lines, wait_for};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;
use support::{Random, kill_host};

const CYCLES: usize = 4;
/// Until an operation that was interrupted has ended, under emulation on a busy machine.
const ENDS: Duration = Duration::from_secs(420);
/// Within this after a request, something is killed.
const MOMENTS: Duration = Duration::from_millis(2500);

/// What a kill meets.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Victim {
    Server,
    Host,
    Both,
    Nobody,
}

impl Victim {
    fn chosen(random: &mut Random) -> Self {
        [Self::Server, Self::Host, Self::Both, Self::Nobody][usize::try_from(random.next() % 4).unwrap()]
    }
}

/// Kills after `moment` (this is no wait for anything: the moment is the test's input), and starts again what was killed.
async fn kill(site: &mut MachineSite, victim: Victim, moment: Duration, doing: &str) {
    tokio::time::sleep(moment).await;
    eprintln!("{victim:?} killed {moment:?} after {doing}");
    if matches!(victim, Victim::Host | Victim::Both) {
        kill_host(&site.server).await;
    }
    if matches!(victim, Victim::Server | Victim::Both) {
        site.server.kill().unwrap();
        site.server.restart().await.unwrap();
    }
    // A server starts a host where none runs.
    let host = lazuli_vmm::HostClient::new(site.server.dir().join("host/host.sock"));
    wait_for("the next host process", ENDS, async || host.info().await.ok()).await;
}

/// Asks, kills meanwhile, and follows the operation to its end.
async fn interrupted(
    site: &mut MachineSite,
    random: &mut Random,
    (method, path, body): (Method, &str, Option<Value>),
) -> (Victim, anyhow::Result<Value>) {
    let accepted = site.arm.send(method.clone(), path, body.as_ref()).await.unwrap();
    assert!(accepted.status.is_success(), "{method} {path}: {} {}", accepted.status, accepted.body);
    let (victim, moment) = (Victim::chosen(random), random.within(Duration::ZERO, MOMENTS));
    kill(site, victim, moment, method.as_str()).await;
    let ended = tokio::time::timeout(ENDS, site.arm.finish(accepted, path)).await;
    (victim, ended.unwrap_or_else(|_| panic!("{method} {path} does not end\n{}", last_lines(&site.server.log()))))
}

/// One machine with an interface of its own; the public and the private address that it had.
async fn cycle(site: &mut MachineSite, random: &mut Random, image: &str) -> (Value, Value) {
    site.interface(0).await;
    let ip = site.path("Microsoft.Network/publicIPAddresses/ip0");
    let nic = site.path("Microsoft.Network/networkInterfaces/nic0");
    let public = site.arm.get(&ip).await.unwrap()["properties"]["ipAddress"].clone();
    let private = &site.arm.get(&nic).await.unwrap()["properties"]["ipConfigurations"][0]["properties"];
    let private = private["privateIPAddress"].clone();

    let vm = site.machine_path(0);
    let body = site.machine_body(0, image, None);
    let (victim, created) = interrupted(site, random, (Method::PUT, &vm, Some(body))).await;
    let shown = site.arm.get(&vm).await.unwrap();
    match created {
        Ok(_) => assert_eq!(shown["properties"]["provisioningState"], "Succeeded", "{shown}"),
        Err(error) => {
            let told = error.downcast_ref::<ArmFailure>().unwrap_or_else(|| panic!("{error:#}"));
            assert_eq!(shown["properties"]["provisioningState"], "Failed", "{shown}");
            assert!(matches!(victim, Victim::Host | Victim::Both), "its host lived, and yet it failed: {told}");
        }
    }

    let (_, deleted) = interrupted(site, random, (Method::DELETE, &vm, None)).await;
    deleted.unwrap_or_else(|e| panic!("the machine cannot be deleted: {e:#}\n{}", last_lines(&site.server.log())));
    assert_eq!(site.arm.send(Method::GET, &vm, None).await.unwrap().status, StatusCode::NOT_FOUND);
    site.delete("Microsoft.Network/networkInterfaces/nic0").await;
    site.delete("Microsoft.Network/publicIPAddresses/ip0").await;
    (public, private)
}

/// Names in a folder; one that is not there holds nothing.
fn entries(folder: &Path) -> Vec<String> {
    let found = std::fs::read_dir(folder).into_iter().flatten().flatten();
    found.map(|e| e.file_name().to_string_lossy().into_owned()).collect()
}

fn nothing_is_left(site: &MachineSite, public: &Value) {
    let machines: Vec<_> =
        site.server.processes().into_iter().filter(|(_, line)| line.contains("qemu-system")).collect();
    assert!(machines.is_empty(), "{machines:?}");
    for folder in ["host/vms", "host/run", "disks", "uploads"] {
        let left = entries(&site.server.dir().join(folder));
        assert!(left.is_empty(), "{folder} still holds {left:?}");
    }
    let address: SocketAddr = format!("{}:22", public.as_str().unwrap()).parse().unwrap();
    assert!(
        TcpStream::connect_timeout(&address, Duration::from_secs(5)).is_err(),
        "somebody still listens at {address}"
    );
}

#[tokio::test]
async fn machines_that_come_and_go_leave_nothing_behind() {
    let cycles = std::env::var("LAZULI_VM_CYCLES").map_or(CYCLES, |n| n.parse().expect("LAZULI_VM_CYCLES is a number"));
    let mut random = Random::seeded(4);
    let mut site = MachineSite::start("V1", 0).await;
    let source = site.upload(&guests::tiny().unwrap()).await;
    let image = site.version("Specialized", "1.0.0", json!({"osDiskImage": {"source": {"id": source}}})).await;
    site.delete("Microsoft.Compute/disks/source").await;
    let mut first = None;
    for n in 0..cycles {
        let (public, private) = cycle(&mut site, &mut random, &image).await;
        nothing_is_left(&site, &public);
        // The first one that is free: one that was not given back would not be given again.
        assert_eq!(first.get_or_insert_with(|| private.clone()), &private, "cycle {n}");
    }
    let disks = site.arm.get(&site.path("Microsoft.Compute/disks")).await.unwrap();
    assert_eq!(disks["value"], json!([]));
    site.arm.delete(&site.arm.group_path("machines", "")).await.unwrap();
    let out = site.server.command("usage").arg("--json").output().unwrap();
    let usage: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert!(usage.as_array().unwrap().iter().all(|region| region["uniqueBytes"] == 0), "{usage:#}");
}

#[tokio::test]
async fn machines_start_again_after_a_power_cut() {
    let mut site = MachineSite::start("V1", 2).await;
    let source = site.upload(&guests::tiny().unwrap()).await;
    let image = site.version("Generalized", "1.0.0", json!({"osDiskImage": {"source": {"id": source}}})).await;
    site.machine(0, &image, Some("azureuser")).await;
    site.machine(1, &image, Some("azureuser")).await;
    site.run(0, "azureuser", "echo kept > mark; sync").await;
    site.post("Microsoft.Compute/virtualMachines/vm1/powerOff").await;

    site.server.power_cut().await.unwrap();
    assert_eq!(site.server.processes(), []);
    site.server.restart().await.unwrap();
    for n in 0..2 {
        let stopped = async || (site.power(n).await == "PowerState/stopped").then_some(());
        wait_for("the machine is shown as it is", ENDS, stopped).await;
        let shown = site.arm.get(&site.machine_path(n)).await.unwrap();
        assert_eq!(shown["properties"]["provisioningState"], "Succeeded", "{shown}");
    }

    site.post("Microsoft.Compute/virtualMachines/vm0/start").await;
    assert_eq!(site.power(0).await, "PowerState/running");
    assert_eq!(site.run(0, "azureuser", "hostname; cat mark").await, "vm0\nkept");
}
