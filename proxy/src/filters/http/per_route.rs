//! What the selected route says of a filter.

use std::any::Any;
use std::sync::Arc;

use super::FilterList;
use crate::config::Compiled;
use crate::http::exchange::Exchange;
use crate::http::router;
use crate::route::Route;
use crate::route::clusters::ClusterSpecifier;

/// A filter's most specific per-route configuration.
pub enum Setting<T> {
    /// The route says nothing.
    None,
    Disabled,
    Own(Arc<T>),
    /// It is another filter's configuration under this filter's name: whoever guards something should refuse.
    Broken,
}

/// The setting of the filter called `name` for this request; compiled by the first request that needs it.
pub fn setting<T: Any + Send + Sync>(
    exchange: &mut Exchange,
    name: &str,
    type_name: &str,
    compile: impl FnOnce(&[u8]) -> Compiled<T>,
) -> Setting<T> {
    let Some(route) = exchange.route.route.clone() else {
        return Setting::None;
    };
    choose_weighted(exchange, &route);
    let Some(entry) = route.per_filter(name, exchange.route.weighted) else {
        return Setting::None;
    };
    if entry.disabled {
        return Setting::Disabled;
    }
    if entry.type_name.is_empty() {
        return Setting::None;
    }
    let own = (*entry.type_name == *type_name).then(|| entry.compiled(compile));
    own.flatten().map_or(Setting::Broken, Setting::Own)
}

/// Which filters of `list` this request passes by: what the list says, and over it what the route's most specific level does.
pub fn filters_off(exchange: &mut Exchange, list: &FilterList) -> u64 {
    let mut off = list.off();
    let Some(route) = exchange.route.route.clone() else {
        return off;
    };
    if off == 0 && !route.switches_filters_off() {
        return off;
    }
    choose_weighted(exchange, &route);
    for (index, name) in list.names().iter().enumerate() {
        if let Some(entry) = route.per_filter(name, exchange.route.weighted) {
            let bit = FilterList::bit(index);
            off = if entry.disabled { off | bit } else { off & !bit };
        }
    }
    off
}

/// An entry of a weighted cluster may configure filters: then it is chosen now, as the router will choose it.
fn choose_weighted(exchange: &mut Exchange, route: &Route) {
    let Some(forward) = route.forward().filter(|_| exchange.route.weighted.is_none()) else {
        return;
    };
    if let ClusterSpecifier::Weighted(weighted) = &forward.cluster
        && weighted.entries.iter().any(|entry| !entry.per_filter.is_empty())
    {
        exchange.route.weighted = router::choose(exchange, forward).1.and_then(|chosen| chosen.weighted);
    }
}
