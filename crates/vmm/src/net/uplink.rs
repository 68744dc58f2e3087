//! The way from a virtual network onto a LAN of this computer: frames as they are, through a tap device.
//!
//! What may pass is decided elsewhere ([`super::lan`], [`super::security`]); here frames are only carried. Those from the LAN wait in a
//! queue of their own, so that a flood there is lost in the kernel and holds no guest back; those to the LAN are lost when it takes none,
//! as on a wire.

use std::io;

use bytes::Bytes;
use rustix::io::Errno;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::bridge::{Bridge, Lan};
use super::error::UplinkError;
use super::tap::Tap;

/// Frames that wait, each way.
const QUEUE: usize = 1024;
/// Room for a frame, and for more so that a longer one shows.
const FRAME: usize = 2048;

/// An open way onto a LAN. Dropping it closes it, and removes a port that was made for it.
#[derive(Debug)]
pub struct Uplink {
    pub(super) lan: Lan,
    pub(super) to_lan: mpsc::Sender<Bytes>,
    pub(super) from_lan: mpsc::Receiver<Bytes>,
    pub(super) task: AbortOnDropHandle<()>,
}

impl Uplink {
    /// Opens the way that the operator has named. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// What is missing, and how to come by it.
    pub fn open(bridge: &Bridge) -> Result<Uplink, UplinkError> {
        let tap = match (&bridge.bridge, &bridge.tap) {
            (Some(bridge), _) => Tap::on_bridge(bridge)?,
            (None, Some(tap)) => Tap::existing(tap)?,
            (None, None) => return Err(UplinkError::NotHere { network: bridge.network.clone() }),
        };
        let (to_lan, queue) = mpsc::channel(QUEUE);
        let (frames, from_lan) = mpsc::channel(QUEUE);
        let task = AbortOnDropHandle::new(tokio::spawn(carry(tap, queue, frames)));
        Ok(Uplink { lan: bridge.lan(), to_lan, from_lan, task })
    }
}

async fn carry(tap: Tap, queue: mpsc::Receiver<Bytes>, frames: mpsc::Sender<Bytes>) {
    let ended = tokio::select! {
        ended = upwards(&tap, frames) => ended,
        ended = downwards(&tap, queue) => ended,
    };
    if let Err(error) = ended {
        tracing::error!(device = tap.name, %error, "a virtual network has lost its LAN; restart the host process once it is there again");
    }
}

async fn upwards(tap: &Tap, frames: mpsc::Sender<Bytes>) -> io::Result<()> {
    let mut buffer = vec![0; FRAME];
    loop {
        let length = tap.read(&mut buffer).await?;
        if frames.send(Bytes::copy_from_slice(&buffer[..length])).await.is_err() {
            return Ok(());
        }
    }
}

async fn downwards(tap: &Tap, mut queue: mpsc::Receiver<Bytes>) -> io::Result<()> {
    while let Some(frame) = queue.recv().await {
        match tap.write(&frame).await {
            // A device that is down loses frames until it is up again.
            Err(error) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => {}
            result => result?,
        }
    }
    Ok(())
}
