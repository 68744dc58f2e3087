//! Device codes (RFC 8628): a client without a browser shows a code, a person enters it in one, and the client is told.
//!
//! ```text
//! Pending ──the person enters the code──> Approved ──polled──> Used
//!    └─────the person declines──────────> Declined
//! ```
//!
//! The client's long code is looked up by its hash, the person's short one by a ticket of its own that names the first. Whoever
//! tries short codes must have signed in, and may err as often as with a password.

use super::sessions::{GrantError, Resumed, Session, USED};
use super::{SignInError, SignedIn, kept_as};
use crate::{Engine, db_error, now_ms};
use lazuli_authz::secret;
use lazuli_meta::model::Ticket;
use serde_json::{Value, json};

const DEVICE: &str = "Device";
const USER_CODE: &str = "UserCode";
const PENDING: &str = "Pending";
const APPROVED: &str = "Approved";
const DECLINED: &str = "Declined";

/// How long a code may be entered.
pub const DEVICE_CODE_LIFE_SECONDS: i64 = 15 * 60;
/// How long a client waits between two polls.
pub const POLL_INTERVAL_SECONDS: i64 = 5;
/// Clients wait for whole seconds, and requests take different times.
const POLL_TOLERANCE_MS: i64 = 1000;
/// So many are issued a minute, to all clients together: nobody has signed in yet.
const MAX_STARTS: i64 = 300;

/// A device code that was issued.
pub struct DeviceCode {
    pub device_code: String,
    pub user_code: String,
}

/// What a poll is answered besides a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    #[error("nobody has entered the code yet")]
    Pending,
    #[error("the client polls too often")]
    SlowDown,
    #[error("the person declined")]
    Declined,
    #[error("the code expired")]
    Expired,
    #[error("there is no such code")]
    Unknown,
    #[error("too many codes are asked for")]
    TooMany,
}

/// What a poll finds.
#[derive(Debug, PartialEq, Eq)]
enum Poll {
    Refuse(DeviceError),
    Take,
}

fn judge(ticket: &Ticket, now_ms: i64) -> Poll {
    let last = ticket.body["polledMs"].as_i64().unwrap_or(i64::MIN / 2);
    match ticket.state.as_str() {
        DECLINED => Poll::Refuse(DeviceError::Declined),
        USED => Poll::Refuse(DeviceError::Unknown),
        _ if ticket.expires_ms <= now_ms => Poll::Refuse(DeviceError::Expired),
        APPROVED => Poll::Take,
        _ if now_ms - last < POLL_INTERVAL_SECONDS * 1000 - POLL_TOLERANCE_MS => Poll::Refuse(DeviceError::SlowDown),
        _ => Poll::Refuse(DeviceError::Pending),
    }
}

/// As codes are compared: people write them in groups and in lower case.
fn normal(user_code: &str) -> String {
    user_code.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_uppercase()
}

impl Engine {
    /// # Errors
    /// [`DeviceError::TooMany`].
    pub async fn start_device(
        &self,
        tenant: Option<&str>,
        client_id: &str,
        scope: &str,
    ) -> Result<DeviceCode, SignInError> {
        let now = now_ms();
        if self.db().count_guess("device codes", now, now + 60_000).await.map_err(db_error)? > MAX_STARTS {
            return Err(DeviceError::TooMany.into());
        }
        let device_code = super::generate_secret()?;
        let session = Session::begin(tenant.unwrap_or_default(), "", client_id, scope);
        let expires_ms = now + DEVICE_CODE_LIFE_SECONDS * 1000;
        let ticket = |id: String, kind: &str, body: Value| Ticket {
            id,
            kind: kind.to_owned(),
            session: session.id.clone(),
            state: PENDING.to_owned(),
            expires_ms,
            body,
        };
        let device = ticket(kept_as(DEVICE, &device_code), DEVICE, session.body());
        self.db().put_ticket(&device, now).await.map_err(db_error)?;
        loop {
            let user_code = secret::user_code().map_err(|_| super::no_randomness())?;
            let short = ticket(kept_as(USER_CODE, &user_code), USER_CODE, json!({"device": device.id}));
            if self.db().put_ticket(&short, now).await.map_err(db_error)? {
                return Ok(DeviceCode { device_code, user_code });
            }
        }
    }

    /// The tenant whose people a short code waits for; `None`: any, or there is no such code.
    pub async fn device_tenant(&self, user_code: &str) -> Option<String> {
        let session = Session::of(&self.pending(user_code).await.ok()?);
        Some(session.tenant).filter(|t| !t.is_empty())
    }

    async fn pending(&self, user_code: &str) -> Result<Ticket, SignInError> {
        let short = self.db().ticket(&kept_as(USER_CODE, &normal(user_code))).await.map_err(db_error)?;
        let device = short.and_then(|s| s.body["device"].as_str().map(str::to_owned)).ok_or(DeviceError::Unknown)?;
        let ticket = self.db().ticket(&device).await.map_err(db_error)?;
        let waits = |t: &Ticket| t.kind == DEVICE && t.state == PENDING && t.expires_ms > now_ms();
        Ok(ticket.filter(waits).ok_or(DeviceError::Unknown)?)
    }

    /// The person lets the client that shows this code in, or does not. Returns the client's name.
    ///
    /// # Errors
    /// [`DeviceError::Unknown`]; [`GrantError::OtherTenant`] where the client asks for people of another tenant;
    /// [`SignInError::LockedOut`] after too many wrong codes.
    pub async fn decide_device(
        &self,
        user_code: &str,
        person: &SignedIn,
        approved: bool,
    ) -> Result<String, SignInError> {
        let subject = kept_as("code", &person.caller.principal);
        self.count_guess(&subject).await?;
        loop {
            let mut ticket = self.pending(user_code).await?;
            let asked = Session::of(&ticket);
            if !asked.tenant.is_empty() && !asked.tenant.eq_ignore_ascii_case(&person.caller.tenant) {
                return Err(GrantError::OtherTenant.into());
            }
            let client = self.interactive_client(Some(&person.caller.tenant), &asked.client_id).await?;
            ticket.state = if approved { APPROVED } else { DECLINED }.to_owned();
            ticket.body["principal"] = json!(person.home.principal);
            ticket.body["tenant"] = json!(person.home.tenant);
            // Where the person may be a guest.
            ticket.body["askedTenant"] = json!(Some(&asked.tenant).filter(|t| !t.is_empty()));
            ticket.body["sinceMs"] = json!(now_ms());
            // Else it was polled or decided meanwhile.
            if self.db().move_ticket(PENDING, &ticket).await.map_err(db_error)? {
                self.db().clear_guesses(&subject).await.map_err(db_error)?;
                return Ok(client.name);
            }
        }
    }

    /// Whether the person has entered the code; if so, it is used up.
    ///
    /// # Errors
    /// [`SignInError::Device`].
    pub async fn redeem_device(&self, client_id: &str, device_code: &str) -> Result<Resumed, SignInError> {
        let id = kept_as(DEVICE, device_code);
        loop {
            let now = now_ms();
            let found = self.db().ticket(&id).await.map_err(db_error)?;
            let mut ticket = found.filter(|t| t.kind == DEVICE).ok_or(DeviceError::Unknown)?;
            let session = Session::of(&ticket);
            if !session.client_id.eq_ignore_ascii_case(client_id) {
                return Err(DeviceError::Unknown.into());
            }
            let verdict = judge(&ticket, now);
            match verdict {
                Poll::Take => {
                    ticket.state = USED.to_owned();
                    if self.db().move_ticket(APPROVED, &ticket).await.map_err(db_error)? {
                        return self.resume(session, ticket.body["askedTenant"].as_str()).await;
                    }
                }
                Poll::Refuse(error @ (DeviceError::Pending | DeviceError::SlowDown)) => {
                    ticket.body["polledMs"] = json!(now);
                    if self.db().move_ticket(PENDING, &ticket).await.map_err(db_error)? {
                        return Err(error.into());
                    }
                }
                Poll::Refuse(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polls_are_answered_by_state_and_time() {
        let ticket = |state: &str| Ticket {
            id: String::new(),
            kind: DEVICE.into(),
            session: String::new(),
            state: state.into(),
            expires_ms: 100_000,
            body: json!({"polledMs": 10_000}),
        };
        let refused = |e| Poll::Refuse(e);
        for (state, now, wanted) in [
            (PENDING, 13_999, refused(DeviceError::SlowDown)),
            (PENDING, 14_000, refused(DeviceError::Pending)),
            (PENDING, 100_000, refused(DeviceError::Expired)),
            (APPROVED, 11_000, Poll::Take),
            (APPROVED, 100_000, refused(DeviceError::Expired)),
            (DECLINED, 11_000, refused(DeviceError::Declined)),
            (USED, 11_000, refused(DeviceError::Unknown)),
        ] {
            assert_eq!(judge(&ticket(state), now), wanted, "{state} {now}");
        }
        let first = Ticket { body: json!({}), ..ticket(PENDING) };
        assert_eq!(judge(&first, 0), refused(DeviceError::Pending));
    }

    #[test]
    fn codes_are_read_as_people_write_them() {
        assert_eq!(normal(" abcd-efgh 9"), "ABCDEFGH9");
    }
}
