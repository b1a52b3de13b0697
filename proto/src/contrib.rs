//! Messages of Envoy's contrib extensions, which `envoy-types` lacks. Their descriptors are in `build/istio.rs`.

use crate::pb::google::protobuf::{DoubleValue, Duration, UInt32Value};

/// `envoy.extensions.load_balancing_policies.peak_ewma.v3alpha.PeakEwma`.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct PeakEwma {
    #[prost(message, optional, tag = "1")]
    pub decay_time: Option<Duration>,
    #[prost(message, optional, tag = "2")]
    pub aggregation_interval: Option<Duration>,
    #[prost(message, optional, tag = "3")]
    pub max_samples_per_host: Option<UInt32Value>,
    #[prost(message, optional, tag = "4")]
    pub default_rtt: Option<Duration>,
    #[prost(message, optional, tag = "5")]
    pub penalty_value: Option<DoubleValue>,
}

impl prost::Name for PeakEwma {
    const NAME: &'static str = "PeakEwma";
    const PACKAGE: &'static str = "envoy.extensions.load_balancing_policies.peak_ewma.v3alpha";
}
