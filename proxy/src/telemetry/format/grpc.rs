//! gRPC status of a response, and how operators print it.

use super::view::LogView;
use crate::route::view::is_grpc;

/// The status of a gRPC request: from trailers, else headers, else what the HTTP status stands for. `None`: no gRPC.
pub fn grpc_status(view: &LogView<'_>) -> Option<u32> {
    let exchange = view.exchange.filter(|exchange| is_grpc(exchange.headers()))?;
    grpc_sent(view).or_else(|| exchange.response_code.map(|code| grpc_of_http(code.as_u16())))
}

/// The `grpc-status` that the response carries.
pub fn grpc_sent(view: &LogView<'_>) -> Option<u32> {
    let of = |headers: &http::HeaderMap| headers.get("grpc-status")?.to_str().ok()?.parse().ok();
    view.trailers.and_then(of).or_else(|| view.response.and_then(of))
}

/// What gRPC clients take an HTTP status without `grpc-status` for.
pub fn grpc_of_http(code: u16) -> u32 {
    match code {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

/// How `GRPC_STATUS` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GrpcStyle {
    Camel,
    Snake,
    Number,
}

impl GrpcStyle {
    pub(super) fn parse(parameter: &str) -> Result<Self, String> {
        Ok(match parameter {
            "" | "CAMEL_STRING" => Self::Camel,
            "SNAKE_STRING" => Self::Snake,
            "NUMBER" => Self::Number,
            other => return Err(format!("%GRPC_STATUS% does not know {other}")),
        })
    }

    pub(super) fn write(self, status: u32, out: &mut Vec<u8>) {
        let names = NAMES.get(status as usize);
        match (self, names) {
            (Self::Camel, Some((camel, _))) => out.extend_from_slice(camel.as_bytes()),
            (Self::Snake, Some((_, snake))) => out.extend_from_slice(snake.as_bytes()),
            _ => out.extend_from_slice(itoa::Buffer::new().format(status).as_bytes()),
        }
    }
}

/// By number.
const NAMES: &[(&str, &str)] = &[
    ("OK", "OK"),
    ("Canceled", "CANCELLED"),
    ("Unknown", "UNKNOWN"),
    ("InvalidArgument", "INVALID_ARGUMENT"),
    ("DeadlineExceeded", "DEADLINE_EXCEEDED"),
    ("NotFound", "NOT_FOUND"),
    ("AlreadyExists", "ALREADY_EXISTS"),
    ("PermissionDenied", "PERMISSION_DENIED"),
    ("ResourceExhausted", "RESOURCE_EXHAUSTED"),
    ("FailedPrecondition", "FAILED_PRECONDITION"),
    ("Aborted", "ABORTED"),
    ("OutOfRange", "OUT_OF_RANGE"),
    ("Unimplemented", "UNIMPLEMENTED"),
    ("Internal", "INTERNAL"),
    ("Unavailable", "UNAVAILABLE"),
    ("DataLoss", "DATA_LOSS"),
    ("Unauthenticated", "UNAUTHENTICATED"),
];
