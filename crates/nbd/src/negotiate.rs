//! What client and server agree on before the transmission, as a state machine without I/O.
//!
//! ```text
//!            +-- any other option: replies --+
//!            v                               |
//! greeting -> Continue ----------------------+
//!                |-- GO of our export: replies, EXPORT_NAME: size --> Transmit
//!                `-- ABORT: ack, EXPORT_NAME of another -----------> Close
//! ```

use crate::proto::{MAX_READ, transmission_flag as flag};
use crate::proto::{OptionReply, OptionRequest, allocation, export_reply, info, option, option_reply};

/// The id under which `base:allocation` is reported.
pub const ALLOCATION_ID: u32 = 1;

/// What was agreed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Agreed {
    /// Replies come as chunks.
    pub structured: bool,
    /// BLOCK_STATUS may be asked, in the context `base:allocation`.
    pub allocation: bool,
}

/// Where the connection goes after an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    Continue,
    Transmit(Agreed),
    Close,
}

/// The server's side of a negotiation over one export.
#[derive(Debug)]
pub struct Negotiation<'a> {
    name: &'a str,
    size: u64,
    no_zeroes: bool,
    agreed: Agreed,
}

impl<'a> Negotiation<'a> {
    /// `no_zeroes`: the client asked for the short answer to EXPORT_NAME.
    #[must_use]
    pub fn new(name: &'a str, size: u64, no_zeroes: bool) -> Self {
        Self { name, size, no_zeroes, agreed: Agreed::default() }
    }

    /// Answers the option `code` with its `data`: bytes to send, then where to go.
    pub fn option(&mut self, code: u32, data: &[u8]) -> (Vec<u8>, Next) {
        let invalid = |text: &str| OptionReply::error(code, option_reply::ERR_INVALID, text);
        let request = match OptionRequest::parse(code, data) {
            Ok(request) => request,
            // EXPORT_NAME has no way to report an error.
            Err(_) if code == option::EXPORT_NAME => return (Vec::new(), Next::Close),
            Err(error) => return (invalid(&error.to_string()).encode(), Next::Continue),
        };
        match request {
            OptionRequest::ExportName(name) if self.is_ours(&name) => {
                (export_reply(self.size, self.flags(), self.no_zeroes), Next::Transmit(self.agreed))
            }
            OptionRequest::ExportName(_) => (Vec::new(), Next::Close),
            OptionRequest::Abort => (OptionReply::ack(code).encode(), Next::Close),
            OptionRequest::List => going_on(&[OptionReply::server(self.name), OptionReply::ack(code)]),
            OptionRequest::Info { name, infos } | OptionRequest::Go { name, infos } => {
                let Some(replies) = self.infos(code, &name, &infos) else { return unknown_export(code) };
                let (bytes, next) = going_on(&replies);
                (bytes, if code == option::GO { Next::Transmit(self.agreed) } else { next })
            }
            OptionRequest::StructuredReply => {
                self.agreed.structured = true;
                going_on(&[OptionReply::ack(code)])
            }
            OptionRequest::ListMetaContext { .. } | OptionRequest::SetMetaContext { .. } if !self.agreed.structured => {
                going_on(&[invalid("ask for structured replies first")])
            }
            OptionRequest::ListMetaContext { name, queries } => {
                if !self.is_ours(&name) {
                    return unknown_export(code);
                }
                // Without a query all contexts are meant, with "base:" all of that namespace.
                let wanted = queries.is_empty() || queries.iter().any(|q| q == "base:" || q == allocation::CONTEXT);
                going_on(&contexts(code, wanted))
            }
            OptionRequest::SetMetaContext { name, queries } => {
                // A failed attempt also undoes an earlier choice.
                self.agreed.allocation = self.is_ours(&name) && queries.iter().any(|q| q == allocation::CONTEXT);
                if !self.is_ours(&name) {
                    return unknown_export(code);
                }
                going_on(&contexts(code, self.agreed.allocation))
            }
            OptionRequest::Unknown(_) => {
                going_on(&[OptionReply::error(code, option_reply::ERR_UNSUP, "this server does not know the option")])
            }
        }
    }

    fn is_ours(&self, name: &str) -> bool {
        name.is_empty() || name == self.name
    }

    fn flags(&self) -> u16 {
        let df = if self.agreed.structured { flag::SEND_DF } else { 0 };
        flag::HAS_FLAGS | flag::READ_ONLY | flag::CAN_MULTI_CONN | flag::SEND_CACHE | df
    }

    /// The replies to INFO and GO; `None` for an export that is not there.
    fn infos(&self, code: u32, name: &str, infos: &[u16]) -> Option<Vec<OptionReply>> {
        if !self.is_ours(name) {
            return None;
        }
        let mut replies = vec![OptionReply::info_export(code, self.size, self.flags())];
        if infos.contains(&info::NAME) {
            replies.push(OptionReply::info_name(code, self.name));
        }
        replies.push(OptionReply::info_block_size(code, 1, 4096, MAX_READ));
        replies.push(OptionReply::ack(code));
        Some(replies)
    }
}

fn going_on(replies: &[OptionReply]) -> (Vec<u8>, Next) {
    (replies.iter().flat_map(OptionReply::encode).collect(), Next::Continue)
}

fn unknown_export(code: u32) -> (Vec<u8>, Next) {
    going_on(&[OptionReply::error(code, option_reply::ERR_UNKNOWN, "there is no export of this name")])
}

fn contexts(code: u32, allocation: bool) -> Vec<OptionReply> {
    let context = allocation.then(|| OptionReply::meta_context(code, ALLOCATION_ID, allocation::CONTEXT));
    context.into_iter().chain([OptionReply::ack(code)]).collect()
}
