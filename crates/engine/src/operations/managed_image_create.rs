//! Makes a managed image of its disks: each is settled as one manifest of exactly its size, which the image references.
//!
//! Nothing is undone after a failure: what was settled stays referenced by the image, so that another PUT goes on and a DELETE
//! frees it.

use crate::content::{release_others, settle_all};
use crate::operation::{OpContext, OpError, Operation, Outcome};
use crate::providers::managed_image::Parts;
use crate::stored::{ManagedImageInternal, Stored, to_internal};
use async_trait::async_trait;
use lazuli_arm::ArmError;
use lazuli_arm::bodies::{disk::gib_of, managed_image::show_sizes};
use std::collections::BTreeMap;

pub(crate) struct ManagedImageCreate;

#[async_trait]
impl Operation for ManagedImageCreate {
    fn kind(&self) -> &'static str {
        "managed_image.create"
    }

    async fn run(&self, cx: &OpContext) -> Result<Outcome, OpError> {
        let Parts { os, data } = cx.params()?;
        let row = cx.resource().await?;
        let mut disks = vec![("settle".to_owned(), &os)];
        disks.extend(data.iter().map(|(lun, found)| (format!("settle data disk {lun}"), found)));
        let mut settled = settle_all(cx, &row.key, &row.location, &disks).await?.into_iter();
        let os_disk = settled.next().ok_or_else(|| ArmError::internal("an image has no OS disk"))?;
        let data_disks: BTreeMap<u32, Stored> = data.keys().copied().zip(settled).collect();
        let keep = std::iter::once(&os_disk).chain(data_disks.values());
        let changes = release_others(cx, &row.key, &row.location, keep).await?;
        let state = ManagedImageInternal { os_disk: Some(os_disk.clone()), data_disks, ..Default::default() };
        let update = Outcome::update(move |row| {
            let gib = |lun| state.data_disks.get(&lun).map(|d| gib_of(d.size_bytes));
            show_sizes(&mut row.body, gib_of(os_disk.size_bytes), gib);
            row.internal = to_internal(&state);
        });
        Ok(Outcome { changes, ..update })
    }
}
