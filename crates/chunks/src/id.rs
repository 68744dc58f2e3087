//! Names of what is stored. Every blob is named by BLAKE3 of its plain bytes; the three kinds have
//! separate domains, so that no disk's content can pass for a segment or a manifest.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What a blob in a pack is. The discriminants are part of the pack and index formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum BlobKind {
    /// Bytes of a disk.
    Chunk = 0,
    /// The extents of 64 MiB of a disk.
    Segment = 1,
    /// A disk: its size and its segments. Its id is the [`ManifestId`].
    Root = 2,
}

impl BlobKind {
    pub(crate) fn from_u8(value: u8) -> Option<Self> {
        match value {
            0 => Some(Self::Chunk),
            1 => Some(Self::Segment),
            2 => Some(Self::Root),
            _ => None,
        }
    }

    /// The id of `plain` as a blob of this kind.
    pub(crate) fn id_of(self, plain: &[u8]) -> ChunkId {
        let hash = match self {
            Self::Chunk => *blake3::hash(plain).as_bytes(),
            Self::Segment => blake3::derive_key("lazuli chunks segment v1", plain),
            Self::Root => blake3::derive_key("lazuli chunks root v1", plain),
        };
        ChunkId(hash)
    }
}

/// BLAKE3 of a blob's plain bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChunkId(pub [u8; 32]);

/// Names one disk image by its whole content: the same disk has the same id in every region.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ManifestId(pub [u8; 32]);

impl ManifestId {
    pub(crate) fn as_blob(self) -> ChunkId {
        ChunkId(self.0)
    }
}

/// Not 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an id is 64 hexadecimal digits")]
pub struct ParseIdError;

macro_rules! hex_id {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(s: &str) -> Result<Self, ParseIdError> {
                let mut bytes = [0; 32];
                hex::decode_to_slice(s, &mut bytes).map_err(|_| ParseIdError)?;
                Ok(Self(bytes))
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
hex_id!(ChunkId);
hex_id!(ManifestId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip_as_text_and_json() {
        let id = ManifestId(*blake3::hash(b"x").as_bytes());
        assert_eq!(id.to_string().parse::<ManifestId>(), Ok(id));
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(json, format!("\"{id}\""));
        assert_eq!(serde_json::from_str::<ManifestId>(&json).unwrap(), id);
        assert_eq!("12".parse::<ManifestId>(), Err(ParseIdError));
        assert!(serde_json::from_str::<ManifestId>("\"zz\"").is_err());
    }

    #[test]
    fn kinds_have_separate_domains() {
        let kinds = [BlobKind::Chunk, BlobKind::Segment, BlobKind::Root];
        for a in kinds {
            for b in kinds {
                assert_eq!(a.id_of(b"same") == b.id_of(b"same"), a == b);
            }
        }
    }
}
