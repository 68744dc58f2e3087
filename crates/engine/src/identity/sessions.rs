//! What a sign-in of a person gives its client: a code, and refresh tokens. Both are taken once.
//!
//! ```text
//! code      Issued ──redeemed──> Used ──again──> the session is revoked
//! refresh   Issued ──redeemed──> Used ──again, later than REUSE_MS──> the session is revoked
//!   any     ──the session is revoked──> Revoked
//! ```
//!
//! A session is a sign-in and everything that came of it. A refresh token that is seen again was stolen, or its thief was first:
//! nobody goes on with that session. For some seconds the same token may come again, as from two commands of az that begin at once.
//! The database keeps hashes only; bodies hold nothing that opens anything.

use super::{SignInError, caller_of, kept_as, users};
use crate::call::Caller;
use crate::{Engine, db_error, now_ms};
use lazuli_authz::pkce;
use lazuli_meta::model::Ticket;
use serde_json::{Value, json};
use uuid::Uuid;

const CODE: &str = "Code";
const REFRESH: &str = "Refresh";
pub(super) const ISSUED: &str = "Issued";
pub(super) const USED: &str = "Used";
const REVOKED: &str = "Revoked";

const CODE_LIFE_MS: i64 = 5 * 60 * 1000;
/// As Azure's: each refresh token begins it anew.
const REFRESH_LIFE_MS: i64 = 90 * 24 * 3600 * 1000;
const REUSE_MS: i64 = 15 * 1000;

/// Somebody is signed in to a client. It is the home user's, wherever it is a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Names it; opens nothing.
    pub id: String,
    pub client_id: String,
    pub tenant: String,
    /// Object id of the person.
    pub principal: String,
    /// What the client asked for when the person signed in.
    pub scope: String,
    pub nonce: Option<String>,
    /// When the password was given.
    pub since_ms: i64,
}

impl Session {
    pub fn begin(tenant: &str, principal: &str, client_id: &str, scope: &str) -> Self {
        Self {
            id: Uuid::new_v4().to_string(),
            client_id: client_id.to_ascii_lowercase(),
            tenant: tenant.to_owned(),
            principal: principal.to_owned(),
            scope: scope.to_owned(),
            nonce: None,
            since_ms: now_ms(),
        }
    }

    pub(super) fn body(&self) -> Value {
        json!({
            "tenant": self.tenant, "principal": self.principal, "client": self.client_id, "scope": self.scope,
            "nonce": self.nonce, "sinceMs": self.since_ms,
        })
    }

    pub(super) fn of(ticket: &Ticket) -> Self {
        let text = |name: &str| ticket.body[name].as_str().unwrap_or_default().to_owned();
        Self {
            id: ticket.session.clone(),
            client_id: text("client"),
            tenant: text("tenant"),
            principal: text("principal"),
            scope: text("scope"),
            nonce: ticket.body["nonce"].as_str().map(str::to_owned),
            since_ms: ticket.body["sinceMs"].as_i64().unwrap_or(0),
        }
    }
}

/// Who goes on with a session.
#[derive(Debug, Clone)]
pub struct Resumed {
    pub session: Session,
    pub caller: Caller,
    pub login: String,
}

/// Why a code or a refresh token is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    #[error("there is no such grant")]
    Unknown,
    #[error("the grant expired")]
    Expired,
    #[error("the code was redeemed before")]
    CodeUsed,
    #[error("the session was revoked")]
    Revoked,
    #[error("the grant is another client's")]
    OtherClient,
    #[error("the grant is another tenant's")]
    OtherTenant,
    #[error("the redirect URI is not the one that the code was asked for with")]
    Redirect,
    #[error("the code verifier does not match the challenge")]
    Verifier,
}

/// What a code was asked for with.
#[derive(Debug, Clone, Copy)]
pub struct CodeRequest<'a> {
    pub redirect_uri: &'a str,
    /// Of the method S256; clients with a secret may do without.
    pub challenge: Option<&'a str>,
}

/// What a ticket that is shown means.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// It is to be moved to `Used`.
    Take,
    /// It was taken a moment ago, and may be again.
    Again,
    /// Nobody goes on with its session.
    Revoke,
    Refuse(GrantError),
}

fn judge(ticket: &Ticket, now_ms: i64) -> Verdict {
    let used_ms = ticket.body["usedMs"].as_i64().unwrap_or(0);
    match ticket.state.as_str() {
        REVOKED => Verdict::Refuse(GrantError::Revoked),
        USED if ticket.kind == REFRESH && now_ms - used_ms <= REUSE_MS => Verdict::Again,
        USED => Verdict::Revoke,
        _ if ticket.expires_ms <= now_ms => Verdict::Refuse(GrantError::Expired),
        _ => Verdict::Take,
    }
}

impl Engine {
    /// A code for the client to redeem.
    ///
    /// # Errors
    /// What the database says.
    pub async fn issue_code(&self, session: &Session, asked: &CodeRequest<'_>) -> Result<String, SignInError> {
        let mut body = session.body();
        body["redirectUri"] = json!(asked.redirect_uri);
        body["challenge"] = json!(asked.challenge);
        self.issue(CODE, session, body, CODE_LIFE_MS).await
    }

    /// A refresh token of a session.
    ///
    /// # Errors
    /// What the database says.
    pub async fn issue_refresh_token(&self, session: &Session) -> Result<String, SignInError> {
        self.issue(REFRESH, session, session.body(), REFRESH_LIFE_MS).await
    }

    async fn issue(&self, kind: &str, session: &Session, body: Value, life_ms: i64) -> Result<String, SignInError> {
        let text = super::generate_secret()?;
        let now = now_ms();
        let ticket = Ticket {
            id: kept_as(kind, &text),
            kind: kind.to_owned(),
            session: session.id.clone(),
            state: ISSUED.to_owned(),
            expires_ms: now + life_ms,
            body,
        };
        self.db().put_ticket(&ticket, now).await.map_err(db_error)?;
        Ok(text)
    }

    /// What a code was issued for; it is used up.
    ///
    /// # Errors
    /// [`SignInError::Grant`]; a code that comes again ends what came of it.
    pub async fn redeem_code(
        &self,
        tenant: Option<&str>,
        client_id: &str,
        code: &str,
        redirect_uri: Option<&str>,
        verifier: Option<&str>,
    ) -> Result<Resumed, SignInError> {
        let matches = |ticket: &Ticket| {
            // RFC 6749 §4.1.3: it must be there again, as the code was asked for with one.
            if redirect_uri.is_none_or(|uri| ticket.body["redirectUri"] != uri) {
                return Err(GrantError::Redirect);
            }
            match (ticket.body["challenge"].as_str(), verifier) {
                (Some(challenge), Some(verifier)) if pkce::matches(verifier, challenge) => Ok(()),
                (None, None) => Ok(()),
                _ => Err(GrantError::Verifier),
            }
        };
        self.redeem(CODE, tenant, client_id, code, matches).await
    }

    /// Whose refresh token this is; it is used up, and another one is to be issued.
    ///
    /// # Errors
    /// [`SignInError::Grant`]; a token that comes again ends its session.
    pub async fn redeem_refresh_token(
        &self,
        tenant: Option<&str>,
        client_id: &str,
        token: &str,
    ) -> Result<Resumed, SignInError> {
        self.redeem(REFRESH, tenant, client_id, token, |_| Ok(())).await
    }

    async fn redeem(
        &self,
        kind: &str,
        tenant: Option<&str>,
        client_id: &str,
        secret: &str,
        matches: impl Fn(&Ticket) -> Result<(), GrantError> + Send,
    ) -> Result<Resumed, SignInError> {
        let id = kept_as(kind, secret);
        loop {
            let now = now_ms();
            let found = self.db().ticket(&id).await.map_err(db_error)?;
            let ticket = found.filter(|t| t.kind == kind).ok_or(GrantError::Unknown)?;
            let session = Session::of(&ticket);
            if !session.client_id.eq_ignore_ascii_case(client_id) {
                return Err(GrantError::OtherClient.into());
            }
            let elsewhere = tenant.filter(|t| !t.eq_ignore_ascii_case(&session.tenant));
            if let Some(tenant) = elsewhere
                && users::guest(&*self.access().await?, &session.principal, tenant).is_none()
            {
                return Err(GrantError::OtherTenant.into());
            }
            matches(&ticket)?;
            match judge(&ticket, now) {
                Verdict::Refuse(error) => return Err(error.into()),
                Verdict::Again => return self.resume(session, tenant).await,
                Verdict::Revoke => {
                    self.db().move_session(&ticket.session, REVOKED).await.map_err(db_error)?;
                    tracing::warn!(kind, principal = session.principal, "a grant came again; its session is revoked");
                    return Err(if kind == CODE { GrantError::CodeUsed } else { GrantError::Revoked }.into());
                }
                Verdict::Take => {
                    let mut used = Ticket { state: USED.to_owned(), ..ticket };
                    used.body["usedMs"] = json!(now);
                    // Else another request was first, and it is judged anew.
                    if self.db().move_ticket(ISSUED, &used).await.map_err(db_error)? {
                        return self.resume(session, tenant).await;
                    }
                }
            }
        }
    }

    /// The person of a session, if it may still go on, as `tenant` knows it: at home, or as a guest.
    pub(super) async fn resume(&self, session: Session, tenant: Option<&str>) -> Result<Resumed, SignInError> {
        let access = self.access().await?;
        let person = access.principal(&session.principal).filter(|p| p.tenant.eq_ignore_ascii_case(&session.tenant));
        let person = person.ok_or(GrantError::Revoked)?;
        let here = match tenant.filter(|t| !t.eq_ignore_ascii_case(&person.tenant)) {
            Some(tenant) => users::guest(&access, &person.id, tenant).ok_or(GrantError::OtherTenant)?,
            None => person,
        };
        if !users::is_enabled(&access, here) {
            return Err(SignInError::Disabled);
        }
        // A new password ends what was begun with the old one.
        if person.body["sessionsFromMs"].as_i64().is_some_and(|from| session.since_ms < from) {
            return Err(GrantError::Revoked.into());
        }
        Ok(Resumed { caller: caller_of(here), login: here.login.clone(), session })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(kind: &str, state: &str, used_ms: i64) -> Ticket {
        Ticket {
            id: String::new(),
            kind: kind.into(),
            session: "s".into(),
            state: state.into(),
            expires_ms: 1_000_000,
            body: json!({"usedMs": used_ms}),
        }
    }

    #[test]
    fn a_grant_is_taken_once() {
        let cases = [
            (CODE, ISSUED, 0, Verdict::Take),
            (CODE, ISSUED, 1_000_000, Verdict::Refuse(GrantError::Expired)),
            (CODE, USED, 500, Verdict::Revoke),
            (CODE, REVOKED, 0, Verdict::Refuse(GrantError::Revoked)),
            (REFRESH, ISSUED, 999_999, Verdict::Take),
            (REFRESH, USED, 100 + REUSE_MS, Verdict::Again),
            (REFRESH, USED, 101 + REUSE_MS, Verdict::Revoke),
            (REFRESH, REVOKED, 0, Verdict::Refuse(GrantError::Revoked)),
        ];
        for (kind, state, now, wanted) in cases {
            assert_eq!(judge(&ticket(kind, state, 100), now), wanted, "{kind} {state} {now}");
        }
    }
}
