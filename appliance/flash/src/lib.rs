//! Puts a release and a seed onto the disks of a rented server, from its provider's rescue system.
//!
//! The order is the promise: the machine is looked at ([`inventory`]) and graded ([`posture`]), the release, the image and
//! the seed are verified, and only then is a disk that was named, and whose serial number was typed, written ([`writing`]).
//! The first MiB, with the table of partitions, is written last: whatever interrupts the work leaves a disk that does not
//! boot at all, and a state file with which the work goes on.

mod disk;
mod esp;
mod fat;
mod gpt;
pub mod inventory;
pub mod posture;
pub mod record;
pub mod replacing;
mod source;
mod state;
pub mod writing;

pub use self::disk::{Disk, DiskError, Target, is_same};
pub use self::esp::{EspError, SEED_PATH};
pub use self::gpt::{GptError, HEAD, Layout};
pub use self::source::{Source, SourceError};
pub use self::state::{State, StateError};
