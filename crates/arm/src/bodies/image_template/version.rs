//! The number of the version that a build publishes.

use super::Versioning;
use crate::bodies::image_version::VersionName;

/// The greatest number that a part of a version may be.
const MAX: u32 = i32::MAX.unsigned_abs();

/// The number of the next version, given those that are there.
///
/// | scheme | there are | next |
/// |---|---|---|
/// | Latest | none | 1.0.0, or the first of the major version |
/// | Latest | 0.1.1 … 2.1.0 | 2.1.1; major 1 → 1.2.1 after 1.2.0; major 0 → 0.1.3 after 0.1.2 |
/// | Source | not the source's | the source's |
/// | Source | the source's | after the highest of the same major and minor version |
///
/// (wire.md §4.) `None`: the scheme asks for a source's version and it has none, or there is no number left.
pub fn next_version(existing: &[VersionName], scheme: Versioning, source: Option<VersionName>) -> Option<VersionName> {
    match scheme {
        Versioning::Latest { major } => {
            let highest = existing.iter().filter(|v| major.is_none_or(|m| v.major == m)).max();
            match (highest, major) {
                (Some(highest), major) => after(*highest, major.is_some()),
                (None, None) => Some(VersionName { major: 1, minor: 0, patch: 0 }),
                // 0.0.0 is no version that anybody publishes.
                (None, Some(0)) => Some(VersionName { major: 0, minor: 0, patch: 1 }),
                (None, Some(major)) => Some(VersionName { major, minor: 0, patch: 0 }),
            }
        }
        Versioning::Source => {
            let source = source?;
            if !existing.contains(&source) {
                return Some(source);
            }
            let near = existing.iter().filter(|v| (v.major, v.minor) == (source.major, source.minor));
            let highest = near.max()?;
            (highest.patch < MAX).then(|| VersionName { patch: highest.patch + 1, ..*highest })
        }
    }
}

/// The next number; where a part is at its end, the part before it goes on.
fn after(version: VersionName, keep_major: bool) -> Option<VersionName> {
    let VersionName { major, minor, patch } = version;
    if patch < MAX {
        return Some(VersionName { major, minor, patch: patch + 1 });
    }
    if minor < MAX {
        return Some(VersionName { major, minor: minor + 1, patch: 0 });
    }
    (!keep_major && major < MAX).then(|| VersionName { major: major + 1, minor: 0, patch: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn versions(texts: &[&str]) -> Vec<VersionName> {
        texts.iter().map(|t| t.parse().unwrap()).collect()
    }

    fn next(existing: &[&str], scheme: Versioning, source: &str) -> Option<String> {
        next_version(&versions(existing), scheme, source.parse().ok()).map(|v| v.to_string())
    }

    /// The example of the documentation (wire.md §4).
    #[test]
    fn latest_counts_on_from_the_highest() {
        let there = ["0.1.1", "0.1.2", "1.0.0", "1.1.0", "1.2.0", "2.0.0", "2.1.0"];
        let latest = |major| next(&there, Versioning::Latest { major }, "");
        assert_eq!(latest(None).as_deref(), Some("2.1.1"));
        assert_eq!(latest(Some(2)).as_deref(), Some("2.1.1"));
        assert_eq!(latest(Some(1)).as_deref(), Some("1.2.1"));
        assert_eq!(latest(Some(0)).as_deref(), Some("0.1.3"));
        assert_eq!(latest(Some(3)).as_deref(), Some("3.0.0"));
        let first = |major| next(&[], Versioning::Latest { major }, "");
        assert_eq!((first(None).as_deref(), first(Some(0)).as_deref()), (Some("1.0.0"), Some("0.0.1")));
        let full = ["1.0.2147483647"];
        assert_eq!(next(&full, Versioning::Latest { major: None }, "").as_deref(), Some("1.1.0"));
    }

    #[test]
    fn source_takes_the_number_of_the_source_while_it_is_free() {
        let of = |existing: &[&str]| next(existing, Versioning::Source, "18.4.7");
        assert_eq!(of(&[]).as_deref(), Some("18.4.7"));
        assert_eq!(of(&["18.4.7", "18.4.6", "19.0.0"]).as_deref(), Some("18.4.8"));
        assert_eq!(of(&["18.4.7", "18.4.11"]).as_deref(), Some("18.4.12"));
        assert_eq!(next(&["1.0.0"], Versioning::Source, "no number"), None);
    }

    proptest! {
        #[test]
        fn the_next_is_new(parts in prop::collection::vec(prop::array::uniform3(0u32..4), 0..12), source in prop::array::uniform3(0u32..4), pick in 0u8..4) {
            let name = |[major, minor, patch]: [u32; 3]| VersionName { major, minor, patch };
            let existing: Vec<VersionName> = parts.into_iter().map(name).collect();
            let scheme = match pick {
                0 => Versioning::Source,
                1 => Versioning::Latest { major: None },
                n => Versioning::Latest { major: Some(u32::from(n)) },
            };
            let next = next_version(&existing, scheme, Some(name(source))).unwrap();
            prop_assert!(!existing.contains(&next));
            if let Versioning::Latest { major } = scheme {
                let above = existing.iter().filter(|v| major.is_none_or(|m| v.major == m));
                prop_assert!(above.into_iter().all(|v| *v < next));
            }
        }
    }
}
