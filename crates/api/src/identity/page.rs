//! The pages that people see when they sign in: plain HTML, no script but the one that sends a form on, nothing from elsewhere.
//!
//! Whatever comes from a request is escaped; a password is never written into a page.

use crate::respond::Reply;
use axum::body::Body;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use std::fmt::Write as _;

const STYLE: &str = "body{font:16px system-ui,sans-serif;background:#f3f2f1;color:#201f1e;margin:0}\
main{max-width:24rem;margin:10vh auto;background:#fff;padding:2rem;box-shadow:0 2px 6px #0003}\
label{display:block;margin:1rem 0 .25rem}input{width:100%;box-sizing:border-box;font:inherit;padding:.4rem}\
button{font:inherit;margin:1.25rem .5rem 0 0;padding:.4rem 1.2rem}.error{color:#a4262c}h1{font-size:1.3rem}";

/// A text within HTML, also within a quoted attribute.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// A page. `sends_to`: the origin that its form ends up at besides this server. `script`: runs, by its nonce.
fn page(status: StatusCode, title: &str, content: &str, sends_to: Option<&str>, script: Option<&str>) -> Reply {
    let nonce = uuid::Uuid::new_v4().simple().to_string();
    let script_tag = script.map(|s| format!("<script nonce=\"{nonce}\">{s}</script>")).unwrap_or_default();
    let html = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title>\
         <style nonce=\"{nonce}\">{STYLE}</style></head><body><main><h1>{title}</h1>{content}</main>{script_tag}</body></html>",
        title = escape(title)
    );
    let scripts = script.map(|_| format!("script-src 'nonce-{nonce}'; ")).unwrap_or_default();
    let policy = format!(
        "default-src 'none'; style-src 'nonce-{nonce}'; {scripts}form-action 'self' {}; frame-ancestors 'none'; base-uri 'none'",
        sends_to.unwrap_or_default()
    );
    let mut response = Response::new(Body::from(html));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(HeaderName::from_static("referrer-policy"), HeaderValue::from_static("no-referrer"));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    crate::respond::set(headers, header::CONTENT_SECURITY_POLICY, &policy);
    response
}

fn error_line(error: Option<&str>) -> String {
    error.map(|e| format!("<p class=\"error\" role=\"alert\">{}</p>", escape(e))).unwrap_or_default()
}

const CREDENTIALS: &str = "<label for=\"login\">User name</label>\
<input id=\"login\" name=\"login\" autocomplete=\"username\" required autofocus value=\"{login}\">\
<label for=\"password\">Password</label>\
<input id=\"password\" name=\"password\" type=\"password\" autocomplete=\"current-password\" required>";

/// Another OpenID provider on a page: the address that begins a sign-in there, and its name.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub to: String,
    pub name: String,
}

fn links(all: &[Link]) -> String {
    let mut text = String::new();
    for link in all {
        let (to, name) = (escape(&link.to), escape(&link.name));
        let _ = write!(text, "<p><a class=\"provider\" href=\"{to}\">Sign in with {name}</a></p>");
    }
    text
}

/// Login and password for a client; sent to the address of the page itself.
pub(crate) fn sign_in(
    status: StatusCode,
    client: &str,
    login: &str,
    sends_to: &str,
    error: Option<&str>,
    providers: &[Link],
) -> Reply {
    let content = format!(
        "<p>to continue to <b>{}</b></p>{}<form method=\"post\">{}<button>Sign in</button></form>{}",
        escape(client),
        error_line(error),
        CREDENTIALS.replace("{login}", &escape(login)),
        links(providers),
    );
    page(status, "Sign in", &content, Some(sends_to), None)
}

/// The code that a device shows, with login and password.
pub(crate) fn device(status: StatusCode, code: &str, login: &str, error: Option<&str>, providers: &[Link]) -> Reply {
    let who = CREDENTIALS.replace("{login}", &escape(login)).replace(" autofocus", "");
    enter_code(status, code, &who, error, &links(providers))
}

/// The same for somebody who came back from another provider; `proof` says so to the next request.
pub(crate) fn device_of(status: StatusCode, code: &str, login: &str, proof: &str, error: Option<&str>) -> Reply {
    let who = format!(
        "<p>You are signed in as <b>{}</b>.</p><input type=\"hidden\" name=\"proof\" value=\"{}\">",
        escape(login),
        escape(proof)
    );
    enter_code(status, code, &who, error, "")
}

fn enter_code(status: StatusCode, code: &str, who: &str, error: Option<&str>, more: &str) -> Reply {
    let content = format!(
        "<p>Enter the code that the program shows. Do this only if you started that program yourself: whoever gave you a \
         code would act in your name.</p>{}<form method=\"post\" action=\"/devicelogin\"><label for=\"code\">Code</label>\
         <input id=\"code\" name=\"code\" autocomplete=\"off\" required value=\"{}\">{who}\
         <button name=\"decision\" value=\"approve\">Sign in</button>\
         <button name=\"decision\" value=\"decline\">Decline</button></form>{more}",
        error_line(error),
        escape(code),
    );
    page(status, "Sign in on another device", &content, None, None)
}

/// A page that says something.
pub(crate) fn message(status: StatusCode, title: &str, text: &str) -> Reply {
    page(status, title, &format!("<p>{}</p>", escape(text)), None, None)
}

/// Sends fields on to a client by POST (`response_mode=form_post`), at once or at a click.
pub(crate) fn send_on(to: &str, origin: &str, fields: &[(&str, String)]) -> Reply {
    let mut content = format!("<form method=\"post\" action=\"{}\">", escape(to));
    for (name, value) in fields {
        let _ = write!(content, "<input type=\"hidden\" name=\"{}\" value=\"{}\">", escape(name), escape(value));
    }
    content.push_str("<button>Continue</button></form>");
    page(StatusCode::OK, "Signing in", &content, Some(origin), Some("document.forms[0].submit()"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_comes_from_outside_is_escaped() {
        let evil = "\"><script>alert('x')</script>";
        let link = [Link { to: format!("https://l/?{evil}"), name: evil.to_owned() }];
        for reply in [
            sign_in(StatusCode::OK, evil, evil, "http://localhost:1", Some(evil), &link),
            device(StatusCode::OK, evil, evil, Some(evil), &link),
            device_of(StatusCode::OK, evil, evil, evil, Some(evil)),
            message(StatusCode::OK, evil, evil),
            send_on("http://localhost:1/", "http://localhost:1", &[("state", evil.to_owned())]),
        ] {
            let policy = reply.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap().to_owned();
            assert!(policy.starts_with("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
            let bytes = axum::body::to_bytes(reply.into_body(), 1 << 20).await.unwrap();
            let html = String::from_utf8(bytes.to_vec()).unwrap();
            assert!(!html.contains("<script>"), "{html}");
            assert!(html.contains("&quot;&gt;&lt;script&gt;"), "{html}");
        }
    }
}
