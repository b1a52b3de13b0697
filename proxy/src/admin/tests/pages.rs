use super::*;

#[tokio::test]
async fn clusters_are_envoys_used_or_not() {
    let world = World::new();
    let expected = include_str!("clusters.txt");
    assert_eq!(world.page("/clusters").await, expected);
    let snapshot = world.state.snapshot.load_full();
    assert!(snapshot.clusters.iter().all(|(_, slot)| slot.built().is_none()));
    assert!(snapshot.cluster("backend").is_some() && snapshot.cluster("watched").is_some());
    assert_eq!(world.page("/clusters").await, expected);
}

#[tokio::test]
async fn clusters_are_envoys_as_json_too() {
    let world = World::new();
    let expected: serde_json::Value = serde_json::from_str(include_str!("clusters.json")).unwrap();
    assert_eq!(world.tree("/clusters?format=json").await, expected);
    let one = world.tree("/clusters?format=json&filter=^wat").await;
    assert_eq!(one["cluster_statuses"].as_array().unwrap().len(), 1);
    let (status, error) = world.get("/clusters?filter=%5B").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(error.starts_with("Invalid re2 regex: "), "{error}");
}

#[tokio::test]
async fn explanations_name_the_rule() {
    let world = World::new();
    let unused = world.tree("/clusters?explain&format=json&filter=backend").await;
    assert_eq!(unused["clusters"][0]["used"], false);
    assert!(unused["clusters"][0]["hosts"][0]["chosen"].is_null());
    let cluster = world.state.snapshot.load().cluster("backend").unwrap();
    let used = world.tree("/clusters?explain&format=json&filter=backend").await;
    let hosts = &used["clusters"][0]["hosts"];
    assert_eq!(
        hosts[0]["why"],
        "healthy: priority 0 gets 100 % of the load, this host by weight 3"
    );
    assert_eq!(
        (&hosts[0]["chosen"], &hosts[1]["chosen"]),
        (&true.into(), &false.into())
    );
    assert_eq!(hosts[1]["why"], "unhealthy: /eds_status_draining");
    assert_eq!(
        (&hosts[0]["priority_load_healthy"], &hosts[0]["panic"]),
        (&100.into(), &false.into())
    );
    let text = world.page("/clusters?explain&filter=backend").await;
    for line in [
        "backend::used::true",
        "backend::default_priority::max_requests::closed, 0 of 1024 in use, 1024 remaining",
        "backend::127.0.0.1:8080::chosen::true",
        "backend::127.0.0.1:8080::why::healthy: priority 0 gets 100 % of the load, this host by weight 3",
        "backend::127.0.0.1:8080::locality::r/z/s",
        "backend::127.0.0.1:8081::chosen::false",
        "backend::127.0.0.1:8081::weight::1",
    ] {
        assert!(text.lines().any(|other| other == line), "{line}\n{text}");
    }
    drop(cluster);
}

#[tokio::test]
async fn explanations_know_the_breakers() {
    use crate::cluster::breaker::RoutingPriority;
    let world = World::new();
    let snapshot = world.state.snapshot.load_full();
    let backend = snapshot.cluster("backend").unwrap();
    let permits: Vec<_> = (0..1024)
        .map(|_| backend.breakers.try_request(RoutingPriority::Default).unwrap())
        .collect();
    let page = world.tree("/clusters?explain&format=json&filter=backend").await;
    let breakers = page["clusters"][0]["circuit_breakers"].as_array().unwrap();
    let open: Vec<_> = breakers.iter().filter(|breaker| breaker["open"] == true).collect();
    assert_eq!(open.len(), 1);
    assert_eq!(
        (&open[0]["name"], &open[0]["remaining"]),
        (&"max_requests".into(), &0.into())
    );
    let host = &page["clusters"][0]["hosts"][0];
    assert_eq!(host["chosen"], false);
    assert!(
        host["why"]
            .as_str()
            .unwrap()
            .ends_with("; requests are turned away: max_requests is reached (1024)"),
        "{host}"
    );
    drop(permits);
    let page = world.tree("/clusters?explain&format=json&filter=backend").await;
    assert_eq!(page["clusters"][0]["hosts"][0]["chosen"], true);
    let _permits: Vec<_> = (0..1024)
        .map(|_| backend.breakers.try_request(RoutingPriority::High).unwrap())
        .collect();
    let page = world.tree("/clusters?explain&format=json&filter=backend").await;
    let host = &page["clusters"][0]["hosts"][0];
    let why = host["why"].as_str().unwrap();
    assert!(
        why.ends_with("; of high priority, requests are turned away: max_requests is reached (1024)"),
        "{host}"
    );
    assert_eq!(host["chosen"], true);
}

#[tokio::test]
async fn the_static_config_dump_is_envoys() {
    let world = World::new();
    let page = world.page("/config_dump").await;
    let mut dump: serde_json::Value = serde_json::from_str(&page).unwrap();
    let configs = dump["configs"].as_array_mut().unwrap();
    let bootstrap = configs.remove(0);
    assert_eq!(
        bootstrap["@type"],
        "type.googleapis.com/envoy.admin.v3.BootstrapConfigDump"
    );
    assert_eq!(bootstrap["bootstrap"]["node"]["id"], "n1");
    let secret = "/bootstrap/static_resources/secrets/0/generic_secret/secret/inline_string";
    assert_eq!(bootstrap.pointer(secret).unwrap(), "[redacted]");
    let expected = include_str!("config_dump.json");
    assert_eq!(reply::pretty(&dump) + "\n", expected);
    // The streamed text has the layout of a page formatted in one go.
    assert!(page.ends_with(expected.split_once("\"configs\": [\n").unwrap().1));
    assert!(!page.contains("hush"));
}

#[tokio::test]
async fn the_config_dump_can_be_cut_down() {
    let world = World::new();
    let masked = "/config_dump?resource=static_clusters&mask=cluster.name,cluster.load_assignment.cluster_name";
    assert_eq!(world.page(masked).await, include_str!("masked.json"));
    assert_eq!(world.page("/config_dump?resource=dynamic_listeners").await, "{}\n");
    assert_eq!(
        world.page("/config_dump?resource=static_clusters&name_regex=wat").await,
        "{}\n"
    );
    let named = world
        .tree("/config_dump?resource=static_clusters&name_regex=wat.*")
        .await;
    assert_eq!(named["configs"][0]["cluster"]["name"], "watched");
    let node = world.tree("/config_dump?mask=bootstrap.node.id").await;
    let expected = serde_json::json!({"configs": [{
        "@type": "type.googleapis.com/envoy.admin.v3.BootstrapConfigDump",
        "bootstrap": {"node": {"id": "n1"}},
    }]});
    assert_eq!(node, expected);
    let refused = [
        ("/config_dump?resource=nope", 404, "nope not found in config dump"),
        (
            "/config_dump?resource=bootstrap",
            400,
            "bootstrap is not a repeated field. Use ?mask=bootstrap to get only this field",
        ),
        (
            "/config_dump?mask=nope",
            400,
            "FieldMask nope could not be successfully applied to any configs.",
        ),
    ];
    for (target, status, body) in refused {
        let (actual, page) = world.get(target).await;
        assert_eq!((actual.as_u16(), page.as_str()), (status, body), "{target}");
    }
    for target in [
        "/config_dump?name_regex=%5B",
        "/config_dump?resource=static_clusters&mask=nope",
    ] {
        assert_eq!(world.get(target).await.0, StatusCode::BAD_REQUEST, "{target}");
    }
}

#[tokio::test]
async fn readiness_follows_the_process() {
    let world = World::new();
    assert_eq!(world.get("/ready").await, (StatusCode::OK, "LIVE\n".to_owned()));
    assert_eq!(world.send("POST", "/healthcheck/fail").await.1, "OK\n");
    let draining = (StatusCode::SERVICE_UNAVAILABLE, "DRAINING\n".to_owned());
    assert_eq!(world.get("/ready").await, draining);
    assert_eq!(world.send("POST", "/healthcheck/ok").await.1, "OK\n");
    assert_eq!(world.get("/ready").await.0, StatusCode::OK);
    *world.puppet.state.lock() = ServerState::PreInitializing;
    let early = (StatusCode::SERVICE_UNAVAILABLE, "PRE_INITIALIZING\n".to_owned());
    assert_eq!(world.get("/ready").await, early);
}

#[tokio::test]
async fn changes_need_a_post() {
    let world = World::new();
    for endpoint in endpoints::ENDPOINTS.iter().filter(|endpoint| endpoint.mutates) {
        let (status, body) = world.get(endpoint.path).await;
        assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED, "{}", endpoint.path);
        assert_eq!(body, "Method GET not allowed, POST required.");
    }
    assert!(world.puppet.calls.lock().is_empty());
    let drain = world.send("POST", "/drain_listeners?inboundonly&graceful").await;
    assert_eq!(drain, (StatusCode::OK, "OK\n".to_owned()));
    assert_eq!(world.send("POST", "/quitquitquit").await.1, "OK\n");
    let expected = [
        "DrainListeners { inbound_only: true, graceful: true, skip_exit: false }",
        "quit",
    ];
    assert_eq!(*world.puppet.calls.lock(), expected);
}

#[tokio::test]
async fn stats_are_selected_and_reset() {
    let world = World::new();
    let cluster = world.state.snapshot.load().cluster("backend").unwrap();
    cluster.stats.traffic.upstream_cx_total.add(3);
    let name = "cluster.backend.upstream_cx_total";
    let line = format!("{name}: 3\n");
    let target = "/stats?usedonly&filter=backend.upstream_cx_total";
    assert_eq!(world.page(target).await, line);
    let json = world.tree(&format!("{target}&format=json")).await;
    assert_eq!(json, serde_json::json!({"stats": [{"name": name, "value": 3}]}));
    let expected = "# TYPE envoy_cluster_upstream_cx_total counter\nenvoy_cluster_upstream_cx_total{envoy_cluster_name=\"backend\"} 3\n";
    for path in ["/stats/prometheus?", "/stats?format=prometheus&"] {
        let page = world
            .page(&format!("{path}usedonly&filter=backend.upstream_cx_total"))
            .await;
        assert_eq!(page.trim_end(), expected.trim_end());
    }
    assert_eq!(world.page(&format!("{target}&type=Gauges")).await, "");
    assert_eq!(world.send("POST", "/reset_counters").await.1, "OK\n");
    assert_eq!(world.page(target).await, "");
    for bad in ["format=bad", "type=foo", "filter=%5B", "histogram_buckets=x"] {
        let (status, _) = world.get(&format!("/stats?{bad}")).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{bad}");
    }
}

#[tokio::test]
async fn log_levels_change_as_asked() {
    let world = World::new();
    let (status, page) = world.send("POST", "/logging?http=debug").await;
    assert_eq!(status, StatusCode::OK);
    assert!(
        page.starts_with("active loggers:\n  a2a: info\n  admin: info\n"),
        "{page}"
    );
    assert!(page.contains("\n  http: debug\n"));
    assert!(
        world
            .send("POST", "/logging?level=warning")
            .await
            .1
            .contains("\n  http: warning\n")
    );
    let (status, page) = world.send("POST", "/logging?paths=http:debug,foo:bar").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(page.starts_with("error: unknown logger"), "{page}");
    let (_, page) = world.send("POST", "/logging?level=info&http=debug").await;
    let usage = "error: invalid number of parameters\n\nusage: /logging?<name>=<level> (change single level)\n";
    assert!(page.starts_with(usage), "{page}");
    assert!(page.contains("\n  http: warning\n"));
}

#[tokio::test]
async fn small_pages() {
    let world = World::new();
    assert_eq!(world.page("/listeners").await, "first::127.0.0.1:15001\n");
    assert_eq!(
        world.page("/listeners?format=json").await,
        include_str!("listeners.json")
    );
    assert_eq!(world.page("/certs").await, "{\n \"certificates\": []\n}\n");
    assert_eq!(world.page("/init_dump").await, "{}\n");
    let info = world.tree("/server_info").await;
    assert_eq!(
        (&info["state"], &info["node"]["cluster"]),
        (&"LIVE".into(), &"c1".into())
    );
    assert_eq!(info["command_line_options"]["config_path"], "envoy.yaml");
    let runtime = serde_json::json!({
        "layers": ["base", "over"],
        "entries": {
            "a.b": {"final_value": "7", "layer_values": ["5", "7"]},
            "c": {"final_value": "x", "layer_values": ["", "x"]},
        },
    });
    assert_eq!(world.tree("/runtime").await, runtime);
    let modify = |query, form| world.send_form(query, form);
    let none = (StatusCode::SERVICE_UNAVAILABLE, "No admin layer specified".to_owned());
    assert_eq!(modify("/runtime_modify?c=y", "").await, none);
    assert_eq!(modify("/runtime_modify", "c=y&d=z").await, none, "values in a form");
    let (status, usage) = modify("/runtime_modify", "").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(usage.starts_with("usage: /runtime_modify?key1=value1"), "{usage}");
    let memory = world.tree("/memory").await;
    assert!(memory["total_physical_bytes"].is_string());
}

#[tokio::test]
async fn help_and_home_list_every_endpoint() {
    let world = World::new();
    let (help, home) = (world.page("/help").await, world.page("/").await);
    let mut before = "";
    for endpoint in &endpoints::ENDPOINTS {
        assert!(endpoint.path > before, "{} is out of order", endpoint.path);
        before = endpoint.path;
        let post = if endpoint.mutates { " (POST)" } else { "" };
        assert!(help.contains(&format!("\n  {}{post}: {}\n", endpoint.path, endpoint.help)));
        assert!(home.contains(&endpoint.path[1..]));
    }
    let (status, page) = world.get("/nosuch").await;
    assert_eq!((status, page), (StatusCode::NOT_FOUND, format!("invalid path. {help}")));
}

#[tokio::test]
async fn it_serves_until_told_to_stop() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let world = World::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("address");
    write_address_path(&path, &address.into()).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), address.to_string());
    let (drain, stop) = crate::runtime::drain::Drain::new();
    let server = crate::runtime::spawn::spawn("admin", serve(Bound::Tcp(listener), world.state.clone(), stop));
    let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = b"GET /ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    client.write_all(request).await.unwrap();
    let mut reply = String::new();
    client.read_to_string(&mut reply).await.unwrap();
    assert!(reply.starts_with("HTTP/1.1 200 OK\r\n"), "{reply}");
    assert!(
        reply.contains("\r\nserver: envoy\r\n") && reply.ends_with("\r\n\r\nLIVE\n"),
        "{reply}"
    );
    drain.advance(crate::runtime::drain::DrainPhase::Draining);
    assert!(server.await.unwrap().is_ok());
}

#[tokio::test]
async fn stats_have_an_html_page_and_server_info_has_the_extensions() {
    let world = World::new();
    let page = world
        .page("/stats?format=html&filter=%3Cscript%3E&invert_filter&type=Counters")
        .await;
    assert!(
        page.starts_with("<!DOCTYPE html>") && page.ends_with("</pre>\n</body>\n</html>\n"),
        "{page}"
    );
    assert!(
        page.contains("value='&lt;script&gt;'") && !page.contains("<script>"),
        "{page}"
    );
    assert!(
        page.contains("name='invert_filter' checked") && page.contains("'Counters' selected"),
        "{page}"
    );
    // The same lines as on the text page.
    let html = world.page("/stats?format=html").await;
    let (_, stats) = html.split_once("<pre>\n").unwrap();
    let names = |text: &str| -> Vec<String> {
        text.lines()
            .map(|line| line.split(": ").next().unwrap_or_default().to_owned())
            .collect()
    };
    let text = world.page("/stats").await;
    assert_eq!(
        names(stats.strip_suffix("</pre>\n</body>\n</html>\n").unwrap()),
        names(&text)
    );

    let info = world.tree("/server_info").await;
    let extensions = info["node"]["extensions"].as_array().unwrap();
    // One entry as Envoy 1.40 has it.
    let router = serde_json::json!({
        "name": "envoy.filters.http.router",
        "category": "envoy.filters.http",
        "type_descriptor": "",
        "disabled": false,
        "type_urls": ["envoy.extensions.filters.http.router.v3.Router"],
    });
    assert!(extensions.contains(&router), "{extensions:?}");
}
