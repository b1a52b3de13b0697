//! Who gets how much while hosts are busy or have just come back: bounded loads and slow start, beside the real Envoy.

use std::net::SocketAddr;
use std::time::Duration;

use remora::runtime::clock;
use remora_tests::{Http1, ask_admin, until};

use crate::cases::zones::{at, zone, zoned};
use crate::harness::Pair;

async fn pair(name: &str, fields: &str, route: &str) -> Option<Pair> {
    let manager = format!(
        "route_config:\n  name: routes\n  virtual_hosts:\n  - name: all\n    domains: [\"*\"]\n    routes:\n    - {{match: {{prefix: \
         /}}, route: {{cluster: c{route}}}}}\n"
    );
    let hosts = [at("{{a}}", ""), at("{{b}}", "")];
    let cluster = zoned("c", &[zone("z", &hosts, 0)], fields);
    let yaml = crate::cases::bootstrap(&[crate::cases::listener("http", &manager)], &[cluster]);
    Pair::start(name, &yaml).await
}

/// Ten requests of one key, each sent when the one before it has arrived, and none answered meanwhile: whom each goes to.
async fn ten_at_once(pair: &Pair, proxy: SocketAddr, user: &str) -> String {
    let [a, b] = pair.backends();
    let mut clients = Vec::new();
    let mut order = String::new();
    for _ in 0..10 {
        let before = (a.requests(), b.requests());
        let mut client = Http1::connect(proxy).await.unwrap();
        let request = format!("GET / HTTP/1.1\r\nhost: parity.test\r\nx-user: {user}\r\nx-do: delay=3000\r\n\r\n");
        client.send(request).await;
        until("its arrival", async || {
            (a.requests() + b.requests() > before.0 + before.1).then_some(())
        })
        .await;
        order.push(if a.requests() > before.0 { 'a' } else { 'b' });
        clients.push(client);
    }
    for mut client in clients {
        assert_eq!(client.response("GET").await.status, 200);
    }
    order
}

#[tokio::test]
async fn a_key_spreads_when_its_host_is_busy() {
    for (policy, factor) in [("RING_HASH", 100), ("MAGLEV", 120), ("RING_HASH", 150)] {
        let fields = format!(
            "lb_policy: {policy}\ncommon_lb_config: {{consistent_hashing_lb_config: {{hash_balance_factor: {factor}}}}}"
        );
        let route = ", hash_policy: [{header: {header_name: x-user}}]";
        let Some(pair) = pair("bounded loads", &fields, route).await else {
            return;
        };
        let theirs = ten_at_once(&pair, pair.envoy("http"), "ann").await;
        let ours = ten_at_once(&pair, pair.remora("http"), "ann").await;
        assert_eq!(ours, theirs, "{policy} {factor}");
        let on_a = theirs.matches('a').count();
        assert!((1..=9).contains(&on_a), "{policy} {factor}: one host has all: {theirs}");
    }
}

/// What `/clusters` says of backend `b`.
async fn flags(admin: SocketAddr, port: u16) -> String {
    let page = ask_admin(admin, "GET", "/clusters").await;
    let place = format!("c::127.0.0.1:{port}::health_flags::");
    let text = page.text();
    let line = text.lines().find_map(|line| line.strip_prefix(&*place));
    line.unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_host_that_is_well_again_starts_slowly() {
    let fields = "health_checks: [{timeout: 1s, interval: 0.1s, no_traffic_interval: 0.1s, unhealthy_threshold: 1, \
                  healthy_threshold: 1, http_health_check: {path: /health}}]\nround_robin_lb_config: {slow_start_config: \
                  {slow_start_window: 4s, min_weight_percent: {value: 10}}}\ncommon_lb_config: {update_merge_window: 0s}";
    let Some(pair) = pair("slow start", fields, "").await else {
        return;
    };
    let b = &pair.backends()[1];
    let everywhere = async |wanted: &str| {
        for admin in pair.admins() {
            until(wanted, async || {
                let flags = flags(admin, b.port()).await;
                (flags.contains(wanted)).then_some(())
            })
            .await;
        }
    };
    everywhere("healthy").await;
    // Both started slowly with the proxies.
    clock::sleep(Duration::from_millis(4500)).await;
    b.fail_with(Some(503));
    everywhere("/failed_active_hc").await;
    b.fail_with(None);
    everywhere("healthy").await;
    for (who, proxy) in [("Envoy", pair.envoy("http")), ("Remora", pair.remora("http"))] {
        let mut client = Http1::connect(proxy).await.unwrap();
        let mut on_b = 0;
        for _ in 0..110 {
            let answer = client.get("parity.test", "/", "").await;
            on_b += usize::from(answer.header("x-backend") == Some("b"));
        }
        // A tenth of the other's weight for 0.4 s, a quarter after a second: from one in eleven to one in five, and more on a busy machine; equals get half.
        assert!((4..=49).contains(&on_b), "{who}: {on_b} of 110");
    }
}
