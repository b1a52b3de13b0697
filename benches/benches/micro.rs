//! Micro benches of what a request, a connection or a push pays for: `cargo bench -p remora-benches`.

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use prost::Message;
use remora::cli::Unsupported;
use remora::cluster::{Cluster, PickContext};
use remora::config::{BuildContext, fields};
use remora::listener::ListenerConfig;
use remora::listener::chain_match::Target;
use remora::route::RouteTable;
use remora::snapshot::build::Builder;
use remora_benches::config::{self, service};
use remora_proto::pb::envoy::config::cluster::v3 as pbc;
use remora_proto::pb::envoy::config::core::v3 as core;
use remora_proto::pb::envoy::config::listener::v3 as pbl;

const LARGE: usize = 10_000;

fn routes(criterion: &mut Criterion) {
    let bytes = config::virtual_hosts(LARGE);
    let context = BuildContext::default();
    let mut group = criterion.benchmark_group("routes, 10,000 virtual hosts");
    let parse = || RouteTable::parse(bytes.clone(), &context).expect("the table is valid");
    group.bench_function("parse", |bencher| bencher.iter(parse));
    let table = parse();
    let exact = service(LARGE / 2);
    group.bench_function("exact", |bencher| {
        bencher.iter(|| table.virtual_host(black_box(exact.as_bytes())))
    });
    group.bench_function("fall back to *", |bencher| {
        bencher.iter(|| table.virtual_host(black_box(b"nowhere.example")))
    });
    group.finish();
}

fn chains(criterion: &mut Criterion) {
    let context = BuildContext::default();
    let one: pbl::Listener = pbl::Listener::decode(config::tcp_proxy_listener("backend").as_slice()).expect("decodes");
    let mut listener = one.clone();
    let chain = listener.filter_chains.remove(0);
    listener.filter_chains = (0..1000).map(|index| with_match(chain.clone(), index)).collect();
    let compiled =
        remora::config::listener::compile(&listener.encode_to_vec(), &context).expect("the listener is valid");
    let compiled: ListenerConfig = compiled;
    let target = Target {
        destination: Some(SocketAddr::from(([10, 0, 1, 244], 8500))),
        transport_protocol: "raw_buffer",
        ..Target::default()
    };
    assert!(compiled.chains.find(&target).is_some());
    criterion.bench_function("filter chain of 1,000, by destination", |bencher| {
        bencher.iter(|| compiled.chains.find(black_box(&target)));
    });
}

fn with_match(mut chain: pbl::FilterChain, index: u32) -> pbl::FilterChain {
    chain.name = index.to_string();
    chain.filter_chain_match = Some(pbl::FilterChainMatch {
        prefix_ranges: vec![core::CidrRange {
            address_prefix: format!("10.0.{}.{}", index / 256, index % 256),
            prefix_len: Some(remora_proto::pb::google::protobuf::UInt32Value { value: 32 }),
        }],
        ..Default::default()
    });
    chain
}

fn picks(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pick of 5 hosts");
    for (name, policy) in [
        ("round robin", pbc::cluster::LbPolicy::RoundRobin),
        ("least request", pbc::cluster::LbPolicy::LeastRequest),
    ] {
        let mut message = config::cluster(0, 5);
        message.lb_policy = policy.into();
        let cluster = built(&message);
        let context = PickContext::default();
        group.bench_function(name, |bencher| bencher.iter(|| cluster.pick(black_box(&context))));
    }
    group.finish();
}

fn built(message: &pbc::Cluster) -> Arc<Cluster> {
    let mut builder = Builder::new(Arc::new(BuildContext::default()));
    builder
        .add_cluster(message.encode_to_vec().into())
        .expect("the cluster is valid");
    builder.snapshot().cluster(&message.name).expect("it was just added")
}

fn clusters() -> Vec<Bytes> {
    (0..LARGE)
        .map(|index| config::cluster(index, 5).encode_to_vec().into())
        .collect()
}

fn publish(criterion: &mut Criterion) {
    let clusters = clusters();
    let mut group = criterion.benchmark_group("snapshot, 10,000 clusters");
    group.sample_size(10);
    let fill = |mut builder: Builder| {
        for bytes in &clusters {
            builder.add_cluster(bytes.clone()).expect("the cluster is valid");
        }
        builder.publish();
        builder
    };
    let empty = || Builder::new(Arc::new(BuildContext::default()));
    group.bench_function("build", |bencher| {
        bencher.iter_batched(empty, fill, BatchSize::PerIteration)
    });
    let mut full = fill(empty());
    group.bench_function("publish again", |bencher| bencher.iter(|| full.publish()));
    group.finish();
}

fn ledger(criterion: &mut Criterion) {
    let clusters = clusters();
    let bytes: usize = clusters.iter().map(Bytes::len).sum();
    let mut group = criterion.benchmark_group("field check");
    group.throughput(Throughput::Bytes(bytes as u64)).sample_size(10);
    group.bench_function("10,000 clusters", |bencher| {
        bencher.iter(|| {
            for bytes in &clusters {
                let checked = fields::check("envoy.config.cluster.v3.Cluster", bytes, Unsupported::Refuse);
                black_box(checked).expect("the cluster is valid");
            }
        });
    });
    group.finish();
}

criterion_group!(micro, routes, chains, picks, publish, ledger);
criterion_main!(micro);
