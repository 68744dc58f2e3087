//! Fetches the scripts and files of a template: http, https, or a blob of this server, bounded in size and time, checked against
//! their checksums while they stream into the staging account.
//!
//! Whoever writes a template must not reach through it what only this machine can reach: loopback and link-local addresses are
//! refused, however a name or a redirection leads there, but for hosts that the operator names.

use super::{Fetched, own_blob};
use crate::Engine;
use crate::call::Call;
use crate::storage::{Access, NewBlob, Place, Upload};
use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt as _, unfold};
use lazuli_arm::ArmError;
use lazuli_arm::bodies::image_template::Remote;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Client, Response, Url, header, redirect};
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

const CONNECT: Duration = Duration::from_secs(15);
/// Nothing comes for so long.
const SILENCE: Duration = Duration::from_secs(60);
const WHOLE: Duration = Duration::from_secs(15 * 60);
const REDIRECTS: usize = 5;

/// Why a file did not come. The text is for the template's author; no query of a URL is in it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    #[error("'{0}' cannot be fetched: {1}.")]
    Unreachable(String, String),
    #[error("'{0}' has more than {1} MiB, which is the most for a file of a template.")]
    TooLarge(String, u64),
    #[error("The SHA-256 checksum of '{0}' is {1}, but the template says {2}.")]
    Checksum(String, String, String),
    #[error(transparent)]
    Engine(#[from] ArmError),
}

/// A URL without what may be a secret in it.
pub(crate) fn shown(uri: &str) -> String {
    let plain = uri.split(['?', '#']).next().unwrap_or_default();
    match plain.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
            let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
            format!("{scheme}://{host}/{path}")
        }
        None => plain.to_owned(),
    }
}

/// Brings a file into a blob.
///
/// # Errors
/// [`FetchError`]; the blob is made only if the whole file came and its checksum is right.
pub(crate) async fn fetch(engine: &Engine, call: &Call, remote: &Remote, to: &Place) -> Result<Fetched, FetchError> {
    let outcome = Outcome::default();
    let bytes = open(engine, call, remote, &outcome).await?;
    let upload = Upload { bytes, md5: Arc::new(OnceLock::new()) };
    let put = engine.storage().put_block_blob(to, upload, NewBlob::default(), &Access::default()).await;
    // What the stream found goes before what its end looked like to the store.
    match (put, taken(outcome)) {
        (Ok(_), Some(Ok((sha256, size_bytes)))) => Ok(Fetched { blob: to.blob.clone(), sha256, size_bytes }),
        (_, Some(Err(refused))) => Err(refused),
        (Err(error), _) => Err(FetchError::Engine(error.into())),
        (Ok(_), None) => Err(FetchError::Engine(ArmError::internal("a file was stored that nobody read"))),
    }
}

/// Reads a file and keeps nothing of it: its checksum and its size in bytes.
///
/// # Errors
/// [`FetchError`].
pub(crate) async fn probe(engine: &Engine, call: &Call, remote: &Remote) -> Result<(String, u64), FetchError> {
    let outcome = Outcome::default();
    let mut bytes = open(engine, call, remote, &outcome).await?;
    while let Some(Ok(_)) = bytes.next().await {}
    drop(bytes);
    taken(outcome).unwrap_or_else(|| Err(FetchError::Engine(ArmError::internal("a file was not read to its end"))))
}

/// The bytes of a file, checked while they are read.
async fn open(
    engine: &Engine,
    call: &Call,
    remote: &Remote,
    outcome: &Outcome,
) -> Result<BoxStream<'static, io::Result<Bytes>>, FetchError> {
    let bytes = match own_blob::find(engine, call, &remote.uri).await? {
        Some(place) => own_bytes(engine, &place, &remote.uri).await?,
        None => {
            let answer = get(&engine.config().image_builder.fetch_from, &remote.uri).await?;
            answer.bytes_stream().map(|piece| piece.map_err(|e| io::Error::other(without_url(e)))).boxed()
        }
    };
    let limits = Limits { max_mib: engine.config().image_builder.max_file_mib, expected: remote.sha256.clone() };
    Ok(checked(bytes, limits, shown(&remote.uri), Arc::clone(outcome)))
}

/// What the stream found, once it is dropped.
fn taken(outcome: Outcome) -> Option<Result<(String, u64), FetchError>> {
    Arc::into_inner(outcome).and_then(OnceLock::into_inner)
}

async fn own_bytes(
    engine: &Engine,
    place: &Place,
    uri: &str,
) -> Result<BoxStream<'static, io::Result<Bytes>>, FetchError> {
    let opened = engine.storage().open(place, &Access::default()).await;
    let opened = opened.map_err(|e| FetchError::Unreachable(shown(uri), ArmError::from(e).message))?;
    let size = opened.info.size;
    Ok(opened.read(0..size).map(|piece| piece.map_err(|e| io::Error::other(e.to_string()))).boxed())
}

struct Limits {
    max_mib: u64,
    expected: Option<String>,
}

type Outcome = Arc<OnceLock<Result<(String, u64), FetchError>>>;

/// The same bytes; ends with an error where they are too many or not those that are expected, and says in `outcome` which.
fn checked(
    bytes: BoxStream<'static, io::Result<Bytes>>,
    limits: Limits,
    uri: String,
    outcome: Outcome,
) -> BoxStream<'static, io::Result<Bytes>> {
    struct State {
        bytes: BoxStream<'static, io::Result<Bytes>>,
        hash: Context,
        len: u64,
        limits: Limits,
        uri: String,
        outcome: Outcome,
    }
    let state = State { bytes, hash: Context::new(&SHA256), len: 0, limits, uri, outcome };
    let next = |state: Option<State>| async move {
        let mut state = state?;
        let refuse = |state: State, error: FetchError| {
            let _ = state.outcome.set(Err(error));
            Some((Err(io::Error::other("the file was refused")), None))
        };
        match state.bytes.next().await {
            Some(Ok(piece)) => {
                state.len += piece.len() as u64;
                if state.len > state.limits.max_mib << 20 {
                    let error = FetchError::TooLarge(state.uri.clone(), state.limits.max_mib);
                    return refuse(state, error);
                }
                state.hash.update(&piece);
                Some((Ok(piece), Some(state)))
            }
            Some(Err(error)) => {
                let why = format!("the connection broke after {} bytes ({error})", state.len);
                let error = FetchError::Unreachable(state.uri.clone(), why);
                refuse(state, error)
            }
            None => {
                let sha256 = hex::encode(state.hash.clone().finish());
                match state.limits.expected.clone() {
                    Some(expected) if expected != sha256 => {
                        let error = FetchError::Checksum(state.uri.clone(), sha256, expected);
                        refuse(state, error)
                    }
                    _ => {
                        let _ = state.outcome.set(Ok((sha256, state.len)));
                        None
                    }
                }
            }
        }
    };
    unfold(Some(state), next).boxed()
}

/// An error of the client without the URL in it.
fn without_url(error: reqwest::Error) -> String {
    let why = match () {
        () if error.is_timeout() => "no answer in time",
        () if error.is_connect() => "no connection",
        () => "the transfer failed",
    };
    tracing::debug!(error = &error.without_url() as &dyn std::error::Error, "a file of a template was not fetched");
    why.to_owned()
}

/// Asks for a URL, following redirections.
async fn get(allowed: &[String], uri: &str) -> Result<Response, FetchError> {
    let failed = |why: String| FetchError::Unreachable(shown(uri), why);
    let resolver = Guarded { allowed: allowed.to_vec() };
    let client = Client::builder()
        .connect_timeout(CONNECT)
        .read_timeout(SILENCE)
        .timeout(WHOLE)
        .redirect(redirect::Policy::none())
        .dns_resolver(Arc::new(resolver))
        .build()
        .map_err(|e| failed(without_url(e)))?;
    let mut url = Url::parse(uri).map_err(|e| failed(format!("it is no URL ({e})")))?;
    for _ in 0..=REDIRECTS {
        check_url(&url, allowed).map_err(&failed)?;
        let answer = client.get(url.clone()).send().await.map_err(|e| failed(without_url(e)))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        if !status.is_redirection() {
            return Err(failed(format!("the server answered {status}")));
        }
        let location = answer.headers().get(header::LOCATION).and_then(|l| l.to_str().ok());
        let next = location.and_then(|l| url.join(l).ok());
        url = next.ok_or_else(|| failed(format!("the server answered {status} without a place to go on")))?;
    }
    Err(failed(format!("there are more than {REDIRECTS} redirections")))
}

/// Schemes, and addresses that are written into the URL.
fn check_url(url: &Url, allowed: &[String]) -> Result<(), String> {
    if !matches!(url.scheme(), "https" | "http") {
        return Err(format!("it leads to the scheme '{}'", url.scheme()));
    }
    let host = url.host_str().unwrap_or_default();
    let literal = host.trim_matches(['[', ']']).parse::<IpAddr>().ok();
    match literal {
        Some(address) if !is_allowed(allowed, host) && is_own(address) => Err(refused(host)),
        _ => Ok(()),
    }
}

fn refused(host: &str) -> String {
    format!(
        "'{host}' is an address of the server itself or of its link; the operator allows it by [image_builder] fetch_from = [\"{host}\"]"
    )
}

fn is_allowed(allowed: &[String], host: &str) -> bool {
    allowed.iter().any(|a| a.eq_ignore_ascii_case(host))
}

/// Addresses that mean another machine depending on who uses them.
fn is_own(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => {
            a.is_loopback() || a.is_link_local() || a.is_unspecified() || a.is_multicast() || a.is_broadcast()
        }
        IpAddr::V6(a) => match a.to_ipv4_mapped() {
            Some(mapped) => is_own(IpAddr::V4(mapped)),
            None => a.is_loopback() || a.is_unspecified() || a.is_multicast() || is_link_local(a),
        },
    }
}

fn is_link_local(address: Ipv6Addr) -> bool {
    address.segments()[0] & 0xffc0 == 0xfe80
}

/// Names, without the addresses that are refused.
struct Guarded {
    allowed: Vec<String>,
}

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        let host = name.as_str().to_owned();
        let any = is_allowed(&self.allowed, &host);
        Box::pin(async move {
            let found = tokio::net::lookup_host((host.as_str(), 0)).await?;
            let usable: Vec<SocketAddr> = found.filter(|a| any || !is_own(a.ip())).collect();
            if usable.is_empty() {
                return Err(refused(&host).into());
            }
            Ok(Box::new(usable.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_of_urls_are_not_shown() {
        assert_eq!(shown("https://u:p@example.com/a/b.sh?sig=secret#x"), "https://example.com/a/b.sh");
    }

    #[test]
    fn own_addresses_are_refused_however_they_are_written() {
        for url in [
            "http://127.0.0.1/x",
            "http://127.1/x",
            "http://2130706433/x",
            "http://[::1]:8080/x",
            "http://[::ffff:169.254.169.254]/x",
            "http://169.254.169.254/metadata",
            "http://[fe80::1]/x",
            "http://0.0.0.0/x",
            "file:///etc/passwd",
        ] {
            assert!(check_url(&Url::parse(url).unwrap(), &[]).is_err(), "{url}");
        }
        for url in ["https://example.com/x", "http://10.0.0.4/x"] {
            assert!(check_url(&Url::parse(url).unwrap(), &[]).is_ok(), "{url}");
        }
        let allowed = ["127.0.0.1".to_owned()];
        assert!(check_url(&Url::parse("http://127.0.0.1:8000/x").unwrap(), &allowed).is_ok());
    }
}
