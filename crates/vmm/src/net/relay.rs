//! The task behind an open TCP connection: it moves bytes between the actor and the other end.
//!
//! Flow control is by credit. Towards the other end the actor keeps count of what it has sent and not yet seen written
//! ([`RelayEvent::Wrote`]); towards the guest each chunk read takes one of [`CHUNKS`] permits, which the actor gives back
//! when the guest's socket has room for it. So a connection holds a bounded number of bytes, and a slow side slows the
//! other one.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

/// Largest chunk towards the guest.
const CHUNK: usize = 32 * 1024;
/// Chunks on their way to the guest.
const CHUNKS: usize = 4;

/// What a chunk costs while it is on its way to the peer: its bytes and, as a guest may send single bytes, its keeping.
pub(super) fn cost(chunk: &Bytes) -> usize {
    chunk.len() + 256
}

/// One connection of the TCP table; never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct FlowId(pub(super) u64);

#[derive(Debug)]
pub(super) enum RelayEvent {
    /// NAT's connection was made, or not.
    Dialed(io::Result<TcpStream>),
    /// Bytes for the guest.
    Data(Bytes),
    /// The other end will send no more.
    End,
    /// A chunk of the guest's was taken; its [`cost`].
    Wrote(usize),
    /// The other end takes no more.
    Broken,
    /// The other end was reset.
    Reset,
}

pub(super) type RelayEvents = mpsc::UnboundedSender<(FlowId, RelayEvent)>;

/// The other end of a guest's connection.
#[derive(Debug)]
pub(super) enum Peer {
    Tcp(TcpStream),
    Memory(DuplexStream),
}

/// What the guest sends.
#[derive(Debug)]
enum FromGuest {
    Data(Bytes),
    End,
}

/// The actor's side of a relay. Dropped after [`Relay::finish`] it lets the task finish what it has got; dropped before,
/// it resets the peer.
#[derive(Debug)]
pub(super) struct Relay {
    to_peer: mpsc::UnboundedSender<FromGuest>,
    finished: bool,
    credit: Arc<Semaphore>,
    reset: CancellationToken,
}

impl Relay {
    /// Starts the task; it holds `permit` until it ends.
    pub(super) fn spawn(id: FlowId, peer: Peer, events: RelayEvents, permit: OwnedSemaphorePermit) -> Relay {
        let (to_peer, from_guest) = mpsc::unbounded_channel();
        let credit = Arc::new(Semaphore::new(CHUNKS));
        let reset = CancellationToken::new();
        let task = Task { id, events, from_guest, credit: Arc::clone(&credit) };
        let stop = reset.clone();
        tokio::spawn(async move {
            task.run(peer, stop).await;
            drop(permit);
        });
        Relay { to_peer, finished: false, credit, reset }
    }

    /// Sends bytes of the guest's on. The caller bounds what is on its way.
    pub(super) fn send(&self, bytes: Bytes) {
        // The task has ended only if the peer is broken, which it has told.
        let _ = self.to_peer.send(FromGuest::Data(bytes));
    }

    /// The guest will send no more: the peer sees the end after what was sent.
    pub(super) fn finish(&mut self) {
        let _ = self.to_peer.send(FromGuest::End);
        self.finished = true;
    }

    pub(super) fn is_finished(&self) -> bool {
        self.finished
    }

    /// The guest has room for one more chunk.
    pub(super) fn give_credit(&self) {
        self.credit.add_permits(1);
    }

    /// Cuts the connection: the peer sees a reset, not an orderly end.
    pub(super) fn reset(&self) {
        self.reset.cancel();
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if !self.finished {
            self.reset.cancel();
        }
    }
}

struct Task {
    id: FlowId,
    events: RelayEvents,
    from_guest: mpsc::UnboundedReceiver<FromGuest>,
    credit: Arc<Semaphore>,
}

impl Task {
    async fn run(self, peer: Peer, reset: CancellationToken) {
        match peer {
            Peer::Tcp(mut stream) => {
                let (reader, writer) = stream.split();
                let cut = tokio::select! {
                    () = reset.cancelled() => true,
                    () = self.pump(reader, writer) => false,
                };
                if cut {
                    cut_off(stream);
                }
            }
            Peer::Memory(stream) => {
                let (reader, writer) = tokio::io::split(stream);
                tokio::select! {
                    () = reset.cancelled() => {}
                    () = self.pump(reader, writer) => {}
                }
            }
        }
    }

    async fn pump(self, reader: impl AsyncRead + Unpin, writer: impl AsyncWrite + Unpin) {
        let Task { id, events, from_guest, credit } = self;
        tokio::join!(to_guest(id, reader, &events, &credit), to_peer(id, writer, &events, from_guest));
    }
}

async fn to_guest(id: FlowId, mut reader: impl AsyncRead + Unpin, events: &RelayEvents, credit: &Semaphore) {
    let mut buffer = vec![0; CHUNK];
    loop {
        let Ok(permit) = credit.acquire().await else { return };
        permit.forget();
        let (event, ends) = match reader.read(&mut buffer).await {
            Ok(0) => (RelayEvent::End, true),
            Ok(n) => (RelayEvent::Data(Bytes::copy_from_slice(&buffer[..n])), false),
            Err(_) => (RelayEvent::Reset, true),
        };
        if events.send((id, event)).is_err() || ends {
            return;
        }
    }
}

async fn to_peer(
    id: FlowId,
    mut writer: impl AsyncWrite + Unpin,
    events: &RelayEvents,
    mut from_guest: mpsc::UnboundedReceiver<FromGuest>,
) {
    loop {
        let bytes = match from_guest.recv().await {
            Some(FromGuest::Data(bytes)) => bytes,
            Some(FromGuest::End) => break,
            // Dropped before its end: the reset is on its way.
            None => return std::future::pending().await,
        };
        let event = match writer.write_all(&bytes).await {
            Ok(()) => RelayEvent::Wrote(cost(&bytes)),
            Err(_) => RelayEvent::Broken,
        };
        let broken = matches!(event, RelayEvent::Broken);
        if events.send((id, event)).is_err() || broken {
            return;
        }
    }
    // A peer that is gone already needs no goodbye.
    let _ = writer.shutdown().await;
}

/// Drops a connection so that its client sees a reset.
pub(super) fn cut_off(stream: TcpStream) {
    if let Err(error) = stream.set_zero_linger() {
        tracing::debug!(%error, "cannot reset a connection, closing it");
    }
}
