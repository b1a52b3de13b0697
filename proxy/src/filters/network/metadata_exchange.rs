//! `istio.metadata_exchange`: workloads tell each other who they are on connections without HTTP.
//!
//! Stands in front of the terminal filter of inbound chains, and in `filters` of outbound clusters. Where ALPN agreed on its protocol, each
//! side sends a preamble before its first byte: a magic number, a length, and an `Any` with a `Struct`. Ours goes as soon as the handshake is
//! over. Nobody waits for the peer's: Envoy sends it with its first byte, which in some protocols comes after the server's greeting.

use std::sync::{Arc, OnceLock};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;
use remora_proto::istio::metadata_exchange::MetadataExchange as Config;
use remora_proto::pb::envoy::config::core::v3::Node;
use remora_proto::pb::google::protobuf::{Any, Struct, Value, value::Kind};
use tokio::io::AsyncWriteExt;

use super::{NetworkFilter, Verdict};
use crate::config::{BuildContext, Compiled, Problems};
use crate::filters::http::peer_metadata::Peer;
use crate::listener::ConnectionInfo;
use crate::runtime::io::{Introduction, Io};

pub const TYPE_URL: &str = "type.googleapis.com/envoy.tcp.metadataexchange.config.MetadataExchange";

const MAGIC: u32 = 0x3D23_0467;
const HEADER: usize = 8;
/// The keys of the struct in a preamble.
const METADATA: &str = "x-envoy-peer-metadata";
const METADATA_ID: &str = "x-envoy-peer-metadata-id";
const STRUCT: &str = "type.googleapis.com/google.protobuf.Struct";
/// Istio's own preambles have about 600 bytes.
const MAX_LENGTH: u32 = 64 * 1024;

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

    /// Sends our preamble, and has the peer's taken off the stream when that is read, if `alpn` is the protocol.
    ///
    /// # Errors
    /// The connection failed.
    ///
    /// # Cancel safety
    /// None: the connection is to be closed then.
    pub async fn exchange(&self, mut io: Io, alpn: Option<&[u8]>) -> std::io::Result<(Io, Option<Workload>)> {
        if alpn != Some(&*self.protocol) {
            self.stats.alpn_protocol_not_found.inc();
            return Ok((io, None));
        }
        self.stats.alpn_protocol_found.inc();
        io.write_all(&self.preamble).await?;
        io.flush().await?;
        let workload = Workload::default();
        let preamble = Preamble {
            workload: workload.clone(),
            stats: self.stats.clone(),
        };
        Ok((io.introduced(Box::new(preamble)), Some(workload)))
    }
}

/// Who a peer says it is, once it has said so.
#[derive(Clone, Debug, Default)]
pub struct Workload(Arc<OnceLock<Option<Arc<Peer>>>>);

impl Workload {
    pub fn peer(&self) -> Option<&Arc<Peer>> {
        self.0.get()?.as_ref()
    }

    /// Whether the peer has introduced itself, or will not.
    pub fn is_known(&self) -> bool {
        self.0.get().is_some()
    }
}

impl From<Arc<Peer>> for Workload {
    fn from(peer: Arc<Peer>) -> Self {
        Self(Arc::new(Some(peer).into()))
    }
}

/// The peer's preamble, as far as it has come.
struct Preamble {
    workload: Workload,
    stats: Arc<ExchangeStats>,
}

impl Introduction for Preamble {
    fn take(&mut self, received: &mut BytesMut, ended: bool) -> bool {
        let peer = match self.read(received) {
            Some(peer) => peer,
            // What there is goes on to whoever reads, as in Envoy.
            None if ended => None,
            None => return false,
        };
        // There is one introduction of a connection.
        let _ = self.workload.0.set(peer);
        true
    }
}

impl Preamble {
    /// `None`: more of it has to come.
    fn read(&self, received: &mut BytesMut) -> Option<Option<Arc<Peer>>> {
        let mut header = received.get(..HEADER)?;
        let (magic, length) = (header.get_u32(), header.get_u32());
        if magic != MAGIC || length > MAX_LENGTH {
            self.stats.initial_header_not_found.inc();
            return Some(None);
        }
        let end = HEADER + length as usize;
        if received.len() < end {
            return None;
        }
        let message = received.split_to(end);
        let peer = decode(&message[HEADER..]);
        match peer {
            Some(_) => self.stats.metadata_added.inc(),
            None => self.stats.header_not_found.inc(),
        }
        Some(peer)
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
    use tokio::io::AsyncReadExt;

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

    /// Reads until `text` has come, and nothing else.
    async fn hear(io: &mut Io, text: &[u8]) {
        let mut got = vec![0; text.len()];
        io.read_exact(&mut got).await.unwrap();
        assert_eq!(got, text);
    }

    #[tokio::test]
    async fn both_sides_learn_of_each_other_whoever_speaks_first_and_lose_no_byte() {
        let (client, server) = pair();
        let one = exchange();
        let (mut client, seen) = one.exchange(client, AGREED).await.unwrap();
        let (mut server, by) = one.exchange(server, AGREED).await.unwrap();
        let (seen, by) = (seen.unwrap(), by.unwrap());
        assert!(!seen.is_known() && !by.is_known());
        server.write_all(b"220 ready").await.unwrap();
        hear(&mut client, b"220 ready").await;
        assert_eq!(&*seen.peer().unwrap().workload, "web-v1");
        assert!(!by.is_known(), "nothing was read of the client");
        client.write_all(b"hello").await.unwrap();
        hear(&mut server, b"hello").await;
        assert_eq!(&*by.peer().unwrap().app, "web");
    }

    #[tokio::test]
    async fn a_peer_that_introduces_itself_with_its_first_byte_is_understood_and_not_waited_for() {
        let (server, mut client) = pair();
        let one = exchange();
        let (mut server, workload) = one.exchange(server, AGREED).await.unwrap();
        server.write_all(b"220 ready").await.unwrap();
        hear(&mut client, &one.preamble).await;
        hear(&mut client, b"220 ready").await;
        // In pieces.
        let sent = [&one.preamble[..], b"HELO"].concat();
        let (first, rest) = sent.split_at(5);
        let sending = async {
            for part in [first, &rest[..100], &rest[100..]] {
                client.write_all(part).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        tokio::join!(sending, hear(&mut server, b"HELO"));
        assert!(workload.unwrap().peer().is_some());
        assert_eq!(one.stats.metadata_added.value(), 1);
        drop(client);
        assert_eq!(server.read(&mut [0]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn another_protocol_sends_nothing_and_rubbish_passes() {
        let (client, mut server) = pair();
        let one = exchange();
        let (client, workload) = one.exchange(client, Some(b"istio")).await.unwrap();
        assert!(workload.is_none());
        drop(client);
        let mut got = Vec::new();
        server.read_to_end(&mut got).await.unwrap();
        assert!(got.is_empty());

        let (client, mut server) = pair();
        server.write_all(b"0123456789").await.unwrap();
        let (mut client, workload) = one.exchange(client, AGREED).await.unwrap();
        hear(&mut client, b"0123456789").await;
        let workload = workload.unwrap();
        assert!(workload.is_known() && workload.peer().is_none());
        assert_eq!(one.stats.initial_header_not_found.value(), 1);
    }

    #[tokio::test]
    async fn an_end_within_the_preamble_passes_on_what_there_was() {
        for sent in [0, 3, 20] {
            let (client, mut server) = pair();
            let one = exchange();
            server.write_all(&one.preamble[..sent]).await.unwrap();
            drop(server);
            let (mut client, workload) = match one.exchange(client, AGREED).await {
                Ok(introduced) => introduced,
                // The other end is gone altogether.
                Err(error) => {
                    assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
                    continue;
                }
            };
            let mut got = Vec::new();
            client.read_to_end(&mut got).await.unwrap();
            assert_eq!(got, one.preamble[..sent]);
            assert!(workload.unwrap().is_known());
        }
    }
}
