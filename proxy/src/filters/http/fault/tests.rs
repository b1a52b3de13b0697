use remora_proto::pb::envoy::extensions::filters::common::fault::v3 as pbc;
use remora_proto::pb::envoy::extensions::filters::http::fault::v3 as pb;
use remora_proto::pb::envoy::r#type::v3::FractionalPercent;
use remora_proto::pb::google::protobuf::{Duration as PbDuration, UInt32Value};

use super::*;
use crate::config::BuildContext;
use crate::filters::http::tests;
use crate::testing::exchange;
use pb::fault_abort::ErrorType;
use pbc::fault_delay::FaultDelaySecifier;

fn percent(numerator: u32) -> Option<FractionalPercent> {
    Some(FractionalPercent {
        numerator,
        denominator: 0,
    })
}

fn abort(error: ErrorType, percentage: Option<FractionalPercent>) -> pb::HttpFault {
    pb::HttpFault {
        abort: Some(pb::FaultAbort {
            error_type: Some(error),
            percentage,
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn delay(seconds: i64) -> Option<pbc::FaultDelay> {
    Some(pbc::FaultDelay {
        fault_delay_secifier: Some(FaultDelaySecifier::FixedDelay(PbDuration { seconds, nanos: 0 })),
        percentage: percent(100),
    })
}

fn filter(config: &pb::HttpFault, build: &BuildContext) -> Arc<dyn Filter> {
    tests::compile(REGISTRATION, config, build).expect("compiles")
}

fn answer(flow: Flow) -> Option<u16> {
    match flow {
        Flow::Respond(response) => Some(response.status().as_u16()),
        _ => None,
    }
}

#[test]
fn an_abort_is_flagged_counted_and_answered() {
    let build = BuildContext::default();
    let filter = filter(&abort(ErrorType::HttpStatus(418), percent(100)), &build);
    let mut request = exchange("GET", "/", &[("x-envoy-downstream-service-cluster", "web")]);
    assert_eq!(answer(filter.request_headers(&mut request)), Some(418));
    assert_eq!(
        (request.flags.short().as_str(), &*request.details),
        ("FI", "fault_filter_abort")
    );
    let stats = build.stats.group::<FaultStats>("http.in.fault.");
    assert_eq!((stats.aborts_injected.value(), stats.active_faults.value()), (1, 1));
    assert_eq!(stats.dynamic.counter("web.aborts_injected").value(), 1);
    drop(request);
    assert_eq!(stats.active_faults.value(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_delay_comes_before_the_abort() {
    let build = BuildContext::default();
    let config = pb::HttpFault {
        delay: delay(5),
        ..abort(ErrorType::GrpcStatus(14), percent(100))
    };
    let mut request = exchange("GET", "/", &[]);
    let Flow::Wait(waiting) = filter(&config, &build).request_headers(&mut request) else {
        panic!("waits");
    };
    assert_eq!(request.flags.short(), "DI,FI");
    let started = clock::now();
    assert_eq!(answer(waiting.await), Some(503));
    assert_eq!(clock::now() - started, Duration::from_secs(5));
}

#[test]
fn limits_and_conditions_hold() {
    let build = BuildContext::default();
    let config = pb::HttpFault {
        max_active_faults: Some(UInt32Value { value: 1 }),
        downstream_nodes: vec!["n".into()],
        ..abort(ErrorType::HttpStatus(503), percent(100))
    };
    let filter = filter(&config, &build);
    let request = || exchange("GET", "/", &[("x-envoy-downstream-service-node", "n")]);
    let (mut first, mut second, mut other) = (request(), request(), exchange("GET", "/", &[]));
    assert_eq!(answer(filter.request_headers(&mut other)), None);
    assert_eq!(answer(filter.request_headers(&mut first)), Some(503));
    assert_eq!(answer(filter.request_headers(&mut second)), None);
    let stats = build.stats.group::<FaultStats>("http.in.fault.");
    assert_eq!(stats.faults_overflow.value(), 1);
}

#[test]
fn headers_ask_within_what_is_configured() {
    let build = BuildContext::default();
    let by_header = || ErrorType::HeaderAbort(pb::fault_abort::HeaderAbort {});
    let ask = |percentage, headers: &[(&str, &str)]| {
        let filter = filter(&abort(by_header(), percentage), &build);
        answer(filter.request_headers(&mut exchange("GET", "/", headers)))
    };
    assert_eq!(ask(percent(100), &[("x-envoy-fault-abort-request", "404")]), Some(404));
    assert_eq!(ask(percent(100), &[("x-envoy-fault-abort-request", "99")]), None);
    assert_eq!(ask(percent(100), &[]), None);
    assert_eq!(ask(percent(0), &[("x-envoy-fault-abort-request", "404")]), None);
    let none = [
        ("x-envoy-fault-abort-request", "404"),
        ("x-envoy-fault-abort-request-percentage", "0"),
    ];
    assert_eq!(ask(percent(100), &none), None);
}

#[test]
fn a_route_overrides_the_filter() {
    let build = BuildContext::default();
    let filter = filter(&pb::HttpFault::default(), &build);
    let mut request = exchange("GET", "/", &[]);
    assert_eq!(answer(filter.request_headers(&mut request)), None);
    let own = abort(ErrorType::HttpStatus(500), percent(100));
    request.route = tests::route_with(TYPE, &own).expect("compiles");
    assert_eq!(answer(filter.request_headers(&mut request)), Some(500));
}

#[test]
fn what_is_not_injected_is_refused() {
    let build = BuildContext::default();
    let slow = pb::HttpFault {
        response_rate_limit: Some(Default::default()),
        ..Default::default()
    };
    let problems = tests::compile(REGISTRATION, &slow, &build).err().expect("refused");
    assert_eq!(problems.0[0].path, "response_rate_limit");
    let odd = abort(ErrorType::HttpStatus(700), None);
    let problems = tests::compile(REGISTRATION, &odd, &build).err().expect("refused");
    assert_eq!(problems.0[0].path, "abort.http_status");
}
