//! What an authorization service decided.

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use remora_proto::pb::google::protobuf::Struct;

use crate::http::exchange::Exchange;
use crate::http::header_policy::mutations::append;

/// A decision, or the reason why there is none.
pub(crate) enum Decision {
    Granted(Grant),
    Denied(Denial),
    None(String),
}

/// What becomes of a request that may pass.
#[derive(Default)]
pub(crate) struct Grant {
    pub request: Vec<HeaderChange>,
    pub remove: Vec<HeaderName>,
    pub client: Vec<HeaderChange>,
    pub query: Option<QueryChange>,
    pub metadata: Option<Struct>,
    /// Some header was none; it was left out.
    pub invalid: bool,
}

/// What a request is answered that may not.
pub(crate) struct Denial {
    pub status: StatusCode,
    pub headers: Vec<HeaderChange>,
    pub body: String,
    pub metadata: Option<Struct>,
    /// Some header was none; it was left out.
    pub invalid: bool,
}

impl Denial {
    pub fn plain(status: StatusCode) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: String::new(),
            metadata: None,
            invalid: false,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Set,
    Add,
    /// Envoy's `headers_to_append`: only onto a header that is there.
    AppendToPresent,
    AddIfAbsent,
    SetIfPresent,
}

#[derive(Clone, Debug)]
pub(crate) struct HeaderChange {
    pub name: HeaderName,
    pub value: HeaderValue,
    pub change: Change,
}

impl HeaderChange {
    pub fn apply(&self, headers: &mut HeaderMap) {
        let present = headers.contains_key(&self.name);
        match self.change {
            Change::Set => {
                headers.insert(&self.name, self.value.clone());
            }
            Change::Add => append(headers, &self.name, self.value.clone()),
            Change::AppendToPresent if present => self.join(headers),
            Change::AddIfAbsent if !present => {
                headers.insert(&self.name, self.value.clone());
            }
            Change::SetIfPresent if present => {
                headers.insert(&self.name, self.value.clone());
            }
            Change::AppendToPresent | Change::AddIfAbsent | Change::SetIfPresent => {}
        }
    }
}

impl HeaderChange {
    /// Onto the value that is there, after a comma.
    fn join(&self, headers: &mut HeaderMap) {
        let lines = headers.get_all(&self.name).iter().map(HeaderValue::as_bytes);
        let joined = lines.chain([self.value.as_bytes()]).collect::<Vec<_>>().join(&b","[..]);
        if let Ok(joined) = HeaderValue::from_bytes(&joined) {
            headers.insert(&self.name, joined);
        }
    }
}

/// Query parameters that the service sets and removes.
pub(crate) struct QueryChange {
    pub set: Vec<(String, String)>,
    pub remove: Vec<String>,
}

impl QueryChange {
    /// Rewrites the request's path; one that could not be a path stays as it was.
    pub fn apply(&self, exchange: &mut Exchange) {
        let uri = exchange.request.uri();
        let mut parameters: Vec<(String, String)> = uri
            .query()
            .unwrap_or_default()
            .split('&')
            .filter(|one| !one.is_empty())
            .map(|one| {
                let (key, value) = one.split_once('=').unwrap_or((one, ""));
                (key.to_owned(), value.to_owned())
            })
            .collect();
        for (key, value) in &self.set {
            parameters.retain(|(known, _)| known != key);
            parameters.push((key.clone(), value.clone()));
        }
        parameters.retain(|(key, _)| !self.remove.contains(key));
        let query: Vec<String> = parameters.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let path = match query.is_empty() {
            true => uri.path().to_owned(),
            false => format!("{}?{}", uri.path(), query.join("&")),
        };
        let Ok(path) = PathAndQuery::try_from(path) else {
            return;
        };
        let mut parts = uri.clone().into_parts();
        parts.path_and_query = Some(path);
        if let Ok(uri) = http::Uri::from_parts(parts) {
            *exchange.request.uri_mut() = uri;
        }
    }
}
