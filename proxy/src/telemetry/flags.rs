//! Response flags: Envoy's short and long names (spec: `%RESPONSE_FLAGS%`, `%RESPONSE_FLAGS_LONG%`).

/// A set of response flags, printed in the order in which they were set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ResponseFlags {
    bits: u64,
    /// Bit numbers plus one, six bits each, the first set lowest; a stream that has more than ten flags prints ten.
    order: u64,
}

macro_rules! response_flags {
    ($($name:ident = $bit:literal, $short:literal, $long:literal;)*) => {
        impl ResponseFlags {
            $(#[doc = $long] pub const $name: Self = Self { bits: 1 << $bit, order: $bit + 1 };)*
        }

        /// Bit, short name, long name.
        const TABLE: &[(u64, &str, &str)] = &[$((1 << $bit, $short, $long)),*];
    };
}

response_flags! {
    FAILED_LOCAL_HEALTH_CHECK = 0, "LH", "FailedLocalHealthCheck";
    NO_HEALTHY_UPSTREAM = 1, "UH", "NoHealthyUpstream";
    UPSTREAM_REQUEST_TIMEOUT = 2, "UT", "UpstreamRequestTimeout";
    LOCAL_RESET = 3, "LR", "LocalReset";
    UPSTREAM_REMOTE_RESET = 4, "UR", "UpstreamRemoteReset";
    UPSTREAM_CONNECTION_FAILURE = 5, "UF", "UpstreamConnectionFailure";
    UPSTREAM_CONNECTION_TERMINATION = 6, "UC", "UpstreamConnectionTermination";
    UPSTREAM_OVERFLOW = 7, "UO", "UpstreamOverflow";
    NO_ROUTE_FOUND = 8, "NR", "NoRouteFound";
    DELAY_INJECTED = 9, "DI", "DelayInjected";
    FAULT_INJECTED = 10, "FI", "FaultInjected";
    RATE_LIMITED = 11, "RL", "RateLimited";
    UNAUTHORIZED_EXTERNAL_SERVICE = 12, "UAEX", "UnauthorizedExternalService";
    RATELIMIT_SERVICE_ERROR = 13, "RLSE", "RateLimitServiceError";
    DOWNSTREAM_CONNECTION_TERMINATION = 14, "DC", "DownstreamConnectionTermination";
    UPSTREAM_RETRY_LIMIT_EXCEEDED = 15, "URX", "UpstreamRetryLimitExceeded";
    STREAM_IDLE_TIMEOUT = 16, "SI", "StreamIdleTimeout";
    INVALID_ENVOY_REQUEST_HEADERS = 17, "IH", "InvalidEnvoyRequestHeaders";
    DOWNSTREAM_PROTOCOL_ERROR = 18, "DPE", "DownstreamProtocolError";
    UPSTREAM_MAX_STREAM_DURATION_REACHED = 19, "UMSDR", "UpstreamMaxStreamDurationReached";
    RESPONSE_FROM_CACHE_FILTER = 20, "RFCF", "ResponseFromCacheFilter";
    NO_FILTER_CONFIG_FOUND = 21, "NFCF", "NoFilterConfigFound";
    DURATION_TIMEOUT = 22, "DT", "DurationTimeout";
    UPSTREAM_PROTOCOL_ERROR = 23, "UPE", "UpstreamProtocolError";
    NO_CLUSTER_FOUND = 24, "NC", "NoClusterFound";
    OVERLOAD_MANAGER_TERMINATED = 25, "OM", "OverloadManagerTerminated";
    DNS_RESOLUTION_FAILED = 26, "DF", "DnsResolutionFailed";
    DROP_OVERLOAD = 27, "DO", "DropOverload";
    DOWNSTREAM_REMOTE_RESET = 28, "DR", "DownstreamRemoteReset";
    UNCONDITIONAL_DROP_OVERLOAD = 29, "UDO", "UnconditionalDropOverload";
}

impl ResponseFlags {
    pub fn set(&mut self, flag: Self) {
        for number in flag.numbers() {
            let bit = 1 << (number - 1);
            let place = self.bits.count_ones() * WIDTH;
            if self.bits & bit == 0 {
                self.bits |= bit;
                self.order |= number.checked_shl(place).unwrap_or(0);
            }
        }
    }

    pub fn contains(self, flag: Self) -> bool {
        self.bits & flag.bits == flag.bits
    }

    /// The set as a number, with Envoy's numbering of flags.
    pub fn bits(self) -> u64 {
        self.bits
    }

    pub fn is_empty(self) -> bool {
        self.bits == 0
    }

    /// The flag with that short name.
    pub fn parse(short: &str) -> Option<Self> {
        TABLE.iter().find(|row| row.1 == short).map(|row| Self {
            bits: row.0,
            order: u64::from(row.0.trailing_zeros()) + 1,
        })
    }

    /// Comma-separated short names, `-` for none.
    pub fn short(self) -> String {
        self.join(|row| row.1)
    }

    /// Comma-separated long names, `-` for none.
    pub fn long(self) -> String {
        self.join(|row| row.2)
    }

    /// Bit numbers plus one, in the order of their setting.
    fn numbers(self) -> impl Iterator<Item = u64> {
        (0..64 / WIDTH)
            .map(move |place| (self.order >> (place * WIDTH)) & ((1 << WIDTH) - 1))
            .take_while(|number| *number > 0)
    }

    fn join(self, name: fn(&(u64, &'static str, &'static str)) -> &'static str) -> String {
        let rows = self
            .numbers()
            .filter_map(|number| TABLE.iter().find(|row| row.0 == 1 << (number - 1)));
        let names: Vec<_> = rows.map(name).collect();
        if names.is_empty() {
            return "-".to_owned();
        }
        names.join(",")
    }
}

/// Bits of one number in [`ResponseFlags::order`].
const WIDTH: u32 = 6;

impl std::ops::BitOr for ResponseFlags {
    type Output = Self;

    fn bitor(mut self, other: Self) -> Self {
        self.set(other);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::ResponseFlags as F;

    #[test]
    fn flags_print_in_the_order_of_their_setting_and_each_once() {
        let mut flags = F::default();
        assert_eq!(flags.short(), "-");
        flags.set(F::UPSTREAM_RETRY_LIMIT_EXCEEDED);
        flags.set(F::UPSTREAM_REQUEST_TIMEOUT);
        flags.set(F::UPSTREAM_RETRY_LIMIT_EXCEEDED);
        assert_eq!(flags.short(), "URX,UT");
        assert_eq!(flags.long(), "UpstreamRetryLimitExceeded,UpstreamRequestTimeout");
        assert!(flags.contains(F::UPSTREAM_REQUEST_TIMEOUT) && !flags.contains(F::LOCAL_RESET));
        assert_eq!(F::parse("LH").map(F::short).as_deref(), Some("LH"));
        assert_eq!(F::parse("UDO").map(F::short).as_deref(), Some("UDO"));
    }
}
