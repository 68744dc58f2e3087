//! The host process: the door ([`HostClient`]) and what stands behind it.

mod api;
mod client;

use std::sync::Arc;

use async_trait::async_trait;
use lazuli_nbd::BlockSource;

pub use api::{HostErrorCode, HostInfo};
pub use client::{ClientError, HostClient};

/// Where base images come from; implemented over the content store.
#[async_trait]
pub trait BaseImages: Send + Sync + 'static {
    /// Opens the image a [`BaseImage::source`](crate::spec::BaseImage::source) names. It must be immutable.
    async fn open(&self, source: &str) -> Result<Arc<dyn BlockSource>, BaseImageError>;
}

/// Why a base image cannot be opened.
pub type BaseImageError = Box<dyn std::error::Error + Send + Sync>;
