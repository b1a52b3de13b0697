//! What stands in the log.

use super::*;

fn logged(logging: &Logging, path: &Path, work: impl FnOnce()) -> String {
    tracing::subscriber::with_default(logging.subscriber(), work);
    let text = std::fs::read_to_string(path).expect("the log file is there");
    logging.reopen().expect("the log file opens again");
    text
}

#[test]
fn escaped_lines_are_one_line_each_whatever_they_say() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("log");
    let logging = Logging::new(Level::Info, "[%n] %v", Some(&path)).expect("a log");
    let work = || tracing::info!(target: "upstream", "a 'b' \"c\"\n\td\\e \u{e9}\u{1} ");
    assert_eq!(
        logged(&logging, &path, work),
        "[upstream] a 'b' \"c\"\n\td\\e \u{e9}\u{1} \n"
    );
    std::fs::remove_file(&path).expect("the file goes");
    logging.reopen().expect("a new file");
    logging.escape(true);
    // What Envoy 1.40 makes of the same line.
    assert_eq!(
        logged(&logging, &path, work),
        "[upstream] a \\'b\\' \\\"c\\\"\\n\\td\\\\e \\303\\251\\001 \n"
    );
}

#[test]
fn lines_follow_the_format_and_levels_their_loggers() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("log");
    let logging = Logging::new(Level::Info, "[%l][%n] %v", Some(&path)).expect("a log");
    let text = logged(&logging, &path, || {
        tracing::info!(target: "upstream", cluster = "a", code = 3, "added");
        tracing::debug!(target: "upstream", "hidden");
        tracing::error!("here");
    });
    assert_eq!(text, "[info][upstream] added cluster=a code=3\n[error][stats] here\n");
    logging.set_listed("upstream:trace,stats:off").expect("known names");
    let text = logged(&logging, &path, || {
        tracing::trace!(target: "upstream", "now seen");
        tracing::error!("no more");
    });
    assert!(text.ends_with("here\n[trace][upstream] now seen\n"), "{text}");
}

#[test]
fn unknown_names_change_nothing() {
    let logging = Logging::new(Level::Info, DEFAULT_FORMAT, None).expect("a log");
    assert_eq!(
        logging.set_listed("http:debug,nope:info"),
        Err(LevelError::Logger("nope".to_owned()))
    );
    assert_eq!(
        logging.set_listed("http:loud"),
        Err(LevelError::Level("loud".to_owned()))
    );
    assert!(logging.levels().iter().all(|(_, level)| *level == Level::Info));
    logging.set_all(Level::Off);
    assert!(logging.levels().iter().all(|(_, level)| *level == Level::Off));
    assert_eq!(Level::parse("warn").map(Level::name), Some("warning"));
}

#[test]
fn every_module_maps_to_a_logger() {
    for (_, logger) in MODULES {
        assert!(LOGGERS.contains(logger), "{logger}");
    }
    assert_eq!(LOGGERS[logger_of("remora::cluster::health_check")], "hc");
    assert_eq!(LOGGERS[logger_of("elsewhere")], "misc");
}
