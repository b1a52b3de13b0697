//! The socket of the admin server, and the way from a request to its endpoint.

use std::io;
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use http::request::Parts;
use http::{Method, StatusCode};
use tokio::net::{TcpListener, UnixListener};

use super::counted::{CountedRequest, Counting};
use super::endpoints::{self, Handler};
use super::log::{self, Ends};
use super::query::Query;
use super::reply::{self, Reply};
use super::{AdminState, runtime};
use crate::runtime::drain::{DrainPhase, DrainSignal};
use crate::runtime::io::Address;

/// The bound socket of `admin.address`.
pub enum Bound {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Serves until `stop` is at least draining, then lets running requests finish.
///
/// # Errors
/// None so far: accept errors are waited out.
///
/// # Cancel safety
/// Dropping the future closes the socket; connections that run go on until their peers leave.
pub async fn serve(bound: Bound, state: Arc<AdminState>, mut stop: DrainSignal) -> io::Result<()> {
    let stats = state.stats.clone();
    let app = router(state);
    let stopped = async move { stop.reached(DrainPhase::Draining).await };
    match bound {
        Bound::Tcp(listener) => {
            let listener = Counting::new(listener, &stats);
            let app = app.into_make_service_with_connect_info::<Ends>();
            axum::serve(listener, app).with_graceful_shutdown(stopped).await
        }
        Bound::Unix(listener) => {
            let listener = Counting::new(listener, &stats);
            let app = app.into_make_service_with_connect_info::<Ends>();
            axum::serve(listener, app).with_graceful_shutdown(stopped).await
        }
    }
}

/// The whole admin API as a service.
pub fn router(state: Arc<AdminState>) -> Router {
    Router::new().fallback(dispatch).with_state(state)
}

/// Writes where the admin server listens to the file of `--admin-address-path`, as Envoy does: `127.0.0.1:15000`, no newline.
///
/// # Errors
/// When the file cannot be written.
pub fn write_address_path(path: &Path, address: &crate::runtime::io::Address) -> io::Result<()> {
    std::fs::write(path, address.to_string())
}

async fn dispatch(State(state): State<Arc<AdminState>>, request: Request) -> Reply {
    let (head, body) = request.into_parts();
    let counted = CountedRequest::begin(&state.stats);
    let form = form(&head, body).await;
    if state.access_logs.is_empty() {
        let reply = page(state, &head, &form).await;
        counted.answer(reply.status());
        return reply;
    }
    let (exchange, logs) = (log::exchange(&head), state.access_logs.clone());
    let reply = page(state, &head, &form).await;
    counted.answer(reply.status());
    log::logged(reply, exchange, logs)
}

/// The fields of a form that stand in place of a query; empty where there are none.
async fn form(head: &Parts, body: Body) -> String {
    let kind = head.headers.get(http::header::CONTENT_TYPE);
    let takes_form = head.uri.path() == runtime::MODIFY && head.uri.query().is_none_or(str::is_empty);
    if !takes_form || kind.is_none_or(|kind| !kind.as_bytes().starts_with(b"application/x-www-form-urlencoded")) {
        return String::new();
    }
    let bytes = axum::body::to_bytes(body, FORM_LIMIT).await.unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Bytes of a form.
const FORM_LIMIT: usize = 1 << 20;

async fn page(state: Arc<AdminState>, request: &Parts, form: &str) -> Reply {
    let uri = &request.uri;
    let allowed = |path: &str| state.allow_paths.iter().any(|matcher| matcher.matches(path.as_bytes()));
    if !state.allow_paths.is_empty() && !allowed(uri.path()) {
        let page = format!("request to path {} not allowed", uri.path());
        return reply::text(StatusCode::FORBIDDEN, page);
    }
    let Some(endpoint) = endpoints::find(uri.path()) else {
        let page = format!("invalid path. {}", endpoints::help_text());
        return reply::text(StatusCode::NOT_FOUND, page);
    };
    if endpoint.mutates && request.method != Method::POST {
        let page = format!("Method {} not allowed, POST required.", request.method);
        return reply::text(StatusCode::METHOD_NOT_ALLOWED, page);
    }
    let query = Query::parse(uri.query().filter(|query| !query.is_empty()).unwrap_or(form));
    match endpoint.handler {
        Handler::Direct(handler) => handler(&state, &query),
        Handler::Blocking(handler) => tokio::task::spawn_blocking(move || handler(&state, &query))
            .await
            .unwrap_or_else(|error| reply::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n"))),
        Handler::Async(handler) => handler(state, query).await,
    }
}

impl Bound {
    /// Binds the admin address.
    ///
    /// # Errors
    /// The address is in use, or of a kind that nobody can listen on.
    pub fn bind(address: &Address) -> io::Result<Self> {
        match address {
            Address::Ip(address) => {
                let listener = std::net::TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                Ok(Self::Tcp(TcpListener::from_std(listener)?))
            }
            Address::Pipe(path) => Ok(Self::Unix(UnixListener::bind(&**path)?)),
            Address::Internal(_) => Err(io::ErrorKind::AddrNotAvailable.into()),
        }
    }

    /// Where it really listens.
    pub fn address(&self) -> Option<Address> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok().map(Address::Ip),
            Self::Unix(listener) => {
                let address = listener.local_addr().ok()?;
                Some(Address::Pipe(address.as_pathname()?.to_str()?.into()))
            }
        }
    }
}
