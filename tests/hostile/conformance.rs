//! h2spec against a listener: 145 cases of RFC 9113 and RFC 7541.

use std::process::{Command, Stdio};

use super::child::Proxy;
use super::{bootstrap, cluster, program};

const MANAGER: &str = r#"
codec_type: AUTO
route_config:
  name: routes
  virtual_hosts:
  - {name: all, domains: ["*"], routes: [{match: {prefix: /}, direct_response: {status: 200, body: {inline_string: ok}}}]}
"#;

/// Cases that may fail. hyper and the `h2` crate under us fail one: 6.9.2, a window that SETTINGS made negative.
const MAY_FAIL: u32 = 1;

#[tokio::test]
async fn a_listener_passes_h2spec() {
    let Some(h2spec) = program("h2spec") else { return };
    let proxy = Proxy::start(&bootstrap(MANAGER, &cluster("none", 9, ""))).await;
    let port = proxy.address.port().to_string();
    // A slow machine answers late: the tool's own two seconds are for fast ones.
    let run = move || {
        let mut command = Command::new(h2spec);
        command
            .args(["-h", "127.0.0.1", "-p", &port, "--timeout", "5"])
            .stdin(Stdio::null());
        command.output()
    };
    let output = tokio::task::spawn_blocking(run).await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let (total, passed) = summary(&text).unwrap_or_else(|| panic!("no summary:\n{text}"));
    assert!(
        total >= 145 && total - passed <= MAY_FAIL,
        "{passed} of {total}:\n{text}"
    );
}

/// Out of `145 tests, 144 passed, 0 skipped, 1 failed`.
fn summary(text: &str) -> Option<(u32, u32)> {
    let line = text.lines().rev().find(|line| line.contains(" tests, "))?;
    let mut numbers = line
        .split(|character: char| !character.is_ascii_digit())
        .filter_map(|word| word.parse().ok());
    Some((numbers.next()?, numbers.next()?))
}
