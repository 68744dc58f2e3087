//! The link to one NIC: QEMU's stream protocol on a unix socket.
//!
//! ```text
//! wire := { length: u32 big-endian, frame: [u8; length] }*      both ways, frame = Ethernet without checksum
//! ```
//!
//! One QEMU speaks at a time; a new connection replaces the old one. Frames from the guest wait in the actor's bounded
//! inbox, so that a flood is held back in QEMU; frames to the guest are dropped when it takes none, as on a wire.

use std::io;
use std::path::{Path, PathBuf};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::NetError;

/// Longest frame that QEMU can send. Beyond it the stream is out of step.
const MAX_WIRE_FRAME: usize = 64 * 1024 + 64;
/// Frames that wait for one guest.
const QUEUE_TO_GUEST: usize = 1024;
/// Bytes written to QEMU in one call.
const WRITE_BATCH: usize = 128 * 1024;

/// One attachment of a NIC; never reused, so that what an old one left in a queue is recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct NicKey(pub(super) u64);

/// What comes up from a link, in this order for each connection: `Up`, `Frame`s, `Down`.
#[derive(Debug)]
pub(super) enum LinkEvent {
    /// QEMU connected; frames for the guest go into the queue.
    Up(mpsc::Sender<Bytes>),
    Frame(Bytes),
    Down,
}

/// A listening socket with the task that serves it. Dropping it hangs up and removes the socket.
#[derive(Debug)]
pub(super) struct Link {
    path: PathBuf,
    _task: AbortOnDropHandle<()>,
}

impl Link {
    pub(super) fn listen(
        path: &Path,
        key: NicKey,
        events: mpsc::Sender<(NicKey, LinkEvent)>,
    ) -> Result<Link, NetError> {
        let listener = bind(path).map_err(|source| NetError::Socket { path: path.to_owned(), source })?;
        let task = AbortOnDropHandle::new(tokio::spawn(serve(listener, key, events)));
        Ok(Link { path: path.to_owned(), _task: task })
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // The file may be gone with its folder.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Binds the socket for its owner alone. A socket of an earlier process is removed, another kind of file is not.
fn bind(path: &Path) -> io::Result<UnixListener> {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};
    match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.file_type().is_socket() => std::fs::remove_file(path)?,
        Ok(_) => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file that is not a socket is in the way"));
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn serve(listener: UnixListener, key: NicKey, events: mpsc::Sender<(NicKey, LinkEvent)>) {
    let mut next = None;
    loop {
        let stream = match next.take() {
            Some(stream) => stream,
            None => accept(&listener).await,
        };
        let (to_guest, queue) = mpsc::channel(QUEUE_TO_GUEST);
        if events.send((key, LinkEvent::Up(to_guest))).await.is_err() {
            return;
        }
        let (reader, writer) = stream.into_split();
        tokio::select! {
            result = read_frames(reader, key, &events) => tracing::debug!(nic = key.0, ?result, "QEMU hung up"),
            result = write_frames(writer, queue) => tracing::debug!(nic = key.0, ?result, "QEMU takes no more frames"),
            newer = accept(&listener) => next = Some(newer),
        }
        if events.send((key, LinkEvent::Down)).await.is_err() {
            return;
        }
    }
}

async fn accept(listener: &UnixListener) -> UnixStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => {
                // Out of descriptors, most likely: others may give some back.
                tracing::warn!(%error, "cannot accept QEMU's connection");
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            }
        }
    }
}

async fn read_frames(
    mut reader: OwnedReadHalf,
    key: NicKey,
    events: &mpsc::Sender<(NicKey, LinkEvent)>,
) -> io::Result<()> {
    let mut buffer = BytesMut::with_capacity(256 * 1024);
    loop {
        while let Some(frame) = take_frame(&mut buffer)? {
            if events.send((key, LinkEvent::Frame(frame))).await.is_err() {
                return Ok(());
            }
        }
        buffer.reserve(64 * 1024);
        if reader.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
    }
}

async fn write_frames(mut writer: OwnedWriteHalf, mut queue: mpsc::Receiver<Bytes>) -> io::Result<()> {
    let mut batch = Vec::with_capacity(WRITE_BATCH);
    while let Some(frame) = queue.recv().await {
        put_frame(&mut batch, &frame);
        while batch.len() < WRITE_BATCH
            && let Ok(frame) = queue.try_recv()
        {
            put_frame(&mut batch, &frame);
        }
        writer.write_all(&batch).await?;
        batch.clear();
    }
    Ok(())
}

/// Takes the first whole frame off `buffer`; `None` if more bytes are needed.
pub(super) fn take_frame(buffer: &mut BytesMut) -> io::Result<Option<Bytes>> {
    let Some(header) = buffer.first_chunk::<4>() else {
        return Ok(None);
    };
    let length = usize::try_from(u32::from_be_bytes(*header)).unwrap_or(usize::MAX);
    if length > MAX_WIRE_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame longer than QEMU can send"));
    }
    if buffer.len() < 4 + length {
        return Ok(None);
    }
    buffer.advance(4);
    Ok(Some(buffer.split_to(length).freeze()))
}

/// Appends a frame in the wire's form. Frames are made by this module's siblings or came in by [`take_frame`].
pub(super) fn put_frame(out: &mut Vec<u8>, frame: &[u8]) {
    let length = u32::try_from(frame.len()).expect("no frame is longer than MAX_WIRE_FRAME");
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(frame);
}
