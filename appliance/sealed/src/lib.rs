//! The box's side of its seal. The *opener* (root, no network) keeps the seal: it decides with [`postkeep_keys::keeper`], opens the
//! volume and closes it. The *door* (a user of its own, no disk) is what custodians reach from outside; the console is what they
//! reach from inside. Both speak with the opener by lines of JSON ([`line`]), and neither is told why something does not count.

pub mod cause;
pub mod change;
pub mod chip;
pub mod door;
pub mod first;
pub mod line;
pub mod opener;
pub mod slots;
pub mod volume;
