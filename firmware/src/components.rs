//! Code for chips that lies in the image and that nobody here can build, with its licence: `components.toml`.

use serde::{Deserialize, Serialize};

/// What a component is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// It corrects processors.
    Microcode,
    /// It runs on network cards.
    Network,
}

/// One package of such code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Component {
    /// Debian's package.
    pub package: String,
    /// What for, in a word.
    pub kind: Kind,
    /// What for, in a sentence.
    #[serde(rename = "for")]
    pub purpose: String,
    /// Its licence.
    pub licence: String,
    /// What the licence says on giving it to others.
    pub redistributable: String,
    /// Where that stands.
    pub source: String,
    /// When somebody looked: a day, such as 2026-11-27.
    pub checked: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    component: Vec<Component>,
}

/// All that are shipped.
///
/// # Errors
/// The file that was built in cannot be read: a test keeps that from happening.
pub fn shipped() -> Result<Vec<Component>, toml::de::Error> {
    toml::from_str::<File>(include_str!("../components.toml")).map(|file| file.component)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_such_package_of_the_image_is_listed_and_no_other() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../image/mkosi/mkosi.images/base/mkosi.conf");
        let configuration = std::fs::read_to_string(path).unwrap();
        let in_image: BTreeSet<&str> = configuration
            .lines()
            .map(|line| line.trim().trim_start_matches("Packages="))
            .filter(|line| line.starts_with("firmware-") || line.ends_with("-microcode"))
            .collect();
        let components = shipped().unwrap();
        let listed: BTreeSet<&str> = components.iter().map(|component| component.package.as_str()).collect();
        assert_eq!(listed, in_image);
        assert_eq!(listed.len(), components.len(), "each stands once");
        for component in components {
            assert!(component.checked.parse::<jiff::civil::Date>().is_ok(), "{component:?}");
        }
    }
}
