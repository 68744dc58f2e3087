//! What a blob says of itself, and the conditions that requests put on it. Pure.

use super::BlobError;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Headers that a client set with the blob and gets back with it; they mean nothing here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContentHeaders {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoding: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disposition: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_control: Option<String>,
    /// Of the whole blob, as the client says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub md5: Option<String>,
}

/// A blob's properties at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Properties {
    pub size: u64,
    /// Without quotes; another one after every write.
    pub etag: String,
    /// Milliseconds since the Unix epoch.
    pub modified_ms: i64,
    pub sequence: u64,
    pub headers: ContentHeaders,
    pub metadata: BTreeMap<String, String>,
}

/// A test of the sequence number (`x-ms-if-sequence-number-le|lt|eq`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SequenceTest {
    AtMost(u64),
    Below(u64),
    Exactly(u64),
}

/// What must hold for a request to be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conditions {
    /// As sent: `*`, or quoted tags with commas between.
    pub if_match: Option<String>,
    pub if_none_match: Option<String>,
    /// Seconds since the Unix epoch.
    pub if_modified_since: Option<i64>,
    pub if_unmodified_since: Option<i64>,
    pub sequence: Vec<SequenceTest>,
}

impl Conditions {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// For a request that changes the blob.
    ///
    /// # Errors
    /// [`BlobError::ConditionNotMet`], [`BlobError::SequenceNotMet`].
    pub fn check_write(&self, now: &Properties) -> Result<(), BlobError> {
        let modified = now.modified_ms.div_euclid(1000);
        let fails = self.if_match.as_deref().is_some_and(|tags| !names(tags, &now.etag))
            || self.if_none_match.as_deref().is_some_and(|tags| names(tags, &now.etag))
            || self.if_unmodified_since.is_some_and(|at| modified > at)
            || self.if_modified_since.is_some_and(|at| modified <= at);
        if fails {
            return Err(BlobError::ConditionNotMet);
        }
        let holds = |test: &SequenceTest| match *test {
            SequenceTest::AtMost(n) => now.sequence <= n,
            SequenceTest::Below(n) => now.sequence < n,
            SequenceTest::Exactly(n) => now.sequence == n,
        };
        if self.sequence.iter().all(holds) { Ok(()) } else { Err(BlobError::SequenceNotMet) }
    }

    /// For a request that reads it: what the client has already is not sent again (RFC 9110 §13.2.2).
    ///
    /// # Errors
    /// [`BlobError::ConditionNotMet`], [`BlobError::NotModified`].
    pub fn check_read(&self, now: &Properties) -> Result<(), BlobError> {
        let modified = now.modified_ms.div_euclid(1000);
        match &self.if_match {
            Some(tags) if !names(tags, &now.etag) => return Err(BlobError::ConditionNotMet),
            Some(_) => {}
            None if self.if_unmodified_since.is_some_and(|at| modified > at) => {
                return Err(BlobError::ConditionNotMet);
            }
            None => {}
        }
        let unchanged = match &self.if_none_match {
            Some(tags) => names(tags, &now.etag),
            None => self.if_modified_since.is_some_and(|at| modified <= at),
        };
        if unchanged { Err(BlobError::NotModified) } else { Ok(()) }
    }
}

/// Whether a list of tags names this one.
fn names(tags: &str, etag: &str) -> bool {
    tags.split(',').map(str::trim).any(|tag| {
        let tag = tag.strip_prefix("W/").unwrap_or(tag);
        tag == "*" || tag.trim_matches('"') == etag
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob() -> Properties {
        Properties {
            size: 512,
            etag: "0x8D1".into(),
            modified_ms: 10_500,
            sequence: 7,
            headers: ContentHeaders::default(),
            metadata: BTreeMap::new(),
        }
    }

    fn tags(if_match: Option<&str>, if_none_match: Option<&str>) -> Conditions {
        Conditions {
            if_match: if_match.map(str::to_owned),
            if_none_match: if_none_match.map(str::to_owned),
            ..Conditions::default()
        }
    }

    #[test]
    fn entity_tags() {
        for (conditions, write, read) in [
            (tags(Some("\"0x8D1\""), None), true, true),
            (tags(Some("0x8D1"), None), true, true),
            (tags(Some("\"a\", \"0x8D1\""), None), true, true),
            (tags(Some("*"), None), true, true),
            (tags(Some("\"0x8D\""), None), false, false),
            (tags(None, Some("*")), false, false),
            (tags(None, Some("\"0x8D1\"")), false, false),
            (tags(None, Some("\"other\"")), true, true),
        ] {
            assert_eq!(conditions.check_write(&blob()).is_ok(), write, "{conditions:?}");
            assert_eq!(conditions.check_read(&blob()).is_ok(), read, "{conditions:?}");
        }
        let read = tags(None, Some("\"0x8D1\"")).check_read(&blob());
        assert!(matches!(read, Err(BlobError::NotModified)), "{read:?}");
    }

    /// HTTP dates have whole seconds: a blob modified within the second that the client saw was not modified since.
    #[test]
    fn dates_have_whole_seconds() {
        let unmodified = |at| Conditions { if_unmodified_since: Some(at), ..Conditions::default() };
        assert!(unmodified(10).check_read(&blob()).is_ok());
        assert!(unmodified(9).check_read(&blob()).is_err());
        let modified = |at| Conditions { if_modified_since: Some(at), ..Conditions::default() };
        assert!(matches!(modified(10).check_read(&blob()), Err(BlobError::NotModified)));
        assert!(modified(9).check_write(&blob()).is_ok());
    }

    #[test]
    fn sequence_numbers() {
        let test = |t| Conditions { sequence: vec![t], ..Conditions::default() }.check_write(&blob()).is_ok();
        assert!(test(SequenceTest::AtMost(7)) && !test(SequenceTest::AtMost(6)));
        assert!(test(SequenceTest::Below(8)) && !test(SequenceTest::Below(7)));
        assert!(test(SequenceTest::Exactly(7)) && !test(SequenceTest::Exactly(8)));
    }
}
