//! `OutlierDetection`.

use std::time::Duration;

use remora_proto::pb::envoy::config::cluster::v3 as pb;

use crate::cluster::outlier::OutlierConfig;
use crate::config::Compiled;
use crate::config::route::{duration, refuse};

pub(super) fn compile(config: &pb::OutlierDetection) -> Compiled<OutlierConfig> {
    refuse("monitors", !config.monitors.is_empty(), "not supported")?;
    let mut compiled = OutlierConfig::default();
    times(config, &mut compiled)?;
    numbers(config, &mut compiled)?;
    let c = &mut compiled;
    c.split_external_local_origin_errors = config.split_external_local_origin_errors;
    c.always_eject_one_host = config.always_eject_one_host.as_ref().is_some_and(|value| value.value);
    c.detect_degraded_hosts = config.detect_degraded_hosts.as_ref().is_some_and(|value| value.value);
    if let Some(value) = &config.successful_active_health_check_uneject_host {
        c.successful_active_health_check_uneject_host = value.value;
    }
    Ok(compiled)
}

/// Takes every number that is set; percentages end at 100.
fn numbers(config: &pb::OutlierDetection, compiled: &mut OutlierConfig) -> Compiled<()> {
    macro_rules! take {
        ($most:expr; $($field:ident),* $(,)?) => {
            $(if let Some(value) = &config.$field {
                let most: u32 = $most;
                refuse(stringify!($field), value.value > most, &format!("must be at most {most}"))?;
                compiled.$field = value.value;
            })*
        };
    }
    take!(100;
        max_ejection_percent,
        enforcing_consecutive_5xx,
        enforcing_success_rate,
        enforcing_consecutive_gateway_failure,
        enforcing_consecutive_local_origin_failure,
        enforcing_local_origin_success_rate,
        failure_percentage_threshold,
        enforcing_failure_percentage,
        enforcing_failure_percentage_local_origin,
    );
    take!(u32::MAX;
        consecutive_5xx,
        success_rate_minimum_hosts,
        success_rate_request_volume,
        success_rate_stdev_factor,
        consecutive_gateway_failure,
        consecutive_local_origin_failure,
        failure_percentage_minimum_hosts,
        failure_percentage_request_volume,
    );
    Ok(())
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
