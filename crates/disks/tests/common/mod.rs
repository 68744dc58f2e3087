//! Oracles: programs that others wrote for the same formats.

use std::process::Command;

/// Runs `program` and returns what it printed.
///
/// # Panics
/// If the program is missing (saying how to get it) or fails.
pub fn oracle(program: &str, package: &str, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|e| panic!("cannot run {program} ({e}); get it with: apt-get install {package}"));
    assert!(
        output.status.success(),
        "{program} {args:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[allow(dead_code, reason = "each test file uses its own oracle")]
pub fn qemu_img(args: &[&str]) -> String {
    oracle("qemu-img", "qemu-utils", args)
}
