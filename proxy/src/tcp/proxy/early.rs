//! `upstream_connect_mode: ON_DOWNSTREAM_DATA`: nobody is connected to before the client has said something.

use bytes::BytesMut;
use tokio::io::AsyncReadExt;

use super::TcpStats;
use crate::runtime::io::Io;

/// `max_early_data_bytes`
pub(super) struct Early {
    pub(super) limit: usize,
}

/// As much as one read takes, where more is allowed.
const READ: usize = 16 * 1024;

impl Early {
    /// Waits for the first bytes; they stand in front of the stream from then on. An end without any is an error: there is nothing to proxy.
    pub(super) async fn wait(&self, mut io: Io, stats: &TcpStats) -> Result<Io, ()> {
        // A limit of zero still waits for the client, and holds nothing.
        let mut first = BytesMut::with_capacity(self.limit.clamp(1, READ));
        match io.read_buf(&mut first).await {
            Ok(0) | Err(_) => Err(()),
            Ok(_) => {
                stats.early_data_received_count_total.inc();
                Ok(Io::prefixed(first.freeze(), io))
            }
        }
    }
}
