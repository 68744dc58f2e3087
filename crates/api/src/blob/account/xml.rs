//! XML in both directions: what clients send is small and flat, lists are written piece by piece.

use super::super::reply::{Failure, http_date};
use super::reply::now_ms;
use lazuli_engine::storage::{
    BlobInfo, BlobKind, BlobPage, BlockInfo, ContainerInfo, ContainerPage, Entry, Lease, ListQuery, PageChanges, Policy,
};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use quick_xml::Reader;
use quick_xml::escape::escape;
use quick_xml::events::Event;
use std::collections::BTreeMap;
use std::fmt::Write as _;

const HEAD: &str = "<?xml version=\"1.0\" encoding=\"utf-8\"?>";

/// An element without children: the names from the root to it, and its text.
pub(super) type Leaf = (Vec<String>, String);

/// All elements without children, in their order.
pub(super) fn leaves(document: &[u8]) -> Result<Vec<Leaf>, Failure> {
    let bad = || Failure::new(400, "InvalidXmlDocument", "The XML specified is not syntactically valid.");
    let text = std::str::from_utf8(document).map_err(|_| bad())?;
    let mut reader = Reader::from_str(text.trim_start_matches('\u{feff}'));
    let (mut path, mut found, mut held, mut leaf) = (Vec::new(), Vec::new(), String::new(), false);
    loop {
        match reader.read_event().map_err(|_| bad())? {
            Event::Start(tag) => {
                path.push(tag.local_name().as_ref().to_owned());
                (held, leaf) = (String::new(), true);
            }
            Event::Empty(tag) => {
                let mut at = path.clone();
                at.push(tag.local_name().as_ref().to_owned());
                found.push((at, String::new()));
                leaf = false;
            }
            Event::Text(piece) => held.push_str(&piece.xml10_content()),
            Event::GeneralRef(entity) => match entity.resolve_char_ref().map_err(|_| bad())? {
                Some(c) => held.push(c),
                None => held.push_str(quick_xml::escape::resolve_predefined_entity(&entity).ok_or_else(bad)?),
            },
            Event::End(_) => {
                if leaf {
                    found.push((path.clone(), held.trim().to_owned()));
                }
                leaf = false;
                path.pop().ok_or_else(bad)?;
            }
            Event::Eof if path.is_empty() => return Ok(found),
            Event::Eof | Event::DocType(_) => return Err(bad()),
            _ => {}
        }
    }
}

/// `SignedIdentifiers`.
pub(super) fn policies(document: &[u8]) -> Result<Vec<Policy>, Failure> {
    let mut found: Vec<Policy> = Vec::new();
    for (path, text) in leaves(document)? {
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        let given = Some(text.clone()).filter(|t| !t.is_empty());
        match (path.as_slice(), found.last_mut()) {
            (["SignedIdentifiers", "SignedIdentifier", "Id"], _) => {
                if text.is_empty() || text.chars().count() > 64 || found.iter().any(|p| p.id == text) {
                    let message = "The value for one of the XML nodes is not in the correct format.";
                    return Err(Failure::new(400, "InvalidXmlNodeValue", message).with("XmlNodeName", "Id"));
                }
                found.push(Policy { id: text, ..Policy::default() });
            }
            (["SignedIdentifiers", "SignedIdentifier", "AccessPolicy", name], Some(policy)) => match *name {
                "Start" => policy.start = given,
                "Expiry" => policy.expiry = given,
                "Permission" => policy.permission = given,
                _ => {}
            },
            _ => {}
        }
    }
    Ok(found)
}

pub(super) fn policy_list(policies: &[Policy]) -> String {
    let mut out = format!("{HEAD}<SignedIdentifiers>");
    for policy in policies {
        let _ = write!(out, "<SignedIdentifier><Id>{}</Id><AccessPolicy>", escape(&policy.id));
        for (name, value) in [("Start", &policy.start), ("Expiry", &policy.expiry), ("Permission", &policy.permission)]
        {
            if let Some(value) = value {
                element(&mut out, name, value);
            }
        }
        out.push_str("</AccessPolicy></SignedIdentifier>");
    }
    out.push_str("</SignedIdentifiers>");
    out
}

fn element(out: &mut String, name: &str, value: &str) {
    let _ = write!(out, "<{name}>{}</{name}>", escape(value));
}

/// A blob's name; one with characters that XML cannot hold is percent-encoded and says so.
fn blob_name(out: &mut String, name: &str) {
    if name.chars().any(|c| c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}')) {
        let _ = write!(out, "<Name Encoded=\"true\">{}</Name>", utf8_percent_encode(name, NON_ALPHANUMERIC));
    } else {
        element(out, "Name", name);
    }
}

fn metadata(out: &mut String, metadata: &BTreeMap<String, String>) {
    out.push_str("<Metadata>");
    for (name, value) in metadata {
        // Names are those of headers; what is no name of an element is left out.
        if name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        {
            element(out, name, value);
        }
    }
    out.push_str("</Metadata>");
}

fn lease(out: &mut String, lease: &Lease) {
    let now = now_ms();
    let state = lease.state(now);
    element(out, "LeaseStatus", if state.is_locked() { "locked" } else { "unlocked" });
    element(out, "LeaseState", state.as_str());
    if let Some(duration) = lease.duration(now) {
        element(out, "LeaseDuration", duration);
    }
}

fn list_head(out: &mut String, query: &ListQuery) {
    if !query.prefix.is_empty() {
        element(out, "Prefix", &query.prefix);
    }
    if let Some(marker) = &query.marker {
        element(out, "Marker", marker);
    }
    if let Some(max) = query.max {
        element(out, "MaxResults", &max.to_string());
    }
    if let Some(delimiter) = &query.delimiter {
        element(out, "Delimiter", delimiter);
    }
}

fn list_end(out: &mut String, next: Option<&String>) {
    match next {
        Some(next) => element(out, "NextMarker", next),
        None => out.push_str("<NextMarker />"),
    }
    out.push_str("</EnumerationResults>");
}

pub(super) fn container_list(endpoint: &str, query: &ListQuery, page: &ContainerPage, with_metadata: bool) -> String {
    let mut out = format!("{HEAD}<EnumerationResults ServiceEndpoint=\"{}\">", escape(endpoint));
    list_head(&mut out, query);
    out.push_str("<Containers>");
    for container in &page.containers {
        one_container(&mut out, container, with_metadata);
    }
    out.push_str("</Containers>");
    list_end(&mut out, page.next.as_ref());
    out
}

fn one_container(out: &mut String, container: &ContainerInfo, with_metadata: bool) {
    out.push_str("<Container>");
    element(out, "Name", &container.name);
    out.push_str("<Properties>");
    element(out, "Last-Modified", &http_date(container.modified_ms));
    element(out, "Etag", &format!("\"{}\"", container.etag));
    lease(out, &container.body.lease);
    if let Some(access) = &container.body.public_access {
        element(out, "PublicAccess", access);
    }
    out.push_str(
        "<DefaultEncryptionScope>$account-encryption-key</DefaultEncryptionScope>\
         <DenyEncryptionScopeOverride>false</DenyEncryptionScopeOverride>\
         <HasImmutabilityPolicy>false</HasImmutabilityPolicy><HasLegalHold>false</HasLegalHold></Properties>",
    );
    if with_metadata {
        metadata(out, &container.body.metadata);
    }
    out.push_str("</Container>");
}

/// What a list of blobs shows besides the properties.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Include {
    pub metadata: bool,
    pub copy: bool,
}

pub(super) fn blob_list(
    endpoint: &str,
    container: &str,
    query: &ListQuery,
    page: &BlobPage,
    include: Include,
    tier: &str,
) -> String {
    let (endpoint, container) = (escape(endpoint), escape(container));
    let mut out = format!("{HEAD}<EnumerationResults ServiceEndpoint=\"{endpoint}\" ContainerName=\"{container}\">");
    list_head(&mut out, query);
    out.push_str("<Blobs>");
    for entry in &page.entries {
        match entry {
            Entry::Blob(blob) => one_blob(&mut out, blob, include, tier),
            Entry::Prefix(prefix) => {
                out.push_str("<BlobPrefix>");
                blob_name(&mut out, prefix);
                out.push_str("</BlobPrefix>");
            }
        }
    }
    out.push_str("</Blobs>");
    list_end(&mut out, page.next.as_ref());
    out
}

fn one_blob(out: &mut String, blob: &BlobInfo, include: Include, tier: &str) {
    out.push_str("<Blob>");
    blob_name(out, &blob.name);
    if let Some(snapshot) = &blob.snapshot {
        element(out, "Snapshot", snapshot);
    }
    out.push_str("<Properties>");
    element(out, "Creation-Time", &http_date(blob.created_ms));
    element(out, "Last-Modified", &http_date(blob.modified_ms));
    element(out, "Etag", &blob.etag);
    element(out, "Content-Length", &blob.size.to_string());
    let headers = &blob.body.headers;
    element(out, "Content-Type", headers.content_type.as_deref().unwrap_or("application/octet-stream"));
    for (name, value) in [
        ("Content-Encoding", &headers.encoding),
        ("Content-Language", &headers.language),
        ("Content-MD5", &headers.md5),
        ("Cache-Control", &headers.cache_control),
        ("Content-Disposition", &headers.disposition),
    ] {
        element(out, name, value.as_deref().unwrap_or_default());
    }
    element(out, "BlobType", blob.kind.as_str());
    match blob.kind {
        BlobKind::Page => element(out, "x-ms-blob-sequence-number", &blob.body.sequence.to_string()),
        BlobKind::Block => {
            element(out, "AccessTier", blob.body.tier.as_deref().unwrap_or(tier));
            if blob.body.tier.is_none() {
                element(out, "AccessTierInferred", "true");
            }
        }
        BlobKind::Append if blob.body.sealed => element(out, "Sealed", "true"),
        BlobKind::Append => {}
    }
    if blob.snapshot.is_none() {
        lease(out, &blob.body.lease);
    }
    if let (true, Some(copy)) = (include.copy, &blob.body.copy) {
        element(out, "CopyId", &copy.id);
        element(out, "CopySource", &copy.source);
        element(out, "CopyStatus", &copy.status);
        element(out, "CopyProgress", &format!("{}/{}", copy.done, copy.total));
        if let Some(at) = copy.completed_ms {
            element(out, "CopyCompletionTime", &http_date(at));
        }
    }
    element(out, "ServerEncrypted", "false");
    out.push_str("</Properties>");
    if include.metadata {
        metadata(out, &blob.body.metadata);
    }
    out.push_str("<OrMetadata /></Blob>");
}

pub(super) fn block_list(committed: Option<&[BlockInfo]>, uncommitted: Option<&[BlockInfo]>) -> String {
    let mut out = format!("{HEAD}<BlockList>");
    for (name, blocks) in [("CommittedBlocks", committed), ("UncommittedBlocks", uncommitted)] {
        let Some(blocks) = blocks else { continue };
        let _ = write!(out, "<{name}>");
        for block in blocks {
            let _ = write!(out, "<Block><Name>{}</Name><Size>{}</Size></Block>", escape(&block.id), block.size);
        }
        let _ = write!(out, "</{name}>");
    }
    out.push_str("</BlockList>");
    out
}

/// Part of a list of pages: at most `max` ranges from `marker` on, by where they begin.
pub(super) fn page_list(changes: &PageChanges, marker: u64, max: usize) -> String {
    let pages = changes.pages.iter().map(|range| ("PageRange", range));
    let cleared = changes.cleared.iter().map(|range| ("ClearRange", range));
    let mut all: Vec<_> = pages.chain(cleared).filter(|(_, range)| range.start >= marker).collect();
    all.sort_by_key(|(_, range)| range.start);
    let mut out = format!("{HEAD}<PageList>");
    for (name, range) in all.iter().take(max) {
        let (start, end) = (range.start, range.end - 1);
        let _ = write!(out, "<{name}><Start>{start}</Start><End>{end}</End></{name}>");
    }
    if let Some((_, next)) = all.get(max) {
        element(&mut out, "NextMarker", &next.start.to_string());
    }
    out.push_str("</PageList>");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_have_their_paths() {
        let found =
            leaves(b"\xef\xbb\xbf<?xml version='1.0'?>\n<a>\n <b>x &amp; &#x79;</b> <c/> <d><e> z </e></d>\n</a>");
        let found: Vec<_> = found.unwrap().into_iter().map(|(path, text)| (path.join("/"), text)).collect();
        let leaf = |path: &str, text: &str| (path.to_owned(), text.to_owned());
        assert_eq!(found, [leaf("a/b", "x & y"), leaf("a/c", ""), leaf("a/d/e", "z")]);
        for bad in ["<a>", "<a></b>", "<a>&nope;</a>", "<!DOCTYPE a [<!ENTITY x 'y'>]><a>&x;</a>"] {
            assert_eq!(leaves(bad.as_bytes()).unwrap_err().code, "InvalidXmlDocument", "{bad}");
        }
    }

    #[test]
    fn policies_come_back_as_they_were_put() {
        let text = "<SignedIdentifiers><SignedIdentifier><Id>a&lt;b</Id><AccessPolicy><Start>2026-01-01</Start>\
                    <Permission>rw</Permission></AccessPolicy></SignedIdentifier></SignedIdentifiers>";
        let found = policies(text.as_bytes()).unwrap();
        assert_eq!((found[0].id.as_str(), found[0].permission.as_deref()), ("a<b", Some("rw")));
        assert_eq!(policies(policy_list(&found).as_bytes()).unwrap(), found);
        assert_eq!(policies(b"<SignedIdentifiers />").unwrap(), []);
    }

    #[test]
    fn strange_names_are_encoded() {
        let mut out = String::new();
        blob_name(&mut out, "a\u{1}b");
        blob_name(&mut out, "a<b");
        assert_eq!(out, "<Name Encoded=\"true\">a%01b</Name><Name>a&lt;b</Name>");
    }
}
