//! The blob service of storage accounts over HTTP: one request from its parts to its answer.
//!
//! ```text
//! request ─> account ─> who asks (auth) ─> what is asked (plan) ─> may they ─> service, container, blob, write, copy
//! ```
//! Bodies stream into the engine; only pages (up to 4 MiB) and XML are held. What is refused is read and thrown away, so that
//! the client sees why.

mod auth;
mod blob;
mod container;
mod copy;
mod plan;
mod reply;
mod service;
mod upload;
mod write;
mod xml;

use super::disks::{DiskPlane, decorate};
use super::reply::{Failure, failure};
use super::request::Ask;
use super::{Bearer, BlobPlane, BlobRequest, no_such_account};
use crate::body;
use crate::net::server::Peer;
use crate::respond::{self, Reply};
use async_trait::async_trait;
use auth::{Who, account_of};
use axum::body::Body;
use http::{HeaderName, HeaderValue, header};
use lazuli_engine::storage::{Access, Account, Place, Storage};
use lazuli_engine::{Engine, StorageAccount};
use plan::Operation;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Bodies of Put Page held at a time (128 MiB).
const BODIES: usize = 32;

/// Serves storage accounts, and the SAS URLs of managed disks.
pub struct StoragePlane {
    disks: DiskPlane,
    engine: Engine,
    bodies: Arc<Semaphore>,
}

/// A request without its body.
struct Asked {
    path: String,
    path_style: bool,
    base: String,
    request_id: String,
    bearer: Bearer,
    parts: http::request::Parts,
}

impl Asked {
    fn peer(&self) -> Option<IpAddr> {
        self.parts.extensions.get::<Peer>().map(|peer| peer.0)
    }
}

/// A request that may be served.
struct Planned<'a> {
    engine: &'a Engine,
    bodies: &'a Semaphore,
    account: &'a StorageAccount,
    who: &'a Who,
    ask: &'a Ask,
    /// `https://host[:port]` by which the client reached the server.
    base: &'a str,
    path_style: bool,
    peer: Option<IpAddr>,
    /// The SAS allows making blobs, not replacing them.
    only_new: bool,
}

impl StoragePlane {
    pub fn new(engine: Engine) -> Self {
        let disks = DiskPlane::new(engine.blobs().clone());
        Self { disks, engine, bodies: Arc::new(Semaphore::new(BODIES)) }
    }
}

#[async_trait]
impl BlobPlane for StoragePlane {
    async fn handle(&self, request: BlobRequest) -> Reply {
        // `md-x.z01`: the zone is part of the host name only.
        let name = request.account.split('.').next().unwrap_or_default().to_owned();
        if name.starts_with("md-") {
            return self.disks.handle(request).await;
        }
        let BlobRequest { path, path_style, base, request_id, bearer, request, .. } = request;
        let (parts, body) = request.into_parts();
        let asked = Asked { path, path_style, base, request_id, bearer, parts };
        let mut body = Some(body);
        let mut response = match self.engine.storage_account(&name).await {
            Ok(Some(account)) => {
                let answer = self.answer(&account, &asked, &mut body).await;
                answer.unwrap_or_else(|refusal| refused(&refusal, &account, &asked))
            }
            Ok(None) => no_such_account(&asked.request_id),
            Err(error) => failure(&auth::failure_of(error), &asked.request_id),
        };
        if let Some(body) = body {
            // With a limit of nothing: read, never kept.
            let _ = body::read(&asked.parts.headers, body, 0).await;
        }
        decorate(&asked.parts.headers, &asked.request_id, &mut response);
        response
    }
}

fn refused(refusal: &Failure, account: &StorageAccount, request: &Asked) -> Reply {
    let mut response = failure(refusal, &request.request_id);
    if refusal.status == 401 {
        let authority = if request.path_style { request.base.as_str() } else { "https://login.microsoftonline.com" };
        let text = format!(
            "Bearer authorization_uri={authority}/common/oauth2/authorize resource_id=https://storage.azure.com"
        );
        respond::set(response.headers_mut(), header::WWW_AUTHENTICATE, &text);
    }
    tracing::debug!(account = account.name, code = refusal.code, "a blob request was refused");
    response
}

impl StoragePlane {
    async fn answer(
        &self,
        account: &StorageAccount,
        request: &Asked,
        body: &mut Option<Body>,
    ) -> Result<Reply, Failure> {
        let parts = &request.parts;
        let ask = Ask::for_account(&request.path, parts)?;
        if !account.network.admit(request.peer()) {
            let message = "This request is not authorized to perform this operation.";
            return Err(Failure::new(403, "AuthorizationFailure", message));
        }
        let who = auth::identify(&self.engine, account, &ask, request).await?;
        let operation = plan::operation(&parts.method, &ask)?;
        let need = plan::need(operation, &ask);
        auth::authorize(&self.engine, account, &who, &ask.container, &need).await?;
        let only_new = match &who {
            Who::Sas(rights, _) => plan::makes_a_blob(operation) && !rights.permissions().contains('w'),
            _ => false,
        };
        let planned = Planned {
            engine: &self.engine,
            bodies: &self.bodies,
            account,
            who: &who,
            ask: &ask,
            base: &request.base,
            path_style: request.path_style,
            peer: request.peer(),
            only_new,
        };
        let mut response = planned.run(operation, body).await?;
        if operation == Operation::GetBlob {
            override_headers(&who, parts.uri.query().unwrap_or_default(), &mut response);
        }
        Ok(response)
    }
}

/// A SAS may say how its blob is to be shown (`rsct`, `rscd`, …).
fn override_headers(who: &Who, query: &str, response: &mut Reply) {
    if let (Who::Sas(..), Ok(Some(sas))) = (who, lazuli_authz::sas::parse(query)) {
        for (name, value) in sas.response_headers() {
            if let Ok(value) = HeaderValue::from_str(value) {
                response.headers_mut().insert(HeaderName::from_static(name), value);
            }
        }
    }
}

impl Planned<'_> {
    fn storage(&self) -> &Storage {
        self.engine.storage()
    }

    fn target(&self) -> Account {
        account_of(self.account)
    }

    fn place(&self) -> Place {
        Place {
            account: self.target(),
            container: self.ask.container.clone(),
            blob: self.ask.blob.clone(),
            snapshot: self.ask.query("snapshot").map(str::to_owned),
        }
    }

    fn access(&self) -> Result<Access, Failure> {
        let mut conditions = self.ask.conditions()?;
        if self.only_new {
            conditions.if_none_match = Some("*".to_owned());
        }
        Ok(Access { conditions, lease: self.ask.header("x-ms-lease-id").map(str::to_owned) })
    }

    /// `https://account…/` as the client wrote it.
    fn endpoint(&self) -> String {
        match self.path_style {
            true => format!("{}/{}/", self.base, self.account.name),
            false => format!("{}/", self.base),
        }
    }

    async fn run(&self, operation: Operation, body: &mut Option<Body>) -> Result<Reply, Failure> {
        use Operation as O;
        let done = match operation {
            O::ListContainers => self.list_containers().await,
            O::GetServiceProperties => Ok(service::properties()),
            O::SetServiceProperties => self.set_service_properties(body).await,
            O::ServiceStats => Ok(service::stats()),
            O::UserDelegationKey => self.user_delegation_key(body).await,
            O::AccountInfo => Ok(self.account_info()),
            O::CreateContainer => self.create_container().await,
            O::GetContainer => self.get_container().await,
            O::DeleteContainer => self.delete_container().await,
            O::SetContainerMetadata => self.set_container_metadata().await,
            O::GetAcl => self.get_acl().await,
            O::SetAcl => self.set_acl(body).await,
            O::LeaseContainer => self.lease_container().await,
            O::ListBlobs => self.list_blobs().await,
            O::GetBlob => self.get_blob().await,
            O::HeadBlob => self.head_blob().await,
            O::GetMetadata => self.get_metadata().await,
            O::PutBlockBlob => self.put_block_blob(body).await,
            O::CreatePageBlob => self.create_page_blob().await,
            O::CreateAppendBlob => self.create_append_blob().await,
            O::PutBlobFromUrl => self.copy_blob(true).await,
            O::CopyBlob => self.copy_blob(false).await,
            O::AbortCopy => self.abort_copy().await,
            O::DeleteBlob => self.delete_blob().await,
            O::PutBlock => self.put_block(body).await,
            O::PutBlockList => self.put_block_list(body).await,
            O::GetBlockList => self.get_block_list().await,
            O::PutPage => self.put_page(body).await,
            O::PageList => self.page_list().await,
            O::AppendBlock => self.append_block(body).await,
            O::Seal => self.seal().await,
            O::SetProperties => self.set_properties().await,
            O::SetMetadata => self.set_metadata().await,
            O::Snapshot => self.snapshot().await,
            O::LeaseBlob => self.lease_blob().await,
            O::SetTier => self.set_tier().await,
        };
        match done {
            Err(failure) if self.only_new && failure.code == "BlobAlreadyExists" => {
                let message = "This request is not authorized to perform blob overwrites.";
                Err(Failure::new(403, "UnauthorizedBlobOverwrite", message))
            }
            done => done,
        }
    }
}
