//! `api-version`: every version of valid form is accepted (one superset schema a type, design.md).

use crate::ArmError;
use std::fmt;

/// `YYYY-MM-DD` or `YYYY-MM-DD-preview`; orders by date.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApiVersion(String);

impl ApiVersion {
    /// `None`: the query had no `api-version`. Names compare without case; Azure's own words on error.
    pub fn parse(text: Option<&str>) -> Result<Self, ArmError> {
        let Some(text) = text.filter(|t| !t.is_empty()) else {
            return Err(ArmError::bad_request(
                "MissingApiVersionParameter",
                "The api-version query parameter (?api-version=) is required for all requests.",
            ));
        };
        let lower = text.to_ascii_lowercase();
        if is_version(&lower) {
            return Ok(Self(lower));
        }
        Err(ArmError::bad_request(
            "InvalidApiVersionParameter",
            format!(
                "The api-version '{text}' is invalid. It must have the form YYYY-MM-DD, optionally followed by -preview."
            ),
        ))
    }

    /// Newer than any: what the server uses on its own account.
    pub fn latest() -> Self {
        Self("9999-12-31".to_owned())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this version is `date` (`YYYY-MM-DD`) or newer.
    pub fn at_least(&self, date: &str) -> bool {
        self.0.as_str() >= date
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_version(text: &str) -> bool {
    let (date, rest) = match text.split_at_checked(10) {
        Some(parts) => parts,
        None => return false,
    };
    let suffix_ok = matches!(rest, "" | "-preview" | "-alpha" | "-beta" | "-privatepreview");
    suffix_ok && date.parse::<jiff::civil::Date>().is_ok() && date.as_bytes()[4] == b'-'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_dates_and_previews_only() {
        for good in ["2021-10-01", "2026-03-03", "2025-05-31-preview", "2014-04-01-PREVIEW"] {
            assert!(ApiVersion::parse(Some(good)).is_ok(), "{good}");
        }
        for bad in ["", "2021-13-01", "latest", "2021-10-1", "20211001", "2021-10-01x", "日本語日本語日本"] {
            assert!(ApiVersion::parse(Some(bad)).is_err(), "{bad}");
        }
        assert_eq!(ApiVersion::parse(None).unwrap_err().code, "MissingApiVersionParameter");
    }

    #[test]
    fn orders_by_date() {
        let v = ApiVersion::parse(Some("2024-03-03")).unwrap();
        assert!(v.at_least("2023-07-03") && !v.at_least("2025-03-03"));
    }
}
