//! Where a person may be sent back to after a sign-in.

use url::{Host, Url};

/// Whether the client registered this address. Of a program on the person's own machine (`http://localhost`, `http://127.0.0.1`,
/// `http://[::1]`) the port does not count: the system gives it one each time (RFC 8252 §7.3).
pub(crate) fn is_allowed(uri: &str, any_loopback: bool, registered: &[String]) -> bool {
    let Ok(url) = Url::parse(uri) else { return false };
    let plain =
        url.username().is_empty() && url.password().is_none() && url.fragment().is_none() && !uri.contains('\\');
    if !plain || !matches!(url.scheme(), "http" | "https") {
        return false;
    }
    let own_machine = url.scheme() == "http" && is_loopback(&url);
    // Anything else is told to the whole network on its way.
    if url.scheme() == "http" && !own_machine {
        return false;
    }
    (any_loopback && own_machine) || registered.iter().any(|r| r == uri || own_machine && is_same_but_port(&url, r))
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

fn is_same_but_port(url: &Url, registered: &str) -> bool {
    Url::parse(registered).is_ok_and(|r| {
        is_loopback(&r)
            && r.scheme() == url.scheme()
            && r.host() == url.host()
            && r.path() == url.path()
            && r.query() == url.query()
    })
}

/// `scheme://host[:port]`
pub(crate) fn origin(uri: &str) -> String {
    Url::parse(uri).map(|u| u.origin().ascii_serialization()).unwrap_or_default()
}

/// The address with an answer in its query or fragment.
pub(crate) fn with(uri: &str, fields: &[(&str, String)], in_fragment: bool) -> Option<String> {
    let mut url = Url::parse(uri).ok()?;
    if in_fragment {
        let mut text = url::form_urlencoded::Serializer::new(String::new());
        text.extend_pairs(fields);
        url.set_fragment(Some(&text.finish()));
    } else {
        url.query_pairs_mut().extend_pairs(fields);
    }
    Some(url.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_registered_or_the_own_machine() {
        let registered = [
            "https://app.example/back".to_owned(),
            "http://localhost/cb".to_owned(),
            "http://app.example/plain".to_owned(),
        ];
        for (uri, well_known, app) in [
            ("http://localhost:41234", true, false),
            ("http://localhost:41234/", true, false),
            ("http://127.0.0.1:5/x", true, false),
            ("http://[::1]:5/", true, false),
            ("http://localhost:9/cb", true, true),
            ("http://127.0.0.1:9/cb", true, false),
            ("https://app.example/back", false, true),
            ("https://app.example/back/", false, false),
            ("https://app.example/back?x=1", false, false),
            ("https://app.example:8443/back", false, false),
            ("http://app.example/plain", false, false),
            ("https://localhost:9/", false, false),
            ("http://localhost.evil.example/", false, false),
            ("http://localhost@evil.example/", false, false),
            ("http://evil.example/?http://localhost", false, false),
            ("http://localhost:1/#x", false, false),
            ("http://evil.example\\@localhost/", false, false),
            ("javascript:alert(1)", false, false),
            ("", false, false),
        ] {
            assert_eq!(is_allowed(uri, true, &[]), well_known, "{uri}");
            assert_eq!(is_allowed(uri, false, &registered), app, "{uri}");
        }
    }

    #[test]
    fn answers_are_encoded() {
        let fields = [("code", "a&b".to_owned()), ("state", "ü=".to_owned())];
        assert_eq!(
            with("http://localhost:1/?x=1", &fields, false).unwrap(),
            "http://localhost:1/?x=1&code=a%26b&state=%C3%BC%3D"
        );
        assert_eq!(with("http://localhost:1", &fields[..1], true).unwrap(), "http://localhost:1/#code=a%26b");
        assert_eq!(origin("http://localhost:1/x?y"), "http://localhost:1");
    }
}
