//! Suppression: whom not to write to.
//!
//! Promises. A change is durable before it is answered, and from then on no mail of its scope goes to the
//! address: deliveries that were under way have ended. An address that is not in the list is
//! told from one that is in about a microsecond. Addresses lie on the disk only sealed, everything else
//! about them under a keyed sum. The index can be lost at any time: it is made anew from the journal.
//!
//! ```text
//! check ── filter ── recent ── index (sled)
//! change ─ keeper: journal, sync ─ filter and recent ─ answer ─ passes        recent → index, now and then
//! ```

mod addresses;
mod bucket;
mod call;
mod change;
mod entry;
mod exchange;
mod filter;
mod index;
mod journal;
mod keeper;
mod list;
mod passes;
mod recent;
mod scopes;
mod seal;
mod secret;
mod token;

pub use addresses::{AddressesError, Read, addresses, restore_secret};
pub use call::{ListedEntry, Page, SuppressionAddition, SuppressionView, page};
pub use entry::{Entry, Origin, Reason, Scope, ScopeError};
pub use exchange::{
    Exporter, Format, FormatError, ImportError, ImportEvent, ImportOptions, ImportReport, Unsettled, import, try_out,
};
pub use journal::Detail;
pub use list::{
    Addition, ChangeError, CheckError, IDENTITY_FILE, OpenError, Outcome, Removal, SECRET_FILE, Standings, Statistics,
    Step, Suppression, Who,
};
pub use passes::Pass;
pub use seal::{Identity, SealError};
pub use secret::{Key, Secret};
pub use token::{LongToken, ShortToken, Tokens};
