//! Dates in bodies: what clients may write, and the one form in which they are shown.

use crate::ArmError;
use jiff::{Timestamp, civil, tz::TimeZone};

/// Reads a date or a date and time, with `Z`, an offset, or neither (then it is UTC), and truncates to 100 ns.
///
/// Errors: the text of Azure's catalogue for what is no date; `path` is the property below the body.
pub fn parse_time(text: &str, path: &str) -> Result<Timestamp, ArmError> {
    let trimmed = text.trim();
    let civil = || trimmed.parse::<civil::DateTime>().ok()?.to_zoned(TimeZone::UTC).ok().map(|z| z.timestamp());
    trimmed.parse::<Timestamp>().ok().or_else(civil).ok_or_else(|| {
        ArmError::bad_request(
            "InvalidParameter",
            format!("Could not convert string to DateTimeOffset: {text}. Path '{path}'."),
        )
        .target(path)
    })
}

/// `2023-12-19T09:12:25.2589211+00:00`; whole seconds have no fraction (both as recorded).
pub fn format_time(time: Timestamp) -> String {
    let utc = time.to_zoned(TimeZone::UTC).datetime();
    let ticks = utc.subsec_nanosecond() / 100;
    let seconds = utc.strftime("%Y-%m-%dT%H:%M:%S");
    if ticks == 0 { format!("{seconds}+00:00") } else { format!("{seconds}.{ticks:07}+00:00") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_the_forms_of_the_samples() {
        for (text, shown) in [
            ("2020-12-01", "2020-12-01T00:00:00+00:00"),
            ("2027-01-01T00:00:00.000Z", "2027-01-01T00:00:00+00:00"),
            ("2024-12-02T08:00:00+08:00", "2024-12-02T00:00:00+00:00"),
            ("2024-12-02T00:00:00", "2024-12-02T00:00:00+00:00"),
            ("2023-12-19T09:12:25.2589211+00:00", "2023-12-19T09:12:25.2589211+00:00"),
        ] {
            assert_eq!(format_time(parse_time(text, "p").unwrap()), shown, "{text}");
        }
        let error = parse_time("soon", "properties.endOfLifeDate").unwrap_err();
        assert_eq!(error.message, "Could not convert string to DateTimeOffset: soon. Path 'properties.endOfLifeDate'.");
    }

    proptest! {
        #[test]
        fn shown_times_read_back(ticks in 0i64..4_000_000_000) {
            let time = Timestamp::from_nanosecond(i128::from(ticks) * 1_000_000_100).unwrap();
            prop_assert_eq!(parse_time(&format_time(time), "p").unwrap(), time);
        }

        #[test]
        fn never_panics(text in "\\PC{0,40}") {
            let _ = parse_time(&text, "p");
        }
    }
}
