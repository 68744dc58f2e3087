//! Which operation a request asks for, and what it takes to be allowed. Pure.

use super::super::reply::Failure;
use super::super::request::Ask;
use super::auth::{Action, Need};
use http::Method;
use lazuli_authz::sas::Level;

/// Operations of the Blob data plane (Swagger 2021-12-02).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    ListContainers,
    GetServiceProperties,
    SetServiceProperties,
    ServiceStats,
    UserDelegationKey,
    AccountInfo,
    CreateContainer,
    GetContainer,
    DeleteContainer,
    SetContainerMetadata,
    GetAcl,
    SetAcl,
    LeaseContainer,
    ListBlobs,
    GetBlob,
    HeadBlob,
    GetMetadata,
    PutBlockBlob,
    CreatePageBlob,
    CreateAppendBlob,
    PutBlobFromUrl,
    CopyBlob,
    AbortCopy,
    DeleteBlob,
    PutBlock,
    PutBlockList,
    GetBlockList,
    PutPage,
    PageList,
    AppendBlock,
    Seal,
    SetProperties,
    SetMetadata,
    Snapshot,
    LeaseBlob,
    SetTier,
}

use Operation as O;

/// Headers whose meaning cannot be left out.
const UNSUPPORTED: [(&str, &str); 6] = [
    ("x-ms-structured-body", "A structured body"),
    ("x-ms-encryption-key", "A key of the client's"),
    ("x-ms-encryption-scope", "An encryption scope"),
    ("x-ms-immutability-policy-until-date", "An immutability policy"),
    ("x-ms-legal-hold", "A legal hold"),
    ("x-ms-previous-snapshot-url", "The URL of a previous snapshot (use prevsnapshot)"),
];

pub(super) fn operation(method: &Method, ask: &Ask) -> Result<Operation, Failure> {
    for (name, what) in UNSUPPORTED {
        if ask.header(name).is_some_and(|v| !v.eq_ignore_ascii_case("false")) {
            return Err(Failure::new(400, "UnsupportedHeader", format!("{what} is not supported by this server."))
                .with("HeaderName", name));
        }
    }
    if ask.query("versionid").is_some() {
        return Err(unsupported("versionid", "Versions of blobs are not kept"));
    }
    let comp = ask.query("comp").map(str::to_ascii_lowercase);
    let restype = ask.query("restype").map(str::to_ascii_lowercase);
    let (method, comp, restype) = (method.as_str(), comp.as_deref(), restype.as_deref());
    if restype == Some("account") && comp == Some("properties") && matches!(method, "GET" | "HEAD") {
        return Ok(O::AccountInfo);
    }
    let found = if ask.container.is_empty() {
        service(method, comp, restype)
    } else if ask.blob.is_empty() {
        container(method, comp)
    } else {
        blob(method, comp, ask)?
    };
    found.ok_or_else(|| match comp {
        Some(comp) => unsupported("comp", &format!("This operation (comp={comp}) is not supported")),
        None => Failure::new(405, "UnsupportedHttpVerb", "The resource doesn't support specified Http Verb."),
    })
}

fn unsupported(name: &'static str, what: &str) -> Failure {
    Failure::new(400, "UnsupportedQueryParameter", format!("{what} by this server.")).with("QueryParameterName", name)
}

fn service(method: &str, comp: Option<&str>, restype: Option<&str>) -> Option<Operation> {
    match (method, comp, restype) {
        ("GET", Some("list"), _) => Some(O::ListContainers),
        ("GET", Some("properties"), Some("service")) => Some(O::GetServiceProperties),
        ("PUT", Some("properties"), Some("service")) => Some(O::SetServiceProperties),
        ("GET", Some("stats"), Some("service")) => Some(O::ServiceStats),
        ("POST", Some("userdelegationkey"), _) => Some(O::UserDelegationKey),
        _ => None,
    }
}

fn container(method: &str, comp: Option<&str>) -> Option<Operation> {
    match (method, comp) {
        ("PUT", None) => Some(O::CreateContainer),
        ("GET" | "HEAD", None | Some("metadata")) => Some(O::GetContainer),
        ("DELETE", None) => Some(O::DeleteContainer),
        ("PUT", Some("metadata")) => Some(O::SetContainerMetadata),
        ("GET" | "HEAD", Some("acl")) => Some(O::GetAcl),
        ("PUT", Some("acl")) => Some(O::SetAcl),
        ("PUT", Some("lease")) => Some(O::LeaseContainer),
        ("GET", Some("list")) => Some(O::ListBlobs),
        _ => None,
    }
}

fn blob(method: &str, comp: Option<&str>, ask: &Ask) -> Result<Option<Operation>, Failure> {
    Ok(match (method, comp) {
        ("GET", None) => Some(O::GetBlob),
        ("HEAD", None) => Some(O::HeadBlob),
        ("GET" | "HEAD", Some("metadata")) => Some(O::GetMetadata),
        ("PUT", None) => Some(put_blob(ask)?),
        ("DELETE", None) => Some(O::DeleteBlob),
        ("PUT", Some("copy")) => Some(O::AbortCopy),
        ("PUT", Some("block")) => Some(O::PutBlock),
        ("PUT", Some("blocklist")) => Some(O::PutBlockList),
        ("GET", Some("blocklist")) => Some(O::GetBlockList),
        ("PUT", Some("page")) => Some(O::PutPage),
        ("GET", Some("pagelist")) => Some(O::PageList),
        ("PUT", Some("appendblock")) => Some(O::AppendBlock),
        ("PUT", Some("seal")) => Some(O::Seal),
        ("PUT", Some("properties")) => Some(O::SetProperties),
        ("PUT", Some("metadata")) => Some(O::SetMetadata),
        ("PUT", Some("snapshot")) => Some(O::Snapshot),
        ("PUT", Some("lease")) => Some(O::LeaseBlob),
        ("PUT", Some("tier")) => Some(O::SetTier),
        _ => None,
    })
}

fn put_blob(ask: &Ask) -> Result<Operation, Failure> {
    let source = ask.header("x-ms-copy-source").is_some();
    match ask.header("x-ms-blob-type") {
        None if source => Ok(O::CopyBlob),
        None => Err(Failure::missing_header("x-ms-blob-type")),
        Some("BlockBlob") if source => Ok(O::PutBlobFromUrl),
        Some("BlockBlob") => Ok(O::PutBlockBlob),
        Some("PageBlob") => Ok(O::CreatePageBlob),
        Some("AppendBlob") => Ok(O::CreateAppendBlob),
        Some(other) => Err(Failure::bad_header("x-ms-blob-type", other, "")),
    }
}

/// What it takes to be allowed (the storage REST reference's table of permissions by operation).
pub(super) fn need(operation: Operation, ask: &Ask) -> Need {
    let breaks = ask.header("x-ms-lease-action").is_some_and(|a| a.eq_ignore_ascii_case("break"));
    let lease = if breaks { "dw" } else { "w" };
    let (level, letters, action, public) = match operation {
        O::ListContainers => (Level::Service, "l", Action::Container("read"), false),
        O::GetServiceProperties | O::ServiceStats => (Level::Service, "r", Action::Service("read"), false),
        O::SetServiceProperties => (Level::Service, "w", Action::Service("write"), false),
        O::UserDelegationKey => (Level::Service, "", Action::Service("generateUserDelegationKey/action"), false),
        O::AccountInfo => (level_of(ask), "rwdlacup", Action::Container("read"), false),
        O::CreateContainer => (Level::Container, "cw", Action::Container("write"), false),
        O::GetContainer => (Level::Container, "r", Action::Container("read"), true),
        O::DeleteContainer => (Level::Container, "d", Action::Container("delete"), false),
        O::SetContainerMetadata => (Level::Container, "w", Action::Container("write"), false),
        O::GetAcl => (Level::Container, "", Action::Container("getAcl/action"), false),
        O::SetAcl => (Level::Container, "", Action::Container("setAcl/action"), false),
        O::LeaseContainer => (Level::Container, lease, Action::Container("write"), false),
        O::ListBlobs => (Level::Container, "l", Action::Blob("read"), true),
        O::GetBlob | O::HeadBlob | O::GetMetadata | O::GetBlockList | O::PageList => {
            (Level::Object, "r", Action::Blob("read"), true)
        }
        O::DeleteBlob => (Level::Object, "d", Action::Blob("delete"), false),
        O::AppendBlock | O::Seal => (Level::Object, "aw", Action::Blob("write"), false),
        O::LeaseBlob => (Level::Object, lease, Action::Blob("write"), false),
        O::PutBlockBlob
        | O::CreatePageBlob
        | O::CreateAppendBlob
        | O::PutBlobFromUrl
        | O::CopyBlob
        | O::PutBlock
        | O::PutBlockList
        | O::Snapshot => (Level::Object, "cw", Action::Blob("write"), false),
        O::PutPage | O::SetProperties | O::SetMetadata | O::SetTier | O::AbortCopy => {
            (Level::Object, "w", Action::Blob("write"), false)
        }
    };
    Need { level, letters, action, public }
}

fn level_of(ask: &Ask) -> Level {
    match (ask.container.is_empty(), ask.blob.is_empty()) {
        (true, _) => Level::Service,
        (_, true) => Level::Container,
        _ => Level::Object,
    }
}

/// Whether the operation makes a blob, which a SAS without `w` may do only where there is none.
pub(super) fn makes_a_blob(operation: Operation) -> bool {
    matches!(
        operation,
        O::PutBlockBlob | O::CreatePageBlob | O::CreateAppendBlob | O::PutBlobFromUrl | O::CopyBlob | O::PutBlockList
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(method: &str, uri: &str, headers: &[(&str, &str)]) -> Result<Operation, &'static str> {
        let mut request = http::Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let parts = request.body(()).unwrap().into_parts().0;
        let ask = Ask::for_account(parts.uri.path(), &parts).map_err(|e| e.code)?;
        operation(&parts.method, &ask).map_err(|e| e.code)
    }

    #[test]
    fn every_operation_is_told_by_method_path_and_query() {
        for (method, uri, expected) in [
            ("GET", "/?comp=list", Ok(O::ListContainers)),
            ("GET", "/?restype=service&comp=properties", Ok(O::GetServiceProperties)),
            ("POST", "/?restype=service&comp=userdelegationkey", Ok(O::UserDelegationKey)),
            ("GET", "/?restype=account&comp=properties", Ok(O::AccountInfo)),
            ("HEAD", "/c/b?restype=account&comp=properties", Ok(O::AccountInfo)),
            ("PUT", "/c?restype=container", Ok(O::CreateContainer)),
            ("GET", "/c?restype=container&comp=list", Ok(O::ListBlobs)),
            ("PUT", "/c?restype=container&comp=acl", Ok(O::SetAcl)),
            ("GET", "/c/b", Ok(O::GetBlob)),
            ("GET", "/c%2Fb", Ok(O::GetBlob)),
            ("GET", "/file.txt", Ok(O::GetBlob)),
            ("PUT", "/c/b?comp=BlockList", Ok(O::PutBlockList)),
            ("PUT", "/c/b", Err("MissingRequiredHeader")),
            ("PATCH", "/c/b", Err("UnsupportedHttpVerb")),
            ("PUT", "/c/b?comp=undelete", Err("UnsupportedQueryParameter")),
            ("POST", "/?comp=batch", Err("UnsupportedQueryParameter")),
            ("GET", "/c/b?versionid=1", Err("UnsupportedQueryParameter")),
        ] {
            assert_eq!(planned(method, uri, &[]), expected, "{method} {uri}");
        }
    }

    #[test]
    fn put_blob_is_many_operations() {
        let put = |headers: &[(&str, &str)]| planned("PUT", "/c/b", headers);
        let source = ("x-ms-copy-source", "https://x/y/z");
        assert_eq!(put(&[("x-ms-blob-type", "PageBlob")]), Ok(O::CreatePageBlob));
        assert_eq!(put(&[("x-ms-blob-type", "BlockBlob")]), Ok(O::PutBlockBlob));
        assert_eq!(put(&[("x-ms-blob-type", "BlockBlob"), source]), Ok(O::PutBlobFromUrl));
        assert_eq!(put(&[source]), Ok(O::CopyBlob));
        assert_eq!(put(&[("x-ms-blob-type", "Blob")]), Err("InvalidHeaderValue"));
        assert_eq!(put(&[("x-ms-blob-type", "PageBlob"), ("x-ms-encryption-key", "x")]), Err("UnsupportedHeader"));
    }
}
