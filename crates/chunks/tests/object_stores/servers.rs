//! Real servers of object stores, started for one test: moto for S3, azurite for Azure Blob. And a line to them that
//! breaks when told to.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lazuli_chunks::open_store;
use object_store::ObjectStore;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};

/// The bucket or container.
const BUCKET: &str = "regions";
/// Base64 of the 64 bytes "lazuli..." of a key that only this server knows.
const KEY: &str = "bGF6dWxpbGF6dWxpbGF6dWxpbGF6dWxpbGF6dWxpbGF6dWxpbGF6dWxpbGF6dWxpbGF6dWxpbGF6dWxpbGF6dQ==";
/// Python needs a while on a busy machine.
const START: Duration = Duration::from_secs(120);
/// How long a client of these tests waits for an answer.
const TIMEOUT: &str = "3 seconds";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    S3,
    Azure,
}

/// A server with an empty bucket; it ends when dropped.
pub struct Server {
    pub kind: Kind,
    address: SocketAddr,
    child: Child,
    _dir: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    pub async fn start(kind: Kind) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let (name, mut command) = match kind {
            Kind::S3 => ("moto-server", tool("moto-server")),
            Kind::Azure => ("azurite-blob", tool("azurite-blob")),
        };
        let port = port.to_string();
        match kind {
            Kind::S3 => command.args(["-H", "127.0.0.1", "-p", &port]),
            Kind::Azure => command
                .args(["--blobHost", "127.0.0.1", "--blobPort", &port, "--skipApiVersionCheck", "--silent"])
                .args(["--disableTelemetry", "--location"])
                .arg(dir.path())
                .env("AZURITE_ACCOUNTS", format!("lazuli:{KEY}")),
        };
        let child = command
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("cannot run {name}: {e}; get it with: scripts/setup python npm"));
        let mut server = Self { kind, address, child, _dir: dir };
        server.wait().await;
        server.make_bucket().await;
        server
    }

    async fn wait(&mut self) {
        let deadline = Instant::now() + START;
        while TcpStream::connect(self.address).await.is_err() {
            assert!(Instant::now() < deadline, "the server does not listen");
            assert!(self.child.try_wait().unwrap().is_none(), "the server ended: run it by hand to see why");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn make_bucket(&self) {
        if self.kind == Kind::S3 {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            let request = format!("PUT /{BUCKET} HTTP/1.0\r\nHost: {}\r\nContent-Length: 0\r\n\r\n", self.address);
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.lines().next().unwrap_or_default().contains("200"), "{answer}");
            return;
        }
        let program = "import sys\n\
            from azure.storage.blob import BlobServiceClient\n\
            key = {'account_name': 'lazuli', 'account_key': sys.argv[2]}\n\
            BlobServiceClient(sys.argv[1], credential=key).create_container(sys.argv[3])\n";
        let url = format!("http://{}/lazuli", self.address);
        let done = tool("python-sdk").args(["-c", program, &url, KEY, BUCKET]).output();
        let done = done.expect("cannot run python-sdk; get it with: scripts/setup python");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    /// A store below `prefix` as an operator configures it, reached by `line`.
    pub fn store(&self, line: &Line, prefix: &str) -> Arc<dyn ObjectStore> {
        let endpoint = format!("http://{}", line.address);
        let (scheme, options) = match self.kind {
            Kind::S3 => (
                "s3",
                vec![
                    ("aws_endpoint", endpoint),
                    ("aws_region", "us-east-1".into()),
                    ("aws_access_key_id", "lazuli".into()),
                    ("aws_secret_access_key", "lazuli".into()),
                ],
            ),
            Kind::Azure => (
                "az",
                vec![
                    ("azure_storage_endpoint", format!("{endpoint}/lazuli")),
                    ("azure_storage_account_name", "lazuli".into()),
                    ("azure_storage_account_key", KEY.into()),
                ],
            ),
        };
        let mut options: BTreeMap<String, String> = options.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        options.insert("timeout".into(), TIMEOUT.into());
        open_store(&format!("{scheme}://{BUCKET}/{prefix}"), &options).unwrap()
    }
}

/// A program that scripts/setup installed.
fn tool(name: &str) -> Command {
    let cache = std::env::var_os("LAZULI_CACHE").map(PathBuf::from);
    let cache = cache.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache"));
    let program = cache.join("bin").join(name);
    assert!(program.exists(), "{} is missing; get it with: scripts/setup python npm", program.display());
    Command::new(program)
}

/// What goes wrong with one request for a pack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// It is answered by 503.
    Busy,
    /// It is never answered.
    Silence,
    /// Half of its body arrives, then the line is cut.
    Torn,
    /// It arrives whole and is done, but half of the answer is all that comes back.
    AnswerCut,
}

/// The way to a server, one request a connection.
#[derive(Clone)]
pub struct Line {
    address: SocketAddr,
    faults: Arc<Mutex<VecDeque<(&'static str, Fault)>>>,
}

impl Line {
    pub async fn to(server: &Server) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let line = Self { address: listener.local_addr().unwrap(), faults: Arc::default() };
        let (there, faults) = (server.address, Arc::clone(&line.faults));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                // A broken connection is what its client must cope with.
                tokio::spawn(pass(client, there, Arc::clone(&faults)));
            }
        });
        line
    }

    /// The next requests of this method for packs go wrong, one after the other.
    pub fn break_next(&self, method: &'static str, faults: &[Fault]) {
        self.faults.lock().unwrap().extend(faults.iter().map(|f| (method, *f)));
    }

    pub fn faults_left(&self) -> usize {
        self.faults.lock().unwrap().len()
    }
}

async fn pass(
    mut client: TcpStream,
    there: SocketAddr,
    faults: Arc<Mutex<VecDeque<(&'static str, Fault)>>>,
) -> io::Result<()> {
    let (head, begun) = read_head(&mut client).await?;
    let first = head.lines().next().unwrap_or_default();
    let length = |line: &str| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<u64>().ok())?
    };
    let body = head.lines().find_map(length).unwrap_or(0);
    let fault = {
        let mut faults = faults.lock().unwrap();
        let meant = |(method, _): &(&str, Fault)| first.starts_with(method) && first.contains("packs/");
        if faults.front().is_some_and(meant) { faults.pop_front().map(|(_, fault)| fault) } else { None }
    };
    let rest = body - begun.len() as u64;
    match fault {
        Some(Fault::Silence) => {
            // Until the client goes away.
            copy(&mut client, &mut tokio::io::sink()).await?;
            return Ok(());
        }
        Some(Fault::Busy) => {
            copy(&mut (&mut client).take(rest), &mut tokio::io::sink()).await?;
            let busy = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            return client.write_all(busy.as_bytes()).await;
        }
        _ => {}
    }
    let mut server = TcpStream::connect(there).await?;
    let (line, fields) = head.split_once("\r\n").unwrap_or((&head, ""));
    server.write_all(format!("{line}\r\nConnection: close\r\n{fields}").as_bytes()).await?;
    server.write_all(&begun).await?;
    let rest = if fault == Some(Fault::Torn) { (body / 2).saturating_sub(begun.len() as u64) } else { rest };
    copy(&mut (&mut client).take(rest), &mut server).await?;
    if fault == Some(Fault::Torn) {
        return Ok(());
    }
    if fault == Some(Fault::AnswerCut) {
        let mut answer = Vec::new();
        server.read_to_end(&mut answer).await?;
        return client.write_all(&answer[..answer.len() / 2]).await;
    }
    copy(&mut server, &mut client).await?;
    Ok(())
}

/// The head with its empty line, and what of the body came with it.
async fn read_head(client: &mut TcpStream) -> io::Result<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            let body = bytes.split_off(end + 4);
            return Ok((String::from_utf8_lossy(&bytes).into_owned(), body));
        }
        if client.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}
