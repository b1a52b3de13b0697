//! The xDS client of this process, put together from the bootstrap.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use remora_proto::json::Format;
use remora_xds::{Client, ClientHandle, GrpcConnector, Mode, Reference, Root, SourceConfig, types};

use super::interpreter::Meaning;
use super::stats::XdsStats;
use super::transport::ClusterTransport;
use crate::bootstrap::{AdsConfig, Bootstrap};
use crate::cli::Options;
use crate::config::cluster::DiscoveryKind;
use crate::config::fields::Strictness;
use crate::config::sources::{self, Sources};
use crate::config::{BuildContext, Compiled, cluster};

/// What static resources refer to: owners and references for the xDS client.
pub type Pins = Vec<(String, Vec<Reference>)>;

/// What the resources of this process may come from.
pub fn sources(bootstrap: &Bootstrap) -> Sources {
    let leads_somewhere = |bytes: &[u8]| cluster::needs(bytes).is_ok_and(|needs| needs.kind != DiscoveryKind::Eds);
    let clusters = bootstrap
        .clusters
        .iter()
        .filter(|cluster| leads_somewhere(&cluster.bytes));
    let clusters = clusters.map(|cluster| cluster.name.clone()).collect();
    Sources::new(clusters, bootstrap.ads.is_some()).of(&bootstrap.node)
}

/// What resources mean to this process.
pub fn meaning(bootstrap: &Bootstrap, context: &Arc<BuildContext>, options: &Options) -> Meaning {
    Meaning {
        context: context.clone(),
        strictness: Strictness {
            unsupported: options.unsupported,
            reject_unknown: options.reject_unknown_dynamic_fields,
            tell_deprecated: !options.skip_deprecated_logs,
        },
        ignore_unknown: options.ignore_unknown_dynamic_fields,
        routes: Arc::default(),
        static_secrets: bootstrap.secrets.iter().map(|secret| secret.name.clone()).collect(),
        notes: Arc::default(),
        server: context.stats.group("server."),
        runtime: context.stats.group("runtime."),
        listeners: None,
    }
}

/// CDS and LDS, as far as the bootstrap has them.
///
/// # Errors
/// A source that cannot be used.
pub fn roots(bootstrap: &Bootstrap, sources: &Sources) -> Compiled<Vec<Root>> {
    let named = [
        (&types::CLUSTER, &bootstrap.cds, "cds_config"),
        (&types::LISTENER, &bootstrap.lds, "lds_config"),
    ];
    let mut roots = Vec::new();
    for (ty, config, field) in named {
        let Some(config) = config else { continue };
        let source = sources.resolve(config);
        roots.push(Root {
            source: source.map_err(|wrong| wrong.under(&format!("dynamic_resources.{field}")))?,
            initial_fetch_timeout: config.initial_fetch_timeout,
            ..Root::new(ty)
        });
    }
    Ok(roots)
}

/// The xDS client, if anything is to come from a control plane or a file.
pub fn client(
    bootstrap: &Bootstrap,
    meaning: &Meaning,
    roots: Vec<Root>,
    pins: Pins,
) -> Option<(ClientHandle, remora_xds::Driver)> {
    let context = &meaning.context;
    // There even if there is no client: some of it counts nothing then.
    let stats = context.stats.group::<XdsStats>("");
    if bootstrap.ads.is_none() && roots.is_empty() && pins.is_empty() {
        return None;
    }
    let names = |list: &[crate::bootstrap::StaticResource]| -> Vec<Arc<str>> {
        list.iter().map(|resource| resource.name.clone()).collect()
    };
    let mut builder = Client::builder(&context.node)
        .interpreter(meaning.clone())
        .stats(context.xds.clone())
        .fixed(&types::CLUSTER, names(&bootstrap.clusters))
        .fixed(&types::LISTENER, names(&bootstrap.listeners))
        .decode_files(decoder(meaning));
    if let Some(ads) = &bootstrap.ads {
        let config = SourceConfig {
            mux: ads.mux(),
            ..SourceConfig::aggregated(Mode::Sotw)
        };
        let transport = ClusterTransport::new(context.snapshot.clone(), ads.cluster_name.clone());
        builder = builder.ads(config, connector(transport, ads));
    }
    let (sources, snapshot) = (context.sources.clone(), context.snapshot.clone());
    // Streams to one cluster share a connection.
    let transports: Mutex<HashMap<Arc<str>, ClusterTransport>> = Mutex::default();
    builder = builder.named(move |name| {
        let source = sources.find(name)?;
        let transport = transports
            .lock()
            .entry(source.cluster_name.clone())
            .or_insert_with(|| ClusterTransport::new(snapshot.clone(), source.cluster_name.clone()))
            .clone();
        let config = SourceConfig {
            mux: source.mux(),
            ..SourceConfig::separate(Mode::Sotw)
        };
        let connector: Arc<dyn remora_xds::Connect> = Arc::new(connector(transport, &source));
        Some((config, connector))
    });
    for root in roots {
        builder = builder.root(root);
    }
    for (owner, references) in pins {
        builder = builder.pin(owner, references);
    }
    let (handle, driver) = builder.build();
    stats.show(context, meaning.routes.clone(), bootstrap.ads.is_some());
    Some((handle, driver))
}

/// Reads the files of `path_config_source`s. Their unknown fields are lost with the text, so they are counted here.
fn decoder(meaning: &Meaning) -> impl Fn(&[u8], &Path) -> Result<Bytes, String> + Send + Sync + use<> {
    let (strictness, ignored) = (meaning.strictness, meaning.ignore_unknown);
    let server = meaning.server.clone();
    move |content, path| {
        let (bytes, unknown) = decode_discovery_file(content, path, !strictness.reject_unknown)?;
        if !ignored {
            for field in unknown {
                tracing::warn!(path = %path.display(), "ignored unknown field: {field}");
                server.dynamic_unknown_fields.inc();
            }
        }
        Ok(bytes)
    }
}

/// A `DiscoveryResponse` as the file's name says, as in Envoy: binary (`.pb`), YAML (`.yaml`, `.yml`), else JSON; and what of it is unknown.
fn decode_discovery_file(content: &[u8], path: &Path, ignore_unknown: bool) -> Result<(Bytes, Vec<String>), String> {
    let name = path.to_string_lossy().to_ascii_lowercase();
    if name.ends_with(".pb") {
        return Ok((Bytes::copy_from_slice(content), Vec::new()));
    }
    if sources::is_text_protobuf(path) {
        return Err(sources::TEXT_PROTOBUF.to_owned());
    }
    let text = std::str::from_utf8(content).map_err(|error| error.to_string())?;
    if !name.ends_with(".yaml") && !name.ends_with(".yml") {
        serde_json::from_str::<serde::de::IgnoredAny>(text)
            .map_err(|error| format!("not JSON ({error}); YAML is read from files that end in .yaml or .yml"))?;
    }
    let options = remora_proto::json::Options {
        ignore_unknown,
        format: Format::of(path),
        ..Default::default()
    };
    let encoded = remora_proto::json::encode_text(text, "envoy.service.discovery.v3.DiscoveryResponse", &options);
    encoded
        .map(|encoded| {
            for note in &encoded.notes {
                tracing::warn!(path = %path.display(), "{note}");
            }
            let unknown = encoded.ignored.iter().map(ToString::to_string).collect();
            (encoded.bytes.into(), unknown)
        })
        .map_err(|problems| problems.to_string())
}

fn connector(transport: ClusterTransport, config: &AdsConfig) -> GrpcConnector<ClusterTransport> {
    let authority = if config.authority.is_empty() {
        &*config.cluster_name
    } else {
        &*config.authority
    };
    // Names of clusters need not be valid authorities (`outbound|80||x`).
    let origin = http::Uri::try_from(format!("http://{authority}"));
    let origin = origin.unwrap_or_else(|_| http::Uri::from_static("http://control-plane"));
    let mut metadata = tonic::metadata::MetadataMap::new();
    for (name, value) in &config.initial_metadata {
        use tonic::metadata::{AsciiMetadataKey, BinaryMetadataKey, BinaryMetadataValue};
        if let Ok(name) = BinaryMetadataKey::from_bytes(name.as_bytes()) {
            metadata.append_bin(name, BinaryMetadataValue::from_bytes(value));
        } else if let (Ok(name), Ok(value)) = (
            AsciiMetadataKey::from_bytes(name.as_bytes()),
            value.as_slice().try_into(),
        ) {
            metadata.append(name, value);
        }
    }
    GrpcConnector::new(transport)
        .origin(origin)
        .metadata(metadata)
        .called(config.cluster_name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_as_their_name_says() {
        let yaml = "resources:\n- \"@type\": type.googleapis.com/envoy.config.cluster.v3.Cluster\n  name: a\n";
        let json = r#"{"resources":[{"@type":"type.googleapis.com/envoy.config.cluster.v3.Cluster","name":"a"}]}"#;
        let read = |name: &str, content: &[u8]| decode_discovery_file(content, Path::new(name), false);
        let (binary, _) = read("a.yaml", yaml.as_bytes()).expect("YAML");
        let good: [(&str, &[u8]); 8] = [
            ("a.YAML", yaml.as_bytes()),
            ("a.yml", yaml.as_bytes()),
            ("a.yaml", json.as_bytes()),
            ("a.json", json.as_bytes()),
            ("a.conf", json.as_bytes()),
            ("a", json.as_bytes()),
            ("a.pb", &binary),
            ("a.PB", &binary),
        ];
        for (name, content) in good {
            assert_eq!(read(name, content), Ok((binary.clone(), Vec::new())), "{name}");
        }
        for name in ["a.conf", "a", "a.json"] {
            let reason = read(name, yaml.as_bytes()).expect_err("YAML under another name");
            assert!(reason.starts_with("not JSON"), "{reason}");
        }
        assert_eq!(
            read("a.pb_text", b"resources {}"),
            Err(sources::TEXT_PROTOBUF.to_owned())
        );
    }
}
