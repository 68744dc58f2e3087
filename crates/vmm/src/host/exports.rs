//! NBD exports of base images: one unix socket a disk, kept as long as the machine is defined, so that the disks of a
//! stopped machine can be read too.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use lazuli_nbd::{BlockSource, Counters, Export};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use super::{BaseImageError, BaseImages};
use crate::hypervisor::VmFiles;
use crate::spec::{BaseImage, DiskReads, VmSpec};

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

/// The exports of one machine; dropping it ends them.
#[derive(Default)]
pub struct Exports {
    counters: Vec<Arc<Counters>>,
    image_bytes: u64,
    stop: CancellationToken,
}

impl Drop for Exports {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Exports {
    /// Serves every base image of a machine, or fails.
    pub async fn open(spec: &VmSpec, files: &VmFiles, images: &dyn BaseImages) -> Result<Self, ExportError> {
        let mut exports = Self::default();
        for (base, socket) in bases(spec, files) {
            let source = open_image(images, &base).await?;
            let listener = listen(&socket)?;
            let export = exports.add(&base, source);
            tokio::spawn(lazuli_nbd::serve_unix(listener, export, exports.stop.clone()));
        }
        Ok(exports)
    }

    /// For a machine that may be running and waiting: listens at once, and opens the images as soon as they can be.
    pub fn resume(spec: &VmSpec, files: &VmFiles, images: &Arc<dyn BaseImages>) -> Result<Self, ExportError> {
        let mut exports = Self::default();
        for (base, socket) in bases(spec, files) {
            let listener = listen(&socket)?;
            let counters = Arc::<Counters>::default();
            exports.counters.push(Arc::clone(&counters));
            exports.image_bytes += base.size_bytes;
            let (images, stop) = (Arc::clone(images), exports.stop.clone());
            tokio::spawn(async move {
                let Some(source) = stop.run_until_cancelled(open_in_the_end(&*images, &base)).await else { return };
                let export = Export { name: String::new(), source, counters };
                lazuli_nbd::serve_unix(listener, export, stop).await;
            });
        }
        Ok(exports)
    }

    fn add(&mut self, base: &BaseImage, source: Arc<dyn BlockSource>) -> Export {
        let export = Export::new("", source);
        self.counters.push(Arc::clone(&export.counters));
        self.image_bytes += base.size_bytes;
        export
    }

    pub fn reads(&self) -> DiskReads {
        let sum = |of: fn(&Counters) -> u64| self.counters.iter().map(|c| of(c)).sum();
        DiskReads {
            reads: sum(|c| c.reads.load(Ordering::Relaxed)),
            bytes: sum(|c| c.bytes.load(Ordering::Relaxed)),
            image_bytes: self.image_bytes,
        }
    }
}

fn bases(spec: &VmSpec, files: &VmFiles) -> Vec<(BaseImage, PathBuf)> {
    spec.disks().filter_map(|disk| Some((disk.base.clone()?, files.base(&disk.label())))).collect()
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
