//! The host over its socket, with fake machines.

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lazuli_vmm::host::{ClientError, Host, HostClient, HostConfig, HostErrorCode};
use lazuli_vmm::hypervisor::{Behaviour, Fake};
use lazuli_vmm::spec::{DiskSpec, PowerState, ProvisioningState, VmSpec};
use support::{Files, TestHost, conformance, is_ready, machine, on_lan, short_dir, status_is};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;

const NOW: Duration = Duration::ZERO;

struct Fixture {
    dir: tempfile::TempDir,
    image: PathBuf,
    fake: Fake,
}

impl Fixture {
    fn new(behaviour: Behaviour) -> Self {
        let dir = short_dir();
        let image = dir.path().join("image.raw");
        std::fs::write(&image, vec![7; 1 << 20]).unwrap();
        Self { dir, image, fake: Fake::new(behaviour) }
    }

    fn host_dir(&self) -> PathBuf {
        self.dir.path().join("host")
    }

    async fn host(&self) -> TestHost {
        TestHost::start(&self.host_dir(), Arc::new(self.fake.clone())).await
    }

    fn machine(&self, number: u8) -> VmSpec {
        machine(self.dir.path(), &self.image, number)
    }
}

fn code(result: Result<impl std::fmt::Debug, ClientError>) -> HostErrorCode {
    result.expect_err("a failure").code().expect("an answer")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fake_does_what_every_hypervisor_must() {
    let fixture = Fixture::new(Behaviour::default());
    let host = fixture.host().await;
    conformance(&host.client, fixture.machine(4)).await;
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_provisioning_carries_the_guests_words() {
    let description = "no <user> & no \"key\"".to_owned();
    let fixture = Fixture::new(Behaviour::FailsProvisioning { boot: NOW, description: description.clone() });
    let host = fixture.host().await;
    let spec = fixture.machine(4);
    host.client.define_and_start(&spec).await.unwrap();
    let failed = ProvisioningState::Failed { description };
    status_is(&host.client, spec.id, "it has failed", |s| s.provisioning == failed).await;
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_specialized_machine_is_just_switched_on() {
    let fixture = Fixture::new(Behaviour::default());
    let host = fixture.host().await;
    let spec = VmSpec { provisioning: None, ..fixture.machine(4) };
    let status = host.client.define_and_start(&spec).await.unwrap();
    assert_eq!(status.provisioning, ProvisioningState::NotNeeded);
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_guests_do_by_themselves_is_noticed() {
    let fixture = Fixture::new(Behaviour::Silent);
    let host = fixture.host().await;
    let spec = fixture.machine(4);
    host.client.define_and_start(&spec).await.unwrap();
    fixture.fake.guest_resets(spec.id);
    fixture.fake.guest_shuts_down(spec.id);
    let off = status_is(&host.client, spec.id, "it is off", |s| s.power == PowerState::Stopped).await;
    assert_eq!(off.error, None);

    host.client.start(spec.id).await.unwrap();
    fixture.fake.crash(spec.id);
    let dead = status_is(&host.client, spec.id, "it is dead", |s| s.power == PowerState::Crashed).await;
    assert_eq!(dead.error.as_deref(), Some("the fake machine was told to crash"));

    let alive = host.client.start(spec.id).await.unwrap();
    assert_eq!((alive.power, alive.error), (PowerState::Running, None));
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_without_space_says_so_until_it_goes_on() {
    let fixture = Fixture::new(Behaviour::Silent);
    let host = fixture.host().await;
    let spec = fixture.machine(4);
    host.client.define_and_start(&spec).await.unwrap();
    fixture.fake.stall(spec.id, Some("no space"));
    let stalled = status_is(&host.client, spec.id, "it stands still", |s| s.error.is_some()).await;
    assert_eq!((stalled.power, stalled.error.as_deref()), (PowerState::Running, Some("no space")));
    fixture.fake.stall(spec.id, None);
    status_is(&host.client, spec.id, "it goes on", |s| s.error.is_none()).await;
    host.stop().await;
}

/// The host runs, and machines that are on no LAN with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_machine_whose_lan_cannot_be_reached_says_what_is_missing() {
    let fixture = Fixture::new(Behaviour::Silent);
    let mut spec = fixture.machine(4);
    let bridge = on_lan(&mut spec, "lz-no-bridge");
    let host = TestHost::on_lans(&fixture.host_dir(), Arc::new(fixture.fake.clone()), vec![bridge]).await;
    let error = host.client.define_and_start(&spec).await.unwrap_err();
    assert_eq!(error.code(), Some(HostErrorCode::Network));
    assert!(error.to_string().contains("ip link add lz-no-bridge type bridge"), "{error}");
    let status = host.client.status(spec.id).await.unwrap();
    assert_eq!(status.power, PowerState::Crashed);
    assert!(status.error.unwrap().contains("cannot reach its LAN"));
    host.client.define_and_start(&fixture.machine(5)).await.expect("another one starts");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deaf_guest_is_switched_off_when_somebody_insists() {
    let fixture = Fixture::new(Behaviour::Silent);
    let host = fixture.host().await;
    let spec = fixture.machine(4);
    host.client.define_and_start(&spec).await.unwrap();
    fixture.fake.ignore_power_button(spec.id);
    let client = host.client.clone();
    let gentle = tokio::spawn(async move { client.power_off(spec.id, false).await });
    status_is(&host.client, spec.id, "it is being stopped", |s| s.power == PowerState::Stopping).await;
    assert!(fixture.fake.is_running(spec.id));
    assert_eq!(host.client.power_off(spec.id, true).await.unwrap().power, PowerState::Stopped);
    assert_eq!(gentle.await.unwrap().unwrap().power, PowerState::Stopped);
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deaf_guest_is_switched_off_when_its_time_is_up() {
    let fixture = Fixture::new(Behaviour::Silent);
    let mut config = HostConfig::new(fixture.host_dir(), Arc::new(Files), Arc::new(fixture.fake.clone()));
    config.shutdown_time = Duration::from_millis(50);
    let stop = CancellationToken::new();
    let host = tokio::spawn(Host::run(config, stop.clone()));
    let client = HostClient::new(HostConfig::socket(&fixture.host_dir()));
    support::answering(&client).await;
    let spec = fixture.machine(4);
    client.define_and_start(&spec).await.unwrap();
    fixture.fake.ignore_power_button(spec.id);
    assert_eq!(client.power_off(spec.id, false).await.unwrap().power, PowerState::Stopped);
    assert!(!fixture.fake.is_running(spec.id));
    stop.cancel();
    host.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_host_goes_on_where_the_last_one_ended() {
    let fixture = Fixture::new(Behaviour::Silent);
    let host = fixture.host().await;
    let (ready, waiting, off, gone) = (fixture.machine(4), fixture.machine(5), fixture.machine(6), fixture.machine(7));
    fixture.fake.behave(&ready.name, Behaviour::default());
    for spec in [&ready, &waiting, &off, &gone] {
        host.client.define_and_start(spec).await.unwrap();
    }
    status_is(&host.client, ready.id, "it is ready", is_ready).await;
    host.client.power_off(off.id, false).await.unwrap();
    host.stop().await;
    fixture.fake.crash(gone.id);

    let host = fixture.host().await;
    let status = async |spec: &VmSpec| host.client.status(spec.id).await.unwrap();
    assert_eq!(host.client.list().await.unwrap().len(), 4);
    assert_eq!(status(&ready).await.power, PowerState::Running);
    assert!(is_ready(&status(&ready).await), "guests report ready only once");
    assert_eq!(status(&waiting).await.power, PowerState::Running);
    assert_eq!(status(&waiting).await.provisioning, ProvisioningState::Waiting);
    assert_eq!(status(&off).await.power, PowerState::Stopped);
    assert_eq!(status(&gone).await.power, PowerState::Crashed);
    // What is adopted is still under control, and its image is served again.
    fixture.fake.guest_shuts_down(waiting.id);
    status_is(&host.client, waiting.id, "it is off", |s| s.power == PowerState::Stopped).await;
    assert_eq!(host.client.start(waiting.id).await.unwrap().power, PowerState::Running);
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_off_that_a_dying_host_began_is_finished_by_the_next() {
    let fixture = Fixture::new(Behaviour::Silent);
    let host = fixture.host().await;
    let spec = fixture.machine(4);
    host.client.define_and_start(&spec).await.unwrap();
    host.stop().await;
    let state = fixture.host_dir().join("vms").join(spec.id.to_string()).join("state.json");
    let text = std::fs::read_to_string(&state).unwrap();
    assert!(text.contains("\"wanted_on\": true"));
    std::fs::write(&state, text.replace("\"wanted_on\": true", "\"wanted_on\": false")).unwrap();

    let host = fixture.host().await;
    status_is(&host.client, spec.id, "it is off", |s| s.power == PowerState::Stopped).await;
    assert!(!fixture.fake.is_running(spec.id));
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused_and_leaves_nothing() {
    let fixture = Fixture::new(Behaviour::default());
    let host = fixture.host().await;
    let client = &host.client;
    let good = fixture.machine(4);

    let too_small = DiskSpec { size_bytes: 512, ..good.os_disk.clone() };
    assert_eq!(
        code(client.define_and_start(&VmSpec { os_disk: too_small, ..good.clone() }).await),
        HostErrorCode::Invalid
    );
    assert_eq!(code(client.define_and_start(&VmSpec { cpus: 0, ..good.clone() }).await), HostErrorCode::Invalid);
    let mut no_image = good.clone();
    no_image.os_disk.base.as_mut().unwrap().source = "/nonexistent".into();
    assert_eq!(code(client.define_and_start(&no_image).await), HostErrorCode::Storage);
    assert_eq!(code(client.status(good.id).await), HostErrorCode::NotFound);
    assert_eq!(std::fs::read_dir(fixture.host_dir().join("vms")).unwrap().count(), 0);

    client.define_and_start(&good).await.unwrap();
    let mut thief = fixture.machine(5);
    thief.os_disk.overlay = good.os_disk.overlay.clone();
    assert_eq!(code(client.define_and_start(&thief).await), HostErrorCode::Conflict);
    let mut moved = good.nics.clone();
    moved[0].address = "10.0.0.77".parse().unwrap();
    assert_eq!(code(client.update_network(good.id, &moved).await), HostErrorCode::Conflict);

    assert_eq!(client.info().await.unwrap().room_mib, None);
    fixture.fake.limit_memory(300);
    assert_eq!(client.info().await.unwrap().room_mib, Some(44), "one machine of 256 MiB runs");
    let large = fixture.machine(6);
    let error = client.define_and_start(&large).await.unwrap_err();
    assert_eq!(error.code(), Some(HostErrorCode::NotEnoughMemory));
    assert_eq!(error.to_string(), "the machine needs 256 MiB of memory, this host has 44 MiB free");
    assert_eq!(client.status(large.id).await.unwrap().power, PowerState::Stopped);

    let broken = fixture.machine(7);
    fixture.fake.limit_memory(3000);
    fixture.fake.behave(&broken.name, Behaviour::DoesNotStart { reason: "no firmware".into() });
    assert_eq!(code(client.define_and_start(&broken).await), HostErrorCode::Hypervisor);
    let status = client.status(broken.id).await.unwrap();
    assert_eq!(
        (status.power, status.error.as_deref()),
        (PowerState::Crashed, Some("the machine did not start: no firmware"))
    );
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn network_rules_change_while_a_machine_runs() {
    let fixture = Fixture::new(Behaviour::Silent);
    let host = fixture.host().await;
    let spec = fixture.machine(4);
    host.client.define_and_start(&spec).await.unwrap();
    let mut nics = spec.nics.clone();
    nics[0].outbound = true;
    host.client.update_network(spec.id, &nics).await.unwrap();
    host.stop().await;
    let host = fixture.host().await;
    let changed = VmSpec { nics, ..spec };
    host.client.define_and_start(&changed).await.expect("the changed definition is the one that is kept");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn data_disks_blank_and_from_images_are_made() {
    let fixture = Fixture::new(Behaviour::Silent);
    let host = fixture.host().await;
    let mut spec = fixture.machine(4);
    let disk = |lun, base| DiskSpec {
        lun: Some(lun),
        overlay: fixture.dir.path().join(format!("disks/lun{lun}.qcow2")),
        size_bytes: 4 << 20,
        base,
        read_only: false,
    };
    spec.data_disks = vec![disk(0, None), disk(5, spec.os_disk.base.clone())];
    let status = host.client.define_and_start(&spec).await.unwrap();
    assert_eq!(status.nbd.image_bytes, 2 << 20);
    assert!(spec.disks().all(|d| d.overlay.exists()));
    let remove = [spec.data_disks[0].overlay.clone()];
    host.client.delete(spec.id, &remove).await.unwrap();
    assert!(!spec.data_disks[0].overlay.exists());
    assert!(spec.os_disk.overlay.exists() && spec.data_disks[1].overlay.exists(), "only what was asked for is removed");
    host.stop().await;
}

/// The engine captures a stopped machine's disks so.
#[tokio::test(flavor = "multi_thread")]
async fn the_disks_of_a_stopped_machine_can_be_read() {
    let fixture = Fixture::new(Behaviour::Silent);
    let host = fixture.host().await;
    let spec = fixture.machine(4);
    host.client.define_and_start(&spec).await.unwrap();
    host.client.power_off(spec.id, false).await.unwrap();
    let copy = fixture.dir.path().join("copy.raw");
    let convert = tokio::process::Command::new("qemu-img")
        .args(["convert", "-f", "qcow2", "-O", "raw"])
        .args([&spec.os_disk.overlay, &copy])
        .output();
    let output = convert.await.expect("qemu-img is missing: install the package qemu-utils");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(std::fs::read(copy).unwrap() == std::fs::read(&fixture.image).unwrap());
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_one_host_and_it_is_private() {
    let fixture = Fixture::new(Behaviour::Silent);
    let host = fixture.host().await;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&HostConfig::socket(&fixture.host_dir())), 0o600);
    assert_eq!(mode(&fixture.host_dir()), 0o700);
    assert_eq!(host.client.info().await.unwrap().pid, std::process::id());
    let second = HostConfig::new(fixture.host_dir(), Arc::new(Files), Arc::new(fixture.fake.clone()));
    let error = Host::run(second, CancellationToken::new()).await.unwrap_err();
    assert!(error.to_string().starts_with("a host process is already running"), "{error}");
    host.client.info().await.expect("the first one is not disturbed");
    host.stop().await;
}

#[tokio::test]
async fn a_host_that_is_not_there_is_unreachable() {
    let error = HostClient::new("/nonexistent/host.sock").info().await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }));
    assert!(!error.is_permanent());
}

#[tokio::test]
async fn a_path_too_long_for_sockets_is_refused_at_once() {
    let dir = short_dir();
    let long = dir.path().join("x".repeat(80));
    let config = HostConfig::new(long, Arc::new(Files), Arc::new(Fake::default()));
    let error = Host::run(config, CancellationToken::new()).await.unwrap_err();
    assert!(error.to_string().contains("choose a data folder with a shorter path"), "{error}");
}

/// Copies of disks are of a running machine, are read at once, and never outlive the host that made them.
#[tokio::test(flavor = "multi_thread")]
async fn captures_are_handed_over_and_never_left_behind() {
    let fixture = Fixture::new(Behaviour::default());
    let host = fixture.host().await;
    let spec = fixture.machine(4);
    host.client.define_and_start(&spec).await.unwrap();
    let captured = host.client.capture(spec.id, &[None]).await.unwrap();
    let disk = lazuli_disks::Qcow2::open(&captured.files[0]).unwrap();
    assert_eq!(lazuli_disks::ChangedSource::size(&disk), 1 << 20);
    host.client.discard(spec.id, captured.id).await.unwrap();
    host.client.discard(spec.id, captured.id).await.unwrap();
    assert!(!captured.files[0].exists());
    assert_eq!(code(host.client.capture(spec.id, &[Some(3)]).await), HostErrorCode::Invalid);

    let left = host.client.capture(spec.id, &[None]).await.unwrap();
    host.stop().await;
    assert!(left.files[0].exists());
    let host = fixture.host().await;
    assert!(!left.files[0].exists(), "the next host removes it");
    host.client.power_off(spec.id, true).await.unwrap();
    assert_eq!(code(host.client.capture(spec.id, &[None]).await), HostErrorCode::Conflict);
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn links_are_refused_truly() {
    let fixture = Fixture::new(Behaviour::Silent);
    let host = fixture.host().await;
    let spec = fixture.machine(4);
    assert_eq!(code(host.client.connect(spec.id, 22).await.map(drop)), HostErrorCode::NotFound);
    host.client.define_and_start(&spec).await.unwrap();
    host.client.power_off(spec.id, true).await.unwrap();
    assert_eq!(code(host.client.connect(spec.id, 22).await.map(drop)), HostErrorCode::Conflict);
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_is_redefined_as_far_as_its_power_allows() {
    let fixture = Fixture::new(Behaviour::default());
    let host = fixture.host().await;
    let mut spec = fixture.machine(4);
    host.client.define_and_start(&spec).await.unwrap();
    let more = DiskSpec { lun: Some(5), overlay: fixture.dir.path().join("disks/more.qcow2"), ..spec.os_disk.clone() };
    spec.data_disks = vec![more.clone()];
    host.client.redefine(&spec).await.unwrap();
    host.client.redefine(&spec).await.unwrap();
    assert_eq!(fixture.fake.disks(spec.id), ["lun5", "os"]);
    let bigger = VmSpec { cpus: 4, ..spec.clone() };
    assert_eq!(code(host.client.redefine(&bigger).await), HostErrorCode::Conflict);
    let other = DiskSpec { overlay: fixture.dir.path().join("disks/other.qcow2"), ..more.clone() };
    let replaced = VmSpec { data_disks: vec![other], ..spec.clone() };
    assert_eq!(code(host.client.redefine(&replaced).await), HostErrorCode::Conflict);
    // A disk of another machine, here or there.
    let mut second = fixture.machine(5);
    host.client.define_and_start(&second).await.unwrap();
    second.data_disks = vec![more];
    assert_eq!(code(host.client.redefine(&second).await), HostErrorCode::Conflict);
    spec.data_disks.clear();
    host.client.redefine(&spec).await.unwrap();
    assert_eq!(fixture.fake.disks(spec.id), ["os"]);
    host.client.redefine(&second).await.unwrap();
    assert_eq!(fixture.fake.disks(second.id), ["lun5", "os"]);

    host.client.power_off(spec.id, false).await.unwrap();
    spec.cpus = 4;
    host.client.redefine(&spec).await.unwrap();
    assert_eq!(host.client.start(spec.id).await.unwrap().power, PowerState::Running);
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_serial_console_has_one_user_the_newest() {
    let fixture = Fixture::new(Behaviour::default());
    let host = fixture.host().await;
    let spec = fixture.machine(4);
    host.client.define_and_start(&spec).await.unwrap();
    let greeting = b"fake console\r\n";
    let mut first = host.client.serial(spec.id).await.unwrap();
    let mut heard = vec![0; greeting.len()];
    first.read_exact(&mut heard).await.unwrap();
    assert_eq!(heard, greeting);
    first.write_all(b"hello").await.unwrap();
    let mut heard = [0; 5];
    first.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"hello");

    let mut second = host.client.serial(spec.id).await.unwrap();
    assert_eq!(first.read(&mut heard).await.unwrap_or(0), 0, "the first one was told to go");
    let mut heard = vec![0; greeting.len()];
    second.read_exact(&mut heard).await.unwrap();
    host.client.power_off(spec.id, true).await.unwrap();
    assert_eq!(code(host.client.serial(spec.id).await.map(drop)), HostErrorCode::Conflict);
    host.stop().await;
}
