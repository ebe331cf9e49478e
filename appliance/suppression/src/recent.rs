//! What has changed since the index was last written: durable in the journal, held here in memory.

use crate::bucket::Records;
use crate::change::{Change, ScopeNumber};
use crate::secret::{Key, KeyMap};

/// Changes by key, in their order.
#[derive(Default)]
pub(crate) struct Recent {
    by_key: KeyMap<Records>,
    /// Scopes whose names the index does not know.
    pub(crate) new_scopes: Vec<(ScopeNumber, String)>,
    changes: usize,
}

impl Recent {
    /// Changes of one key.
    pub(crate) fn of(&self, key: Key) -> Records {
        self.by_key.get(&key).cloned().unwrap_or_default()
    }

    /// Makes room for that many more.
    pub(crate) fn reserve(&mut self, more: usize) {
        self.by_key.reserve(more);
    }

    pub(crate) fn push(&mut self, change: Change) {
        self.by_key.entry(change.place.key).or_default().push(change);
        self.changes += 1;
    }

    pub(crate) fn len(&self) -> usize {
        self.changes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.changes == 0 && self.new_scopes.is_empty()
    }

    /// Everything, by place, the changes of one place in their order.
    pub(crate) fn sorted(&self) -> Vec<Change> {
        let mut changes: Vec<Change> = self.by_key.values().flatten().copied().collect();
        changes.sort_by_key(|change| change.place);
        changes
    }

    pub(crate) fn clear(&mut self) {
        // The memory of a large import is given back.
        *self = Self::default();
    }
}
