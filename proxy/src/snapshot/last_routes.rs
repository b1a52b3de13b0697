//! Route tables that went while connections still need them.
//!
//! A listener that changed or went takes its connections along for as long as it drains. Nothing refers to their routes any more, so the snapshot has
//! none: they go on with the last that there were.

use std::sync::{Arc, Weak};

use arc_swap::ArcSwapOption;
use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::config::sources::ResourceKey;
use crate::route::RouteTable;

/// The last routes of one name that the snapshot has had; empty as long as it has never lost them.
pub type LastTable = Arc<ArcSwapOption<RouteTable>>;

/// Those of every name that some connection manager routes by.
#[derive(Default)]
pub struct LastRoutes(Mutex<HashMap<ResourceKey, Weak<ArcSwapOption<RouteTable>>>>);

impl LastRoutes {
    /// For a connection manager that routes by `key`, and keeps it for as long as it lives.
    pub fn of(&self, key: &ResourceKey) -> LastTable {
        let mut tables = self.0.lock();
        if let Some(table) = tables.get(key).and_then(Weak::upgrade) {
            return table;
        }
        tables.retain(|_, table| table.strong_count() > 0);
        let table = LastTable::default();
        tables.insert(key.clone(), Arc::downgrade(&table));
        table
    }

    /// The snapshot will have this table no more.
    pub(super) fn keep(&self, key: &ResourceKey, table: Arc<RouteTable>) {
        if let Some(kept) = self.0.lock().get(key).and_then(Weak::upgrade) {
            kept.store(Some(table));
        }
    }
}
