//! Microsoft Graph (v1.0; beta is answered the same), as far as it is the directory: what az (`az ad …`) and Terraform's azuread call.
//!
//! ```text
//! [/{tenant}]/…                                          Terraform names the tenant, which must be the token's
//! /users /groups /applications /servicePrincipals        GET list, POST
//!   /{id}, (appId='…')                                   GET, PATCH, DELETE
//!   /{id}/members|owners/$ref  /{id}/members|owners/{id}/$ref      POST; GET, DELETE
//!   /{id}/members|transitiveMembers|owners|memberOf|transitiveMemberOf|ownedObjects   GET
//!   /{id}/addPassword|removePassword|getMemberGroups|checkMemberGroups|…              POST
//! /applications/{id}/federatedIdentityCredentials[/{id or name}]     GET, POST, PATCH, DELETE
//! /directoryObjects/{id}  /directoryObjects/getByIds  /me/…  /organization
//! ```
//!
//! Addresses, queries and envelopes are read and written here; what may be done is decided in `lazuli_engine::directory`.

mod filter;
mod query;
mod reply;
mod routes;
mod search;

use crate::app::App;
use crate::body;
use crate::context::Context;
use crate::identity::bearer;
use crate::respond::Reply;
use axum::body::Body;
use http::Method;
use lazuli_engine::directory::{Directory, Key, Kind, Relation};
use query::Query;
use reply::{Refusal, json_reply, no_content};
pub use routes::{GraphRoute, graph_routes};
use serde_json::{Value, json};

/// Objects that one `getByIds` may ask for, and groups that one check may.
const MAX_IDS: usize = 1000;

/// The path below the version, if this is one of Graph's: `v1.0/…`, below the server's own name `graph/v1.0/…`.
pub(crate) fn path_of(context: &Context) -> Option<Vec<String>> {
    let segments = context.segments();
    let below = if context.is_azure_host() { &segments[..] } else { segments.strip_prefix(&["graph"])? };
    let (version, path) = below.split_first()?;
    let known = match *version {
        "v1.0" => true,
        // Below the server's own name it might be a container of an account named `graph`.
        "beta" => context.is_azure_host() || path.first().is_some_and(|first| is_tenant(first) || is_set(first)),
        _ => false,
    };
    known.then(|| path.iter().map(|s| (*s).to_owned()).collect())
}

fn is_tenant(segment: &str) -> bool {
    uuid::Uuid::parse_str(segment).is_ok()
}

fn is_set(segment: &str) -> bool {
    Target::parse(&[segment.to_owned()]).is_ok()
}

/// Without the tenant that clients may name first.
fn below_tenant<'a>(path: &'a [String], tenant: &str) -> Result<&'a [String], Refusal> {
    match path.split_first() {
        Some((first, below)) if first.eq_ignore_ascii_case(tenant) || first == "myorganization" => Ok(below),
        Some((first, _)) if is_tenant(first) => Err(Refusal {
            status: 403,
            code: "Authorization_RequestDenied".to_owned(),
            message: format!("The access token is not of the tenant '{first}'."),
        }),
        _ => Ok(path),
    }
}

/// Answers a request for `path`, which lies below the version.
pub(crate) async fn handle(app: &App, context: &Context, path: &[String], body: Body) -> Reply {
    let answered = answer(app, context, path, body).await;
    answered.unwrap_or_else(|refusal| reply::refuse(context, &refusal))
}

async fn answer(app: &App, context: &Context, path: &[String], body: Body) -> Result<Reply, Refusal> {
    // The body is taken before the token is judged: a client that is still sending would not see the answer.
    let body = body::read(&context.headers, body, body::ARM_LIMIT).await;
    let caller = bearer::graph(app, context).await.map_err(|e| match e.status {
        401 => Refusal { status: 401, code: "InvalidAuthenticationToken".to_owned(), message: e.message },
        _ => e.into(),
    })?;
    let engine = app.directory.as_ref().ok_or_else(|| Refusal::segment(path.first().map_or("", String::as_str)))?;
    let directory = engine.directory(&caller, &context.correlation_id);
    let body = body?;
    let body = match (context.method == Method::GET || body.is_empty(), serde_json::from_slice(&body)) {
        (true, _) => Value::Null,
        (false, Ok(value)) => value,
        (false, Err(_)) => {
            return Err(Refusal::bad(
                "Unable to read JSON request payload. Please ensure Content-Type header is set and payload is of valid JSON \
                 format.",
            ));
        }
    };
    let path = below_tenant(path, &caller.tenant)?;
    let target = Target::parse(path)?;
    let request = Request { context, directory, query: Query::of(context)?, body: &body };
    let reply = request.answer(&target, &caller.principal).await?;
    // Who gets an answer is asked of every route of the table (tests/hostile).
    debug_assert!(
        routes::has(context.method.as_str(), path),
        "{} {} is in no table of routes (graph/routes.rs)",
        context.method,
        path.join("/")
    );
    Ok(reply)
}

/// What a path names first.
#[derive(Debug, PartialEq, Eq)]
enum Set {
    Kind(Kind),
    DirectoryObjects,
    Me,
    Organization,
}

/// A path that was understood: `set[/key][/rest…]`.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    set: Set,
    key: Option<Key>,
    rest: Vec<String>,
}

impl Target {
    fn parse(path: &[String]) -> Result<Self, Refusal> {
        let unknown = |s: &str| Refusal::segment(s);
        let (first, mut rest) = path.split_first().ok_or_else(|| unknown(""))?;
        let (name, mut key) = match first.split_once('(') {
            None => (first.as_str(), None),
            Some((name, inner)) => (name, Some(parenthesised(inner).ok_or_else(|| unknown(first))?)),
        };
        let set = match name.to_ascii_lowercase().as_str() {
            "me" => Set::Me,
            "organization" => Set::Organization,
            "directoryobjects" => Set::DirectoryObjects,
            other => {
                let kind = Kind::ALL.into_iter().find(|k| k.collection().eq_ignore_ascii_case(other));
                Set::Kind(kind.ok_or_else(|| unknown(name))?)
            }
        };
        let keyed = matches!(set, Set::Kind(_) | Set::DirectoryObjects) && key.is_none();
        if let Some((next, further)) = rest.split_first().filter(|_| keyed)
            && !["getbyids", "$count", "delta", "validateproperties"].contains(&next.to_ascii_lowercase().as_str())
        {
            key = Some(Key::Id(next.clone()));
            rest = further;
        }
        Ok(Self { set, key, rest: rest.to_vec() })
    }
}

/// `'id')` or `appId='id')`
fn parenthesised(inner: &str) -> Option<Key> {
    let inner = inner.strip_suffix(')')?;
    let quoted = |text: &str| Some(text.strip_prefix('\'')?.strip_suffix('\'')?.replace("''", "'"));
    match inner.split_once('=') {
        Some((name, value)) if name.eq_ignore_ascii_case("appId") => quoted(value).map(Key::AppId),
        Some((name, value)) if name.eq_ignore_ascii_case("userPrincipalName") => quoted(value).map(Key::Id),
        Some(_) => None,
        None => quoted(inner).map(Key::Id),
    }
}

fn relation(word: &str) -> Option<Relation> {
    Relation::ALL.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(word)).map(|(_, relation)| relation)
}

/// Whether objects of a kind stand in a relation at all.
fn has_relation(kind: Kind, relation: Relation) -> bool {
    match relation {
        Relation::Members | Relation::TransitiveMembers => kind == Kind::Group,
        Relation::Owners => kind != Kind::User,
        Relation::MemberOf | Relation::TransitiveMemberOf => kind != Kind::Application,
        Relation::OwnedObjects => matches!(kind, Kind::User | Kind::ServicePrincipal),
    }
}

fn not_found(what: &str) -> Refusal {
    lazuli_engine::directory::DirectoryError::NotFound(what.to_owned()).into()
}

fn is_writable(relation: Relation) -> bool {
    matches!(relation, Relation::Members | Relation::Owners)
}

const ON_CREDENTIALS: [&str; 2] = ["addPassword", "removePassword"];
const ON_GROUPS: [&str; 4] = ["getMemberGroups", "getMemberObjects", "checkMemberGroups", "checkMemberObjects"];

/// The actions on an object of a kind.
fn actions(kind: Kind) -> impl Iterator<Item = &'static str> {
    let has_credentials = matches!(kind, Kind::Application | Kind::ServicePrincipal);
    let in_groups = kind != Kind::Application;
    let of = |all: &'static [&'static str], has| all.iter().copied().filter(move |_| has);
    of(&ON_CREDENTIALS, has_credentials).chain(of(&ON_GROUPS, in_groups))
}

struct Request<'a> {
    context: &'a Context,
    directory: Directory<'a>,
    query: Query,
    body: &'a Value,
}

impl Request<'_> {
    async fn answer(&self, target: &Target, caller: &str) -> Result<Reply, Refusal> {
        let rest: Vec<&str> = target.rest.iter().map(String::as_str).collect();
        let (kind, key) = match (&target.set, &target.key) {
            (Set::Organization, _) if rest.is_empty() => {
                self.require(&Method::GET)?;
                return self.page("organization", vec![self.directory.organization().await?]);
            }
            (Set::Organization, _) => return Err(Refusal::segment(rest[0])),
            (Set::Me, _) => {
                let id = Key::Id(caller.to_owned());
                if self.directory.kind_of(caller).await? != Kind::User {
                    return Err(Refusal::bad("/me request is only valid with delegated authentication flow."));
                }
                (Kind::User, id)
            }
            (Set::DirectoryObjects, None) => return self.by_ids(&rest).await,
            (Set::DirectoryObjects, Some(key)) => {
                let Key::Id(id) = key else { return Err(Refusal::segment("directoryObjects")) };
                (self.directory.kind_of(id).await?, key.clone())
            }
            (Set::Kind(kind), None) => return self.collection(*kind, &rest).await,
            (Set::Kind(kind), Some(key)) => (*kind, key.clone()),
        };
        self.object(kind, &key, &rest, target.set == Set::DirectoryObjects).await
    }

    fn require(&self, method: &Method) -> Result<(), Refusal> {
        if self.context.method == *method { Ok(()) } else { Err(Refusal::method(&self.context.method)) }
    }

    fn page(&self, collection: &str, items: Vec<Value>) -> Result<Reply, Refusal> {
        Ok(json_reply(self.context, 200, &self.query.page(self.context, collection, items)?))
    }

    /// Shows with an object what it is related to, if that was asked for.
    async fn expand(&self, kind: Kind, object: &mut Value) -> Result<(), Refusal> {
        let Some(expansion) = &self.query.expand else { return Ok(()) };
        let relation = relation(&expansion.name).filter(|r| has_relation(kind, *r)).ok_or_else(|| {
            Refusal::bad(format!(
                "Parsing OData Select and Expand failed: Could not find a property named '{}' on type 'microsoft.graph.{}'.",
                expansion.name,
                kind.entity()
            ))
        })?;
        let key = Key::Id(object["id"].as_str().unwrap_or_default().to_owned());
        let related = self.directory.related(kind, &key, relation).await?;
        object[expansion.name.as_str()] = expansion.shown(related);
        Ok(())
    }

    fn done(&self) -> Reply {
        no_content(self.context)
    }

    async fn collection(&self, kind: Kind, rest: &[&str]) -> Result<Reply, Refusal> {
        match (&self.context.method, rest) {
            (&Method::GET, []) => {
                let items = self.directory.list(kind).await?;
                let mut page = self.query.page(self.context, kind.collection(), items)?;
                for object in page["value"].as_array_mut().into_iter().flatten() {
                    self.expand(kind, object).await?;
                }
                Ok(json_reply(self.context, 200, &page))
            }
            (&Method::GET, ["$count"]) => {
                let count = self.query.filtered(self.directory.list(kind).await?)?.len();
                Ok(json_reply(self.context, 200, &json!(count)))
            }
            (&Method::POST, []) => {
                let made = self.directory.create(kind, self.body).await?;
                Ok(json_reply(self.context, 201, &self.query.entity(self.context, kind.collection(), made)))
            }
            (_, []) => Err(Refusal::method(&self.context.method)),
            (_, [segment, ..]) => Err(Refusal::segment(segment)),
        }
    }

    async fn object(&self, kind: Kind, key: &Key, rest: &[&str], typed: bool) -> Result<Reply, Refusal> {
        match (&self.context.method, rest) {
            (&Method::GET, []) => {
                let mut found = self.directory.get(kind, key).await?;
                if typed {
                    found["@odata.type"] = json!(format!("#microsoft.graph.{}", kind.entity()));
                }
                let collection = if typed { "directoryObjects" } else { kind.collection() };
                let mut shown = self.query.entity(self.context, collection, found);
                self.expand(kind, &mut shown).await?;
                Ok(json_reply(self.context, 200, &shown))
            }
            (&Method::PATCH, []) => {
                self.directory.update(kind, key, self.body).await.map(|()| self.done()).map_err(Into::into)
            }
            (&Method::DELETE, []) => self.directory.delete(kind, key).await.map(|()| self.done()).map_err(Into::into),
            (_, []) => Err(Refusal::method(&self.context.method)),
            (_, [word, further @ ..])
                if kind == Kind::Application && word.eq_ignore_ascii_case("federatedIdentityCredentials") =>
            {
                self.federated(key, further).await
            }
            // Nobody is anybody's manager here; Terraform asks.
            (&Method::GET, [word]) if kind == Kind::User && word.eq_ignore_ascii_case("manager") => {
                self.directory.get(kind, key).await?;
                Err(not_found("manager"))
            }
            (_, [word, further @ ..]) => match relation(word).filter(|r| has_relation(kind, *r)) {
                Some(relation) => self.relation(kind, key, relation, further).await,
                None if further.is_empty() => self.act(kind, key, word).await,
                None => Err(Refusal::segment(word)),
            },
        }
    }

    async fn relation(&self, kind: Kind, key: &Key, relation: Relation, rest: &[&str]) -> Result<Reply, Refusal> {
        let writable = is_writable(relation);
        match (&self.context.method, rest) {
            (&Method::GET, []) => self.page("directoryObjects", self.directory.related(kind, key, relation).await?),
            (&Method::GET, ["$count"]) => {
                let count = self.query.filtered(self.directory.related(kind, key, relation).await?)?.len();
                Ok(json_reply(self.context, 200, &json!(count)))
            }
            (&Method::GET, ["$ref"]) => {
                let all = self.directory.related(kind, key, relation).await?;
                self.page("Collection($ref)", all.iter().map(|o| self.reference(o)).collect())
            }
            (&Method::GET, [cast]) if cast.to_ascii_lowercase().starts_with("microsoft.graph.") => {
                let mut all = self.directory.related(kind, key, relation).await?;
                all.retain(|o| o["@odata.type"].as_str().is_some_and(|t| t[1..].eq_ignore_ascii_case(cast)));
                self.page("directoryObjects", all)
            }
            (&Method::GET, [id, "$ref"]) if writable => {
                let all = self.directory.related(kind, key, relation).await?;
                let is = |o: &Value| o["id"].as_str().is_some_and(|own| own.eq_ignore_ascii_case(id));
                let found = all.into_iter().find(is).ok_or_else(|| not_found(id))?;
                Ok(json_reply(self.context, 200, &self.reference(&found)))
            }
            (&Method::POST, ["$ref"]) if writable => {
                self.directory.link(kind, key, relation, self.body).await?;
                Ok(self.done())
            }
            (&Method::DELETE, [id, "$ref"]) if writable => {
                self.directory.unlink(kind, key, relation, id).await?;
                Ok(self.done())
            }
            (_, [] | ["$ref"]) => Err(Refusal::method(&self.context.method)),
            (_, [segment, ..]) => Err(Refusal::segment(segment)),
        }
    }

    fn reference(&self, object: &Value) -> Value {
        let id = object["id"].as_str().unwrap_or_default();
        json!({"id": id, "@odata.id": format!("{}/directoryObjects/{id}", query::root(self.context))})
    }

    async fn federated(&self, key: &Key, rest: &[&str]) -> Result<Reply, Refusal> {
        const COLLECTION: &str = "applications/federatedIdentityCredentials";
        match (&self.context.method, rest) {
            (&Method::GET, []) => self.page(COLLECTION, self.directory.federated(key).await?),
            (&Method::POST, []) => {
                let made = self.directory.put_federated(key, None, self.body).await?;
                Ok(json_reply(self.context, 201, &self.query.entity(self.context, COLLECTION, made)))
            }
            (&Method::GET, [which]) => {
                let all = self.directory.federated(key).await?;
                let same = |c: &Value| {
                    c["name"] == *which || c["id"].as_str().is_some_and(|id| id.eq_ignore_ascii_case(which))
                };
                let found = all.into_iter().find(same).ok_or_else(|| not_found(which))?;
                Ok(json_reply(self.context, 200, &self.query.entity(self.context, COLLECTION, found)))
            }
            (&Method::PATCH, [which]) => {
                self.directory.put_federated(key, Some(which), self.body).await?;
                Ok(self.done())
            }
            (&Method::DELETE, [which]) => {
                self.directory.delete_federated(key, which).await?;
                Ok(self.done())
            }
            (_, [] | [_]) => Err(Refusal::method(&self.context.method)),
            (_, [_, segment, ..]) => Err(Refusal::segment(segment)),
        }
    }

    async fn act(&self, kind: Kind, key: &Key, word: &str) -> Result<Reply, Refusal> {
        let name = word.to_ascii_lowercase();
        if !actions(kind).any(|action| action.eq_ignore_ascii_case(word)) {
            return Err(Refusal::segment(word));
        }
        self.require(&Method::POST)?;
        match name.as_str() {
            "addpassword" => {
                let mut made = self.directory.add_password(kind, key, self.body).await?;
                made["@odata.context"] =
                    json!(format!("{}/$metadata#microsoft.graph.passwordCredential", query::root(self.context)));
                Ok(json_reply(self.context, 200, &made))
            }
            "removepassword" => {
                self.directory.remove_password(kind, key, self.body).await?;
                Ok(self.done())
            }
            name => {
                let mut groups = self.directory.groups_of(kind, key).await?;
                if let Some(field) =
                    [("checkmembergroups", "groupIds"), ("checkmemberobjects", "ids")].iter().find(|(n, _)| *n == name)
                {
                    let asked = self.ids(field.1)?;
                    groups.retain(|g| asked.iter().any(|a| a.eq_ignore_ascii_case(g)));
                }
                Ok(json_reply(
                    self.context,
                    200,
                    &json!({
                        "@odata.context": format!("{}/$metadata#Collection(Edm.String)", query::root(self.context)),
                        "value": groups,
                    }),
                ))
            }
        }
    }

    fn ids(&self, field: &str) -> Result<Vec<String>, Refusal> {
        let ids: Option<Vec<String>> = self.body[field]
            .as_array()
            .filter(|all| all.len() <= MAX_IDS)
            .and_then(|all| all.iter().map(|id| id.as_str().map(str::to_owned)).collect());
        let ids = ids.ok_or_else(|| Refusal::bad(format!("'{field}' must be a list of at most {MAX_IDS} ids.")))?;
        match ids.iter().find(|id| uuid::Uuid::parse_str(id).is_err()) {
            Some(bad) => Err(Refusal {
                status: 400,
                code: "Request_BadRequest".to_owned(),
                message: format!("Invalid GUID:{bad}"),
            }),
            None => Ok(ids),
        }
    }

    async fn by_ids(&self, rest: &[&str]) -> Result<Reply, Refusal> {
        match rest {
            [word] if word.eq_ignore_ascii_case("getByIds") => {}
            [word, ..] => return Err(Refusal::segment(word)),
            [] => {
                return Err(Refusal::bad(
                    "Listing directoryObjects is not supported; ask for users, groups, applications or servicePrincipals.",
                ));
            }
        }
        self.require(&Method::POST)?;
        let ids = self.ids("ids")?;
        let types: Vec<&str> = self.body["types"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let all = types.is_empty() || types.iter().any(|t| t.eq_ignore_ascii_case("directoryObject"));
        let wanted = |kind: &Kind| all || types.iter().any(|t| t.eq_ignore_ascii_case(kind.entity()));
        let kinds: Vec<Kind> = Kind::ALL.into_iter().filter(wanted).collect();
        // In one answer, however many: clients do not follow links here.
        let found = self.directory.by_ids(&ids, &kinds).await?;
        Ok(json_reply(
            self.context,
            200,
            &json!({
                "@odata.context": format!("{}/$metadata#directoryObjects", query::root(self.context)),
                "value": found,
            }),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tenant_of_an_address_is_the_tokens() {
        const OWN: &str = "11111111-0000-4000-8000-000000000001";
        let below = |path: &str| {
            let path: Vec<String> = path.split('/').map(str::to_owned).collect();
            below_tenant(&path, OWN).map(|below| below.join("/")).map_err(|r| r.status)
        };
        for path in [format!("{OWN}/users"), format!("{}/users", OWN.to_uppercase()), "myorganization/users".into()] {
            assert_eq!(below(&path), Ok("users".to_owned()), "{path}");
        }
        assert_eq!(below("users"), Ok("users".to_owned()));
        assert_eq!(below("11111111-0000-4000-8000-000000000002/users"), Err(403));
        assert!(is_set("users") && is_set("Applications(appId='x')") && !is_set("photos"));
    }

    fn parse(path: &str) -> Result<Target, u16> {
        let path: Vec<String> = path.split('/').map(str::to_owned).collect();
        Target::parse(&path).map_err(|r| r.status)
    }

    #[test]
    fn objects_are_named_in_every_form_of_odata() {
        let target = |set, key: Option<Key>, rest: &[&str]| {
            Ok(Target { set, key, rest: rest.iter().map(|s| (*s).to_owned()).collect() })
        };
        let id = |id: &str| Some(Key::Id(id.to_owned()));
        assert_eq!(parse("users"), target(Set::Kind(Kind::User), None, &[]));
        assert_eq!(parse("Users/a@b"), target(Set::Kind(Kind::User), id("a@b"), &[]));
        assert_eq!(parse("users('$a''b')/memberOf"), target(Set::Kind(Kind::User), id("$a'b"), &["memberOf"]));
        let app = Some(Key::AppId("x".to_owned()));
        assert_eq!(
            parse("applications(appId='x')/addPassword"),
            target(Set::Kind(Kind::Application), app, &["addPassword"])
        );
        assert_eq!(
            parse("groups/g/members/m/$ref"),
            target(Set::Kind(Kind::Group), id("g"), &["members", "m", "$ref"])
        );
        assert_eq!(parse("users/$count"), target(Set::Kind(Kind::User), None, &["$count"]));
        assert_eq!(parse("directoryObjects/getByIds"), target(Set::DirectoryObjects, None, &["getByIds"]));
        assert_eq!(parse("me/ownedObjects"), target(Set::Me, None, &["ownedObjects"]));
        for bad in ["", "devices", "users(x)", "applications(name='x')", "users('x"] {
            assert_eq!(parse(bad), Err(400), "{bad}");
        }
    }
}
