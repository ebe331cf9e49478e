//! Which machine a seed is for.

use std::fmt;
use std::fs;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The address of a network card.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(out, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not the address of a network card; it looks like 52:54:00:12:34:56");
        let mut octets = [0; 6];
        let mut pairs = text.split(':');
        for octet in &mut octets {
            let pair =
                pairs.next().filter(|pair| pair.len() == 2 && pair.bytes().all(|digit| digit.is_ascii_hexdigit()));
            *octet = u8::from_str_radix(pair.ok_or_else(wrong)?, 16).map_err(|_| wrong())?;
        }
        if pairs.next().is_some() || octets == [0; 6] || octets[0] & 1 == 1 {
            return Err(wrong());
        }
        Ok(Self(octets))
    }
}

impl TryFrom<String> for Mac {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

/// What a seed says about the machine it is for. What it does not say may be anything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// The serial number of the machine, as its firmware tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Its UUID, as its firmware tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// Its network cards; one of them must be there, since a card can be replaced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mac: Vec<Mac>,
}

/// What a machine says about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MachineFacts {
    /// The serial number that its firmware tells.
    pub serial: Option<String>,
    /// The UUID that its firmware tells.
    pub uuid: Option<String>,
    /// Its network cards.
    pub macs: Vec<Mac>,
}

impl MachineFacts {
    /// What the firmware and the network cards tell below `sys` (`/sys`). What cannot be read is not told.
    #[must_use]
    pub fn read(sys: &Path) -> Self {
        let cards = fs::read_dir(sys.join("class/net")).into_iter().flatten().flatten();
        Self {
            serial: firmware_tells(sys, "product_serial"),
            uuid: firmware_tells(sys, "product_uuid"),
            macs: cards
                .filter_map(|card| fs::read_to_string(card.path().join("address")).ok()?.trim().parse().ok())
                .collect(),
        }
    }
}

/// What the firmware says of the machine in the file `name` of `class/dmi/id` below `sys`; nothing, where its maker has
/// not filled in the form.
#[must_use]
pub fn firmware_tells(sys: &Path, name: &str) -> Option<String> {
    let octets = fs::read(sys.join("class/dmi/id").join(name)).ok()?;
    let text = String::from_utf8_lossy(&octets);
    let text = text.trim_matches(|character: char| character == '\0' || character.is_whitespace());
    (!text.is_empty() && !is_placeholder(text)).then(|| text.to_owned())
}

/// What boards say whose maker has not filled in the form.
fn is_placeholder(value: &str) -> bool {
    let value = value.to_ascii_lowercase();
    value.contains("to be filled") || value.starts_with("default string") || value == "not specified" || value == "none"
}

impl Machine {
    /// In what the machine `found` differs from the one that is meant; nothing when it may be the one.
    pub(crate) fn difference(&self, found: &MachineFacts) -> Option<String> {
        let told = |value: &Option<String>| value.clone().unwrap_or_else(|| "not told".to_owned());
        if let Some(serial) = &self.serial
            && found.serial.as_deref().map(str::trim) != Some(serial.trim())
        {
            return Some(format!("serial number {serial}; here it is {}", told(&found.serial)));
        }
        if let Some(uuid) = &self.uuid
            && !found.uuid.as_deref().is_some_and(|found| found.trim().eq_ignore_ascii_case(uuid.trim()))
        {
            return Some(format!("UUID {uuid}; here it is {}", told(&found.uuid)));
        }
        if !self.mac.is_empty() && !self.mac.iter().any(|mac| found.macs.contains(mac)) {
            let listed = |macs: &[Mac]| macs.iter().map(Mac::to_string).collect::<Vec<_>>().join(", ");
            return Some(format!("network card {}; here there is {}", listed(&self.mac), listed(&found.macs)));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_of_a_card_is_read_in_either_case_and_written_in_small_letters() {
        assert_eq!("52:54:00:AB:cd:56".parse::<Mac>().unwrap().to_string(), "52:54:00:ab:cd:56");
        for text in [
            "",
            "52:54:00:12:34",
            "52:54:00:12:34:56:78",
            "5:54:00:12:34:56",
            "+2:54:00:12:34:56",
            "00:00:00:00:00:00",
            "ff:ff:ff:ff:ff:ff",
        ] {
            assert!(text.parse::<Mac>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_machine_is_another_one_when_anything_that_was_said_differs() {
        let mac = |text: &str| text.parse::<Mac>().unwrap();
        let (here, there) = (mac("52:54:00:00:00:01"), mac("52:54:00:00:00:02"));
        let uuid = "4C4C4544-0042-3510-8051-B4C04F4D3132";
        let found = MachineFacts { serial: Some("B5QM12 ".to_owned()), uuid: Some(uuid.to_owned()), macs: vec![here] };
        let meant =
            Machine { serial: Some("B5QM12".to_owned()), uuid: Some(uuid.to_lowercase()), mac: vec![there, here] };
        assert_eq!(meant.difference(&found), None);
        assert_eq!(Machine::default().difference(&found), None);
        let serial = Machine { serial: Some("other".to_owned()), ..meant.clone() };
        assert!(serial.difference(&found).unwrap().contains("serial number other; here it is B5QM12"));
        let card = Machine { mac: vec![there], ..meant.clone() };
        assert!(card.difference(&found).unwrap().contains("network card 52:54:00:00:00:02"));
        assert!(meant.difference(&MachineFacts::default()).unwrap().contains("not told"));
    }
}
