//! A host for tests, machines to run on it, and what every hypervisor must do ([`conformance`]).

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use lazuli_nbd::{BlockSource, Extent};
use lazuli_vmm::host::{BaseImageError, BaseImages, ClientError, Host, HostClient, HostConfig, HostError};
use lazuli_vmm::hypervisor::Hypervisor;
use lazuli_vmm::net::{Bridge, Bridges, PortRule, Protocol, PublicAddress};
use lazuli_vmm::spec::{
    BaseImage, DiskSpec, Generation, ImageReference, MacAddress, NicSpec, PowerState, Provisioning, ProvisioningState,
    Security, SshKey, VmSpec, VmStatus,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How long anything may take on a machine that is busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// Serves files as images: the source is the path. Of a fixed VHD the footer is left out.
pub struct Files;

#[async_trait]
impl BaseImages for Files {
    async fn open(&self, source: &str) -> Result<Arc<dyn BlockSource>, BaseImageError> {
        let file = File::open(source)?;
        Ok(Arc::new(RawDisk { size: image_size(Path::new(source))?, file }))
    }
}

pub fn image_size(path: &Path) -> std::io::Result<u64> {
    let len = std::fs::metadata(path)?.len();
    Ok(if path.extension().is_some_and(|e| e == "vhd") { len - 512 } else { len })
}

struct RawDisk {
    file: File,
    size: u64,
}

#[async_trait]
impl BlockSource for RawDisk {
    fn size(&self) -> u64 {
        self.size
    }

    async fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    async fn extents(&self, _offset: u64, len: u64) -> std::io::Result<Vec<Extent>> {
        Ok(vec![Extent { len, hole: false }])
    }
}

/// A host in this process.
pub struct TestHost {
    pub client: HostClient,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), HostError>>,
}

impl TestHost {
    pub async fn start(dir: &Path, hypervisor: Arc<dyn Hypervisor>) -> Self {
        Self::on_lans(dir, hypervisor, vec![]).await
    }

    pub async fn on_lans(dir: &Path, hypervisor: Arc<dyn Hypervisor>, bridges: Vec<Bridge>) -> Self {
        let bridges = Bridges::new(bridges).expect("bridges that make sense");
        let config = HostConfig { bridges, ..HostConfig::new(dir, Arc::new(Files), hypervisor) };
        let stop = CancellationToken::new();
        let task = tokio::spawn(Host::run(config, stop.clone()));
        let client = HostClient::new(HostConfig::socket(dir));
        answering(&client).await;
        Self { client, stop, task }
    }

    /// As when the process is told to end: machines stay.
    pub async fn stop(self) {
        self.stop.cancel();
        self.task.await.expect("the host does not panic").expect("the host ends well");
    }
}

/// Waits until a host answers.
pub async fn answering(client: &HostClient) {
    until("a host answers", async || client.info().await.ok()).await;
}

/// Waits for a condition.
pub async fn until<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(begun.elapsed() < PATIENCE, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits, by long polls, until the machine's status is as asked for.
pub async fn status_is(client: &HostClient, id: Uuid, what: &str, is: impl Fn(&VmStatus) -> bool) -> VmStatus {
    let begun = Instant::now();
    let mut status = client.status(id).await.expect("a status");
    while !is(&status) {
        assert!(begun.elapsed() < PATIENCE, "waited in vain until {what}; last seen: {status:#?}");
        let since = status.generation_counter;
        status = client.wait_change(id, since, Duration::from_secs(10)).await.expect("a status");
    }
    status
}

/// A folder whose path is short enough for sockets.
pub fn short_dir() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("lz").tempdir_in("/tmp").expect("a folder in /tmp")
}

/// A machine with one interface and one disk over `image`, whose files lie in `dir`. `number` tells machines apart.
pub fn machine(dir: &Path, image: &Path, number: u8) -> VmSpec {
    let size = image_size(image).expect("the image can be read");
    let name = format!("web{number:02}");
    VmSpec {
        id: Uuid::new_v4(),
        resource_id: format!("/subscriptions/s/resourceGroups/rg/providers/Microsoft.Compute/virtualMachines/{name}"),
        subscription_id: "s".into(),
        resource_group: "rg".into(),
        location: "eastus".into(),
        vm_size: "Standard_B1s".into(),
        zone: String::new(),
        tags: [("env".to_owned(), "test".to_owned())].into(),
        image: ImageReference::default(),
        cpus: 1,
        memory_mib: 256,
        generation: Generation::V1,
        trusted_launch: None,
        os_disk: DiskSpec {
            lun: None,
            overlay: dir.join(format!("disks/{name}.qcow2")),
            size_bytes: size,
            base: Some(BaseImage { source: image.to_str().expect("UTF-8").to_owned(), size_bytes: size }),
            read_only: false,
        },
        data_disks: Vec::new(),
        detached: Vec::new(),
        nics: vec![NicSpec {
            id: format!("nic-{name}"),
            vnet_id: "vnet".into(),
            network: String::new(),
            dns_suffix: "abc.bx.internal.cloudapp.net".into(),
            mac: MacAddress([0x00, 0x0d, 0x3a, 0, 0, number]),
            address: Ipv4Addr::new(10, 0, 0, number),
            prefix_len: 24,
            gateway: Ipv4Addr::new(10, 0, 0, 1),
            host_name: name.clone(),
            outbound: false,
            security: Security::default(),
            public: None,
        }],
        provisioning: Some(Provisioning {
            host_name: name.clone(),
            admin_user: "azureuser".into(),
            admin_password: None,
            disable_password: true,
            ssh_keys: Vec::new(),
            custom_data: None,
            provision_vm_agent: true,
            windows: None,
        }),
        user_data: None,
        applications: vec![],
        name,
    }
}

/// Puts the machine's interface into a network that is on the LAN of `tests/support/on-a-lan` by this bridge.
pub fn on_lan(spec: &mut VmSpec, bridge: &str) -> Bridge {
    let nic = &mut spec.nics[0];
    nic.network = "/subscriptions/s/resourceGroups/rg/providers/Microsoft.Network/virtualNetworks/lan".into();
    nic.mac = MacAddress([0x02, 0x0d, 0x3a, 0, 0, 4]);
    nic.address = Ipv4Addr::new(192, 168, 50, 132);
    nic.prefix_len = 25;
    nic.gateway = Ipv4Addr::new(192, 168, 50, 129);
    Bridge {
        network: nic.network.clone(),
        bridge: Some(bridge.to_owned()),
        tap: None,
        lan: "192.168.50.0/24".parse().expect("a range"),
        gateway: Some(Ipv4Addr::new(192, 168, 50, 1)),
        addresses: "192.168.50.128/25".parse().expect("a range"),
    }
}

/// Makes a key for ssh; where it is, and its public part.
pub fn ssh_key(dir: &Path) -> (PathBuf, String) {
    let key = dir.join("key");
    let made =
        std::process::Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status();
    assert!(made.expect("ssh-keygen is missing: install the package openssh-client").success());
    let public = std::fs::read_to_string(key.with_extension("pub")).expect("a public key");
    (key, public)
}

/// Gives the machine's interface an address of its own on the loopback with port 22 open.
pub fn with_ssh(spec: &mut VmSpec, address: Ipv4Addr, public_key: &str) {
    let ports = vec![PortRule { protocol: Protocol::Tcp, port: 22 }];
    spec.nics[0].public = Some(PublicAddress { address, ports });
    let provisioning = spec.provisioning.as_mut().expect("a generalized machine");
    let path = format!("/home/{}/.ssh/authorized_keys", provisioning.admin_user);
    provisioning.ssh_keys = vec![SshKey { path, key_data: public_key.to_owned() }];
}

pub fn is_ready(status: &VmStatus) -> bool {
    matches!(status.provisioning, ProvisioningState::Ready { .. })
}

/// What the engine relies on, of every hypervisor: the life of a machine from definition to deletion.
pub async fn conformance(client: &HostClient, spec: VmSpec) {
    let id = spec.id;
    let status = client.define_and_start(&spec).await.expect("it starts");
    assert_eq!((status.power, status.error.as_deref()), (PowerState::Running, None));
    assert!(spec.os_disk.overlay.exists(), "the overlay was made");
    let ready = status_is(client, id, "it is ready", is_ready).await;
    assert!(ready.nbd.reads > 0 && ready.nbd.bytes >= 512, "the image was read: {:?}", ready.nbd);
    assert_eq!(ready.nbd.image_bytes, spec.os_disk.size_bytes);
    assert!(!client.console(id, 1 << 16).await.expect("a console").is_empty());
    assert!(client.screenshot(id).await.expect("a screen").starts_with(b"\x89PNG"));

    // Asked again, nothing happens; asked otherwise, it is refused.
    let again = client.define_and_start(&spec).await.expect("the same definition is welcome");
    assert_eq!(again.generation_counter, ready.generation_counter);
    let other = VmSpec { cpus: spec.cpus + 1, ..spec.clone() };
    let refused = client.define_and_start(&other).await.expect_err("another definition");
    assert_eq!(refused.code(), Some(lazuli_vmm::host::HostErrorCode::Conflict));

    let off = client.power_off(id, false).await.expect("it obeys the power button");
    assert_eq!((off.power, off.error.as_deref()), (PowerState::Stopped, None));
    assert!(is_ready(&off), "what was reported stays");
    assert!(client.screenshot(id).await.is_err(), "a screen that is dark");
    let off = client.power_off(id, false).await.expect("a stopped machine stays so");
    assert_eq!(off.power, PowerState::Stopped);

    assert_eq!(client.start(id).await.expect("it starts again").power, PowerState::Running);
    let forced = client.power_off(id, true).await.expect("it is switched off");
    assert_eq!(forced.power, PowerState::Stopped);

    client.start(id).await.expect("it starts again");
    let stranger = spec.os_disk.overlay.with_extension("other");
    std::fs::write(&stranger, "x").expect("a file");
    let refused = client.delete(id, std::slice::from_ref(&stranger)).await.expect_err("not its disk");
    assert_eq!(refused.code(), Some(lazuli_vmm::host::HostErrorCode::Invalid));
    assert!(stranger.exists());
    client.delete(id, std::slice::from_ref(&spec.os_disk.overlay)).await.expect("it is deleted");
    client.delete(id, &[]).await.expect("deleted stays deleted");
    assert!(!spec.os_disk.overlay.exists());
    assert!(matches!(client.status(id).await, Err(ClientError::Refused { .. })));
    assert!(client.list().await.expect("a list").iter().all(|s| s.id != id));
}

/// The tiny guest's image: `LAZULI_GUEST_TINY`, or what `scripts/guest/tiny` makes (and caches).
pub fn tiny_guest() -> PathBuf {
    guest("tiny")
}

/// A whole Debian: `LAZULI_GUEST_DEBIAN`, or what `scripts/guest/debian` makes.
pub fn debian_guest() -> PathBuf {
    guest("debian")
}

/// A Debian that starts with secure boot: `LAZULI_GUEST_SIGNED`, or what `scripts/guest/signed` makes.
pub fn signed_guest() -> PathBuf {
    guest("signed")
}

fn guest(name: &str) -> PathBuf {
    let variable = format!("LAZULI_GUEST_{}", name.to_uppercase());
    if let Some(path) = std::env::var_os(&variable) {
        let path = PathBuf::from(path);
        assert!(path.exists(), "{variable} names {}, which does not exist", path.display());
        return path;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/guest").join(name);
    let output = std::process::Command::new(&script).output().unwrap_or_else(|e| {
        panic!("there is no guest '{name}': {} cannot be run ({e}); make one and set {variable}", script.display())
    });
    let said = String::from_utf8_lossy(&output.stdout);
    let path = PathBuf::from(said.lines().last().unwrap_or_default().trim());
    assert!(
        output.status.success() && path.exists(),
        "scripts/guest/{name} made no guest; run it by hand, or set {variable}:\n{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    path
}
