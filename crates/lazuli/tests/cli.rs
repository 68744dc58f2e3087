//! The command line as its users and their scripts meet it.

use lazuli_testkit::TestServer;
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

fn lazuli(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lazuli")).args(arguments).env_remove("LAZULI_DATA_DIR").output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn credentials(dir: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(dir.join("credentials.json")).unwrap()).unwrap()
}

#[test]
fn help_is_kept() {
    for words in [&["--help"][..], &["serve", "--help"], &["env", "--help"], &["stop", "--help"], &["bench", "--help"]]
    {
        let out = lazuli(words);
        assert!(out.status.success());
        insta::assert_snapshot!(format!("help-{}", words[0].trim_start_matches('-')), text(&out.stdout));
    }
}

#[test]
fn errors_are_one_line_that_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    let out = lazuli(&["env", "--data-dir", path]);
    assert_eq!(out.status.code(), Some(1));
    assert!(out.stdout.is_empty(), "nothing to eval");
    let said = text(&out.stderr);
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("lazuli serve"), "{said}");

    let config = dir.path().join("lazuli.toml");
    std::fs::write(&config, "lisen = 1\n").unwrap();
    let out = lazuli(&["serve", "--data-dir", path, "--config", config.to_str().unwrap()]);
    assert_eq!(out.status.code(), Some(1));
    let said = text(&out.stderr);
    assert!(said.contains("lisen") && said.lines().count() == 1, "{said}");
}

#[tokio::test]
async fn one_server_a_folder_and_its_credentials_stay() {
    let mut server = TestServer::start_with(&["--no-host"]).await.unwrap();
    let path = server.dir().join("credentials.json");
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "the owner's secret");
    let first = credentials(&server.dir());
    for name in ["tenantId", "subscriptionId", "clientId", "clientSecret", "armEndpoint", "caFile", "proxyEndpoint"] {
        assert!(first[name].as_str().is_some_and(|v| !v.is_empty()), "{name}");
    }

    let second = server.command("serve").args(["--listen", "127.0.0.1:0", "--no-host"]).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(second.stdout.is_empty(), "no ready line");
    let said = text(&second.stderr);
    assert!(said.contains("already running") && said.contains("lazuli stop"), "{said}");

    let group = server.arm().await.unwrap().group_path("kept", "");
    let body = json!({"location": "eastus"});
    server.arm().await.unwrap().put(&group, &body).await.unwrap();
    server.kill().unwrap();
    server.restart().await.unwrap();
    assert_eq!(credentials(&server.dir()), first, "the same owner and the same port after kill -9");
    server.arm().await.unwrap().get(&group).await.unwrap();
    assert!(server.stop().await.unwrap().success(), "asked to end, it ends well");
    server.restart().await.unwrap();
    assert_eq!(credentials(&server.dir()), first);
}

#[tokio::test]
async fn an_interrupted_first_start_is_begun_again_with_the_same_owner() {
    let mut server = TestServer::start_with(&["--no-host"]).await.unwrap();
    let mut before = credentials(&server.dir());
    server.kill().unwrap();
    // As a start leaves it that was cut short after the credentials were written: no database, no endpoints.
    for name in ["lazuli.db", "lazuli.db-wal", "lazuli.db-shm"] {
        let _ = std::fs::remove_file(server.dir().join(name));
    }
    let entries = before.as_object_mut().unwrap();
    entries.retain(|name, _| name != "armEndpoint" && name != "proxyEndpoint");
    std::fs::write(server.dir().join("credentials.json"), before.to_string()).unwrap();
    server.restart().await.unwrap();
    let after = credentials(&server.dir());
    for name in ["tenantId", "subscriptionId", "clientId", "clientSecret"] {
        assert_eq!(after[name], before[name], "{name}");
    }
    server.arm().await.expect("the stored secret opens the new directory");
}

#[tokio::test]
async fn a_kept_port_that_others_use_is_given_up_a_named_one_is_not() {
    let mut server = TestServer::start_with(&["--no-host", "--no-proxy"]).await.unwrap();
    let first = server.credential("armEndpoint").to_owned();
    server.kill().unwrap();
    let address = first.trim_start_matches("https://").to_owned();
    let _taken = std::net::TcpListener::bind(&address).unwrap();
    let named = server.command("serve").args(["--listen", &address, "--no-host"]).output().unwrap();
    assert_eq!(named.status.code(), Some(1));
    assert!(text(&named.stderr).contains(&address), "{}", text(&named.stderr));
    server.restart().await.unwrap();
    assert_ne!(server.credential("armEndpoint"), first);
}

#[tokio::test]
async fn the_host_process_outlives_the_server_and_is_started_again_when_it_dies() {
    let mut server = TestServer::start().await.unwrap();
    let client = lazuli_vmm::HostClient::new(server.dir().join("host/host.sock"));
    let within = std::time::Duration::from_secs(60);
    let pid = async || client.info().await.ok().map(|info| info.pid);
    let first = lazuli_testkit::wait_for("a host process", within, pid).await;
    server.kill().unwrap();
    assert_eq!(pid().await, Some(first), "kill -9 of the server leaves it alone");
    server.restart().await.unwrap();
    assert_eq!(pid().await, Some(first), "the restarted server uses the one there is");
    assert!(Command::new("kill").arg("-9").arg(first.to_string()).status().unwrap().success());
    let other = async || pid().await.filter(|pid| *pid != first);
    lazuli_testkit::wait_for("another host process", within, other).await;
    assert!(server.stop().await.unwrap().success());
    assert!(pid().await.is_some(), "SIGTERM of the server leaves it alone");
}

#[test]
fn a_disk_is_measured() {
    let dir = tempfile::tempdir().unwrap();
    let (store, disk) = (dir.path().join("store"), dir.path().join("disk"));
    let bytes: Vec<u8> = (0..4 << 20).map(|i: u32| u8::try_from(i / 4096 % 251).unwrap()).collect();
    std::fs::write(&disk, &bytes).unwrap();
    let run = |what: &str| {
        let out = lazuli(&["bench", what, "--store", store.to_str().unwrap(), disk.to_str().unwrap()]);
        assert!(out.status.success(), "{}", text(&out.stderr));
        serde_json::from_slice::<Value>(&out.stdout).unwrap()
    };
    let first = run("ingest");
    assert!(first["ingest"]["ingested"]["newBytes"].as_u64().unwrap() > 0, "{first}");
    let again = run("ingest");
    assert_eq!(again["ingest"]["ingested"]["newBytes"], 0, "{again}");
    let read = run("read");
    assert_eq!(read["manifest"], first["ingest"]["ingested"]["manifest"]);
    assert!(read["sequential"]["bytes"].as_u64().unwrap() > 0, "{read}");

    std::fs::write(&disk, [&bytes[..4096], b"conectix", &[0; 504]].concat()).unwrap();
    let out = lazuli(&["bench", "ingest", "--store", store.to_str().unwrap(), disk.to_str().unwrap()]);
    assert!(!out.status.success(), "a damaged VHD is not taken for a raw disk");
}
