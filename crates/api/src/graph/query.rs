//! What a list or an object is asked with: `$filter`, `$search`, `$select`, `$expand`, `$orderby`, `$top`, `$skiptoken`, `$count`.

use super::filter::{Filter, FilterError};
use super::reply::Refusal;
use super::search::Search;
use crate::context::Context;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};

const DEFAULT_PAGE: usize = 100;
const MAX_PAGE: usize = 999;

/// Graph shows no more of people unless it is asked to.
const USER_DEFAULT: [&str; 11] = [
    "id",
    "businessPhones",
    "displayName",
    "givenName",
    "jobTitle",
    "mail",
    "mobilePhone",
    "officeLocation",
    "preferredLanguage",
    "surname",
    "userPrincipalName",
];

/// A relation whose objects are shown with an object: `members`, `owners($select=id,displayName)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Expansion {
    pub name: String,
    /// Empty: the usual properties.
    select: Vec<String>,
}

/// Graph shows no more with an object.
const MAX_EXPANDED: usize = 20;

impl Expansion {
    fn parse(text: &str) -> Result<Self, Refusal> {
        let refused = || {
            Refusal::bad(format!(
                "The $expand '{text}' is not supported by this server: one relation is expanded at a time, with nothing but $select."
            ))
        };
        let is_name = |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric());
        let (name, select) = match text.split_once('(') {
            None => (text, vec![]),
            Some((name, options)) => {
                let names = options.strip_suffix(')').and_then(|o| o.trim().strip_prefix("$select="));
                let names: Vec<String> = names.ok_or_else(refused)?.split(',').map(|n| n.trim().to_owned()).collect();
                (name, names)
            }
        };
        if !is_name(name) || !select.iter().all(|n| is_name(n)) {
            return Err(refused());
        }
        Ok(Self { name: name.to_owned(), select })
    }

    /// The related objects as they are shown.
    pub fn shown(&self, mut related: Vec<Value>) -> Value {
        related.truncate(MAX_EXPANDED);
        related.into_iter().map(|object| selected(object, &self.select)).collect()
    }
}

/// An object with these properties alone, or whole where none is named.
fn selected(mut object: Value, names: &[String]) -> Value {
    if let Some(fields) = object.as_object_mut().filter(|_| !names.is_empty()) {
        fields.retain(|name, _| name.starts_with('@') || names.iter().any(|n| n.eq_ignore_ascii_case(name)));
    }
    object
}

#[derive(Debug)]
pub(super) struct Query {
    filter: Option<Filter>,
    search: Option<Search>,
    pub expand: Option<Expansion>,
    /// Empty: the usual properties.
    select: Vec<String>,
    order_by: String,
    descending: bool,
    top: usize,
    after: Option<(String, String)>,
    count: bool,
}

impl Query {
    pub fn of(context: &Context) -> Result<Self, Refusal> {
        let get = |name: &str| context.query.get(name).map(|v| v.trim()).filter(|v| !v.is_empty());
        for name in ["$skip", "$apply"] {
            if get(name).is_some() {
                return Err(Refusal::bad(format!("The query option '{name}' is not supported by this server.")));
            }
        }
        let filter = get("$filter").map(Filter::parse).transpose().map_err(unfit)?;
        let search = get("$search").map(Search::parse).transpose();
        let search =
            search.map_err(|e| Refusal { code: "Request_BadRequest".to_owned(), ..Refusal::bad(e.to_string()) })?;
        let eventual = context.header("consistencylevel").is_some_and(|l| l.eq_ignore_ascii_case("eventual"));
        if search.is_some() && !eventual {
            return Err(Refusal {
                code: "Request_UnsupportedQuery".to_owned(),
                ..Refusal::bad(
                    "Request with $search query parameter only works through MSGraph with a special request header: \
                     'ConsistencyLevel: eventual'",
                )
            });
        }
        let expand = get("$expand").map(Expansion::parse).transpose()?;
        let select = get("$select").map(|s| s.split(',').map(|n| n.trim().to_owned()).collect()).unwrap_or_default();
        let order = get("$orderby").unwrap_or("id");
        let (order_by, descending) = match order.split_once(' ') {
            None => (order, false),
            Some((name, way)) if way.trim() == "asc" => (name, false),
            Some((name, way)) if way.trim() == "desc" => (name, true),
            Some(_) => return Err(Refusal::bad(format!("Invalid value '{order}' of '$orderby'."))),
        };
        let top = match get("$top").map(str::parse::<usize>) {
            None => DEFAULT_PAGE,
            Some(Ok(n)) if (1..=MAX_PAGE).contains(&n) => n,
            Some(_) => {
                return Err(Refusal::bad(format!(
                    "Invalid page size specified. Must be between 1 and {MAX_PAGE} inclusive."
                )));
            }
        };
        let after = get("$skiptoken").map(read_token).transpose()?;
        let count = get("$count").is_some_and(|c| c.eq_ignore_ascii_case("true"));
        Ok(Self { filter, search, expand, select, order_by: order_by.to_owned(), descending, top, after, count })
    }

    /// Those that fit.
    pub fn filtered(&self, items: Vec<Value>) -> Result<Vec<Value>, Refusal> {
        if self.filter.is_none() && self.search.is_none() {
            return Ok(items);
        }
        let mut found = Vec::new();
        for item in items {
            let searched = self.search.as_ref().is_none_or(|s| s.fits(&item));
            if searched && self.filter.as_ref().map_or(Ok(true), |f| f.fits(&item)).map_err(unfit)? {
                found.push(item);
            }
        }
        Ok(found)
    }

    /// A page of a list, with the address of the next one.
    pub fn page(&self, context: &Context, collection: &str, items: Vec<Value>) -> Result<Value, Refusal> {
        let mut items = self.filtered(items)?;
        let total = items.len();
        let place = |item: &Value| {
            let text = |name: &str| item[name].as_str().unwrap_or_default().to_lowercase();
            (text(&self.order_by), text("id"))
        };
        items.sort_by_cached_key(place);
        if self.descending {
            items.reverse();
        }
        if let Some(after) = &self.after {
            items.retain(|item| if self.descending { place(item) < *after } else { place(item) > *after });
        }
        let more = items.len() > self.top;
        items.truncate(self.top);
        let next = items.last().filter(|_| more).map(place).map(|place| next_link(context, &place));
        let mut page = json!({"@odata.context": format!("{}/$metadata#{collection}", root(context))});
        if self.count {
            page["@odata.count"] = json!(total);
        }
        if let Some(next) = next {
            page["@odata.nextLink"] = json!(next);
        }
        page["value"] = items.into_iter().map(|item| self.shown(item, collection)).collect();
        Ok(page)
    }

    /// One object with the properties that were asked for.
    pub fn entity(&self, context: &Context, collection: &str, item: Value) -> Value {
        let mut shown = json!({"@odata.context": format!("{}/$metadata#{collection}/$entity", root(context))});
        if let (Some(fields), Value::Object(item)) = (shown.as_object_mut(), self.shown(item, collection)) {
            fields.extend(item);
        }
        shown
    }

    fn shown(&self, mut item: Value, collection: &str) -> Value {
        let usual: Vec<&str> = match (self.select.is_empty(), collection) {
            // By its id an object's relations are found.
            (false, _) => {
                let id = self.expand.iter().map(|_| "id");
                self.select.iter().map(String::as_str).chain(id).collect()
            }
            (true, "users") => USER_DEFAULT.to_vec(),
            (true, _) => return item,
        };
        if let Some(fields) = item.as_object_mut() {
            fields.retain(|name, _| {
                name.starts_with('@') || usual.iter().any(|u| u.eq_ignore_ascii_case(name) || *u == "*")
            });
        }
        item
    }
}

fn unfit(error: FilterError) -> Refusal {
    Refusal { status: 400, code: "Request_UnsupportedQuery".to_owned(), message: error.to_string() }
}

/// `https://host[/graph]/v1.0`
pub(super) fn root(context: &Context) -> String {
    let below = if context.is_azure_host() { "" } else { "/graph" };
    format!("{}{below}/v1.0", context.base)
}

fn next_link(context: &Context, place: &(String, String)) -> String {
    let token = BASE64_URL_SAFE_NO_PAD.encode(json!([place.0, place.1]).to_string());
    let is_token = |pair: &&str| {
        let name = pair.split('=').next().unwrap_or_default().to_ascii_lowercase();
        name == "$skiptoken" || name == "%24skiptoken"
    };
    let kept: Vec<&str> = context.raw_query.split('&').filter(|p| !p.is_empty() && !is_token(p)).collect();
    let kept = kept.iter().map(|p| format!("{p}&")).collect::<String>();
    format!("{}{}?{kept}$skiptoken={token}", context.base, context.raw_path)
}

fn read_token(token: &str) -> Result<(String, String), Refusal> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(token).ok();
    let read = bytes.and_then(|b| serde_json::from_slice(&b).ok());
    read.ok_or_else(|| Refusal {
        status: 400,
        code: "Directory_ExpiredPageToken".to_owned(),
        message: "The specified page token value has expired and can no longer be included in your request.".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::hosts::OwnHosts;

    fn context(uri: &str) -> Context {
        let request = http::Request::builder().uri(uri).header("host", "graph.microsoft.com").body(()).unwrap();
        Context::new(&request.into_parts().0, &OwnHosts::new([], 8443)).unwrap()
    }

    /// Every page's ids, by following the links.
    fn walk(uri: &str, items: &[Value]) -> Vec<Vec<String>> {
        let (mut pages, mut next) = (Vec::new(), Some(uri.to_owned()));
        while let Some(uri) = next {
            let context = context(&uri);
            let page = Query::of(&context).unwrap().page(&context, "groups", items.to_vec()).unwrap();
            let ids = page["value"].as_array().unwrap().iter();
            pages.push(ids.map(|i| i["id"].as_str().unwrap().to_owned()).collect());
            next = page["@odata.nextLink"]
                .as_str()
                .map(|n| n.strip_prefix("https://graph.microsoft.com").unwrap().to_owned());
        }
        pages
    }

    #[test]
    fn pages_hold_everything_once_and_in_order() {
        let items: Vec<Value> = ["c", "a", "e", "b", "d"]
            .iter()
            .zip(["x", "y", "x", "z", "x"])
            .map(|(id, name)| json!({"id": id, "displayName": name}))
            .collect();
        assert_eq!(walk("/v1.0/groups?$top=2", &items), [vec!["a", "b"], vec!["c", "d"], vec!["e"]]);
        assert_eq!(walk("/v1.0/groups?$filter=displayName%20eq%20'x'&%24top=2", &items), [vec!["c", "d"], vec!["e"]]);
        assert_eq!(
            walk("/v1.0/groups?$orderby=displayName%20desc&$top=3", &items),
            [vec!["b", "a", "e"], vec!["d", "c"]]
        );
        assert_eq!(walk("/v1.0/groups", &items).len(), 1);
    }

    #[test]
    fn only_what_is_asked_for_is_shown() {
        let user = json!({"id": "1", "displayName": "n", "accountEnabled": true, "@odata.type": "t"});
        let shown = |uri: &str| {
            let context = context(uri);
            let shown = Query::of(&context).unwrap().entity(&context, "users", user.clone());
            shown.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(shown("/v1.0/users/1"), "@odata.context id displayName @odata.type");
        assert_eq!(shown("/v1.0/users/1?$select=accountEnabled,id"), "@odata.context id accountEnabled @odata.type");
    }

    #[test]
    fn bad_options_are_refused() {
        for bad in [
            "$top=0",
            "$top=1000",
            "$top=x",
            "$filter=a",
            "$skiptoken=x",
            "$expand=members($filter=a)",
            "$expand=a,b",
            "$orderby=a%20up",
            "$search=%22displayName:x%22",
            "$skip=1",
        ] {
            assert_eq!(Query::of(&context(&format!("/v1.0/users?{bad}"))).unwrap_err().status, 400, "{bad}");
        }
    }
}
