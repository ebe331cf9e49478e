//! The numbers of scopes.

use std::collections::HashMap;

use crate::change::ScopeNumber;
use crate::entry::Scope;

/// Streams and lists that can be told apart.
pub(crate) const MOST_SCOPES: usize = 1 << 20;

/// Scopes by name and by number.
#[derive(Default)]
pub(crate) struct Scopes {
    by_name: HashMap<String, ScopeNumber>,
    by_number: HashMap<ScopeNumber, Scope>,
    last: u32,
}

impl Scopes {
    pub(crate) fn number(&self, scope: &Scope) -> Option<ScopeNumber> {
        match scope {
            Scope::All => Some(ScopeNumber::ALL),
            _ => self.by_name.get(&scope.to_string()).copied(),
        }
    }

    pub(crate) fn scope(&self, number: ScopeNumber) -> Scope {
        self.by_number.get(&number).cloned().unwrap_or(Scope::All)
    }

    /// A number for a scope that has none yet; `None`: there are too many.
    pub(crate) fn next_number(&self) -> Option<ScopeNumber> {
        (self.by_number.len() < MOST_SCOPES).then_some(ScopeNumber(self.last.checked_add(1)?))
    }

    /// Takes a number in; a name that makes no sense is ignored, and its entries then hold for all mail.
    pub(crate) fn insert(&mut self, number: ScopeNumber, name: &str) {
        self.last = self.last.max(number.0);
        if let Ok(scope) = name.parse() {
            self.by_name.insert(name.to_owned(), number);
            self.by_number.insert(number, scope);
        }
    }

    /// Takes back a number that did not become durable.
    pub(crate) fn remove(&mut self, number: ScopeNumber, name: &str) {
        self.by_name.remove(name);
        self.by_number.remove(&number);
    }
}
