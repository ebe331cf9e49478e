//! The mail core: what happens to a message between the doors and the world.
//!
//! [`engine`] drives it; around it stand pure parts: [`queue`], [`dsn`],
//! [`metadata`], [`selector`]. `docs/develop/flow.md` walks a message through them.

pub mod clock;
pub mod dsn;
pub mod engine;
pub mod explain;
pub mod message;
pub mod metadata;
pub mod metrics;
pub mod queue;
pub mod records;
pub mod routing;
pub mod selector;

pub use engine::Engine;

use std::path::Path;

use postkeep_configuration::{Errors, Loaded, Options, load_with};
use postkeep_deliverability::provider::ProviderTable;

/// Reads a configuration, knowing which providers are shipped. `check_files`: look at the files that it names too.
///
/// # Errors
/// Every error of the file, with its place and remedy.
pub fn load_configuration(path: &Path, check_files: bool) -> Result<Loaded, Errors> {
    load_with(path, &options(check_files))
}

/// What [`load_configuration`] checks against.
pub fn options(check_files: bool) -> Options {
    let shipped = ProviderTable::shipped().ok();
    let shipped_providers =
        shipped.map(|table| table.providers().iter().map(|provider| provider.name.to_string()).collect());
    Options { check_files, shipped_providers }
}
