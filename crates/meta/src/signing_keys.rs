//! The keys that access tokens are signed with. They come sealed, and are kept as they came.
//!
//! Each is the successor of one other, or the first: of two processes that make a successor at once, one does.

use crate::db::Db;
use crate::error::MetaError;
use crate::model::StoredSigningKey;
use crate::sql::sql;

/// How long a key is shown to the operator after its end.
const REMEMBERED_MS: i64 = 24 * 3600 * 1000;

impl Db {
    /// Every key, in the order in which they sign.
    ///
    /// # Errors
    /// [`MetaError`] of the database.
    pub async fn signing_keys(&self) -> Result<Vec<StoredSigningKey>, MetaError> {
        let select = "SELECT id, predecessor, sealed, created_ms, signs_from_ms, ends_ms FROM signing_keys \
                      ORDER BY signs_from_ms, id";
        let rows = self.rows(sql(select)).await?;
        let key = |row: &crate::sql::Row| {
            Ok(StoredSigningKey {
                id: row.text(0)?,
                predecessor: row.text(1)?,
                sealed: row.text(2)?,
                created_ms: row.int(3)?,
                signs_from_ms: row.int(4)?,
                ends_ms: row.int(5)?,
            })
        };
        rows.iter().map(key).collect()
    }

    /// Stores a key; all others end at `others_end_ms` if they do not before. Those that ended long before the new one was made are
    /// forgotten. `false`: its predecessor has another successor, or it is there already; then nothing is changed.
    ///
    /// # Errors
    /// [`MetaError`] of the database.
    pub async fn put_signing_key(&self, key: &StoredSigningKey, others_end_ms: i64) -> Result<bool, MetaError> {
        let put = sql("INSERT INTO signing_keys (id, predecessor, sealed, created_ms, signs_from_ms, ends_ms) \
                       VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING")
        .text(&key.id)
        .text(&key.predecessor)
        .text(&key.sealed)
        .int(key.created_ms)
        .int(key.signs_from_ms)
        .int(key.ends_ms);
        let end = sql("UPDATE signing_keys SET ends_ms = $1 WHERE id <> $2 AND ends_ms > $1")
            .int(others_end_ms)
            .text(&key.id);
        let forget =
            sql("DELETE FROM signing_keys WHERE ends_ms < $1").int(key.created_ms.saturating_sub(REMEMBERED_MS));
        self.change(vec![], move |tx| {
            let (put, end, forget) = (put.clone(), end.clone(), forget.clone());
            Box::pin(async move {
                if tx.execute(put).await? == 0 {
                    return Ok(false);
                }
                tx.execute(end).await?;
                tx.execute(forget).await?;
                Ok(true)
            })
        })
        .await
    }
}
