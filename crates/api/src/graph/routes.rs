//! Every operation of the directory, as paths: what is asked of each (who gets an answer?) is asked of a new one too.
//!
//! A debug build refuses to answer on a path that is not here ([`has`]).

use super::{has_relation, is_writable};
use lazuli_engine::directory::{Kind, Relation};

/// An operation: its method, and its path below the version. What stands for a name is in braces.
pub type GraphRoute = (&'static str, String);

const READS_OF_RELATIONS: [&str; 4] = ["", "/$count", "/$ref", "/{cast}"];

/// All of them.
pub fn graph_routes() -> Vec<GraphRoute> {
    let mut all = vec![("GET", "organization".to_owned()), ("POST", "directoryObjects/getByIds".to_owned())];
    for kind in Kind::ALL {
        let set = kind.collection();
        all.extend([("GET", set.to_owned()), ("POST", set.to_owned()), ("GET", format!("{set}/$count"))]);
        all.extend(of_object(kind, &format!("{set}/{{{set}}}")));
    }
    // The same under other names.
    all.extend(of_object(Kind::User, "me"));
    for kind in Kind::ALL {
        all.extend(of_object(kind, &format!("directoryObjects/{{{}}}", kind.collection())));
    }
    all
}

fn of_object(kind: Kind, path: &str) -> Vec<GraphRoute> {
    let mut all: Vec<GraphRoute> = ["GET", "PATCH", "DELETE"].map(|method| (method, path.to_owned())).to_vec();
    for (word, relation) in Relation::ALL.iter().filter(|(_, relation)| has_relation(kind, *relation)) {
        all.extend(READS_OF_RELATIONS.map(|more| ("GET", format!("{path}/{word}{more}"))));
        if is_writable(*relation) {
            all.push(("POST", format!("{path}/{word}/$ref")));
            all.extend(["GET", "DELETE"].map(|method| (method, format!("{path}/{word}/{{related}}/$ref"))));
        }
    }
    all.extend(super::actions(kind).map(|action| ("POST", format!("{path}/{action}"))));
    if kind == Kind::Application {
        let credentials = format!("{path}/federatedIdentityCredentials");
        all.extend(["GET", "POST"].map(|method| (method, credentials.clone())));
        all.extend(["GET", "PATCH", "DELETE"].map(|method| (method, format!("{credentials}/{{federated}}"))));
    }
    all
}

/// Whether a request asks for one of them; `users('a')` is `users/a`.
pub(super) fn has(method: &str, path: &[String]) -> bool {
    let mut asked: Vec<&str> = path.iter().map(String::as_str).collect();
    if let Some((set, key)) = asked.first().and_then(|first| first.split_once('(')) {
        asked.splice(..1, [set, key]);
    }
    graph_routes().iter().any(|(own_method, own)| {
        let own: Vec<&str> = own.split('/').collect();
        let same = |(own, asked): (&&str, &&str)| own.starts_with('{') || own.eq_ignore_ascii_case(asked);
        *own_method == method && own.len() == asked.len() && own.iter().zip(&asked).all(same)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_found_in_every_form() {
        let has = |method, path: &str| has(method, &path.split('/').map(str::to_owned).collect::<Vec<_>>());
        assert!(has("GET", "users") && has("GET", "Users('a')/memberOf") && has("PATCH", "applications(appId='x')"));
        assert!(has("DELETE", "groups/g/members/m/$ref") && has("POST", "servicePrincipals/s/addPassword"));
        assert!(has("GET", "me/ownedObjects/microsoft.graph.application"));
        assert!(!has("POST", "users/u/addPassword") && !has("POST", "applications/a/members/$ref"));
        assert!(!has("GET", "devices") && !has("DELETE", "users"));
    }
}
