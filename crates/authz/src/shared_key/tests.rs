//! What azure-storage-blob signs is believed, and nothing else.

use super::*;
use proptest::prelude::*;

/// A request as azure-storage-blob 12.31.1 sent it, with the account as host label and as first path segment, and its
/// `Authorization`. Key: the bytes 0 to 63.
struct Signed {
    method: &'static str,
    path: &'static str,
    query: &'static str,
    headers: &'static [(&'static str, &'static str)],
}

const SIGNED: &[Signed] = &[
    Signed {
        method: "PUT",
        path: "/vhds",
        query: "restype=container",
        headers: &[
            ("x-ms-meta-a_b", "1"),
            ("x-ms-meta-ab", "2"),
            ("x-ms-meta-a", "x y"),
            ("x-ms-meta-a1", "3"),
            ("x-ms-version", "2026-10-06"),
            ("x-ms-date", "Sun, 22 Nov 2026 03:19:45 GMT"),
            ("x-ms-client-request-id", "90ea7e5e-e623-11f1-a6ca-02fc00000001"),
            ("Authorization", "SharedKey lazuliacct:fZz+g95HzmQJoiYRkwclcQQTFvEig9kFnn9AfDZRQvM="),
        ],
    },
    Signed {
        method: "PUT",
        path: "/vhds/dir/a%20b%2B%C3%A9.vhd",
        query: "",
        headers: &[
            ("x-ms-meta-Q", "1"),
            ("x-ms-blob-type", "PageBlob"),
            ("Content-Length", "0"),
            ("x-ms-blob-content-length", "1024"),
            ("x-ms-version", "2026-10-06"),
            ("x-ms-date", "Sun, 22 Nov 2026 03:19:45 GMT"),
            ("x-ms-client-request-id", "90eaaa96-e623-11f1-a6ca-02fc00000001"),
            ("Authorization", "SharedKey lazuliacct:yFC8+DzfEmcyoe87Oc4y1DpUt9mXIkUmynvawDN3NbA="),
        ],
    },
    Signed {
        method: "GET",
        path: "/vhds",
        query: "restype=container&comp=list&prefix=a%2Bb%2F%C3%BC%20%26",
        headers: &[
            ("x-ms-version", "2026-10-06"),
            ("x-ms-date", "Sun, 22 Nov 2026 03:19:45 GMT"),
            ("x-ms-client-request-id", "90eac828-e623-11f1-a6ca-02fc00000001"),
            ("Authorization", "SharedKey lazuliacct:jFfiM2pVyjqQhpfZIsL+okI9MBzWO0T87yGHu8g0/70="),
        ],
    },
    Signed {
        method: "PUT",
        path: "/vhds/x",
        query: "",
        headers: &[
            ("Content-Length", "5"),
            ("x-ms-blob-type", "BlockBlob"),
            ("x-ms-version", "2026-10-06"),
            ("Content-Type", "application/octet-stream"),
            ("x-ms-date", "Sun, 22 Nov 2026 03:19:45 GMT"),
            ("x-ms-client-request-id", "90eb1bde-e623-11f1-a6ca-02fc00000001"),
            ("Authorization", "SharedKey lazuliacct:leaQM9rLNqT81/3zSzPCF2sVL3+5Q6jrVTy9jUa2qBI="),
        ],
    },
    Signed {
        method: "GET",
        path: "/vhds/x",
        query: "",
        headers: &[
            ("x-ms-range", "bytes=0-9"),
            ("x-ms-version", "2026-10-06"),
            ("x-ms-date", "Sun, 22 Nov 2026 03:19:45 GMT"),
            ("x-ms-client-request-id", "90eb3be6-e623-11f1-a6ca-02fc00000001"),
            ("Authorization", "SharedKey lazuliacct:2/Ff7DeshQdh6yM/MWuKhzMgbt7cHm/HO8gIXjfcAGM="),
        ],
    },
    Signed {
        method: "PUT",
        path: "/lazuliacct/vhds",
        query: "restype=container",
        headers: &[
            ("x-ms-meta-a_b", "1"),
            ("x-ms-meta-ab", "2"),
            ("x-ms-meta-a", "x y"),
            ("x-ms-meta-a1", "3"),
            ("x-ms-version", "2026-10-06"),
            ("x-ms-date", "Sun, 22 Nov 2026 03:19:45 GMT"),
            ("x-ms-client-request-id", "90eb63aa-e623-11f1-a6ca-02fc00000001"),
            ("Authorization", "SharedKey lazuliacct:GZKdMvDTvoXvznIOQ9UrphT9BTg2jjSsX0Dl0Orcv7U="),
        ],
    },
    Signed {
        method: "PUT",
        path: "/lazuliacct/vhds/dir/a%20b%2B%C3%A9.vhd",
        query: "",
        headers: &[
            ("x-ms-meta-Q", "1"),
            ("x-ms-blob-type", "PageBlob"),
            ("Content-Length", "0"),
            ("x-ms-blob-content-length", "1024"),
            ("x-ms-version", "2026-10-06"),
            ("x-ms-date", "Sun, 22 Nov 2026 03:19:45 GMT"),
            ("x-ms-client-request-id", "90eb7e8a-e623-11f1-a6ca-02fc00000001"),
            ("Authorization", "SharedKey lazuliacct:w0nxGiRfwpvi59zRPRxrYBlXTe/0nmxLKkwKkOJH8bQ="),
        ],
    },
    Signed {
        method: "GET",
        path: "/lazuliacct/vhds",
        query: "restype=container&comp=list&prefix=a%2Bb%2F%C3%BC%20%26",
        headers: &[
            ("x-ms-version", "2026-10-06"),
            ("x-ms-date", "Sun, 22 Nov 2026 03:19:45 GMT"),
            ("x-ms-client-request-id", "90eb98a2-e623-11f1-a6ca-02fc00000001"),
            ("Authorization", "SharedKey lazuliacct:VgWHx23dBkW8dKrWF34NN3pxIrLGqS0HD0ivDSiH8q8="),
        ],
    },
    Signed {
        method: "PUT",
        path: "/lazuliacct/vhds/x",
        query: "",
        headers: &[
            ("Content-Length", "5"),
            ("x-ms-blob-type", "BlockBlob"),
            ("x-ms-version", "2026-10-06"),
            ("Content-Type", "application/octet-stream"),
            ("x-ms-date", "Sun, 22 Nov 2026 03:19:45 GMT"),
            ("x-ms-client-request-id", "90ec63d6-e623-11f1-a6ca-02fc00000001"),
            ("Authorization", "SharedKey lazuliacct:RQsxz/nZf2ZCn9coZqARa+D1G7dykiKVeu2Qjxs9voQ="),
        ],
    },
    Signed {
        method: "GET",
        path: "/lazuliacct/vhds/x",
        query: "",
        headers: &[
            ("x-ms-range", "bytes=0-9"),
            ("x-ms-version", "2026-10-06"),
            ("x-ms-date", "Sun, 22 Nov 2026 03:19:45 GMT"),
            ("x-ms-client-request-id", "90ec7ee8-e623-11f1-a6ca-02fc00000001"),
            ("Authorization", "SharedKey lazuliacct:wUHES9tofDhWSK0R3JJB3J0+pNipDz+hbs9H82RIvEE="),
        ],
    },
];

const ACCOUNT: &str = "lazuliacct";

fn key() -> Vec<u8> {
    (0..64).collect()
}

fn now() -> Timestamp {
    "2026-11-22T03:20:00Z".parse().unwrap()
}

impl Signed {
    fn request(&self) -> Request<'static> {
        Request { method: self.method, path: self.path, query: self.query, headers: self.headers }
    }

    fn credential(&self) -> Credential<'static> {
        let (_, value) = self.headers.iter().find(|(name, _)| *name == "Authorization").unwrap();
        parse(value).unwrap().unwrap()
    }
}

fn check(signed: &Signed, request: &Request<'_>) -> Result<(), SharedKeyError> {
    verify(&signed.credential(), ACCOUNT, request, &[vec![7; 64], key()], now())
}

#[test]
fn what_clients_sign_is_believed() {
    for signed in SIGNED {
        assert_eq!(check(signed, &signed.request()), Ok(()), "{} {}", signed.method, signed.path);
    }
}

/// The example of "Authorize with Shared Key".
#[test]
fn the_documented_string() {
    let headers =
        [("X-ms-date", "Fri, 26 Jun 2015 23:39:12 GMT"), ("x-ms-version", "2015-02-21"), ("Date", "unsigned")];
    let request = Request {
        method: "GET",
        path: "/mycontainer",
        query: "restype=container&comp=metadata&timeout=20",
        headers: &headers,
    };
    assert_eq!(
        string_to_sign(Scheme::SharedKey, "myaccount", &request),
        "GET\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:Fri, 26 Jun 2015 23:39:12 GMT\nx-ms-version:2015-02-21\n\
         /myaccount/mycontainer\ncomp:metadata\nrestype:container\ntimeout:20"
    );
    assert_eq!(
        string_to_sign(Scheme::SharedKeyLite, "myaccount", &request),
        "GET\n\n\n\nx-ms-date:Fri, 26 Jun 2015 23:39:12 GMT\nx-ms-version:2015-02-21\n/myaccount/mycontainer?comp=metadata"
    );
}

#[test]
fn lengths_of_nothing_and_repeated_parameters() {
    let text = |version: &'static str, query: &'static str| {
        let headers = [("content-length", "0"), ("x-ms-version", version)];
        string_to_sign(Scheme::SharedKey, "a", &Request { method: "PUT", path: "", query, headers: &headers })
    };
    assert!(text("2015-02-21", "").starts_with("PUT\n\n\n\n\n"));
    assert!(text("2014-02-14", "").starts_with("PUT\n\n\n0\n"));
    assert!(text("2021-12-02", "b=2&A=%2c&b=1&c").ends_with("/a/\na:,\nb:1,2\nc:"));
}

#[test]
fn tells_what_is_wrong() {
    let signed = &SIGNED[0];
    let (good, request) = (signed.credential(), signed.request());
    let keys = [key()];
    assert_eq!(verify(&good, "other", &request, &keys, now()), Err(SharedKeyError::WrongAccount));
    let late = now() + SignedDuration::from_mins(16);
    assert!(matches!(verify(&good, ACCOUNT, &request, &keys, late), Err(SharedKeyError::Skewed { .. })));
    let undated = Request { headers: &[], ..request };
    assert_eq!(verify(&good, ACCOUNT, &undated, &keys, now()), Err(SharedKeyError::NoDate));
    assert!(verify::<Vec<u8>>(&good, ACCOUNT, &request, &[], now()).is_err());
    let error = verify(&good, ACCOUNT, &request, &[vec![1; 64]], now()).unwrap_err().to_string();
    assert!(error.contains("Server used following string to sign: 'PUT\n"), "{error}");

    assert!(parse("Bearer x").is_none());
    for malformed in ["SharedKey", "SharedKey a", "SharedKeyLite a:", "sharedkey :x"] {
        assert_eq!(parse(malformed), Some(Err(SharedKeyError::Malformed)), "{malformed}");
    }
}

#[test]
fn own_signatures_of_both_schemes() {
    let headers = [("x-ms-date", "Sun, 22 Nov 2026 03:19:45 GMT"), ("x-ms-version", "2021-12-02")];
    let request = Request { method: "GET", path: "/c", query: "comp=list", headers: &headers };
    for scheme in [Scheme::SharedKey, Scheme::SharedKeyLite] {
        let value = authorization(scheme, ACCOUNT, &request, &key());
        let credential = parse(&value).unwrap().unwrap();
        assert_eq!(credential.scheme, scheme);
        assert_eq!(verify(&credential, ACCOUNT, &request, &[key()], now()), Ok(()));
        let other = Credential { scheme: Scheme::SharedKey, ..credential };
        assert_eq!(verify(&other, ACCOUNT, &request, &[key()], now()).is_ok(), scheme == Scheme::SharedKey);
    }
}

/// Another byte at one place.
fn changed(text: &str, at: prop::sample::Index, with: char) -> String {
    let place = at.index(text.len());
    text.char_indices()
        .map(|(i, c)| {
            if i == place && c != with {
                with
            } else if i == place {
                '~'
            } else {
                c
            }
        })
        .collect()
}

proptest! {
    #[test]
    fn a_changed_byte_is_noticed(i in 0..SIGNED.len(), at: prop::sample::Index, with in "[a-z0-9]", part in 0..4) {
        let signed = &SIGNED[i];
        let request = signed.request();
        let with = with.chars().next().unwrap();
        let found = match part {
            0 => {
                let path = changed(request.path, at, with);
                check(signed, &Request { path: &path, ..request })
            }
            1 => {
                let query = format!("{}&{with}=1", request.query);
                check(signed, &Request { query: &query, ..request })
            }
            2 => {
                let mut headers = request.headers.to_vec();
                // Not the date, which is refused for its own sake, and not the signature itself.
                let place = at.index(headers.len() - 3);
                let value = changed(headers[place].1, at, with);
                headers[place].1 = &value;
                check(signed, &Request { headers: &headers, ..request })
            }
            _ => {
                let mut key = key();
                key[at.index(64)] ^= 1;
                verify(&signed.credential(), ACCOUNT, &request, &[key], now())
            }
        };
        prop_assert!(found.is_err());
    }

    #[test]
    fn never_panics(method in "\\PC{0,8}", path in "\\PC{0,20}", query in "\\PC{0,30}", header in "\\PC{0,20}") {
        let headers = [("x-ms-date", header.as_str()), ("x-ms-é", header.as_str()), (header.as_str(), "v")];
        let request = Request { method: &method, path: &path, query: &query, headers: &headers };
        let _ = string_to_sign(Scheme::SharedKey, "a", &request);
        let _ = string_to_sign(Scheme::SharedKeyLite, "a", &request);
        if let Some(Ok(credential)) = parse(&header) {
            let _ = verify(&credential, "a", &request, &[key()], now());
        }
        let _ = parse(&format!("SharedKey {header}"));
    }
}
