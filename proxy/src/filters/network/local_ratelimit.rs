//! `envoy.filters.network.local_ratelimit`: a token bucket for new connections.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prost::Message;
use remora_proto::pb::envoy::extensions::filters::network::local_ratelimit::v3::LocalRateLimit as Config;
use remora_proto::pb::envoy::r#type::v3::TokenBucket as PbTokenBucket;

use super::{Closing, NetworkFilter, Verdict};
use crate::config::listener::duration;
use crate::config::live::Switch;
use crate::config::{BuildContext, Compiled, Problems};
use crate::listener::ConnectionInfo;
use crate::runtime::clock;
use crate::telemetry::flags::ResponseFlags;

pub const TYPE_URL: &str = "type.googleapis.com/envoy.extensions.filters.network.local_ratelimit.v3.LocalRateLimit";

crate::stat_group! {
    /// Under `local_rate_limit.<prefix>.`.
    pub struct RateStats {
        counters: { rate_limited }
        gauges: {}
        histograms: {}
    }
}

struct LocalRateLimit {
    bucket: Arc<TokenBucket>,
    enabled: Switch,
    stats: Arc<RateStats>,
}

/// The buckets that filters share by `share_key`, for as long as one of them lives.
#[derive(Default)]
pub struct SharedBuckets(Mutex<HashMap<Shared, Weak<TokenBucket>>>);

/// The key and all that a bucket is: one that is configured otherwise is another bucket.
type Shared = (String, Vec<u8>);

impl SharedBuckets {
    /// # Errors
    /// As [`TokenBucket::compile`].
    fn find(&self, key: &str, config: Option<&PbTokenBucket>) -> Compiled<Arc<TokenBucket>> {
        let own = TokenBucket::compile(config)?;
        let Some(config) = config.filter(|_| !key.is_empty()) else {
            return Ok(Arc::new(own));
        };
        let mut buckets = self.0.lock();
        buckets.retain(|_, bucket| bucket.strong_count() > 0);
        let shared = buckets.entry((key.to_owned(), config.encode_to_vec())).or_default();
        Ok(shared.upgrade().unwrap_or_else(|| {
            let bucket = Arc::new(own);
            *shared = Arc::downgrade(&bucket);
            bucket
        }))
    }
}

/// Filled by `per_fill` tokens each whole `interval`, up to `max`.
struct Bucket {
    tokens: u64,
    max: u64,
    per_fill: u64,
    interval: Duration,
    filled: Instant,
}

/// `envoy.type.v3.TokenBucket`, shared by the connections of a filter.
pub struct TokenBucket(Mutex<Bucket>);

impl TokenBucket {
    /// # Errors
    /// A bucket that is missing, or filled too often.
    pub fn compile(config: Option<&PbTokenBucket>) -> Compiled<Self> {
        let bucket = config.ok_or_else(|| Problems::one("token_bucket", "required"))?;
        let interval = duration(bucket.fill_interval.as_ref()).unwrap_or_default();
        if interval < Duration::from_millis(50) {
            return Err(Problems::one("token_bucket.fill_interval", "must be at least 50 ms"));
        }
        Ok(Self(Mutex::new(Bucket {
            tokens: u64::from(bucket.max_tokens),
            max: u64::from(bucket.max_tokens),
            per_fill: u64::from(bucket.tokens_per_fill.as_ref().map_or(1, |wrapped| wrapped.value)),
            interval,
            filled: clock::now(),
        })))
    }

    /// Takes a token, if there is one.
    pub fn take(&self, now: Instant) -> bool {
        self.0.lock().take(now)
    }
}

pub fn compile(bytes: &[u8], cx: &BuildContext) -> Compiled<Arc<dyn NetworkFilter>> {
    let config = Config::decode(bytes).map_err(|error| Problems::one("", error.to_string()))?;
    Ok(Arc::new(LocalRateLimit {
        bucket: cx.buckets.find(&config.share_key, config.token_bucket.as_ref())?,
        enabled: Switch::compile(config.runtime_enabled.as_ref(), true),
        stats: cx.stats.group(&format!("local_rate_limit.{}.", config.stat_prefix)),
    }))
}

impl NetworkFilter for LocalRateLimit {
    fn on_new_connection(&self, _connection: &mut ConnectionInfo) -> Verdict {
        if !self.enabled.is_on() || self.bucket.take(clock::now()) {
            return Verdict::Continue;
        }
        self.stats.rate_limited.inc();
        Verdict::Close(Closing {
            flags: ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED,
            reason: "local_ratelimit_close_over_limit",
            ..Closing::default()
        })
    }
}

impl Bucket {
    fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.filled).as_nanos() / self.interval.as_nanos();
        // More fills than the bucket holds are all the same.
        let fills = u32::try_from(passed).unwrap_or(u32::MAX);
        if fills > 0 {
            self.filled += self.interval.saturating_mul(fills);
            self.tokens = self
                .tokens
                .saturating_add(self.per_fill.saturating_mul(u64::from(fills)))
                .min(self.max);
        }
        let granted = self.tokens > 0;
        self.tokens -= u64::from(granted);
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_with_one_key_and_one_bucket_share_it() {
        let cx = BuildContext::default();
        let filter = |key: &str, max_tokens: u32| {
            let config = Config {
                stat_prefix: "s".into(),
                share_key: key.into(),
                token_bucket: Some(PbTokenBucket {
                    max_tokens,
                    fill_interval: Some(remora_proto::pb::google::protobuf::Duration {
                        seconds: 1000,
                        nanos: 0,
                    }),
                    ..Default::default()
                }),
                ..Default::default()
            };
            compile(&config.encode_to_vec(), &cx).expect("compiles")
        };
        let admits = |filter: &Arc<dyn NetworkFilter>| {
            let verdict = filter.on_new_connection(&mut crate::testing::connection(None));
            matches!(verdict, Verdict::Continue)
        };
        let all = [
            filter("k", 1),
            filter("k", 1),
            filter("k", 2),
            filter("other", 1),
            filter("", 1),
            filter("", 1),
        ];
        let admitted: Vec<bool> = all.iter().map(admits).collect();
        assert_eq!(admitted, [true, false, true, true, true, true]);
        // Nobody has it any more: the next one is new.
        drop(all);
        assert!(admits(&filter("k", 1)));
    }

    #[test]
    fn the_bucket_fills_by_whole_intervals_up_to_its_brim() {
        let start = clock::now();
        let mut bucket = Bucket {
            tokens: 2,
            max: 2,
            per_fill: 1,
            interval: Duration::from_secs(1),
            filled: start,
        };
        let at = |millis| start + Duration::from_millis(millis);
        let granted: Vec<bool> = [0, 0, 0, 999, 1000, 1001, 1_000_000, 1_000_000, 1_000_000]
            .map(|millis| bucket.take(at(millis)))
            .into();
        assert_eq!(granted, [true, true, false, false, true, false, true, true, false]);
    }
}
