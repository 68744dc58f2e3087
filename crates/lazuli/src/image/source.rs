//! From what the operator names to a disk that can be read: a file or a URL; a fixed VHD, a raw disk or a qcow2, told apart by
//! content, never by name.
//!
//! The file may come from a stranger: qcow2 is converted by a confined qemu-img, and only if it names no other file.

use super::report::Report;
use anyhow::{Context, bail, ensure};
use aws_lc_rs::digest::{self, SHA256};
use futures::StreamExt as _;
use lazuli_disks::{DiskSource, RawFile, vhd};
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use tempfile::TempPath;

/// A qcow2 that claims to be larger is not converted.
const MAX_VIRTUAL: u64 = 4 << 40;
/// Address space of qemu-img.
const MAX_MEMORY: u64 = 4 << 30;

/// What a file's content says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    FixedVhd,
    Raw,
    Qcow2 { virtual_size: u64 },
}

/// A disk with the temporary file that holds it, if one does.
struct Held<T> {
    disk: T,
    _file: Option<TempPath>,
}

impl<T: DiskSource> DiskSource for Held<T> {
    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn next_data(&self, from: u64) -> std::io::Result<Option<std::ops::Range<u64>>> {
        self.disk.next_data(from)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        self.disk.read_at(offset, buf)
    }
}

/// `dir`: where temporary files may be as large as the image.
pub async fn prepare(
    from: &str,
    sha256: Option<&str>,
    dir: &Path,
    report: &Report,
) -> anyhow::Result<Arc<dyn DiskSource>> {
    let wanted = sha256.map(checksum).transpose()?;
    let is_url = ["http://", "https://"].iter().any(|s| from.get(..s.len()).is_some_and(|f| f.eq_ignore_ascii_case(s)));
    let (path, held) = if is_url {
        let wanted = wanted.context("a URL needs --sha256, so that what comes is what was meant")?;
        let file = fetch(from, &wanted, dir, report).await?;
        (file.to_path_buf(), Some(file))
    } else {
        let path = PathBuf::from(from);
        if let Some(wanted) = wanted {
            let found = path.clone();
            let found = tokio::task::spawn_blocking(move || hash(&found)).await?;
            compare(&found.with_context(|| format!("cannot read {from}"))?, &wanted)?;
        }
        (path, None)
    };
    let format = detect(&path).with_context(|| format!("cannot use {from}"))?;
    let at = || format!("cannot use {from}");
    Ok(match format {
        Format::FixedVhd => Arc::new(Held { disk: vhd::open_fixed(&path).with_context(at)?, _file: held }),
        Format::Raw => Arc::new(Held { disk: RawFile::open(&path).with_context(at)?, _file: held }),
        Format::Qcow2 { virtual_size } => {
            let raw = convert(&path, virtual_size, dir, report).await.with_context(at)?;
            Arc::new(Held { disk: RawFile::open(&raw)?, _file: Some(raw) })
        }
    })
}

fn checksum(text: &str) -> anyhow::Result<String> {
    let lower = text.trim().to_ascii_lowercase();
    ensure!(lower.len() == 64 && lower.bytes().all(|b| b.is_ascii_hexdigit()), "--sha256 is not 64 hex digits");
    Ok(lower)
}

fn compare(found: &str, wanted: &str) -> anyhow::Result<()> {
    ensure!(found == wanted, "the file's SHA-256 is {found}, not {wanted}: nothing was published");
    Ok(())
}

fn hex(digest: &digest::Digest) -> String {
    digest.as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

fn hash(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let mut context = digest::Context::new(&SHA256);
    let mut buf = vec![0; 1 << 20];
    loop {
        match file.read(&mut buf)? {
            0 => return Ok(hex(&context.finish())),
            n => context.update(&buf[..n]),
        }
    }
}

/// Downloads into a temporary file and checks it.
async fn fetch(url: &str, wanted: &str, dir: &Path, report: &Report) -> anyhow::Result<TempPath> {
    let http = reqwest::Client::builder().connect_timeout(std::time::Duration::from_secs(30)).build()?;
    let at = || format!("cannot fetch {url}");
    let response = http.get(url).send().await.with_context(at)?.error_for_status().with_context(at)?;
    let total = response.content_length().unwrap_or(0);
    let (mut file, path) = tempfile::NamedTempFile::new_in(dir)?.into_parts();
    let mut context = digest::Context::new(&SHA256);
    let mut stream = response.bytes_stream();
    let mut done = 0;
    while let Some(bytes) = stream.next().await {
        let bytes = bytes.with_context(at)?;
        context.update(&bytes);
        file.write_all(&bytes).context("cannot write the download")?;
        done += bytes.len() as u64;
        report.bytes("fetch", done, total);
    }
    compare(&hex(&context.finish()), wanted).with_context(at)?;
    Ok(path)
}

/// Formats that are told by how they begin, and what to do about them.
const OTHERS: [(&[u8], &str); 9] = [
    (b"vhdxfile", "a VHDX: convert it first (qemu-img convert -f vhdx -O qcow2)"),
    (b"KDMV", "a VMDK: convert it first (qemu-img convert -f vmdk -O qcow2)"),
    (b"# Disk DescriptorFile", "a VMDK descriptor: convert it first (qemu-img convert -f vmdk -O qcow2)"),
    (b"\x1f\x8b", "compressed with gzip: unpack it first"),
    (b"\xfd7zXZ\0", "compressed with xz: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd: unpack it first"),
    (b"BZh", "compressed with bzip2: unpack it first"),
    (b"PK\x03\x04", "a ZIP archive: unpack it first"),
    (b"conectix", "a dynamic VHD: convert it first (qemu-img convert -f vpc -O vpc -o subformat=fixed,force_size=on)"),
];

fn detect(path: &Path) -> anyhow::Result<Format> {
    let mut file = File::open(path)?;
    let len = file.seek(SeekFrom::End(0))?;
    ensure!(len > 0, "it is empty");
    let mut head = vec![0; usize::try_from(len.min(512))?];
    file.read_exact_at(&mut head, 0)?;
    if head.starts_with(b"QFI\xfb") {
        return qcow2(&head);
    }
    if let Some((_, what)) = OTHERS.iter().find(|(magic, _)| head.starts_with(magic)) {
        bail!("it is {what}");
    }
    let mut cookie = [0; 8];
    if let Some(footer) = len.checked_sub(vhd::FOOTER_LEN) {
        file.read_exact_at(&mut cookie, footer)?;
    }
    if cookie == vhd::COOKIE {
        return Ok(Format::FixedVhd);
    }
    ensure!(len.is_multiple_of(512), "it is no VHD and no qcow2, and its {len} bytes are no whole number of sectors");
    Ok(Format::Raw)
}

/// A qcow2 must hold all of its disk: one that names a backing or data file would make qemu-img read other files.
fn qcow2(head: &[u8]) -> anyhow::Result<Format> {
    const EXTERNAL_DATA: u64 = 1 << 2;
    ensure!(head.len() >= 104, "it is a damaged qcow2: its header is cut short");
    let u32_at = |at: usize| head[at..at + 4].iter().fold(0_u32, |n, b| (n << 8) | u32::from(*b));
    let u64_at = |at: usize| head[at..at + 8].iter().fold(0_u64, |n, b| (n << 8) | u64::from(*b));
    let version = u32_at(4);
    ensure!(matches!(version, 2 | 3), "it is a qcow2 of version {version}, which is not known");
    ensure!(u64_at(8) == 0, "it is a qcow2 with a backing file: flatten it first (qemu-img convert -O qcow2)");
    ensure!(u32_at(32) == 0, "it is an encrypted qcow2: decrypt it first");
    let external = version == 3 && u64_at(72) & EXTERNAL_DATA != 0;
    ensure!(!external, "it is a qcow2 with an external data file: flatten it first (qemu-img convert -O qcow2)");
    let virtual_size = u64_at(24);
    ensure!(
        virtual_size > 0 && virtual_size <= MAX_VIRTUAL && virtual_size.is_multiple_of(512),
        "it is a qcow2 of {virtual_size} bytes, which is no size of a disk"
    );
    Ok(Format::Qcow2 { virtual_size })
}

/// qemu-img with bounds on memory, files and file size, without our environment, on a file that names no other.
async fn convert(path: &Path, virtual_size: u64, dir: &Path, report: &Report) -> anyhow::Result<TempPath> {
    let raw = tempfile::NamedTempFile::new_in(dir)?.into_temp_path();
    let input = path.canonicalize()?;
    report.bytes("convert", 0, virtual_size);
    let mut command = tokio::process::Command::new("prlimit");
    command
        .arg(format!("--as={MAX_MEMORY}"))
        .arg(format!("--fsize={virtual_size}"))
        .args(["--nofile=64", "--core=0", "--", "qemu-img", "convert", "-q", "-f", "qcow2", "-O", "raw", "--"])
        .arg(&input)
        .arg(&*raw)
        .current_dir(dir)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let needed = "cannot run qemu-img; install qemu-utils and util-linux (see scripts/setup), or convert the image to a raw disk";
    let output = command.output().await.context(needed)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "qemu-img could not convert it: {}", said.trim());
    report.bytes("convert", virtual_size, virtual_size);
    Ok(raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(bytes: &[u8]) -> TempPath {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        file.into_temp_path()
    }

    fn header(version: u8, backing: u64, features: u64) -> Vec<u8> {
        let mut head = vec![0; 512];
        head[..4].copy_from_slice(b"QFI\xfb");
        head[7] = version;
        head[8..16].copy_from_slice(&backing.to_be_bytes());
        head[24..32].copy_from_slice(&(1_u64 << 20).to_be_bytes());
        head[72..80].copy_from_slice(&features.to_be_bytes());
        head
    }

    #[test]
    fn content_tells_what_a_file_is() {
        assert_eq!(detect(&written(&[7; 1024])).unwrap(), Format::Raw);
        assert_eq!(detect(&written(&header(3, 0, 0))).unwrap(), Format::Qcow2 { virtual_size: 1 << 20 });
        let mut fixed = vec![0; 1 << 20];
        fixed.extend(vhd::Footer::fixed(1 << 20, uuid::Uuid::nil(), 0).to_bytes());
        assert_eq!(detect(&written(&fixed)).unwrap(), Format::FixedVhd);
        let why = |bytes: &[u8]| detect(&written(bytes)).unwrap_err().to_string();
        for (magic, what) in OTHERS {
            let mut bytes = magic.to_vec();
            bytes.resize(1024, 0);
            assert_eq!(why(&bytes), format!("it is {what}"));
        }
        assert!(why(&[1; 1000]).contains("no whole number of sectors"));
        assert!(why(&[]).contains("empty"));
    }

    /// A qcow2 of a stranger must not make the server's machine read files that it names.
    #[test]
    fn a_qcow2_that_names_files_is_refused() {
        let why = |head: Vec<u8>| detect(&written(&head)).unwrap_err().to_string();
        assert!(why(header(3, 4096, 0)).contains("backing file"));
        assert!(why(header(3, 0, 4)).contains("external data file"));
        assert!(why(header(9, 0, 0)).contains("version 9"));
        assert!(why(b"QFI\xfb".to_vec()).contains("cut short"));
    }

    #[tokio::test]
    async fn a_wrong_checksum_ends_it() {
        let file = written(&[7; 1024]);
        let dir = tempfile::tempdir().unwrap();
        let from = file.to_str().unwrap();
        let report = Report::new();
        let right = hash(&file).unwrap();
        assert_eq!(prepare(from, Some(&right.to_uppercase()), dir.path(), &report).await.unwrap().size(), 1024);
        let error = prepare(from, Some(&"0".repeat(64)), dir.path(), &report).await.err().unwrap();
        assert!(error.to_string().contains(&right), "{error}");
        assert!(prepare(from, Some("abc"), dir.path(), &report).await.is_err());
        let url = prepare("http://127.0.0.1:1/x", None, dir.path(), &report).await.err().unwrap();
        assert!(url.to_string().contains("needs --sha256"), "{url}");
    }
}
