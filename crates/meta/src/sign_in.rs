//! Tickets of sign-ins (codes, refresh tokens, assertions that were used) and guesses at passwords.
//!
//! Each method is one atomic act, so that of two requests with one ticket, through whichever process, only one gets it. None of this
//! says who may do what: [`Db::identity_changes`] stays.

use crate::db::Db;
use crate::error::MetaError;
use crate::model::Ticket;
use crate::sql::{Row, sql};

/// How long a ticket is remembered after its end, so that a client can be told why it is refused.
const REMEMBERED_MS: i64 = 24 * 3600 * 1000;

impl Db {
    /// Stores a new ticket and forgets those that ended long before `now_ms`. `false`: there is one with this id, which is kept.
    ///
    /// # Errors
    /// [`MetaError`] of the database.
    pub async fn put_ticket(&self, ticket: &Ticket, now_ms: i64) -> Result<bool, MetaError> {
        let put = sql("INSERT INTO sign_in_tickets (id, kind, session, state, expires_ms, body) \
                       VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (id) DO NOTHING")
        .text(&ticket.id)
        .text(&ticket.kind)
        .text(&ticket.session)
        .text(&ticket.state)
        .int(ticket.expires_ms)
        .json(&ticket.body);
        let forget = sql("DELETE FROM sign_in_tickets WHERE expires_ms < $1").int(now_ms - REMEMBERED_MS);
        self.change(vec![], move |tx| {
            let (put, forget) = (put.clone(), forget.clone());
            Box::pin(async move {
                tx.execute(forget).await?;
                Ok(tx.execute(put).await? > 0)
            })
        })
        .await
    }

    /// # Errors
    /// [`MetaError`] of the database.
    pub async fn ticket(&self, id: &str) -> Result<Option<Ticket>, MetaError> {
        let select =
            sql("SELECT id, kind, session, state, expires_ms, body FROM sign_in_tickets WHERE id = $1").text(id);
        self.row(select).await?.map(|row| ticket(&row)).transpose()
    }

    /// Gives a ticket that is in the state `from` the state and body of `to`. `false`: it is in another state, or gone.
    ///
    /// # Errors
    /// [`MetaError`] of the database.
    pub async fn move_ticket(&self, from: &str, to: &Ticket) -> Result<bool, MetaError> {
        let update = sql("UPDATE sign_in_tickets SET state = $1, body = $2 WHERE id = $3 AND state = $4")
            .text(&to.state)
            .json(&to.body)
            .text(&to.id)
            .text(from);
        Ok(self.change_rows(vec![], update).await? > 0)
    }

    /// Gives every ticket of a session this state.
    ///
    /// # Errors
    /// [`MetaError`] of the database.
    pub async fn move_session(&self, session: &str, state: &str) -> Result<(), MetaError> {
        let update = sql("UPDATE sign_in_tickets SET state = $1 WHERE session = $2").text(state).text(session);
        self.change_rows(vec![], update).await.map(drop)
    }

    /// Counts a guess, and says which one it is since the count began. A count begins with the first guess after the last one's
    /// end, and ends at `until_ms`.
    ///
    /// # Errors
    /// [`MetaError`] of the database.
    pub async fn count_guess(&self, subject: &str, now_ms: i64, until_ms: i64) -> Result<i64, MetaError> {
        let count = sql("INSERT INTO sign_in_guesses (subject, n, until_ms) VALUES ($1, 1, $2) \
                         ON CONFLICT (subject) DO UPDATE SET n = sign_in_guesses.n + 1 RETURNING n")
        .text(subject)
        .int(until_ms);
        let forget = sql("DELETE FROM sign_in_guesses WHERE until_ms <= $1").int(now_ms);
        self.change(vec![], move |tx| {
            let (count, forget) = (count.clone(), forget.clone());
            Box::pin(async move {
                tx.execute(forget).await?;
                let row = tx.row(count).await?;
                Ok(row.map_or(Ok(0), |row| row.int(0))?)
            })
        })
        .await
    }

    /// # Errors
    /// [`MetaError`] of the database.
    pub async fn clear_guesses(&self, subject: &str) -> Result<(), MetaError> {
        self.change_rows(vec![], sql("DELETE FROM sign_in_guesses WHERE subject = $1").text(subject)).await.map(drop)
    }
}

fn ticket(row: &Row) -> Result<Ticket, MetaError> {
    Ok(Ticket {
        id: row.text(0)?,
        kind: row.text(1)?,
        session: row.text(2)?,
        state: row.text(3)?,
        expires_ms: row.int(4)?,
        body: row.json("sign_in_tickets", 5)?,
    })
}
