//! `lazuli image`: images in and out of a server that runs, looked at on the way, and the operator's catalogue of platform images.
//!
//! ```text
//! FILE or URL ─ source.rs ─> DiskSource ─┬─ check.rs: what would keep it from booting
//!                                        └─ upload.rs ─> a managed disk ─┬─> import.rs: it stays, or becomes an image version
//!                                                                        └─> PUT Lazuli.Images/platformImages/URN
//! disk, snapshot, version ─ remote.rs ─> DiskSource ─┬─ check.rs
//!                                                    └─ export.rs ─> FILE of any format
//! ```
//! On a terminal there is a bar; otherwise each line of stdout is a JSON object.

mod check;
mod export;
mod import;
mod remote;
mod report;
mod show;
mod source;
mod upload;

use crate::client::Client;
use crate::credentials::Credentials;
use crate::data_dir::DataDir;
use anyhow::{Context, bail};
use clap::{Subcommand, ValueEnum};
use report::Report;
use serde_json::{Value, json};
use std::path::PathBuf;
use uuid::Uuid;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The server's data folder [default: $XDG_DATA_HOME/lazuli or ~/.local/share/lazuli]
    #[arg(long, env = "LAZULI_DATA_DIR", global = true)]
    data_dir: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Makes a managed disk, or a version of a gallery's image, from a VHD, VHDX, qcow2, VMDK or raw disk.
    Import(Box<import::Import>),
    /// Writes a disk, a snapshot or an image version into a file.
    Export(export::Export),
    /// Says what would keep an image from booting here or from being provisioned. Fails where there is such a thing.
    Check(check::Check),
    /// Publishes a version of a platform image from a VHD, VHDX, qcow2, VMDK or raw disk.
    #[command(disable_version_flag = true)]
    Publish(Box<Publish>),
    /// Tells what is known of the build that an image version or a managed image came from.
    Show(Show),
    /// Lists what is published.
    List(List),
    /// Takes a version out of the catalogue. Disks and VMs made from it stay.
    Unpublish(Unpublish),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OsType {
    Linux,
    Windows,
}

impl OsType {
    /// As bodies have it.
    fn name(self) -> &'static str {
        match self {
            Self::Linux => "Linux",
            Self::Windows => "Windows",
        }
    }
}

#[derive(Debug, clap::Args)]
struct Publish {
    #[arg(long)]
    publisher: String,
    #[arg(long)]
    offer: String,
    #[arg(long)]
    sku: String,
    /// Whole numbers with dots between them, e.g. 12.0.20260101.
    #[arg(long)]
    version: String,
    /// Regions that serve the image, e.g. eastus,westus2.
    #[arg(long, required = true, value_delimiter = ',')]
    location: Vec<String>,
    #[arg(long, value_enum, default_value_t = OsType::Linux)]
    os_type: OsType,
    /// V1 boots with BIOS, V2 with UEFI.
    #[arg(long, default_value = "V1", value_parser = ["V1", "V2"])]
    generation: String,
    #[arg(long, default_value = "x64", value_parser = ["x64", "Arm64"])]
    architecture: String,
    /// Purchase plan that whoever uses the image must name.
    #[arg(long, requires_all = ["plan_name", "plan_product"])]
    plan_publisher: Option<String>,
    #[arg(long, requires = "plan_publisher")]
    plan_name: Option<String>,
    #[arg(long, requires = "plan_publisher")]
    plan_product: Option<String>,
    /// SHA-256 of the file in hex; required with a URL.
    #[arg(long)]
    sha256: Option<String>,
    /// A file, or an http(s) URL.
    #[arg(value_name = "FILE|URL")]
    from: String,
}

#[derive(Debug, clap::Args)]
struct Show {
    /// The signed documents themselves, as JSON.
    #[arg(long)]
    json: bool,
    /// Id of an image version or a managed image.
    id: String,
}

#[derive(Debug, clap::Args)]
struct List {
    /// A JSON list instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct Unpublish {
    /// publisher:offer:sku:version
    urn: String,
}

pub async fn run(args: Args) -> anyhow::Result<()> {
    let dir = DataDir::find(args.data_dir.as_deref())?;
    // A file needs no server.
    if let Command::Check(wanted) = &args.command {
        return check::run(&dir, wanted).await;
    }
    let (credentials, endpoint) = Credentials::of_server(&dir)?;
    let client = Client::sign_in(&credentials, &endpoint).await?;
    match args.command {
        Command::Import(wanted) => import::run(&client, dir.path(), &wanted).await,
        Command::Export(wanted) => export::run(&client, &wanted).await,
        Command::Check(_) => Ok(()),
        Command::Publish(wanted) => publish(&client, &dir, &wanted).await,
        Command::Show(wanted) => show::run(&client, &wanted.id, wanted.json).await,
        Command::List(wanted) => list(&client, wanted.json).await,
        Command::Unpublish(wanted) => unpublish(&client, &wanted.urn).await,
    }
}

async fn publish(client: &Client, dir: &DataDir, wanted: &Publish) -> anyhow::Result<()> {
    let report = Report::new();
    let urn = format!("{}:{}:{}:{}", wanted.publisher, wanted.offer, wanted.sku, wanted.version);
    let home = wanted.location.first().context("--location names no region")?;
    let path = client.path(&format!("/providers/Lazuli.Images/platformImages/{urn}"));
    if client.get(&path).await.is_ok() {
        bail!("{urn} is published already; `lazuli image unpublish {urn}` takes it out of the catalogue");
    }
    let source = source::prepare(&wanted.from, wanted.sha256.as_deref(), dir.path(), &report).await?;
    let checked = check::look(source.disk.clone(), Some(source.format), Some(&wanted.generation), None).await?;
    check::show(&checked, &report);
    let disk = &source.disk;
    // Everything on the way is in a group of its own, which goes whatever happens.
    let group = client.path(&format!("/resourceGroups/lazuli-publish-{}", Uuid::new_v4().simple()));
    client.put(&group, &json!({"location": home}), |_| {}).await.context("cannot make a resource group")?;
    let published = async {
        let disk_id = format!("{group}/providers/Microsoft.Compute/disks/image");
        let (os_type, generation) = (Some(wanted.os_type), Some(wanted.generation.as_str()));
        let new = upload::NewDisk { location: home, os_type, generation };
        upload::upload(client, &disk_id, &new, disk, &report).await?;
        let body = body(wanted, &disk_id);
        let progress = |percent: f64| report.percent("replicate", percent);
        client.put(&path, &body, progress).await.with_context(|| format!("cannot publish {urn}"))
    }
    .await;
    let cleaned = client.delete(&group).await;
    report.clear();
    let shown = published?;
    if let Err(error) = cleaned {
        tracing::warn!(%error, group, "the resource group of the upload was not removed; delete it");
    }
    report.done(&json!({"event": "published", "urn": urn, "sizeBytes": disk.size(), "regions": regions(&shown)}));
    Ok(())
}

fn body(wanted: &Publish, disk_id: &str) -> Value {
    let regions: Vec<Value> = wanted.location.iter().map(|l| json!({"name": l})).collect();
    let mut properties = json!({
        "osType": wanted.os_type.name(),
        "hyperVGeneration": wanted.generation,
        "architecture": wanted.architecture,
        "storageProfile": {"osDiskImage": {"source": {"id": disk_id}}},
        "publishingProfile": {"targetRegions": regions},
    });
    if let Some(publisher) = &wanted.plan_publisher {
        properties["plan"] = json!({"publisher": publisher, "name": wanted.plan_name, "product": wanted.plan_product});
    }
    json!({"location": wanted.location.first(), "properties": properties})
}

/// `{name, state}` of each region.
fn regions(shown: &Value) -> Vec<Value> {
    let regions = shown["properties"]["publishingProfile"]["targetRegions"].as_array();
    regions.into_iter().flatten().map(|r| json!({"name": r["name"], "state": r["state"]})).collect()
}

async fn list(client: &Client, as_json: bool) -> anyhow::Result<()> {
    let mut items = client.list(&client.path("/providers/Lazuli.Images/platformImages")).await?;
    items.sort_by_cached_key(|item| order(item["name"].as_str().unwrap_or_default()));
    if as_json {
        println!("{:#}", Value::from(items));
        return Ok(());
    }
    println!("{:<60} {:<8} {:<3} {:<10} regions", "urn", "os", "gen", "state");
    for item in &items {
        let text = |v: &Value| v.as_str().unwrap_or("-").to_owned();
        let properties = &item["properties"];
        let regions: Vec<String> = regions(item)
            .iter()
            .map(|r| match r["state"].as_str() {
                Some("Completed") => text(&r["name"]),
                state => format!("{} ({})", text(&r["name"]), state.unwrap_or("Unknown")),
            })
            .collect();
        println!(
            "{:<60} {:<8} {:<3} {:<10} {}",
            text(&item["name"]),
            text(&properties["osType"]),
            text(&properties["hyperVGeneration"]),
            text(&properties["provisioningState"]),
            regions.join(", ")
        );
    }
    Ok(())
}

/// Names ignoring case, versions by their numbers: 1.0.10 after 1.0.9.
fn order(urn: &str) -> (String, Vec<u64>) {
    let (names, version) = urn.rsplit_once(':').unwrap_or((urn, ""));
    (names.to_lowercase(), version.split('.').map(|n| n.parse().unwrap_or(0)).collect())
}

async fn unpublish(client: &Client, urn: &str) -> anyhow::Result<()> {
    let path = client.path(&format!("/providers/Lazuli.Images/platformImages/{urn}"));
    client.get(&path).await.with_context(|| format!("cannot unpublish {urn}"))?;
    client.delete(&path).await.with_context(|| format!("cannot unpublish {urn}"))?;
    Report::new().done(&json!({"event": "unpublished", "urn": urn}));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_listed_by_number() {
        assert!(order("p:o:s:1.0.9") < order("P:o:s:1.0.10"));
        assert!(order("a:o:s:9.0.0") < order("b:o:s:1.0.0"));
    }
}
