//! The arrows between the crates point down only: `lazuli -> api -> engine -> {meta, chunks, vmm, authz, template, builder} ->
//! {arm, disks, nbd, tls}`. `api` never touches `meta`, crates of one layer never see each other, and `testkit` serves tests alone.

use std::process::Command;

use anyhow::{Context as _, ensure};
use cargo_metadata::{DependencyKind, MetadataCommand};

/// Each crate's layer, lowest first. A new crate must be given one.
const LAYERS: &[(&str, u8)] = &[
    ("lazuli-arm", 0),
    ("lazuli-disks", 0),
    ("lazuli-nbd", 0),
    ("lazuli-tls", 0),
    ("lazuli-authz", 1),
    ("lazuli-builder", 1),
    ("lazuli-chunks", 1),
    ("lazuli-meta", 1),
    ("lazuli-template", 1),
    ("lazuli-vmm", 1),
    ("lazuli-engine", 2),
    ("lazuli-api", 3),
    ("lazuli", 4),
];

/// Arrows that point down and are forbidden all the same.
const FORBIDDEN: &[(&str, &str)] = &[("lazuli-api", "lazuli-meta")];

const TESTKIT: &str = "lazuli-testkit";

#[derive(Clone, Debug)]
struct Arrow {
    from: String,
    to: String,
    tests_only: bool,
}

fn layer(name: &str) -> Option<u8> {
    LAYERS.iter().find(|(known, _)| *known == name).map(|(_, layer)| *layer)
}

/// What is wrong with one arrow between two crates of the workspace.
fn violation(arrow: &Arrow) -> Option<String> {
    let Arrow { from, to, tests_only } = arrow;
    if to == TESTKIT {
        return (!tests_only).then(|| format!("{from} -> {to}: the test kit serves tests alone (dev-dependencies)"));
    }
    if from == TESTKIT || *tests_only {
        return None;
    }
    if FORBIDDEN.contains(&(from.as_str(), to.as_str())) {
        return Some(format!("{from} -> {to}: forbidden; go through the layer between"));
    }
    match (layer(from), layer(to)) {
        (Some(above), Some(below)) if above > below => None,
        (Some(_), Some(_)) => Some(format!("{from} -> {to}: arrows point down only")),
        (None, _) => Some(format!("{from} has no layer")),
        (_, None) => Some(format!("{to} has no layer")),
    }
}

/// Every arrow of the workspace, and the names of its crates.
fn workspace() -> anyhow::Result<(Vec<String>, Vec<Arrow>)> {
    let metadata = MetadataCommand::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .no_deps()
        .exec()
        .context("cargo metadata")?;
    let names: Vec<String> = metadata.packages.iter().map(|package| package.name.to_string()).collect();
    let mut arrows = Vec::new();
    for package in &metadata.packages {
        for dependency in package.dependencies.iter().filter(|dependency| names.contains(&dependency.name)) {
            arrows.push(Arrow {
                from: package.name.to_string(),
                to: dependency.name.clone(),
                tests_only: dependency.kind == DependencyKind::Development,
            });
        }
    }
    Ok((names, arrows))
}

#[test]
fn arrows_point_down() -> anyhow::Result<()> {
    let (names, arrows) = workspace()?;
    let unknown: Vec<_> = names.iter().filter(|name| *name != TESTKIT && layer(name).is_none()).collect();
    ensure!(unknown.is_empty(), "crates without a layer in this test: {unknown:?}");
    ensure!(
        arrows.iter().any(|arrow| arrow.from == "lazuli" && arrow.to == "lazuli-api"),
        "cargo metadata shows no arrow lazuli -> lazuli-api: this test sees nothing"
    );
    let wrong: Vec<_> = arrows.iter().filter_map(violation).collect();
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// A crate must not reach what lies behind `chunks` and `meta` by way of the other: no path leads from one to the other.
#[test]
fn metadata_and_content_never_meet() -> anyhow::Result<()> {
    for (from, never) in [("lazuli-meta", "lazuli-chunks"), ("lazuli-chunks", "lazuli-meta")] {
        let output = Command::new(env!("CARGO"))
            .args(["tree", "--offline", "--locked", "--edges", "normal,build", "--prefix", "none", "--package", from])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .context("cargo tree")?;
        ensure!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
        let tree = String::from_utf8(output.stdout)?;
        let mut crates = tree.lines().filter_map(|line| line.split(' ').next());
        ensure!(crates.next() == Some(from), "cargo tree does not begin with {from}");
        ensure!(!crates.any(|name| name == never), "{from} reaches {never}");
    }
    Ok(())
}

#[test]
fn each_kind_of_wrong_arrow_is_seen() {
    let arrow = |from: &str, to: &str, tests_only| Arrow { from: from.to_owned(), to: to.to_owned(), tests_only };
    for wrong in [
        arrow("lazuli-arm", "lazuli-engine", false),
        arrow("lazuli-meta", "lazuli-chunks", false),
        arrow("lazuli-chunks", "lazuli-meta", false),
        arrow("lazuli-api", "lazuli-meta", false),
        arrow("lazuli-engine", TESTKIT, false),
        arrow("lazuli-new", "lazuli-arm", false),
        arrow("lazuli", "lazuli-new", false),
    ] {
        assert!(violation(&wrong).is_some(), "{wrong:?} passes");
    }
    for right in [
        arrow("lazuli-engine", "lazuli-meta", false),
        arrow("lazuli-meta", TESTKIT, true),
        arrow(TESTKIT, "lazuli-meta", false),
        arrow("lazuli-meta", "lazuli-chunks", true),
    ] {
        assert_eq!(violation(&right), None);
    }
}
