//! What a guest's own agent does for its host, on a real Debian: file systems frozen for a capture, and commands.

mod support;

use std::sync::Arc;
use std::time::Duration;

use lazuli_vmm::host::HostErrorCode;
use lazuli_vmm::hypervisor::{Consistency, Qemu, QemuConfig};
use support::{TestHost, debian_guest, is_ready, machine, short_dir, status_is, tiny_guest, until};

const TIME: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn vm_agent_freezes_for_a_capture_and_runs_commands() {
    let dir = short_dir();
    let host_dir = dir.path().join("host");
    let qemu = Arc::new(Qemu::find(QemuConfig::default(), &host_dir).await.expect("QEMU"));
    let host = TestHost::start(&host_dir, qemu).await;
    let mut spec = machine(dir.path(), &debian_guest(), 7);
    spec.memory_mib = 1024;
    spec.cpus = 2;
    let client = host.client.clone();
    client.define_and_start(&spec).await.expect("it starts");
    status_is(&client, spec.id, "it is ready", is_ready).await;
    let shell = async |input: &str| {
        let arguments = ["-s", "--", "a b", "c"].map(str::to_owned).to_vec();
        client.run_shell(spec.id, arguments, input.to_owned(), TIME).await
    };
    let ended = until("the agent answers", async || shell("echo \"$1|$2\"; echo oops >&2; exit 3").await.ok()).await;
    assert_eq!((ended.exit_code, ended.stdout.as_str(), ended.stderr.as_str()), (Some(3), "a b|c\n", "oops\n"));

    // A writer that never pauses; the copy shows a file system at rest, and the writer goes on.
    shell("nohup sh -c 'while :; do date +%s%N >> /var/lib/writes; sync; done' >/dev/null 2>&1 &")
        .await
        .expect("it writes");
    let captured = client.capture(spec.id, &[None]).await.expect("a capture");
    assert_eq!(captured.consistency, Consistency::FileSystem);
    let count =
        async || shell("wc -l < /var/lib/writes").await.expect("a count").stdout.trim().parse::<u64>().unwrap_or(0);
    let before = count().await;
    until("the guest writes again", async || (count().await > before).then_some(())).await;
    client.discard(spec.id, captured.id).await.expect("it is removed");

    client.delete(spec.id, std::slice::from_ref(&spec.os_disk.overlay)).await.expect("it is deleted");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_guest_without_agent_is_captured_as_by_a_power_cut() {
    let dir = short_dir();
    let host_dir = dir.path().join("host");
    let qemu = Arc::new(Qemu::find(QemuConfig::default(), &host_dir).await.expect("QEMU"));
    let host = TestHost::start(&host_dir, qemu).await;
    let spec = machine(dir.path(), &tiny_guest(), 8);
    host.client.define_and_start(&spec).await.expect("it starts");
    status_is(&host.client, spec.id, "it is ready", is_ready).await;
    let captured = host.client.capture(spec.id, &[None]).await.expect("a capture");
    assert_eq!(captured.consistency, Consistency::Crash);
    let none = host.client.run_shell(spec.id, vec![], "true".into(), TIME).await.expect_err("no agent");
    assert_eq!(none.code(), Some(HostErrorCode::NoAgent));
    host.client.delete(spec.id, std::slice::from_ref(&spec.os_disk.overlay)).await.expect("it is deleted");
    host.stop().await;
}
