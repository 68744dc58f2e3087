//! `$search` of OData, as far as Graph knows it for the directory.
//!
//! ```text
//! search   term ((AND | OR) term)*      AND binds closer
//! term     "property:words"
//! ```
//!
//! In `displayName` and `description` each word must begin one of the words there; any other property must begin with the text.

use serde_json::Value;

/// A search that was understood: one of the lists, and of it every term.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Search(Vec<Vec<Term>>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Term {
    property: String,
    text: String,
}

/// What is split into words.
const OF_WORDS: [&str; 2] = ["displayName", "description"];
/// More are asked for by nobody.
const MAX_TERMS: usize = 20;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Syntax error: {0} is not valid in '$search': expected \"property:text\", joined by AND or OR.")]
pub(super) struct SearchError(String);

impl Search {
    pub fn parse(text: &str) -> Result<Self, SearchError> {
        let wrong = |at: &str| SearchError(format!("'{}'", at.chars().take(60).collect::<String>()));
        let (mut any, mut all, mut rest, mut terms) = (Vec::new(), Vec::new(), text.trim(), 0);
        loop {
            let inner = rest.strip_prefix('"').ok_or_else(|| wrong(rest))?;
            let (term, after) = inner.split_once('"').ok_or_else(|| wrong(rest))?;
            let (property, words) = term.split_once(':').ok_or_else(|| wrong(term))?;
            let name = property.trim();
            let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric());
            terms += 1;
            if !is_name || words.trim().is_empty() || terms > MAX_TERMS {
                return Err(wrong(term));
            }
            all.push(Term { property: name.to_owned(), text: words.trim().to_lowercase() });
            rest = after.trim_start();
            if rest.is_empty() {
                any.push(all);
                return Ok(Self(any));
            }
            rest = if let Some(more) = rest.strip_prefix("AND") {
                more.trim_start()
            } else if let Some(more) = rest.strip_prefix("OR") {
                any.push(std::mem::take(&mut all));
                more.trim_start()
            } else {
                return Err(wrong(rest));
            };
        }
    }

    pub fn fits(&self, object: &Value) -> bool {
        self.0.iter().any(|all| all.iter().all(|term| term.fits(object)))
    }
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty())
}

impl Term {
    fn fits(&self, object: &Value) -> bool {
        let found =
            object.as_object().and_then(|o| o.iter().find(|(name, _)| name.eq_ignore_ascii_case(&self.property)));
        let Some(value) = found.and_then(|(_, value)| value.as_str()) else { return false };
        let value = value.to_lowercase();
        if OF_WORDS.iter().any(|w| w.eq_ignore_ascii_case(&self.property)) {
            return words(&self.text).all(|wanted| words(&value).any(|word| word.starts_with(wanted)));
        }
        value.starts_with(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn words_are_found_by_how_they_begin() {
        let object = json!({"displayName": "Build-Team West", "mail": "team@contoso.example", "description": null});
        for (text, wanted) in [
            ("\"displayName:team\"", true),
            ("\"displayname:WE buil\"", true),
            ("\"displayName:eam\"", false),
            ("\"mail:team@\"", true),
            ("\"mail:contoso\"", false),
            ("\"description:team\"", false),
            ("\"displayName:east\" OR \"mail:team\"", true),
            ("\"displayName:east\" OR \"displayName:west\" AND \"mail:other\"", false),
            ("\"none:x\"", false),
        ] {
            assert_eq!(Search::parse(text).unwrap().fits(&object), wanted, "{text}");
        }
    }

    #[test]
    fn what_is_no_search_is_refused() {
        for bad in [
            "",
            "team",
            "\"team\"",
            "\"displayName:\"",
            "\"displayName:x",
            "\"a:b\" \"c:d\"",
            "\"a:b\" AND",
            "\"a b:c\"",
        ] {
            assert!(Search::parse(bad).is_err(), "{bad}");
        }
        assert!(Search::parse(&"\"a:b\" AND ".repeat(30)).is_err());
    }
}
