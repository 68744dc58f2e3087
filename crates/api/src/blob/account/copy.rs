//! Copies, from blobs of this server and from managed disks behind their SAS. Nothing is ever fetched from another host.

use super::super::reply::{Failure, insert};
use super::super::request::Ask;
use super::Planned;
use super::auth::{account_of, authorize_source, failure_of};
use super::reply::written;
use crate::net::hosts::{Service, azure_service};
use crate::respond::{Reply, empty};
use http::StatusCode;
use lazuli_engine::blobs::{ContentHeaders, Properties};
use lazuli_engine::storage::{BlobKind, CopyOptions, Opened, Place, Source};

const SOURCE: &str = "x-ms-copy-source";

/// A source that this server has.
struct Named {
    account: String,
    ask: Ask,
    query: String,
}

impl Planned<'_> {
    /// Copy Blob, and Put Blob From URL with `whole`, which answers when the bytes are there.
    pub(super) async fn copy_blob(&self, whole: bool) -> Result<Reply, Failure> {
        let url = self.ask.header(SOURCE).ok_or_else(|| Failure::missing_header(SOURCE))?;
        let source = self.copy_source().await?;
        self.check_source(&source).await?;
        let waits = whole || self.ask.flag("x-ms-requires-sync");
        let headers = self.ask.content_headers();
        let options = CopyOptions {
            source_url: url.split('?').next().unwrap_or_default().to_owned(),
            metadata: Some(self.ask.metadata()).filter(|m| !m.is_empty()),
            tier: self.tier()?,
            kind: whole.then_some(BlobKind::Block),
            headers: (whole && headers != ContentHeaders::default()).then_some(headers),
            wait: waits,
        };
        let blob = self.storage().copy(&self.place(), &source, options, &self.access()?).await?;
        let mut response = written(if whole { StatusCode::CREATED } else { StatusCode::ACCEPTED }, &blob);
        if let (false, Some(copy)) = (whole, &blob.body.copy) {
            insert(response.headers_mut(), "x-ms-copy-id", &copy.id);
            insert(response.headers_mut(), "x-ms-copy-status", &copy.status);
        }
        Ok(response)
    }

    pub(super) async fn abort_copy(&self) -> Result<Reply, Failure> {
        let abort = self.ask.header("x-ms-copy-action").is_some_and(|a| a.eq_ignore_ascii_case("abort"));
        if !abort {
            return Err(Failure::bad_header("x-ms-copy-action", "", "It is abort."));
        }
        let id = self.ask.query("copyid").unwrap_or_default();
        self.storage().abort_copy(&self.place(), id, self.ask.header("x-ms-lease-id")).await?;
        Ok(empty(StatusCode::NO_CONTENT))
    }

    /// The source for reading ranges of it; its conditions hold.
    pub(super) async fn open_copy_source(&self) -> Result<Opened, Failure> {
        let source = self.copy_source().await?;
        self.check_source(&source).await
    }

    async fn check_source(&self, source: &Source) -> Result<Opened, Failure> {
        let opened = self.storage().open_source(source).await.map_err(|error| match error.code() {
            Some(_) => cannot_verify("The specified resource does not exist."),
            None => error.into(),
        })?;
        let info = &opened.info;
        let now = Properties {
            size: info.size,
            etag: info.etag.clone(),
            modified_ms: info.modified_ms,
            sequence: info.body.sequence,
            headers: ContentHeaders::default(),
            metadata: Default::default(),
        };
        self.ask.source_conditions()?.check_write(&now).map_err(|_| {
            let message = "The source condition specified using HTTP conditional header(s) is not met.";
            Failure::new(412, "SourceConditionNotMet", message)
        })?;
        Ok(opened)
    }

    /// Finds what `x-ms-copy-source` names, and whether whoever asks may read it.
    async fn copy_source(&self) -> Result<Source, Failure> {
        let url = self.ask.header(SOURCE).ok_or_else(|| Failure::missing_header(SOURCE))?;
        let named = self.named(url).ok_or_else(|| {
            cannot_verify("The source is not a blob of this server; nothing is fetched from other servers.")
        })?;
        let name = named.account.split('.').next().unwrap_or_default();
        if name.starts_with("md-") {
            let sas = named.ask.sas().map_err(|_| cannot_verify("The source's URL has no signature."))?;
            // A disk that asks for who reads it is not read for a URL.
            let disk = self.engine.blobs().open(name, &named.ask.container, &named.ask.blob, &sas, None).await;
            return disk.map(Source::Disk).map_err(|_| cannot_verify("The source cannot be read with this URL."));
        }
        let account = self.engine.storage_account(name).await.map_err(failure_of)?;
        let account = account.ok_or_else(|| cannot_verify("The specified resource does not exist."))?;
        authorize_source(self.engine, self, &account, &named.ask, &named.query).await.map_err(|refusal| {
            let status = if refusal.status == 401 { 404 } else { refusal.status };
            Failure { status, ..cannot_verify(&refusal.message) }
        })?;
        Ok(Source::Blob(Place {
            account: account_of(&account),
            container: named.ask.container.clone(),
            blob: named.ask.blob.clone(),
            snapshot: named.ask.query("snapshot").map(str::to_owned),
        }))
    }

    fn named(&self, url: &str) -> Option<Named> {
        let url = url::Url::parse(url).ok().filter(|url| url.scheme() == "https")?;
        let host = url.host_str()?;
        let authority = match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        let (account, path) = match azure_service(host) {
            Some(Service::Blob { account, .. }) => (account, url.path().to_owned()),
            Some(_) => return None,
            None if is_own(host, &authority, self.base) => {
                let (account, rest) = url.path().trim_start_matches('/').split_once('/')?;
                (account.to_owned(), format!("/{rest}"))
            }
            None => return None,
        };
        let request = http::Request::builder().uri(url.as_str()).body(()).ok()?;
        let ask = Ask::for_account(&path, &request.into_parts().0).ok()?;
        let query = url.query().unwrap_or_default().to_owned();
        (!ask.container.is_empty() && !ask.blob.is_empty()).then_some(Named { account, ask, query })
    }
}

/// This server by the name that the client used, or by one that cannot be another machine.
fn is_own(host: &str, authority: &str, base: &str) -> bool {
    base.strip_prefix("https://").is_some_and(|own| own.eq_ignore_ascii_case(authority))
        || matches!(host, "localhost" | "127.0.0.1" | "[::1]")
}

fn cannot_verify(why: &str) -> Failure {
    Failure::new(404, "CannotVerifyCopySource", why)
}
