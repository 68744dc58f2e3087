//! The host process of another computer, through its door.

mod support;

use std::path::PathBuf;
use std::sync::Arc;

use lazuli_vmm::host::{
    ClientError, DiskFile, Door, FetchError, HostClient, HostConfig, HostErrorCode, WorkerLink, firmware,
};
use lazuli_vmm::hypervisor::{Behaviour, Fake};
use lazuli_vmm::spec::{DiskSpec, Generation, PowerState, TrustedLaunch, VmSpec};
use support::{TestHost, conformance, machine, short_dir};
use tokio::io::AsyncReadExt as _;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

struct Far {
    dir: tempfile::TempDir,
    image: PathBuf,
    fake: Fake,
    host: TestHost,
    link: WorkerLink,
    stop: CancellationToken,
    door: JoinHandle<()>,
}

impl Far {
    async fn start() -> Self {
        let dir = short_dir();
        let image = dir.path().join("image.raw");
        std::fs::write(&image, vec![7; 1 << 20]).unwrap();
        let fake = Fake::new(Behaviour::default());
        let host = TestHost::start(&dir.path().join("host"), Arc::new(fake.clone())).await;
        let door = Door::open("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let link = door.link(door.local_addr().unwrap().to_string());
        let stop = CancellationToken::new();
        let door = tokio::spawn(door.serve(HostConfig::socket(&dir.path().join("host")), stop.clone()));
        Self { dir, image, fake, host, link, stop, door }
    }

    fn client(&self) -> HostClient {
        HostClient::of_worker(self.link.clone())
    }

    async fn stop(self) {
        self.stop.cancel();
        self.door.await.unwrap();
        self.host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_computers_host_does_what_ones_own_does() {
    let far = Far::start().await;
    conformance(&far.client(), machine(far.dir.path(), &far.image, 4)).await;
    far.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_in_without_the_token_and_nobody_is_believed_without_the_certificate() {
    let far = Far::start().await;
    assert!(far.client().info().await.is_ok());
    let mut token = far.link.clone();
    token.token[31] ^= 1;
    let mut certificate = far.link.clone();
    let last = certificate.certificate.len() - 1;
    certificate.certificate[last] ^= 1;
    for link in [token, certificate] {
        let error = HostClient::of_worker(link).info().await.unwrap_err();
        assert!(matches!(&error, ClientError::Unreachable { host, .. } if *host == far.link.address), "{error:?}");
    }
    // Whoever shows nothing at all is told nothing.
    let mut silent = tokio::net::TcpStream::connect(&far.link.address).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut silent, b"GET / HTTP/1.1\r\nHost: host\r\n\r\n").await.unwrap();
    let mut told = Vec::new();
    let _ = silent.read_to_end(&mut told).await;
    assert!(!String::from_utf8_lossy(&told).contains("HTTP"), "{told:?}");
    let mut link = far.link.clone();
    far.stop().await;
    link.address = "127.0.0.1:1".into();
    assert!(matches!(HostClient::of_worker(link).info().await, Err(ClientError::Unreachable { .. })));
}

fn own_file(disk: &DiskSpec) -> DiskFile {
    DiskFile::Own { name: disk.overlay.file_name().unwrap().to_str().unwrap().to_owned() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_detached_disk_is_kept_until_it_was_taken() {
    let far = Far::start().await;
    let (client, mut spec) = (far.client(), machine(far.dir.path(), &far.image, 4));
    let more = DiskSpec { lun: Some(5), overlay: far.dir.path().join("disks/more.qcow2"), ..spec.os_disk.clone() };
    let here = short_dir();
    let to = here.path().join("more.qcow2");
    spec.data_disks = vec![more.clone()];
    client.define_and_start(&spec).await.unwrap();
    let refused = client.remove_detached(spec.id, std::slice::from_ref(&more.overlay)).await.unwrap_err();
    assert_eq!(refused.code(), Some(HostErrorCode::Conflict), "it is attached");

    spec.data_disks.clear();
    spec.detached = vec![more.overlay.clone()];
    client.redefine(&spec).await.unwrap();
    assert_eq!(far.fake.disks(spec.id), ["os"]);
    assert!(client.fetch(spec.id, &own_file(&more), &to).await.unwrap(), "though the machine runs");
    assert_eq!(std::fs::read(&to).unwrap(), std::fs::read(&more.overlay).unwrap());
    // Back again, as after a failure; then for good. What was removed is removed once.
    let back = VmSpec { data_disks: vec![more.clone()], detached: vec![], ..spec.clone() };
    client.redefine(&back).await.unwrap();
    assert_eq!(far.fake.disks(spec.id), ["lun5", "os"]);
    client.redefine(&spec).await.unwrap();
    let os_disk = DiskSpec { lun: None, ..more.clone() };
    let other = VmSpec { id: uuid::Uuid::new_v4(), os_disk, detached: vec![], ..spec.clone() };
    let taken = client.define_and_start(&other).await.unwrap_err();
    assert_eq!(taken.code(), Some(HostErrorCode::Conflict), "it is this machine's still");
    for _ in 0..2 {
        client.remove_detached(spec.id, std::slice::from_ref(&more.overlay)).await.unwrap();
        assert!(!more.overlay.exists() && spec.os_disk.overlay.exists());
    }
    far.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_tpm_keeps_is_fetched_and_put_while_its_machine_is_off() {
    let far = Far::start().await;
    let (client, mut spec) = (far.client(), machine(far.dir.path(), &far.image, 4));
    let state = far.dir.path().join("disks/web04.state");
    client.define(&spec).await.unwrap();
    assert_eq!(client.firmware(spec.id).await.unwrap(), None, "it has no TPM");
    client.delete(spec.id, &[]).await.unwrap();
    spec.generation = Generation::V2;
    spec.trusted_launch = Some(TrustedLaunch { secure_boot: true, vtpm: true, state: state.clone(), keys: None });

    let elsewhere = short_dir();
    std::fs::create_dir(elsewhere.path().join("tpm")).unwrap();
    std::fs::write(elsewhere.path().join("tpm/tpm2-00.permall"), "seed").unwrap();
    let packed = firmware::pack(elsewhere.path()).unwrap().unwrap();
    assert_eq!(client.define(&spec).await.unwrap().power, PowerState::Stopped);
    let strange = client.put_firmware(spec.id, b"strange").await.unwrap_err();
    assert_eq!(strange.code(), Some(HostErrorCode::Invalid));
    client.put_firmware(spec.id, &packed).await.unwrap();
    assert_eq!(std::fs::read_to_string(state.join("tpm/tpm2-00.permall")).unwrap(), "seed");
    client.define_and_start(&spec).await.unwrap();
    assert_eq!(client.firmware(spec.id).await.unwrap_err().code(), Some(HostErrorCode::Conflict));
    // As a server that asks once more.
    client.put_firmware(spec.id, &packed).await.unwrap();
    client.power_off(spec.id, true).await.unwrap();
    assert_eq!(client.firmware(spec.id).await.unwrap().unwrap(), packed);
    client.delete(spec.id, std::slice::from_ref(&spec.os_disk.overlay)).await.unwrap();
    assert!(state.is_dir(), "nobody said that it goes");
    client.define(&spec).await.unwrap();
    client.delete(spec.id, &[spec.os_disk.overlay.clone(), state.clone()]).await.unwrap();
    assert!(!state.exists());
    far.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_to_a_disk_is_fetched_while_nobody_writes_it() {
    let far = Far::start().await;
    let (client, spec) = (far.client(), machine(far.dir.path(), &far.image, 4));
    let here = short_dir();
    let to = here.path().join("os.qcow2");
    let own = own_file(&spec.os_disk);
    client.define_and_start(&spec).await.unwrap();
    let running = client.fetch(spec.id, &own, &to).await.unwrap_err();
    assert!(matches!(&running, FetchError::Host(e) if e.code() == Some(HostErrorCode::Conflict)), "{running:?}");
    let captured = client.capture(spec.id, &[None]).await.unwrap();
    assert!(client.fetch(spec.id, &DiskFile::Captured { lun: None, capture: captured.id }, &to).await.unwrap());
    assert_eq!(std::fs::read(&to).unwrap(), std::fs::read(&captured.files[0]).unwrap());

    client.power_off(spec.id, true).await.unwrap();
    assert!(!far.fake.is_running(spec.id));
    assert!(client.fetch(spec.id, &own, &to).await.unwrap());
    assert_eq!(std::fs::read(&to).unwrap(), std::fs::read(&spec.os_disk.overlay).unwrap());
    for strange in
        [DiskFile::Captured { lun: Some(9), capture: captured.id }, DiskFile::Own { name: "../../vms/vm.json".into() }]
    {
        let none = client.fetch(spec.id, &strange, &to).await.unwrap_err();
        assert!(matches!(&none, FetchError::Host(e) if e.code() == Some(HostErrorCode::Invalid)), "{none:?}");
    }
    let nowhere = client.fetch(spec.id, &own, &here.path().join("no/such")).await.unwrap_err();
    assert!(matches!(nowhere, FetchError::File(_)), "{nowhere:?}");
    std::fs::remove_file(&spec.os_disk.overlay).unwrap();
    assert!(!client.fetch(spec.id, &own, &to).await.unwrap(), "nothing was ever written");
    far.stop().await;
}
