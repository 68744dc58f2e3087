//! The command line as its users and their scripts meet it.

use lazuli_chunks::{Cache, Progress, Region, RegionConfig};
use lazuli_disks::RawFile;
use lazuli_testkit::{Arm, TestServer};
use reqwest::Method;
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

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

/// Tenants, clients and secrets are made beside a running server, which heeds them at once; a client of two tenants has the same
/// secret in both.
#[tokio::test]
async fn the_operator_makes_tenants_and_rotates_secrets() {
    let server = TestServer::start_with(&["--no-host"]).await.unwrap();
    let dir = server.dir();
    let admin = |words: &[&str]| {
        let out = lazuli(&[&["admin", "--data-dir", dir.to_str().unwrap()], words].concat());
        assert!(out.status.success(), "{words:?}: {}", text(&out.stderr));
        serde_json::from_slice::<Value>(&out.stdout).unwrap()
    };
    let first = credentials(&dir);
    let client = first["clientId"].as_str().unwrap();
    let tenant = admin(&["tenant", "create", "--name", "second"]);
    let tenant = tenant["tenantId"].as_str().unwrap();
    let mut there = first.clone();
    there["tenantId"] = json!(tenant);
    assert!(Arm::sign_in(&there).await.is_err(), "not known there yet");
    let guest = admin(&["client", "create", "--tenant", tenant, "--name", "guest", "--existing", client]);
    assert!(guest["clientSecret"].is_null() && guest["clientId"] == client);
    let subscription =
        admin(&["subscription", "create", "--tenant", tenant, "--name", "s2", "--owner", client])["subscriptionId"]
            .clone();
    there["subscriptionId"] = subscription.clone();
    let arm = Arm::sign_in(&there).await.unwrap();
    let group = json!({"location": "eastus"});
    let made = arm.send(Method::PUT, &arm.group_path("rg", ""), Some(&group)).await.unwrap();
    assert_eq!(made.status, 201, "{}", made.body);
    let home = Arm::sign_in(&first).await.unwrap();
    let refused = home.send(Method::GET, &arm.group_path("rg", ""), None).await.unwrap();
    assert_eq!((refused.status.as_u16(), refused.error_code()), (401, "InvalidAuthenticationTokenTenant"));

    let new = admin(&["client", "reset-secret", "--client", client]);
    assert_eq!(credentials(&dir)["clientSecret"], new["clientSecret"]);
    assert!(Arm::sign_in(&first).await.is_err(), "the old secret ended");
    there["clientSecret"] = new["clientSecret"].clone();
    Arm::sign_in(&there).await.unwrap();
    Arm::sign_in(&credentials(&dir)).await.unwrap();
    let more = admin(&["client", "reset-secret", "--client", client, "--keep"]);
    for secret in [&new, &more] {
        there["clientSecret"] = secret["clientSecret"].clone();
        Arm::sign_in(&there).await.unwrap();
    }
    assert!(!server.log().contains(new["clientSecret"].as_str().unwrap()));
    let out = lazuli(&["admin", "--data-dir", dir.to_str().unwrap(), "grant", "--client", "nobody", "--scope", "/x"]);
    assert_eq!(out.status.code(), Some(1));
    assert_eq!(text(&out.stderr).lines().count(), 1);
}

/// What every process of the machine shows to everybody, as far as it is of this server.
fn process_lists(dir: &Path) -> String {
    let mut shown = String::new();
    for process in std::fs::read_dir("/proc").unwrap().filter_map(Result::ok) {
        let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(dir.to_str().unwrap()) {
            shown.push_str(&format!("{line}\n"));
        }
    }
    shown
}

/// Whatever is sent that opens something, or might have: none of it is in the logs, nor in a list of processes.
#[tokio::test]
async fn secrets_are_neither_logged_nor_listed() {
    let server = TestServer::start().await.unwrap();
    let dir = server.dir();
    let credential = |name: &str| server.credential(name).to_owned();
    let (tenant, client, secret) = (credential("tenantId"), credential("clientId"), credential("clientSecret"));
    let arm = server.arm().await.unwrap();
    let base = credential("armEndpoint");
    let send = async |path: &str, body: &str| {
        let request = arm.http().post(format!("{base}{path}")).body(body.to_owned());
        request.send().await.unwrap().text().await.unwrap()
    };
    let token_path = format!("/{tenant}/oauth2/v2.0/token");
    let right =
        format!("grant_type=client_credentials&client_id={client}&client_secret={secret}&scope={base}/.default");
    let answer: Value = serde_json::from_str(&send(&token_path, &right).await).unwrap();
    let token = answer["access_token"].as_str().unwrap().to_owned();
    let az = "04b07795-8ddb-461a-bbee-02f9e1bf7b46";
    for body in [
        format!("grant_type=client_credentials&client_id={client}&client_secret=guessed-secret&scope={base}/.default"),
        format!("grant_type=password&client_id={az}&username=a@b&password=guessed-password&scope=openid"),
        format!(
            "grant_type=authorization_code&client_id={az}&code=guessed-code&redirect_uri=http://localhost&code_verifier=guessed-verifier"
        ),
        format!("grant_type=refresh_token&client_id={az}&refresh_token=guessed-refresh"),
        format!(
            "grant_type=client_credentials&client_id={client}&client_assertion=guessed-assertion&client_assertion_type=urn:ietf:params:oauth:client-assertion-type:jwt-bearer&scope={base}/.default"
        ),
    ] {
        assert!(send(&token_path, &body).await.contains("AADSTS"), "{body}");
    }
    send("/devicelogin", "code=GUESSEDCO&login=a@b&password=guessed-password").await;
    for (path, bearer) in [
        (format!("/subscriptions/{}?api-version=2022-12-01", credential("subscriptionId")), format!("{token}guessed")),
        ("/subscriptions?api-version=2022-12-01".to_owned(), token.clone()),
        ("/common/oauth2/external?code=guessed-code&state=guessed-state".to_owned(), "guessed-bearer".to_owned()),
        (
            "/account/container/blob?sv=2021-12-02&sr=b&sp=r&se=2999-01-01&sig=guessed-signature".to_owned(),
            String::new(),
        ),
    ] {
        let mut request = arm.http().get(format!("{base}{path}"));
        if !bearer.is_empty() {
            request = request.bearer_auth(&bearer);
        }
        request.send().await.unwrap();
    }
    let made = lazuli(&["admin", "--data-dir", dir.to_str().unwrap(), "client", "reset-secret", "--client", &client]);
    let new: Value = serde_json::from_slice(&made.stdout).unwrap();
    let both = async || Some(process_lists(&dir)).filter(|all| all.contains(" serve ") && all.contains(" host "));
    let listed = lazuli_testkit::wait_for("server and host", std::time::Duration::from_secs(60), both).await;
    let logs = format!("{}{}{}", server.log(), server.host_log(), text(&made.stderr));
    assert!(logs.contains("sign-in refused") && logs.contains("request"), "{logs}");
    let signature = token.rsplit('.').next().unwrap();
    for what in [secret.as_str(), new["clientSecret"].as_str().unwrap(), &token, signature, "guessed", "GUESSEDCO"] {
        assert!(!logs.contains(what) && !listed.contains(what), "{what} is shown");
    }
}

/// Whoever changes the activity log past the server is found out, beside the running server.
#[tokio::test]
async fn changes_of_the_activity_log_are_named() {
    use sqlx::{ConnectOptions as _, Executor as _};
    let config = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(config.path(), "activity_log_chain = true\n").unwrap();
    let server = TestServer::start_with(&["--no-host", "--config", config.path().to_str().unwrap()]).await.unwrap();
    let dir = server.dir();
    let admin = |words: &[&str]| lazuli(&[&["admin", "--data-dir", dir.to_str().unwrap()], words].concat());
    let arm = server.arm().await.unwrap();
    for group in ["one", "two"] {
        let body = json!({"location": "eastus"});
        let made = arm.send(Method::PUT, &arm.group_path(group, ""), Some(&body)).await.unwrap();
        assert_eq!(made.status, 201, "{}", made.body);
    }
    let intact = admin(&["activity-log", "verify"]);
    assert!(intact.status.success(), "{}", text(&intact.stderr));
    let kept = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(kept.path(), &intact.stdout).unwrap();
    let since = ["activity-log", "verify", "--since", kept.path().to_str().unwrap()];
    assert!(admin(&since).status.success());

    let database = sqlx::sqlite::SqliteConnectOptions::new().filename(dir.join("lazuli.db"));
    let mut database = database.connect().await.unwrap();
    database.execute("UPDATE audit SET principal = 'somebody-else' WHERE resource_key LIKE '%/one'").await.unwrap();
    let changed = admin(&["activity-log", "verify"]);
    assert_eq!(changed.status.code(), Some(1));
    let said = text(&changed.stderr);
    assert!(said.lines().count() == 1 && said.contains("was changed or put in"), "{said}");
    let shown: Value = serde_json::from_slice(&changed.stdout).unwrap();
    assert!(shown.as_array().unwrap().iter().any(|c| c["broken"].is_string()), "{shown}");

    // All of it is gone, and begun anew: only what was kept shows that.
    database.execute("DELETE FROM audit").await.unwrap();
    database.execute("DELETE FROM audit_chains").await.unwrap();
    let gone = admin(&since);
    assert!(text(&gone.stderr).contains("written down earlier is gone"), "{}", text(&gone.stderr));
    let odd = admin(&["activity-log", "verify", "--since", config.path().to_str().unwrap()]);
    assert!(text(&odd.stderr).contains("no answer of an earlier run"), "{}", text(&odd.stderr));
}

/// The key of tokens is followed by another one beside a running server, and after a restart.
#[tokio::test]
async fn the_operator_rotates_the_key_of_tokens() {
    let mut server = TestServer::start_with(&["--no-host"]).await.unwrap();
    let dir = server.dir();
    let admin = |words: &[&str]| {
        let out = lazuli(&[&["admin", "--data-dir", dir.to_str().unwrap()], words].concat());
        assert!(out.status.success(), "{words:?}: {}", text(&out.stderr));
        serde_json::from_slice::<Value>(&out.stdout).unwrap()
    };
    let before = server.arm().await.unwrap();
    let subscriptions = "/subscriptions?api-version=2022-12-01";
    let planned = admin(&["rotate-signing-key"]);
    assert!(planned["signsFrom"].is_string() && planned["ends"].is_null(), "{planned}");
    let all = admin(&["signing-keys"]);
    assert_eq!(all.as_array().unwrap().len(), 2);
    assert!(all[0]["ends"].is_string() && !all.to_string().contains("PRIVATE"), "{all}");
    server.stop().await.unwrap();
    server.restart().await.unwrap();
    before.get(subscriptions).await.expect("a token of the first key, after a restart");

    let urgent = admin(&["rotate-signing-key", "--revoke-others"]);
    let refused = async || before.get(subscriptions).await.is_err().then_some(());
    lazuli_testkit::wait_for("the end of the old keys", std::time::Duration::from_secs(30), refused).await;
    server.arm().await.unwrap().get(subscriptions).await.unwrap();
    let all = admin(&["signing-keys"]);
    assert_eq!(all.as_array().unwrap().iter().filter(|k| k["ends"].is_null()).count(), 1);
    assert!(all.to_string().contains(urgent["keyId"].as_str().unwrap()));
    let both = lazuli(&["admin", "rotate-signing-key", "--revoke-others", "--signs-after", "5"]);
    assert_eq!(both.status.code(), Some(2));
}

/// A password is in the answer that made it, and nowhere else.
#[tokio::test]
async fn the_operator_makes_people() {
    let server = TestServer::start_with(&["--no-host"]).await.unwrap();
    let dir = server.dir();
    let run = |words: &[&str]| lazuli(&[&["admin", "--data-dir", dir.to_str().unwrap(), "user"], words].concat());
    let admin = |words: &[&str]| {
        let out = run(words);
        assert!(out.status.success(), "{words:?}: {}", text(&out.stderr));
        serde_json::from_slice::<Value>(&out.stdout).unwrap()
    };
    let first = credentials(&dir);
    let tenant = first["tenantId"].as_str().unwrap();
    let made = admin(&["create", "--tenant", tenant, "--login", "Alice@Contoso.example", "--name", "Alice"]);
    assert_eq!(made["login"], "alice@contoso.example");
    let password = made["password"].as_str().unwrap();
    let again = run(&["create", "--tenant", tenant, "--login", "alice@contoso.example"]);
    assert!(text(&again.stderr).contains("known in that tenant already"), "{}", text(&again.stderr));
    let odd = run(&["create", "--tenant", tenant, "--login", "alice"]);
    assert!(text(&odd.stderr).contains("NAME@DOMAIN"), "{}", text(&odd.stderr));
    admin(&["disable", "--user", "alice@contoso.example"]);
    let all = admin(&["list"]);
    assert_eq!((&all[0]["displayName"], &all[0]["enabled"]), (&json!("Alice"), &json!(false)));
    assert!(!all.to_string().contains("argon2"));
    let new = admin(&["reset-password", "--user", "ALICE@contoso.example", "--tenant", tenant]);
    assert_ne!(new["password"], made["password"]);
    assert!(!server.log().contains(password));
}

#[tokio::test]
async fn a_scrub_looks_beside_a_server_repairs_alone_and_says_so_by_its_status() {
    let server = TestServer::start_with(&["--no-host"]).await.unwrap();
    let dir = server.dir();
    let path = dir.to_str().unwrap().to_owned();
    let scrub = |more: &[&str]| lazuli(&[&["scrub", "--data-dir", &path], more].concat());
    let seen = scrub(&["--json"]);
    assert_eq!((seen.status.code(), text(&seen.stdout).trim()), (Some(0), "[]"));
    let refused = scrub(&["--repair"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("without --repair"), "{}", text(&refused.stderr));
    let preview = lazuli(&["gc", "--preview", "--data-dir", &path]);
    assert!(preview.status.success());
    assert_eq!(lazuli(&["gc", "--data-dir", &path]).status.code(), Some(1));
    assert_eq!(lazuli(&["index", "rebuild", "--data-dir", &path]).status.code(), Some(1));

    // A store with a pack of junk that the index names as its own.
    let folder = dir.join("regions/eastus");
    drop(Region::open(RegionConfig::local("eastus", &folder, Cache::new(0)).unwrap()).await.unwrap());
    assert_eq!(scrub(&[]).status.code(), Some(0));
    std::fs::write(folder.join("index/index.log"), "junk in place of an index").unwrap();
    let wrong = scrub(&[]);
    assert_eq!(wrong.status.code(), Some(2), "{}", text(&wrong.stderr));
    let said = text(&wrong.stdout);
    assert!(said.contains("eastus: NOT SOUND") && said.contains("index index.log: damaged"), "{said}");
    let unknown = scrub(&["--region", "westus"]);
    assert!(text(&unknown.stderr).contains("known are: eastus"), "{}", text(&unknown.stderr));
}

#[tokio::test]
async fn an_index_that_forgot_a_disk_is_rebuilt_and_a_pack_that_cannot_be_read_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    let store = dir.path().join("regions/eastus");
    let open = || {
        let config = RegionConfig::local("eastus", &store, Cache::new(0)).unwrap();
        async { Region::open(config).await.unwrap() }
    };
    let disk = dir.path().join("disk.raw");
    let mut bytes: Vec<u8> = (0u32..200_000).flat_map(u32::to_le_bytes).collect();
    bytes.resize(1 << 20, 0);
    std::fs::write(&disk, &bytes).unwrap();
    let region = open().await;
    let log = store.join("index/index.log");
    let stale = std::fs::read(&log).unwrap();
    let source = Arc::new(RawFile::open(&disk).unwrap());
    let done = region.ingest(source, &Progress::new(), &CancellationToken::new()).await.unwrap();
    drop(region);
    std::fs::write(&log, stale).unwrap();

    let rebuild = || lazuli(&["index", "rebuild", "--json", "--data-dir", path]);
    let out = rebuild();
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
    let told: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!((&told[0]["packs"], &told[0]["damagedPacks"]), (&json!(1), &json!([])));
    let mut read = vec![0; bytes.len()];
    open().await.reader(done.manifest).await.unwrap().read_at(0, &mut read).await.unwrap();
    assert!(read == bytes);

    let folder = std::fs::read_dir(store.join("packs")).unwrap().next().unwrap().unwrap().path();
    let pack = std::fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
    let mut damaged = std::fs::read(&pack).unwrap();
    let at = damaged.len() - 60;
    damaged[at] ^= 1;
    std::fs::write(&pack, &damaged).unwrap();
    let out = rebuild();
    assert_eq!(out.status.code(), Some(2), "{}", text(&out.stderr));
    let told: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!((&told[0]["packs"], told[0]["damagedPacks"].as_array().unwrap().len()), (&json!(0), 1));
    assert!(std::fs::read(&pack).unwrap() == damaged, "it was not touched");
    let unknown = lazuli(&["index", "rebuild", "--region", "westus", "--data-dir", path]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(text(&unknown.stderr).contains("known are: eastus"), "{}", text(&unknown.stderr));
}

/// Makes a store with a disk of these bytes.
async fn store_with(name: &str, folder: &Path, bytes: &[u8]) {
    let disk = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(disk.path(), bytes).unwrap();
    let region = Region::open(RegionConfig::local(name, folder, Cache::new(0)).unwrap()).await.unwrap();
    let source = Arc::new(RawFile::open(disk.path()).unwrap());
    region.ingest(source, &Progress::new(), &CancellationToken::new()).await.unwrap();
}

fn a_pack_of(store: &Path) -> std::path::PathBuf {
    // A pack that was deleted leaves its folder behind.
    let folders = std::fs::read_dir(store.join("packs")).unwrap();
    folders.flat_map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap()).next().unwrap().unwrap().path()
}

#[tokio::test]
async fn every_tenants_store_is_counted_scrubbed_sealed_indexed_and_collected() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    let (config, key) = (dir.path().join("lazuli.toml"), dir.path().join("key"));
    std::fs::write(&key, "1f".repeat(32)).unwrap();
    let write = |more: &str| std::fs::write(&config, format!("[regions.eastus]\ndedup = \"tenant\"\n{more}")).unwrap();
    write("");
    let run = |arguments: &[&str]| {
        let out = lazuli(&[arguments, &["--json", "--data-dir", path, "--config", config.to_str().unwrap()]].concat());
        let told: Value = serde_json::from_slice(&out.stdout).unwrap_or_default();
        (out.status.code(), told, text(&out.stderr))
    };
    let bytes: Vec<u8> = (0u32..100_000).flat_map(u32::to_le_bytes).take(384 << 10).collect();
    let names = [1, 2].map(|n| format!("eastus/00000000-0000-0000-0000-00000000000{n}"));
    let folders = names.each_ref().map(|name| {
        let (region, tenant) = name.split_once('/').unwrap();
        dir.path().join("regions").join(region).join("tenants").join(tenant)
    });
    for (name, folder) in names.iter().zip(&folders) {
        store_with(name, folder, &bytes).await;
    }

    let named = |told: &Value| -> Vec<String> {
        told.as_array().into_iter().flatten().map(|r| r["region"].as_str().unwrap().to_owned()).collect()
    };
    let (code, told, said) = run(&["usage"]);
    assert_eq!((code, named(&told)), (Some(0), names.to_vec()), "{said}");
    assert!(told[0]["storedBytes"].as_u64() > Some(0) && told[0]["storedBytes"] == told[1]["storedBytes"], "{told}");

    let (code, told, said) = run(&["index", "rebuild"]);
    assert_eq!((code, named(&told)), (Some(0), names.to_vec()), "{said}");
    write(&format!("encryption_keys = [\"file:{}\"]\n", key.display()));
    let (code, told, said) = run(&["reseal"]);
    assert_eq!((code, named(&told)), (Some(0), names.to_vec()), "{said}");
    assert_eq!((&told[0]["packs"], &told[1]["left"]), (&json!(1), &json!(0)));
    write("");
    let (code, _, said) = run(&["usage"]);
    assert!(code == Some(1) && said.contains("which is not given"), "{said}");
    write(&format!("encryption_keys = [\"file:{}\"]\n", key.display()));

    // Damage is named where it is.
    let pack = a_pack_of(&folders[1]);
    let mut damaged = std::fs::read(&pack).unwrap();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    std::fs::write(&pack, damaged).unwrap();
    let (code, told, said) = run(&["scrub", "--region", "eastus"]);
    assert_eq!((code, named(&told)), (Some(2), names.to_vec()), "{said}");
    let findings = [0, 1].map(|n| told[n]["findings"].as_array().unwrap().len());
    assert!(findings[0] == 0 && findings[1] > 0, "{told}");

    // No disk refers to anything.
    let (code, preview, said) = run(&["gc", "--preview"]);
    assert_eq!((code, named(&preview)), (Some(0), names.to_vec()), "{said}");
    let (code, told, said) = run(&["gc"]);
    assert_eq!((code, named(&told)), (Some(0), names.to_vec()), "{said}");
    for n in [0, 1] {
        assert!(
            told[n]["freedBytes"].as_u64() > Some(0) && told[n]["freedBytes"] == preview[n]["freedBytes"],
            "{told}"
        );
    }
    assert!(!pack.exists());
}

#[tokio::test]
async fn a_region_is_not_used_with_data_of_the_other_kind() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    let config = dir.path().join("lazuli.toml");
    let folder = dir.path().join("regions/eastus");
    store_with("eastus", &folder, &[7; 8192]).await;
    let tenant = dir.path().join("regions/westus/tenants/00000000-0000-0000-0000-000000000001");
    store_with("westus/00000000-0000-0000-0000-000000000001", &tenant, &[7; 8192]).await;
    for (text_of_config, region, says) in [
        (
            "[regions.eastus]\ndedup = \"tenant\"\n[regions.westus]\ndedup = \"tenant\"\n",
            "eastus",
            "set dedup = \"region\"",
        ),
        ("", "westus", "set dedup = \"tenant\""),
    ] {
        std::fs::write(&config, text_of_config).unwrap();
        for command in [
            &["serve", "--no-host", "--listen", "127.0.0.1:0"][..],
            &["scrub"],
            &["usage"],
            &["gc"],
            &["gc", "--preview"],
            &["index", "rebuild"],
        ] {
            let out = lazuli(&[command, &["--data-dir", path, "--config", config.to_str().unwrap()]].concat());
            let said = text(&out.stderr);
            assert_eq!(out.status.code(), Some(1), "{command:?}: {said}");
            assert!(said.contains(region) && said.contains(says), "{command:?}: {said}");
        }
    }
    let right = "[regions.westus]\ndedup = \"tenant\"\n";
    std::fs::write(&config, right).unwrap();
    let out = lazuli(&["scrub", "--data-dir", path, "--config", config.to_str().unwrap()]);
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
}
