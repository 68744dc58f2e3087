//! The server through our own client and through raw bytes.

mod common;

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::{MemDisk, serve};
use lazuli_nbd::proto::{self, OptionRequest, Request, command, command_flag, option, transmission_flag};
use lazuli_nbd::{Client, ClientError, Export, serve_connection};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn structured_and_simple_replies_give_the_same_bytes() {
    let served = serve(MemDisk::sample());
    let size = served.disk.bytes.len();
    for structured in [true, false] {
        let stream = UnixStream::connect(&served.socket).await.unwrap();
        let mut client = Client::open(stream, "disk", structured).await.unwrap();
        assert_eq!(client.size(), size as u64);
        assert_eq!(client.flags() & transmission_flag::SEND_DF != 0, structured);
        for (offset, len) in [(0, size), (size - 1, 1), (5000, 70_000), (12_287, 2), (1, 4096)] {
            let mut buf = vec![1; len];
            client.read_at(offset as u64, &mut buf).await.unwrap();
            assert!(buf == served.disk.bytes[offset..offset + len], "{len} at {offset}");
        }
        client.cache(0, 4096).await.unwrap();
        client.disconnect().await.unwrap();
    }
    assert_eq!(served.disk.cached.load(Ordering::Relaxed), 2 * 4096);
    let counters = &served.counters;
    assert_eq!(counters.reads.load(Ordering::Relaxed), 10);
    assert_eq!(counters.bytes.load(Ordering::Relaxed), 2 * (size as u64 + 1 + 70_000 + 2 + 4096));
}

#[tokio::test]
async fn block_status_is_the_sources() {
    let served = serve(MemDisk::sample());
    let mut client = Client::connect_unix(&served.socket, "").await.unwrap();
    let extents = client.block_status(0, client.size()).await.unwrap();
    let mut at = 0;
    for extent in &extents {
        let len = usize::try_from(extent.len).unwrap();
        assert!((at..at + len).step_by(512).all(|at| served.disk.is_hole(at) == extent.hole));
        at += len;
    }
    assert_eq!(at, served.disk.bytes.len());
    assert!(extents.windows(2).all(|w| w[0].hole != w[1].hole), "neighbours are joined");

    let plain = UnixStream::connect(&served.socket).await.unwrap();
    let mut plain = Client::open(plain, "", false).await.unwrap();
    assert!(matches!(plain.block_status(0, 1).await, Err(ClientError::NoBlockStatus)));
    let error = plain.command(command::BLOCK_STATUS, 0, 0, 512).await.unwrap_err();
    assert!(matches!(error, ClientError::Remote(22)), "{error}");
}

#[tokio::test]
async fn refusals_leave_the_connection_usable() {
    let mut disk = MemDisk::sample();
    // In a block with data: holes are answered without asking the source.
    let bad = 514 * 4096;
    disk.bad = Some(bad);
    let served = serve(disk);
    for structured in [true, false] {
        let stream = UnixStream::connect(&served.socket).await.unwrap();
        let mut client = Client::open(stream, "disk", structured).await.unwrap();
        let size = client.size();
        for (code, flags, offset, len, errno) in [
            (command::TRIM, 0, 0, 512, 1),
            (command::WRITE_ZEROES, 0, 0, 512, 1),
            (command::FLUSH, 0, 0, 0, 22),
            (77, 0, 0, 0, 22),
            (command::READ, 0, size, 1, 22),
            (command::READ, 0, u64::MAX, 512, 22),
            (command::READ, 0, 0, u32::MAX, 22),
            (command::READ, command_flag::REQ_ONE, 0, 1, 22),
            (command::CACHE, 0, size - 1, 2, 22),
            (command::READ, 0, bad, 512, 5),
        ] {
            let error = client.command(code, flags, offset, len).await.unwrap_err();
            assert!(matches!(error, ClientError::Remote(found) if found == errno), "{code} {offset}+{len}: {error}");
        }
        let mut buf = [1; 512];
        client.read_at(0, &mut buf).await.unwrap();
        assert_eq!(buf, served.disk.bytes[..512]);
    }
    assert_eq!(served.counters.errors.load(Ordering::Relaxed), 20);
}

/// Speaks raw bytes: greeting, flags, then `options`.
async fn raw(served: &common::Served, options: &[OptionRequest]) -> UnixStream {
    let mut stream = UnixStream::connect(&served.socket).await.unwrap();
    let mut greeting = [0; proto::GREETING_LEN];
    stream.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"NBDMAGICIHAVEOPT\0\x03");
    stream.write_u32(3).await.unwrap();
    for option in options {
        stream.write_all(&option.encode()).await.unwrap();
    }
    stream
}

#[tokio::test]
async fn writes_are_refused_and_their_data_skipped() {
    let served = serve(MemDisk::sample());
    let mut stream = raw(&served, &[OptionRequest::ExportName("disk".into())]).await;
    let mut export = [0; 10];
    stream.read_exact(&mut export).await.unwrap();
    assert_eq!(export[..8], (served.disk.bytes.len() as u64).to_be_bytes());

    let mut bytes = Request { flags: 0, command: command::WRITE, cookie: 1, offset: 0, len: 100_000 }.encode();
    bytes.extend([0xff; 100_000]);
    bytes.extend(Request { flags: 0, command: command::READ, cookie: 2, offset: 409_600, len: 512 }.encode());
    stream.write_all(&bytes).await.unwrap();
    let mut reply = vec![0; 16 + 16 + 512];
    stream.read_exact(&mut reply).await.unwrap();
    // Replies may come in any order.
    let (write, read) = if reply[4..8] == [0, 0, 0, 1] { reply.split_at(16) } else { (&reply[528..], &reply[..528]) };
    assert_eq!(write, proto::simple_reply(1, 1));
    assert_eq!(read[..16], proto::simple_reply(2, 0)[..]);
    assert_eq!(read[16..], served.disk.bytes[409_600..410_112]);
}

#[tokio::test]
async fn bad_options_are_answered_and_bad_magic_ends_it() {
    let served = serve(MemDisk::sample());
    let header = |code: u32, len: u32| {
        let mut bytes = b"IHAVEOPT".to_vec();
        bytes.extend(code.to_be_bytes());
        bytes.extend(len.to_be_bytes());
        bytes
    };
    for (code, len, want) in [
        (4242, 3, 0x8000_0001_u32),
        (option::GO, 2, 0x8000_0003),
        (option::LIST, 1, 0x8000_0003),
        (option::SET_META_CONTEXT, 8, 0x8000_0003),
        (option::INFO, 100_000, 0x8000_0009),
    ] {
        let mut stream = raw(&served, &[]).await;
        stream.write_all(&header(code, len)).await.unwrap();
        stream.write_all(&vec![0; len as usize]).await.unwrap();
        let mut reply = [0; proto::OPTION_REPLY_LEN];
        stream.read_exact(&mut reply).await.unwrap();
        assert_eq!(reply[12..16], want.to_be_bytes(), "option {code}");
    }
    for bytes in [b"garbage!garbage!".to_vec(), header(option::GO, u32::MAX), header(option::EXPORT_NAME, 70_000)] {
        let mut stream = raw(&served, &[]).await;
        stream.write_all(&bytes).await.unwrap();
        assert_ended(&mut stream).await;
    }
    let mut stream = raw(&served, &[OptionRequest::ExportName("other".into())]).await;
    assert_ended(&mut stream).await;
    let mut stream = raw(&served, &[OptionRequest::ExportName(String::new())]).await;
    stream.write_all(&[0x55; 28]).await.unwrap();
    let mut export = [0; 10];
    stream.read_exact(&mut export).await.unwrap();
    assert_ended(&mut stream).await;

    let error = Client::connect_unix(&served.socket, "other").await.unwrap_err();
    assert!(matches!(error, ClientError::Refused { kind: 0x8000_0006, .. }), "{error}");
}

async fn assert_ended(stream: &mut UnixStream) {
    let mut rest = Vec::new();
    match tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut rest)).await.unwrap() {
        Ok(_) => assert!(rest.is_empty(), "{rest:?}"),
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
}

#[tokio::test]
async fn a_source_that_panics_ends_its_connection_only() {
    let mut disk = MemDisk::sample();
    disk.deadly = Some(1 << 20);
    let served = serve(disk);
    let mut victim = Client::connect_unix(&served.socket, "").await.unwrap();
    let mut other = Client::connect_unix(&served.socket, "").await.unwrap();
    let mut buf = [0; 512];
    let error = victim.read_at(1 << 20, &mut buf).await.unwrap_err();
    assert!(matches!(error, ClientError::Io(_)), "{error}");
    other.read_at(0, &mut buf).await.unwrap();
}

#[tokio::test]
async fn shutdown_ends_server_and_connections() {
    let served = serve(MemDisk::sample());
    let mut client = Client::connect_unix(&served.socket, "").await.unwrap();
    let _negotiating = raw(&served, &[]).await;
    served.shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(30), served.server).await.unwrap().unwrap();
    assert!(matches!(client.read_at(0, &mut [0; 512]).await, Err(ClientError::Io(_))));
    assert!(UnixStream::connect(&served.socket).await.is_err());
}

/// Feeds `bytes` to a server and closes; it must end by itself, whatever they are.
async fn survives(bytes: Vec<u8>) {
    let export = Export::new("disk", Arc::new(MemDisk::new(vec![7; 10_000])));
    let (near, far) = tokio::io::duplex(1 << 16);
    let server = tokio::spawn(serve_connection(far, export, CancellationToken::new()));
    let (mut reader, mut writer) = tokio::io::split(near);
    let feed = async {
        let _ = writer.write_all(&bytes).await;
        let _ = writer.shutdown().await;
    };
    let drain = async {
        let _ = tokio::io::copy(&mut reader, &mut tokio::io::sink()).await;
    };
    tokio::join!(feed, drain);
    let ended = tokio::time::timeout(Duration::from_secs(30), server).await.expect("the server hangs");
    // An error is as good as an end; a panic is not.
    let _ = ended.expect("the server panics");
}

fn any_request() -> impl Strategy<Value = Vec<u8>> {
    (any::<u16>(), 0_u16..9, any::<u64>(), 0_u64..20_000, 0_u32..20_000)
        .prop_map(|(flags, command, cookie, offset, len)| Request { flags, command, cookie, offset, len }.encode())
}

fn any_option() -> impl Strategy<Value = Vec<u8>> {
    let text = || prop_oneof![Just(String::new()), Just("disk".into()), Just("base:allocation".into()), ".{0,9}"];
    prop_oneof![
        text().prop_map(|name| OptionRequest::ExportName(name).encode()),
        (text(), prop::collection::vec(any::<u16>(), 0..4), any::<bool>()).prop_map(|(name, infos, go)| {
            if go { OptionRequest::Go { name, infos } } else { OptionRequest::Info { name, infos } }.encode()
        }),
        (text(), prop::collection::vec(text(), 0..4), any::<bool>()).prop_map(|(name, queries, set)| {
            let (a, b) = (name.clone(), queries.clone());
            let list = OptionRequest::ListMetaContext { name, queries };
            if set { OptionRequest::SetMetaContext { name: a, queries: b } } else { list }.encode()
        }),
        Just(OptionRequest::StructuredReply.encode()),
        Just(OptionRequest::List.encode()),
        (any::<u32>(), prop::collection::vec(any::<u8>(), 0..40)).prop_map(|(code, data)| {
            let mut bytes = OptionRequest::Unknown(code % 16).encode();
            bytes[12..16].copy_from_slice(&u32::try_from(data.len()).unwrap().to_be_bytes());
            bytes.extend(data);
            bytes
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn random_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(survives(bytes));
    }

    #[test]
    fn random_messages_do_no_harm(
        options in prop::collection::vec(any_option(), 0..6),
        requests in prop::collection::vec(any_request(), 0..40),
        junk in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        let mut bytes = 3_u32.to_be_bytes().to_vec();
        bytes.extend(options.concat());
        bytes.extend(OptionRequest::Go { name: String::new(), infos: vec![] }.encode());
        bytes.extend(requests.concat());
        bytes.extend(junk);
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(survives(bytes));
    }
}

/// Answers a read only once another one waits too.
struct Pair(tokio::sync::Barrier);

#[async_trait::async_trait]
impl lazuli_nbd::BlockSource for Pair {
    fn size(&self) -> u64 {
        1 << 20
    }

    async fn read_at(&self, _offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        self.0.wait().await;
        buf.fill(3);
        Ok(())
    }

    async fn extents(&self, _offset: u64, len: u64) -> std::io::Result<Vec<lazuli_nbd::Extent>> {
        Ok(vec![lazuli_nbd::Extent { len, hole: false }])
    }
}

#[tokio::test]
async fn requests_of_one_connection_are_worked_on_together() {
    let export = Export::new("pair", Arc::new(Pair(tokio::sync::Barrier::new(2))));
    let (mut near, far) = tokio::io::duplex(1 << 16);
    let server = tokio::spawn(serve_connection(far, export, CancellationToken::new()));
    let mut bytes = 3_u32.to_be_bytes().to_vec();
    bytes.extend(OptionRequest::ExportName("pair".into()).encode());
    for cookie in [1, 2] {
        bytes.extend(Request { flags: 0, command: command::READ, cookie, offset: 0, len: 512 }.encode());
    }
    bytes.extend(Request { flags: 0, command: command::DISC, cookie: 3, offset: 0, len: 0 }.encode());
    near.write_all(&bytes).await.unwrap();
    // Both are answered although the good-bye came before their end.
    let mut replies = Vec::new();
    near.read_to_end(&mut replies).await.unwrap();
    assert_eq!(replies.len(), proto::GREETING_LEN + 10 + 2 * (proto::SIMPLE_REPLY_LEN + 512));
    server.await.unwrap().unwrap();
}
