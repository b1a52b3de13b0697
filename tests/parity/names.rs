//! Every name in `/stats`, and what counters and gauges say: one configuration with a bit of everything, the same requests to the real Envoy and to
//! Remora, good ones, failing ones and broken-off ones. What differs stands in a list with its reason, and nothing stands there that does not differ.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use control_plane_mock::pki::{Authority, Leaf};
use regex::Regex;
use remora_tests::{Http1, Http2, ask_admin, until};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::harness::Pair;

/// A page of stats, by name.
type Stats = BTreeMap<String, String>;

/// What may differ: names (or `name = value` lines) that this matches.
struct Accepted {
    pattern: &'static str,
    why: &'static str,
}

const fn accepted(pattern: &'static str, why: &'static str) -> Accepted {
    Accepted { pattern, why }
}

const ABSENT: &str = "what it counts does not exist here, and nothing would ever count it";
const CODEC: &str = "the codec's frames are counted by the codec, which is another one";
const CLOSES_AT_ONCE: &str =
    "Envoy waits a second before it ends a connection that it has said goodbye to; here its end is said at once";
const AFTER_HANDSHAKE: &str = "a connection manager gets a connection when its handshake is done";
const OURS: &str = "Envoy has no such thing";

/// Names that only one of them has.
const NAMES: &[Accepted] = &[
    accepted(r"^(cluster\.[^.]+\.)?http2\.", CODEC),
    accepted(
        r"^(cluster\.[^.]+\.)?http1\.",
        "upstream, and floods of answers: nothing is dropped or refused for them",
    ),
    accepted(r"http3|_0rtt|_with_0_rtt", ABSENT),
    accepted(r"overload|^envoy\.overload", "there is no overload manager"),
    accepted(r"watchdog", "there is no watchdog"),
    accepted(r"ocsp_staple", "what rustls staples it tells nobody"),
    accepted(
        r"_ssl_socket_factory\.(up|down)stream_context_secrets_not_ready$",
        "each side has its own alone",
    ),
    accepted(r"extension_config_missing$", "no extension is discovered"),
    accepted(r"downstream_listener_filter_error$", ABSENT),
    accepted(
        r"flow_control_(paused|resumed)_reading_total$",
        "who is slow is not read from by not being polled: nothing is switched",
    ),
    accepted(
        r"^tcp\..*\.(downstream_flow_control|downstream_cx_[rt]x_bytes_buffered|route_delayed|upstream_flush)",
        "a copy buffers nothing that its other side takes",
    ),
    accepted(
        r"^cluster\.[^.]+\.(assignment_use_cached|upstream_queue_overloaded|upstream_cx_preconnect_skipped|upstream_rq_rx_reset_no_error)$",
        ABSENT,
    ),
    accepted(
        r"^cluster\.[^.]+\.default\.total_match_count$",
        "transport sockets are matched when endpoints are compiled",
    ),
    accepted(
        r"^cluster\.[^.]+\.lb_subsets_single_host_per_subset_duplicate$",
        "subsets of one host each are as any others",
    ),
    accepted(
        r"^cluster_manager\.(cluster_updated|update_)",
        "updates are not merged, and not sent to threads",
    ),
    accepted(r"^thread_local_cluster_manager\.", "clusters are shared by threads"),
    accepted(
        r"^dns\.cares\.(reinits|timeouts)$",
        "another resolver, which tells neither",
    ),
    accepted(r"\.rs_too_large$", "no response is buffered"),
    accepted(r"\.rq_redirect$", "Envoy never counts it"),
    accepted(r"\.downstream_cx_http1_soft_drain$", ABSENT),
    accepted(r"\.tracing\.health_check$", "there is no health check filter"),
    accepted(
        r"\.compressor\..*\.request\.(compressed|content_length_too_small|total_)",
        "requests are not compressed",
    ),
    accepted(
        r"\.ext_authz\.az\.(filter_state_name_collision|ignored_dynamic_metadata|omitted_response_headers|.*_header_limits_reached|shadow_)",
        ABSENT,
    ),
    accepted(r"\.fault\.response_rl_injected$", "responses are not slowed down"),
    accepted(r"\.jwt_cache_hit$", "verified tokens are not kept"),
    accepted(r"\.http_local_rate_limit\.shadow_mode$", ABSENT),
    accepted(r"^listener_manager\.workers_pinned$", ABSENT),
    accepted(
        r"^runtime\.(load_error|override_dir_exists)$",
        "layers that do not load are refused",
    ),
    accepted(r"^filesystem\.write_dropped$", OURS),
    accepted(r"^server\.(task_panics|unsupported_fields)$", OURS),
];

/// Beside those: names that only one of them calls used.
const USED: &[Accepted] = &[
    accepted(r"\.downstream_cx_delayed_close_timeout$", CLOSES_AT_ONCE),
    accepted(
        r"^cluster\.[^.]+\.circuit_breakers\.[a-z]+\.(rq_open|cx_pool_open)$",
        "a request has its place before it has a connection, and pools are counted by host",
    ),
    accepted(
        r"^cluster\.echo\.upstream_cx_rx_bytes_buffered$",
        "a copy buffers nothing that its other side takes",
    ),
];

/// `name = theirs, ours` of counters and gauges.
const VALUES: &[Accepted] = &[
    accepted(r"^http\.back\.downstream_cx_", AFTER_HANDSHAKE),
    accepted(
        r"\.compressor\..*\.(content_length_too_small|not_compressed) ",
        "an answer passes those filters that the request has come to",
    ),
    accepted(
        r"^cluster\.a\.upstream_(cx_(total|http1_total|destroy)|rq_pending_total)",
        "whether an answer comes before its request has ended is a matter of time",
    ),
    accepted(r"^cluster\.subset\.upstream_", "where a rotation begins is drawn"),
    accepted(
        r"^server\.(memory|uptime|version|stats_recent_lookups|total_connections)",
        "of another process",
    ),
    accepted(r"^(http|listener)\.admin\.", "the test asks it how far they are"),
    accepted(
        r"_bytes_(total|buffered) ",
        "heads differ in their order, and reads in their sizes",
    ),
    accepted(r"delayed_close_timeout ", CLOSES_AT_ONCE),
    accepted(
        r"\.lb_subsets_(active|created) ",
        "Envoy counts them once for each thread",
    ),
    accepted(r"^filesystem\.", "when a file is written is a matter of time"),
    accepted(r"compressed_bytes ", "other libraries of the same formats"),
    accepted(
        r"^cluster\.(strict|logical)\.update_|^dns\.",
        "names are asked for by the clock",
    ),
];

#[tokio::test]
async fn stats_have_envoys_names_and_count_what_it_counts() {
    let root = Authority::new("root").unwrap();
    let leaf = root.issue(&Leaf::new().dns("back.test")).unwrap();
    let quoted = |text: &str| serde_json::to_string(text).unwrap();
    let yaml = include_str!("names.yaml")
        .replace("{{chain}}", &quoted(&leaf.chain_pem))
        .replace("{{key}}", &quoted(&leaf.key_pem))
        .replace("{{root}}", &quoted(root.root_pem()));
    let Some(pair) = Pair::start_with_own_ports("names", &yaml, &["back", "back_tls"]).await else {
        return;
    };
    let [theirs, ours] = pair.admins();
    drive(|listener| pair.envoy(listener)).await;
    drive(|listener| pair.remora(listener)).await;
    let mut wrong = Vec::new();
    let (all, own) = (stats(theirs, "").await, stats(ours, "").await);
    let mut listed = vec![0; NAMES.len()];
    compare_names("", &all, &own, NAMES, &mut listed, &mut wrong);
    let (used, own_used) = (stats(theirs, "?usedonly").await, stats(ours, "?usedonly").await);
    // What one of them lacks anyway is told of already.
    let common = |page: &Stats| -> Stats {
        let both = |name: &&String| all.contains_key(*name) && own.contains_key(*name);
        page.keys()
            .filter(both)
            .map(|name| (name.clone(), String::new()))
            .collect()
    };
    let mut also = vec![0; USED.len()];
    compare_names(
        "used: ",
        &common(&used),
        &common(&own_used),
        USED,
        &mut also,
        &mut wrong,
    );
    let mut values = vec![0; VALUES.len()];
    compare_values(&all, &own, &mut values, &mut wrong);
    for (list, counts) in [(NAMES, listed), (USED, also)] {
        for (entry, count) in list.iter().zip(counts) {
            if count == 0 {
                wrong.push(format!(
                    "listed, but nothing differs: {} ({})",
                    entry.pattern, entry.why
                ));
            }
        }
    }
    wrong.extend(metrics(theirs, ours).await);
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
}

/// Good requests, failing ones, and such as break off; the same to both.
async fn drive(listener: impl Fn(&str) -> SocketAddr) {
    let http = listener("http");
    for (path, headers) in REQUESTS {
        one(http, "GET", path, headers).await;
    }
    for (path, headers) in [
        ("/", ""),
        ("/jwt", ""),
        ("/jwt", "authorization: Bearer a.b.c\r\n"),
        ("/", ""),
    ] {
        one(listener("asked"), "GET", path, headers).await;
    }
    // Two on one connection, and one that is no request.
    let mut client = Http1::connect(http).await.unwrap();
    client.get("names.test", "/a", "").await;
    client.get("names.test", "/a", "connection: close\r\n").await;
    client.rest().await;
    for text in [
        "nonsense\r\n\r\n",
        "GET /a HTTP/1.0\r\nhost: names.test\r\n\r\n",
        "GET /a HTTP/1.1\r\n\r\n",
    ] {
        let mut client = Http1::connect(http).await.unwrap();
        client.send(text).await;
        client.response("GET").await;
        client.rest().await;
    }
    broken_off(
        http,
        "POST /a HTTP/1.1\r\nhost: names.test\r\ncontent-length: 10\r\n\r\nabc",
    )
    .await;
    for path in ["/direct", "/svc.Some/Method", "/svc/None/More", "/h2"] {
        let grpc = [("content-type", "application/grpc"), ("te", "trailers")];
        Http2::connect(http)
            .await
            .exchange("POST", "names.test", path, &grpc, b"", &[])
            .await;
    }
    for (name, bytes) in [
        ("tcp", "hello"),
        ("tcp_refused", "hello"),
        ("proxied", "junk\r\n"),
        ("proxied", "more than sixteen bytes\r\n"),
    ] {
        let mut client = Http1::connect(listener(name)).await.unwrap();
        client.send(bytes).await;
        if name == "tcp" {
            client.exactly(bytes.len()).await;
            client.finish().await;
        }
        client.rest().await;
    }
    one(listener("proxied"), "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\nGET", "/", "").await;
}

const REQUESTS: &[(&str, &str)] = &[
    ("/a", ""),
    ("/a", ""),
    ("/unknown", ""),
    ("/a", "x-do: status=503\r\n"),
    ("/a", "x-do: status=302\r\n"),
    ("/retry", "x-do: status=503\r\n"),
    ("/refused", ""),
    ("/ring", "x-key: 1\r\n"),
    ("/maglev", "x-key: 1\r\n"),
    ("/subset", ""),
    ("/other", ""),
    ("/strict", ""),
    ("/logical", ""),
    ("/h2", ""),
    ("/tls", ""),
    ("/distrusted", ""),
    ("/checked", ""),
    ("/nowhere", ""),
    ("/tight", ""),
    ("/empty", ""),
    ("/slow", "x-do: delay=1000\r\n"),
    ("/a", "x-do: cut\r\n"),
    ("/mirror", ""),
    ("/named", ""),
    ("/redirect", ""),
    ("/direct", "accept-encoding: gzip\r\n"),
    ("/direct", "accept-encoding: br\r\n"),
    ("/direct", "accept-encoding: identity\r\n"),
    ("/direct", "accept-encoding: deflate\r\n"),
    ("/direct", "accept-encoding: *\r\n"),
    ("/direct", ""),
    ("/a", "x-envoy-fault-abort-request: 418\r\n"),
    ("/a", "x-envoy-fault-delay-request: 1\r\n"),
    ("/a", "x-deny: 1\r\n"),
    ("/a", "x-shadow: 1\r\n"),
    ("/a", "origin: http://x\r\n"),
    ("/a", "x-client-trace-id: 1\r\n"),
    ("/a", "x-envoy-force-trace: 1\r\n"),
    ("/a", "upgrade: websocket\r\nconnection: upgrade\r\n"),
];

/// A request on a connection of its own, to its end.
async fn one(address: SocketAddr, method: &str, path: &str, headers: &str) {
    let mut client = Http1::connect(address).await.unwrap();
    let close = if headers.contains("connection:") {
        ""
    } else {
        "connection: close\r\n"
    };
    client
        .send(format!(
            "{method} {path} HTTP/1.1\r\nhost: names.test\r\n{close}{headers}\r\n"
        ))
        .await;
    client.response("GET").await;
    client.finish().await;
    client.rest().await;
}

/// Goes away with a request under way.
async fn broken_off(address: SocketAddr, text: &str) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    drop(stream);
}

/// A page, once nothing moves any more.
async fn stats(admin: SocketAddr, query: &str) -> Stats {
    let page = async || {
        let text = ask_admin(admin, "GET", &format!("/stats{query}")).await.text();
        let pairs = text.lines().filter_map(|line| line.split_once(": "));
        pairs
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect::<Stats>()
    };
    let settled = |page: &Stats| {
        page.get("http.in.downstream_cx_active")
            .is_none_or(|active| active == "0")
    };
    until("all connections to have ended", async || {
        let page = page().await;
        settled(&page).then_some(page)
    })
    .await
}

fn compare_names(
    what: &str,
    theirs: &Stats,
    ours: &Stats,
    list: &[Accepted],
    counts: &mut [usize],
    wrong: &mut Vec<String>,
) {
    let only = |one: &Stats, other: &Stats| -> Vec<String> {
        one.keys().filter(|name| !other.contains_key(*name)).cloned().collect()
    };
    let sides = [("- Envoy: ", only(theirs, ours)), ("+ Remora:", only(ours, theirs))];
    for (mark, names) in sides {
        for name in names {
            if !is_listed(&name, list, counts) {
                wrong.push(format!("{what}{mark} {name}"));
            }
        }
    }
}

fn compare_values(theirs: &Stats, ours: &Stats, counts: &mut [usize], wrong: &mut Vec<String>) {
    for (name, value) in theirs {
        let Some(own) = ours.get(name).filter(|own| *own != value) else {
            continue;
        };
        let is_number = |text: &String| text.parse::<u64>().is_ok();
        let line = format!("{name} = {value}, {own}");
        if is_number(value)
            && is_number(own)
            && !is_listed(&line, VALUES, counts)
            && !is_listed(&line, NAMES, &mut vec![0; NAMES.len()])
        {
            wrong.push(format!("value: {line}"));
        }
    }
}

fn is_listed(text: &str, list: &[Accepted], counts: &mut [usize]) -> bool {
    let found = list
        .iter()
        .position(|entry| Regex::new(entry.pattern).unwrap().is_match(text));
    if let Some(index) = found {
        counts[index] += 1;
    }
    found.is_some()
}

/// What is a counter for one and something else for the other, and what has other labels.
async fn metrics(theirs: SocketAddr, ours: SocketAddr) -> Vec<String> {
    let page = async |admin| {
        let text = ask_admin(admin, "GET", "/stats/prometheus").await.text();
        let mut kinds = BTreeMap::new();
        for line in text.lines() {
            match line.strip_prefix("# TYPE ") {
                Some(line) => {
                    let (name, kind) = line.split_once(' ').unwrap();
                    kinds.insert(name.to_owned(), kind.to_owned());
                }
                None => {
                    let Some((name, rest)) = line.split_once('{') else {
                        continue;
                    };
                    let labels: Vec<&str> = rest
                        .split('"')
                        .step_by(2)
                        .map(|label| label.trim_matches([',', '=', '}']))
                        .collect();
                    kinds
                        .entry(format!(
                            "{name} {}",
                            labels
                                .join(" ")
                                .trim_end_matches(|c: char| c != '_' && !c.is_alphabetic())
                        ))
                        .or_insert_with(String::new);
                }
            }
        }
        kinds
    };
    let (theirs, ours) = (page(theirs).await, page(ours).await);
    let differs = |(name, kind): (&String, &String)| {
        let own = ours.get(name).filter(|own| *own != kind)?;
        Some(format!("{name} is a {kind} there, a {own} here"))
    };
    theirs.iter().filter_map(differs).collect()
}
