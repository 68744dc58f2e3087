//! `lazuli image export`: a disk, snapshot or image version as a file of any format, made as it is read: nothing is staged.

use super::remote::Access;
use super::report::Report;
use crate::client::Client;
use anyhow::{Context, ensure};
use clap::ValueEnum;
use lazuli_disks::DiskSource;
use lazuli_disks::export::{Identity, ImageFile, Target, copy, packed};
use serde_json::json;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::NamedTempFile;

/// Parts that are read and written at a time.
const THREADS: usize = 4;

#[derive(Debug, clap::Args)]
pub struct Export {
    #[arg(long, value_enum, default_value_t = Format::Vhd)]
    format: Format,
    /// Compresses the clusters of a qcow2.
    #[arg(long, value_enum)]
    compress: Option<Compress>,
    /// Takes the place of a file that is there.
    #[arg(long)]
    force: bool,
    /// The resource id of a disk, a snapshot or an image version.
    id: String,
    file: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Fixed, as Azure takes it.
    Vhd,
    VhdDynamic,
    Vhdx,
    Qcow2,
    Raw,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Compress {
    Zlib,
    /// Smaller and faster; needs QEMU 5.1 or later.
    Zstd,
}

impl Format {
    fn target(self) -> Target {
        match self {
            Self::Vhd => Target::Vhd,
            Self::VhdDynamic => Target::VhdDynamic,
            Self::Vhdx => Target::Vhdx,
            Self::Qcow2 => Target::Qcow2,
            Self::Raw => Target::Raw,
        }
    }
}

pub async fn run(client: &Client, args: &Export) -> anyhow::Result<()> {
    ensure!(args.compress.is_none() || args.format == Format::Qcow2, "--compress is for --format qcow2");
    ensure!(args.force || !args.file.exists(), "{} is there already; --force replaces it", args.file.display());
    // Beside the file, so that it takes its name only when it is whole.
    let folder = args.file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let partial = NamedTempFile::new_in(folder).with_context(|| format!("cannot write in {}", folder.display()))?;
    let report = Arc::new(Report::new());
    let access = Access::open(client, &args.id).await?;
    let identity = Identity { id: access.footer.unique_id(), created: access.footer.created() };
    let (disk, file) = (access.disk(), partial.reopen()?);
    let (format, compress, told) = (args.format, args.compress, Arc::clone(&report));
    let written = tokio::task::spawn_blocking(move || write(disk, &file, format, compress, identity, &told)).await;
    access.close(client).await;
    report.clear();
    let size = written?.with_context(|| format!("cannot export {}", args.id))?;
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    partial.as_file().set_permissions(permissions)?;
    let kept = if args.force { partial.persist(&args.file) } else { partial.persist_noclobber(&args.file) };
    kept.with_context(|| format!("cannot write {}", args.file.display()))?;
    let name = args.format.to_possible_value().map(|v| v.get_name().to_owned());
    let file = args.file.display().to_string();
    report.done(&json!({"event": "exported", "id": args.id, "file": file, "format": name, "fileBytes": size}));
    Ok(())
}

/// Writes the file and says how long it is.
fn write(
    disk: Arc<dyn DiskSource>,
    file: &File,
    format: Format,
    compress: Option<Compress>,
    identity: Identity,
    report: &Report,
) -> anyhow::Result<u64> {
    if let Some(compress) = compress {
        let packing = if compress == Compress::Zlib { packed::Packing::Zlib } else { packed::Packing::Zstd };
        let total = disk.size();
        packed::write(&disk, file, packing, THREADS, &|done| report.bytes("export", done, total))?;
    } else {
        let image = ImageFile::new(disk, format.target(), identity)?;
        copy::to_file(&image, file, THREADS, &|done| report.bytes("export", done, image.size()))?;
    }
    Ok(file.metadata()?.len())
}
