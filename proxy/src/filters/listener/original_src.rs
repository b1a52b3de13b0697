//! `envoy.filters.listener.original_src`: connections upstream come from the client's own address (with a mark by which routing tells them).

use prost::Message;
use remora_proto::pb::envoy::extensions::filters::listener::original_src::v3::OriginalSrc as Config;

use crate::config::{Compiled, Problems};
use crate::runtime::io::Address;
use crate::tcp::connect::OriginalSource;

pub const TYPE_URL: &str = "type.googleapis.com/envoy.extensions.filters.listener.original_src.v3.OriginalSrc";

/// The compiled filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OriginalSrc {
    /// `bind_port`: the client's port too.
    bind_port: bool,
    mark: u32,
}

/// # Errors
/// Bytes that do not decode.
pub fn compile(bytes: &[u8]) -> Compiled<OriginalSrc> {
    let config = Config::decode(bytes).map_err(|error| Problems::one("", error.to_string()))?;
    Ok(OriginalSrc {
        bind_port: config.bind_port,
        mark: config.mark,
    })
}

impl OriginalSrc {
    /// The source for connections made for a client at `remote`; `None`: it has no address (a pipe).
    pub fn source(&self, remote: &Address) -> Option<OriginalSource> {
        let mut address = remote.ip()?;
        if !self.bind_port {
            address.set_port(0);
        }
        Some(OriginalSource {
            address,
            mark: self.mark,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_the_clients_only_where_that_is_asked_for() {
        let remote = Address::Ip("10.0.0.1:1234".parse().unwrap());
        for (bind_port, expected) in [(false, "10.0.0.1:0"), (true, "10.0.0.1:1234")] {
            let filter = compile(&Config { bind_port, mark: 1337 }.encode_to_vec()).unwrap();
            let source = filter.source(&remote).unwrap();
            assert_eq!((source.address.to_string(), source.mark), (expected.to_owned(), 1337));
            assert_eq!(filter.source(&Address::Pipe("/x".into())), None);
        }
    }
}
