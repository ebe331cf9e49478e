//! What types cannot say: names that must exist, numbers within ranges, files that must be
//! there, and settings that would make the box an open relay. Reports all findings, not the first.

mod acme;
mod api;
mod doors;
mod events;
mod files;
mod http;
mod signing;
mod system;
mod unsubscribe;
mod ways;

use std::fmt::Display;
use std::net::SocketAddr;

use crate::load::Options;
use crate::name::{name_complaint, shown};
use crate::path::KeyPath;
use crate::problem::Severity;
use crate::suggest::nearest;
use crate::types::Configuration;
use crate::units::Duration;

pub use events::EVENTS;
pub(crate) use files::check_permissions;

/// One thing that is wrong, before it has a place in a file.
#[derive(Debug)]
pub(crate) struct Finding {
    pub(crate) severity: Severity,
    pub(crate) path: KeyPath,
    /// Point at the key even where the value has a place.
    pub(crate) at_key: bool,
    pub(crate) message: String,
    pub(crate) remedy: Option<String>,
}

/// All findings.
pub(crate) fn check(configuration: &Configuration, options: &Options) -> Vec<Finding> {
    let mut report = Report { findings: Vec::new() };
    doors::check(configuration, options, &mut report);
    http::check(configuration, options, &mut report);
    api::check(configuration, options, &mut report);
    acme::check(configuration, options, &mut report);
    unsubscribe::check(configuration, &mut report);
    ways::check(configuration, options, &mut report);
    signing::check(configuration, options, &mut report);
    system::check(configuration, &mut report);
    events::check(configuration, options, &mut report);
    report.findings
}

/// Collects findings.
pub(crate) struct Report {
    findings: Vec<Finding>,
}

impl Report {
    fn error(&mut self, path: KeyPath, message: impl Into<String>, remedy: impl Into<String>) {
        self.push(Severity::Error, path, message.into(), remedy.into());
    }

    fn warn(&mut self, path: KeyPath, message: impl Into<String>, remedy: impl Into<String>) {
        self.push(Severity::Warning, path, message.into(), remedy.into());
    }

    fn push(&mut self, severity: Severity, path: KeyPath, message: String, remedy: String) {
        let remedy = (!remedy.is_empty()).then_some(remedy);
        self.findings.push(Finding { severity, path, at_key: false, message, remedy });
    }

    /// A value that must lie between two others, both allowed.
    fn within<T: PartialOrd + Display>(&mut self, path: KeyPath, value: T, least: T, most: T) {
        // Written so that NaN is outside.
        if !(value >= least && value <= most) {
            self.error(path, format!("{value} is not within {least} to {most}"), format!("write {least} to {most}"));
        }
    }

    /// A count that must not be 0.
    fn at_least_one(&mut self, path: KeyPath, value: u32) {
        if value == 0 {
            self.error(path, "0 would let nothing through", "write 1 or more, or leave the key out");
        }
    }

    /// A wait for the other end of a connection.
    fn timeout(&mut self, path: KeyPath, value: Duration) {
        self.within(path, value, Duration::from_millis(100), Duration::from_secs(24 * 3600));
    }

    /// Port 0, which lets the system choose: of use to a test on loopback, to nobody else.
    fn port_0(&mut self, path: KeyPath, address: SocketAddr, advice: &str) {
        if address.ip().is_loopback() {
            self.warn(path, "port 0 lets the system choose a port, as tests do", format!("write {advice}"));
        } else {
            self.error(path, "port 0 is no port", format!("write {advice}"));
        }
    }

    /// A name of the owner's own making.
    fn name(&mut self, path: KeyPath, name: &str) {
        if let Some(complaint) = name_complaint(name) {
            self.findings.push(Finding {
                severity: Severity::Error,
                path,
                at_key: true,
                message: format!("{complaint}: {}", shown(name)),
                remedy: Some("choose a short name such as \"newsletter\" or \"fra-1\"".to_owned()),
            });
        }
    }

    /// A name that must be one of `known`.
    fn exists<'a>(&mut self, path: KeyPath, what: &str, name: &str, known: impl Iterator<Item = &'a str> + Clone) {
        if known.clone().any(|other| other == name) {
            return;
        }
        let mut message = format!("there is no {what} {}", shown(name));
        if let Some(meant) = nearest(name, known) {
            message.push_str(&format!("; did you mean \"{meant}\"?"));
        }
        let header = if name_complaint(name).is_none() { format!("[{what}.{name}]") } else { format!("[{what}.NAME]") };
        self.error(path, message, format!("name one that exists, or add {header}"));
    }
}

#[cfg(test)]
mod tests;
