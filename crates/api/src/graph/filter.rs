//! `$filter` of OData, as far as clients of the directory use it.
//!
//! ```text
//! filter   and | or | not | (…)
//! terms    path eq|ne|gt|ge|lt|le literal,  path in (literal, …),  startswith(path,'x'),  endswith(path,'x'),
//!          path/any(v:filter on v),  path/any(),  path/$count eq n is refused
//! literal  'it''s', true, false, null, a number, a time as it is
//! ```
//!
//! Texts are compared without case, as Graph does. A property that the objects do not have is an error, not "no".

use serde_json::Value;

/// A filter that was understood.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Filter {
    And(Box<Filter>, Box<Filter>),
    Or(Box<Filter>, Box<Filter>),
    Not(Box<Filter>),
    Compare(Vec<String>, Comparison, Literal),
    In(Vec<String>, Vec<Literal>),
    StartsWith(Vec<String>, String),
    EndsWith(Vec<String>, String),
    Any(Vec<String>, Option<(String, Box<Filter>)>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Literal {
    Text(String),
    Bool(bool),
    Number(f64),
    Null,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum FilterError {
    #[error("Invalid filter clause: {0}")]
    Syntax(String),
    #[error("Could not find a property named '{0}'.")]
    Property(String),
}

/// Deeper ones are written by nobody.
const MAX_DEPTH: usize = 32;

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    Text(String),
    Open,
    Close,
    Comma,
    Colon,
    Slash,
}

fn syntax(why: impl Into<String>) -> FilterError {
    FilterError::Syntax(why.into())
}

fn tokens(text: &str) -> Result<Vec<Token>, FilterError> {
    let mut found = Vec::new();
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        let token = match c {
            c if c.is_whitespace() => continue,
            '(' => Token::Open,
            ')' => Token::Close,
            ',' => Token::Comma,
            '/' => Token::Slash,
            ':' => Token::Colon,
            '\'' => {
                let mut inner = String::new();
                loop {
                    match rest.next() {
                        // Two of them stand for one.
                        Some('\'') if rest.peek() == Some(&'\'') => {
                            inner.push('\'');
                            rest.next();
                        }
                        Some('\'') => break,
                        Some(c) => inner.push(c),
                        None => return Err(syntax("a text has no end.")),
                    }
                }
                Token::Text(inner)
            }
            c if is_plain(c) => {
                let mut word = String::from(c);
                // Times hold colons, where names do not.
                let is_number = c.is_ascii_digit();
                while let Some(next) = rest.next_if(|n| is_plain(*n) || is_number && *n == ':') {
                    word.push(next);
                }
                Token::Word(word)
            }
            other => return Err(syntax(format!("unexpected '{other}'."))),
        };
        found.push(token);
    }
    Ok(found)
}

fn is_plain(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '$' | '@' | '+')
}

impl Filter {
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        let mut reader = Reader { tokens: tokens(text)?, at: 0, depth: 0 };
        let filter = reader.or()?;
        if reader.at < reader.tokens.len() {
            return Err(syntax("something follows where nothing can."));
        }
        Ok(filter)
    }

    /// Whether an object fits.
    pub fn fits(&self, object: &Value) -> Result<bool, FilterError> {
        self.fits_in(object, None)
    }

    /// `bound`: the variable of the surrounding `any`.
    fn fits_in(&self, object: &Value, bound: Option<(&str, &Value)>) -> Result<bool, FilterError> {
        Ok(match self {
            Self::And(a, b) => a.fits_in(object, bound)? && b.fits_in(object, bound)?,
            Self::Or(a, b) => a.fits_in(object, bound)? || b.fits_in(object, bound)?,
            Self::Not(inner) => !inner.fits_in(object, bound)?,
            Self::Compare(path, how, literal) => how.holds(value(object, bound, path)?, literal),
            Self::In(path, literals) => {
                let value = value(object, bound, path)?;
                literals.iter().any(|literal| Comparison::Equal.holds(value, literal))
            }
            Self::StartsWith(path, text) => {
                value(object, bound, path)?.as_str().is_some_and(|v| v.to_lowercase().starts_with(&text.to_lowercase()))
            }
            Self::EndsWith(path, text) => {
                value(object, bound, path)?.as_str().is_some_and(|v| v.to_lowercase().ends_with(&text.to_lowercase()))
            }
            Self::Any(path, inner) => {
                let items = value(object, bound, path)?.as_array().map_or(&[][..], Vec::as_slice);
                match inner {
                    None => !items.is_empty(),
                    Some((name, filter)) => {
                        for item in items {
                            if filter.fits_in(object, Some((name, item)))? {
                                return Ok(true);
                            }
                        }
                        false
                    }
                }
            }
        })
    }
}

/// The value at a path; null below what is null or has no such field.
fn value<'a>(object: &'a Value, bound: Option<(&str, &'a Value)>, path: &[String]) -> Result<&'a Value, FilterError> {
    let (first, rest) = path.split_first().ok_or_else(|| syntax("a name is missing."))?;
    let mut found = match bound {
        Some((name, item)) if name == first => item,
        _ => object.get(first).ok_or_else(|| FilterError::Property(first.clone()))?,
    };
    for name in rest {
        found = found.get(name).unwrap_or(&Value::Null);
    }
    Ok(found)
}

impl Comparison {
    fn of(word: &str) -> Option<Self> {
        Some(match word {
            "eq" => Self::Equal,
            "ne" => Self::NotEqual,
            "gt" => Self::Greater,
            "ge" => Self::GreaterOrEqual,
            "lt" => Self::Less,
            "le" => Self::LessOrEqual,
            _ => return None,
        })
    }

    fn holds(self, value: &Value, literal: &Literal) -> bool {
        let order = match (value, literal) {
            (Value::String(a), Literal::Text(b)) => Some(a.to_lowercase().cmp(&b.to_lowercase())),
            (Value::Bool(a), Literal::Bool(b)) => Some(a.cmp(b)),
            (Value::Number(a), Literal::Number(b)) => a.as_f64().and_then(|a| a.partial_cmp(b)),
            (Value::Null, Literal::Null) => Some(std::cmp::Ordering::Equal),
            _ => None,
        };
        match self {
            Self::Equal => order.is_some_and(|o| o.is_eq()),
            Self::NotEqual => !order.is_some_and(|o| o.is_eq()),
            Self::Greater => order.is_some_and(|o| o.is_gt()),
            Self::GreaterOrEqual => order.is_some_and(|o| o.is_ge()),
            Self::Less => order.is_some_and(|o| o.is_lt()),
            Self::LessOrEqual => order.is_some_and(|o| o.is_le()),
        }
    }
}

struct Reader {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
}

impl Reader {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn is_word(&self, word: &str) -> bool {
        matches!(self.peek(), Some(Token::Word(w)) if w == word)
    }

    fn take(&mut self, token: &Token) -> bool {
        let there = self.peek() == Some(token);
        self.at += usize::from(there);
        there
    }

    fn require(&mut self, token: &Token, shown: &str) -> Result<(), FilterError> {
        if self.take(token) { Ok(()) } else { Err(syntax(format!("'{shown}' is missing."))) }
    }

    fn word(&mut self) -> Result<String, FilterError> {
        let Some(Token::Word(word)) = self.peek().cloned() else { return Err(syntax("a name is missing.")) };
        self.at += 1;
        Ok(word)
    }

    fn or(&mut self) -> Result<Filter, FilterError> {
        let mut left = self.and()?;
        while self.is_word("or") {
            self.at += 1;
            left = Filter::Or(Box::new(left), Box::new(self.and()?));
        }
        Ok(left)
    }

    fn and(&mut self) -> Result<Filter, FilterError> {
        let mut left = self.unary()?;
        while self.is_word("and") {
            self.at += 1;
            left = Filter::And(Box::new(left), Box::new(self.unary()?));
        }
        Ok(left)
    }

    fn unary(&mut self) -> Result<Filter, FilterError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(syntax("it is nested too deeply."));
        }
        let found = self.unary_at_depth();
        self.depth -= 1;
        found
    }

    fn unary_at_depth(&mut self) -> Result<Filter, FilterError> {
        if self.is_word("not") {
            self.at += 1;
            return Ok(Filter::Not(Box::new(self.unary()?)));
        }
        if self.take(&Token::Open) {
            let inner = self.or()?;
            self.require(&Token::Close, ")")?;
            return Ok(inner);
        }
        let first = self.word()?;
        if self.take(&Token::Open) {
            return self.function(&first);
        }
        let mut path = vec![first];
        while self.take(&Token::Slash) {
            let name = self.word()?;
            if name == "any" && self.take(&Token::Open) {
                return self.any(path);
            }
            path.push(name);
        }
        let word = self.word()?;
        if word == "in" {
            return Ok(Filter::In(path, self.literals()?));
        }
        let how = Comparison::of(&word).ok_or_else(|| syntax(format!("'{word}' is no operator.")))?;
        Ok(Filter::Compare(path, how, self.literal()?))
    }

    fn path(&mut self) -> Result<Vec<String>, FilterError> {
        let mut path = vec![self.word()?];
        while self.take(&Token::Slash) {
            path.push(self.word()?);
        }
        Ok(path)
    }

    /// `name(path,'text')`, after the parenthesis.
    fn function(&mut self, name: &str) -> Result<Filter, FilterError> {
        let path = self.path()?;
        self.require(&Token::Comma, ",")?;
        let Literal::Text(text) = self.literal()? else { return Err(syntax("a text is missing.")) };
        self.require(&Token::Close, ")")?;
        match name.to_ascii_lowercase().as_str() {
            "startswith" => Ok(Filter::StartsWith(path, text)),
            "endswith" => Ok(Filter::EndsWith(path, text)),
            _ => Err(syntax(format!("the function '{name}' is not supported."))),
        }
    }

    /// `v:filter)`, after `any(`.
    fn any(&mut self, path: Vec<String>) -> Result<Filter, FilterError> {
        if self.take(&Token::Close) {
            return Ok(Filter::Any(path, None));
        }
        let name = self.word()?;
        self.require(&Token::Colon, ":")?;
        let inner = self.or()?;
        self.require(&Token::Close, ")")?;
        Ok(Filter::Any(path, Some((name, Box::new(inner)))))
    }

    fn literals(&mut self) -> Result<Vec<Literal>, FilterError> {
        self.require(&Token::Open, "(")?;
        let mut all = vec![self.literal()?];
        while self.take(&Token::Comma) {
            all.push(self.literal()?);
        }
        self.require(&Token::Close, ")")?;
        Ok(all)
    }

    fn literal(&mut self) -> Result<Literal, FilterError> {
        let token = self.peek().cloned().ok_or_else(|| syntax("a value is missing."))?;
        self.at += 1;
        match token {
            Token::Text(text) => Ok(Literal::Text(text)),
            Token::Word(word) => Ok(match word.as_str() {
                "true" => Literal::Bool(true),
                "false" => Literal::Bool(false),
                "null" => Literal::Null,
                // Times and ids are compared as they are shown.
                other => other.parse().map_or_else(|_| Literal::Text(word.clone()), Literal::Number),
            }),
            _ => Err(syntax("a value is missing.")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fits(filter: &str) -> bool {
        let object = json!({
            "displayName": "It's Ada", "appId": "22222222-2222-2222-2222-222222222222", "accountEnabled": true, "n": 3,
            "mail": null, "names": ["a", "https://B/c"], "keys": [{"id": "k1"}, {"id": "k2"}], "web": {"url": "x"},
            "created": "2026-03-01T12:00:00Z", "none": [],
        });
        Filter::parse(filter).and_then(|f| f.fits(&object)).unwrap_or_else(|e| panic!("{filter}: {e}"))
    }

    #[test]
    fn what_az_and_terraform_write_is_understood() {
        for filter in [
            "displayName eq 'it''s ada'",
            "startswith(displayName,'IT''S')",
            "startsWith(displayName, 'It') and accountEnabled eq true",
            "endswith(displayName,'ada')",
            "names/any(s:s eq 'https://b/c')",
            "names/any(x:startswith(x,'https'))",
            "keys/any(k:k/id eq 'k2')",
            "names/any()",
            "appId in ('x', '22222222-2222-2222-2222-222222222222')",
            "appId eq 22222222-2222-2222-2222-222222222222",
            "mail eq null and not (n gt 3) and (n ge 3 or n lt 0)",
            "created le 2026-03-01T12:00:00Z and created gt 2026-02-28T00:00:00Z",
            "web/url eq 'x' and web/other eq null",
            "mail ne 'x'",
        ] {
            assert!(fits(filter), "{filter}");
        }
        for filter in
            ["displayName eq 'Ada'", "names/any(s:s eq 'c')", "none/any()", "n eq '3'", "not (accountEnabled eq true)"]
        {
            assert!(!fits(filter), "{filter}");
        }
    }

    #[test]
    fn what_is_not_understood_is_told() {
        let deep = format!("{}a eq 1{}", "(".repeat(40), ")".repeat(40));
        for bad in [
            "",
            "a",
            "a eq",
            "a eq 'x",
            "a like 'x'",
            "contains(a,'x')",
            "a eq 1 b",
            "(a eq 1",
            "a/any(s s eq 1)",
            "a eq ;",
            &deep,
        ] {
            assert!(matches!(Filter::parse(bad), Err(FilterError::Syntax(_))), "{bad}");
        }
        let unknown = Filter::parse("nope eq 1").unwrap().fits(&json!({"a": 1}));
        assert_eq!(unknown, Err(FilterError::Property("nope".into())));
    }
}
