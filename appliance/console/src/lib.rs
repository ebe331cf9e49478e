//! The console: what somebody in front of the machine sees and can do.
//!
//! The person at the rack is not trusted. The screen has no rights at all: it shows what may be shown to anybody, and
//! asks a small privileged part ([`guard`], and the verb `act`) for everything that changes the machine. That part
//! does only what the owner has signed: it makes a [`challenge::Challenge`], the owner answers it elsewhere, and the
//! answer counts once.

pub mod act;
pub mod answer;
mod bus;
pub mod challenge;
pub mod code;
pub mod custody;
pub mod deed;
pub mod draw;
pub mod facts;
pub mod form;
pub mod guard;
pub mod model;
mod network;
mod picture;
mod plain;
pub mod screen;
pub mod watch;
pub mod wire;
