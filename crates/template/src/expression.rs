//! Expressions of the template language: `[concat('a', parameters('b').c[0])]`, from text to tree.
//!
//! ```text
//! expression = (string | integer | call) postfix*
//! call       = name ['.' name] '(' [expression (',' expression)*] ')'
//! postfix    = '.' name | '.?' name | '[' expression ']' | '[?' expression ']'
//! string     = "'" (any but "'" | "''")* "'"
//! ```
//! Text and depth are bounded, so that no template makes the parser run long or deep. Nothing is evaluated here.

/// Azure's own bound for an expression.
pub(crate) const MAX_LENGTH: usize = 24_576;
/// Calls, indexes and member accesses within each other.
const MAX_DEPTH: usize = 64;

/// A parsed expression.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Expr {
    Text(String),
    Int(i64),
    /// `name` as written; user functions are `namespace.name`.
    Call {
        name: String,
        args: Vec<Expr>,
    },
    /// `safe`: null instead of an error where there is no such member.
    Member {
        of: Box<Expr>,
        key: Box<Expr>,
        safe: bool,
    },
}

impl Expr {
    /// Calls `visit` for every function call in the tree.
    pub(crate) fn calls(&self, visit: &mut dyn FnMut(&str, &[Expr])) {
        match self {
            Self::Text(_) | Self::Int(_) => {}
            Self::Call { name, args } => {
                visit(name, args);
                args.iter().for_each(|a| a.calls(visit));
            }
            Self::Member { of, key, .. } => {
                of.calls(visit);
                key.calls(visit);
            }
        }
    }
}

/// What a string of a template is.
#[derive(Debug, PartialEq)]
pub(crate) enum Text<'a> {
    Literal(&'a str),
    /// Without its brackets.
    Expression(&'a str),
}

/// `[…]` is an expression, `[[…]` the literal `[…]`, everything else itself.
pub(crate) fn classify(text: &str) -> Text<'_> {
    match text.strip_prefix('[') {
        Some(rest) if text.ends_with(']') && rest.starts_with('[') => Text::Literal(rest),
        Some(rest) if rest.ends_with(']') => Text::Expression(&rest[..rest.len() - 1]),
        _ => Text::Literal(text),
    }
}

/// The literal text, written so that it stays what it is when it is read as part of a template.
pub(crate) fn escape(text: &str) -> String {
    if text.starts_with('[') && text.ends_with(']') { format!("[{text}") } else { text.to_owned() }
}

/// Parses an expression (without its brackets).
///
/// # Errors
/// Azure's words, with the position in the expression.
pub(crate) fn parse(text: &str) -> Result<Expr, String> {
    if text.len() > MAX_LENGTH {
        return Err(format!(
            "The language expression length limit exceeded. Limit: '{MAX_LENGTH}' and actual: '{}'.",
            text.len()
        ));
    }
    let mut parser = Parser { text, at: 0, depth: 0 };
    let expr = parser.expression()?;
    parser.blank();
    if parser.at < text.len() {
        return Err(parser.unexpected("EndOfData"));
    }
    Ok(expr)
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl Parser<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn blank(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    fn eat(&mut self, word: &str) -> bool {
        self.blank();
        let found = self.rest().starts_with(word);
        if found {
            self.at += word.len();
        }
        found
    }

    fn unexpected(&self, wanted: &str) -> String {
        let actual = self.rest().trim_start().chars().next().map_or_else(|| "EndOfData".to_owned(), String::from);
        let shown: String = self.text.chars().take(200).collect();
        format!(
            "Unable to parse language expression '{shown}': expected token '{wanted}' and actual '{actual}' at position {}.",
            self.text[..self.at].chars().count()
        )
    }

    fn deeper<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, String>) -> Result<T, String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(format!("The language expression is nested deeper than {MAX_DEPTH} levels."));
        }
        let done = work(self);
        self.depth -= 1;
        done
    }

    fn expression(&mut self) -> Result<Expr, String> {
        self.deeper(|p| {
            let mut expr = p.primary()?;
            let mut members = 0;
            while let Some((key, safe)) = p.postfix()? {
                members += 1;
                if members > MAX_DEPTH {
                    return Err(format!("The language expression is nested deeper than {MAX_DEPTH} levels."));
                }
                expr = Expr::Member { of: Box::new(expr), key: Box::new(key), safe };
            }
            Ok(expr)
        })
    }

    fn postfix(&mut self) -> Result<Option<(Expr, bool)>, String> {
        for (open, safe) in [(".?", true), (".", false)] {
            if self.eat(open) {
                self.blank();
                return Ok(Some((Expr::Text(self.name()?), safe)));
            }
        }
        for (open, safe) in [("[?", true), ("[", false)] {
            if self.eat(open) {
                let key = self.expression()?;
                if !self.eat("]") {
                    return Err(self.unexpected("RightSquareBracket"));
                }
                return Ok(Some((key, safe)));
            }
        }
        Ok(None)
    }

    fn primary(&mut self) -> Result<Expr, String> {
        self.blank();
        match self.rest().chars().next() {
            Some('\'') => self.string().map(Expr::Text),
            Some(c) if c.is_ascii_digit() || c == '-' => self.integer(),
            Some(_) => self.call(),
            None => Err(self.unexpected("Identifier")),
        }
    }

    fn string(&mut self) -> Result<String, String> {
        let start = self.at;
        self.at += 1;
        let mut out = String::new();
        loop {
            let Some(end) = self.rest().find('\'') else {
                self.at = start;
                return Err(self.unexpected("String"));
            };
            out.push_str(&self.rest()[..end]);
            self.at += end + 1;
            if !self.rest().starts_with('\'') {
                return Ok(out);
            }
            out.push('\'');
            self.at += 1;
        }
    }

    fn integer(&mut self) -> Result<Expr, String> {
        let rest = self.rest();
        let sign = usize::from(rest.starts_with('-'));
        let digits = rest[sign..].bytes().take_while(u8::is_ascii_digit).count();
        let value = rest[..sign + digits].parse().map_err(|_| self.unexpected("Integer"))?;
        self.at += sign + digits;
        Ok(Expr::Int(value))
    }

    fn name(&mut self) -> Result<String, String> {
        let rest = self.rest();
        let good = |c: char| c.is_alphanumeric() || matches!(c, '_' | '$');
        let length = rest.find(|c| !good(c)).unwrap_or(rest.len());
        if length == 0 || rest.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(self.unexpected("Identifier"));
        }
        let name = rest[..length].to_owned();
        self.at += length;
        Ok(name)
    }

    fn call(&mut self) -> Result<Expr, String> {
        let mut name = self.name()?;
        if self.rest().starts_with('.') && !self.rest().starts_with(".?") {
            self.at += 1;
            name = format!("{name}.{}", self.name()?);
        }
        if !self.eat("(") {
            return Err(self.unexpected("LeftParenthesis"));
        }
        let mut args = Vec::new();
        if self.eat(")") {
            return Ok(Expr::Call { name, args });
        }
        loop {
            args.push(self.expression()?);
            if self.eat(")") {
                return Ok(Expr::Call { name, args });
            }
            if !self.eat(",") {
                return Err(self.unexpected("RightParenthesis"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn call(name: &str, args: Vec<Expr>) -> Expr {
        Expr::Call { name: name.into(), args }
    }

    #[test]
    fn literals_are_told_from_expressions() {
        for (text, meaning) in [
            ("plain", Text::Literal("plain")),
            ("[parameters('a')]", Text::Expression("parameters('a')")),
            ("[[not one]", Text::Literal("[not one]")),
            ("[open", Text::Literal("[open")),
            ("[[open", Text::Literal("[[open")),
            ("a[0]", Text::Literal("a[0]")),
            ("[", Text::Literal("[")),
            ("[]", Text::Expression("")),
            ("", Text::Literal("")),
        ] {
            assert_eq!(classify(text), meaning, "{text}");
        }
    }

    #[test]
    fn trees() {
        let text = |t: &str| Expr::Text(t.into());
        assert_eq!(parse("'it''s'").unwrap(), text("it's"));
        assert_eq!(parse(" -12 ").unwrap(), Expr::Int(-12));
        assert_eq!(parse("ns.fn( 1 ,'b')").unwrap(), call("ns.fn", vec![Expr::Int(1), text("b")]));
        let member = |of, key, safe| Expr::Member { of: Box::new(of), key: Box::new(key), safe };
        assert_eq!(
            parse("f().a[0].?b[?'c']").unwrap(),
            member(
                member(member(member(call("f", vec![]), text("a"), false), Expr::Int(0), false), text("b"), true),
                text("c"),
                true
            )
        );
    }

    #[test]
    fn what_is_no_expression_is_refused_with_its_position() {
        for (bad, wanted) in [
            ("", "expected token 'Identifier' and actual 'EndOfData'"),
            ("concat('a'", "expected token 'RightParenthesis' and actual 'EndOfData' at position 10"),
            ("concat", "'LeftParenthesis'"),
            ("'open", "'String'"),
            ("a() b()", "expected token 'EndOfData' and actual 'b'"),
            ("a()[1", "'RightSquareBracket'"),
            ("a().1", "'Identifier'"),
            ("99999999999999999999", "'Integer'"),
            ("1.5", "'Identifier'"),
        ] {
            let error = parse(bad).unwrap_err();
            assert!(error.contains(wanted), "{bad}: {error}");
        }
        let deep = format!("{}'a'{}", "f(".repeat(70), ")".repeat(70));
        assert!(parse(&deep).unwrap_err().contains("deeper"));
        let long = format!("f(){}", ".a".repeat(70));
        assert!(parse(&long).unwrap_err().contains("deeper"));
        assert!(parse(&"a".repeat(MAX_LENGTH + 1)).unwrap_err().contains("length limit"));
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,60}") {
            let _ = (classify(&text), parse(&text));
        }

        #[test]
        fn never_panics_near_the_grammar(text in "[a-c'.\\[\\]()?,0-9 -]{0,60}") {
            let _ = parse(&text);
        }

        #[test]
        fn escaped_text_stays_what_it_is(text in "[\\[\\]a-c]{0,8}") {
            let escaped = escape(&text);
            prop_assert_eq!(classify(&escaped), Text::Literal(&text));
        }
    }
}
