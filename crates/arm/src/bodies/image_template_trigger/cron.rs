//! Times of a crontab line: `minute hour day month weekday`, in UTC.
//!
//! A field is `*`, a number, a range `a-b`, a list `a,b`, each with a step `/n`. Weekdays: 0 (or 7) is Sunday. If both the day and
//! the weekday are given, either is enough, as in cron.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use std::str::FromStr;

/// How far ahead a next time is looked for: 29 February is at most eight years away.
const DAYS: i32 = 9 * 366;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    any_day: bool,
    any_weekday: bool,
}

/// Why a text is no schedule, for its author.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CronError {
    #[error("Five fields are expected: minute, hour, day, month, weekday.")]
    Fields,
    #[error("'{0}' is no {1}.")]
    Bad(String, &'static str),
    #[error("There is no such day in any year.")]
    Never,
}

impl FromStr for Schedule {
    type Err = CronError;

    fn from_str(text: &str) -> Result<Self, CronError> {
        let fields: Vec<&str> = text.split_ascii_whitespace().collect();
        let [minute, hour, day, month, weekday] = fields.as_slice() else { return Err(CronError::Fields) };
        let weekdays = field(weekday, 0, 7, "weekday (0-7)")?;
        let schedule = Self {
            minutes: field(minute, 0, 59, "minute (0-59)")?,
            hours: field(hour, 0, 23, "hour (0-23)")?,
            days: field(day, 1, 31, "day (1-31)")?,
            months: field(month, 1, 12, "month (1-12)")?,
            weekdays: weekdays | ((weekdays >> 7) & 1),
            any_day: *day == "*",
            any_weekday: *weekday == "*",
        };
        match schedule.after(Timestamp::UNIX_EPOCH) {
            Some(_) => Ok(schedule),
            None => Err(CronError::Never),
        }
    }
}

/// The numbers of a field, as bits.
fn field(text: &str, low: u8, high: u8, what: &'static str) -> Result<u64, CronError> {
    let bad = || CronError::Bad(text.to_owned(), what);
    let number = |t: &str| t.parse::<u8>().ok().filter(|n| (low..=high).contains(n)).ok_or_else(bad);
    let mut bits = 0;
    for part in text.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, step.parse::<u8>().ok().filter(|s| *s > 0).ok_or_else(bad)?),
            None => (part, 1),
        };
        let (from, to) = match range.split_once('-') {
            _ if range == "*" => (low, high),
            Some((from, to)) => (number(from)?, number(to)?),
            None if part.contains('/') => (number(range)?, high),
            None => (number(range)?, number(range)?),
        };
        if from > to {
            return Err(bad());
        }
        for n in (from..=to).step_by(usize::from(step)) {
            bits |= 1_u64 << n;
        }
    }
    Ok(bits)
}

fn has(bits: u64, n: i8) -> bool {
    u32::try_from(n).is_ok_and(|n| (bits >> n) & 1 == 1)
}

impl Schedule {
    /// The first time after another one; `None` if there is none.
    pub fn after(&self, time: Timestamp) -> Option<Timestamp> {
        let start = time.to_zoned(TimeZone::UTC).datetime();
        let mut day = start.date();
        for ahead in 0..DAYS {
            if self.is_day(day) {
                for hour in (0..24).filter(|h| has(self.hours, *h)) {
                    for minute in (0..60).filter(|m| has(self.minutes, *m)) {
                        let at: DateTime = day.at(hour, minute, 0, 0);
                        if ahead > 0 || at > start {
                            return at.to_zoned(TimeZone::UTC).ok().map(|z| z.timestamp());
                        }
                    }
                }
            }
            day = day.tomorrow().ok()?;
        }
        None
    }

    fn is_day(&self, day: jiff::civil::Date) -> bool {
        if !has(self.months, day.month()) {
            return false;
        }
        let (by_day, by_weekday) =
            (has(self.days, day.day()), has(self.weekdays, day.weekday().to_sunday_zero_offset()));
        match (self.any_day, self.any_weekday) {
            (false, false) => by_day || by_weekday,
            _ => by_day && by_weekday,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(cron: &str, after: &str) -> String {
        let schedule: Schedule = cron.parse().unwrap();
        schedule.after(after.parse().unwrap()).unwrap().to_string()
    }

    /// Expected by crontab(5); 2026-01-02 was a Friday.
    #[test]
    fn next_times() {
        for (cron, after, expected) in [
            ("0 3 * * *", "2026-01-02T03:00:00Z", "2026-01-03T03:00:00Z"),
            ("0 3 * * *", "2026-01-02T02:59:59Z", "2026-01-02T03:00:00Z"),
            ("*/15 * * * *", "2026-01-02T23:50:00Z", "2026-01-03T00:00:00Z"),
            ("0 3 * * 1", "2026-01-02T00:00:00Z", "2026-01-05T03:00:00Z"),
            ("0 0 * * 7", "2026-01-02T00:00:00Z", "2026-01-04T00:00:00Z"),
            ("30 1 1,15 * 1-5", "2026-01-03T00:00:00Z", "2026-01-05T01:30:00Z"),
            ("0 0 29 2 *", "2026-01-02T00:00:00Z", "2028-02-29T00:00:00Z"),
            ("5 4 31 12 *", "2026-12-31T04:05:00Z", "2027-12-31T04:05:00Z"),
        ] {
            assert_eq!(next(cron, after), expected, "{cron}");
        }
    }

    #[test]
    fn refuses_what_is_no_schedule() {
        for bad in ["", "* * * *", "60 * * * *", "* * 0 * *", "5-1 * * * *", "*/0 * * * *", "a * * * *", "0 0 31 2 *"] {
            assert!(bad.parse::<Schedule>().is_err(), "{bad}");
        }
    }
}
