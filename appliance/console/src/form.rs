//! The network as it is typed at the console, field by field, until it is a deed that can be signed.

use ipnet::IpNet;

use crate::deed::{Deed, NetworkChange};
use crate::facts::Link;

/// Octets of a field; eight IPv6 networks fit.
const LONGEST: usize = 400;

/// The fields of the form, in their order.
pub const FIELDS: [&str; 5] = ["Interface", "DHCP", "Addresses", "Gateways", "DNS"];
const DHCP: usize = 1;

/// What was typed so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Form {
    /// The text of each field.
    pub fields: [String; 5],
    /// Which one is written to.
    pub at: usize,
    /// What is wrong with it.
    pub fault: Option<String>,
}

impl Form {
    /// A form for the first of `links`, with what it has now.
    #[must_use]
    pub fn of(links: &[Link]) -> Self {
        let mut form = Self { fields: Default::default(), at: 0, fault: None };
        form.take_link(links.first());
        form
    }

    fn take_link(&mut self, link: Option<&Link>) {
        let Some(link) = link else {
            "no".clone_into(&mut self.fields[DHCP]);
            return;
        };
        self.fields[0].clone_from(&link.name);
        if link.dhcp { "yes" } else { "no" }.clone_into(&mut self.fields[DHCP]);
        self.fields[2] = link.own.join(" ");
        self.fields[3] = link.gateways.join(" ");
    }

    /// The next or the last of `links`.
    pub(crate) fn turn(&mut self, links: &[Link], forward: bool) {
        match self.at {
            0 if !links.is_empty() => {
                let now = links.iter().position(|link| link.name == self.fields[0]).unwrap_or(0);
                let step = if forward { 1 } else { links.len() - 1 };
                self.take_link(links.get((now + step) % links.len()));
            }
            DHCP => self.toggle(),
            _ => {}
        }
    }

    pub(crate) fn step(&mut self, forward: bool) {
        let step = if forward { 1 } else { FIELDS.len() - 1 };
        self.at = (self.at + step) % FIELDS.len();
    }

    pub(crate) fn put(&mut self, character: char) {
        self.fault = None;
        if self.at == DHCP {
            match character {
                'y' | 'Y' => "yes".clone_into(&mut self.fields[DHCP]),
                'n' | 'N' => "no".clone_into(&mut self.fields[DHCP]),
                ' ' => self.toggle(),
                _ => {}
            }
        } else if let Some(field) = self.fields.get_mut(self.at)
            && field.len() < LONGEST
            && (character.is_ascii_graphic() || character == ' ')
        {
            field.push(character);
        }
    }

    pub(crate) fn rub(&mut self) {
        self.fault = None;
        if self.at != DHCP
            && let Some(field) = self.fields.get_mut(self.at)
        {
            field.pop();
        }
    }

    fn toggle(&mut self) {
        let other = if self.fields[DHCP] == "yes" { "no" } else { "yes" };
        other.clone_into(&mut self.fields[DHCP]);
    }

    /// What the form says.
    ///
    /// # Errors
    /// A field cannot be read; it is named, with how it is written.
    pub fn deed(&self) -> Result<Deed, String> {
        let words = |at: usize| {
            self.fields[at].split([' ', ',']).filter(|word| !word.is_empty()).map(str::to_owned).collect::<Vec<_>>()
        };
        let mut addresses = Vec::new();
        for word in words(2) {
            addresses.push(word.parse::<IpNet>().map_err(|_| {
                format!("Addresses: {word} is none; write the address of the machine with the length of its network, as in 192.0.2.5/24")
            })?);
        }
        let mut lists = [Vec::new(), Vec::new()];
        for (at, list) in lists.iter_mut().enumerate() {
            for word in words(at + 3) {
                let name = FIELDS[at + 3];
                list.push(word.parse().map_err(|_| format!("{name}: {word} is no address; write it as in 192.0.2.1"))?);
            }
        }
        let [gateways, dns] = lists;
        let interface = self.fields[0].trim().to_owned();
        let deed =
            Deed::Network(NetworkChange { interface, dhcp: self.fields[DHCP] == "yes", addresses, gateways, dns });
        deed.check()?;
        Ok(deed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links() -> Vec<Link> {
        let link = |name: &str, address: &str| Link {
            name: name.into(),
            state: "routable".into(),
            addresses: vec![address.into(), "fe80::1/64".into()],
            own: vec![address.into()],
            ..Link::default()
        };
        vec![link("eno1", "192.0.2.5/24"), link("eno2", "198.51.100.5/24")]
    }

    #[test]
    fn the_form_starts_with_what_is_there_and_says_what_was_typed() {
        let mut form = Form::of(&links());
        form.turn(&links(), true);
        form.at = 3;
        "198.51.100.1".chars().for_each(|character| form.put(character));
        let Ok(Deed::Network(change)) = form.deed() else { panic!("{form:?}") };
        assert_eq!((change.interface.as_str(), change.dhcp), ("eno2", false));
        assert_eq!(change.addresses, ["198.51.100.5/24".parse().unwrap()]);
        assert_eq!(change.gateways, ["198.51.100.1".parse::<std::net::IpAddr>().unwrap()]);
    }

    #[test]
    fn a_field_that_cannot_be_read_is_named() {
        let mut form = Form::of(&links());
        form.fields[2] = "192.0.2.5".into();
        assert!(form.deed().unwrap_err().starts_with("Addresses: 192.0.2.5 is none"));
        form.fields[2].clear();
        assert!(form.deed().unwrap_err().contains("gets no address"));
        form.at = DHCP;
        form.put(' ');
        assert!(form.deed().is_ok());
        form.fields[4] = "dns.example".into();
        assert!(form.deed().unwrap_err().starts_with("DNS: dns.example"));
    }
}
