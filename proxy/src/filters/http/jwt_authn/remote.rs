//! Key sets that are fetched from whoever issues the tokens.
//!
//! A request whose token needs keys that are not there, or too old, waits for them; requests that wait meanwhile share the fetch. With
//! `async_fetch` the keys are fetched before anybody asks, and again before they are too old. A fetch that fails leaves nothing to believe in.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::header::HOST;
use http::{HeaderValue, Request, StatusCode, Uri};
use remora_proto::pb::envoy::config::core::v3::http_uri::HttpUpstreamType;
use remora_proto::pb::envoy::extensions::filters::http::jwt_authn::v3 as pb;

use super::JwtStats;
use super::keys::Keys;
use crate::config::route::{duration, optional, refuse};
use crate::config::{BuildContext, Compiled, Problems, gather};
use crate::http::call::Callee;
use crate::http::stats::ASYNC_CLIENT;
use crate::runtime::{clock, spawn::spawn};

/// `cache_duration` when unset.
const LIFETIME: Duration = Duration::from_secs(600);
/// As good as for ever, and safe to add to a moment.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);
/// How long before they are too old keys are fetched again.
const AHEAD: Duration = Duration::from_secs(5);

pub(super) struct RemoteKeys {
    callee: Callee,
    uri: Uri,
    host: HeaderValue,
    lifetime: Duration,
    retries: u32,
    backoff: Backoff,
    held: ArcSwapOption<Held>,
    /// Held by whoever fetches. When the last fetch failed, if it did.
    fetching: tokio::sync::Mutex<Option<Instant>>,
    stats: Arc<JwtStats>,
}

struct Held {
    keys: Keys,
    until: Instant,
}

/// Fully jittered and exponential.
struct Backoff {
    base: Duration,
    max: Duration,
}

impl RemoteKeys {
    pub fn compile(value: &pb::RemoteJwks, cx: &BuildContext, stats: &Arc<JwtStats>) -> Compiled<Arc<Self>> {
        let Some(target) = &value.http_uri else {
            return Err(Problems::one("http_uri", "is required"));
        };
        let Some(HttpUpstreamType::Cluster(cluster)) = &target.http_upstream_type else {
            return Err(Problems::one("http_uri.cluster", "is required"));
        };
        let retries = value
            .retry_policy
            .as_ref()
            .map_or(0, |policy| policy.num_retries.as_ref().map_or(1, |number| number.value));
        let again = value.async_fetch.as_ref();
        let again = again.and_then(|ahead| ahead.failed_refetch_duration.as_ref());
        gather! {
            let place = place(&target.uri);
            let backoff = optional("retry_policy", value.retry_policy.as_ref(), Backoff::compile);
            let timeout = duration("http_uri.timeout", target.timeout.as_ref());
            let lifetime = duration("cache_duration", value.cache_duration.as_ref());
            let again = duration("async_fetch.failed_refetch_duration", again);
        }
        let (host, uri) = place;
        let keys = Arc::new(Self {
            callee: Callee {
                snapshot: cx.snapshot.clone(),
                cluster: Arc::from(cluster.as_str()),
                timeout: timeout.unwrap_or_default(),
                skip_envoy_headers: false,
                stats: cx.stats.group(ASYNC_CLIENT),
            },
            uri,
            host,
            lifetime: lifetime.unwrap_or(LIFETIME).min(FOR_EVER),
            retries,
            backoff: backoff.unwrap_or_default(),
            held: ArcSwapOption::empty(),
            fetching: tokio::sync::Mutex::default(),
            stats: stats.clone(),
        });
        if value.async_fetch.is_some() {
            keys.fetch_ahead(again.unwrap_or(Duration::from_secs(1)));
        }
        Ok(keys)
    }

    /// The keys that are held; whoever asks has seen to it that they are fresh.
    pub fn held(&self) -> Option<impl std::ops::Deref<Target = Keys>> {
        self.held.load_full().map(Fresh)
    }

    pub fn is_fresh(&self, now: Instant) -> bool {
        self.held.load().as_ref().is_some_and(|held| now < held.until)
    }

    /// Fetches the keys, unless somebody else has done so in the meantime, or has failed: whoever waited for a fetch shares what became of it.
    pub async fn refresh(&self) {
        let arrived = clock::now();
        let mut failed = self.fetching.lock().await;
        if !self.is_fresh(clock::now()) && failed.is_none_or(|at| at < arrived) {
            self.fetch(&mut failed).await;
        }
    }

    /// Whether the keys came; else when it was clear that they would not.
    async fn fetch(&self, failed: &mut Option<Instant>) -> bool {
        *failed = None;
        let fetched = self.attempts().await;
        match fetched {
            Ok(keys) => {
                self.stats.jwks_fetch_success.inc();
                let until = clock::now() + self.lifetime;
                self.held.store(Some(Arc::new(Held { keys, until })));
                true
            }
            Err(reason) => {
                self.stats.jwks_fetch_failed.inc();
                tracing::warn!(target: "jwt", uri = %self.uri, cluster = %self.callee.cluster, reason, "no keys came");
                if !self.is_fresh(clock::now()) {
                    self.held.store(None);
                }
                *failed = Some(clock::now());
                false
            }
        }
    }

    async fn attempts(&self) -> Result<Keys, String> {
        let mut failed = 0;
        loop {
            let (reason, is_final) = match self.attempt().await {
                Ok(keys) => return Ok(keys),
                Err(failure) => failure,
            };
            if is_final || failed >= self.retries {
                return Err(reason);
            }
            failed += 1;
            clock::sleep(self.backoff.pause(failed)).await;
        }
    }

    /// One request. An error tells whether another one would be answered the same.
    async fn attempt(&self) -> Result<Keys, (String, bool)> {
        let mut request = Request::new(Bytes::new());
        *request.uri_mut() = self.uri.clone();
        request.headers_mut().insert(HOST, self.host.clone());
        let answer = self.callee.call(request).await;
        let answer = answer.map_err(|error| (error.to_string(), false))?;
        if answer.status != StatusCode::OK {
            let reason = format!("the answer is {}", answer.status);
            return Err((reason, !answer.status.is_server_error()));
        }
        Keys::parse(&answer.body).map_err(|reason| (reason.to_owned(), true))
    }

    /// Keeps the keys fresh for as long as somebody has them. Without a runtime (a configuration that is only checked) nothing is fetched.
    fn fetch_ahead(self: &Arc<Self>, again: Duration) {
        if tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        let keys = Arc::downgrade(self);
        drop(spawn("key fetcher", keep_fresh(keys, again)));
    }
}

async fn keep_fresh(keys: Weak<RemoteKeys>, again: Duration) {
    while let Some(keys) = keys.upgrade() {
        let mut failed = keys.fetching.lock().await;
        let came = keys.fetch(&mut failed).await;
        drop(failed);
        let pause = match came {
            true => keys.lifetime.checked_sub(AHEAD).unwrap_or(keys.lifetime),
            false => again,
        };
        drop(keys);
        // At least a moment: a lifetime of nothing must not become a loop without a pause.
        clock::sleep(pause.max(Duration::from_millis(1))).await;
    }
}

/// Host and target of a request for a URI.
fn place(uri: &str) -> Compiled<(HeaderValue, Uri)> {
    let wrong = |_| Problems::one("http_uri.uri", "is no URI");
    let parsed = Uri::try_from(uri).map_err(|error| wrong(error.to_string()))?;
    let host = parsed.authority().map_or("", |authority| authority.as_str());
    let host = HeaderValue::try_from(host).map_err(|error| wrong(error.to_string()))?;
    let path = parsed.path_and_query().map_or("/", |path| path.as_str());
    let target = Uri::try_from(path).map_err(|error| wrong(error.to_string()))?;
    Ok((host, target))
}

struct Fresh(Arc<Held>);

impl std::ops::Deref for Fresh {
    type Target = Keys;

    fn deref(&self) -> &Keys {
        &self.0.keys
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            base: Duration::from_secs(1),
            max: Duration::from_secs(10),
        }
    }
}

impl Backoff {
    fn compile(policy: &remora_proto::pb::envoy::config::core::v3::RetryPolicy) -> Compiled<Self> {
        refuse("retry_on", !policy.retry_on.is_empty(), "is not supported")?;
        let Some(backoff) = &policy.retry_back_off else {
            return Ok(Self::default());
        };
        let base = duration("retry_back_off.base_interval", backoff.base_interval.as_ref())?;
        let base = base.unwrap_or(Self::default().base);
        let max =
            duration("retry_back_off.max_interval", backoff.max_interval.as_ref())?.unwrap_or(base.saturating_mul(10));
        refuse(
            "retry_back_off.max_interval",
            max < base,
            "is shorter than base_interval",
        )?;
        Ok(Self { base, max })
    }

    /// Before the attempt after `failed` ones.
    fn pause(&self, failed: u32) -> Duration {
        let ceiling = self.base.saturating_mul(1 << (failed - 1).min(16)).min(self.max);
        ceiling.mul_f64(fastrand::f64())
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;
    use remora_proto::pb::envoy::config::core::v3 as core;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_fetch_shares_its_failure_and_who_comes_later_has_one_of_its_own() {
        let value = pb::RemoteJwks {
            http_uri: Some(core::HttpUri {
                uri: "http://keys.test/".to_owned(),
                timeout: Some(remora_proto::pb::google::protobuf::Duration { seconds: 1, nanos: 0 }),
                http_upstream_type: Some(HttpUpstreamType::Cluster("nowhere".to_owned())),
            }),
            // So that there is a pause between two attempts.
            retry_policy: Some(core::RetryPolicy::default()),
            ..pb::RemoteJwks::default()
        };
        let stats = Arc::new(JwtStats::default());
        let keys = RemoteKeys::compile(&value, &BuildContext::default(), &stats).unwrap();
        join_all((0..10).map(|_| keys.refresh())).await;
        assert_eq!(stats.jwks_fetch_failed.value(), 1);
        clock::sleep(Duration::from_millis(1)).await;
        keys.refresh().await;
        assert_eq!(stats.jwks_fetch_failed.value(), 2);
    }
}
