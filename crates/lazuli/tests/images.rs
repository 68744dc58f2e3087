//! `lazuli image import|export|check` against a running server, with qemu-img as the judge of what comes out.

use lazuli_testkit::TestServer;
use serde_json::{Value, json};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::process::{Command, Output};

const MIB: u64 = 1 << 20;

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn qemu_img(args: &[&str]) {
    let output = Command::new("qemu-img").args(args).output();
    let output =
        output.unwrap_or_else(|e| panic!("cannot run qemu-img ({e}); get it with: apt-get install qemu-utils"));
    assert!(output.status.success(), "qemu-img {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A disk with holes, of no whole number of MiB, with data at both ends.
fn raw_disk(path: &Path) {
    let mut file = std::fs::File::create(path).unwrap();
    file.set_len(37 * MIB + 1024).unwrap();
    let data: Vec<u8> = (0..300_000_u32).map(|i| u8::try_from(i / 5 % 251).unwrap()).collect();
    for at in [0, 9 * MIB + 4096, 37 * MIB + 1024 - 300_000] {
        file.seek(SeekFrom::Start(at)).unwrap();
        file.write_all(&data).unwrap();
    }
}

/// The server's command, and the last line of JSON that it printed.
fn image(server: &TestServer, args: &[&str]) -> Value {
    let out = run(server, args);
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    let lines = String::from_utf8(out.stdout).unwrap();
    let events: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    events.last().unwrap().clone()
}

fn run(server: &TestServer, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lazuli"));
    command.arg("image").arg(args[0]).arg("--data-dir").arg(server.dir()).args(&args[1..]).output().unwrap()
}

#[tokio::test]
async fn images_of_every_format_come_in_and_go_out_as_the_same_disk() {
    let server = TestServer::start_with(&["--no-host"]).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("disk.raw");
    raw_disk(&raw);
    let ways: [(&str, &[&str]); 6] = [
        ("vhd", &["-O", "vpc", "-o", "subformat=fixed,force_size=on"]),
        ("vhd-dynamic", &["-O", "vpc", "-o", "subformat=dynamic,force_size=on"]),
        ("vhdx", &["-O", "vhdx"]),
        ("qcow2", &["-c", "-O", "qcow2", "-o", "compression_type=zstd"]),
        ("vmdk", &["-O", "vmdk", "-o", "subformat=streamOptimized"]),
        ("raw", &["-O", "raw"]),
    ];
    let arm = server.arm().await.unwrap();
    let mut id = String::new();
    for (format, args) in ways {
        let file = dir.path().join(format);
        qemu_img(&[&["convert", "-f", "raw"], args, &[&text(&raw), &text(&file)]].concat());
        let import =
            ["import", "-g", "kept", "-l", "eastus", "--data-disk", "-n", &format!("disk-{format}"), &text(&file)];
        let done = image(&server, &import);
        assert_eq!((&done["event"], &done["format"]), (&json!("imported"), &json!(format)), "{done}");
        id = done["id"].as_str().unwrap().to_owned();
    }
    // All six are the same bytes, stored once: the last one could go without freeing any.
    let usage = &arm.get(&format!("{id}/usage")).await.unwrap()["regions"][0];
    assert!(usage["uniqueBytes"].as_u64().unwrap() > 0, "{usage}");
    assert_eq!(usage["freedByDelete"]["uniqueBytes"], 0, "{usage}");

    let outs = [("vhd", "vpc"), ("vhd-dynamic", "vpc"), ("vhdx", "vhdx"), ("qcow2", "qcow2"), ("raw", "raw")];
    for (format, qemu) in outs {
        let out = dir.path().join(format!("out-{format}"));
        let done = image(&server, &["export", "--format", format, &id, &text(&out)]);
        assert_eq!(done["event"], "exported", "{done}");
        qemu_img(&["compare", "-f", "raw", "-F", qemu, &text(&raw), &text(&out)]);
    }
    let packed = dir.path().join("packed.qcow2");
    image(&server, &["export", "--format", "qcow2", "--compress", "zstd", &id, &text(&packed)]);
    qemu_img(&["compare", "-f", "raw", "-F", "qcow2", &text(&raw), &text(&packed)]);
    let again = run(&server, &["export", "--format", "raw", &id, &text(&packed)]);
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(!again.status.success() && said.contains("--force"), "{said}");
    let disk = arm.get(&id).await.unwrap();
    assert_eq!(disk["properties"]["diskState"], "Unattached", "the access was given back");
    let left = std::fs::read_dir(dir.path())
        .unwrap()
        .filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().starts_with(".tmp"));
    assert_eq!(left.count(), 0, "nothing half-written is left");
}

#[tokio::test]
async fn an_image_becomes_a_version_and_is_checked_and_exported_again() {
    let server = TestServer::start_with(&["--no-host"]).await.unwrap();
    let arm = server.arm().await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("disk.raw");
    raw_disk(&raw);
    let group = arm.group_path("images", "");
    arm.put(&group, &json!({"location": "eastus"})).await.unwrap();
    let gallery = format!("{group}/providers/Microsoft.Compute/galleries/pictures");
    arm.put(&gallery, &json!({"location": "eastus"})).await.unwrap();
    let definition = format!("{gallery}/images/debian");
    let body = json!({"location": "eastus", "properties": {"osType": "Linux", "osState": "Specialized", "hyperVGeneration": "V1",
        "identifier": {"publisher": "p", "offer": "o", "sku": "s"}}});
    arm.put(&definition, &body).await.unwrap();
    let import = [
        "import",
        "-g",
        "images",
        "--gallery",
        "pictures",
        "--definition",
        "debian",
        "--image-version",
        "1.0.0",
        &text(&raw),
    ];
    let strict = run(&server, &[&import[..], &["--strict"]].concat());
    let said = String::from_utf8_lossy(&strict.stderr).into_owned();
    assert!(!strict.status.success() && said.contains("generation V1 boots with BIOS"), "{said}");
    let done = image(&server, &import);
    let id = done["id"].as_str().unwrap();
    let version = arm.get(id).await.unwrap();
    assert_eq!(version["properties"]["provisioningState"], "Succeeded");

    let checked = run(&server, &["check", id]);
    assert!(!checked.status.success(), "a disk without a system");
    let found: Value = serde_json::from_slice(&checked.stdout).unwrap();
    let codes: Vec<&str> = found["findings"].as_array().unwrap().iter().map(|f| f["code"].as_str().unwrap()).collect();
    assert!(codes.contains(&"boot-generation"), "{found}");
    let out = dir.path().join("out.vhd");
    image(&server, &["export", id, &text(&out)]);
    qemu_img(&["compare", "-f", "raw", "-F", "vpc", &text(&raw), &text(&out)]);
    let groups = arm.get(&arm.path("/resourceGroups")).await.unwrap();
    let names: Vec<&str> = groups["value"].as_array().unwrap().iter().map(|g| g["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["images"], "what was made on the way is gone");
    let twice = run(&server, &import);
    assert!(String::from_utf8_lossy(&twice.stderr).contains("version 1.0.0 already"));
}

#[test]
fn a_file_is_checked_without_a_server() {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("disk.raw");
    raw_disk(&raw);
    let check = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lazuli"));
        command.args(["image", "check", "--data-dir", &text(&dir.path().join("none"))]).args(args).output().unwrap()
    };
    let out = check(&["--generation", "V2", "--os-state", "generalized", &text(&raw)]);
    assert_eq!(out.status.code(), Some(1));
    let found: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!((&found["passed"], &found["format"]), (&json!(false), &json!("raw")), "{found}");
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(said.contains("not usable") && said.lines().count() == 1, "{said}");
    std::fs::write(&raw, b"\x1f\x8b").unwrap();
    let said = String::from_utf8_lossy(&check(&[&text(&raw)]).stderr).into_owned();
    assert!(said.contains("unpack it first"), "{said}");
}
