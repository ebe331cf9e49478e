//! Puts a signed release into the slot that does not run, and lets a new version prove itself before it stays.
//!
//! Promises. Nothing of a release touches a slot before all of it was checked against its signed manifest. What runs is
//! never written to, and stays there to go back to. What was written is read again. A new version has three tries to come up; one that comes up and is
//! not well is not tried again. What happened, and why, is kept on the data volume.
//!
//! ```text
//! release.note ── plan ── staging (checked, whole) ── systemd-sysupdate ── boot file +3-0 ── drain, restart
//!                                                                  next boot: gate ── boot-complete.target ── blessed
//!                                                                              └ unwell: marked bad, restart: the old one
//! ```
//!
//! What decides is pure: [`plan`], [`attempt::reconcile`], [`gate::judge`], [`trial::excuse`]. The edges are [`place`] (what the box is),
//! [`staging`] (files that come in), [`install`] (systemd-sysupdate and boot files), [`slot`] (what was written) and [`server`].

pub mod api;
pub mod attempt;
pub mod boot_file;
pub mod gate;
pub mod install;
pub mod place;
pub mod plan;
pub mod server;
pub mod slot;
pub mod staging;
pub mod store;
pub mod transfer;
pub mod trial;

pub use postkeep_release::LARGEST_MANIFEST;

/// The socket of the updater.
pub const SOCKET: &str = "/run/postkeep-update.socket";
