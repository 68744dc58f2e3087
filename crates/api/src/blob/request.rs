//! What a request to the data plane asks for: path, operation, ranges, conditions. Pure; nothing here looks at the blob.

use super::reply::Failure;
use http::request::Parts;
use http::{HeaderMap, Method};
use lazuli_engine::blobs::{Conditions, ContentHeaders, Sas, SequenceAction, SequenceTest};
use percent_encoding::percent_decode_str;
use std::collections::BTreeMap;
use std::ops::Range;

/// What is to be done with a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Get,
    Properties,
    Metadata,
    PageList,
    Create,
    PutPage,
    SetProperties,
    SetMetadata,
    Delete,
}

/// Another blob that a request names by its URL.
pub(super) struct Previous {
    pub account: String,
    pub container: String,
    pub blob: String,
    pub sas: Sas,
}

/// A request without its body.
#[derive(Debug)]
pub(super) struct Ask {
    pub container: String,
    pub blob: String,
    pub query: BTreeMap<String, String>,
    pub headers: HeaderMap,
}

impl Ask {
    /// `path` is below the account, still percent-encoded.
    pub fn new(path: &str, parts: &Parts) -> Result<Self, Failure> {
        let bad =
            || Failure::new(400, "InvalidUri", "The requested URI does not represent any resource on the server.");
        let path = percent_decode_str(path).decode_utf8().map_err(|_| bad())?;
        let path = path.trim_start_matches('/');
        let (container, blob) = path.split_once('/').unwrap_or((path, ""));
        if container.is_empty() || blob.is_empty() {
            return Err(Failure::new(
                403,
                "AuthorizationResourceTypeMismatch",
                "This request is not authorized to perform this operation using this resource type.",
            ));
        }
        let mut query = BTreeMap::new();
        for (name, value) in url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes()) {
            query.entry(name.to_ascii_lowercase()).or_insert_with(|| value.into_owned());
        }
        Ok(Self { container: container.to_owned(), blob: blob.to_owned(), query, headers: parts.headers.clone() })
    }

    /// A request to a storage account: without a container for the account itself, without a blob for a container.
    pub fn for_account(path: &str, parts: &Parts) -> Result<Self, Failure> {
        let bad =
            || Failure::new(400, "InvalidUri", "The requested URI does not represent any resource on the server.");
        let path = percent_decode_str(path).decode_utf8().map_err(|_| bad())?;
        let path = path.trim_start_matches('/');
        let mut query = BTreeMap::new();
        for (name, value) in url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes()) {
            query.entry(name.to_ascii_lowercase()).or_insert_with(|| value.into_owned());
        }
        let is_container = query.get("restype").is_some_and(|v| v.eq_ignore_ascii_case("container"));
        let (container, blob) = match path.split_once('/') {
            Some((container, blob)) => (container, blob),
            // A name alone is a blob of the root container.
            None if !path.is_empty() && !is_container && !query.contains_key("restype") => ("$root", path),
            None => (path, ""),
        };
        let too_long = blob.chars().count() > 1024;
        if too_long || blob.contains('\0') {
            return Err(Failure::new(400, "InvalidResourceName", "The specified resource name is not valid."));
        }
        Ok(Self { container: container.to_owned(), blob: blob.to_owned(), query, headers: parts.headers.clone() })
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok().map(str::trim).filter(|v| !v.is_empty())
    }

    pub fn query(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str).filter(|v| !v.is_empty())
    }

    /// The URL's signature. A `+` that was not escaped arrives as a space.
    pub fn sas(&self) -> Result<Sas, Failure> {
        match (self.query("si"), self.query("sig")) {
            (Some(si), Some(sig)) => Ok(Sas { si: si.to_owned(), sig: sig.replace(' ', "+") }),
            _ => Err(Failure::not_signed()),
        }
    }

    /// The snapshot that Get Page Ranges is to compare with: the URL of its read SAS, in `x-ms-previous-snapshot-url` or
    /// `prevsnapshot`. Both forms of URL are understood, with the account in the host or as the first path segment.
    pub fn previous(&self) -> Result<Option<Previous>, Failure> {
        const NAME: &str = "x-ms-previous-snapshot-url";
        let Some(text) = self.header(NAME).or_else(|| self.query("prevsnapshot")) else { return Ok(None) };
        let bad = || Failure::bad_header(NAME, text, "It is the URL of another snapshot's read SAS.");
        let url = url::Url::parse(text).map_err(|_| bad())?;
        let path = percent_decode_str(url.path()).decode_utf8().map_err(|_| bad())?.into_owned();
        let mut segments = path.trim_start_matches('/').split('/').map(str::to_owned);
        let label = url.host_str().and_then(|h| h.split('.').next()).unwrap_or_default().to_ascii_lowercase();
        let account = if label.starts_with("md-") { Some(label) } else { segments.next() };
        let (Some(account), Some(container), Some(blob)) = (account, segments.next(), segments.next()) else {
            return Err(bad());
        };
        let of =
            |name: &str| url.query_pairs().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.into_owned());
        let (Some(si), Some(sig)) = (of("si"), of("sig")) else { return Err(Failure::not_signed()) };
        Ok(Some(Previous { account, container, blob, sas: Sas { si, sig: sig.replace(' ', "+") } }))
    }

    pub fn operation(&self, method: &Method) -> Result<Operation, Failure> {
        for (name, what) in [("snapshot", "A snapshot"), ("versionid", "A version")] {
            if self.query(name).is_some() {
                return Err(Failure::unsupported(what));
            }
        }
        for (name, what) in [
            ("x-ms-copy-source", "Copying from a URL"),
            ("x-ms-structured-body", "A structured body"),
            ("x-ms-encryption-key", "A key of the client's"),
        ] {
            if self.headers.contains_key(name) {
                return Err(Failure::unsupported(what));
            }
        }
        if self.header("x-ms-lease-id").is_some() {
            let message = "There is currently no lease on the blob.";
            return Err(Failure::new(412, "LeaseNotPresentWithBlobOperation", message));
        }
        let comp = self.query("comp").map(str::to_ascii_lowercase);
        Ok(match (method.as_str(), comp.as_deref()) {
            ("GET", None) => Operation::Get,
            ("HEAD", None) => Operation::Properties,
            ("GET" | "HEAD", Some("metadata")) => Operation::Metadata,
            ("GET", Some("pagelist")) => Operation::PageList,
            ("PUT", None) => self.create()?,
            ("PUT", Some("page")) => Operation::PutPage,
            ("PUT", Some("properties")) => Operation::SetProperties,
            ("PUT", Some("metadata")) => Operation::SetMetadata,
            ("DELETE", None) => Operation::Delete,
            (_, Some("lease")) => return Err(Failure::unsupported("A lease")),
            ("PUT", Some("copy" | "incrementalcopy")) => return Err(Failure::unsupported("Copying from a URL")),
            ("PUT", Some("block" | "blocklist" | "appendblock")) => return Err(wrong_type()),
            (_, Some(_)) => return Err(Failure::unsupported("This operation (comp)")),
            _ => {
                let message = "The resource doesn't support specified Http Verb.";
                return Err(Failure::new(405, "UnsupportedHttpVerb", message));
            }
        })
    }

    fn create(&self) -> Result<Operation, Failure> {
        match self.header("x-ms-blob-type") {
            Some("PageBlob") => Ok(Operation::Create),
            Some("BlockBlob" | "AppendBlob") => Err(wrong_type()),
            Some(other) => Err(Failure::bad_header("x-ms-blob-type", other, "")),
            None => Err(Failure::missing_header("x-ms-blob-type")),
        }
    }

    /// The range asked for (`x-ms-range` before `Range`), its end at most `u64::MAX`. `None`: none that counts; a range
    /// header of another form is ignored, as RFC 9110 wants.
    pub fn range(&self) -> Option<Range<u64>> {
        parse_range(self.header("x-ms-range").or_else(|| self.header("range"))?)
    }

    /// The pages that Put Page names.
    pub fn page_range(&self) -> Result<Range<u64>, Failure> {
        let (name, text) = match (self.header("x-ms-range"), self.header("range")) {
            (Some(text), _) => ("x-ms-range", text),
            (None, Some(text)) => ("Range", text),
            (None, None) => return Err(Failure::missing_header("x-ms-range")),
        };
        let range = parse_range(text).filter(|r| r.end < u64::MAX);
        range.ok_or_else(|| Failure::bad_header(name, text, "Write it as bytes=START-END."))
    }

    pub fn number(&self, name: &'static str) -> Result<Option<u64>, Failure> {
        let Some(text) = self.header(name) else {
            return Ok(None);
        };
        let number = text.parse::<u64>().ok().filter(|n| i64::try_from(*n).is_ok());
        number.map(Some).ok_or_else(|| Failure::bad_header(name, text, ""))
    }

    pub fn flag(&self, name: &str) -> bool {
        self.header(name).is_some_and(|v| v.eq_ignore_ascii_case("true"))
    }

    pub fn conditions(&self) -> Result<Conditions, Failure> {
        let sequence = [
            self.number("x-ms-if-sequence-number-le")?.map(SequenceTest::AtMost),
            self.number("x-ms-if-sequence-number-lt")?.map(SequenceTest::Below),
            self.number("x-ms-if-sequence-number-eq")?.map(SequenceTest::Exactly),
        ];
        Ok(Conditions {
            if_match: self.header("if-match").map(str::to_owned),
            if_none_match: self.header("if-none-match").map(str::to_owned),
            if_modified_since: self.date("if-modified-since")?,
            if_unmodified_since: self.date("if-unmodified-since")?,
            sequence: sequence.into_iter().flatten().collect(),
        })
    }

    /// What must hold of a copy's source.
    pub fn source_conditions(&self) -> Result<Conditions, Failure> {
        Ok(Conditions {
            if_match: self.header("x-ms-source-if-match").map(str::to_owned),
            if_none_match: self.header("x-ms-source-if-none-match").map(str::to_owned),
            if_modified_since: self.date("x-ms-source-if-modified-since")?,
            if_unmodified_since: self.date("x-ms-source-if-unmodified-since")?,
            sequence: Vec::new(),
        })
    }

    fn date(&self, name: &'static str) -> Result<Option<i64>, Failure> {
        let Some(text) = self.header(name) else {
            return Ok(None);
        };
        let time = jiff::fmt::rfc2822::parse(text).map_err(|_| Failure::bad_header(name, text, ""))?;
        Ok(Some(time.timestamp().as_second()))
    }

    pub fn content_headers(&self) -> ContentHeaders {
        let get = |name| self.header(name).map(str::to_owned);
        ContentHeaders {
            content_type: get("x-ms-blob-content-type"),
            encoding: get("x-ms-blob-content-encoding"),
            language: get("x-ms-blob-content-language"),
            disposition: get("x-ms-blob-content-disposition"),
            cache_control: get("x-ms-blob-cache-control"),
            md5: get("x-ms-blob-content-md5"),
        }
    }

    pub fn metadata(&self) -> BTreeMap<String, String> {
        let named = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
            let name = name.as_str().strip_prefix("x-ms-meta-")?;
            Some((name.to_owned(), value.to_str().ok()?.to_owned()))
        };
        self.headers.iter().filter_map(named).collect()
    }

    pub fn sequence_action(&self) -> Result<Option<SequenceAction>, Failure> {
        let Some(action) = self.header("x-ms-sequence-number-action") else {
            return Ok(None);
        };
        let number = self.number("x-ms-blob-sequence-number")?;
        let needed = || number.ok_or_else(|| Failure::missing_header("x-ms-blob-sequence-number"));
        match action.to_ascii_lowercase().as_str() {
            "max" => Ok(Some(SequenceAction::Max(needed()?))),
            "update" => Ok(Some(SequenceAction::Update(needed()?))),
            "increment" if number.is_none() => Ok(Some(SequenceAction::Increment)),
            _ => Err(Failure::bad_header("x-ms-sequence-number-action", action, "")),
        }
    }
}

fn wrong_type() -> Failure {
    let message = "The blob type is invalid for this operation: the blob of a managed disk is a page blob.";
    Failure::new(409, "InvalidBlobType", message)
}

/// `bytes=START-END` or `bytes=START-`.
pub(super) fn parse_range(text: &str) -> Option<Range<u64>> {
    let (start, end) = text.strip_prefix("bytes=")?.split_once('-')?;
    let start: u64 = start.trim().parse().ok()?;
    let end = match end.trim() {
        "" => u64::MAX,
        end => end.parse::<u64>().ok()?.checked_add(1)?,
    };
    (start < end).then_some(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(method: &str, uri: &str, headers: &[(&str, &str)]) -> (Method, Result<Ask, Failure>) {
        let mut request = http::Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let parts = request.body(()).unwrap().into_parts().0;
        (parts.method.clone(), Ask::new(parts.uri.path(), &parts))
    }

    fn operation(method: &str, query: &str, headers: &[(&str, &str)]) -> Result<Operation, &'static str> {
        let (method, ask) = ask(method, &format!("/c/abcd?{query}"), headers);
        ask.unwrap().operation(&method).map_err(|e| e.code)
    }

    #[test]
    fn paths_are_decoded_before_they_are_split() {
        let ask = |uri| ask("GET", uri, &[]).1.map(|a| (a.container, a.blob)).map_err(|e| e.code);
        let names = Ok(("c".to_owned(), "abcd".to_owned()));
        assert_eq!(ask("/c/abcd?sig=x"), names);
        assert_eq!(ask("/c%2Fabcd"), names);
        assert_eq!(ask("/c/ab/cd").unwrap().1, "ab/cd");
        for none in ["/", "/c", "/c/"] {
            assert_eq!(ask(none), Err("AuthorizationResourceTypeMismatch"), "{none}");
        }
        assert_eq!(ask("/%ff/abcd"), Err("InvalidUri"));
    }

    #[test]
    fn signatures_keep_their_plus() {
        let sig = |query: &str| {
            ask("GET", &format!("/c/abcd?{query}"), &[]).1.unwrap().sas().map(|s| s.sig).map_err(|e| e.code)
        };
        assert_eq!(sig("si=a&sig=x%2By%3D").unwrap(), "x+y=");
        assert_eq!(sig("si=a&sig=x+y%3D").unwrap(), "x+y=");
        assert_eq!(sig("si=a"), Err("AuthenticationFailed"));
    }

    #[test]
    fn operations() {
        let page = [("x-ms-blob-type", "PageBlob")];
        assert_eq!(operation("PUT", "", &page), Ok(Operation::Create));
        assert_eq!(operation("PUT", "COMP=Page", &[]), Ok(Operation::PutPage));
        assert_eq!(operation("PUT", "", &[]), Err("MissingRequiredHeader"));
        assert_eq!(operation("PUT", "", &[("x-ms-blob-type", "BlockBlob")]), Err("InvalidBlobType"));
        assert_eq!(operation("PUT", "comp=block", &[]), Err("InvalidBlobType"));
        assert_eq!(operation("PUT", "comp=lease", &[]), Err("UnsupportedOperation"));
        assert_eq!(operation("PUT", "", &[("x-ms-copy-source", "https://x")]), Err("UnsupportedOperation"));
        assert_eq!(operation("GET", "snapshot=2020", &[]), Err("UnsupportedOperation"));
        assert_eq!(operation("GET", "", &[("x-ms-lease-id", "x")]), Err("LeaseNotPresentWithBlobOperation"));
        assert_eq!(operation("PATCH", "", &[]), Err("UnsupportedHttpVerb"));
    }

    #[test]
    fn previous_snapshots() {
        for url in [
            "https://md-x1.blob.core.windows.net/c1/abcd?sv=2018-03-28&sr=b&si=a&sig=x%2By",
            "https://127.0.0.1:8443/md-x1/c1/abcd?si=a&sig=x+y",
        ] {
            let header = [("x-ms-previous-snapshot-url", url)];
            let found = ask("GET", "/c/abcd?comp=pagelist", &header).1.unwrap().previous().unwrap().unwrap();
            assert_eq!((&*found.account, &*found.container, &*found.blob), ("md-x1", "c1", "abcd"));
            assert_eq!((&*found.sas.si, &*found.sas.sig), ("a", "x+y"));
        }
        let of = |query: &str| ask("GET", &format!("/c/abcd?comp=pagelist&prevsnapshot={query}"), &[]).1.unwrap();
        let code = |ask: Ask| ask.previous().map(|p| p.is_some()).map_err(|e| e.code);
        assert_eq!(code(of("2024-01-01T00:00:00.0000000Z")), Err("InvalidHeaderValue"));
        assert_eq!(code(of("https%3A%2F%2Fmd-x.z1%2Fc%2Fabcd")), Err("AuthenticationFailed"));
        assert_eq!(code(of("https%3A%2F%2Fmd-x.z1%2Fc%2Fabcd%3Fsi%3Da%26sig%3Db")), Ok(true));
        assert_eq!(code(of("")), Ok(false));
    }

    #[test]
    fn ranges() {
        for (text, range) in [
            ("bytes=0-511", Some(0..512)),
            ("bytes=512-", Some(512..u64::MAX)),
            ("bytes=5-4", None),
            ("bytes=-5", None),
            ("bytes=0-1,3-4", None),
            ("bytes=0-18446744073709551615", None),
            ("items=0-1", None),
            ("", None),
        ] {
            assert_eq!(parse_range(text), range, "{text}");
        }
        let both = [("range", "bytes=0-0"), ("x-ms-range", "bytes=7-8")];
        assert_eq!(ask("GET", "/c/abcd", &both).1.unwrap().range(), Some(7..9));
        let open = [("range", "bytes=0-")];
        assert_eq!(ask("PUT", "/c/abcd", &open).1.unwrap().page_range().unwrap_err().code, "InvalidHeaderValue");
    }

    #[test]
    fn conditions() {
        let headers = [("if-unmodified-since", "Wed, 01 Jul 2026 12:00:00 GMT"), ("x-ms-if-sequence-number-lt", "3")];
        let found = ask("PUT", "/c/abcd", &headers).1.unwrap().conditions().unwrap();
        let wanted = Conditions {
            if_unmodified_since: Some(1_782_907_200),
            sequence: vec![SequenceTest::Below(3)],
            ..Conditions::default()
        };
        assert_eq!(found, wanted);
        let bad = ask("PUT", "/c/abcd", &[("if-modified-since", "yesterday")]).1.unwrap().conditions();
        assert_eq!(bad.unwrap_err().code, "InvalidHeaderValue");
    }
}
