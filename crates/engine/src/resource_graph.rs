//! `POST /providers/Microsoft.ResourceGraph/resources`: the one query that clients send on their own account, which is how
//! `az sig list-community` finds community galleries. Every other query is refused in words.
//!
//! ```text
//! communitygalleryresources
//! | where type == 'microsoft.compute/locations/communitygalleries'      must be said: there are rows of no other type
//! | where location == 'eastus'                                          any number of these, also of name and type,
//!                                                                       with == (as written) or =~ (any letter case)
//! ```
//! A gallery is a row in each region where it is, ordered by name and region.

use crate::Engine;
use crate::authorization::not_authorized;
use crate::call::Call;
use lazuli_arm::ArmError;
use lazuli_arm::bodies::Fields;
use serde_json::{Value, json};

const TABLE: &str = "communitygalleryresources";
pub(crate) const COMMUNITY_GALLERIES: &str = "microsoft.compute/locations/communitygalleries";
const COLUMNS: [&str; 3] = ["type", "location", "name"];
/// Rows of an answer where the client does not ask for fewer (Azure's own bounds).
const MOST_ROWS: i64 = 1000;

/// What a row must be.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Condition {
    column: &'static str,
    value: String,
    ignore_case: bool,
}

impl Condition {
    fn holds(&self, row: &Value) -> bool {
        let own = row[self.column].as_str().unwrap_or_default();
        if self.ignore_case { own.eq_ignore_ascii_case(&self.value) } else { own == self.value }
    }
}

impl Engine {
    /// Answers a query of Resource Graph, for whoever sees any subscription of its tenant: community galleries are everybody's.
    ///
    /// # Errors
    /// 400 `BadRequest` for what is not this query; 403 `AuthorizationFailed` for who sees no subscription.
    pub async fn resource_graph(&self, call: &Call, body: &Value) -> Result<Value, ArmError> {
        if self.subscriptions(&call.caller).await?.is_empty() {
            return Err(not_authorized(&call.caller, "/", "Microsoft.ResourceGraph/resources/read"));
        }
        let request = Fields::root("query", body)?;
        let conditions = parse(&request.required_str("query")?)?;
        let options = request.object("options")?;
        if options.str("resultFormat")?.is_some_and(|f| !f.eq_ignore_ascii_case("objectArray")) {
            return Err(refused("the only resultFormat is objectArray"));
        }
        let top = options.int_within("$top", 1, MOST_ROWS)?.unwrap_or(MOST_ROWS);
        let skip = match options.str("$skipToken")? {
            Some(token) => token.parse().map_err(|_| refused("the $skipToken is not of this server"))?,
            None => options.int_within("$skip", 0, i64::MAX)?.unwrap_or(0),
        };
        let mut rows = self.community_galleries().await?;
        rows.retain(|row| conditions.iter().all(|c| c.holds(row)));
        Ok(answer(rows, usize::try_from(skip).unwrap_or(usize::MAX), usize::try_from(top).unwrap_or(usize::MAX)))
    }
}

/// A page of the rows (Resource Graph's `QueryResponse`).
fn answer(rows: Vec<Value>, skip: usize, top: usize) -> Value {
    let total = rows.len();
    let data: Vec<Value> = rows.into_iter().skip(skip).take(top).collect();
    let end = skip.saturating_add(data.len());
    let more = end < total && !data.is_empty();
    let mut shown = json!({
        "totalRecords": total, "count": data.len(), "data": data, "facets": [],
        "resultTruncated": if more { "true" } else { "false" },
    });
    if more {
        shown["$skipToken"] = end.to_string().into();
    }
    shown
}

fn refused(why: &str) -> ArmError {
    let mut error = ArmError::bad_request(
        "BadRequest",
        format!(
            "This server answers one kind of query to Resource Graph, `{TABLE} | where type == '{COMMUNITY_GALLERIES}'`, with more \
             conditions on type, location and name: {why}."
        ),
    );
    error.details.push(ArmError::bad_request("InvalidQuery", "Query is invalid."));
    error
}

/// The conditions of a query.
fn parse(query: &str) -> Result<Vec<Condition>, ArmError> {
    let mut clauses = query.split('|').map(str::trim);
    let table = clauses.next().unwrap_or_default();
    if !table.eq_ignore_ascii_case(TABLE) {
        return Err(refused(&format!("there is no table '{table}' here")));
    }
    let mut conditions = Vec::new();
    for clause in clauses.filter(|c| !c.is_empty()) {
        let (word, terms) = clause.split_once(char::is_whitespace).unwrap_or((clause, ""));
        if !word.eq_ignore_ascii_case("where") {
            return Err(refused(&format!("'{word}' is not understood")));
        }
        for term in terms.split(" and ") {
            conditions.push(condition(term.trim())?);
        }
    }
    let typed = conditions.iter().any(|c| c.column == "type" && c.value.eq_ignore_ascii_case(COMMUNITY_GALLERIES));
    if typed { Ok(conditions) } else { Err(refused("the query does not say this type")) }
}

fn condition(term: &str) -> Result<Condition, ArmError> {
    let odd = || refused(&format!("the condition '{term}' is not understood"));
    let (at, ignore_case) = match (term.find("=="), term.find("=~")) {
        (Some(at), None) => (at, false),
        (None, Some(at)) => (at, true),
        _ => return Err(odd()),
    };
    let (column, value) = (term[..at].trim(), term[at + 2..].trim());
    let column = COLUMNS.into_iter().find(|c| c.eq_ignore_ascii_case(column)).ok_or_else(odd)?;
    let quoted = |mark: char| value.strip_prefix(mark)?.strip_suffix(mark).filter(|v| !v.contains(['\'', '"', '\\']));
    let value = quoted('\'').or_else(|| quoted('"')).ok_or_else(odd)?.to_owned();
    Ok(Condition { column, value, ignore_case })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_az_sends_is_understood() {
        let query = format!("{TABLE}| where type == '{COMMUNITY_GALLERIES}' | where location == 'eastus' ");
        let conditions = parse(&query).unwrap();
        let row = |location: &str| json!({"type": COMMUNITY_GALLERIES, "location": location, "name": "pub-1"});
        assert!(conditions.iter().all(|c| c.holds(&row("eastus"))));
        assert!(!conditions.iter().all(|c| c.holds(&row("westus"))));
        let named = format!("{TABLE} | where type =~ \"{}\" and name == 'Pub-1'", COMMUNITY_GALLERIES.to_uppercase());
        let conditions = parse(&named).unwrap();
        assert!(conditions[0].holds(&row("eastus")) && !conditions[1].holds(&row("eastus")), "{conditions:?}");
    }

    #[test]
    fn everything_else_is_refused_in_words() {
        let typed = format!("{TABLE} | where type == '{COMMUNITY_GALLERIES}'");
        for (query, why) in [
            ("", "there is no table ''"),
            ("resources | where type == 'x'", "there is no table 'resources'"),
            (TABLE, "does not say this type"),
            (&format!("{TABLE} | where type == 'microsoft.compute/disks'"), "does not say this type"),
            (&format!("{typed} | project name"), "'project' is not understood"),
            (&format!("{typed} | where"), "the condition '' is not understood"),
            (&format!("{typed} | where location != 'x'"), "is not understood"),
            (&format!("{typed} | where id == 'x'"), "the condition 'id == 'x'' is not understood"),
            (&format!("{typed} | where name == x"), "is not understood"),
            (&format!("{typed} | where name == 'x' or name == 'y'"), "is not understood"),
        ] {
            let error = parse(query).unwrap_err();
            assert_eq!((error.status, error.code.as_str()), (400, "BadRequest"));
            assert!(error.message.contains(why), "{query}: {error}");
        }
    }

    #[test]
    fn pages_end() {
        let rows: Vec<Value> = (0..5).map(Value::from).collect();
        let first = answer(rows.clone(), 0, 2);
        assert_eq!(
            (&first["data"], &first["totalRecords"], &first["$skipToken"]),
            (&json!([0, 1]), &json!(5), &json!("2"))
        );
        let last = answer(rows.clone(), 4, 2);
        assert_eq!(
            (&last["data"], last.get("$skipToken"), &last["resultTruncated"]),
            (&json!([4]), None, &json!("false"))
        );
        assert_eq!(answer(rows, 9, 2).get("$skipToken"), None);
    }
}
