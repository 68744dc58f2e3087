//! Lists in parts: the same order and the same parts whatever the size of a part, and never more in memory than one.

use super::record::BlobRow;
use super::{Account, BlobInfo, Code, ContainerInfo, Storage, StorageError};
use lazuli_meta::model::{BlobQuery, ContainerQuery};
use serde::{Deserialize, Serialize};

/// Azure gives no more in one part.
const MAX: usize = 5000;
const BATCH: i64 = 1000;

#[derive(Debug, Clone, Default)]
pub struct ListQuery {
    pub prefix: String,
    pub delimiter: Option<String>,
    /// As the part before gave it.
    pub marker: Option<String>,
    pub max: Option<usize>,
    pub snapshots: bool,
}

#[derive(Debug, Clone)]
pub enum Entry {
    Blob(Box<BlobInfo>),
    /// Everything that begins so, up to and with the delimiter.
    Prefix(String),
}

#[derive(Debug, Clone)]
pub struct BlobPage {
    pub entries: Vec<Entry>,
    pub next: Option<String>,
}

#[derive(Debug, Clone)]
pub struct ContainerPage {
    pub containers: Vec<ContainerInfo>,
    pub next: Option<String>,
}

/// Where a part ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Marker {
    #[serde(rename = "b")]
    Blob(String, Option<String>),
    #[serde(rename = "p")]
    Prefix(String),
}

impl Marker {
    fn text(&self) -> String {
        hex::encode(serde_json::to_vec(self).unwrap_or_default())
    }

    fn parse(text: &str) -> Result<Self, StorageError> {
        let bytes = hex::decode(text).ok();
        bytes.and_then(|b| serde_json::from_slice(&b).ok()).ok_or_else(|| Code::OutOfRangeInput.into())
    }
}

impl Storage {
    /// # Errors
    /// [`Code::OutOfRangeInput`] for a marker of another kind.
    pub async fn list_containers(&self, account: &Account, query: &ListQuery) -> Result<ContainerPage, StorageError> {
        let max = query.max.unwrap_or(MAX).clamp(1, MAX);
        let mut found = Vec::new();
        let mut after = query.marker.clone().filter(|m| !m.is_empty());
        loop {
            let wanted = i64::try_from(max + 1 - found.len()).unwrap_or(BATCH).min(BATCH);
            let page = self
                .db()
                .containers(&ContainerQuery {
                    account: account.name.clone(),
                    prefix: Some(query.prefix.clone()).filter(|p| !p.is_empty()),
                    after,
                    limit: Some(wanted),
                })
                .await?;
            let last = i64::try_from(page.len()).is_ok_and(|len| len < wanted);
            found.extend(page);
            after = found.last().map(|row| row.name.clone());
            if last || found.len() > max {
                break;
            }
        }
        let more = found.len() > max;
        found.truncate(max);
        let next = found.last().filter(|_| more).map(|row| row.name.clone());
        let containers = found.iter().map(ContainerInfo::of).collect::<Result<_, _>>()?;
        Ok(ContainerPage { containers, next })
    }

    /// # Errors
    /// [`Code::ContainerNotFound`]; [`Code::OutOfRangeInput`] for a marker of another kind.
    pub async fn list_blobs(
        &self,
        account: &Account,
        container: &str,
        query: &ListQuery,
    ) -> Result<BlobPage, StorageError> {
        self.require_container(account, container).await?;
        let max = query.max.unwrap_or(MAX).clamp(1, MAX);
        let mut marker = query.marker.as_deref().filter(|m| !m.is_empty()).map(Marker::parse).transpose()?;
        let mut entries = Vec::new();
        loop {
            let rows = self.db().blobs(&blob_query(account, container, query, marker.as_ref())).await?;
            let last = i64::try_from(rows.len()).is_ok_and(|len| len < BATCH);
            for row in rows {
                if let Some(Marker::Prefix(prefix)) = &marker
                    && row.name.starts_with(prefix.as_str())
                {
                    continue;
                }
                if entries.len() == max {
                    return Ok(BlobPage { entries, next: marker.map(|m| m.text()) });
                }
                match common(&row.name, query) {
                    Some(prefix) => {
                        entries.push(Entry::Prefix(prefix.to_owned()));
                        marker = Some(Marker::Prefix(prefix.to_owned()));
                    }
                    None => {
                        marker = Some(Marker::Blob(row.name.clone(), row.snapshot.clone()));
                        entries.push(Entry::Blob(Box::new(BlobRow::of(row)?.info())));
                    }
                }
            }
            if last {
                return Ok(BlobPage { entries, next: None });
            }
        }
    }
}

fn blob_query(account: &Account, container: &str, query: &ListQuery, marker: Option<&Marker>) -> BlobQuery {
    let (after, after_prefix) = match marker {
        Some(Marker::Blob(name, snapshot)) => (Some((name.clone(), snapshot.clone())), None),
        Some(Marker::Prefix(prefix)) => (None, Some(prefix.clone())),
        None => (None, None),
    };
    BlobQuery {
        account: account.name.clone(),
        container: container.to_owned(),
        prefix: Some(query.prefix.clone()).filter(|p| !p.is_empty()),
        after,
        after_prefix,
        snapshots: query.snapshots,
        limit: Some(BATCH),
        ..BlobQuery::default()
    }
}

/// What a name shares with others up to the first delimiter behind the prefix.
fn common<'a>(name: &'a str, query: &ListQuery) -> Option<&'a str> {
    let delimiter = query.delimiter.as_deref().filter(|d| !d.is_empty())?;
    let rest = name.get(query.prefix.len()..)?;
    let at = rest.find(delimiter)?;
    name.get(..query.prefix.len() + at + delimiter.len())
}
