//! Dates: ISO 8601 in, ISO 8601 or a .NET format out. Everything is UTC.

use super::{Args, Function, invalid, pure, scoped};
use crate::eval::{Eval, Evaluator, Frame, Place, error};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, Zoned};
use serde_json::Value;

pub(super) const TABLE: &[Function] = &[
    pure("dateTimeAdd", 2, 3, date_time_add),
    pure("dateTimeFromEpoch", 1, 1, date_time_from_epoch),
    pure("dateTimeToEpoch", 1, 1, date_time_to_epoch),
    scoped("utcNow", 0, 1, utc_now),
];

const ISO: &str = "yyyy-MM-ddTHH:mm:ssZ";

fn parse(f: &str, text: &str) -> Eval<Zoned> {
    let instant = text.parse::<Timestamp>().ok();
    let civil = || {
        let date_time = text.parse::<jiff::civil::DateTime>().ok()?;
        date_time.to_zoned(TimeZone::UTC).ok()
    };
    // `2020-04-07 14:53:14Z`, as `dateTimeAdd` of Azure gives it itself.
    match instant.map(|i| i.to_zoned(TimeZone::UTC)).or_else(civil) {
        Some(time) => Ok(time),
        None => invalid(f, &format!("'{text}' is not an ISO 8601 date.")),
    }
}

fn date_time_add(f: &'static str, v: Vec<Value>, _: &Evaluator<'_>) -> Eval<Value> {
    let a = Args { function: f, values: &v };
    let duration = a.str(1)?;
    let Ok(span) = duration.parse::<Span>() else {
        return invalid(f, &format!("'{duration}' is not an ISO 8601 duration such as 'P3Y' or '-PT1H30M'."));
    };
    let Ok(time) = parse(f, a.str(0)?)?.checked_add(span) else {
        return invalid(f, "The result is not a date that can be written.");
    };
    let format = if a.has(2) { a.str(2)? } else { ISO };
    written(f, &time, format).map(Value::from)
}

fn date_time_from_epoch(f: &'static str, v: Vec<Value>, _: &Evaluator<'_>) -> Eval<Value> {
    let seconds = Args { function: f, values: &v }.int(0)?;
    match Timestamp::from_second(seconds) {
        Ok(time) => written(f, &time.to_zoned(TimeZone::UTC), ISO).map(Value::from),
        Err(_) => invalid(f, "The number of seconds is outside the dates that can be written."),
    }
}

fn date_time_to_epoch(f: &'static str, v: Vec<Value>, _: &Evaluator<'_>) -> Eval<Value> {
    let text = Args { function: f, values: &v }.str(0)?;
    Ok(parse(f, text)?.timestamp().as_second().into())
}

fn utc_now(f: &str, v: Vec<Value>, e: &Evaluator<'_>, frame: &Frame<'_>) -> Eval<Value> {
    if frame.place() != Place::Default {
        return error(
            "The template function 'utcNow' is not expected at this location. It can only be used in the default value of a \
             parameter.",
        );
    }
    let a = Args { function: f, values: &v };
    let format = if a.has(0) { a.str(0)? } else { "yyyyMMddTHHmmssZ" };
    written("utcNow", &e.environment.now.to_zoned(TimeZone::UTC), format).map(Value::from)
}

/// A .NET format string: the standard letters `d`, `D`, `o`, `r`, `s`, `u`, or a pattern of its own.
fn written(f: &str, time: &Zoned, format: &str) -> Eval<String> {
    let pattern = match format {
        "d" => "M/d/yyyy",
        "D" => "dddd, MMMM d, yyyy",
        "o" | "O" => "yyyy-MM-ddTHH:mm:ss.fffffffZ",
        "r" | "R" => "ddd, dd MMM yyyy HH:mm:ss 'GMT'",
        "s" => "yyyy-MM-ddTHH:mm:ss",
        "u" => "yyyy-MM-dd HH:mm:ssZ",
        "t" => "h:mm tt",
        "T" => "h:mm:ss tt",
        "g" => "M/d/yyyy h:mm tt",
        "G" => "M/d/yyyy h:mm:ss tt",
        other => other,
    };
    let letters: Vec<char> = pattern.chars().take(200).collect();
    let mut out = String::new();
    let mut at = 0;
    while at < letters.len() {
        let letter = letters[at];
        let run = letters[at..].iter().take_while(|c| **c == letter).count();
        match letter {
            '\'' | '"' => {
                let length = letters[at + 1..].iter().take_while(|c| **c != letter).count();
                out.extend(&letters[at + 1..at + 1 + length]);
                at = (at + length + 2).min(letters.len());
                continue;
            }
            '\\' => {
                out.extend(letters.get(at + 1));
                at += 2;
                continue;
            }
            _ => match field(time, letter, run) {
                Some(text) => out.push_str(&text),
                None if letter.is_ascii_alphabetic() && !matches!(letter, 'T' | 'Z') => {
                    return invalid(
                        f,
                        &format!("The date format '{format}' is not supported: '{letter}' is not known."),
                    );
                }
                None => out.extend(&letters[at..at + run]),
            },
        }
        at += run;
    }
    Ok(out)
}

fn field(time: &Zoned, letter: char, run: usize) -> Option<String> {
    let padded = |n: i64| format!("{n:0run$}");
    let named = |short: &str, long: &str| time.strftime(if run > 3 { long } else { short }).to_string();
    Some(match letter {
        'y' if run <= 2 => padded(i64::from(time.year()) % 100),
        'y' => padded(time.year().into()),
        'M' if run > 2 => named("%b", "%B"),
        'M' => padded(time.month().into()),
        'd' if run > 2 => named("%a", "%A"),
        'd' => padded(time.day().into()),
        'H' => padded(time.hour().into()),
        'h' => padded(i64::from(time.hour() + 11) % 12 + 1),
        'm' => padded(time.minute().into()),
        's' => padded(time.second().into()),
        't' => time.strftime("%p").to_string().chars().take(run).collect(),
        'f' | 'F' if run <= 7 => {
            let digits: String = format!("{:09}", time.subsec_nanosecond()).chars().take(run).collect();
            if letter == 'F' { digits.trim_end_matches('0').to_owned() } else { digits }
        }
        'z' if run == 3 => "+00:00".into(),
        'z' => padded(0).replacen('0', "+0", 1),
        'K' => "Z".into(),
        _ => return None,
    })
}
