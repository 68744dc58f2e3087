//! What belongs to an image besides its disks: files in the content store, to which the image's own row refers.
//!
//! ```text
//! build        what is known of its build ([`crate::build_record`]), in the image's region
//! boot trace   what a start read of its OS disk, in order, in every region that serves the image: first starts there fetch ahead
//! ```
//! They come after the bytes of the disks: an image is whole, and may be used, before they are there.

use crate::content::{guard, manifest_id, store_of, store_op_error};
use crate::operation::{OpContext, OpError};
use crate::operations::image_version::region_names;
use crate::regions::ContentGuard;
use crate::shared_galleries::VERSIONS;
use crate::sources::take_over;
use crate::stored::{BootTrace, ImageVersionInternal, ManagedImageInternal, Stored, StoredFile, change_internal};
use crate::{db_error, new_etag};
use lazuli_arm::ArmError;
use lazuli_chunks::Progress;
use lazuli_meta::WriteError;
use lazuli_meta::model::{Change, Conflict, Expect, Resource, Write};

/// One of an image's files.
#[derive(Debug, Clone)]
pub(crate) enum ImageFile {
    Build(StoredFile),
    BootTrace(BootTrace),
}

impl ImageFile {
    fn stored(&self) -> Option<&Stored> {
        match self {
            Self::Build(file) => file.stored.as_ref(),
            Self::BootTrace(trace) => Some(&trace.stored),
        }
    }

    /// Where it is to be.
    fn regions(&self, image: &Resource) -> Vec<String> {
        match self {
            Self::BootTrace(_) if image.kind == VERSIONS => region_names(image),
            _ => vec![image.location.clone()],
        }
    }

    fn put_into(&self, image: &mut Resource) {
        type Version = ImageVersionInternal;
        type Managed = ManagedImageInternal;
        match (self, image.kind == VERSIONS) {
            (Self::Build(file), true) => change_internal(image, |s: &mut Version| s.build = Some(file.clone())),
            (Self::Build(file), false) => change_internal(image, |s: &mut Managed| s.build = Some(file.clone())),
            (Self::BootTrace(t), true) => change_internal(image, |s: &mut Version| s.boot_trace = Some(t.clone())),
            (Self::BootTrace(t), false) => change_internal(image, |s: &mut Managed| s.boot_trace = Some(t.clone())),
        }
    }
}

/// Where a file was written, and the key of whoever keeps its bytes there meanwhile.
pub(crate) struct Written<'a> {
    pub file: ImageFile,
    pub region: &'a str,
    pub holder: &'a str,
}

/// Binds the file to an image's row (by its key), and brings it where it is to be. An image that was deleted needs it no more.
pub(crate) async fn attach(cx: &OpContext, key: &str, written: &Written<'_>) -> Result<(), OpError> {
    loop {
        let Some(mut row) = cx.engine.db().resource(key).await.map_err(db_error)? else { return Ok(()) };
        let expect = Expect::Etag(row.etag.clone());
        written.file.put_into(&mut row);
        row.etag = new_etag();
        let mut changes = Vec::new();
        let mut guards = Vec::new();
        if let Some(stored) = written.file.stored() {
            for region in written.file.regions(&row) {
                // Held until the references are committed.
                let (guard, holder) = bring(cx, key, &region, written, stored).await?;
                guards.push(guard);
                changes.extend(take_over(holder, key, &region, stored));
            }
        }
        changes.push(Change::PutResource { resource: row, expect });
        let write = Write { fence: Some((cx.op.id.clone(), cx.op.fence)), changes };
        match cx.engine.db().write(write).await {
            Ok(()) => return Ok(()),
            // It was changed meanwhile, or deleted.
            Err(WriteError::Conflict(Conflict::Etag { .. })) => cx.check()?,
            Err(WriteError::Conflict(Conflict::Missing { key: missing })) if missing == key => cx.check()?,
            Err(WriteError::Conflict(Conflict::Fenced { .. })) => return Err(OpError::Interrupted),
            Err(error) => return Err(OpError::Failed(ArmError::internal(error))),
        }
    }
}

/// The bytes in the store of a region that what `key` refers to lies in; and who keeps them there, if they were not brought.
async fn bring<'a>(
    cx: &OpContext,
    key: &str,
    region: &str,
    written: &Written<'a>,
    stored: &Stored,
) -> Result<(ContentGuard, Option<&'a str>), OpError> {
    let manifest = manifest_id(&stored.manifest)?;
    let guard = guard(cx, region, key).await?;
    if region == written.region && guard.region.holds(manifest) {
        return Ok((guard, Some(written.holder)));
    }
    let source = store_of(cx, written.region, written.holder, manifest).await?;
    let moved = guard.region.replicate_from(&source, manifest, &Progress::new(), &cx.stop).await;
    moved.map_err(|e| store_op_error(cx, e, region))?;
    Ok((guard, None))
}
