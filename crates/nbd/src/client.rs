//! A small client for tests and tools: one connection, one request at a time. It trusts a server no more than the server
//! trusts its clients.

use std::io;
use std::path::Path;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::Extent;
use crate::proto::{
    self, CHUNK_LEN, ChunkHeader, GREETING_LEN, MAX_OPTION, MAX_READ, OPTION_REPLY_LEN, OptionReply, OptionRequest,
    Parts, ProtocolError, Request, SIMPLE_REPLY_MAGIC, allocation, chunk, command, handshake_flag, info, option_reply,
};

/// Longest chunk without data that is accepted.
const MAX_CHUNK: u32 = 1 << 20;

/// Why the client could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("the NBD connection broke")]
    Io(#[from] io::Error),
    #[error("the NBD server broke the protocol")]
    Protocol(#[from] ProtocolError),
    /// The server refused an option: no such export, most likely.
    #[error("the NBD server refused option {option} ({kind:#x}): {text}")]
    Refused { option: u32, kind: u32, text: String },
    /// The server answered a request with this error (Linux's numbers).
    #[error("the NBD server answered with error {0}")]
    Remote(u32),
    /// The server does not report what is allocated.
    #[error("the NBD server does not offer base:allocation")]
    NoBlockStatus,
    /// The range lies outside the export, or is empty.
    #[error("{len} bytes at {offset} are not a range of the export")]
    OutOfRange { offset: u64, len: u64 },
}

/// A connection to an export.
#[derive(Debug)]
pub struct Client<S = UnixStream> {
    stream: S,
    size: u64,
    flags: u16,
    structured: bool,
    context: Option<u32>,
    cookie: u64,
}

impl Client {
    /// Connects to the unix socket at `path` and opens `export` ("" is the default one), with structured replies and
    /// `base:allocation` where the server has them.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn connect_unix(path: &Path, export: &str) -> Result<Self, ClientError> {
        Self::open(UnixStream::connect(path).await?, export, true).await
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    /// Opens `export` over a connected stream; without `structured` only simple replies are asked for.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn open(mut stream: S, export: &str, structured: bool) -> Result<Self, ClientError> {
        let mut greeting = [0; GREETING_LEN];
        stream.read_exact(&mut greeting).await?;
        let flags = proto::parse_greeting(&greeting)? & (handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES);
        stream.write_u32(u32::from(flags)).await?;
        let mut client = Self { stream, size: 0, flags: 0, structured: false, context: None, cookie: 0 };
        if structured {
            client.structured = client.option(&OptionRequest::StructuredReply).await.is_ok();
        }
        if client.structured {
            client.choose_allocation(export).await?;
        }
        let replies = client.option(&OptionRequest::Go { name: export.to_owned(), infos: Vec::new() }).await?;
        for reply in &replies {
            let mut parts = Parts::new(&reply.data);
            if reply.kind == option_reply::INFO && parts.u16()? == info::EXPORT {
                client.size = parts.u64()?;
                client.flags = parts.u16()?;
                return Ok(client);
            }
        }
        Err(ProtocolError::BadLength.into())
    }

    async fn choose_allocation(&mut self, export: &str) -> Result<(), ClientError> {
        let queries = vec![allocation::CONTEXT.to_owned()];
        match self.option(&OptionRequest::SetMetaContext { name: export.to_owned(), queries }).await {
            Ok(replies) => {
                let context = replies.iter().find(|reply| reply.kind == option_reply::META_CONTEXT);
                self.context = context.map(|reply| Parts::new(&reply.data).u32()).transpose()?;
                Ok(())
            }
            // GO will say what is wrong, if anything is.
            Err(ClientError::Refused { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Sends an option; returns the replies before the final acknowledgement.
    async fn option(&mut self, request: &OptionRequest) -> Result<Vec<OptionReply>, ClientError> {
        self.stream.write_all(&request.encode()).await?;
        let mut replies = Vec::new();
        loop {
            let mut header = [0; OPTION_REPLY_LEN];
            self.stream.read_exact(&mut header).await?;
            let (mut reply, len) = OptionReply::parse_header(&header)?;
            if len > MAX_OPTION || reply.option != request.code() || replies.len() > 1000 {
                return Err(ProtocolError::BadLength.into());
            }
            reply.data = vec![0; usize::try_from(len).unwrap_or(0)];
            self.stream.read_exact(&mut reply.data).await?;
            if reply.kind == option_reply::ACK {
                return Ok(replies);
            }
            if reply.kind & option_reply::ERROR != 0 {
                let text = String::from_utf8_lossy(&reply.data).into_owned();
                return Err(ClientError::Refused { option: reply.option, kind: reply.kind, text });
            }
            replies.push(reply);
        }
    }

    /// The export's size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// See [`proto::transmission_flag`].
    #[must_use]
    pub fn flags(&self) -> u16 {
        self.flags
    }

    /// Fills `buf` with the bytes at `offset`.
    ///
    /// # Errors
    /// See [`ClientError`]; after all but `Remote` and `OutOfRange` the connection is of no more use.
    pub async fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> Result<(), ClientError> {
        self.check(offset, buf.len() as u64)?;
        let mut at = offset;
        for piece in buf.chunks_mut(MAX_READ as usize) {
            self.read_piece(at, piece).await?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    /// What is data and what is hole, from `offset` on. The server may tell less than was asked, but at least one extent;
    /// the last may reach further.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn block_status(&mut self, offset: u64, len: u64) -> Result<Vec<Extent>, ClientError> {
        self.check(offset, len)?;
        let context = self.context.ok_or(ClientError::NoBlockStatus)?;
        let len = u32::try_from(len).unwrap_or(u32::MAX - 4095);
        let cookie = self.request(command::BLOCK_STATUS, 0, offset, len).await?;
        let mut extents = Vec::new();
        while let Some((header, data)) = self.chunk(cookie, &mut None).await? {
            let mut parts = Parts::new(&data);
            if header.kind == chunk::BLOCK_STATUS && parts.u32()? == context {
                let pairs = parts.rest().as_chunks::<8>().0;
                for pair in pairs {
                    let mut pair = Parts::new(pair);
                    let (len, flags) = (u64::from(pair.u32()?), pair.u32()?);
                    extents.push(Extent { len, hole: flags & allocation::ZERO != 0 });
                }
            }
            if header.flags & chunk::DONE != 0 {
                break;
            }
        }
        if extents.is_empty() { Err(ProtocolError::BadLength.into()) } else { Ok(extents) }
    }

    /// Tells the server that these bytes will be read soon.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn cache(&mut self, offset: u64, len: u32) -> Result<(), ClientError> {
        self.command(command::CACHE, 0, offset, len).await
    }

    /// Sends any request without data in either direction and waits for its end.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn command(&mut self, command: u16, flags: u16, offset: u64, len: u32) -> Result<(), ClientError> {
        let cookie = self.request(command, flags, offset, len).await?;
        loop {
            match self.chunk(cookie, &mut None).await? {
                Some((header, _)) if header.flags & chunk::DONE == 0 => {}
                _ => return Ok(()),
            }
        }
    }

    /// Says good-bye.
    ///
    /// # Errors
    /// [`ClientError::Io`].
    pub async fn disconnect(mut self) -> Result<(), ClientError> {
        self.request(command::DISC, 0, 0, 0).await?;
        Ok(self.stream.shutdown().await?)
    }

    fn check(&self, offset: u64, len: u64) -> Result<(), ClientError> {
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.size);
        if inside && len > 0 { Ok(()) } else { Err(ClientError::OutOfRange { offset, len }) }
    }

    async fn request(&mut self, command: u16, flags: u16, offset: u64, len: u32) -> Result<u64, ClientError> {
        self.cookie = self.cookie.wrapping_add(1);
        let request = Request { flags, command, cookie: self.cookie, offset, len };
        self.stream.write_all(&request.encode()).await?;
        self.stream.flush().await?;
        Ok(self.cookie)
    }

    async fn read_piece(&mut self, offset: u64, buf: &mut [u8]) -> Result<(), ClientError> {
        let len = u32::try_from(buf.len()).map_err(|_| ProtocolError::BadLength)?;
        let cookie = self.request(command::READ, 0, offset, len).await?;
        let mut into = Some(Piece { offset, filled: 0, buf });
        while let Some((header, _)) = self.chunk(cookie, &mut into).await? {
            if header.flags & chunk::DONE != 0 {
                break;
            }
        }
        let complete = into.is_some_and(|piece| piece.filled == piece.buf.len());
        if complete { Ok(()) } else { Err(ProtocolError::BadLength.into()) }
    }

    /// Receives one chunk, its data into `piece` if it is that of a READ. `None`: a successful simple reply.
    async fn chunk(
        &mut self,
        cookie: u64,
        piece: &mut Option<Piece<'_>>,
    ) -> Result<Option<(ChunkHeader, Vec<u8>)>, ClientError> {
        let mut header = [0; CHUNK_LEN];
        let (simple, more) = header.split_at_mut(proto::SIMPLE_REPLY_LEN);
        self.stream.read_exact(simple).await?;
        let mut parts = Parts::new(simple);
        if parts.u32()? == SIMPLE_REPLY_MAGIC {
            let (error, found) = (parts.u32()?, parts.u64()?);
            self.finish_simple(error, found == cookie, piece).await?;
            return Ok(None);
        }
        self.stream.read_exact(more).await?;
        let header = ChunkHeader::parse(&header)?;
        if header.cookie != cookie {
            return Err(ProtocolError::BadLength.into());
        }
        if let (chunk::OFFSET_DATA, Some(piece)) = (header.kind, piece.as_mut()) {
            let offset = self.stream.read_u64().await?;
            let len = header.len.checked_sub(8).ok_or(ProtocolError::BadLength)?;
            self.stream.read_exact(piece.part(offset, len)?).await?;
            return Ok(Some((header, Vec::new())));
        }
        if header.len > MAX_CHUNK {
            return Err(ProtocolError::BadLength.into());
        }
        let mut data = vec![0; usize::try_from(header.len).unwrap_or(0)];
        self.stream.read_exact(&mut data).await?;
        let mut parts = Parts::new(&data);
        if header.kind & chunk::ERROR_BIT != 0 {
            return Err(ClientError::Remote(parts.u32()?));
        }
        if let (chunk::OFFSET_HOLE, Some(piece)) = (header.kind, piece.as_mut()) {
            piece.part(parts.u64()?, parts.u32()?)?.fill(0);
        }
        Ok(Some((header, data)))
    }

    async fn finish_simple(
        &mut self,
        error: u32,
        ours: bool,
        piece: &mut Option<Piece<'_>>,
    ) -> Result<(), ClientError> {
        if !ours {
            return Err(ProtocolError::BadLength.into());
        }
        if error != 0 {
            return Err(ClientError::Remote(error));
        }
        if let Some(piece) = piece {
            self.stream.read_exact(piece.buf).await?;
            piece.filled = piece.buf.len();
        }
        Ok(())
    }
}

/// The part of a buffer that one READ fills.
struct Piece<'a> {
    offset: u64,
    filled: usize,
    buf: &'a mut [u8],
}

impl Piece<'_> {
    /// The place of `len` bytes at the disk's `offset`.
    fn part(&mut self, offset: u64, len: u32) -> Result<&mut [u8], ProtocolError> {
        let at = offset.checked_sub(self.offset).and_then(|at| usize::try_from(at).ok());
        let len = usize::try_from(len).map_err(|_| ProtocolError::BadLength)?;
        let range = at.and_then(|at| Some(at..at.checked_add(len)?)).ok_or(ProtocolError::BadLength)?;
        self.filled = self.filled.checked_add(len).ok_or(ProtocolError::BadLength)?;
        self.buf.get_mut(range).ok_or(ProtocolError::BadLength)
    }
}
