//! `lazuli image import`: an image of any format into a managed disk, or straight into a version of a gallery's image. It is looked
//! at on the way; only the parts that hold data are sent, and what the region has already takes no more room.

use super::check::{self, State};
use super::report::Report;
use super::source::{self, Source};
use super::upload::{self, NewDisk};
use super::{OsType, regions};
use crate::client::Client;
use anyhow::{Context, bail};
use lazuli_disks::check::Severity;
use serde_json::{Value, json};
use std::path::Path;
use uuid::Uuid;

#[derive(Debug, clap::Args)]
pub struct Import {
    #[arg(long, short = 'g')]
    resource_group: String,
    /// The name of the new disk.
    #[arg(long, short = 'n', required_unless_present = "gallery", conflicts_with = "gallery")]
    name: Option<String>,
    /// Of a new disk; by default its resource group's. A group that is not there is made here.
    #[arg(long, short = 'l')]
    location: Option<String>,
    #[arg(long, value_enum, default_value_t = OsType::Linux, conflicts_with = "gallery")]
    os_type: OsType,
    /// Nothing boots from it: no checks, no OS type.
    #[arg(long, conflicts_with_all = ["gallery", "os_type", "generation", "os_state"])]
    data_disk: bool,
    /// V1 boots with BIOS, V2 with UEFI. Without it, what the image can: UEFI, where it has a loader for both.
    #[arg(long, value_parser = ["V1", "V2"], conflicts_with = "gallery")]
    generation: Option<String>,
    /// What the check is to hold it against.
    #[arg(long, value_enum, conflicts_with = "gallery")]
    os_state: Option<State>,
    /// A gallery in the resource group: the image becomes a version of a definition in it.
    #[arg(long, requires_all = ["definition", "image_version"])]
    gallery: Option<String>,
    /// The image definition, which must be there.
    #[arg(long, requires = "gallery")]
    definition: Option<String>,
    /// Major.Minor.Patch.
    #[arg(long, requires = "gallery")]
    image_version: Option<String>,
    /// Regions of the version; the definition's is one of them.
    #[arg(long, value_delimiter = ',', requires = "gallery")]
    target_regions: Vec<String>,
    /// Does not go on when the check finds an error.
    #[arg(long)]
    strict: bool,
    /// SHA-256 of the file in hex; required with a URL.
    #[arg(long)]
    sha256: Option<String>,
    /// A VHD (fixed or dynamic), VHDX, qcow2, VMDK or raw disk; or an http(s) URL of one.
    #[arg(value_name = "FILE|URL")]
    from: String,
}

pub async fn run(client: &Client, dir: &Path, args: &Import) -> anyhow::Result<()> {
    let report = Report::new();
    match (&args.gallery, &args.definition, &args.image_version) {
        (Some(gallery), Some(definition), Some(version)) => {
            let group = client.path(&format!("/resourceGroups/{}", args.resource_group));
            let definition = format!("{group}/providers/Microsoft.Compute/galleries/{gallery}/images/{definition}");
            to_version(client, dir, args, &definition, version, &report).await
        }
        _ => to_disk(client, dir, args, &report).await,
    }
}

async fn to_disk(client: &Client, dir: &Path, args: &Import, report: &Report) -> anyhow::Result<()> {
    let name = args.name.as_deref().context("--name is missing")?;
    let group = client.path(&format!("/resourceGroups/{}", args.resource_group));
    let location = match (client.get(&group).await, &args.location) {
        (_, Some(location)) => location.clone(),
        (Ok(found), None) => found["location"].as_str().unwrap_or_default().to_owned(),
        (Err(error), None) => return Err(error.context("--location says where a new resource group is to be")),
    };
    let disk_id = format!("{group}/providers/Microsoft.Compute/disks/{name}");
    if client.get(&disk_id).await.is_ok() {
        bail!("there is a disk {name} in {} already", args.resource_group);
    }
    let source = source::prepare(&args.from, args.sha256.as_deref(), dir, report).await?;
    let mut generation = args.generation.clone();
    if !args.data_disk {
        let checked = examine(&source, generation.as_deref(), args.os_state, args.strict, report).await?;
        generation = generation.or_else(|| match (checked.uefi, checked.bios) {
            (true, _) => Some("V2".to_owned()),
            (false, true) => Some("V1".to_owned()),
            (false, false) => None,
        });
    }
    if client.get(&group).await.is_err() {
        client.put(&group, &json!({"location": location}), |_| {}).await.context("cannot make the resource group")?;
    }
    let os_type = (!args.data_disk).then_some(args.os_type);
    let new = NewDisk { location: &location, os_type, generation: generation.as_deref() };
    if let Err(error) = upload::upload(client, &disk_id, &new, &source.disk, report).await {
        report.clear();
        // A disk that is half-full is of no use to anybody.
        if let Err(error) = client.delete(&disk_id).await {
            tracing::debug!(%error, disk_id, "the disk of an import that failed was not removed");
        }
        return Err(error);
    }
    report.done(
        &json!({"event": "imported", "id": disk_id, "format": source.format.name(), "sizeBytes": source.disk.size(),
        "hyperVGeneration": generation}),
    );
    Ok(())
}

async fn to_version(
    client: &Client,
    dir: &Path,
    args: &Import,
    definition: &str,
    version: &str,
    report: &Report,
) -> anyhow::Result<()> {
    let found =
        client.get(definition).await.context("make the image definition first: `az sig image-definition create`")?;
    let id = format!("{definition}/versions/{version}");
    if client.get(&id).await.is_ok() {
        bail!("there is a version {version} already");
    }
    let properties = &found["properties"];
    let location = found["location"].as_str().context("the image definition has no location")?;
    let generation = properties["hyperVGeneration"].as_str().unwrap_or("V1");
    let os_type = if properties["osType"] == "Windows" { OsType::Windows } else { OsType::Linux };
    let source = source::prepare(&args.from, args.sha256.as_deref(), dir, report).await?;
    let state = properties["osState"].as_str().and_then(State::parse);
    examine(&source, Some(generation), state, args.strict, report).await?;
    // Everything on the way is in a group of its own, which goes whatever happens.
    let group = client.path(&format!("/resourceGroups/lazuli-import-{}", Uuid::new_v4().simple()));
    client.put(&group, &json!({"location": location}), |_| {}).await.context("cannot make a resource group")?;
    let made = async {
        let disk_id = format!("{group}/providers/Microsoft.Compute/disks/image");
        let new = NewDisk { location, os_type: Some(os_type), generation: Some(generation) };
        upload::upload(client, &disk_id, &new, &source.disk, report).await?;
        let progress = |percent: f64| report.percent("replicate", percent);
        let body = version_body(location, &args.target_regions, &disk_id);
        client.put(&id, &body, progress).await.context("cannot make the version")
    }
    .await;
    let cleaned = client.delete(&group).await;
    report.clear();
    let shown = made?;
    if let Err(error) = cleaned {
        tracing::warn!(%error, group, "the resource group of the upload was not removed; delete it");
    }
    report
        .done(&json!({"event": "imported", "id": id, "format": source.format.name(), "sizeBytes": source.disk.size(),
        "regions": regions(&shown)}));
    Ok(())
}

fn version_body(location: &str, targets: &[String], disk_id: &str) -> Value {
    let mut properties = json!({"storageProfile": {"osDiskImage": {"source": {"id": disk_id}}}});
    if !targets.is_empty() {
        let regions: Vec<Value> = targets.iter().map(|name| json!({"name": name})).collect();
        properties["publishingProfile"] = json!({"targetRegions": regions});
    }
    json!({"location": location, "properties": properties})
}

/// Looks at the image and shows what was found.
async fn examine(
    source: &Source,
    generation: Option<&str>,
    state: Option<State>,
    strict: bool,
    report: &Report,
) -> anyhow::Result<lazuli_disks::check::Report> {
    let checked = check::look(source.disk.clone(), Some(source.format), generation, state).await?;
    check::show(&checked, report);
    let first = checked.findings.iter().find(|f| f.severity == Severity::Error);
    if let Some(error) = first.filter(|_| strict) {
        bail!("the image is not usable as it is: {}", error.message);
    }
    Ok(checked)
}
