//! A machine that was used becomes an image, and a second machine that is made of it has what the first one wrote (GS-12,
//! GS-14, MD-8), on real guests.

use lazuli_testkit::{MachineSite, guests};
use serde_json::json;

#[tokio::test]
async fn a_machine_that_was_used_becomes_an_image() {
    let site = MachineSite::start("V2", 2).await;
    let source = site.upload(&guests::tiny().unwrap()).await;
    let of = |disk: &str| json!({"osDiskImage": {"source": {"id": disk}}});
    let first = site.version("Generalized", "1.0.0", of(&source)).await;

    let machine = site.machine(0, &first, Some("azureuser")).await;
    let mark = "head -c 300000 /dev/urandom | sudo tee /var/lib/mark | sha256sum";
    let written = site.run(0, "azureuser", mark).await;
    site.run(0, "azureuser", "sudo deprovision; sync").await;
    site.post("Microsoft.Compute/virtualMachines/vm0/deallocate").await;
    site.post("Microsoft.Compute/virtualMachines/vm0/generalize").await;
    let disk = machine["properties"]["storageProfile"]["osDisk"]["managedDisk"]["id"].as_str().unwrap();
    let second = site.version("Generalized", "2.0.0", of(disk)).await;

    site.machine(1, &second, Some("azureuser")).await;
    assert_eq!(site.run(1, "azureuser", "hostname").await, "vm1");
    assert_eq!(site.run(1, "azureuser", "sudo cat /var/lib/mark | sha256sum").await, written);
    let log = site.server.log();
    let captured: Vec<_> = log.lines().filter(|l| l.contains("changes were captured")).collect();
    eprintln!("{}", captured.join("\n"));
    assert_eq!(captured.len(), 1, "one disk was captured");
}
