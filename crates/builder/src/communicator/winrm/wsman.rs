//! The messages of WS-Management that a command shell needs (DSP0226, MS-WSMV): requests written, answers read. Pure.
//!
//! ```text
//! Create ─▶ shell ─┬─ Command ─▶ command ─┬─ Send (standard input, in pieces)
//!                  │                      ├─ Receive, again and again: outputs, then the exit code
//!                  │                      └─ Signal (terminate)
//!                  └─ Delete
//! ```
//! An answer comes from a machine that anybody's script may have changed: it is read in one pass, without document types, and what it
//! holds beyond these messages is passed over.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use quick_xml::escape::{escape, resolve_xml_entity, unescape};
use quick_xml::events::{BytesStart, Event};
use uuid::Uuid;

use crate::communicator::Stream;

/// Answers are asked to be no larger; Windows before 2012 allows no more.
pub const MAX_ENVELOPE: usize = 153_600;
/// UTF-8, for what commands print.
const CODE_PAGE: u32 = 65001;

const SHELL: &str = "http://schemas.microsoft.com/wbem/wsman/1/windows/shell";
const TRANSFER: &str = "http://schemas.xmlsoap.org/ws/2004/09/transfer";
const ANONYMOUS: &str = "http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous";
const NAMESPACES: &str = "xmlns:s=\"http://www.w3.org/2003/05/soap-envelope\" \
     xmlns:a=\"http://schemas.xmlsoap.org/ws/2004/08/addressing\" xmlns:w=\"http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd\" \
     xmlns:p=\"http://schemas.microsoft.com/wbem/wsman/1/wsman.xsd\" \
     xmlns:rsp=\"http://schemas.microsoft.com/wbem/wsman/1/windows/shell\"";

/// `ERROR_WSMAN_OPERATION_TIMEDOUT`: nothing has happened for the operation's time.
const TIMED_OUT: u32 = 0x8033_8029;
/// The shell is not there (any more): `ERROR_WSMAN_INVALID_SELECTORS`, and `ERROR_OPERATION_ABORTED`, with which everything ends when the
/// service stops.
const GONE: [u32; 2] = [0x8033_805B, 995];

/// What is asked of the machine.
#[derive(Debug, Clone, Copy)]
pub enum Ask<'a> {
    Create,
    /// A line for `cmd.exe`. `input`: something will be sent to it.
    Command {
        line: &'a str,
        input: bool,
    },
    Send {
        command: &'a str,
        bytes: &'a [u8],
        last: bool,
    },
    Receive {
        command: &'a str,
    },
    Terminate {
        command: &'a str,
    },
    Delete,
}

impl Ask<'_> {
    fn action(&self) -> String {
        match self {
            Self::Create => format!("{TRANSFER}/Create"),
            Self::Delete => format!("{TRANSFER}/Delete"),
            Self::Command { .. } => format!("{SHELL}/Command"),
            Self::Send { .. } => format!("{SHELL}/Send"),
            Self::Receive { .. } => format!("{SHELL}/Receive"),
            Self::Terminate { .. } => format!("{SHELL}/Signal"),
        }
    }

    fn options(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Create => {
                vec![("WINRS_NOPROFILE", "FALSE".to_owned()), ("WINRS_CODEPAGE", CODE_PAGE.to_string())]
            }
            // A console as input would not pass on what is sent.
            Self::Command { input, .. } => vec![
                ("WINRS_CONSOLEMODE_STDIN", if *input { "FALSE" } else { "TRUE" }.to_owned()),
                ("WINRS_SKIP_CMD_SHELL", "FALSE".to_owned()),
            ],
            Self::Receive { .. } => vec![("WSMAN_CMDSHELL_OPTION_KEEPALIVE", "TRUE".to_owned())],
            Self::Send { .. } | Self::Terminate { .. } | Self::Delete => vec![],
        }
    }

    fn body(&self) -> String {
        match self {
            Self::Create => "<rsp:Shell><rsp:InputStreams>stdin</rsp:InputStreams><rsp:OutputStreams>stdout \
                             stderr</rsp:OutputStreams></rsp:Shell>"
                .to_owned(),
            Self::Command { line, .. } => {
                format!("<rsp:CommandLine><rsp:Command>{}</rsp:Command></rsp:CommandLine>", escape(*line))
            }
            Self::Send { command, bytes, last } => {
                let (id, bytes) = (escape(*command), BASE64.encode(bytes));
                let end = if *last { " End=\"true\"" } else { "" };
                format!("<rsp:Send><rsp:Stream Name=\"stdin\" CommandId=\"{id}\"{end}>{bytes}</rsp:Stream></rsp:Send>")
            }
            Self::Receive { command } => format!(
                "<rsp:Receive><rsp:DesiredStream CommandId=\"{}\">stdout stderr</rsp:DesiredStream></rsp:Receive>",
                escape(*command)
            ),
            Self::Terminate { command } => format!(
                "<rsp:Signal CommandId=\"{}\"><rsp:Code>{SHELL}/signal/terminate</rsp:Code></rsp:Signal>",
                escape(*command)
            ),
            Self::Delete => String::new(),
        }
    }
}

/// The whole message. `time`: after it the machine answers even if nothing has happened.
pub fn envelope(message: Uuid, shell: Option<&str>, time: Duration, ask: &Ask<'_>) -> String {
    let selector = shell.map_or_else(String::new, |id| {
        format!("<w:SelectorSet><w:Selector Name=\"ShellId\">{}</w:Selector></w:SelectorSet>", escape(id))
    });
    let options = ask.options();
    let options = if options.is_empty() {
        String::new()
    } else {
        let option = |(name, value)| format!("<w:Option Name=\"{name}\">{value}</w:Option>");
        format!("<w:OptionSet>{}</w:OptionSet>", options.into_iter().map(option).collect::<String>())
    };
    format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<s:Envelope {NAMESPACES}><s:Header>\
         <a:Action s:mustUnderstand=\"true\">{action}</a:Action><a:To>https://localhost:5986/wsman</a:To>\
         <a:MessageID>uuid:{message}</a:MessageID>\
         <a:ReplyTo><a:Address s:mustUnderstand=\"true\">{ANONYMOUS}</a:Address></a:ReplyTo>\
         <w:ResourceURI s:mustUnderstand=\"true\">{SHELL}/cmd</w:ResourceURI>\
         <w:MaxEnvelopeSize s:mustUnderstand=\"true\">{MAX_ENVELOPE}</w:MaxEnvelopeSize>\
         <w:OperationTimeout>PT{seconds}S</w:OperationTimeout>\
         <w:Locale xml:lang=\"en-US\" s:mustUnderstand=\"false\"/><p:DataLocale xml:lang=\"en-US\" s:mustUnderstand=\"false\"/>\
         {options}{selector}</s:Header><s:Body>{body}</s:Body></s:Envelope>",
        action = ask.action(),
        seconds = time.as_secs(),
        body = ask.body(),
    )
}

/// Whether a text can stand in XML at all.
pub fn is_text(text: &str) -> bool {
    text.chars().all(|c| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{fffd}' | '\u{10000}'..))
}

/// What an answer says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reply {
    pub shell: Option<String>,
    pub command: Option<String>,
    pub output: Vec<(Stream, Vec<u8>)>,
    /// The command has ended.
    pub done: bool,
    pub exit: Option<u32>,
    pub fault: Option<Fault>,
}

/// Why the machine did not do what it was asked for.
#[derive(Debug, Default, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Fault {
    /// Of the Windows Remote Management service.
    pub code: Option<u32>,
    /// `w:TimedOut`
    pub subcode: String,
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let message = self.message.trim();
        f.write_str(if message.is_empty() { "no reason is given" } else { message })?;
        match self.code {
            Some(code) => write!(f, " (WSManFault 0x{code:08X})"),
            None if !self.subcode.is_empty() => write!(f, " ({})", self.subcode),
            None => Ok(()),
        }
    }
}

impl Fault {
    pub fn is_timeout(&self) -> bool {
        self.code == Some(TIMED_OUT) || (self.code.is_none() && self.subcode.ends_with("TimedOut"))
    }

    /// The shell has gone, and what ran in it.
    pub fn is_gone(&self) -> bool {
        self.code.is_some_and(|code| GONE.contains(&code))
    }
}

/// An answer that is none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotWsman(String);

/// What an element is whose text counts.
enum Leaf {
    Shell,
    Command,
    Output(Stream),
    Exit,
    Subcode,
    Message,
    Other,
}

/// # Errors
/// What is not XML, or not these messages.
pub fn parse(text: &str) -> Result<Reply, NotWsman> {
    let bad = |why: &dyn fmt::Display| NotWsman(why.to_string());
    let mut reader = quick_xml::Reader::from_str(text);
    let (mut reply, mut fault) = (Reply::default(), None::<Fault>);
    let (mut leaf, mut value) = (Leaf::Other, String::new());
    loop {
        match reader.read_event().map_err(|e| bad(&e))? {
            Event::Start(start) => {
                value.clear();
                leaf = begin(&start, &mut reply, &mut fault).map_err(|e| bad(&e))?;
            }
            Event::Empty(start) => {
                begin(&start, &mut reply, &mut fault).map_err(|e| bad(&e))?;
            }
            Event::Text(piece) => value.push_str(&piece.into_inner()),
            Event::CData(piece) => value.push_str(&piece.into_inner()),
            Event::GeneralRef(entity) => match entity.resolve_char_ref().map_err(|e| bad(&e))? {
                Some(c) => value.push(c),
                None => value.push_str(resolve_xml_entity(&entity).ok_or_else(|| bad(&"an unknown entity"))?),
            },
            Event::End(_) => {
                end(&leaf, &value, &mut reply, &mut fault).map_err(|e| bad(&e))?;
                (leaf, value) = (Leaf::Other, String::new());
            }
            Event::DocType(_) => return Err(bad(&"it has a document type")),
            Event::Eof => break,
            _ => {}
        }
    }
    reply.fault = fault;
    Ok(reply)
}

fn attribute(start: &BytesStart<'_>, name: &str) -> Result<Option<String>, String> {
    let found = start.try_get_attribute(name).map_err(|e| e.to_string())?;
    found.map(|a| unescape(&a.value).map(|v| v.into_owned()).map_err(|e| e.to_string())).transpose()
}

fn begin(start: &BytesStart<'_>, reply: &mut Reply, fault: &mut Option<Fault>) -> Result<Leaf, String> {
    Ok(match start.local_name().as_ref() {
        "Selector" if attribute(start, "Name")?.as_deref() == Some("ShellId") => Leaf::Shell,
        "ShellId" => Leaf::Shell,
        "CommandId" => Leaf::Command,
        "Stream" => match attribute(start, "Name")?.as_deref() {
            Some("stdout") => Leaf::Output(Stream::Out),
            Some("stderr") => Leaf::Output(Stream::Err),
            _ => Leaf::Other,
        },
        "CommandState" => {
            reply.done |= attribute(start, "State")?.is_some_and(|state| state.ends_with("/CommandState/Done"));
            Leaf::Other
        }
        "ExitCode" => Leaf::Exit,
        "Fault" => {
            fault.get_or_insert_default();
            Leaf::Other
        }
        "WSManFault" => {
            let code = attribute(start, "Code")?;
            let known = fault.get_or_insert_default();
            known.code = known.code.or_else(|| code?.parse().ok());
            Leaf::Other
        }
        "Value" if fault.is_some() => Leaf::Subcode,
        "Text" | "Message" if fault.is_some() => Leaf::Message,
        _ => Leaf::Other,
    })
}

fn end(leaf: &Leaf, value: &str, reply: &mut Reply, fault: &mut Option<Fault>) -> Result<(), String> {
    match leaf {
        Leaf::Shell => reply.shell = Some(value.trim().to_owned()),
        Leaf::Command => reply.command = Some(value.trim().to_owned()),
        Leaf::Output(stream) => {
            let bytes = BASE64.decode(value.trim()).map_err(|_| "an output is not base64".to_owned())?;
            if !bytes.is_empty() {
                reply.output.push((*stream, bytes));
            }
        }
        Leaf::Exit => {
            let code: i64 = value.trim().parse().map_err(|_| format!("'{}' is no exit code", value.trim()))?;
            let signed = i32::try_from(code).map(i32::cast_unsigned);
            let code = signed.or_else(|_| u32::try_from(code)).map_err(|_| format!("'{code}' is no exit code"))?;
            reply.exit = Some(code);
        }
        Leaf::Subcode => {
            if let Some(fault) = fault {
                value.trim().clone_into(&mut fault.subcode);
            }
        }
        Leaf::Message => {
            if let Some(fault) = fault.as_mut().filter(|f| f.message.is_empty()) {
                fault.message = value.trim().chars().take(1024).collect();
            }
        }
        Leaf::Other => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests() {
        let shell = Some("5A5F8F2E-0000-0000-0000-000000000001");
        let asks = [
            (None, Ask::Create),
            (shell, Ask::Command { line: "echo \"a & b\" <c>", input: false }),
            (shell, Ask::Send { command: "C1", bytes: b"hello\n", last: true }),
            (shell, Ask::Receive { command: "C1" }),
            (shell, Ask::Terminate { command: "C1" }),
            (shell, Ask::Delete),
        ];
        let text = asks.iter().map(|(shell, ask)| envelope(Uuid::nil(), *shell, Duration::from_secs(20), ask));
        insta::assert_snapshot!(text.collect::<Vec<_>>().join("\n\n").replace("><", ">\n<"));
    }

    #[test]
    fn outputs_come_in_order_with_the_exit_code() {
        let text = r#"<s:Envelope xmlns:s="x" xmlns:rsp="y"><s:Body><rsp:ReceiveResponse>
            <rsp:Stream Name="stdout" CommandId="C">b25l</rsp:Stream><rsp:Stream Name="stderr" CommandId="C">dHdv</rsp:Stream>
            <rsp:Stream Name="stdout" CommandId="C" End="true"></rsp:Stream><rsp:Stream Name="stderr" CommandId="C" End="true"/>
            <rsp:CommandState CommandId="C" State="http://schemas.microsoft.com/wbem/wsman/1/windows/shell/CommandState/Done">
            <rsp:ExitCode>-1</rsp:ExitCode></rsp:CommandState></rsp:ReceiveResponse></s:Body></s:Envelope>"#;
        let reply = parse(text).unwrap();
        assert_eq!(reply.output, [(Stream::Out, b"one".to_vec()), (Stream::Err, b"two".to_vec())]);
        assert_eq!((reply.done, reply.exit, reply.fault), (true, Some(u32::MAX), None));
        let running = text.replace("CommandState/Done", "CommandState/Running").replace("-1", "4294967295");
        let reply = parse(&running).unwrap();
        assert_eq!((reply.done, reply.exit), (false, Some(u32::MAX)));
    }

    /// As Windows writes them.
    #[test]
    fn faults_are_told_apart() {
        let fault = |code: &str, subcode: &str| {
            let text = format!(
                r#"<s:Envelope xmlns:s="a" xmlns:w="b"><s:Body><s:Fault><s:Code><s:Value>s:Receiver</s:Value><s:Subcode>
                <s:Value>{subcode}</s:Value></s:Subcode></s:Code><s:Reason><s:Text xml:lang="en-US">It cannot &amp; will not.
                </s:Text></s:Reason><s:Detail><f:WSManFault xmlns:f="c" {code} Machine="localhost"><f:Message>More.</f:Message>
                </f:WSManFault></s:Detail></s:Fault></s:Body></s:Envelope>"#
            );
            parse(&text).unwrap().fault.unwrap()
        };
        let timeout = fault("Code=\"2150858793\"", "w:TimedOut");
        assert!(timeout.is_timeout() && !timeout.is_gone());
        assert!(fault("Code=\"2150858843\"", "w:InvalidSelectors").is_gone());
        assert!(fault("", "w:TimedOut").is_timeout());
        let quota = fault("Code=\"2150859174\"", "w:QuotaLimit");
        assert!(!quota.is_timeout() && !quota.is_gone());
        assert_eq!(quota.to_string(), "It cannot & will not. (WSManFault 0x803381A6)");
    }

    #[test]
    fn a_shell_is_named_by_its_selector() {
        let text = r#"<s:Envelope xmlns:s="a" xmlns:w="b"><s:Body><x:ResourceCreated xmlns:x="c"><w:SelectorSet>
            <w:Selector Name="ShellId">ABC</w:Selector></w:SelectorSet></x:ResourceCreated></s:Body></s:Envelope>"#;
        assert_eq!(parse(text).unwrap().shell.as_deref(), Some("ABC"));
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        for text in [
            "<a><b></a>",
            "<!DOCTYPE a [<!ENTITY x 'y'>]><a>&x;</a>",
            r#"<a><Stream Name="stdout">%%%</Stream></a>"#,
            "<a><ExitCode>99999999999</ExitCode></a>",
            "<a>&unknown;</a>",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(parse("").unwrap(), Reply::default());
        assert!(is_text("a\tb\u{1f600}") && !is_text("a\0b") && !is_text("\u{1b}[2J") && !is_text("\u{ffff}"));
    }
}
