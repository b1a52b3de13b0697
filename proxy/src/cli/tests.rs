use clap::CommandFactory;

use super::*;
use clap::ArgAction;

fn run(arguments: &[&str]) -> Result<Options, Exit> {
    match parse(std::iter::once("remora").chain(arguments.iter().copied()))? {
        Command::Run(options) => Ok(*options),
        other => Err(Exit::refused(format!("{other:?}"))),
    }
}

/// `cli/envoy-flags.txt` holds the flags of `envoy --help`, version 1.40.
#[test]
fn every_flag_of_envoy_exists_in_the_same_form() {
    let ours = Args::command();
    let mut checked = 0;
    for line in include_str!("envoy-flags.txt").lines() {
        let (short, rest) = match line.split_once(",  ") {
            Some((short, rest)) => (short.trim_start_matches('-').chars().next(), rest),
            None => (None, line),
        };
        let name = rest
            .split_whitespace()
            .next()
            .unwrap_or_default()
            .trim_start_matches("--");
        let Some(flag) = ours.get_arguments().find(|flag| flag.get_long() == Some(name)) else {
            assert_eq!(name, "help", "{line} is missing");
            continue;
        };
        let takes_value = line.contains('<');
        // `-c <string>,  --config-path <string>`
        let short = short.filter(|_| line.starts_with('-') && !line.starts_with("--"));
        assert_eq!(flag.get_short(), short, "{line}");
        assert_eq!(flag.get_action().takes_values(), takes_value, "{line}");
        let repeats = matches!(flag.get_action(), ArgAction::Append);
        assert_eq!(repeats, line.contains("accepted multiple times"), "{line}");
        checked += 1;
    }
    assert!(checked > 40, "{checked}");
}

#[test]
fn defaults_are_envoys() {
    let options = run(&[]).expect("no argument is needed");
    let json = options.to_json();
    let expected = [
        ("drain_time", "600s"),
        ("parent_shutdown_time", "900s"),
        ("file_flush_interval", "10s"),
        ("log_level", "info"),
        ("log_format", "[%Y-%m-%d %T.%e][%t][%l][%n] [%g:%#] %v"),
        ("mode", "Serve"),
        ("drain_strategy", "Gradual"),
        ("socket_path", "@envoy_domain_socket"),
        ("local_address_ip_version", "v4"),
        ("base_id", "0"),
    ];
    for (key, value) in expected {
        assert_eq!(json[key], value, "{key}");
    }
    assert_eq!(options.concurrency, granted_cpus());
    assert_eq!(options.unsupported, Unsupported::Refuse);
}

#[test]
fn the_command_line_of_istios_agent_is_understood() {
    let line = "-c etc/istio/proxy/envoy-rev.json --drain-time-s 45 --drain-strategy immediate --local-address-ip-version v4 \
        --file-flush-interval-msec 1000 --disable-hot-restart --allow-unknown-static-fields -l warning \
        --component-log-level misc:error --skip-deprecated-logs --concurrency 2";
    let options = run(&line.split_whitespace().collect::<Vec<_>>()).expect("istio's arguments");
    assert_eq!(options.config_path, Some("etc/istio/proxy/envoy-rev.json".into()));
    assert_eq!(options.drain_strategy, DrainStrategy::Immediate);
    assert_eq!(options.drain_time, Duration::from_secs(45));
    assert_eq!((options.log_level, options.concurrency), (Level::Warning, 2));
    assert_eq!(options.component_log_level, "misc:error");
    assert!(options.allow_unknown_static_fields);
}

#[test]
fn what_cannot_be_is_refused_with_a_message_and_code_1() {
    let lines: [&[&str]; 9] = [
        &["--no-such-flag"],
        &["-l", "loud"],
        &["--concurrency", "many"],
        &["--mode", "dance"],
        &["--stats-tag", "a"],
        &["--stats-tag", "a:b", "--stats-tag", "a:c"],
        &["--local-address-ip-version", "v5"],
        &["--config-dump", "x.json"],
        &["stray"],
    ];
    for line in lines {
        let exit = run(line).expect_err("refused");
        assert_eq!(exit.code, 1, "{line:?}");
        assert!(!exit.message.is_empty());
    }
}

/// Messages of Envoy 1.40.
#[test]
fn component_levels_and_epochs_are_refused_in_envoys_words() {
    let said = |line: &str| run(&line.split(' ').collect::<Vec<_>>()).map_err(|exit| exit.message);
    for (levels, wrong) in [
        ("nosuch:debug", "invalid component specified 'nosuch'"),
        ("upstream:debug,nosuch:info", "invalid component specified 'nosuch'"),
        ("upstream:bogus", "invalid log level specified 'bogus'"),
        ("upstream:DEBUG", "invalid log level specified 'DEBUG'"),
        (":", "invalid log level specified ''"),
        ("upstream", "component log level not correctly specified 'upstream'"),
        ("upstream:debug,", "component log level not correctly specified ''"),
        (
            "upstream:debug:info",
            "component log level not correctly specified 'upstream:debug:info'",
        ),
    ] {
        let line = format!("--component-log-level {levels}");
        assert_eq!(said(&line).unwrap_err(), format!("error: {wrong}\n"), "{levels}");
    }
    assert!(said("--component-log-level upstream:warning,config:warn").is_ok());
    assert_eq!(
        said("--component-log-level upstream:debug --enable-fine-grain-logging").unwrap_err(),
        "error: --component-log-level will not work with --enable-fine-grain-logging\n"
    );
    assert_eq!(
        said("--use-dynamic-base-id --restart-epoch 3").unwrap_err(),
        "error: cannot use --restart-epoch=3 with --use-dynamic-base-id\n"
    );
}

#[test]
fn help_and_versions_end_well() {
    let help = run(&["--help"]).expect_err("help ends");
    assert!(
        help.code == 0
            && help.message.contains("--config-path")
            && help.message.contains("No effect: every epoch counts for itself")
    );
    let version = run(&["--version"]).expect_err("version ends");
    assert!(
        version.message.starts_with("\nremora  version: ") && version.message.matches('/').count() == 4,
        "{version:?}"
    );
    let version = |flags: &[&str]| run(flags).expect_err("version ends").message;
    assert_eq!(version(&["--hot-restart-version"]), "remora.1\n");
    assert_eq!(
        version(&["--hot-restart-version", "--disable-hot-restart"]),
        "disabled\n"
    );
}

#[test]
fn our_own_flags() {
    let options = run(&[
        "--mode",
        "validate",
        "--config-dump",
        "d.json",
        "--unsupported=warn",
        "--",
        "--whatever",
    ]);
    let options = options.expect("known flags");
    assert_eq!((options.mode, options.unsupported), (Mode::Validate, Unsupported::Warn));
    assert_eq!(
        run(&["--mode", "init_only"]).map(|options| options.mode),
        Ok(Mode::InitOnly)
    );
    let demo = parse(["remora", "demo", "--serve", "--duration", "3"]);
    assert_eq!(
        demo,
        Ok(Command::Demo(DemoArgs {
            serve: true,
            duration: 3,
            concurrency: 1,
            admin_port: 0
        }))
    );
}
