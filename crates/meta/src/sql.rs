//! Statements with their arguments, and rows read by position: the one shape that both databases share.

use std::borrow::Cow;

use serde_json::Value;
use sqlx::Row as _;

use crate::error::MetaError;

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Arg {
    Text(String),
    OptText(Option<String>),
    Int(i64),
    OptInt(Option<i64>),
}

/// A statement and what is bound to `$1`, `$2`, …. The text never contains anything a client wrote.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sql {
    pub(crate) text: Cow<'static, str>,
    pub(crate) args: Vec<Arg>,
}

pub(crate) fn sql(text: impl Into<Cow<'static, str>>) -> Sql {
    Sql { text: text.into(), args: Vec::new() }
}

impl Sql {
    pub(crate) fn text(mut self, value: impl Into<String>) -> Self {
        self.args.push(Arg::Text(value.into()));
        self
    }

    pub(crate) fn opt_text(mut self, value: Option<&str>) -> Self {
        self.args.push(Arg::OptText(value.map(str::to_owned)));
        self
    }

    pub(crate) fn int(mut self, value: i64) -> Self {
        self.args.push(Arg::Int(value));
        self
    }

    pub(crate) fn opt_int(mut self, value: Option<i64>) -> Self {
        self.args.push(Arg::OptInt(value));
        self
    }

    pub(crate) fn json(self, value: &Value) -> Self {
        self.text(value.to_string())
    }

    pub(crate) fn opt_json(mut self, value: Option<&Value>) -> Self {
        self.args.push(Arg::OptText(value.map(Value::to_string)));
        self
    }

    /// PostgreSQL cannot hold a zero character in text: refused for both, so that they agree.
    pub(crate) fn check(&self) -> Result<(), MetaError> {
        let has_zero = self.args.iter().any(|arg| match arg {
            Arg::Text(text) | Arg::OptText(Some(text)) => text.contains('\0'),
            _ => false,
        });
        if has_zero {
            return Err(MetaError::Invalid("text with a zero character cannot be stored".to_owned()));
        }
        Ok(())
    }
}

/// A `SELECT` put together from fixed fragments; only arguments vary.
#[derive(Debug)]
pub(crate) struct Select {
    text: String,
    args: Vec<Arg>,
    has_where: bool,
}

impl Select {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), args: Vec::new(), has_where: false }
    }

    /// Adds a condition. `?` in `condition` stands for the arguments, in order.
    pub(crate) fn and(&mut self, condition: &'static str, args: impl IntoIterator<Item = Arg>) {
        self.text.push_str(if self.has_where { " AND " } else { " WHERE " });
        self.has_where = true;
        let mut args = args.into_iter();
        for part in condition.split_inclusive('?') {
            if let Some(before) = part.strip_suffix('?') {
                self.args.extend(args.next());
                self.text.push_str(before);
                self.text.push_str(&format!("${}", self.args.len()));
            } else {
                self.text.push_str(part);
            }
        }
    }

    pub(crate) fn and_text(&mut self, condition: &'static str, value: Option<&String>) {
        if let Some(value) = value {
            self.and(condition, [Arg::Text(value.clone())]);
        }
    }

    /// Rows whose `column` lies below `key` in the tree of ids. Both comparisons are byte-wise, and `0` follows `/`.
    pub(crate) fn and_below(&mut self, condition: &'static str, key: Option<&String>) {
        if let Some(key) = key {
            self.and(condition, [Arg::Text(format!("{key}/")), Arg::Text(format!("{key}0"))]);
        }
    }

    /// Rows whose `column` begins with `prefix`, compared byte by byte. `condition`: `column >= ? AND column < ?`.
    pub(crate) fn and_prefix(&mut self, condition: [&'static str; 2], prefix: Option<&String>) {
        if let Some(prefix) = prefix.filter(|p| !p.is_empty()) {
            self.and(condition[0], [Arg::Text(prefix.clone())]);
            if let Some(next) = after_prefix(prefix) {
                self.and(condition[1], [Arg::Text(next)]);
            }
        }
    }

    pub(crate) fn end(mut self, order: &'static str, limit: i64) -> Sql {
        self.args.push(Arg::Int(limit));
        let text = format!("{} ORDER BY {order} LIMIT ${}", self.text, self.args.len());
        Sql { text: text.into(), args: self.args }
    }
}

/// The first text, byte by byte, after all that begin with `prefix`; `None`: there is none.
pub(crate) fn after_prefix(prefix: &str) -> Option<String> {
    let mut chars: Vec<char> = prefix.chars().collect();
    while let Some(last) = chars.pop() {
        // UTF-8 sorts as its characters do; what lies between is no character.
        let next = (u32::from(last) + 1..=u32::from(char::MAX)).find_map(char::from_u32);
        if let Some(next) = next {
            chars.push(next);
            return Some(chars.into_iter().collect());
        }
    }
    None
}

#[derive(Debug)]
pub(crate) enum Row {
    Sqlite(sqlx::sqlite::SqliteRow),
    Postgres(sqlx::postgres::PgRow),
}

macro_rules! column {
    ($row:expr, $index:expr) => {
        match $row {
            Row::Sqlite(row) => row.try_get($index),
            Row::Postgres(row) => row.try_get($index),
        }
        .map_err(MetaError::from)
    };
}

impl Row {
    pub(crate) fn text(&self, index: usize) -> Result<String, MetaError> {
        column!(self, index)
    }

    pub(crate) fn opt_text(&self, index: usize) -> Result<Option<String>, MetaError> {
        column!(self, index)
    }

    pub(crate) fn int(&self, index: usize) -> Result<i64, MetaError> {
        column!(self, index)
    }

    pub(crate) fn opt_int(&self, index: usize) -> Result<Option<i64>, MetaError> {
        column!(self, index)
    }

    pub(crate) fn json(&self, table: &'static str, index: usize) -> Result<Value, MetaError> {
        parse(table, &self.text(index)?)
    }

    pub(crate) fn opt_json(&self, table: &'static str, index: usize) -> Result<Option<Value>, MetaError> {
        self.opt_text(index)?.map(|text| parse(table, &text)).transpose()
    }
}

fn parse(table: &'static str, text: &str) -> Result<Value, MetaError> {
    serde_json::from_str(text).map_err(|error| MetaError::Row { table, detail: format!("not JSON: {error}") })
}

#[cfg(test)]
mod tests {
    use super::{Arg, Select, after_prefix};

    #[test]
    fn what_follows_a_prefix() {
        for (prefix, next) in [("a", Some("b")), ("a/", Some("a0")), ("a\u{d7ff}", Some("a\u{e000}")), ("", None)] {
            assert_eq!(after_prefix(prefix).as_deref(), next, "{prefix}");
        }
        assert_eq!(after_prefix("a\u{10ffff}").as_deref(), Some("b"));
        assert_eq!(after_prefix("\u{10ffff}"), None);
    }

    #[test]
    fn a_select_numbers_its_arguments() {
        let mut select = Select::new("SELECT a FROM t");
        select.and_text("a = ?", None);
        select.and("(b < ? OR (b = ? AND c < ?))", [Arg::Int(1), Arg::Int(2), Arg::Int(3)]);
        select.and_below("k > ? AND k < ?", Some(&"/x".to_owned()));
        let sql = select.end("a", 9);
        assert_eq!(
            sql.text,
            "SELECT a FROM t WHERE (b < $1 OR (b = $2 AND c < $3)) AND k > $4 AND k < $5 ORDER BY a LIMIT $6"
        );
        let text = |text: &str| Arg::Text(text.to_owned());
        assert_eq!(sql.args, [Arg::Int(1), Arg::Int(2), Arg::Int(3), text("/x/"), text("/x0"), Arg::Int(9)]);
    }
}
