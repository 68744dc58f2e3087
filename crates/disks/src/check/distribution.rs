//! Until when a guest's distribution gets security updates (BY-0).
//!
//! Dates are those of free, public updates (Debian: with LTS). Sources, read in November 2026: Debian and Ubuntu from the package
//! distro-info-data (debian.csv, column eol-lts; ubuntu.csv, column eol), <https://www.centos.org/cl-vs-cs/#end-of-life>,
//! <https://access.redhat.com/support/policy/updates/errata>, <https://wiki.almalinux.org/release-notes/>,
//! <https://wiki.rockylinux.org/rocky/version/>. A version that is not listed is not judged.

use super::report::{Findings, Os};

/// A day: year, month, day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Date(pub i16, pub u8, pub u8);

impl Date {
    /// The day (UTC) of seconds since 1970-01-01.
    #[must_use]
    pub fn of_unix(seconds: i64) -> Self {
        // Days to civil, by eras of 400 years that begin in March.
        let days = seconds.div_euclid(86_400) + 719_468;
        let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
        let year_of_era = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
        let day_of_year = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted + 2) / 5 + 1;
        let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
        let year = era * 400 + year_of_era + i64::from(month <= 2);
        let small = |n: i64| u8::try_from(n).unwrap_or(1);
        Self(i16::try_from(year).unwrap_or(i16::MAX), small(month), small(day))
    }
}

impl std::fmt::Display for Date {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.0, self.1, self.2)
    }
}

/// `ID` and `VERSION_ID` of os-release (of others than Debian and Ubuntu only the part before the dot), the last day.
const ENDS: [(&str, &str, Date); 35] = [
    ("debian", "8", Date(2020, 6, 30)),
    ("debian", "9", Date(2022, 6, 30)),
    ("debian", "10", Date(2024, 6, 30)),
    ("debian", "11", Date(2026, 8, 31)),
    ("debian", "12", Date(2028, 6, 30)),
    ("debian", "13", Date(2030, 6, 30)),
    ("ubuntu", "14.04", Date(2019, 4, 25)),
    ("ubuntu", "16.04", Date(2021, 4, 30)),
    ("ubuntu", "18.04", Date(2023, 5, 31)),
    ("ubuntu", "20.04", Date(2025, 5, 29)),
    ("ubuntu", "22.04", Date(2027, 6, 1)),
    ("ubuntu", "23.04", Date(2024, 1, 25)),
    ("ubuntu", "23.10", Date(2024, 7, 11)),
    ("ubuntu", "24.04", Date(2029, 5, 31)),
    ("ubuntu", "24.10", Date(2025, 7, 10)),
    ("ubuntu", "25.04", Date(2026, 1, 15)),
    ("ubuntu", "25.10", Date(2026, 7, 9)),
    ("ubuntu", "26.04", Date(2031, 5, 29)),
    ("centos", "6", Date(2020, 11, 30)),
    ("centos", "7", Date(2024, 6, 30)),
    // CentOS Linux 8; CentOS Stream has the same ids.
    ("centos linux", "8", Date(2021, 12, 31)),
    ("centos stream", "8", Date(2024, 5, 31)),
    ("centos stream", "9", Date(2027, 5, 31)),
    ("rhel", "6", Date(2020, 11, 30)),
    ("rhel", "7", Date(2024, 6, 30)),
    ("rhel", "8", Date(2029, 5, 31)),
    ("rhel", "9", Date(2032, 5, 31)),
    ("rhel", "10", Date(2035, 5, 31)),
    ("rocky", "8", Date(2029, 5, 31)),
    ("rocky", "9", Date(2032, 5, 31)),
    ("rocky", "10", Date(2035, 5, 31)),
    ("almalinux", "8", Date(2029, 3, 1)),
    ("almalinux", "9", Date(2032, 5, 31)),
    ("almalinux", "10", Date(2035, 5, 31)),
    ("ol", "7", Date(2024, 12, 31)),
];

/// The last day with updates, if it is known.
pub(super) fn end_of_life(os: &Os) -> Option<Date> {
    let exact = matches!(os.id.as_str(), "debian" | "ubuntu");
    let version = if exact { os.version.as_str() } else { os.version.split('.').next().unwrap_or_default() };
    let id = match os.id.as_str() {
        "centos" if os.name.starts_with("CentOS Stream") => "centos stream",
        "centos" if version == "8" => "centos linux",
        other => other,
    };
    ENDS.iter().find(|(of, v, _)| *of == id && *v == version).map(|(_, _, end)| *end)
}

pub(super) fn check(os: Option<&Os>, today: Date, found: &mut Findings) {
    let Some(os) = os else {
        found.info("distribution", "the system does not say which distribution it is (no os-release)", "");
        return;
    };
    match end_of_life(os) {
        Some(end) if end < today => found.warning(
            "end-of-life",
            format!("{} is out of support: its security updates ended on {end}", os.name),
            "plan the move to a release that is maintained",
        ),
        Some(end) => found.info("end-of-life", format!("{} gets security updates until {end}", os.name), ""),
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn os(id: &str, version: &str, name: &str) -> Os {
        Os { id: id.into(), version: version.into(), name: name.into() }
    }

    #[test]
    fn days_are_counted_as_calendars_do() {
        assert_eq!(Date::of_unix(0), Date(1970, 1, 1));
        assert_eq!(Date::of_unix(951_782_400), Date(2000, 2, 29));
        assert_eq!(Date::of_unix(1_798_675_200).to_string(), "2026-12-31");
        assert_eq!(Date::of_unix(-1), Date(1969, 12, 31));
    }

    #[test]
    fn by_0_ends_of_life_are_known_by_release() {
        let end = |id, version, name| end_of_life(&os(id, version, name));
        assert_eq!(end("debian", "12", "Debian GNU/Linux 12 (bookworm)"), Some(Date(2028, 6, 30)));
        assert_eq!(end("centos", "7", "CentOS Linux 7 (Core)"), Some(Date(2024, 6, 30)));
        assert_eq!(end("centos", "8", "CentOS Linux 8"), Some(Date(2021, 12, 31)));
        assert_eq!(end("centos", "8", "CentOS Stream 8"), Some(Date(2024, 5, 31)));
        assert_eq!(end("rhel", "9.4", "Red Hat Enterprise Linux 9.4 (Plow)"), Some(Date(2032, 5, 31)));
        assert_eq!(end("ubuntu", "22", ""), None);
    }
}
