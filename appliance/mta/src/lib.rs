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
