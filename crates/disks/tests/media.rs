//! The provisioning DVD as other programs see it.

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use common::oracle;
use lazuli_disks::media::{MediaError, RootFile, provisioning_iso};

const OVF: &str = "<?xml version=\"1.0\"?>\n<Environment>Grüße an ünïcode &amp; Co</Environment>\n";

fn ovf(text: &str) -> [RootFile; 1] {
    [("ovf-env.xml", text.to_owned())]
}

fn isoinfo(iso: &Path, args: &[&str]) -> String {
    let mut all = vec!["-i", iso.to_str().unwrap()];
    all.extend(args);
    oracle("isoinfo", "genisoimage", &all)
}

#[test]
fn all_namespaces_hold_the_document() {
    let dir = tempfile::tempdir().unwrap();
    let iso = dir.path().join("provisioning.iso");
    provisioning_iso(&ovf(OVF), &iso).unwrap();

    for namespace in ["-J", "-R"] {
        assert_eq!(isoinfo(&iso, &[namespace, "-f"]).trim(), "/ovf-env.xml", "{namespace}");
        assert_eq!(isoinfo(&iso, &[namespace, "-x", "/ovf-env.xml"]), OVF, "{namespace}");
    }
    assert!(isoinfo(&iso, &["-d"]).contains("Volume id: rd_rdfe_stable\n"));
    let label = oracle("blkid", "util-linux", &["-p", "-o", "export", iso.to_str().unwrap()]);
    assert!(label.contains("\nLABEL=rd_rdfe_stable\n") && label.contains("\nTYPE=iso9660\n"), "{label}");
}

#[test]
fn several_files_lie_side_by_side() {
    let dir = tempfile::tempdir().unwrap();
    let iso = dir.path().join("provisioning.iso");
    provisioning_iso(&[("Unattend.xml", OVF.to_owned()), ("SetupComplete.cmd", "@echo off\r\n".to_owned())], &iso)
        .unwrap();
    let listed = isoinfo(&iso, &["-J", "-f"]);
    let mut names: Vec<&str> = listed.lines().map(str::trim).collect();
    names.sort_unstable();
    assert_eq!(names, ["/SetupComplete.cmd", "/Unattend.xml"]);
    assert_eq!(isoinfo(&iso, &["-J", "-x", "/Unattend.xml"]), OVF);
}

#[test]
fn secrets_stay_private_and_old_media_are_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let iso = dir.path().join("provisioning.iso");
    std::fs::write(&iso, "something older").unwrap();
    let big = "x".repeat(200_000);
    provisioning_iso(&ovf(&big), &iso).unwrap();
    assert_eq!(std::fs::metadata(&iso).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(isoinfo(&iso, &["-R", "-x", "/ovf-env.xml"]), big);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left behind");
}

#[test]
fn what_cannot_be_written_is_told() {
    let error = provisioning_iso(&ovf(OVF), Path::new("/nonexistent/x.iso")).unwrap_err();
    assert!(matches!(error, MediaError::Write { .. }), "{error}");
    let error = provisioning_iso(&ovf(&"x".repeat(17 << 20)), Path::new("/nonexistent/x.iso")).unwrap_err();
    assert!(matches!(error, MediaError::TooLong { .. }), "{error}");
}
