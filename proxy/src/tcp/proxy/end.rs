//! How a proxied connection ends: what the log says of it, and what the other end is told.

use std::io;

use crate::runtime::io::Io;
use crate::tcp::copy::Side;
use crate::telemetry::flags::ResponseFlags;
use crate::telemetry::format::{Close, CloseType};

/// `%DOWNSTREAM_LOCAL_CLOSE_REASON%` after `idle_timeout`.
pub(super) const IDLE: &str = "tcp_session_idle_timeout";

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// Both sides have said their end; this one's came last.
    Finished(Side),
    /// All that went through a tunnel within HTTP has arrived.
    Delivered,
    /// `idle_timeout`
    Idle,
    /// `max_downstream_connection_duration`
    Lasted,
    /// `check_drain_close`
    Left,
    /// The time to drain is over.
    Drained,
    /// Its host is unhealthy, and its cluster wants it closed (`close_connections_on_host_health_failure`).
    HostFailed,
    /// A side has reset its connection.
    Reset(Side),
    /// A side failed in another way.
    Failed(Side),
    /// The host has broken a tunnel within HTTP off: for the client, that is the end.
    Broken,
}

impl Over {
    /// TLS does not tell a reset from other failures, as in Envoy.
    pub(super) fn failed(side: Side, error: &io::Error, is_tls: bool) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionReset if !is_tls => Self::Reset(side),
            _ => Self::Failed(side),
        }
    }

    /// Whether the host ended it.
    pub(super) fn is_by_host(self) -> bool {
        matches!(
            self,
            Self::Finished(Side::Upstream) | Self::Reset(Side::Upstream) | Self::Failed(Side::Upstream) | Self::Broken
        )
    }

    pub(super) fn flags(self) -> ResponseFlags {
        match self {
            Self::Lasted => ResponseFlags::DURATION_TIMEOUT,
            Self::Reset(Side::Upstream) => ResponseFlags::UPSTREAM_REMOTE_RESET,
            Self::Failed(Side::Downstream) => ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION,
            Self::Failed(Side::Upstream) => ResponseFlags::UPSTREAM_CONNECTION_TERMINATION,
            _ => ResponseFlags::default(),
        }
    }

    pub(super) fn close(self) -> Close {
        let because = |reason| Close {
            downstream_reason: reason,
            upstream_reason: reason,
            ..Close::default()
        };
        match self {
            Self::Idle => because(IDLE),
            Self::Lasted => because("max_connection_duration_reached"),
            Self::Left => because("tcp_proxy_drain_close"),
            Self::Drained => because("filter_chain_is_being_removed"),
            // The line is written before the other side's connection goes the same way.
            Self::Reset(Side::Downstream) => Close {
                downstream: CloseType::RemoteReset,
                ..Close::default()
            },
            Self::Reset(Side::Upstream) => Close {
                downstream: CloseType::LocalReset,
                upstream: CloseType::RemoteReset,
                ..Close::default()
            },
            Self::Finished(_) | Self::Delivered | Self::HostFailed | Self::Failed(_) | Self::Broken => Close::default(),
        }
    }

    /// A reset goes on to the other side: it must not take what came so far for all there is.
    pub(super) fn tell(self, downstream: &Io, upstream: &Io) {
        match self {
            Self::Reset(Side::Downstream) => upstream.reset_on_close(),
            Self::Reset(Side::Upstream) => downstream.reset_on_close(),
            _ => {}
        }
    }
}

/// `%DOWNSTREAM_LOCAL_CLOSE_REASON%` of a connection that nothing upstream was found for; Envoy's spelling.
pub(super) mod unopened {
    pub const NOT_CONNECTED: &str = "tcp_initializion_failure:0";
    pub const NO_HOST: &str = "tcp_initializion_failure:1";
    pub const OVERFLOW: &str = "tcp_initializion_failure:2";
    pub const NO_CLUSTER: &str = "tcp_initializion_failure:3";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_connections_are_reset() {
        let error = |kind| io::Error::from(kind);
        let reset = error(io::ErrorKind::ConnectionReset);
        let side = Side::Upstream;
        assert_eq!(Over::failed(side, &reset, false), Over::Reset(side));
        assert_eq!(Over::failed(side, &reset, true), Over::Failed(side));
        let broken = error(io::ErrorKind::BrokenPipe);
        assert_eq!(Over::failed(side, &broken, false), Over::Failed(side));
    }
}
