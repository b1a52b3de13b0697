//! Runtime values: what `layered_runtime` and `/runtime_modify` say over the defaults of whatever is configured with a `runtime_key`.
//!
//! Who is configured with a key holds its [`Key`]: reading it takes no lock, and nothing is looked up while traffic flows. Keys belong to the
//! process, as in Envoy; where one process runs several proxies, the one that was started last decides about a key that several of them set.

mod layers;

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Weak};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use remora_proto::pb::envoy::config::core::v3 as pb;

pub use layers::{MAINTENANCE_MODE, REJECT_FRAGMENTS, RuntimeLayer, RuntimeLayers, RuntimeValue, fault};

use super::Compiled;
use super::route::{Fraction, Under};
use crate::telemetry::server::RuntimeStats;

/// What a key is set to, as each kind of reader takes it; a reader that finds nothing of its kind keeps its default.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Setting {
    pub fraction: Option<Fraction>,
    pub integer: Option<u64>,
    pub double: Option<f64>,
    pub flag: Option<bool>,
}

impl Setting {
    /// A number is also a percentage (of more than 100: always) and a flag.
    pub fn number(number: f64) -> Self {
        let integer = (number >= 0.0).then_some(number as u64);
        Self {
            fraction: integer.map(|percent| Fraction {
                numerator: percent.min(100) as u32,
                denominator: 100,
            }),
            integer,
            double: Some(number),
            flag: Some(number != 0.0),
        }
    }
}

/// The place of one key's value.
#[derive(Debug, Default)]
pub struct Key(ArcSwapOption<Setting>);

impl Key {
    /// The key called `name`; none for an empty name.
    pub fn named(name: &str) -> Option<Arc<Self>> {
        (!name.is_empty()).then(|| REGISTRY.lock().key(name))
    }

    pub fn setting(&self) -> Setting {
        self.0.load().as_deref().copied().unwrap_or_default()
    }
}

/// A share of streams (`RuntimeFractionalPercent`).
#[derive(Clone, Debug)]
pub struct Share {
    default: Fraction,
    key: Option<Arc<Key>>,
}

impl Share {
    /// Without a default it is always, as in Envoy.
    pub fn compile(value: &pb::RuntimeFractionalPercent) -> Compiled<Self> {
        let always = Fraction {
            numerator: 100,
            denominator: 100,
        };
        let default = value.default_value.as_ref().map(Fraction::compile).transpose();
        Ok(Self::new(
            default.under("default_value")?.unwrap_or(always),
            &value.runtime_key,
        ))
    }

    pub fn new(default: Fraction, key: &str) -> Self {
        let key = Key::named(key);
        Self { default, key }
    }

    /// What it is now.
    pub fn now(&self) -> Fraction {
        self.or(self.default)
    }

    /// What the key is set to, else `default`.
    pub fn or(&self, default: Fraction) -> Fraction {
        let set = self.key.as_ref().and_then(|key| key.setting().fraction);
        set.unwrap_or(default)
    }

    /// What was configured.
    pub fn default(&self) -> Fraction {
        self.default
    }

    /// Whether the stream whose random number is `random` is among the chosen.
    pub fn contains(&self, random: u64) -> bool {
        self.now().contains(random)
    }
}

/// Something that is on or off (`RuntimeFeatureFlag`).
#[derive(Clone, Debug)]
pub struct Switch {
    default: bool,
    key: Option<Arc<Key>>,
}

impl Switch {
    /// A flag that is not there, or without a default, is `default`.
    pub fn compile(value: Option<&pb::RuntimeFeatureFlag>, default: bool) -> Self {
        let own = value.and_then(|value| value.default_value.as_ref());
        Self {
            default: own.map_or(default, |own| own.value),
            key: value.and_then(|value| Key::named(&value.runtime_key)),
        }
    }

    /// A runtime feature of Envoy's own, which no field names.
    pub fn feature(name: &str, default: bool) -> Self {
        let key = Key::named(name);
        Self { default, key }
    }

    pub fn is_on(&self) -> bool {
        let set = self.key.as_ref().and_then(|key| key.setting().flag);
        set.unwrap_or(self.default)
    }
}

/// A `RuntimeDouble` as it is now: it counts for what is built with it, until that is built anew.
pub fn double(value: &pb::RuntimeDouble, is_good: impl Fn(f64) -> bool) -> f64 {
    match Key::named(&value.runtime_key).and_then(|key| key.setting().double) {
        Some(set) if set.is_finite() && is_good(set) => set,
        // What an operator sets cannot refuse a cluster that was accepted.
        Some(_) => 1.0,
        None => value.default_value,
    }
}

/// A whole number that a key may set, and nothing where none does.
#[derive(Clone, Debug, Default)]
pub struct Amount(Option<Arc<Key>>);

impl Amount {
    pub fn named(key: &str) -> Self {
        Self(Key::named(key))
    }

    pub fn now(&self) -> Option<u64> {
        self.0.as_ref()?.setting().integer
    }
}

/// The runtime values of one proxy. They are in force until it is dropped.
pub struct Values {
    id: u64,
    layers: Mutex<RuntimeLayers>,
    stats: Arc<RuntimeStats>,
}

/// There is no layer that an operator may write to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("No admin layer specified")]
pub struct NoAdminLayer;

impl Values {
    pub fn new(layers: RuntimeLayers, stats: Arc<RuntimeStats>) -> Self {
        let id = REGISTRY.lock().install(&layers);
        // Envoy loads them twice at its start, and counts both.
        note(&stats, &layers);
        note(&stats, &layers);
        let layers = Mutex::new(layers);
        Self { id, layers, stats }
    }

    pub fn layers(&self) -> RuntimeLayers {
        self.layers.lock().clone()
    }

    /// Sets keys in the last admin layer; an empty value takes a key out of it.
    ///
    /// # Errors
    /// There is no such layer.
    pub fn modify(&self, changes: &[(String, String)]) -> Result<(), NoAdminLayer> {
        let mut layers = self.layers.lock();
        let admin = layers.0.iter_mut().rfind(|layer| layer.is_admin).ok_or(NoAdminLayer)?;
        for (key, text) in changes {
            match text.as_str() {
                "" => drop(admin.values.remove(key)),
                text => drop(admin.values.insert(key.clone(), RuntimeValue::typed(text))),
            }
        }
        note(&self.stats, &layers);
        REGISTRY.lock().replace(self.id, &layers);
        Ok(())
    }
}

impl Default for Values {
    fn default() -> Self {
        Self::new(RuntimeLayers::default(), Arc::default())
    }
}

impl Drop for Values {
    fn drop(&mut self) {
        REGISTRY.lock().remove(self.id);
    }
}

fn note(stats: &RuntimeStats, layers: &RuntimeLayers) {
    stats.load_success.inc();
    stats.override_dir_not_exists.inc();
    let overrides = layers.0.iter().any(|layer| layer.is_admin && !layer.values.is_empty());
    let active = &stats.admin_overrides_active;
    active.replace(active.value(), u64::from(overrides));
    stats.num_keys.set(layers.settings().len() as u64);
    stats.num_layers.set(layers.0.len() as u64);
}

static REGISTRY: LazyLock<Mutex<Registry>> = LazyLock::new(Mutex::default);

/// Who holds a key, and who has set it to what.
#[derive(Default)]
struct Registry {
    keys: HashMap<Box<str>, Weak<Key>>,
    /// Keys are looked through for forgotten ones at this many.
    crowded: usize,
    /// In the order of their start.
    sets: Vec<(u64, HashMap<String, Setting>)>,
    last_id: u64,
}

impl Registry {
    fn key(&mut self, name: &str) -> Arc<Key> {
        if let Some(key) = self.keys.get(name).and_then(Weak::upgrade) {
            return key;
        }
        if self.keys.len() >= self.crowded {
            self.keys.retain(|_, key| key.strong_count() > 0);
            self.crowded = (self.keys.len() * 2).max(64);
        }
        let key = Arc::new(Key::default());
        key.0.store(self.setting(name).map(Arc::new));
        self.keys.insert(name.into(), Arc::downgrade(&key));
        key
    }

    fn setting(&self, name: &str) -> Option<Setting> {
        self.sets.iter().rev().find_map(|(_, set)| set.get(name)).copied()
    }

    fn install(&mut self, layers: &RuntimeLayers) -> u64 {
        self.last_id += 1;
        self.sets.push((self.last_id, HashMap::new()));
        self.replace(self.last_id, layers);
        self.last_id
    }

    fn replace(&mut self, id: u64, layers: &RuntimeLayers) {
        if let Some((_, set)) = self.sets.iter_mut().find(|(own, _)| *own == id) {
            *set = layers.settings();
        }
        self.tell();
    }

    fn remove(&mut self, id: u64) {
        self.sets.retain(|(own, _)| *own != id);
        self.tell();
    }

    fn tell(&self) {
        for (name, key) in &self.keys {
            if let Some(key) = key.upgrade() {
                key.0.store(self.setting(name).map(Arc::new));
            }
        }
    }
}

#[cfg(test)]
mod tests;
