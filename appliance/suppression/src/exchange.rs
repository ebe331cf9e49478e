//! CSV of our own and of other services, in and out. What their files look like is data:
//! `formats.toml`.

mod export;
mod format;
mod import;
mod lines;
mod time;

pub use export::Exporter;
pub use format::{Format, FormatError};
pub use import::{ImportError, ImportEvent, ImportOptions, ImportReport, Unsettled, import, try_out};
