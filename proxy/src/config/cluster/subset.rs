//! `lb_subset_config`, and the extension that replaces it: the same fields in two messages.

use pb::cluster::lb_subset_config::LbSubsetSelector as OldSelector;
use remora_proto::pb::envoy::config::cluster::v3 as pb;
use remora_proto::pb::envoy::extensions::load_balancing_policies::subset::v3 as extension;
use remora_proto::pb::google::protobuf::{Struct, Value};

use crate::cluster::lb::subset::{Fallback, Selector, SelectorFallback, SubsetConfig};
use crate::config::route::{each, refuse};
use crate::config::{Compiled, Problems};

pub(super) fn compile(config: &pb::cluster::LbSubsetConfig) -> Compiled<SubsetConfig> {
    Ok(SubsetConfig {
        fallback: fallback("fallback_policy", config.fallback_policy)?,
        default_subset: labels(config.default_subset.as_ref()),
        selectors: shadow(each(
            "subset_selectors",
            &config.subset_selectors,
            |selector: &OldSelector| {
                self::selector(
                    &selector.keys,
                    selector.single_host_per_subset,
                    selector.fallback_policy,
                    &selector.fallback_keys_subset,
                )
            },
        )?),
        locality_weight_aware: config.locality_weight_aware,
        scale_locality_weight: config.scale_locality_weight,
        panic_mode_any: config.panic_mode_any,
        list_as_any: config.list_as_any,
        allow_redundant_keys: false,
        metadata_fallback: metadata_fallback(config.metadata_fallback_policy)?,
    })
}

pub(super) fn compile_extension(config: &extension::Subset) -> Compiled<SubsetConfig> {
    Ok(SubsetConfig {
        fallback: fallback("fallback_policy", config.fallback_policy)?,
        default_subset: labels(config.default_subset.as_ref()),
        selectors: shadow(each("subset_selectors", &config.subset_selectors, |selector| {
            self::selector(
                &selector.keys,
                selector.single_host_per_subset,
                selector.fallback_policy,
                &selector.fallback_keys_subset,
            )
        })?),
        locality_weight_aware: config.locality_weight_aware,
        scale_locality_weight: config.scale_locality_weight,
        panic_mode_any: config.panic_mode_any,
        list_as_any: config.list_as_any,
        allow_redundant_keys: config.allow_redundant_keys,
        metadata_fallback: metadata_fallback(config.metadata_fallback_policy)?,
    })
}

/// Envoy keeps selectors in a tree by their sorted keys, and a selector that an earlier one begins with has no fallback of its own there.
fn shadow(mut selectors: Vec<Selector>) -> Vec<Selector> {
    for index in 1..selectors.len() {
        let (earlier, rest) = selectors.split_at_mut(index);
        if let Some(own) = rest.first_mut()
            && earlier.iter().any(|earlier| earlier.keys.starts_with(&own.keys))
        {
            own.fallback = SelectorFallback::Cluster;
        }
    }
    selectors
}

fn selector(keys: &[String], single_host: bool, fallback: i32, fallback_keys: &[String]) -> Compiled<Selector> {
    let sorted = |keys: &[String]| {
        let mut keys = keys.to_vec();
        keys.sort();
        keys.dedup();
        keys
    };
    let (keys, fallback_keys) = (sorted(keys), sorted(fallback_keys));
    refuse("keys", keys.is_empty(), "required")?;
    refuse(
        "single_host_per_subset",
        single_host && keys.len() > 1,
        "goes with a single key",
    )?;
    refuse(
        "fallback_keys_subset",
        fallback != 4 && !fallback_keys.is_empty(),
        "goes with KEYS_SUBSET",
    )?;
    let fallback = match fallback {
        0 => SelectorFallback::Cluster,
        1 => SelectorFallback::One(Fallback::None),
        2 => SelectorFallback::One(Fallback::Any),
        3 => SelectorFallback::One(Fallback::Default),
        4 => {
            let path = "fallback_keys_subset";
            refuse(path, fallback_keys.is_empty(), "required by KEYS_SUBSET")?;
            let is_subset = fallback_keys.iter().all(|key| keys.contains(key));
            refuse(path, !is_subset, "must be a subset of keys")?;
            refuse(path, fallback_keys.len() == keys.len(), "must not be equal to keys")?;
            SelectorFallback::Keys(fallback_keys)
        }
        _ => return Err(Problems::one("fallback_policy", "unknown value")),
    };
    Ok(Selector {
        keys,
        single_host,
        fallback,
    })
}

fn fallback(field: &str, value: i32) -> Compiled<Fallback> {
    match value {
        0 => Ok(Fallback::None),
        1 => Ok(Fallback::Any),
        2 => Ok(Fallback::Default),
        _ => Err(Problems::one(field, "unknown value")),
    }
}

fn metadata_fallback(value: i32) -> Compiled<bool> {
    match value {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Problems::one("metadata_fallback_policy", "unknown value")),
    }
}

fn labels(fields: Option<&Struct>) -> Vec<(String, Value)> {
    let fields = fields.into_iter().flat_map(|fields| &fields.fields);
    fields.map(|(key, value)| (key.clone(), value.clone())).collect()
}
