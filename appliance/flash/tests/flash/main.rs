//! The flasher as people run it, on disks that are files and loop devices: what it refuses, what it writes, and what is
//! left when it is killed in the middle.

mod bench;
mod desk;
mod interruptions;
mod inventory;
mod refusals;
mod replacing;
mod writing;
