//! Clients that others wrote, against our server; a server that others wrote, against our client.

mod common;

use std::process::Output;
use std::sync::atomic::Ordering;

use common::{MemDisk, serve};
use lazuli_nbd::Client;
use tokio::process::Command;

async fn run(program: &str, package: &str, args: &[&str]) -> Output {
    Command::new(program)
        .args(args)
        .kill_on_drop(true)
        .output()
        .await
        .unwrap_or_else(|e| panic!("cannot run {program} ({e}); get it with: apt-get install {package}"))
}

async fn succeed(program: &str, package: &str, args: &[&str]) -> String {
    let output = run(program, package, args).await;
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {args:?}: {}\n{stdout}{stderr}", output.status);
    stdout.into_owned()
}

#[tokio::test]
async fn nbdinfo_sees_what_is_offered() {
    let served = serve(MemDisk::sample());
    let size = served.disk.bytes.len();
    for export in ["", "disk"] {
        let info = succeed("nbdinfo", "libnbd-bin", &["--json", &served.uri(export)]).await;
        for want in [
            "\"protocol\": \"newstyle-fixed\"",
            "\"structured\": true",
            "\"base:allocation\"",
            "\"is_read_only\": true",
            "\"can_multi_conn\": true",
            "\"can_df\": true",
            "\"can_cache\": true",
            "\"can_flush\": false",
            "\"can_trim\": false",
            "\"block_size_minimum\": 1,",
            "\"block_size_maximum\": 33554432",
            &format!("\"export-size\": {size},"),
        ] {
            assert!(info.contains(want), "{want} is missing in {info}");
        }
    }
    let list = succeed("nbdinfo", "libnbd-bin", &["--list", "--json", &served.uri("")]).await;
    assert!(list.contains("\"export-name\": \"disk\""), "{list}");
    let other = run("nbdinfo", "libnbd-bin", &["--size", &served.uri("other")]).await;
    assert!(!other.status.success());
}

#[tokio::test]
async fn nbdinfo_maps_the_holes() {
    let served = serve(MemDisk::sample());
    let map = succeed("nbdinfo", "libnbd-bin", &["--map", &served.uri("")]).await;
    let mut at = 0;
    for line in map.lines() {
        let fields: Vec<_> = line.split_whitespace().collect();
        let (offset, len): (usize, usize) = (fields[0].parse().unwrap(), fields[1].parse().unwrap());
        assert_eq!(offset, at, "{map}");
        let hole = fields[2] == "3";
        assert!((at..at + len).step_by(512).all(|at| served.disk.is_hole(at) == hole), "{line}");
        at += len;
    }
    assert_eq!(at, served.disk.bytes.len());
}

#[tokio::test]
async fn nbdcopy_copies_every_byte() {
    let served = serve(MemDisk::sample());
    let copy = served.path("copy.raw");
    // Several connections with many requests each.
    let uri = served.uri("disk");
    succeed("nbdcopy", "libnbd-bin", &["--connections=4", "--requests=64", "--request-size=65536", &uri, &copy]).await;
    assert!(std::fs::read(&copy).unwrap() == served.disk.bytes);
    assert!(served.counters.reads.load(Ordering::Relaxed) > 0);
    assert_eq!(served.counters.errors.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn qemu_reads_and_skips_holes() {
    let mut disk = MemDisk::sample();
    disk.bytes.truncate(3 << 20);
    let served = serve(disk);
    let (uri, copy, raw) = (served.uri(""), served.path("copy.qcow2"), served.path("disk.raw"));
    succeed("qemu-img", "qemu-utils", &["convert", "-f", "raw", "-O", "qcow2", &uri, &copy]).await;
    let read = served.counters.bytes.load(Ordering::Relaxed);
    assert!(read > 0 && read < served.disk.bytes.len() as u64, "{read} bytes read: holes must be skipped");

    std::fs::write(&raw, &served.disk.bytes).unwrap();
    succeed("qemu-img", "qemu-utils", &["compare", "-f", "raw", "-F", "raw", &uri, &raw]).await;
    succeed("qemu-img", "qemu-utils", &["compare", "-f", "qcow2", "-F", "raw", &copy, &raw]).await;

    // As a VM has it: an overlay over the export.
    let overlay = served.path("overlay.qcow2");
    succeed("qemu-img", "qemu-utils", &["create", "-q", "-f", "qcow2", "-F", "raw", "-b", &uri, &overlay]).await;
    succeed("qemu-io", "qemu-utils", &["-f", "qcow2", "-c", "write -P 7 1M 64k", &overlay]).await;
    let reread = succeed("qemu-io", "qemu-utils", &["-f", "qcow2", "-c", "read -P 7 1M 64k", &overlay]).await;
    assert!(!reread.contains("verification failed"), "{reread}");
    assert_eq!(served.counters.errors.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn qemu_reports_a_bad_block_and_goes_on() {
    let mut disk = MemDisk::sample();
    disk.bytes.truncate(3 << 20);
    disk.bad = Some(1 << 20);
    let served = serve(disk);
    let commands = ["-r", "-f", "raw", "-c", "read 1M 4k", "-c", "read 2M 4k", &served.uri("")];
    let output = run("qemu-io", "qemu-utils", &commands).await;
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("Input/output error") && text.contains("read 4096/4096 bytes at offset 2097152"), "{text}");
    assert_eq!(served.counters.errors.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn our_client_reads_from_nbdkit() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, raw) = (dir.path().join("kit.sock"), dir.path().join("disk.raw"));
    let bytes = MemDisk::sample().bytes;
    std::fs::write(&raw, &bytes).unwrap();
    let (socket_arg, raw_arg) = (socket.to_str().unwrap(), raw.to_str().unwrap());
    // --run starts the command once the socket listens; `cat` then keeps the server up as long as its input is open.
    let mut kit = Command::new("nbdkit")
        .args(["-U", socket_arg, "-r", "file", raw_arg, "--run", "echo ready; cat"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|e| panic!("cannot run nbdkit ({e}); get it with: apt-get install nbdkit"));
    let mut ready = tokio::io::BufReader::new(kit.stdout.take().unwrap());
    let mut line = String::new();
    tokio::io::AsyncBufReadExt::read_line(&mut ready, &mut line).await.unwrap();
    assert_eq!(line, "ready\n");

    let mut client = Client::connect_unix(&socket, "").await.unwrap();
    assert_eq!(client.size(), bytes.len() as u64);
    let mut all = vec![1; bytes.len()];
    client.read_at(0, &mut all).await.unwrap();
    assert!(all == bytes);
    assert!(!client.block_status(0, client.size()).await.unwrap().is_empty());
    client.disconnect().await.unwrap();
    drop(kit.stdin.take());
    kit.wait().await.unwrap();
}
