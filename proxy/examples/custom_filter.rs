//! A proxy with an HTTP filter of its own.
//!
//! ```text
//! cargo run -p remora --example custom_filter -- -c envoy.yaml
//! ```
//!
//! The filter is configured like any of Envoy's, by the type of its configuration; here a `google.protobuf.StringValue` that says who greets.

use std::sync::Arc;

use http::{HeaderValue, Response};
use remora::cli;
use remora::config::Problems;
use remora::filters::http::{Filter, Flow, Registration, Stage, register};
use remora::http::{body::Body, exchange::Exchange};

/// Adds `x-greeting` to every response.
struct Greeting(HeaderValue);

impl Filter for Greeting {
    fn response_headers(&self, _: &mut Exchange, response: &mut Response<Body>) -> Flow {
        response.headers_mut().insert("x-greeting", self.0.clone());
        Flow::Continue
    }
}

/// What the registry needs to know: the type of the configuration, and how a filter is made of it.
pub fn registration() -> Registration {
    Registration {
        type_name: "google.protobuf.StringValue",
        compile: |config, _| {
            let text = remora_proto::wire::bytes_field(config, 1).ok().flatten();
            let value = HeaderValue::from_bytes(text.unwrap_or(b"hello"));
            let value = value.map_err(|error| Problems::one("value", error.to_string()))?;
            Ok(Stage::Filter(Arc::new(Greeting(value))))
        },
        per_route: &[],
    }
}

fn main() -> std::process::ExitCode {
    register(registration());
    cli::main(std::env::args_os())
}
