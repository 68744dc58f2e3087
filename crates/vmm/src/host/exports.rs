//! NBD exports of base images: one unix socket a disk, kept as long as the machine is defined, so that the disks of a
//! stopped machine can be read too.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use lazuli_nbd::{BlockSource, Counters, Export};
use tokio::net::UnixListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{BaseImageError, BaseImages};
use crate::hypervisor::VmFiles;
use crate::spec::{BaseImage, DiskReads, DiskSpec, VmSpec};

/// First and longest pause between attempts to open an image while its machine waits for it.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));

#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error("the image '{image}' cannot be read")]
    Image {
        image: String,
        #[source]
        source: BaseImageError,
    },
    #[error("the image '{image}' has {actual} bytes where {expected} were expected")]
    Size { image: String, actual: u64, expected: u64 },
    #[error("cannot listen on {}", .path.display())]
    Socket {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// The exports of one machine by [`DiskSpec::label`]; dropping it ends them.
#[derive(Default)]
pub struct Exports(BTreeMap<String, BaseExport>);

/// The export of one base image; dropping it ends it.
pub struct BaseExport {
    counters: Arc<Counters>,
    base: BaseImage,
    _stop: DropGuard,
}

impl Exports {
    /// Serves every base image of a machine, or fails.
    pub async fn open(spec: &VmSpec, files: &VmFiles, images: &dyn BaseImages) -> Result<Self, ExportError> {
        let mut exports = Self::default();
        for disk in spec.disks() {
            exports.add(disk, BaseExport::open(disk, files, images).await?);
        }
        Ok(exports)
    }

    /// For a machine that may be running and waiting: listens at once, and opens the images as soon as they can be.
    pub fn resume(spec: &VmSpec, files: &VmFiles, images: &Arc<dyn BaseImages>) -> Result<Self, ExportError> {
        let mut exports = Self::default();
        for disk in spec.disks() {
            let Some(base) = disk.base.clone() else { continue };
            let listener = listen(&files.base(&disk.label()))?;
            let (export, stop) = BaseExport::new(base.clone());
            let (images, counters) = (Arc::clone(images), Arc::clone(&export.counters));
            tokio::spawn(async move {
                let Some(source) = stop.run_until_cancelled(open_in_the_end(&*images, &base)).await else { return };
                lazuli_nbd::serve_unix(listener, Export { name: String::new(), source, counters }, stop).await;
            });
            exports.add(disk, Some(export));
        }
        Ok(exports)
    }

    /// Nothing for a disk without a base.
    pub fn add(&mut self, disk: &DiskSpec, export: Option<BaseExport>) {
        if let Some(export) = export {
            self.0.insert(disk.label(), export);
        }
    }

    /// Whether the disk's base, if it has one, is served.
    pub fn has(&self, disk: &DiskSpec) -> bool {
        disk.base.as_ref().is_none_or(|base| self.0.get(&disk.label()).is_some_and(|e| e.base == *base))
    }

    /// Ends the exports of disks that are not among these.
    pub fn keep(&mut self, spec: &VmSpec) {
        self.0.retain(|label, _| spec.disks().any(|d| d.label() == *label));
    }

    pub fn reads(&self) -> DiskReads {
        let sum = |of: fn(&Counters) -> u64| self.0.values().map(|e| of(&e.counters)).sum();
        DiskReads {
            reads: sum(|c| c.reads.load(Ordering::Relaxed)),
            bytes: sum(|c| c.bytes.load(Ordering::Relaxed)),
            image_bytes: self.0.values().map(|e| e.base.size_bytes).sum(),
        }
    }
}

impl BaseExport {
    fn new(base: BaseImage) -> (Self, CancellationToken) {
        let stop = CancellationToken::new();
        (Self { counters: Arc::default(), base, _stop: stop.clone().drop_guard() }, stop)
    }

    /// Serves the base image of a disk; `None` if it has none.
    pub async fn open(disk: &DiskSpec, files: &VmFiles, images: &dyn BaseImages) -> Result<Option<Self>, ExportError> {
        let Some(base) = &disk.base else { return Ok(None) };
        let source = open_image(images, base).await?;
        let listener = listen(&files.base(&disk.label()))?;
        let (export, stop) = Self::new(base.clone());
        let served = Export { name: String::new(), source, counters: Arc::clone(&export.counters) };
        tokio::spawn(lazuli_nbd::serve_unix(listener, served, stop));
        Ok(Some(export))
    }
}

async fn open_image(images: &dyn BaseImages, base: &BaseImage) -> Result<Arc<dyn BlockSource>, ExportError> {
    let image = || base.source.clone();
    let source = images.open(&base.source).await.map_err(|source| ExportError::Image { image: image(), source })?;
    if source.size() != base.size_bytes {
        return Err(ExportError::Size { image: image(), actual: source.size(), expected: base.size_bytes });
    }
    Ok(source)
}

async fn open_in_the_end(images: &dyn BaseImages, base: &BaseImage) -> Arc<dyn BlockSource> {
    let (mut pause, longest) = RETRY;
    loop {
        match open_image(images, base).await {
            Ok(source) => return source,
            Err(e) => {
                let cause = std::error::Error::source(&e).map(ToString::to_string);
                tracing::warn!(error = %e, cause, "an image that a machine needs; trying again");
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(longest);
    }
}

fn listen(path: &Path) -> Result<UnixListener, ExportError> {
    let bind = || {
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        UnixListener::bind(path)
    };
    bind().map_err(|source| ExportError::Socket { path: path.to_owned(), source })
}
