//! `OutlierDetection`.

use std::time::Duration;

use remora_proto::pb::envoy::config::cluster::v3 as pb;
use remora_proto::pb::google::protobuf::UInt32Value;

use crate::cluster::outlier::OutlierConfig;
use crate::config::Compiled;
use crate::config::route::{duration, refuse};

pub(super) fn compile(config: &pb::OutlierDetection) -> Compiled<OutlierConfig> {
    refuse("monitors", !config.monitors.is_empty(), "not supported")?;
    let detects_degraded = config.detect_degraded_hosts.as_ref().is_some_and(|value| value.value);
    refuse("detect_degraded_hosts", detects_degraded, "not supported")?;
    let mut compiled = OutlierConfig::default();
    times(config, &mut compiled)?;
    let mut problem = None;
    let mut set = |field: &'static str, target: &mut u32, value: &Option<UInt32Value>, most: u32| {
        if let Some(value) = value {
            *target = value.value;
            if value.value > most {
                problem.get_or_insert((field, most));
            }
        }
    };
    let c = &mut compiled;
    let any = u32::MAX;
    set("consecutive_5xx", &mut c.consecutive_5xx, &config.consecutive_5xx, any);
    set(
        "max_ejection_percent",
        &mut c.max_ejection_percent,
        &config.max_ejection_percent,
        100,
    );
    set(
        "enforcing_consecutive_5xx",
        &mut c.enforcing_consecutive_5xx,
        &config.enforcing_consecutive_5xx,
        100,
    );
    set(
        "enforcing_success_rate",
        &mut c.enforcing_success_rate,
        &config.enforcing_success_rate,
        100,
    );
    set(
        "success_rate_minimum_hosts",
        &mut c.success_rate_minimum_hosts,
        &config.success_rate_minimum_hosts,
        any,
    );
    set(
        "success_rate_request_volume",
        &mut c.success_rate_request_volume,
        &config.success_rate_request_volume,
        any,
    );
    set(
        "success_rate_stdev_factor",
        &mut c.success_rate_stdev_factor,
        &config.success_rate_stdev_factor,
        any,
    );
    set(
        "consecutive_gateway_failure",
        &mut c.consecutive_gateway_failure,
        &config.consecutive_gateway_failure,
        any,
    );
    let enforcing = &config.enforcing_consecutive_gateway_failure;
    set(
        "enforcing_consecutive_gateway_failure",
        &mut c.enforcing_consecutive_gateway_failure,
        enforcing,
        100,
    );
    let failures = &config.consecutive_local_origin_failure;
    set(
        "consecutive_local_origin_failure",
        &mut c.consecutive_local_origin_failure,
        failures,
        any,
    );
    let enforcing = &config.enforcing_consecutive_local_origin_failure;
    set(
        "enforcing_consecutive_local_origin_failure",
        &mut c.enforcing_consecutive_local_origin_failure,
        enforcing,
        100,
    );
    let enforcing = &config.enforcing_local_origin_success_rate;
    set(
        "enforcing_local_origin_success_rate",
        &mut c.enforcing_local_origin_success_rate,
        enforcing,
        100,
    );
    let threshold = &config.failure_percentage_threshold;
    set(
        "failure_percentage_threshold",
        &mut c.failure_percentage_threshold,
        threshold,
        100,
    );
    let enforcing = &config.enforcing_failure_percentage;
    set(
        "enforcing_failure_percentage",
        &mut c.enforcing_failure_percentage,
        enforcing,
        100,
    );
    let enforcing = &config.enforcing_failure_percentage_local_origin;
    set(
        "enforcing_failure_percentage_local_origin",
        &mut c.enforcing_failure_percentage_local_origin,
        enforcing,
        100,
    );
    let minimum = &config.failure_percentage_minimum_hosts;
    set(
        "failure_percentage_minimum_hosts",
        &mut c.failure_percentage_minimum_hosts,
        minimum,
        any,
    );
    let volume = &config.failure_percentage_request_volume;
    set(
        "failure_percentage_request_volume",
        &mut c.failure_percentage_request_volume,
        volume,
        any,
    );
    c.split_external_local_origin_errors = config.split_external_local_origin_errors;
    c.always_eject_one_host = config.always_eject_one_host.as_ref().is_some_and(|value| value.value);
    if let Some(value) = &config.successful_active_health_check_uneject_host {
        c.successful_active_health_check_uneject_host = value.value;
    }
    match problem {
        Some((field, most)) => Err(crate::config::Problems::one(field, format!("must be at most {most}"))),
        None => Ok(compiled),
    }
}

fn times(config: &pb::OutlierDetection, compiled: &mut OutlierConfig) -> Compiled<()> {
    let positive = |field: &str, value: &Option<remora_proto::pb::google::protobuf::Duration>, default: Duration| {
        let time = duration(field, value.as_ref())?.unwrap_or(default);
        refuse(field, time.is_zero(), "must be greater than 0")?;
        Ok(time)
    };
    compiled.interval = positive("interval", &config.interval, compiled.interval)?;
    let base = positive(
        "base_ejection_time",
        &config.base_ejection_time,
        compiled.base_ejection_time,
    )?;
    compiled.base_ejection_time = base;
    // Unset, it is the larger of five minutes and the base.
    let longest = positive(
        "max_ejection_time",
        &config.max_ejection_time,
        compiled.max_ejection_time.max(base),
    )?;
    refuse(
        "max_ejection_time",
        longest < base,
        "must not be less than base_ejection_time",
    )?;
    compiled.max_ejection_time = longest;
    let jitter = duration("max_ejection_time_jitter", config.max_ejection_time_jitter.as_ref())?;
    compiled.max_ejection_time_jitter = jitter.unwrap_or_default();
    Ok(())
}
