//! The end of `POST …/share`. The gallery's sharing profile, and what lists of consumers go by, were changed with the write that
//! started this; the operation exists because Azure answers with one, which ends without a result (recorded, where the Swagger has a `SharingUpdate`).

use crate::operation::{OpContext, OpError, Operation, Outcome};
use async_trait::async_trait;

pub(crate) struct GalleryShare;

#[async_trait]
impl Operation for GalleryShare {
    fn kind(&self) -> &'static str {
        "gallery.share"
    }

    async fn run(&self, _cx: &OpContext) -> Result<Outcome, OpError> {
        Ok(Outcome::default())
    }
}
