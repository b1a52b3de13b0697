//! Access logs: compiled formats, and sinks that write off the request path.
//!
//! In: the end of a stream or connection. Out: a line in a sink's buffer, if the filter lets it pass; a thread of its own writes buffers to files.

mod filter;
mod sink;

use std::cell::RefCell;
use std::sync::Arc;

use prost::Message;
use remora_proto::pb::envoy::config::accesslog::v3 as pba;
use remora_proto::pb::envoy::config::core::v3::{
    SubstitutionFormatString, TypedExtensionConfig, substitution_format_string::Format as FormatOneof,
};
use remora_proto::pb::envoy::extensions::access_loggers::{file::v3 as pbf, stream::v3 as pbs};

pub use filter::Filter;
pub use sink::{FilesystemStats, Sink, Sinks};

use super::format::{self, Close, Format, JsonFormat, LogType, LogView, TcpRecord};
use crate::config::route::{Under, data_source, each, optional, refuse};
use crate::config::{BuildContext, Compiled, Problems, gather};
use crate::filters::network::{Observer, Watch};
use crate::http::exchange::{ByteCounts, Exchange, Timing, Upstream};
use crate::listener::ConnectionInfo;
use crate::runtime::clock;
use crate::telemetry::flags::ResponseFlags;

/// A compiled access logger.
pub struct AccessLog {
    filter: Option<Filter>,
    format: LineFormat,
    sink: Arc<Sink>,
}

/// The record of a connection without HTTP, written to its logs when it is dropped: however the connection ends, it is logged once.
pub struct TcpJournal {
    logs: Arc<[AccessLog]>,
    pub record: TcpRecord,
    /// Told of the connection while it lasts, and of its end.
    pub watches: Vec<Box<dyn Watch>>,
}

impl TcpJournal {
    pub fn new(logs: &Arc<[AccessLog]>, connection: Arc<ConnectionInfo>) -> Box<Self> {
        let record = TcpRecord {
            start_time: clock::wall_of(connection.accepted_at),
            connection,
            upstream: Upstream::default(),
            flags: ResponseFlags::default(),
            bytes: ByteCounts::default(),
            timing: Timing::default(),
            cluster: None,
            workload: None,
            extensions: None,
            termination: "".into(),
            details: "",
            downstream_failure: None,
            close: Close::default(),
            log_type: LogType::TcpConnectionEnd,
        };
        Box::new(Self {
            logs: logs.clone(),
            record,
            watches: Vec::new(),
        })
    }

    /// For the log of a listener, whose lines are of no type.
    pub fn of_listener(logs: &Arc<[AccessLog]>, connection: Arc<ConnectionInfo>) -> Box<Self> {
        let mut journal = Self::new(logs, connection);
        journal.record.log_type = LogType::NotSet;
        journal
    }

    /// Has each observer watch what the record is of.
    pub fn watched(mut self: Box<Self>, observers: &[Arc<dyn Observer>]) -> Box<Self> {
        self.watches = observers.iter().map(|observer| observer.watch()).collect();
        self
    }
}

impl TcpJournal {
    /// Has those who watch look at the record as it stands.
    pub fn look(&mut self) {
        for watch in &mut self.watches {
            watch.look(&self.record);
        }
    }

    /// Writes a line before the end.
    pub fn log(&self, kind: LogType) {
        for log in self.logs.iter() {
            log.log_view(&LogView {
                log_type: kind,
                ..LogView::of_tcp(&self.record)
            });
        }
    }
}

impl Drop for TcpJournal {
    fn drop(&mut self) {
        let accepted = self.record.connection.accepted_at;
        self.record.timing.end = Some(clock::now().saturating_duration_since(accepted));
        for watch in &mut self.watches {
            watch.end(&self.record);
        }
        for log in self.logs.iter() {
            log.log_tcp(&self.record);
        }
    }
}

/// A text or JSON format as loggers and local replies take it.
pub enum LineFormat {
    Text(Format),
    Json(JsonFormat),
}

thread_local! {
    /// Lines are put together here, so that a sink's buffer is held for one copy only.
    static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl AccessLog {
    /// A list of loggers, `access_log` by name.
    pub fn compile_all(values: &[pba::AccessLog], cx: &BuildContext) -> Compiled<Vec<Self>> {
        let logs = each("access_log", values, |log| Self::compile(log, cx))?;
        Ok(logs.into_iter().flatten().collect())
    }

    /// Compiles a logger and opens its file; files are shared by path. `None`: a kind of logger that there is not; the tables refuse it, unless
    /// the operator wants to run without.
    fn compile(value: &pba::AccessLog, cx: &BuildContext) -> Compiled<Option<Self>> {
        gather! {
            let filter = optional("filter", value.filter.as_ref(), Filter::compile);
            let target = Self::target(value, cx);
        }
        Ok(target.map(|(format, sink)| Self { filter, format, sink }))
    }

    /// How lines are written, and where.
    fn target(value: &pba::AccessLog, cx: &BuildContext) -> Compiled<Option<(LineFormat, Arc<Sink>)>> {
        let Some(pba::access_log::ConfigType::TypedConfig(any)) = &value.config_type else {
            return Err(Problems::one("typed_config", "is required"));
        };
        let bytes = any.value.as_slice();
        let (path, format) = match any.type_url.rsplit('/').next() {
            Some("envoy.extensions.access_loggers.file.v3.FileAccessLog") => decode(bytes).and_then(file),
            Some("envoy.extensions.access_loggers.stream.v3.StdoutAccessLog") => decode(bytes).and_then(stdout),
            Some("envoy.extensions.access_loggers.stream.v3.StderrAccessLog") => decode(bytes).and_then(stderr),
            _ => return Ok(None),
        }
        .under("typed_config")?;
        let sink = cx.access_logs.open(&path, &cx.stats);
        let sink =
            sink.map_err(|error| Problems::one("typed_config.path", format!("unable to open file '{path}': {error}")))?;
        Ok(Some((format, sink)))
    }

    /// Whether the response's headers must be kept in [`Exchange::logged_response`].
    pub fn needs_response_headers(&self) -> bool {
        self.format.needs_response_headers() || self.filter.as_ref().is_some_and(Filter::needs_response)
    }

    /// Whether the response's trailers must be kept in [`Exchange::logged_trailers`].
    pub fn needs_trailers(&self) -> bool {
        self.format.needs_trailers() || self.filter.as_ref().is_some_and(Filter::needs_response)
    }

    /// Whether [`Upstream::meter`](crate::http::exchange::Upstream::meter) must count.
    pub fn needs_upstream_meter(&self) -> bool {
        self.format.needs_upstream_meter()
    }

    /// Whether it prints how a connection was closed.
    pub fn needs_close(&self) -> bool {
        self.format.needs_close()
    }

    /// Logs a finished stream.
    pub fn log(&self, exchange: &Exchange) {
        self.log_view(&LogView::of(exchange));
    }

    /// Logs a stream before its end.
    pub fn log_as(&self, kind: LogType, exchange: &Exchange) {
        self.log_view(&LogView {
            log_type: kind,
            ..LogView::of(exchange)
        });
    }

    /// Logs a finished connection.
    pub fn log_tcp(&self, record: &TcpRecord) {
        self.log_view(&LogView::of_tcp(record));
    }

    pub fn log_view(&self, view: &LogView<'_>) {
        if self.filter.as_ref().is_some_and(|filter| !filter.passes(view)) {
            return;
        }
        LINE.with_borrow_mut(|line| {
            line.clear();
            self.format.write(view, line);
            self.sink.write(line);
        });
    }
}

impl LineFormat {
    /// Compiles a `SubstitutionFormatString`.
    pub fn compile(value: &SubstitutionFormatString) -> Compiled<Self> {
        each("formatters", &value.formatters, known_formatter)?;
        let omit_empty = value.omit_empty_values;
        #[allow(deprecated, reason = "`text_format` still arrives from older control planes")]
        match &value.format {
            Some(FormatOneof::TextFormat(text)) => {
                Ok(Self::Text(Format::parse(text, omit_empty).under("text_format")?))
            }
            Some(FormatOneof::JsonFormat(json)) => {
                Ok(Self::Json(JsonFormat::compile(json, omit_empty).under("json_format")?))
            }
            Some(FormatOneof::TextFormatSource(source)) => {
                let bytes = data_source(source).under("text_format_source")?;
                let text =
                    std::str::from_utf8(&bytes).map_err(|_| Problems::one("text_format_source", "is not UTF-8"))?;
                Ok(Self::Text(Format::parse(text, omit_empty).under("text_format_source")?))
            }
            None => Err(Problems::one("format", "is required")),
        }
    }

    pub fn write(&self, view: &LogView<'_>, out: &mut Vec<u8>) {
        match self {
            Self::Text(format) => format.write(view, out),
            Self::Json(format) => format.write(view, out),
        }
    }

    pub fn needs_response_headers(&self) -> bool {
        match self {
            Self::Text(format) => format.needs_response_headers(),
            Self::Json(format) => format.needs_response_headers(),
        }
    }

    pub fn needs_trailers(&self) -> bool {
        match self {
            Self::Text(format) => format.needs_trailers(),
            Self::Json(format) => format.needs_trailers(),
        }
    }

    pub fn needs_close(&self) -> bool {
        match self {
            Self::Text(format) => format.needs_close(),
            Self::Json(format) => format.needs_close(),
        }
    }

    pub fn needs_upstream_meter(&self) -> bool {
        match self {
            Self::Text(format) => format.needs_upstream_meter(),
            Self::Json(format) => format.needs_upstream_meter(),
        }
    }
}

/// Formatter extensions whose operators are always there.
///
/// # Errors
/// Any other.
pub fn known_formatter(extension: &TypedExtensionConfig) -> Compiled<()> {
    let name = extension
        .typed_config
        .as_ref()
        .and_then(|any| any.type_url.rsplit('/').next());
    match name {
        Some("envoy.extensions.formatter.req_without_query.v3.ReqWithoutQuery")
        | Some("envoy.extensions.formatter.metadata.v3.Metadata") => Ok(()),
        _ => Err(Problems::one(
            "typed_config",
            format!("{} is not supported", name.unwrap_or("an empty formatter")),
        )),
    }
}

fn decode<T: Message + Default>(bytes: &[u8]) -> Compiled<T> {
    T::decode(bytes).map_err(|error| Problems::one("", error.to_string()))
}

fn default_format() -> Compiled<LineFormat> {
    Ok(LineFormat::Text(Format::text(format::DEFAULT)?))
}

#[allow(deprecated, reason = "the deprecated formats are honoured or refused, never ignored")]
fn file(value: pbf::FileAccessLog) -> Compiled<(String, LineFormat)> {
    use pbf::file_access_log::AccessLogFormat as F;
    refuse("path", value.path.is_empty(), "is required")?;
    let format = match &value.access_log_format {
        None => default_format()?,
        Some(F::Format(text)) if text.is_empty() => default_format()?,
        Some(F::Format(text)) => LineFormat::Text(Format::text(text).under("format")?),
        Some(F::LogFormat(format)) => LineFormat::compile(format).under("log_format")?,
        Some(F::TypedJsonFormat(json)) => {
            LineFormat::Json(JsonFormat::compile(json, false).under("typed_json_format")?)
        }
        Some(F::JsonFormat(_)) => return Err(Problems::one("json_format", "use log_format.json_format instead")),
    };
    Ok((value.path, format))
}

fn stdout(value: pbs::StdoutAccessLog) -> Compiled<(String, LineFormat)> {
    let pbs::StdoutAccessLog { access_log_format } = value;
    let format = match &access_log_format {
        Some(pbs::stdout_access_log::AccessLogFormat::LogFormat(format)) => {
            LineFormat::compile(format).under("log_format")?
        }
        None => default_format()?,
    };
    Ok((sink::STDOUT.to_owned(), format))
}

fn stderr(value: pbs::StderrAccessLog) -> Compiled<(String, LineFormat)> {
    let pbs::StderrAccessLog { access_log_format } = value;
    let format = match &access_log_format {
        Some(pbs::stderr_access_log::AccessLogFormat::LogFormat(format)) => {
            LineFormat::compile(format).under("log_format")?
        }
        None => default_format()?,
    };
    Ok((sink::STDERR.to_owned(), format))
}
