//! `typed_per_filter_config`: kept encoded by filter name, compiled by the filter's first request, most specific level first.

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use prost::Message;
use remora_proto::pb::envoy::config::route::v3::FilterConfig;
use remora_proto::pb::google::protobuf::Any as AnyMessage;

use crate::config::{Compiled, Problems};

/// One level's configuration for each filter that it names.
#[derive(Default)]
pub struct PerFilter {
    entries: BTreeMap<Box<str>, PerFilterEntry>,
    /// Some filter is off here.
    switches_off: bool,
}

/// One filter's configuration at one level.
pub struct PerFilterEntry {
    /// Full name of the message, without `type.googleapis.com/`.
    pub type_name: Box<str>,
    pub config: Bytes,
    /// The filter is off here.
    pub disabled: bool,
    compiled: OnceLock<Option<Arc<dyn Any + Send + Sync>>>,
}

impl PerFilter {
    pub fn compile(map: &HashMap<String, AnyMessage>) -> Compiled<Self> {
        let mut entries = BTreeMap::new();
        for (name, any) in map {
            let entry = PerFilterEntry::compile(any)
                .map_err(|problems| problems.under(&format!("typed_per_filter_config[{name:?}]")))?;
            entries.insert(name.as_str().into(), entry);
        }
        let switches_off = entries.values().any(|entry: &PerFilterEntry| entry.disabled);
        Ok(Self { entries, switches_off })
    }

    pub fn find(&self, filter: &str) -> Option<&PerFilterEntry> {
        self.entries.get(filter)
    }

    /// Whether a filter is switched off here.
    pub fn switches_off(&self) -> bool {
        self.switches_off
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &PerFilterEntry)> {
        self.entries.iter().map(|(name, entry)| (name.as_ref(), entry))
    }
}

impl PerFilterEntry {
    fn compile(any: &AnyMessage) -> Compiled<Self> {
        const WRAPPER: &str = "envoy.config.route.v3.FilterConfig";
        let type_of = |any: &AnyMessage| any.type_url.rsplit('/').next().unwrap_or_default().into();
        let plain = |any: &AnyMessage, disabled| Self {
            type_name: type_of(any),
            config: Bytes::copy_from_slice(&any.value),
            disabled,
            compiled: OnceLock::new(),
        };
        if any.type_url.rsplit('/').next() != Some(WRAPPER) {
            return plain(any, false).check(false);
        }
        let wrapped =
            FilterConfig::decode(any.value.as_slice()).map_err(|error| Problems::one("", error.to_string()))?;
        if wrapped.config.is_none() && !wrapped.disabled {
            return Err(Problems::one("config", "is required unless the filter is disabled"));
        }
        plain(&wrapped.config.unwrap_or_default(), wrapped.disabled)
            .check(wrapped.is_optional)
            .map_err(|problems| problems.under("config"))
    }

    /// What `compile` makes of the configuration, made once. `None`: it fails, or another type was made of it before.
    pub fn compiled<T: Any + Send + Sync>(&self, compile: impl FnOnce(&[u8]) -> Compiled<T>) -> Option<Arc<T>> {
        let compiled = self.compiled.get_or_init(|| match compile(&self.config) {
            Ok(compiled) => Some(Arc::new(compiled)),
            Err(_) => None,
        });
        compiled.clone()?.downcast().ok()
    }

    /// A type that no filter has is refused, and so is what its filter cannot do.
    fn check(self, optional: bool) -> Compiled<Self> {
        match crate::filters::http::find_per_route(&self.type_name) {
            Some(known) => (known.check)(&self.config).map(|()| self),
            // An empty configuration switches the filter on, or off, and says nothing else.
            None if optional || self.type_name.is_empty() => Ok(self),
            None => Err(Problems::one("", format!("{} is not supported", self.type_name))),
        }
    }
}
