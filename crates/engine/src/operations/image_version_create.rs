//! Makes a version of its sources: settles the bytes of every disk in the version's own region, then brings them everywhere else.
//!
//! Nothing is undone after a failure: regions that were reached keep the bytes, so that a retry (another PUT) or a DELETE
//! finds them.

use super::image_version::{Caching, after_earlier, change_state, disks, replicate, settle_failed, settle_row};
use crate::content::{release_others, settle_all};
use crate::operation::{OpContext, OpError, Operation, Outcome};
use crate::providers::image_version::VersionSource;
use crate::stored::Stored;
use async_trait::async_trait;
use std::collections::BTreeMap;

pub(crate) struct ImageVersionCreate;

#[async_trait]
impl Operation for ImageVersionCreate {
    fn kind(&self) -> &'static str {
        "image_version.create"
    }

    async fn run(&self, cx: &OpContext) -> Result<Outcome, OpError> {
        let source: VersionSource = cx.params()?;
        after_earlier(cx).await?;
        let row = cx.resource().await?;
        let mut sources = vec![("settle".to_owned(), &source.os.disk)];
        sources.extend(source.data.iter().map(|(lun, part)| (format!("settle lun {lun}"), &part.disk)));
        let mut settled = settle_all(cx, &row.key, &row.location, &sources).await?.into_iter();
        let os = settled.next();
        let data: BTreeMap<u32, Stored> = source.data.keys().copied().zip(settled).collect();
        // Together: a version that has its OS disk has them all.
        cx.update_resource(|row| {
            change_state(row, |s| {
                s.os_disk.clone_from(&os);
                s.data_disks.clone_from(&data);
            });
        })
        .await?;
        let row = cx.resource().await?;
        let disks = disks(&row)?;
        cx.commit(release_others(cx, &row.key, &row.location, disks.iter()).await?).await?;
        replicate(cx, &row, &disks).await?;
        let caching: Caching =
            (source.os.caching, source.data.into_iter().map(|(lun, part)| (lun, part.caching)).collect());
        Ok(Outcome::update(move |row| settle_row(row, &caching)))
    }

    async fn undo(&self, _cx: &OpContext) -> Result<Outcome, OpError> {
        Ok(Outcome::update(settle_failed))
    }
}
