//! Names of versions: `Major.Minor.Patch`, ordered as numbers (IV-2).

use crate::ArmError;
use std::fmt;
use std::str::FromStr;

/// Orders numerically: 1.0.10 comes after 1.0.9. Leading zeros are accepted as Azure does; the name is shown as it was
/// written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VersionName {
    pub major: u32,
    pub minor: u32,
    pub patch: u32,
}

impl FromStr for VersionName {
    type Err = ArmError;

    fn from_str(text: &str) -> Result<Self, ArmError> {
        let part = |p: &str| {
            let digits = !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| p.parse::<u32>().ok()).flatten().filter(|n| i32::try_from(*n).is_ok())
        };
        let parts: Option<Vec<u32>> = text.split('.').map(part).collect();
        match parts.as_deref() {
            Some([major, minor, patch]) => Ok(Self { major: *major, minor: *minor, patch: *patch }),
            _ => Err(ArmError::invalid_parameter(
                "galleryImageVersionName",
                "The image version name is invalid. The image version name should follow Major(int).Minor(int).Patch(int) \
                 format, for e.g: 1.0.0, 2018.12.1 etc.",
            )),
        }
    }
}

impl VersionName {
    /// Texts that order byte by byte as the names do by number.
    pub fn sort_text(self) -> String {
        format!("{:010}.{:010}.{:010}", self.major, self.minor, self.patch)
    }
}

/// The numbers of a name, if it is one.
pub fn parse_name(text: &str) -> Option<VersionName> {
    text.parse().ok()
}

impl fmt::Display for VersionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn refuses_what_is_no_version() {
        for bad in ["1.0", "1.0.0.0", "", "latest", "1.0.a", "1..0", "+1.0.0", "-1.0.0", "1.0.2147483648", "1.0.0 "] {
            let error = bad.parse::<VersionName>().unwrap_err();
            assert!(error.message.starts_with("The image version name is invalid."), "{bad}");
        }
        assert!("2018.12.01".parse::<VersionName>().is_ok());
    }

    proptest! {
        #[test]
        fn round_trips_and_orders_as_numbers(a in prop::array::uniform3(0u32..=0x7fff_ffff), b in prop::array::uniform3(0u32..20)) {
            let name = |[major, minor, patch]: [u32; 3]| VersionName { major, minor, patch };
            prop_assert_eq!(name(a).to_string().parse::<VersionName>().unwrap(), name(a));
            prop_assert_eq!(name(a).cmp(&name(b)), a.cmp(&b));
            prop_assert_eq!(name(a).sort_text().cmp(&name(b).sort_text()), a.cmp(&b));
        }

        #[test]
        fn accepts_only_three_numbers(text in "[0-9.]{0,16}") {
            let expected = text.split('.').count() == 3
                && text.split('.').all(|p| p.parse::<i32>().is_ok());
            prop_assert_eq!(text.parse::<VersionName>().is_ok(), expected);
        }
    }
}
