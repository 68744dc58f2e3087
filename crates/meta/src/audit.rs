//! The activity log: lines that every write commits together with what it writes, and the chain that shows what was done to them since.
//!
//! ```text
//! link(n) = keyed BLAKE3 of (chain, n, link(n - 1), every field of line n)     the key is never in this database
//!
//! audit_chains   n, link                               where the chain ends
//!                purged_n, purged_link, purged_seal    up to where its lines were forgotten; sealed with the key
//! ```
//! A chain is a subscription's lines, or a tenant's where a line is about no subscription. Whoever can write to the database but has no
//! key can only take away a chain's last lines, and put its end back; a [`ChainAnchor`] that was written down elsewhere shows that too.
//!
//! Must never: link a line in another transaction than its own, or forget a linked line before all that were linked earlier.

use std::fmt;

use crate::db::Db;
use crate::dialect::{Lock, Tx};
use crate::error::{MetaError, WriteError};
use crate::model::{Audit, AuditQuery};
use crate::read::limit;
use crate::sql::{Arg, Row, Select, sql};
use crate::write::inserted;

const LINE: &str = "id, time_ms, correlation_id, tenant, principal, subscription, resource_key, action, status, detail";
/// Lines that are verified at a time.
const PAGE: i64 = 1000;

/// What links lines. Whoever has it can make a chain anew.
#[derive(Clone)]
pub struct ChainKey([u8; 32]);

impl ChainKey {
    pub fn new(key: [u8; 32]) -> Self {
        Self(key)
    }

    /// `detail`: as it is stored, so that reading it may not change the link.
    fn link(&self, chain: &str, n: i64, before: &str, line: &Audit, detail: &str) -> String {
        let (n, time) = (n.to_string(), line.time_ms.to_string());
        self.hash(&[
            "line",
            chain,
            &n,
            before,
            &line.id,
            &time,
            &line.correlation_id,
            &line.tenant,
            &line.principal,
            &line.subscription,
            &line.resource_key,
            &line.action,
            &line.status,
            detail,
        ])
    }

    fn seal(&self, chain: &str, n: i64, link: &str) -> String {
        self.hash(&["forgotten", chain, &n.to_string(), link])
    }

    /// Each field with its length, so that none can take something of its neighbour.
    fn hash(&self, fields: &[&str]) -> String {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        for field in fields {
            hasher.update(&u64::try_from(field.len()).unwrap_or(u64::MAX).to_le_bytes());
            hasher.update(field.as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }
}

impl fmt::Debug for ChainKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChainKey")
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Chaining {
    pub(crate) key: ChainKey,
    /// Whether new lines are linked.
    pub(crate) links: bool,
}

/// The end of a chain as it was shown once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainAnchor {
    pub chain: String,
    pub n: i64,
    pub link: String,
}

/// What is found of a chain. Its end (`chain`, `n`, `link`) is the next verification's [`ChainAnchor`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainReport {
    /// `/subscriptions/ID` or `/tenants/ID`.
    pub chain: String,
    /// Lines up to this one were forgotten, as the server is told to.
    pub purged_n: i64,
    pub n: i64,
    pub link: String,
    /// The first that is wrong.
    pub broken: Option<BrokenChain>,
}

/// What is wrong with a chain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BrokenChain {
    #[error("line {n} is missing")]
    Missing { n: i64 },
    #[error("line {n}, {id}, was changed or put in")]
    Changed { n: i64, id: String },
    #[error("line {id} was put in: it is in no chain")]
    Unlinked { id: String },
    #[error("the chain's end, line {n}, is not what its lines lead to")]
    End { n: i64 },
    #[error("lines up to {n} were taken away, and not by the server")]
    Purged { n: i64 },
    #[error("line {n} is not the one that was written down earlier, or is missing")]
    Anchor { n: i64 },
    #[error("the chain that was written down earlier is gone")]
    Gone,
}

/// Which chain a line is in.
fn chain_of(line: &Audit) -> String {
    match line.subscription.as_str() {
        "" => format!("/tenants/{}", line.tenant),
        subscription => format!("/subscriptions/{subscription}"),
    }
}

/// Writes a line; with a key, as the next one of its chain.
pub(crate) async fn put(tx: &mut Tx, line: &Audit, key: Option<&ChainKey>) -> Result<(), WriteError> {
    let linked = match key {
        Some(key) => Some(next(tx, line, key).await?),
        None => None,
    };
    let (chain, n, link) = linked.map_or((None, None, None), |(chain, n, link)| (Some(chain), Some(n), Some(link)));
    let insert = sql(format!(
        "INSERT INTO audit ({LINE}, chain, n, link) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) \
         ON CONFLICT (id) DO NOTHING"
    ))
    .text(&line.id)
    .int(line.time_ms)
    .text(&line.correlation_id)
    .text(&line.tenant)
    .text(&line.principal)
    .text(&line.subscription)
    .text(&line.resource_key)
    .text(&line.action)
    .text(&line.status)
    .json(&line.detail)
    .opt_text(chain.as_deref())
    .opt_int(n)
    .opt_text(link.as_deref());
    inserted(tx.execute(insert).await?, &line.id)
}

/// Lengthens the chain; its row is held until the transaction ends, so that a chain has one order.
async fn next(tx: &mut Tx, line: &Audit, key: &ChainKey) -> Result<(String, i64, String), MetaError> {
    let chain = chain_of(line);
    let begin = "INSERT INTO audit_chains (chain, n, link, purged_n, purged_link, purged_seal) \
                 VALUES ($1, 0, '', 0, '', '') ON CONFLICT (chain) DO NOTHING";
    tx.execute(sql(begin).text(&chain)).await?;
    let end = sql("SELECT n, link FROM audit_chains WHERE chain = $1").text(&chain);
    let end = tx.locked_row(end, Lock::Update).await?;
    let (n, before) = match &end {
        Some(row) => (row.int(0)? + 1, row.text(1)?),
        None => return Err(MetaError::Invalid(format!("the chain {chain} is gone"))),
    };
    let link = key.link(&chain, n, &before, line, &line.detail.to_string());
    let lengthen = sql("UPDATE audit_chains SET n = $2, link = $3 WHERE chain = $1").text(&chain).int(n).text(&link);
    tx.execute(lengthen).await?;
    Ok((chain, n, link))
}

/// A chain's row.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Chain {
    chain: String,
    n: i64,
    link: String,
    purged_n: i64,
    purged_link: String,
    purged_seal: String,
}

fn chain(row: &Row) -> Result<Chain, MetaError> {
    Ok(Chain {
        chain: row.text(0)?,
        n: row.int(1)?,
        link: row.text(2)?,
        purged_n: row.int(3)?,
        purged_link: row.text(4)?,
        purged_seal: row.text(5)?,
    })
}

const CHAIN: &str = "chain, n, link, purged_n, purged_link, purged_seal";

/// A line with its place in a chain, as they are stored.
struct Linked {
    line: Audit,
    detail: String,
    n: i64,
    link: String,
}

/// Goes along a chain, line by line.
struct Walk<'a> {
    key: &'a ChainKey,
    chain: &'a Chain,
    anchors: Vec<&'a ChainAnchor>,
    n: i64,
    link: String,
}

impl<'a> Walk<'a> {
    fn begin(key: &'a ChainKey, chain: &'a Chain, anchors: &'a [ChainAnchor]) -> Result<Self, BrokenChain> {
        let of_chain = anchors.iter().filter(|a| a.chain == chain.chain);
        // What was forgotten cannot be compared any more.
        let anchors: Vec<_> = of_chain.filter(|a| a.n >= chain.purged_n && a.n > 0).collect();
        let walk = Self { key, chain, anchors, n: chain.purged_n, link: chain.purged_link.clone() };
        let forgot = |n| key.seal(&chain.chain, n, &chain.purged_link) == chain.purged_seal;
        if walk.n != 0 && !forgot(walk.n) || walk.n == 0 && !walk.link.is_empty() {
            return Err(BrokenChain::Purged { n: walk.n });
        }
        walk.at_anchor()?;
        Ok(walk)
    }

    fn step(&mut self, next: &Linked) -> Result<(), BrokenChain> {
        let n = self.n + 1;
        if next.n != n {
            return Err(BrokenChain::Missing { n });
        }
        let link = self.key.link(&self.chain.chain, n, &self.link, &next.line, &next.detail);
        if link != next.link || chain_of(&next.line) != self.chain.chain {
            return Err(BrokenChain::Changed { n, id: next.line.id.clone() });
        }
        (self.n, self.link) = (n, link);
        self.at_anchor()
    }

    fn at_anchor(&self) -> Result<(), BrokenChain> {
        match self.anchors.iter().find(|a| a.n == self.n && a.link != self.link) {
            Some(anchor) => Err(BrokenChain::Anchor { n: anchor.n }),
            None => Ok(()),
        }
    }

    fn end(&self) -> Result<(), BrokenChain> {
        if (self.n, &self.link) != (self.chain.n, &self.chain.link) {
            return Err(BrokenChain::End { n: self.chain.n });
        }
        match self.anchors.iter().find(|a| a.n > self.n) {
            Some(anchor) => Err(BrokenChain::Anchor { n: anchor.n }),
            None => Ok(()),
        }
    }
}

impl Db {
    /// Newest first.
    ///
    /// # Errors
    /// [`MetaError`] of the database.
    pub async fn audit(&self, query: &AuditQuery) -> Result<Vec<Audit>, MetaError> {
        let mut select = Select::new(format!("SELECT {LINE} FROM audit"));
        select.and_text("subscription = ?", query.subscription.as_ref());
        select.and_text("resource_key = ?", query.resource_key.as_ref());
        select.and_below("resource_key > ? AND resource_key < ?", query.under.as_ref());
        if let Some(since_ms) = query.since_ms {
            select.and("time_ms >= ?", [Arg::Int(since_ms)]);
        }
        if let Some((time_ms, id)) = &query.before {
            let args = [Arg::Int(*time_ms), Arg::Int(*time_ms), Arg::Text(id.clone())];
            select.and("(time_ms < ? OR (time_ms = ? AND id < ?))", args);
        }
        self.rows(select.end("time_ms DESC, id DESC", limit(query.limit))).await?.iter().map(line).collect()
    }

    /// The line of this id.
    ///
    /// # Errors
    /// [`MetaError`] of the database.
    pub async fn audit_line(&self, id: &str) -> Result<Option<Audit>, MetaError> {
        let select = sql(format!("SELECT {LINE} FROM audit WHERE id = $1")).text(id);
        self.row(select).await?.as_ref().map(line).transpose()
    }

    /// Deletes lines of the activity log older than `before_ms`, at most `limit` of them of each chain and of those in none.
    /// Returns how many. Without a key, linked lines stay.
    ///
    /// # Errors
    /// [`MetaError`] of the database.
    pub async fn purge_audit(&self, before_ms: i64, limit: i64) -> Result<u64, MetaError> {
        let purge = sql("DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE time_ms < $1 AND chain IS NULL \
                         ORDER BY time_ms, id LIMIT $2)");
        let mut purged = self.change_rows(vec![], purge.int(before_ms).int(limit)).await?;
        if let Some(chaining) = &self.chaining {
            for chain in self.chains().await? {
                purged += self.purge_chain(&chaining.key, chain.chain, before_ms, limit).await?;
            }
        }
        Ok(purged)
    }

    /// Whether any line was ever linked.
    ///
    /// # Errors
    /// [`MetaError`] of the database.
    pub async fn has_audit_chains(&self) -> Result<bool, MetaError> {
        Ok(self.row(sql("SELECT chain FROM audit_chains LIMIT 1")).await?.is_some())
    }

    async fn chains(&self) -> Result<Vec<Chain>, MetaError> {
        let select = sql(format!("SELECT {CHAIN} FROM audit_chains ORDER BY chain"));
        self.rows(select).await?.iter().map(chain).collect()
    }

    async fn chain(&self, name: &str) -> Result<Option<Chain>, MetaError> {
        let select = sql(format!("SELECT {CHAIN} FROM audit_chains WHERE chain = $1")).text(name);
        self.row(select).await?.map(|row| chain(&row)).transpose()
    }

    /// From its beginning up to the first line that is young enough.
    async fn purge_chain(&self, key: &ChainKey, chain: String, before_ms: i64, limit: i64) -> Result<u64, MetaError> {
        let key = key.clone();
        self.change(vec![], move |tx| {
            let (key, chain) = (key.clone(), chain.clone());
            Box::pin(async move {
                let held = sql("SELECT n FROM audit_chains WHERE chain = $1").text(&chain);
                tx.locked_row(held, Lock::Update).await?;
                let young = sql("SELECT MIN(n) FROM audit WHERE chain = $1 AND time_ms >= $2");
                let young = tx.row(young.text(&chain).int(before_ms)).await?;
                let young = young.map(|row| row.opt_int(0)).transpose()?.flatten().unwrap_or(i64::MAX);
                let old = sql("SELECT n, link FROM audit WHERE chain = $1 AND n < $2 ORDER BY n LIMIT $3");
                let old = tx.rows(old.text(&chain).int(young).int(limit)).await?;
                let Some(last) = old.last() else { return Ok(0) };
                let (n, link) = (last.int(0)?, last.text(1)?);
                let seal = key.seal(&chain, n, &link);
                let forget = sql("DELETE FROM audit WHERE chain = $1 AND n <= $2").text(&chain).int(n);
                let purged = tx.execute(forget).await?;
                let mark = "UPDATE audit_chains SET purged_n = $2, purged_link = $3, purged_seal = $4 WHERE chain = $1";
                tx.execute(sql(mark).text(&chain).int(n).text(link).text(seal)).await?;
                Ok(purged)
            })
        })
        .await
    }

    /// Reads every linked line, and says of each chain what the first is that is not as it was written. Beside servers that write, too.
    ///
    /// # Errors
    /// [`MetaError`] of the database; [`MetaError::Invalid`] without a key.
    pub async fn verify_audit(&self, anchors: &[ChainAnchor]) -> Result<Vec<ChainReport>, MetaError> {
        let Some(Chaining { key, .. }) = &self.chaining else {
            return Err(MetaError::Invalid("there is no key to verify the activity log with".to_owned()));
        };
        let mut reports = Vec::new();
        for found in self.chains().await? {
            reports.push(self.verify_chain(key, found, anchors).await?);
        }
        for anchor in anchors {
            if !reports.iter().any(|r| r.chain == anchor.chain) {
                let ChainAnchor { chain, n, link } = anchor.clone();
                reports.push(ChainReport { chain, purged_n: 0, n, link, broken: Some(BrokenChain::Gone) });
            }
        }
        Ok(reports)
    }

    async fn verify_chain(
        &self,
        key: &ChainKey,
        mut chain: Chain,
        anchors: &[ChainAnchor],
    ) -> Result<ChainReport, MetaError> {
        loop {
            let broken = self.walk(key, &chain, anchors).await?;
            if broken.is_some() {
                // Lines that are forgotten meanwhile are not missing.
                match self.chain(&chain.chain).await? {
                    Some(now) if now.purged_n != chain.purged_n => {
                        chain = now;
                        continue;
                    }
                    _ => {}
                }
            }
            let Chain { chain, n, link, purged_n, .. } = chain;
            return Ok(ChainReport { chain, purged_n, n, link, broken });
        }
    }

    async fn walk(
        &self,
        key: &ChainKey,
        chain: &Chain,
        anchors: &[ChainAnchor],
    ) -> Result<Option<BrokenChain>, MetaError> {
        let mut walk = match Walk::begin(key, chain, anchors) {
            Ok(walk) => walk,
            Err(broken) => return Ok(Some(broken)),
        };
        let mut first_ms = None;
        // What was linked since the row was read is not looked at.
        while walk.n < chain.n {
            let select = sql(format!(
                "SELECT {LINE}, n, link FROM audit WHERE chain = $1 AND n > $2 AND n <= $3 ORDER BY n LIMIT $4"
            ));
            let page = self.rows(select.text(&chain.chain).int(walk.n).int(chain.n).int(PAGE)).await?;
            if page.is_empty() {
                break;
            }
            for row in &page {
                let next = Linked { line: line(row)?, detail: row.text(9)?, n: row.int(10)?, link: row.text(11)? };
                first_ms.get_or_insert(next.line.time_ms);
                if let Err(broken) = walk.step(&next) {
                    return Ok(Some(broken));
                }
            }
        }
        if let Err(broken) = walk.end() {
            return Ok(Some(broken));
        }
        self.unlinked(&chain.chain, first_ms).await
    }

    /// A line that is in no chain, and younger than the first that is in this one.
    async fn unlinked(&self, chain: &str, first_ms: Option<i64>) -> Result<Option<BrokenChain>, MetaError> {
        let Some(first_ms) = first_ms else { return Ok(None) };
        let mut select = Select::new("SELECT id FROM audit");
        match (chain.strip_prefix("/subscriptions/"), chain.strip_prefix("/tenants/")) {
            (Some(subscription), _) => select.and_text("subscription = ?", Some(&subscription.to_owned())),
            (None, tenant) => {
                select.and_text("subscription = ?", Some(&String::new()));
                select.and_text("tenant = ?", Some(&tenant.unwrap_or_default().to_owned()));
            }
        }
        select.and("chain IS NULL AND time_ms > ?", [Arg::Int(first_ms)]);
        let found = self.row(select.end("time_ms, id", 1)).await?;
        Ok(found.map(|row| row.text(0)).transpose()?.map(|id| BrokenChain::Unlinked { id }))
    }
}

fn line(row: &Row) -> Result<Audit, MetaError> {
    Ok(Audit {
        id: row.text(0)?,
        time_ms: row.int(1)?,
        correlation_id: row.text(2)?,
        tenant: row.text(3)?,
        principal: row.text(4)?,
        subscription: row.text(5)?,
        resource_key: row.text(6)?,
        action: row.text(7)?,
        status: row.text(8)?,
        detail: row.json("audit", 9)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn audit() -> Audit {
        let text = str::to_owned;
        Audit {
            id: text("i"),
            time_ms: 5,
            correlation_id: text("c"),
            tenant: text("t"),
            principal: text("p"),
            subscription: text("s"),
            resource_key: text("/r"),
            action: text("a"),
            status: text("ok"),
            detail: json!({"x": 1}),
        }
    }

    /// Nothing of a line can be changed without another link.
    #[test]
    fn a_link_holds_every_field() {
        let key = ChainKey::new([7; 32]);
        let link = |line: &Audit| key.link("/subscriptions/s", 3, "before", line, &line.detail.to_string());
        let all = link(&audit());
        let changes: [fn(&mut Audit); 10] = [
            |l| l.id.push('x'),
            |l| l.time_ms += 1,
            |l| l.correlation_id.push('x'),
            |l| l.tenant.push('x'),
            |l| l.principal.push('x'),
            |l| l.subscription.push('x'),
            |l| l.resource_key.push('x'),
            |l| l.action.push('x'),
            |l| l.status.push('x'),
            |l| l.detail = json!({"x": 2}),
        ];
        for change in changes {
            let mut changed = audit();
            change(&mut changed);
            assert_ne!(link(&changed), all, "{changed:?}");
        }
        let (line, detail) = (audit(), audit().detail.to_string());
        assert_eq!(key.link("/subscriptions/s", 3, "before", &line, &detail), all);
        assert_ne!(key.link("/subscriptions/s", 4, "before", &line, &detail), all);
        assert_ne!(key.link("/subscriptions/s", 3, "after", &line, &detail), all);
        assert_ne!(key.link("/subscriptions/t", 3, "before", &line, &detail), all);
        assert_ne!(ChainKey::new([8; 32]).link("/subscriptions/s", 3, "before", &line, &detail), all);
        // One field's end is not its neighbour's beginning.
        assert_ne!(key.hash(&["ab", "c"]), key.hash(&["a", "bc"]));
        assert_eq!(format!("{key:?}"), "ChainKey");
    }

    #[test]
    fn lines_about_no_subscription_are_their_tenants() {
        assert_eq!(chain_of(&audit()), "/subscriptions/s");
        assert_eq!(chain_of(&Audit { subscription: String::new(), ..audit() }), "/tenants/t");
    }
}
