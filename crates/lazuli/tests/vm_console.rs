//! `lazuli console`: the serial console of a real guest, over the server's WebSocket.

use lazuli_testkit::{MachineSite, guests, wait_for};
use reqwest::{Method, StatusCode};
use serde_json::json;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Under emulation on a busy machine.
const ANSWERS: Duration = Duration::from_secs(120);

#[tokio::test]
async fn a_guest_is_spoken_with_on_its_console() {
    let site = MachineSite::start("V1", 1).await;
    let source = site.upload(&guests::tiny().unwrap()).await;
    let image = site.version("Generalized", "1.0.0", json!({"osDiskImage": {"source": {"id": source}}})).await;
    site.machine(0, &image, Some("azureuser")).await;

    let mut console = tokio::process::Command::from(site.server.command("console"));
    console
        .args(["--resource-group", "machines", "vm0"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    let mut console = console.spawn().unwrap();
    let (mut keys, mut screen) = (console.stdin.take().unwrap(), console.stdout.take().unwrap());
    let (mut shown, mut part) = (String::new(), [0; 1024]);
    // The guest's getty asks again after each line.
    let asked = async {
        while !shown.contains("vm0 login:") {
            keys.write_all(b"\n").await.unwrap();
            let _ = tokio::time::timeout(Duration::from_secs(5), async {
                let read = screen.read(&mut part).await.unwrap();
                assert_ne!(read, 0, "the console went away: {shown}");
                shown.push_str(&String::from_utf8_lossy(&part[..read]));
            })
            .await;
        }
    };
    tokio::time::timeout(ANSWERS, asked).await.expect("the guest answers on its console");
    keys.write_all(b"\x1d").await.unwrap();
    assert!(console.wait().await.unwrap().success());

    // Who has no right to it learns nothing, and a machine that is off has no console.
    let port = format!("{}/providers/Microsoft.SerialConsole/serialPorts/0/connect", site.machine_path(0));
    let told = site.arm.post(&port, None).await.unwrap();
    let address = told["connectionString"].as_str().unwrap().replace("wss://", "https://");
    let refused = site.arm.http().get(&address).send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    site.post("Microsoft.Compute/virtualMachines/vm0/deallocate").await;
    let reply = site.arm.send(Method::POST, &port, None).await.unwrap();
    assert_eq!((reply.status, reply.error_code()), (StatusCode::CONFLICT, "VirtualMachineNotRunning"));
    wait_for("the machine is off", ANSWERS, async || (site.power(0).await == "PowerState/deallocated").then_some(()))
        .await;
}
