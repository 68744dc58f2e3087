//! The server: connections in, a [`BlockSource`](crate::BlockSource) behind. It must never trust a client with memory: requests in
//! flight and the bytes they ask for are bounded per connection.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, ReadHalf, WriteHalf};
use tokio::net::UnixListener;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::negotiate::{ALLOCATION_ID, Agreed, Negotiation, Next};
use crate::proto::{
    self, ChunkHeader, Errno, MAX_OPTION, MAX_READ, OPTION_LEN, OptionHeader, OptionReply, ProtocolError, REQUEST_LEN,
    Request, allocation, chunk, command, command_flag, handshake_flag, option_reply,
};
use crate::source::{Export, Extent, tidy};

/// Requests of one connection that are worked on at a time.
const MAX_IN_FLIGHT: usize = 32;
/// Bytes that the READs among them may ask for, at least one READ of the largest size.
const MAX_BYTES_IN_FLIGHT: usize = 2 * MAX_READ as usize;
/// Options that a client may send before it starts.
const MAX_OPTIONS: usize = 256;
/// Option data beyond this is not even skipped.
const MAX_SKIPPED_OPTION: u32 = 1 << 20;
/// A BLOCK_STATUS is answered for at most this many bytes (a shorter answer is legal) and extents.
const MAX_STATUS_BYTES: u64 = 1 << 30;
const MAX_STATUS_EXTENTS: usize = 8192;
/// How long requests in flight may take when the server stops or the client has gone.
const DRAIN: Duration = Duration::from_secs(5);

/// Why a connection ended before its time.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    #[error("the NBD connection broke")]
    Io(#[from] io::Error),
    #[error("the NBD client broke the protocol")]
    Protocol(#[from] ProtocolError),
    #[error("the NBD client sent {MAX_OPTIONS} options without starting")]
    TooManyOptions,
    #[error("the NBD client sent an option of {len} bytes")]
    OptionTooLong { len: u32 },
}

/// Serves `export` to all who connect to `listener`, until `shutdown`; requests in flight then get five seconds.
pub async fn serve_unix(listener: UnixListener, export: Export, shutdown: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let (export, shutdown) = (export.clone(), shutdown.clone());
                connections.spawn(async move {
                    let name = export.name.clone();
                    if let Err(error) = serve_connection(stream, export, shutdown).await {
                        tracing::debug!(
                            export = name,
                            error = &error as &dyn std::error::Error,
                            "NBD connection ended"
                        );
                    }
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: others must close theirs first.
                tracing::warn!(export = export.name, %error, "cannot accept an NBD connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Serves `export` on one connected stream until the client leaves, an error, or `shutdown`.
///
/// # Errors
/// [`ConnectionError`]; a client that just goes away is none.
pub async fn serve_connection<S>(stream: S, export: Export, shutdown: CancellationToken) -> Result<(), ConnectionError>
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (reader, mut writer) = tokio::io::split(stream);
    let mut reader = BufReader::new(reader);
    let agreed = tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        agreed = negotiate(&mut reader, &mut writer, &export) => agreed,
    };
    match agreed {
        Ok(Some(agreed)) => transmit(reader, writer, export, agreed, shutdown).await,
        Ok(None) => Ok(writer.shutdown().await?),
        Err(ConnectionError::Io(error)) if has_left(&error) => Ok(()),
        Err(error) => Err(error),
    }
}

fn has_left(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | ConnectionReset | BrokenPipe)
}

type Reader<S> = BufReader<ReadHalf<S>>;

/// `None`: the client does not want to go on.
async fn negotiate<S>(
    reader: &mut Reader<S>,
    writer: &mut WriteHalf<S>,
    export: &Export,
) -> Result<Option<Agreed>, ConnectionError>
where
    S: AsyncRead + AsyncWrite,
{
    let ours = handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES;
    writer.write_all(&proto::greeting(ours)).await?;
    let theirs = reader.read_u32().await?;
    if theirs & !u32::from(ours) != 0 {
        return Ok(None);
    }
    let no_zeroes = theirs & u32::from(handshake_flag::NO_ZEROES) != 0;
    let mut negotiation = Negotiation::new(&export.name, export.source.size(), no_zeroes);
    for _ in 0..MAX_OPTIONS {
        let mut header = [0; OPTION_LEN];
        reader.read_exact(&mut header).await?;
        let header = OptionHeader::parse(&header)?;
        if header.len > MAX_OPTION {
            refuse_long_option(reader, writer, header).await?;
            continue;
        }
        let mut data = vec![0; usize::try_from(header.len).unwrap_or(0)];
        reader.read_exact(&mut data).await?;
        let (reply, next) = negotiation.option(header.option, &data);
        writer.write_all(&reply).await?;
        match next {
            Next::Continue => {}
            Next::Transmit(agreed) => return Ok(Some(agreed)),
            Next::Close => return Ok(None),
        }
    }
    Err(ConnectionError::TooManyOptions)
}

async fn refuse_long_option<S>(
    reader: &mut Reader<S>,
    writer: &mut WriteHalf<S>,
    header: OptionHeader,
) -> Result<(), ConnectionError>
where
    S: AsyncRead + AsyncWrite,
{
    if header.len > MAX_SKIPPED_OPTION || header.option == proto::option::EXPORT_NAME {
        return Err(ConnectionError::OptionTooLong { len: header.len });
    }
    skip(reader, u64::from(header.len)).await?;
    let reply = OptionReply::error(header.option, option_reply::ERR_TOO_BIG, "the option is too long");
    Ok(writer.write_all(&reply.encode()).await?)
}

async fn skip<R: AsyncRead + Unpin>(reader: &mut R, len: u64) -> io::Result<()> {
    let skipped = tokio::io::copy(&mut reader.take(len), &mut tokio::io::sink()).await?;
    if skipped == len { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// What an accepted request asks for; the range is not empty and inside the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    /// `whole`: in one piece, holes as zeros.
    Read {
        offset: u64,
        len: u32,
        whole: bool,
    },
    Cache {
        offset: u64,
        len: u32,
    },
    Status {
        offset: u64,
        len: u32,
        one: bool,
    },
}

/// Decides about a request to a disk of `size` bytes.
fn judge(request: &Request, agreed: Agreed, size: u64) -> Result<Action, Errno> {
    let Request { flags, command: code, offset, len, .. } = *request;
    let known_flags = match code {
        command::READ if agreed.structured => command_flag::DF,
        command::BLOCK_STATUS if agreed.allocation => command_flag::REQ_ONE,
        command::READ | command::CACHE => 0,
        command::WRITE | command::TRIM | command::WRITE_ZEROES => return Err(Errno::Perm),
        _ => return Err(Errno::Invalid),
    };
    let inside = offset.checked_add(u64::from(len)).is_some_and(|end| end <= size);
    if flags & !known_flags != 0 || len == 0 || !inside {
        return Err(Errno::Invalid);
    }
    match code {
        command::READ if len > MAX_READ => Err(Errno::Invalid),
        command::READ => Ok(Action::Read { offset, len, whole: !agreed.structured || flags & command_flag::DF != 0 }),
        command::CACHE => Ok(Action::Cache { offset, len }),
        _ => Ok(Action::Status { offset, len, one: flags & command_flag::REQ_ONE != 0 }),
    }
}

/// What the tasks of one connection share.
struct Connection<W> {
    export: Export,
    agreed: Agreed,
    writer: Mutex<W>,
}

async fn transmit<S>(
    mut reader: Reader<S>,
    writer: WriteHalf<S>,
    export: Export,
    agreed: Agreed,
    shutdown: CancellationToken,
) -> Result<(), ConnectionError>
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let connection = Arc::new(Connection { export, agreed, writer: Mutex::new(writer) });
    // Also cancelled by a task that could not send its reply.
    let stop = shutdown.child_token();
    let mut tasks = JoinSet::new();
    let result = tokio::select! {
        () = stop.cancelled() => Ok(()),
        result = receive(&mut reader, &connection, &mut tasks, &stop) => result,
    };
    let drained = tokio::time::timeout(DRAIN, async { while tasks.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        tasks.shutdown().await;
    }
    // The other side may have gone already.
    let _ = connection.writer.lock().await.shutdown().await;
    match result {
        Err(ConnectionError::Io(error)) if has_left(&error) => Ok(()),
        other => other,
    }
}

/// Reads requests and starts a task for each, until DISC.
async fn receive<S>(
    reader: &mut Reader<S>,
    connection: &Arc<Connection<WriteHalf<S>>>,
    tasks: &mut JoinSet<()>,
    stop: &CancellationToken,
) -> Result<(), ConnectionError>
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let requests = Arc::new(Semaphore::new(MAX_IN_FLIGHT));
    let bytes = Arc::new(Semaphore::new(MAX_BYTES_IN_FLIGHT));
    loop {
        let mut header = [0; REQUEST_LEN];
        reader.read_exact(&mut header).await?;
        let request = Request::parse(&header)?;
        if request.command == command::DISC {
            return Ok(());
        }
        if request.command == command::WRITE {
            skip(reader, u64::from(request.len)).await?;
        }
        let action = judge(&request, connection.agreed, connection.export.source.size());
        let cost = if let Ok(Action::Read { len, .. }) = action { len } else { 0 };
        let permits = (acquire(&requests, 1).await?, acquire(&bytes, cost).await?);
        while tasks.try_join_next().is_some() {}
        let (connection, stop) = (Arc::clone(connection), stop.clone());
        tasks.spawn(async move {
            // A task that fails, or panics in its source, ends the connection: its client would wait for ever.
            let guard = stop.drop_guard();
            if connection.answer(&request, action).await.is_ok() {
                guard.disarm();
            }
            drop(permits);
        });
    }
}

async fn acquire(semaphore: &Arc<Semaphore>, permits: u32) -> io::Result<OwnedSemaphorePermit> {
    Arc::clone(semaphore).acquire_many_owned(permits).await.map_err(io::Error::other)
}

impl<W: AsyncWrite + Unpin> Connection<W> {
    async fn answer(&self, request: &Request, action: Result<Action, Errno>) -> io::Result<()> {
        let reply = match action {
            Ok(action) => self.perform(request.cookie, action).await.map_err(|error| {
                tracing::warn!(export = self.export.name, ?action, %error, "an NBD request failed");
                Errno::Io
            }),
            Err(errno) => Err(errno),
        };
        let reply = reply.unwrap_or_else(|errno| {
            self.export.counters.count_error();
            if self.agreed.structured {
                proto::error_chunk(request.cookie, errno)
            } else {
                proto::simple_reply(request.cookie, errno.code())
            }
        });
        let mut writer = self.writer.lock().await;
        writer.write_all(&reply).await?;
        writer.flush().await
    }

    /// The reply to an action, as bytes.
    async fn perform(&self, cookie: u64, action: Action) -> io::Result<Vec<u8>> {
        let source = &self.export.source;
        match action {
            Action::Read { offset, len, whole } => {
                let reply = if whole && !self.agreed.structured {
                    let mut reply = proto::simple_reply(cookie, 0);
                    self.append_data(&mut reply, offset, u64::from(len)).await?;
                    reply
                } else {
                    self.read_chunks(cookie, offset, u64::from(len), whole).await?
                };
                self.export.counters.count_read(u64::from(len));
                Ok(reply)
            }
            Action::Cache { offset, len } => {
                source.cache(offset, u64::from(len)).await?;
                if !self.agreed.structured {
                    return Ok(proto::simple_reply(cookie, 0));
                }
                let mut reply = Vec::new();
                ChunkHeader { flags: chunk::DONE, kind: chunk::NONE, cookie, len: 0 }.encode(&mut reply);
                Ok(reply)
            }
            Action::Status { offset, len, one } => {
                let len = u64::from(len).min(MAX_STATUS_BYTES);
                let mut extents = tidy(&source.extents(offset, len).await?, len);
                extents.truncate(if one { 1 } else { MAX_STATUS_EXTENTS });
                Ok(status_chunk(cookie, &extents))
            }
        }
    }

    async fn read_chunks(&self, cookie: u64, offset: u64, len: u64, whole: bool) -> io::Result<Vec<u8>> {
        let extents = if whole {
            vec![Extent { len, hole: false }]
        } else {
            tidy(&self.export.source.extents(offset, len).await?, len)
        };
        let mut reply = Vec::new();
        let mut at = offset;
        for (index, extent) in extents.iter().enumerate() {
            let flags = if index + 1 == extents.len() { chunk::DONE } else { 0 };
            // All lengths here are at most MAX_READ.
            let short = u32::try_from(extent.len).map_err(io::Error::other)?;
            if extent.hole {
                ChunkHeader { flags, kind: chunk::OFFSET_HOLE, cookie, len: 12 }.encode(&mut reply);
                reply.extend(at.to_be_bytes());
                reply.extend(short.to_be_bytes());
            } else {
                ChunkHeader { flags, kind: chunk::OFFSET_DATA, cookie, len: short + 8 }.encode(&mut reply);
                reply.extend(at.to_be_bytes());
                self.append_data(&mut reply, at, extent.len).await?;
            }
            at += extent.len;
        }
        Ok(reply)
    }

    async fn append_data(&self, reply: &mut Vec<u8>, offset: u64, len: u64) -> io::Result<()> {
        let start = reply.len();
        reply.resize(start + usize::try_from(len).map_err(io::Error::other)?, 0);
        self.export.source.read_at(offset, reply.get_mut(start..).unwrap_or_default()).await
    }
}

/// u32 context, then per extent u32 length, u32 flags.
fn status_chunk(cookie: u64, extents: &[Extent]) -> Vec<u8> {
    let mut data = ALLOCATION_ID.to_be_bytes().to_vec();
    for extent in extents {
        let flags = if extent.hole { allocation::HOLE | allocation::ZERO } else { 0 };
        // At most MAX_STATUS_BYTES.
        data.extend(u32::try_from(extent.len).unwrap_or(u32::MAX).to_be_bytes());
        data.extend(flags.to_be_bytes());
    }
    let mut reply = Vec::new();
    let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
    ChunkHeader { flags: chunk::DONE, kind: chunk::BLOCK_STATUS, cookie, len }.encode(&mut reply);
    reply.extend(data);
    reply
}

#[cfg(test)]
mod tests {
    use super::{Action, judge};
    use crate::negotiate::Agreed;
    use crate::proto::{Errno, MAX_READ, Request, command, command_flag};
    use proptest::prelude::*;

    fn request(command: u16, flags: u16, offset: u64, len: u32) -> Request {
        Request { flags, command, cookie: 0, offset, len }
    }

    #[test]
    fn requests_are_judged() {
        let all = Agreed { structured: true, allocation: true };
        let size = 1 << 30;
        let ok = judge(&request(command::READ, command_flag::DF, size - 512, 512), all, size);
        assert_eq!(ok, Ok(Action::Read { offset: size - 512, len: 512, whole: true }));
        for command in [command::WRITE, command::TRIM, command::WRITE_ZEROES] {
            assert_eq!(judge(&request(command, 0, 0, 512), all, size), Err(Errno::Perm));
        }
        for (command, flags, offset, len) in [
            (command::READ, 0, size - 511, 512),
            (command::READ, 0, u64::MAX, 2),
            (command::READ, 0, 0, 0),
            (command::READ, 0, 0, MAX_READ + 1),
            (command::READ, command_flag::REQ_ONE, 0, 1),
            (command::FLUSH, 0, 0, 0),
            (999, 0, 0, 1),
        ] {
            assert_eq!(judge(&request(command, flags, offset, len), all, size), Err(Errno::Invalid), "{command} {len}");
        }
        let plain = Agreed::default();
        assert_eq!(judge(&request(command::BLOCK_STATUS, 0, 0, 1), plain, size), Err(Errno::Invalid));
        assert_eq!(judge(&request(command::READ, command_flag::DF, 0, 1), plain, size), Err(Errno::Invalid));
    }

    proptest! {
        #[test]
        fn what_is_accepted_lies_inside(
            command in 0_u16..10, flags in 0_u16..32, offset: u64, len: u32, size: u64, structured: bool, allocation: bool,
        ) {
            let agreed = Agreed { structured, allocation };
            match judge(&request(command, flags, offset, len), agreed, size) {
                Ok(Action::Read { offset, len, .. }) => {
                    prop_assert!(len <= MAX_READ && offset.checked_add(len.into()).unwrap() <= size);
                }
                Ok(Action::Cache { offset, len } | Action::Status { offset, len, .. }) => {
                    prop_assert!(offset.checked_add(len.into()).unwrap() <= size);
                }
                Err(_) => {}
            }
        }
    }
}
