//! The files of a machine's VM applications, as the host agent's plugin has them for its guest:
//! `GET http://168.63.129.16:32526/applications/{name}/{package|config}`, the paths that Azure's own handler asks for
//! (Azure/VMApplication-Extension, `hostgacommunicator`).
//!
//! Streamed from the region's store, piece by piece, to the machine whose definition names them and to nobody else.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream;
use http::{Method, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use lazuli_nbd::BlockSource;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Answer, Ask};
use crate::host::{BaseImageError, BaseImages};
use crate::spec::{HostedFile, VmSpec};

pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Below this path, on [`super::PLUGIN_PORT`].
const FOLDER: &str = "/applications/";
const PIECE: u64 = 1 << 20;
/// Of one guest: more would only hold memory here.
const AT_ONCE: usize = 4;

pub(super) struct Downloads {
    images: Arc<dyn BaseImages>,
    room: Arc<Semaphore>,
}

impl Downloads {
    pub fn new(images: Arc<dyn BaseImages>) -> Self {
        Self { images, room: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// `None`: something else is asked for.
    pub async fn answer(&self, spec: &VmSpec, ask: &Ask) -> Option<Response<Body>> {
        if !ask.path.starts_with(FOLDER) {
            return None;
        }
        let refuse = |status| Some(Answer::empty(status).into_response());
        if ask.method != Method::GET {
            return refuse(StatusCode::METHOD_NOT_ALLOWED);
        }
        let Some(file) = file_of(spec, &ask.path) else { return refuse(StatusCode::NOT_FOUND) };
        let Ok(permit) = Arc::clone(&self.room).try_acquire_owned() else {
            return refuse(StatusCode::TOO_MANY_REQUESTS);
        };
        match Sent::open(file, &*self.images, permit).await {
            Ok(sent) => Some(sent.into_response()),
            Err(error) => {
                tracing::warn!(vm.id = %spec.id, path = ask.path, %error, "a guest's application cannot be read");
                refuse(StatusCode::SERVICE_UNAVAILABLE)
            }
        }
    }
}

/// The file that a path below [`FOLDER`] names.
fn file_of<'s>(spec: &'s VmSpec, path: &str) -> Option<&'s HostedFile> {
    let (name, which) = path.strip_prefix(FOLDER)?.split_once('/')?;
    let application = spec.applications.iter().find(|a| a.name.eq_ignore_ascii_case(name))?;
    match which {
        "package" => Some(&application.package),
        "config" => application.config.as_ref(),
        _ => None,
    }
}

/// A file on its way to the guest.
struct Sent {
    file: HostedFile,
    tail: Vec<u8>,
    source: Option<Arc<dyn BlockSource>>,
    at: u64,
    _room: OwnedSemaphorePermit,
}

impl Sent {
    async fn open(
        file: &HostedFile,
        images: &dyn BaseImages,
        room: OwnedSemaphorePermit,
    ) -> Result<Self, BaseImageError> {
        let source = match &file.base {
            Some(base) => Some(images.open(&base.source).await?),
            None => None,
        };
        Ok(Self { file: file.clone(), tail: hex::decode(&file.tail)?, source, at: 0, _room: room })
    }

    /// With its length: a guest sees whether it has got all of it.
    fn into_response(self) -> Response<Body> {
        let length = self.file.size_bytes.into();
        let pieces = stream::try_unfold(self, |mut sent| async move {
            Ok::<_, io::Error>(sent.next().await?.map(|piece| (Frame::data(piece), sent)))
        });
        let mut response = Response::new(StreamBody::new(pieces).boxed_unsync());
        response.headers_mut().insert(header::CONTENT_LENGTH, length);
        let kind = header::HeaderValue::from_static("application/octet-stream");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    }

    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        let (from, end) = (self.at, self.file.size_bytes.min(self.at + PIECE));
        if from >= end {
            return Ok(None);
        }
        let within = |until: u64| usize::try_from(until.clamp(from, end) - from).map_err(io::Error::other);
        let mut piece = vec![0; within(end)?];
        if let (Some(source), Some(base)) = (&self.source, &self.file.base) {
            let stored = within(base.size_bytes.min(source.size()))?;
            if stored > 0 {
                source.read_at(from, &mut piece[..stored]).await?;
            }
        }
        let tail_end = self.file.tail_at + self.tail.len() as u64;
        let (first, last) = (self.file.tail_at.max(from), tail_end.min(end));
        if first < last {
            let skipped = usize::try_from(first - self.file.tail_at).map_err(io::Error::other)?;
            let (start, stop) = (within(first)?, within(last)?);
            piece[start..stop].copy_from_slice(&self.tail[skipped..skipped + (stop - start)]);
        }
        self.at = end;
        Ok(Some(piece.into()))
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddrV4;

    use async_trait::async_trait;
    use lazuli_nbd::Extent;
    use tokio::io::AsyncReadExt as _;

    use super::*;
    use crate::net::{IMDS, WIRE_SERVER};
    use crate::provisioning::tests::{Nobody, example, fabric_of, sent_to};
    use crate::provisioning::{Fabric, HTTP_PORT, PLUGIN_PORT};
    use crate::spec::{ApplicationFiles, BaseImage};

    /// Images of which every byte says where it is.
    struct Counted;

    struct Numbers(u64);

    #[async_trait]
    impl BaseImages for Counted {
        async fn open(&self, source: &str) -> Result<Arc<dyn BlockSource>, BaseImageError> {
            Ok(Arc::new(Numbers(source.parse()?)))
        }
    }

    fn byte_at(offset: u64) -> u8 {
        u8::try_from(offset % 251).unwrap()
    }

    #[async_trait]
    impl BlockSource for Numbers {
        fn size(&self) -> u64 {
            self.0
        }

        async fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
            assert!(offset + buf.len() as u64 <= self.0, "inside the image");
            for (i, byte) in buf.iter_mut().enumerate() {
                *byte = byte_at(offset + i as u64);
            }
            Ok(())
        }

        async fn extents(&self, _offset: u64, len: u64) -> io::Result<Vec<Extent>> {
            Ok(vec![Extent { len, hole: false }])
        }
    }

    fn spec() -> VmSpec {
        let stored = 2 * PIECE + 512;
        let base = Some(BaseImage { source: stored.to_string(), size_bytes: stored });
        let package = HostedFile { base, tail_at: stored, tail: "6162".into(), size_bytes: stored + 5 };
        let config = HostedFile { base: None, tail_at: 0, tail: hex::encode("k=v\n"), size_bytes: 4 };
        let with = ApplicationFiles { name: "app1".into(), package: package.clone(), config: Some(config) };
        let without = ApplicationFiles { name: "app2".into(), package, config: None };
        VmSpec { applications: vec![with, without], ..example() }
    }

    /// Status and body of the answer to a GET.
    async fn got(fabric: &Arc<Fabric>, dest: SocketAddrV4, path: &str) -> (String, Vec<u8>) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let mut answer = Vec::new();
        sent_to(fabric, dest, &request).await.read_to_end(&mut answer).await.unwrap();
        let end = answer.windows(4).position(|w| w == b"\r\n\r\n").expect("a head") + 4;
        let status = String::from_utf8_lossy(&answer[9..12]).into_owned();
        (status, answer.split_off(end))
    }

    const PLUGIN: SocketAddrV4 = SocketAddrV4::new(WIRE_SERVER, PLUGIN_PORT);

    #[tokio::test]
    async fn a_guest_gets_its_own_files_whole() {
        let spec = spec();
        spec.check().unwrap();
        let fabric = fabric_of(spec, Arc::new(Counted));
        let (status, package) = got(&fabric, PLUGIN, "/applications/APP1/package").await;
        let stored = 2 * PIECE + 512;
        let expected: Vec<u8> = (0..stored).map(byte_at).chain(*b"ab\0\0\0").collect();
        assert_eq!((status.as_str(), package == expected), ("200", true));
        assert_eq!(got(&fabric, PLUGIN, "/applications/app1/config").await, ("200".into(), b"k=v\n".to_vec()));
        for path in ["/applications/app2/config", "/applications/other/package", "/applications/app1", "/applications/"]
        {
            assert_eq!(got(&fabric, PLUGIN, path).await.0, "404", "{path}");
        }
        // Nowhere else, and of no other machine.
        let imds = SocketAddrV4::new(IMDS, HTTP_PORT);
        assert_ne!(got(&fabric, imds, "/applications/app1/package").await.0, "200");
        let other = fabric_of(example(), Arc::new(Counted));
        assert_eq!(got(&other, PLUGIN, "/applications/app1/package").await.0, "404");
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_told_and_no_guest_takes_all_the_room() {
        let fabric = fabric_of(spec(), Arc::new(Nobody));
        assert_eq!(got(&fabric, PLUGIN, "/applications/app1/package").await.0, "503");
        let fabric = fabric_of(spec(), Arc::new(Counted));
        let request = "GET /applications/app1/package HTTP/1.1\r\nHost: x\r\n\r\n";
        let mut unread = Vec::new();
        for _ in 0..AT_ONCE {
            let mut connection = sent_to(&fabric, PLUGIN, request).await;
            connection.read_exact(&mut [0; 12]).await.unwrap();
            unread.push(connection);
        }
        assert_eq!(got(&fabric, PLUGIN, "/applications/app1/package").await.0, "429");
    }
}
