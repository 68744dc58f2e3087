//! What a template asks of the world while it is deployed: the state of resources, the results of `list…` actions.

use serde_json::Value;
use std::collections::HashMap;

/// Something that must be read before an expression has a value.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Request {
    /// A resource as GET shows it. `api_version` is empty where the template names none.
    Resource { id: String, api_version: String },
    /// `POST {id}/{action}`; `body` is JSON text, empty for none.
    List { id: String, action: String, api_version: String, body: String },
}

impl Request {
    /// The resource that is asked.
    pub fn id(&self) -> &str {
        match self {
            Self::Resource { id, .. } | Self::List { id, .. } => id,
        }
    }
}

/// Answers, by what was asked.
#[derive(Debug, Clone, Default)]
pub struct Facts(HashMap<Request, Value>);

impl Facts {
    pub fn insert(&mut self, request: Request, answer: Value) {
        self.0.insert(request, answer);
    }

    pub(crate) fn get(&self, request: &Request) -> Option<&Value> {
        self.0.get(request)
    }
}
