//! `format('{0}-{1:D3}', …)`: .NET's composite formatting, as far as templates use it.

use super::{Args, Function, MANY, invalid, pure, text_of};
use crate::eval::{Eval, Evaluator};
use serde_json::Value;

pub(super) const TABLE: &[Function] = &[pure("format", 1, MANY, format)];

/// Widths and precisions beyond this are a mistake.
const MAX_WIDTH: usize = 1000;

fn format(f: &'static str, v: Vec<Value>, e: &Evaluator<'_>) -> Eval<Value> {
    let pattern = Args { function: f, values: &v }.str(0)?;
    let mut out = String::new();
    let mut rest = pattern;
    while let Some(at) = rest.find(['{', '}']) {
        out.push_str(&rest[..at]);
        let brace = &rest[at..=at];
        rest = &rest[at + 1..];
        if rest.starts_with(brace) {
            out.push_str(brace);
            rest = &rest[1..];
            continue;
        }
        let Some((item, after)) = rest.split_once('}').filter(|_| brace == "{") else {
            return invalid(f, "The format string has a brace without its partner.");
        };
        let text = one(f, item, &v[1..])?;
        e.charge_text(text.len())?;
        out.push_str(&text);
        rest = after;
    }
    out.push_str(rest);
    Ok(out.into())
}

/// `index[,width][:format]`
fn one(f: &str, item: &str, values: &[Value]) -> Eval<String> {
    let (head, style) = item.split_once(':').unwrap_or((item, ""));
    let (index, width) = head.split_once(',').unwrap_or((head, "0"));
    let value = index.trim().parse::<usize>().ok().and_then(|i| values.get(i));
    let width = width.trim().parse::<isize>().ok().filter(|w| w.unsigned_abs() <= MAX_WIDTH);
    let (Some(value), Some(width)) = (value, width) else {
        return invalid(
            f,
            "Index (zero based) must be greater than or equal to zero and less than the size of the argument list.",
        );
    };
    let text = if style.is_empty() { text_of(value) } else { styled(f, value, style)? };
    let missing = " ".repeat(width.unsigned_abs().saturating_sub(text.chars().count()));
    Ok(if width < 0 { text + &missing } else { missing + &text })
}

fn styled(f: &str, value: &Value, style: &str) -> Eval<String> {
    let Some(number) = value.as_i64() else { return Ok(text_of(value)) };
    let letter = style.chars().next().unwrap_or_default();
    let digits = match &style[letter.len_utf8()..] {
        "" => Some(None),
        text => text.parse::<usize>().ok().filter(|d| *d <= MAX_WIDTH).map(Some),
    };
    let signed = |text: String| if number < 0 { format!("-{text}") } else { text };
    let decimals = |text: String, default: usize, given: Option<usize>| match given.unwrap_or(default) {
        0 => text,
        n => format!("{text}.{}", "0".repeat(n)),
    };
    let plain = number.unsigned_abs().to_string();
    match (letter.to_ascii_uppercase(), digits) {
        ('D', Some(d)) => Ok(signed(format!("{plain:0>width$}", width = d.unwrap_or(0)))),
        ('N', Some(d)) => Ok(signed(decimals(grouped(&plain), 2, d))),
        ('F', Some(d)) => Ok(signed(decimals(plain, 2, d))),
        ('G', Some(_)) => Ok(signed(plain)),
        ('X', Some(d)) if letter == 'X' => Ok(format!("{number:0>width$X}", width = d.unwrap_or(0))),
        ('X', Some(d)) => Ok(format!("{number:0>width$x}", width = d.unwrap_or(0))),
        _ if style.chars().all(|c| c == '0') => {
            Ok(signed(format!("{plain:0>width$}", width = style.len().min(MAX_WIDTH))))
        }
        _ => invalid(f, &format!("The format '{style}' is not supported. D, F, G, N, X and zeros are.")),
    }
}

/// `1234567` is `1,234,567`.
fn grouped(digits: &str) -> String {
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
