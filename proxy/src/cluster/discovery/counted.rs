//! `dns.cares.`: what a resolver was asked, and what it could not tell.

use std::sync::Arc;

use super::{Resolve, Resolving};

crate::stat_group! {
    /// Under `dns.cares.`, of all resolvers that ask name servers.
    pub struct DnsStats {
        counters: { resolve_total, not_found, get_addr_failure }
        gauges: { pending_resolutions }
        histograms: {}
    }
}

/// A resolver whose questions are counted.
pub struct Counted {
    pub inner: Arc<dyn Resolve>,
    pub stats: Arc<DnsStats>,
}

/// A question under way.
struct Pending<'a>(&'a DnsStats);

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.pending_resolutions.dec();
    }
}

impl Resolve for Counted {
    fn resolve<'a>(&'a self, name: &'a str, v6: bool) -> Resolving<'a> {
        let stats = &*self.stats;
        stats.resolve_total.inc();
        stats.pending_resolutions.inc();
        let pending = Pending(stats);
        Box::pin(async move {
            let answer = self.inner.resolve(name, v6).await;
            match &answer {
                Ok(answer) if answer.addresses.is_empty() => stats.not_found.inc(),
                Ok(_) => {}
                Err(_) => stats.get_addr_failure.inc(),
            }
            drop(pending);
            answer
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{Answer, ResolveError};
    use super::*;

    /// Knows one name, knows of another that it has no address, and cannot say of others.
    struct Few;

    impl Resolve for Few {
        fn resolve<'a>(&'a self, name: &'a str, _: bool) -> Resolving<'a> {
            let addresses = match name {
                "here" => vec![std::net::Ipv4Addr::LOCALHOST.into()],
                "empty" => Vec::new(),
                _ => return Box::pin(async { Err(ResolveError::new("nobody answers".to_owned())) }),
            };
            let ttl = Duration::ZERO;
            Box::pin(async move { Ok(Answer { addresses, ttl }) })
        }
    }

    #[tokio::test]
    async fn questions_are_counted_by_what_comes_of_them() {
        let counted = Counted {
            inner: Arc::new(Few),
            stats: Arc::default(),
        };
        for name in ["here", "empty", "else", "more"] {
            let _ = counted.resolve(name, false).await;
        }
        let dropped = counted.resolve("here", false);
        assert_eq!(counted.stats.pending_resolutions.value(), 1);
        drop(dropped);
        let stats = &counted.stats;
        let seen = [&stats.resolve_total, &stats.not_found, &stats.get_addr_failure].map(|counter| counter.value());
        assert_eq!((seen, stats.pending_resolutions.value()), ([5, 1, 2], 0));
    }
}
