//! Stores by their URL: a local folder, S3, Azure Blob.
//!
//! Credentials come from the options or, where those are silent, from the environment (`AWS_*`, `AZURE_*`) and the
//! machine's identity, as `object_store` finds them.

use std::collections::BTreeMap;
use std::path::Path as FsPath;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};
use url::Url;

use crate::store::local_store;

/// A pack of 32 MiB has this long.
const REQUEST: Duration = Duration::from_secs(300);
const CONNECT: Duration = Duration::from_secs(5);
/// What a store that is busy or away is given; the caller tries writes again beyond that.
const RETRY: Duration = Duration::from_secs(60);

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenStoreError {
    #[error("it is no store: use a folder, s3://bucket/prefix or az://container/prefix")]
    Scheme,
    #[error("the option '{name}' is not known for it")]
    Option {
        name: String,
        #[source]
        source: object_store::Error,
    },
    #[error("its settings are not complete: {0}")]
    Settings(#[source] object_store::Error),
    #[error("the folder cannot be used: {0}")]
    Folder(#[source] std::io::Error),
}

/// Opens the store at `url`: an absolute path, `file://`, `s3://bucket[/prefix]` or `az://container[/prefix]`. `options`
/// are named as in `object_store`; a name that is not known is refused. Nothing is asked of the store yet.
pub fn open_store(url: &str, options: &BTreeMap<String, String>) -> Result<Arc<dyn ObjectStore>, OpenStoreError> {
    if FsPath::new(url).is_absolute() {
        return local_store(FsPath::new(url)).map_err(OpenStoreError::Folder);
    }
    let parsed = Url::parse(url).map_err(|_| OpenStoreError::Scheme)?;
    match parsed.scheme() {
        "file" => {
            let folder = parsed.to_file_path().map_err(|()| OpenStoreError::Scheme)?;
            local_store(&folder).map_err(OpenStoreError::Folder)
        }
        "s3" => below(s3(&parsed, options)?, &parsed),
        "az" => below(azure(&parsed, options)?, &parsed),
        _ => Err(OpenStoreError::Scheme),
    }
}

fn s3(url: &Url, options: &BTreeMap<String, String>) -> Result<impl ObjectStore, OpenStoreError> {
    // Before the options, which may say otherwise (`timeout`, `proxy_url`, ...).
    let mut builder = AmazonS3Builder::from_env().with_client_options(client());
    for (name, value) in options {
        let key: AmazonS3ConfigKey = name.parse().map_err(|source| unknown(name, source))?;
        builder = builder.with_config(key, value);
    }
    let bucket = url.host_str().ok_or(OpenStoreError::Scheme)?;
    if is_plain_http(builder.get_config_value(&AmazonS3ConfigKey::Endpoint)) {
        builder = builder.with_allow_http(true);
    }
    builder.with_bucket_name(bucket).with_retry(retry()).build().map_err(OpenStoreError::Settings)
}

fn azure(url: &Url, options: &BTreeMap<String, String>) -> Result<impl ObjectStore, OpenStoreError> {
    let mut builder = MicrosoftAzureBuilder::from_env().with_client_options(client());
    for (name, value) in options {
        let key: AzureConfigKey = name.parse().map_err(|source| unknown(name, source))?;
        builder = builder.with_config(key, value);
    }
    let container = url.host_str().ok_or(OpenStoreError::Scheme)?;
    if is_plain_http(builder.get_config_value(&AzureConfigKey::Endpoint)) {
        builder = builder.with_allow_http(true);
    }
    builder.with_container_name(container).with_retry(retry()).build().map_err(OpenStoreError::Settings)
}

fn unknown(name: &str, source: object_store::Error) -> OpenStoreError {
    OpenStoreError::Option { name: name.to_owned(), source }
}

/// Whoever names an endpoint without TLS means it (a store on the same machine, a test).
fn is_plain_http(endpoint: Option<String>) -> bool {
    endpoint.is_some_and(|e| e.starts_with("http://"))
}

fn client() -> ClientOptions {
    ClientOptions::new().with_timeout(REQUEST).with_connect_timeout(CONNECT)
}

fn retry() -> RetryConfig {
    RetryConfig { backoff: BackoffConfig::default(), max_retries: 8, retry_timeout: RETRY }
}

fn below(store: impl ObjectStore, url: &Url) -> Result<Arc<dyn ObjectStore>, OpenStoreError> {
    let prefix = Path::parse(url.path().trim_matches('/')).map_err(|_| OpenStoreError::Scheme)?;
    Ok(if prefix.as_ref().is_empty() { Arc::new(store) } else { Arc::new(PrefixStore::new(store, prefix)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(url: &str, options: &[(&str, &str)]) -> String {
        let options = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        open_store(url, &options).err().map(|e| e.to_string()).unwrap_or_default()
    }

    #[test]
    fn what_is_no_store_is_refused_in_plain_words() {
        for url in ["", "relative/folder", "ftp://host/x", "s3:", "gs://bucket"] {
            assert!(refused(url, &[]).contains("s3://bucket"), "{url}");
        }
        assert!(refused("s3://bucket/p", &[("aws_regoin", "x")]).contains("aws_regoin"));
        assert!(!refused("az://container", &[]).is_empty(), "an account is needed");
    }

    #[test]
    fn urls_open_without_asking_anybody() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_str().unwrap();
        for (url, options) in [
            (path.to_owned(), vec![]),
            (format!("file://{path}"), vec![]),
            ("s3://bucket/some/prefix".into(), vec![("aws_region", "eu-central-1")]),
            ("az://container".into(), vec![("azure_storage_account_name", "account")]),
        ] {
            assert_eq!(refused(&url, &options), "", "{url}");
        }
    }
}
