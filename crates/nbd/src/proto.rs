//! Messages of the NBD protocol, as bytes and as types. No I/O, no decisions.
//!
//! ```text
//! greeting (server)    u64 "NBDMAGIC"  u64 "IHAVEOPT"  u16 handshake flags
//! client flags         u32
//! option (client)      u64 "IHAVEOPT"  u32 option  u32 length  data
//! option reply         u64 0x0003e889045565a9  u32 option  u32 type  u32 length  data
//! export (server)      u64 size  u16 transmission flags  [124 zeros]      after EXPORT_NAME
//! request (client)     u32 0x25609513  u16 flags  u16 type  u64 cookie  u64 offset  u32 length  [data of a WRITE]
//! simple reply         u32 0x67446698  u32 error  u64 cookie  [data of a READ]
//! reply chunk          u32 0x668e33ef  u16 flags  u16 type  u64 cookie  u32 length  data
//! ```

/// First word of the greeting.
pub const NBD_MAGIC: u64 = u64::from_be_bytes(*b"NBDMAGIC");
/// Second word of the greeting, and first of each option.
pub const OPTION_MAGIC: u64 = u64::from_be_bytes(*b"IHAVEOPT");
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
pub const CHUNK_MAGIC: u32 = 0x668e_33ef;

/// Lengths of the fixed parts, in bytes.
pub const GREETING_LEN: usize = 18;
pub const OPTION_LEN: usize = 16;
pub const OPTION_REPLY_LEN: usize = 20;
pub const REQUEST_LEN: usize = 28;
pub const SIMPLE_REPLY_LEN: usize = 16;
pub const CHUNK_LEN: usize = 20;

/// Longest READ that is served; larger ones are the client's mistake, as the block-size information names it.
pub const MAX_READ: u32 = 32 << 20;
/// Longest string in the protocol.
pub const MAX_STRING: usize = 4096;
/// Longest option data that is looked at.
pub const MAX_OPTION: u32 = 64 << 10;

pub mod handshake_flag {
    pub const FIXED_NEWSTYLE: u16 = 1;
    pub const NO_ZEROES: u16 = 2;
}

pub mod option {
    pub const EXPORT_NAME: u32 = 1;
    pub const ABORT: u32 = 2;
    pub const LIST: u32 = 3;
    pub const INFO: u32 = 6;
    pub const GO: u32 = 7;
    pub const STRUCTURED_REPLY: u32 = 8;
    pub const LIST_META_CONTEXT: u32 = 9;
    pub const SET_META_CONTEXT: u32 = 10;
}

pub mod option_reply {
    pub const ACK: u32 = 1;
    pub const SERVER: u32 = 2;
    pub const INFO: u32 = 3;
    pub const META_CONTEXT: u32 = 4;
    /// This bit marks errors.
    pub const ERROR: u32 = 1 << 31;
    pub const ERR_UNSUP: u32 = ERROR | 1;
    pub const ERR_INVALID: u32 = ERROR | 3;
    pub const ERR_UNKNOWN: u32 = ERROR | 6;
    pub const ERR_TOO_BIG: u32 = ERROR | 9;
}

pub mod info {
    pub const EXPORT: u16 = 0;
    pub const NAME: u16 = 1;
    pub const BLOCK_SIZE: u16 = 3;
}

pub mod transmission_flag {
    pub const HAS_FLAGS: u16 = 1;
    pub const READ_ONLY: u16 = 1 << 1;
    pub const SEND_DF: u16 = 1 << 7;
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    pub const SEND_CACHE: u16 = 1 << 10;
}

pub mod command {
    pub const READ: u16 = 0;
    pub const WRITE: u16 = 1;
    pub const DISC: u16 = 2;
    pub const FLUSH: u16 = 3;
    pub const TRIM: u16 = 4;
    pub const CACHE: u16 = 5;
    pub const WRITE_ZEROES: u16 = 6;
    pub const BLOCK_STATUS: u16 = 7;
}

pub mod command_flag {
    /// READ: answer in one chunk.
    pub const DF: u16 = 1 << 2;
    /// BLOCK_STATUS: answer with one extent.
    pub const REQ_ONE: u16 = 1 << 3;
}

pub mod chunk {
    /// Flag: the last chunk of a reply.
    pub const DONE: u16 = 1;
    pub const NONE: u16 = 0;
    pub const OFFSET_DATA: u16 = 1;
    pub const OFFSET_HOLE: u16 = 2;
    pub const BLOCK_STATUS: u16 = 5;
    /// This bit marks errors.
    pub const ERROR_BIT: u16 = 1 << 15;
    pub const ERROR: u16 = ERROR_BIT | 1;
}

/// Flags of an extent in the context `base:allocation`.
pub mod allocation {
    pub const CONTEXT: &str = "base:allocation";
    pub const HOLE: u32 = 1;
    pub const ZERO: u32 = 2;
}

/// Errors of requests (Linux's numbers, on any system).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Errno {
    Perm,
    Io,
    Invalid,
    Overflow,
    NotSupported,
    Shutdown,
}

impl Errno {
    #[must_use]
    pub fn code(self) -> u32 {
        match self {
            Self::Perm => 1,
            Self::Io => 5,
            Self::Invalid => 22,
            Self::Overflow => 75,
            Self::NotSupported => 95,
            Self::Shutdown => 108,
        }
    }
}

/// Bytes that do not follow the protocol; the connection cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    #[error("the peer does not speak NBD: magic {found:#x} instead of {expected:#x}")]
    BadMagic { found: u64, expected: u64 },
    #[error("a message ends too early or is longer than its parts")]
    BadLength,
    #[error("a string is not UTF-8 or longer than {MAX_STRING} bytes")]
    BadString,
}

/// Takes a message apart; every step fails rather than reading beyond the end.
#[derive(Debug)]
pub struct Parts<'a>(&'a [u8]);

impl<'a> Parts<'a> {
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next `len` bytes.
    ///
    /// # Errors
    /// [`ProtocolError::BadLength`] if there are fewer; so for all numbers below.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], ProtocolError> {
        let (head, rest) = self.0.split_at_checked(len).ok_or(ProtocolError::BadLength)?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ProtocolError> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(ProtocolError::BadLength)?;
        self.0 = rest;
        Ok(*head)
    }

    /// # Errors
    /// See [`take`](Self::take).
    pub fn u16(&mut self) -> Result<u16, ProtocolError> {
        self.array().map(u16::from_be_bytes)
    }

    /// # Errors
    /// See [`take`](Self::take).
    pub fn u32(&mut self) -> Result<u32, ProtocolError> {
        self.array().map(u32::from_be_bytes)
    }

    /// # Errors
    /// See [`take`](Self::take).
    pub fn u64(&mut self) -> Result<u64, ProtocolError> {
        self.array().map(u64::from_be_bytes)
    }

    /// A string behind its length (u32).
    ///
    /// # Errors
    /// [`ProtocolError::BadLength`], [`ProtocolError::BadString`].
    pub fn string(&mut self) -> Result<&'a str, ProtocolError> {
        let len = usize::try_from(self.u32()?).map_err(|_| ProtocolError::BadLength)?;
        string(self.take(len)?)
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    /// # Errors
    /// [`ProtocolError::BadLength`] if anything is left.
    pub fn end(self) -> Result<(), ProtocolError> {
        if self.0.is_empty() { Ok(()) } else { Err(ProtocolError::BadLength) }
    }

    fn magic(&mut self, expected: u64, wide: bool) -> Result<(), ProtocolError> {
        let found = if wide { self.u64()? } else { u64::from(self.u32()?) };
        if found == expected { Ok(()) } else { Err(ProtocolError::BadMagic { found, expected }) }
    }
}

fn string(bytes: &[u8]) -> Result<&str, ProtocolError> {
    if bytes.len() > MAX_STRING {
        return Err(ProtocolError::BadString);
    }
    std::str::from_utf8(bytes).map_err(|_| ProtocolError::BadString)
}

/// The length of `bytes` as the protocol writes it. Messages are built from parts with limits far below 4 GiB.
fn len32(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

fn push_string(out: &mut Vec<u8>, text: &str) {
    out.extend(len32(text.as_bytes()).to_be_bytes());
    out.extend(text.as_bytes());
}

/// The server's first words.
#[must_use]
pub fn greeting(flags: u16) -> Vec<u8> {
    let mut out = Vec::with_capacity(GREETING_LEN);
    out.extend(NBD_MAGIC.to_be_bytes());
    out.extend(OPTION_MAGIC.to_be_bytes());
    out.extend(flags.to_be_bytes());
    out
}

/// Reads a greeting; returns the handshake flags.
///
/// # Errors
/// [`ProtocolError::BadMagic`], also for servers of the oldstyle.
pub fn parse_greeting(bytes: &[u8; GREETING_LEN]) -> Result<u16, ProtocolError> {
    let mut parts = Parts::new(bytes);
    parts.magic(NBD_MAGIC, true)?;
    parts.magic(OPTION_MAGIC, true)?;
    parts.u16()
}

/// An option's fixed part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionHeader {
    pub option: u32,
    pub len: u32,
}

impl OptionHeader {
    /// # Errors
    /// [`ProtocolError::BadMagic`].
    pub fn parse(bytes: &[u8; OPTION_LEN]) -> Result<Self, ProtocolError> {
        let mut parts = Parts::new(bytes);
        parts.magic(OPTION_MAGIC, true)?;
        Ok(Self { option: parts.u32()?, len: parts.u32()? })
    }
}

/// What a client asks for before the transmission.
///
/// ```text
/// EXPORT_NAME             name
/// ABORT, LIST, STRUCTURED_REPLY   nothing
/// INFO, GO                u32 length  name  u16 count  count × u16 info
/// LIST/SET_META_CONTEXT   u32 length  name  u32 count  count × (u32 length  query)
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OptionRequest {
    ExportName(String),
    Abort,
    List,
    Info {
        name: String,
        infos: Vec<u16>,
    },
    Go {
        name: String,
        infos: Vec<u16>,
    },
    StructuredReply,
    ListMetaContext {
        name: String,
        queries: Vec<String>,
    },
    SetMetaContext {
        name: String,
        queries: Vec<String>,
    },
    /// One that this code does not know.
    Unknown(u32),
}

impl OptionRequest {
    /// Reads the data of option `code`.
    ///
    /// # Errors
    /// [`ProtocolError::BadLength`], [`ProtocolError::BadString`].
    pub fn parse(code: u32, data: &[u8]) -> Result<Self, ProtocolError> {
        let mut parts = Parts::new(data);
        let request = match code {
            option::EXPORT_NAME => Self::ExportName(string(parts.rest())?.to_owned()),
            option::ABORT => Self::Abort,
            option::LIST => Self::List,
            option::STRUCTURED_REPLY => Self::StructuredReply,
            option::INFO | option::GO => {
                let name = parts.string()?.to_owned();
                let count = parts.u16()?;
                let infos = (0..count).map(|_| parts.u16()).collect::<Result<_, _>>()?;
                if code == option::GO { Self::Go { name, infos } } else { Self::Info { name, infos } }
            }
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => {
                let name = parts.string()?.to_owned();
                let count = parts.u32()?;
                let queries = (0..count).map(|_| parts.string().map(str::to_owned)).collect::<Result<_, _>>()?;
                if code == option::SET_META_CONTEXT {
                    Self::SetMetaContext { name, queries }
                } else {
                    Self::ListMetaContext { name, queries }
                }
            }
            other => return Ok(Self::Unknown(other)),
        };
        // Data after an ABORT is harmless, and the connection ends anyway.
        if request != Self::Abort {
            parts.end()?;
        }
        Ok(request)
    }

    /// The option's number.
    #[must_use]
    pub fn code(&self) -> u32 {
        match self {
            Self::ExportName(_) => option::EXPORT_NAME,
            Self::Abort => option::ABORT,
            Self::List => option::LIST,
            Self::Info { .. } => option::INFO,
            Self::Go { .. } => option::GO,
            Self::StructuredReply => option::STRUCTURED_REPLY,
            Self::ListMetaContext { .. } => option::LIST_META_CONTEXT,
            Self::SetMetaContext { .. } => option::SET_META_CONTEXT,
            Self::Unknown(code) => *code,
        }
    }

    /// The whole message.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut data = Vec::new();
        match self {
            Self::ExportName(name) => data.extend(name.as_bytes()),
            Self::Info { name, infos } | Self::Go { name, infos } => {
                push_string(&mut data, name);
                data.extend(u16::try_from(infos.len()).unwrap_or(u16::MAX).to_be_bytes());
                data.extend(infos.iter().take(usize::from(u16::MAX)).flat_map(|info| info.to_be_bytes()));
            }
            Self::ListMetaContext { name, queries } | Self::SetMetaContext { name, queries } => {
                push_string(&mut data, name);
                data.extend(u32::try_from(queries.len()).unwrap_or(u32::MAX).to_be_bytes());
                queries.iter().for_each(|query| push_string(&mut data, query));
            }
            Self::Abort | Self::List | Self::StructuredReply | Self::Unknown(_) => {}
        }
        let mut out = Vec::with_capacity(OPTION_LEN + data.len());
        out.extend(OPTION_MAGIC.to_be_bytes());
        out.extend(self.code().to_be_bytes());
        out.extend(len32(&data).to_be_bytes());
        out.extend(data);
        out
    }
}

/// A reply to an option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OptionReply {
    pub option: u32,
    /// See [`option_reply`].
    pub kind: u32,
    pub data: Vec<u8>,
}

impl OptionReply {
    #[must_use]
    pub fn ack(option: u32) -> Self {
        Self { option, kind: option_reply::ACK, data: Vec::new() }
    }

    /// An error with a text for the user.
    #[must_use]
    pub fn error(option: u32, kind: u32, text: &str) -> Self {
        Self { option, kind, data: text.as_bytes().to_vec() }
    }

    /// An export's name, in answer to LIST.
    #[must_use]
    pub fn server(name: &str) -> Self {
        let mut data = Vec::new();
        push_string(&mut data, name);
        Self { option: option::LIST, kind: option_reply::SERVER, data }
    }

    /// A context: u32 id, name.
    #[must_use]
    pub fn meta_context(option: u32, id: u32, name: &str) -> Self {
        let mut data = id.to_be_bytes().to_vec();
        data.extend(name.as_bytes());
        Self { option, kind: option_reply::META_CONTEXT, data }
    }

    /// Size and flags: u16 0, u64 size, u16 flags.
    #[must_use]
    pub fn info_export(option: u32, size: u64, flags: u16) -> Self {
        let mut data = info::EXPORT.to_be_bytes().to_vec();
        data.extend(size.to_be_bytes());
        data.extend(flags.to_be_bytes());
        Self { option, kind: option_reply::INFO, data }
    }

    /// The export's true name: u16 1, name.
    #[must_use]
    pub fn info_name(option: u32, name: &str) -> Self {
        let mut data = info::NAME.to_be_bytes().to_vec();
        data.extend(name.as_bytes());
        Self { option, kind: option_reply::INFO, data }
    }

    /// Block sizes: u16 3, u32 smallest, u32 preferred, u32 largest.
    #[must_use]
    pub fn info_block_size(option: u32, smallest: u32, preferred: u32, largest: u32) -> Self {
        let mut data = info::BLOCK_SIZE.to_be_bytes().to_vec();
        [smallest, preferred, largest].iter().for_each(|size| data.extend(size.to_be_bytes()));
        Self { option, kind: option_reply::INFO, data }
    }

    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(OPTION_REPLY_LEN + self.data.len());
        out.extend(OPTION_REPLY_MAGIC.to_be_bytes());
        out.extend(self.option.to_be_bytes());
        out.extend(self.kind.to_be_bytes());
        out.extend(len32(&self.data).to_be_bytes());
        out.extend(&self.data);
        out
    }

    /// Reads the fixed part; returns a reply without data and the data's length.
    ///
    /// # Errors
    /// [`ProtocolError::BadMagic`].
    pub fn parse_header(bytes: &[u8; OPTION_REPLY_LEN]) -> Result<(Self, u32), ProtocolError> {
        let mut parts = Parts::new(bytes);
        parts.magic(OPTION_REPLY_MAGIC, true)?;
        let reply = Self { option: parts.u32()?, kind: parts.u32()?, data: Vec::new() };
        Ok((reply, parts.u32()?))
    }
}

/// The answer to EXPORT_NAME.
#[must_use]
pub fn export_reply(size: u64, flags: u16, no_zeroes: bool) -> Vec<u8> {
    let mut out = size.to_be_bytes().to_vec();
    out.extend(flags.to_be_bytes());
    if !no_zeroes {
        out.resize(out.len() + 124, 0);
    }
    out
}

/// A request of the transmission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// See [`command_flag`].
    pub flags: u16,
    /// See [`command`].
    pub command: u16,
    /// Chosen by the client, returned in the reply.
    pub cookie: u64,
    pub offset: u64,
    pub len: u32,
}

impl Request {
    /// # Errors
    /// [`ProtocolError::BadMagic`].
    pub fn parse(bytes: &[u8; REQUEST_LEN]) -> Result<Self, ProtocolError> {
        let mut parts = Parts::new(bytes);
        parts.magic(u64::from(REQUEST_MAGIC), false)?;
        Ok(Self {
            flags: parts.u16()?,
            command: parts.u16()?,
            cookie: parts.u64()?,
            offset: parts.u64()?,
            len: parts.u32()?,
        })
    }

    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(REQUEST_LEN);
        out.extend(REQUEST_MAGIC.to_be_bytes());
        out.extend(self.flags.to_be_bytes());
        out.extend(self.command.to_be_bytes());
        out.extend(self.cookie.to_be_bytes());
        out.extend(self.offset.to_be_bytes());
        out.extend(self.len.to_be_bytes());
        out
    }
}

/// A simple reply's fixed part; `error` 0 is success.
#[must_use]
pub fn simple_reply(cookie: u64, error: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(SIMPLE_REPLY_LEN);
    out.extend(SIMPLE_REPLY_MAGIC.to_be_bytes());
    out.extend(error.to_be_bytes());
    out.extend(cookie.to_be_bytes());
    out
}

/// A chunk's fixed part; `len` bytes follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkHeader {
    pub flags: u16,
    /// See [`chunk`].
    pub kind: u16,
    pub cookie: u64,
    pub len: u32,
}

impl ChunkHeader {
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend(CHUNK_MAGIC.to_be_bytes());
        out.extend(self.flags.to_be_bytes());
        out.extend(self.kind.to_be_bytes());
        out.extend(self.cookie.to_be_bytes());
        out.extend(self.len.to_be_bytes());
    }

    /// # Errors
    /// [`ProtocolError::BadMagic`].
    pub fn parse(bytes: &[u8; CHUNK_LEN]) -> Result<Self, ProtocolError> {
        let mut parts = Parts::new(bytes);
        parts.magic(u64::from(CHUNK_MAGIC), false)?;
        Ok(Self { flags: parts.u16()?, kind: parts.u16()?, cookie: parts.u64()?, len: parts.u32()? })
    }
}

/// The only chunk of a failed reply: u32 error, u16 length, text.
#[must_use]
pub fn error_chunk(cookie: u64, error: Errno) -> Vec<u8> {
    let mut out = Vec::with_capacity(CHUNK_LEN + 6);
    ChunkHeader { flags: chunk::DONE, kind: chunk::ERROR, cookie, len: 6 }.encode(&mut out);
    out.extend(error.code().to_be_bytes());
    out.extend(0_u16.to_be_bytes());
    out
}
