//! Failures: one enum, one table (D10).

use std::borrow::Cow;

use http::StatusCode;

use crate::telemetry::flags::ResponseFlags;

/// Everything that makes us answer in the upstream's place, or cut a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No virtual host or no route matched, or the table has not come yet.
    RouteNotFound,
    ClusterNotFound(StatusCode),
    MaintenanceMode,
    NoHealthyUpstream,
    /// There is a connection, but a circuit breaker lets no more requests go over any.
    Overflow,
    /// There is no connection, and a circuit breaker lets nobody else wait for one.
    QueueOverflow,
    /// `drop_overloads` of the endpoints: this request, or all.
    DropOverload {
        all: bool,
    },
    /// Connect refused, reset or TLS failure; the transport's reason if it has one.
    ConnectFailure(Option<String>),
    /// The address that the connection was to come from could not be bound; why.
    BindFailure(String),
    ConnectTimeout,
    /// The upstream closed before response headers, or within the body.
    ConnectionTermination,
    /// The upstream reset the stream.
    RemoteReset,
    /// REFUSED_STREAM
    RemoteRefused,
    LocalReset,
    /// The upstream broke its protocol; the codec's reason.
    ProtocolError(&'static str),
    /// The route's timeout ran out.
    ResponseTimeout,
    PerTryTimeout,
    /// `max_stream_duration` of the cluster ran out.
    MaxStreamDuration {
        request_complete: bool,
    },
    /// `stream_idle_timeout`
    StreamIdleTimeout {
        request_complete: bool,
    },
    /// `max_stream_duration` of the route ran out.
    StreamDuration {
        request_complete: bool,
    },
    /// `request_timeout`
    RequestTimeout,
    /// `request_headers_timeout`
    RequestHeadersTimeout,
    /// The client went away: nothing is answered, code 0 is logged.
    DownstreamDisconnect,
    /// The client reset the stream (HTTP/2).
    DownstreamReset,
    /// The client broke the protocol: details and the status of the answer.
    BadRequest {
        details: &'static str,
        status: StatusCode,
    },
    /// The time to leave a draining listener was over before the exchange was: it is cut.
    DrainOver,
    UpgradeFailed,
    PayloadTooLarge,
    /// The buffer for retries ran over while a retry was due.
    RetryBufferExceeded,
    /// `per_try_idle_timeout` ran out.
    PerTryIdleTimeout,
    /// The answer was a redirect that is followed here: nobody gets it.
    InternalRedirect(StatusCode),
}

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    pub status: StatusCode,
    /// For gRPC clients; `None`: what the HTTP status means.
    pub grpc: Option<u32>,
    pub flags: ResponseFlags,
    /// `%RESPONSE_CODE_DETAILS%`
    pub details: &'static str,
    pub body: &'static str,
    /// Whether the downstream connection closes behind the answer.
    pub close_downstream: bool,
}

impl Failure {
    /// The row of the failure table.
    pub fn row(&self) -> Row {
        (self.routing_row())
            .or_else(|| self.timeout_row())
            .unwrap_or_else(|| self.client_row())
    }

    /// Rows of what routing and the upstream's connection do not give; none for the others.
    fn routing_row(&self) -> Option<Row> {
        use ResponseFlags as F;
        use StatusCode as S;
        /// The upstream stream ended before its response began.
        macro_rules! reset {
            ($status:ident, $flag:ident, $details:literal, $reason:literal) => {
                row(
                    S::$status,
                    F::$flag,
                    concat!("upstream_reset_before_response_started{", $details, "}"),
                    concat!(
                        "upstream connect error or disconnect/reset before headers. reset reason: ",
                        $reason
                    ),
                )
            };
        }
        Some(match self {
            Self::RouteNotFound => row(S::NOT_FOUND, F::NO_ROUTE_FOUND, "route_not_found", ""),
            Self::ClusterNotFound(status) => row(*status, F::NO_CLUSTER_FOUND, "cluster_not_found", ""),
            Self::MaintenanceMode => row(
                S::SERVICE_UNAVAILABLE,
                F::UPSTREAM_OVERFLOW,
                "maintenance_mode",
                "maintenance mode",
            ),
            Self::NoHealthyUpstream => row(
                S::SERVICE_UNAVAILABLE,
                F::NO_HEALTHY_UPSTREAM,
                "no_healthy_upstream",
                "no healthy upstream",
            ),
            Self::DropOverload { all } => Self::drop_row(*all),
            Self::Overflow | Self::QueueOverflow => {
                reset!(SERVICE_UNAVAILABLE, UPSTREAM_OVERFLOW, "overflow", "overflow")
            }
            Self::ConnectFailure(_) => reset!(
                SERVICE_UNAVAILABLE,
                UPSTREAM_CONNECTION_FAILURE,
                "remote_connection_failure",
                "remote connection failure"
            ),
            Self::BindFailure(_) => reset!(
                SERVICE_UNAVAILABLE,
                UPSTREAM_CONNECTION_FAILURE,
                "local_connection_failure",
                "local connection failure"
            ),
            Self::ConnectTimeout => reset!(
                SERVICE_UNAVAILABLE,
                UPSTREAM_CONNECTION_FAILURE,
                "connection_timeout",
                "connection timeout"
            ),
            Self::ConnectionTermination => reset!(
                SERVICE_UNAVAILABLE,
                UPSTREAM_CONNECTION_TERMINATION,
                "connection_termination",
                "connection termination"
            ),
            Self::RemoteReset => reset!(
                SERVICE_UNAVAILABLE,
                UPSTREAM_REMOTE_RESET,
                "remote_reset",
                "remote reset"
            ),
            Self::RemoteRefused => reset!(
                SERVICE_UNAVAILABLE,
                UPSTREAM_REMOTE_RESET,
                "remote_refused_stream_reset",
                "remote refused stream reset"
            ),
            Self::LocalReset => reset!(SERVICE_UNAVAILABLE, LOCAL_RESET, "local_reset", "local reset"),
            Self::ProtocolError(_) => reset!(BAD_GATEWAY, UPSTREAM_PROTOCOL_ERROR, "protocol_error", "protocol error"),
            _ => return None,
        })
    }

    /// Rows of time limits; none for the others.
    fn timeout_row(&self) -> Option<Row> {
        use ResponseFlags as F;
        use StatusCode as S;
        Some(match self {
            Self::ResponseTimeout => row(
                S::GATEWAY_TIMEOUT,
                F::UPSTREAM_REQUEST_TIMEOUT,
                "response_timeout",
                "upstream request timeout",
            ),
            Self::PerTryTimeout => row(
                S::GATEWAY_TIMEOUT,
                F::UPSTREAM_REQUEST_TIMEOUT,
                "upstream_per_try_timeout",
                "upstream request timeout",
            ),
            Self::PerTryIdleTimeout => row(
                S::GATEWAY_TIMEOUT,
                F::UPSTREAM_REQUEST_TIMEOUT,
                "upstream_per_try_idle_timeout",
                "upstream request timeout",
            ),
            Self::MaxStreamDuration { request_complete } => row(
                if *request_complete {
                    S::GATEWAY_TIMEOUT
                } else {
                    S::REQUEST_TIMEOUT
                },
                F::UPSTREAM_MAX_STREAM_DURATION_REACHED,
                "upstream_max_stream_duration_reached",
                "upstream max stream duration reached",
            ),
            Self::StreamDuration { request_complete } => Row {
                grpc: Some(DEADLINE_EXCEEDED),
                ..row(
                    if *request_complete {
                        S::GATEWAY_TIMEOUT
                    } else {
                        S::REQUEST_TIMEOUT
                    },
                    F::default(),
                    "max_duration_timeout",
                    "downstream duration timeout",
                )
            },
            Self::StreamIdleTimeout { request_complete } => row(
                if *request_complete {
                    S::GATEWAY_TIMEOUT
                } else {
                    S::REQUEST_TIMEOUT
                },
                F::STREAM_IDLE_TIMEOUT,
                "stream_idle_timeout",
                "stream timeout",
            ),
            Self::RequestHeadersTimeout => close(row(
                S::REQUEST_TIMEOUT,
                F::default(),
                "request_header_timeout",
                "request header timeout",
            )),
            Self::RequestTimeout => close(row(
                S::REQUEST_TIMEOUT,
                F::default(),
                "request_overall_timeout",
                "request timeout",
            )),
            _ => return None,
        })
    }

    /// Rows of the client's doing and of our own limits.
    fn client_row(&self) -> Row {
        use ResponseFlags as F;
        use StatusCode as S;
        let none = F::default();
        match self {
            Self::DownstreamDisconnect => close(row(
                S::SERVICE_UNAVAILABLE,
                F::DOWNSTREAM_CONNECTION_TERMINATION,
                "downstream_remote_disconnect",
                "",
            )),
            Self::DownstreamReset => row(
                S::SERVICE_UNAVAILABLE,
                F::DOWNSTREAM_REMOTE_RESET,
                "http2.remote_reset",
                "",
            ),
            Self::DrainOver => close(row(
                S::SERVICE_UNAVAILABLE,
                F::DOWNSTREAM_CONNECTION_TERMINATION,
                "downstream_local_disconnect",
                "",
            )),
            Self::BadRequest { details, status } => close(row(
                *status,
                F::DOWNSTREAM_PROTOCOL_ERROR,
                details,
                bad_request_body(*status),
            )),
            // What follows may be the payload of the upgrade: it must not be read as a request.
            Self::UpgradeFailed => close(row(S::FORBIDDEN, none, "upgrade_failed", "")),
            Self::PayloadTooLarge => row(
                S::PAYLOAD_TOO_LARGE,
                none,
                "request_payload_too_large",
                "Payload Too Large",
            ),
            Self::RetryBufferExceeded => row(
                S::INSUFFICIENT_STORAGE,
                none,
                "request_payload_exceeded_retry_buffer_limit",
                "exceeded request buffer limit while retrying upstream",
            ),
            Self::InternalRedirect(status) => row(*status, none, "internal_redirect", ""),
            // These have their rows above; named, so that a new failure cannot be forgotten in both.
            Self::RouteNotFound
            | Self::ClusterNotFound(_)
            | Self::MaintenanceMode
            | Self::NoHealthyUpstream
            | Self::Overflow
            | Self::QueueOverflow
            | Self::DropOverload { .. }
            | Self::ConnectFailure(_)
            | Self::BindFailure(_)
            | Self::ConnectTimeout
            | Self::ConnectionTermination
            | Self::RemoteReset
            | Self::RemoteRefused
            | Self::LocalReset
            | Self::ProtocolError(_)
            | Self::ResponseTimeout
            | Self::PerTryTimeout
            | Self::PerTryIdleTimeout
            | Self::MaxStreamDuration { .. }
            | Self::StreamIdleTimeout { .. }
            | Self::RequestHeadersTimeout
            | Self::StreamDuration { .. }
            | Self::RequestTimeout => row(S::SERVICE_UNAVAILABLE, F::LOCAL_RESET, "local_reset", ""),
        }
    }

    /// The status of the answer on a stream, which may have asked for another one on timeouts.
    pub fn status(&self, timeout_is_no_content: bool) -> StatusCode {
        let is_timeout = matches!(
            self,
            Self::ResponseTimeout | Self::PerTryTimeout | Self::PerTryIdleTimeout
        );
        if is_timeout && timeout_is_no_content {
            return StatusCode::NO_CONTENT;
        }
        self.row().status
    }

    /// Whether anybody is left to hear an answer.
    pub fn is_answered(&self) -> bool {
        !matches!(
            self,
            Self::DownstreamDisconnect | Self::DownstreamReset | Self::DrainOver | Self::InternalRedirect(_)
        )
    }

    /// `%RESPONSE_CODE_DETAILS%` of a stream that ended when its response had begun.
    pub fn details_after_start(&self) -> &'static str {
        match self {
            Self::RemoteReset => "upstream_reset_after_response_started{remote_reset}",
            Self::RemoteRefused => "upstream_reset_after_response_started{remote_refused_stream_reset}",
            Self::ConnectionTermination => "upstream_reset_after_response_started{connection_termination}",
            Self::ProtocolError(_) => "upstream_reset_after_response_started{protocol_error}",
            Self::LocalReset => "upstream_reset_after_response_started{local_reset}",
            other => other.row().details,
        }
    }

    /// Whether an attempt ended so by itself: the request may have others.
    pub fn is_reset(&self) -> bool {
        self.details().starts_with("upstream_reset_before_response_started")
    }

    pub fn details(&self) -> &'static str {
        self.row().details
    }

    /// `%RESPONSE_CODE_DETAILS%` with the transport's reason in it; blanks become `_`, as Envoy prints them.
    pub fn full_details(&self) -> Cow<'static, str> {
        match self.transport_reason() {
            Some(reason) => {
                let details = self.details().trim_end_matches('}');
                Cow::Owned(format!("{details}|{reason}}}").replace(' ', "_"))
            }
            None => Cow::Borrowed(self.details()),
        }
    }

    /// The body of the answer. After a retry Envoy says so in it. What the transport said is for the log alone.
    pub fn body_text(&self, attempts: u32) -> Cow<'static, str> {
        let body = self.row().body;
        match attempts > 1 && body.starts_with(RESET_BODY) {
            true => Cow::Owned(body.replacen("reset reason:", "retried and the latest reset reason:", 1)),
            false => Cow::Borrowed(body),
        }
    }

    /// A request that its cluster drops: some of them, or all.
    fn drop_row(all: bool) -> Row {
        let (flag, details, body) = match all {
            false => (ResponseFlags::DROP_OVERLOAD, "drop_overload", "drop overload"),
            true => (
                ResponseFlags::UNCONDITIONAL_DROP_OVERLOAD,
                "unconditional_drop_overload",
                "unconditional drop overload",
            ),
        };
        row(StatusCode::SERVICE_UNAVAILABLE, flag, details, body)
    }

    /// What the transport said, in Envoy's words.
    pub fn transport_reason(&self) -> Option<&str> {
        match self {
            Self::ConnectFailure(reason) => reason.as_deref(),
            Self::BindFailure(reason) => Some(reason),
            _ => None,
        }
    }
}

fn row(status: StatusCode, flags: ResponseFlags, details: &'static str, body: &'static str) -> Row {
    Row {
        status,
        grpc: None,
        flags,
        details,
        body,
        close_downstream: false,
    }
}

fn close(row: Row) -> Row {
    Row {
        close_downstream: true,
        ..row
    }
}

/// gRPC's status of that name.
const DEADLINE_EXCEEDED: u32 = 4;

const RESET_BODY: &str = "upstream connect error or disconnect/reset before headers. reset reason: ";

fn bad_request_body(status: StatusCode) -> &'static str {
    match status {
        StatusCode::BAD_REQUEST => "Bad Request",
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => "Request Header Fields Too Large",
        StatusCode::NOT_IMPLEMENTED => "Not Implemented",
        StatusCode::UPGRADE_REQUIRED => "Upgrade Required",
        StatusCode::HTTP_VERSION_NOT_SUPPORTED => "HTTP Version Not Supported",
        _ => "",
    }
}
