//! `istio.metadata_exchange`: workloads tell each other who they are on connections without HTTP.
//!
//! Stands in front of the terminal filter of inbound chains, and in `filters` of outbound clusters. Where ALPN agreed on its protocol, each
//! side sends a preamble before its first byte: a magic number, a length, and an `Any` with a `Struct`. Both send theirs as soon as the
//! handshake is over, so that neither waits for the other to speak first; a peer that sends it with its first byte is understood as well.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;
use remora_proto::istio::metadata_exchange::MetadataExchange as Config;
use remora_proto::pb::envoy::config::core::v3::Node;
use remora_proto::pb::google::protobuf::{Any, Struct, Value, value::Kind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{NetworkFilter, Verdict};
use crate::config::{BuildContext, Compiled, Problems};
use crate::filters::http::peer_metadata::Peer;
use crate::listener::ConnectionInfo;
use crate::runtime::io::Io;

pub const TYPE_URL: &str = "type.googleapis.com/envoy.tcp.metadataexchange.config.MetadataExchange";

const MAGIC: u32 = 0x3D23_0467;
const HEADER: usize = 8;
/// The keys of the struct in a preamble.
const METADATA: &str = "x-envoy-peer-metadata";
const METADATA_ID: &str = "x-envoy-peer-metadata-id";
const STRUCT: &str = "type.googleapis.com/google.protobuf.Struct";
/// Istio's own preambles have about 600 bytes.
const MAX_LENGTH: u32 = 64 * 1024;
/// How long a peer that agreed on a preamble may take to send it.
const PATIENCE: Duration = Duration::from_secs(10);

crate::stat_group! {
    /// Under `metadata_exchange.`.
    pub struct ExchangeStats {
        counters: { alpn_protocol_found, alpn_protocol_not_found, initial_header_not_found, header_not_found, metadata_added }
        gauges: {}
        histograms: {}
    }
}

/// A compiled `MetadataExchange`, of either side.
pub struct MetadataExchange {
    protocol: Box<[u8]>,
    /// Ours, as it is sent.
    preamble: Bytes,
    stats: Arc<ExchangeStats>,
}

pub fn compile(bytes: &[u8], cx: &BuildContext) -> Compiled<Arc<dyn NetworkFilter>> {
    Ok(Arc::new(MetadataExchange::compile(bytes, cx)?))
}

impl MetadataExchange {
    /// Compiles the encoded message.
    ///
    /// # Errors
    /// Bytes that are none.
    pub fn compile(bytes: &[u8], cx: &BuildContext) -> Compiled<Self> {
        let config = Config::decode(bytes).map_err(|error| Problems::one("", error.to_string()))?;
        Ok(Self {
            preamble: preamble(&cx.node, &config.additional_labels),
            protocol: config.protocol.into_bytes().into(),
            stats: cx.stats.group("metadata_exchange."),
        })
    }

    /// Sends our preamble and takes the peer's, if `alpn` is the protocol. Whatever the peer sent after it is still to be read.
    ///
    /// # Errors
    /// The connection failed, or ended within the preamble.
    ///
    /// # Cancel safety
    /// None: the connection is to be closed then.
    pub async fn exchange(&self, mut io: Io, alpn: Option<&[u8]>) -> std::io::Result<(Io, Option<Arc<Peer>>)> {
        if alpn != Some(&*self.protocol) {
            self.stats.alpn_protocol_not_found.inc();
            return Ok((io, None));
        }
        self.stats.alpn_protocol_found.inc();
        io.write_all(&self.preamble).await?;
        io.flush().await?;
        let reading = tokio::time::timeout(PATIENCE, self.read(&mut io)).await;
        let (left, peer) = reading.map_err(|_| std::io::ErrorKind::TimedOut)??;
        Ok((Io::prefixed(left, io), peer))
    }

    /// What was read beyond the preamble, and the peer that it describes.
    async fn read(&self, io: &mut Io) -> std::io::Result<(Bytes, Option<Arc<Peer>>)> {
        let mut buffer = BytesMut::with_capacity(1024);
        while buffer.len() < HEADER {
            fill(io, &mut buffer).await?;
        }
        let (magic, length) = {
            let mut header = &buffer[..HEADER];
            (header.get_u32(), header.get_u32())
        };
        if magic != MAGIC || length > MAX_LENGTH {
            self.stats.initial_header_not_found.inc();
            return Ok((buffer.freeze(), None));
        }
        let end = HEADER + length as usize;
        while buffer.len() < end {
            fill(io, &mut buffer).await?;
        }
        let message = buffer.split_to(end).freeze();
        let peer = decode(&message[HEADER..]);
        match peer {
            Some(_) => self.stats.metadata_added.inc(),
            None => self.stats.header_not_found.inc(),
        }
        Ok((buffer.freeze(), peer))
    }
}

impl NetworkFilter for MetadataExchange {
    fn on_new_connection(&self, _connection: &mut ConnectionInfo) -> Verdict {
        Verdict::Continue
    }

    fn preamble(&self) -> Option<&MetadataExchange> {
        Some(self)
    }
}

async fn fill(io: &mut Io, buffer: &mut BytesMut) -> std::io::Result<()> {
    match io.read_buf(buffer).await? {
        0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

fn preamble(node: &Node, additional_labels: &[String]) -> Bytes {
    let value = |kind| Value { kind: Some(kind) };
    let own = Peer::of_node(node).to_struct(additional_labels);
    let fields = [
        (METADATA.to_owned(), value(Kind::StructValue(own))),
        (METADATA_ID.to_owned(), value(Kind::StringValue(node.id.clone()))),
    ];
    let any = Any {
        type_url: STRUCT.to_owned(),
        value: Struct { fields: fields.into() }.encode_to_vec(),
    };
    let any = any.encode_to_vec();
    let mut bytes = BytesMut::with_capacity(HEADER + any.len());
    bytes.put_u32(MAGIC);
    bytes.put_u32(u32::try_from(any.len()).unwrap_or(u32::MAX));
    bytes.put_slice(&any);
    bytes.freeze()
}

fn decode(bytes: &[u8]) -> Option<Arc<Peer>> {
    let any = Any::decode(bytes).ok()?;
    let fields = Struct::decode(any.value.as_slice()).ok()?;
    match &fields.fields.get(METADATA)?.kind {
        Some(Kind::StructValue(peer)) => Some(Arc::new(Peer::of_struct(peer))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filters::http::peer_metadata::test_node;

    fn exchange() -> MetadataExchange {
        let config = Config {
            protocol: "istio-peer-exchange".into(),
            ..Config::default()
        };
        let cx = BuildContext {
            node: Arc::new(test_node()),
            ..BuildContext::default()
        };
        MetadataExchange::compile(&config.encode_to_vec(), &cx).unwrap()
    }

    fn pair() -> (Io, Io) {
        let (near, far) = tokio::io::duplex(4096);
        (Io::Duplex(near), Io::Duplex(far))
    }

    const AGREED: Option<&[u8]> = Some(b"istio-peer-exchange");

    #[tokio::test]
    async fn both_sides_learn_of_each_other_and_lose_no_byte() {
        let (client, server) = pair();
        let (ours, theirs) = (exchange(), exchange());
        let (client, server) = tokio::join!(ours.exchange(client, AGREED), theirs.exchange(server, AGREED));
        let ((mut client, seen), (mut server, by)) = (client.unwrap(), server.unwrap());
        assert_eq!((&*seen.unwrap().workload, &*by.unwrap().app), ("web-v1", "web"));
        client.write_all(b"hello").await.unwrap();
        let mut got = [0; 5];
        server.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"hello");
    }

    #[tokio::test]
    async fn what_follows_the_preamble_in_the_same_read_is_kept() {
        let (client, mut server) = pair();
        let one = exchange();
        let sent = [&one.preamble[..], b"220 ready"].concat();
        server.write_all(&sent).await.unwrap();
        let (mut client, peer) = one.exchange(client, AGREED).await.unwrap();
        assert!(peer.is_some());
        let mut got = [0; 9];
        client.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"220 ready");
    }

    #[tokio::test]
    async fn another_protocol_sends_nothing_and_rubbish_passes() {
        let (client, mut server) = pair();
        let one = exchange();
        let (client, peer) = one.exchange(client, Some(b"istio")).await.unwrap();
        assert!(peer.is_none());
        drop(client);
        let mut got = Vec::new();
        server.read_to_end(&mut got).await.unwrap();
        assert!(got.is_empty());

        let (client, mut server) = pair();
        server.write_all(b"0123456789").await.unwrap();
        let (mut client, peer) = one.exchange(client, AGREED).await.unwrap();
        let mut got = [0; 10];
        client.read_exact(&mut got).await.unwrap();
        assert_eq!((peer, &got), (None, b"0123456789"));
        assert_eq!(one.stats.initial_header_not_found.value(), 1);
    }

    #[tokio::test]
    async fn an_end_within_the_preamble_is_an_error() {
        let (client, mut server) = pair();
        let one = exchange();
        server.write_all(&one.preamble[..20]).await.unwrap();
        drop(server);
        assert!(one.exchange(client, AGREED).await.is_err());
    }
}
