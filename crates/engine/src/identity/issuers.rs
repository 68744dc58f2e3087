//! Other issuers: their keys and endpoints, by OpenID discovery (`{issuer}/.well-known/openid-configuration`), and what they give for
//! a code.
//!
//! Only issuers that a federated credential or the configuration names are asked, over https unless the operator allowed otherwise.
//! What they answer is read to a limit in bytes and time, redirects are not followed, and an issuer that fails is left alone for a
//! while: nobody who can write a credential can make this server work for others.

use lazuli_authz::federated::Keys;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

const TIMEOUT: Duration = Duration::from_secs(5);
const MAX_BYTES: usize = 256 * 1024;
/// How long keys are taken as they are.
const FRESH: Duration = Duration::from_secs(10 * 60);
/// After that, a key that is not known may be a new one; and an issuer that failed may answer again.
const PATIENCE: Duration = Duration::from_secs(30);
const MAX_KEPT: usize = 1000;
const MAX_AT_ONCE: usize = 8;

/// Why an issuer's keys are not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssuerError {
    #[error(
        "the issuer must be an https address without query and fragment (the operator may allow others: `http_issuers`)"
    )]
    NotAllowed,
    #[error("the issuer's OpenID configuration or its keys cannot be read: {0}")]
    Unreachable(String),
    #[error("the OpenID configuration is of another issuer")]
    WrongIssuer,
    #[error("the issuer refused the code: {0}")]
    Refused(String),
}

/// What an issuer says of itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct Discovered {
    pub keys: Keys,
    /// `None`: it has none, or one that may not be asked.
    pub authorization_endpoint: Option<String>,
    pub token_endpoint: Option<String>,
    /// The secret of a client goes into the form, not into a header.
    pub secret_in_form: bool,
    /// Its answers to browsers name it (RFC 9207).
    pub names_itself: bool,
}

struct Kept {
    answer: Result<Arc<Discovered>, IssuerError>,
    at: Instant,
}

/// What is known of issuers.
pub(crate) struct Issuers {
    /// Issuers that may be asked over plain http.
    plain: Vec<String>,
    kept: Mutex<HashMap<String, Kept>>,
    asking: Semaphore,
}

/// Whether this may be an issuer at all.
pub(crate) fn is_issuer(issuer: &str, plain: &[String]) -> bool {
    let host = |rest: &str| rest.split('/').next().is_some_and(|h| !h.is_empty() && !h.contains('@'));
    let clean = issuer.len() <= 600 && issuer.bytes().all(|b| b.is_ascii_graphic() && !b"?#\\".contains(&b));
    let secure = issuer.strip_prefix("https://").is_some_and(host);
    clean && (secure || plain.iter().any(|p| p == issuer))
}

impl Issuers {
    pub fn new(plain: Vec<String>) -> Self {
        Self { plain, kept: Mutex::default(), asking: Semaphore::new(MAX_AT_ONCE) }
    }

    pub fn may_be(&self, issuer: &str) -> bool {
        is_issuer(issuer, &self.plain)
    }

    /// The keys of an issuer, among them the one of this id if it has it.
    ///
    /// # Errors
    /// [`IssuerError`].
    pub async fn keys(&self, issuer: &str, key_id: Option<&str>) -> Result<Arc<Discovered>, IssuerError> {
        self.discovered(issuer, |d| d.keys.has(key_id)).await
    }

    /// What an issuer says of itself.
    ///
    /// # Errors
    /// [`IssuerError`].
    pub async fn provider(&self, issuer: &str) -> Result<Arc<Discovered>, IssuerError> {
        self.discovered(issuer, |_| true).await
    }

    async fn discovered(
        &self,
        issuer: &str,
        enough: impl Fn(&Discovered) -> bool + Send + Sync,
    ) -> Result<Arc<Discovered>, IssuerError> {
        if !self.may_be(issuer) {
            return Err(IssuerError::NotAllowed);
        }
        if let Some(answer) = self.known(issuer, &enough) {
            return answer;
        }
        let _permit = self.asking.acquire().await;
        // Another request may have asked meanwhile.
        if let Some(answer) = self.known(issuer, &enough) {
            return answer;
        }
        let answer = self.fetch(issuer).await.map(Arc::new);
        if let Err(error) = &answer {
            tracing::warn!(issuer, error = error as &dyn std::error::Error, "the keys of an issuer are not known");
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|_, k| k.at.elapsed() < FRESH);
        if kept.len() < MAX_KEPT {
            kept.insert(issuer.to_owned(), Kept { answer: answer.clone(), at: Instant::now() });
        }
        answer
    }

    fn known(
        &self,
        issuer: &str,
        enough: &impl Fn(&Discovered) -> bool,
    ) -> Option<Result<Arc<Discovered>, IssuerError>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let found = kept.get(issuer)?;
        let enough = found.answer.as_ref().is_ok_and(|d| enough(d));
        let limit = if enough { FRESH } else { PATIENCE };
        (found.at.elapsed() < limit).then(|| found.answer.clone())
    }

    /// Whether this server may send a request there on behalf of the issuer.
    fn may_ask(&self, issuer: &str, url: &str) -> bool {
        let below = |p: &String| url.starts_with(&format!("{}/", p.trim_end_matches('/')));
        url.starts_with("https://") || self.plain.iter().any(|p| p == issuer && below(p))
    }

    async fn fetch(&self, issuer: &str) -> Result<Discovered, IssuerError> {
        let client = client()?;
        let at = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let configuration = read(&client, &at).await?;
        if configuration["issuer"] != issuer {
            return Err(IssuerError::WrongIssuer);
        }
        let keys = configuration["jwks_uri"].as_str().unwrap_or_default();
        if !self.may_ask(issuer, keys) {
            return Err(IssuerError::NotAllowed);
        }
        let document = read(&client, keys).await?;
        let keys = Keys::parse(&document);
        let keys = keys.ok_or_else(|| IssuerError::Unreachable("the keys are no JWKS document".to_owned()))?;
        let endpoint =
            |name: &str| configuration[name].as_str().filter(|url| self.may_ask(issuer, url)).map(str::to_owned);
        let methods = configuration["token_endpoint_auth_methods_supported"].as_array();
        let takes = |method: &str| methods.is_some_and(|all| all.iter().any(|m| m == method));
        Ok(Discovered {
            keys,
            authorization_endpoint: endpoint("authorization_endpoint"),
            token_endpoint: endpoint("token_endpoint"),
            // Without a list it is the header (OpenID Connect Discovery §3).
            secret_in_form: takes("client_secret_post") && !takes("client_secret_basic"),
            names_itself: configuration["authorization_response_iss_parameter_supported"] == true,
        })
    }

    /// What the token endpoint of an issuer gives for a form.
    ///
    /// # Errors
    /// [`IssuerError::Refused`] with the issuer's own word; [`IssuerError::Unreachable`].
    pub async fn exchange(&self, url: &str, form: String, basic: Option<(&str, &str)>) -> Result<Value, IssuerError> {
        let _permit = self.asking.acquire().await;
        let mut request = client()?.post(url).header("content-type", "application/x-www-form-urlencoded").body(form);
        if let Some((client, secret)) = basic {
            request = request.basic_auth(client, Some(secret));
        }
        let answer = request.send().await.map_err(|e| unreachable_by(&e))?;
        let status = answer.status();
        let body = json_of(answer).await?;
        match body["error"].as_str() {
            _ if status == reqwest::StatusCode::OK => Ok(body),
            Some(word) => Err(IssuerError::Refused(plain(word))),
            None => Err(IssuerError::Unreachable("it answered with another status than 200".to_owned())),
        }
    }
}

/// A word of another server, fit for a log and a page.
pub(crate) fn plain(word: &str) -> String {
    word.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(100).collect()
}

fn client() -> Result<reqwest::Client, IssuerError> {
    let client = reqwest::Client::builder().timeout(TIMEOUT).redirect(reqwest::redirect::Policy::none()).build();
    client.map_err(|e| unreachable_by(&e))
}

fn unreachable_by(error: &reqwest::Error) -> IssuerError {
    let why = if error.is_timeout() { "it did not answer in time" } else { "the request failed" };
    tracing::debug!(error = error as &dyn std::error::Error, "an issuer was not reached");
    IssuerError::Unreachable(why.to_owned())
}

/// A JSON document, whole and not too large.
async fn read(client: &reqwest::Client, url: &str) -> Result<Value, IssuerError> {
    let answer = client.get(url).send().await.map_err(|e| unreachable_by(&e))?;
    if answer.status() != reqwest::StatusCode::OK {
        return Err(IssuerError::Unreachable("it answered with another status than 200".to_owned()));
    }
    json_of(answer).await
}

async fn json_of(mut answer: reqwest::Response) -> Result<Value, IssuerError> {
    let failed = |why: &str| IssuerError::Unreachable(why.to_owned());
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|e| unreachable_by(&e))? {
        if bytes.len() + chunk.len() > MAX_BYTES {
            return Err(failed("its answer is too large"));
        }
        bytes.extend_from_slice(&chunk);
    }
    serde_json::from_slice(&bytes).map_err(|_| failed("its answer is no JSON"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_and_what_is_allowed_is_asked() {
        let plain = ["http://127.0.0.1:1/realms/a".to_owned()];
        for good in ["https://i.example", "https://i.example/realms/a/", "http://127.0.0.1:1/realms/a"] {
            assert!(is_issuer(good, &plain), "{good}");
        }
        for bad in [
            "",
            "https://",
            "http://i.example",
            "http://127.0.0.1:1/realms/ab",
            "https://u@i.example",
            "https://i/?x",
            "https://i/#",
            "file:///etc",
        ] {
            assert!(!is_issuer(bad, &plain), "{bad}");
        }
    }
}
