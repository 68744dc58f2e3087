//! Real guests on workers: a machine is started elsewhere when its worker is dead, with what is durable of it, and the worker that
//! returns does not run it. On the way a data disk comes, goes and comes elsewhere, and the guest acts as its machine's identity.

use lazuli_testkit::postgres::Postgres;
use lazuli_testkit::{MachineSite, TestServer, guests, wait_for};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const VM0: &str = "Microsoft.Compute/virtualMachines/vm0";
const ENDS: Duration = Duration::from_secs(420);
const TOKEN: &str = "wget -qO- --header 'Metadata: true' \
    'http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://management.azure.com/'";
/// The device of the data disk.
const DEVICE: &str =
    "dev=; for d in /sys/block/sd*; do [ -e $d/device/scsi_device/*:5 ] && dev=/dev/${d##*/}; done; [ -n \"$dev\" ]";

/// For the server and its workers alike: the database, and East US in a folder that all of them see.
fn config(folder: &Path) -> String {
    let database = Postgres::shared().database().unwrap();
    let zone = folder.join("eastus");
    let text = format!(
        "database = \"{database}\"\n[regions.eastus]\nzones = [\"{}\"]\n[host]\nmemory_mib = 0\n\
         [fleet]\nlease_seconds = 10\ngive_up_seconds = 20\n",
        zone.display()
    );
    let path = folder.join("lazuli.toml");
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

fn guests_of(server: &TestServer) -> usize {
    server.processes().iter().filter(|(_, line)| line.contains("qemu-system")).count()
}

/// `kill -9` of the host process; its guests run on.
fn kill_host(server: &TestServer) {
    let hosts = server.processes().into_iter().filter(|(_, line)| line.contains(" host --detach "));
    let [(pid, _)] = &hosts.collect::<Vec<_>>()[..] else { panic!("{:?}", server.processes()) };
    assert!(Command::new("kill").arg("-9").arg(pid.to_string()).status().unwrap().success());
}

/// Attaches disk `data` at LUN 5, or detaches it.
async fn data_disk(site: &MachineSite, list: &str) {
    let disk = json!({"diskId": site.path("Microsoft.Compute/disks/data"), "lun": 5});
    let path = format!("{}/attachDetachDataDisks", site.machine_path(0));
    let done = site.arm.post(&path, Some(&json!({list: [disk]}))).await;
    done.unwrap_or_else(|e| panic!("{list}: {e:#}"));
}

/// The server believes in what the worker signed.
async fn acts_as_its_identity(site: &MachineSite) {
    let token: Value = serde_json::from_str(&site.run(0, "azureuser", TOKEN).await).unwrap();
    let url = format!("{}/subscriptions?api-version=2022-12-01", site.server.credential("armEndpoint"));
    let seen = site.arm.http().get(url).bearer_auth(token["access_token"].as_str().unwrap()).send().await.unwrap();
    assert!(seen.status().is_success(), "{}", seen.status());
}

async fn status(site: &MachineSite, code: &str) -> Option<Value> {
    let view = site.arm.get(&format!("{}/instanceView", site.machine_path(0))).await.unwrap();
    view["statuses"].as_array().unwrap().iter().find(|s| s["code"] == code).cloned()
}

#[tokio::test]
async fn a_machine_outlives_its_worker() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let server = TestServer::start_with(&["--config", &config]).await.unwrap();
    let site = MachineSite::start_on(server, "V1", 1).await;
    let source = site.upload(&guests::tiny().unwrap()).await;
    let image = site.version("Generalized", "1.0.0", json!({"osDiskImage": {"source": {"id": source}}})).await;
    let worker = async |name: &str| {
        let arguments = ["--config", &config, "--region", "eastus", "--name", name, "--memory-mib", "2048"];
        site.server.worker(&arguments).await.unwrap()
    };

    let mut b = worker("b").await;
    let mut body = site.machine_body(0, &image, Some("azureuser"));
    body["identity"] = json!({"type": "SystemAssigned"});
    site.put(VM0, body).await;
    assert_eq!(site.run(0, "azureuser", "hostname").await, "vm0");
    assert_eq!((guests_of(&b), guests_of(&site.server)), (1, 0));
    acts_as_its_identity(&site).await;
    let create = json!({"creationData": {"createOption": "Empty"}, "diskSizeGB": 1});
    site.put("Microsoft.Compute/disks/data", json!({ "properties": create })).await;
    data_disk(&site, "dataDisksToAttach").await;
    site.run(0, "azureuser", &format!("{DEVICE} && echo written | sudo tee $dev && sync")).await;
    data_disk(&site, "dataDisksToDetach").await;
    // What was written before a deallocation is durable, what comes after is not.
    site.run(0, "azureuser", "echo durable > mark; sync").await;
    site.post(&format!("{VM0}/deallocate")).await;
    assert_eq!(guests_of(&b), 0);
    site.post(&format!("{VM0}/start")).await;
    site.run(0, "azureuser", "test -e mark && echo lost > later; sync").await;

    // Worker and host process die; the guest runs on unattended.
    let a = worker("a").await;
    b.kill().unwrap();
    kill_host(&b);
    assert_eq!(guests_of(&b), 1);
    wait_for("the machine is shown as unknown", ENDS, async || status(&site, "PowerState/unknown").await).await;
    let refused = site.arm.post(&format!("{}/start", site.machine_path(0)), None).await.unwrap_err();
    assert!(format!("{refused:#}").contains("worker 'b'"), "{refused:#}");
    let given_up = async || site.arm.post(&format!("{}/deallocate", site.machine_path(0)), None).await.ok();
    wait_for("the machine may be given up", ENDS, given_up).await;
    assert_eq!(site.power(0).await, "PowerState/deallocated");
    let lost = status(&site, "DiskState/rolledBack").await.unwrap();
    assert!(lost["message"].as_str().unwrap().contains("'b'"), "{lost}");

    site.post(&format!("{VM0}/start")).await;
    assert_eq!(guests_of(&a), 1);
    assert_eq!(site.run(0, "azureuser", "cat mark; test -e later || echo gone").await, "durable\ngone");

    data_disk(&site, "dataDisksToAttach").await;
    assert_eq!(site.run(0, "azureuser", &format!("{DEVICE} && sudo head -c 7 $dev")).await, "written");
    acts_as_its_identity(&site).await;

    b.restart().await.unwrap();
    assert_eq!((guests_of(&b), guests_of(&a)), (0, 1), "who returns does not run it");
    assert_eq!(site.run(0, "azureuser", "cat mark").await, "durable");
    site.delete(VM0).await;
    assert_eq!(guests_of(&a), 0);
}
