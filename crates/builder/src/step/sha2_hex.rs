//! A reader that hashes what it hands on.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use aws_lc_rs::digest::{Context as Digest, SHA256};
use tokio::io::{AsyncRead, ReadBuf};

pub(super) struct Sha256Hex<'a> {
    inner: &'a mut (dyn AsyncRead + Send + Unpin),
    digest: Digest,
}

impl<'a> Sha256Hex<'a> {
    pub(super) fn new(inner: &'a mut (dyn AsyncRead + Send + Unpin)) -> Self {
        Self { inner, digest: Digest::new(&SHA256) }
    }

    pub(super) fn finish(self) -> String {
        hex::encode(self.digest.finish())
    }
}

impl AsyncRead for Sha256Hex<'_> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut *self.inner).poll_read(cx, buffer))?;
        let new = buffer.filled().get(before..).unwrap_or_default();
        self.digest.update(new);
        Poll::Ready(Ok(()))
    }
}
