//! The life of a request, outermost stage first. Each stage sees the request on its way in, and the response on its way out.

use std::sync::Arc;

use tower::ServiceBuilder;

use super::access_log::AccessLogLayer;
use super::codec::{h1, h2};
use super::exchange::Exchange;
use super::filters::FiltersLayer;
use super::header_policy::HeaderPolicyLayer;
use super::respond::RespondLayer;
use super::router::Router;
use super::select_route::SelectRouteLayer;
use super::service::{ConnectionEvent, Response, Service};
use super::stats::StatsLayer;
use crate::listener::ConnectionInfo;
use crate::runtime::drain::DrainSignal;
use crate::runtime::io::Io;

pub use super::connection_manager::{CodecType, ConnectionManager, Settings};
pub use super::stats::{CodecStats, HcmStats, ListenerHttpStats, RouterStats, TracingStats};

/// The stages as one type: a request passes through them without a box or an indirect call.
pub type Pipeline = super::access_log::AccessLogs<
    super::stats::Counted<
        super::header_policy::Policed<
            super::respond::Respond<super::select_route::SelectRoute<super::filters::Filtered<Router>>>,
        >,
    >,
>;

/// Stacks the stages. What a stage needs was compiled before; nothing here is built per request.
pub fn pipeline(settings: &Settings, router: Router) -> Pipeline {
    ServiceBuilder::new()
        // Outermost, so that every request that was read is logged, whatever became of it.
        .layer(AccessLogLayer::new(settings))
        // Counts what the client sees: failures are responses by now.
        .layer(StatsLayer::new(settings))
        // Before routing, because routing must see clean headers; outside the filters, because none may undo it;
        // outside the answers to failures, because those carry `date` and `server` too.
        .layer(HeaderPolicyLayer::new(&settings.header_policy, &settings.stats))
        // A failure becomes a response here, so that the stages inside may just fail.
        .layer(RespondLayer)
        // Fills the route cell, from one route table for the whole stream.
        .layer(SelectRouteLayer::new(settings))
        // The configured filters in their order, ours and a user's alike; the last one is the router.
        .layer(FiltersLayer::new(&settings.filters))
        // Timeout → retry → attempt: cluster → pick host → lease a connection → send → observe.
        .service(router)
}

impl ConnectionManager {
    /// Serves one downstream connection to its end, with the codec that was configured or detected. Each part is boxed, so that a connection is as
    /// large as the codec that it speaks and no larger.
    ///
    /// # Cancel safety
    /// Dropping the future cuts the connection; what its streams hold is released, and they are logged.
    pub async fn serve(self: Arc<Self>, io: Io, connection: Arc<ConnectionInfo>, drain: DrainSignal) {
        let open = self.settings.stats.open_connection(Some(&connection));
        let io = io.metered(open.clone());
        let Some((codec, io)) = Box::pin(self.detect(io, &connection)).await else {
            return;
        };
        let service = self.clone();
        match codec {
            CodecType::Http2 => {
                open.speaks_http2();
                let jittered;
                let options = match self.settings.age_jitter > 0.0 {
                    true => {
                        jittered = h2::H2Options {
                            max_connection_duration: self.settings.max_age(fastrand::f64()),
                            ..self.settings.h2.clone()
                        };
                        &jittered
                    }
                    false => &self.settings.h2,
                };
                Box::pin(h2::server::serve(io, service, connection, options, drain)).await;
            }
            CodecType::Http1 | CodecType::Auto => {
                open.speaks_http1();
                let options = self.settings.h1.clone();
                let mut timeouts = self.settings.timeouts.clone();
                timeouts.max_age = self.settings.max_age(fastrand::f64());
                Box::pin(h1::server::serve(io, service, connection, options, timeouts, drain)).await;
            }
        }
    }
}

impl Service for ConnectionManager {
    async fn call(&self, exchange: &mut Exchange) -> Response {
        loop {
            exchange.local_reply.clone_from(&self.settings.local_reply);
            let response = self.pipeline.call(exchange).await;
            if !exchange.show_next() {
                return response;
            }
            // As far as logs and stats are concerned, the answer that was a redirect ends a stream.
            exchange.timing.end = Some(exchange.elapsed());
            self.pipeline.finish(exchange);
            exchange.follow();
        }
    }

    fn proxies_interim(&self) -> bool {
        self.settings.header_policy.proxy_100_continue
    }

    fn event(&self, event: ConnectionEvent) {
        self.settings.stats.count(event, &self.settings.codec_stats);
    }

    fn established(&self, exchange: &mut Exchange) {
        self.pipeline.established(exchange);
    }

    fn finish(&self, exchange: &mut Exchange) {
        self.pipeline.finish(exchange);
    }
}
