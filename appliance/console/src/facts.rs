//! What the screen tells about the machine: read by [`crate::watch`], shown by [`crate::draw`]. Nothing in it is secret,
//! and everything in it comes from outside.

use serde::Deserialize;

use crate::custody::Custody;
use crate::plain::{clean, without_addresses};

/// Of links, addresses of a link, failed units and sentences each; the screen has no room for more.
const MOST: usize = 16;
const LONGEST_LINE: usize = 200;
/// An offer that is cut cannot be answered.
const LONGEST_OFFER: usize = 400;

/// The state of the machine at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// What the machine is called.
    pub hostname: String,
    /// The version of the image, or of this program where there is no image.
    pub version: String,
    /// The time, as people write it.
    pub clock: String,
    /// Whether a time server has set the clock; absent: nobody says.
    pub synchronized: Option<bool>,
    /// The data volume.
    pub volume: Volume,
    /// How far the machine can be trusted; absent: nobody has said.
    pub posture: Option<Posture>,
    /// The worst posture of all starts, where it is worse than this one's; absent: it is not, or nobody has said.
    pub worst: Option<Worst>,
    /// The fingerprint of the box at its door for management; absent: it has none.
    pub api: Option<String>,
    /// How its seal is; absent: no custodians open it, or nobody has said.
    pub custody: Option<Custody>,
    /// How the two disks are; absent: the box has one, or nobody has said.
    pub disks: Option<String>,
    /// The network cards.
    pub links: Vec<Link>,
    /// The mail core: its state, and what it says of itself.
    pub mail: String,
    /// Units that have failed; absent: nobody says.
    pub failed: Option<Vec<String>>,
    /// Whether there is something that seals.
    pub can_seal: bool,
    /// What could not be read, and why.
    pub problems: Vec<String>,
}

/// The data volume.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Volume {
    /// Nobody knows.
    #[default]
    Unknown,
    /// It is closed: the kernel has no key for it.
    Sealed,
    /// It is not mounted, and the kernel has its key.
    Unmounted,
    /// It is mounted.
    Open,
}

/// How far the machine can be trusted, as `postkeep-firmware posture --json` says it (docs/operate/secure-boot.md).
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Posture {
    /// A to D.
    pub grade: String,
    /// What the grade stands on.
    #[serde(default)]
    pub sentences: Vec<Sentence>,
}

/// Something that was seen below the system.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Sentence {
    /// The best grade that is possible with it.
    pub at_best: String,
    /// What was seen.
    pub seen: String,
}

impl Posture {
    /// The grade in words, and what was seen that makes it no better.
    #[must_use]
    pub fn told(&self) -> String {
        let meaning = match self.grade.as_str() {
            "A" => "your keys only, and a TPM",
            "B" => "somebody else has a hand in the start",
            "C" => "nothing can be proved from afar",
            "D" => "nothing keeps another system from starting",
            _ => "a grade that this screen does not know",
        };
        let mut told = format!("{}: {meaning}.", self.grade);
        // What is good needs no explanation, and has many sentences.
        if self.grade != "A" {
            for sentence in self.sentences.iter().filter(|sentence| sentence.at_best == self.grade) {
                told.push(' ');
                told.push_str(&sentence.seen);
            }
        }
        told
    }
}

/// The worst that a machine ever was.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Worst {
    /// The grade, in a word.
    pub grade: String,
    /// The day of it.
    pub since: String,
    /// The first sentence that allowed no better.
    pub reason: String,
}

/// A network card.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// In a word of systemd-networkd: routable, degraded, no-carrier, off.
    pub state: String,
    /// Its addresses, with the lengths of their networks.
    pub addresses: Vec<String>,
    /// Those of them that nobody but us has given it.
    pub own: Vec<String>,
    /// The routers to everywhere that are not told by the network.
    pub gateways: Vec<String>,
    /// Whether the network gives it addresses.
    pub dhcp: bool,
}

impl Facts {
    /// The same with everything from outside made fit for the screen.
    #[must_use]
    pub fn cleaned(mut self) -> Self {
        for text in [&mut self.hostname, &mut self.version, &mut self.clock, &mut self.mail] {
            *text = clean(&without_addresses(text), LONGEST_LINE);
        }
        if let Some(posture) = &mut self.posture {
            posture.grade = clean(&posture.grade, 40);
            posture.sentences.truncate(MOST);
            for sentence in &mut posture.sentences {
                sentence.at_best = clean(&sentence.at_best, 40);
                sentence.seen = clean(&without_addresses(&sentence.seen), LONGEST_LINE);
            }
        }
        if let Some(worst) = &mut self.worst {
            worst.grade = clean(&worst.grade, 40);
            worst.since = clean(&worst.since, 40);
            worst.reason = clean(&without_addresses(&worst.reason), LONGEST_LINE);
        }
        // Nobody needs to be told what is as it is.
        let grade = self.posture.as_ref().map(|posture| posture.grade.clone());
        self.worst = self.worst.filter(|worst| Some(&worst.grade) != grade.as_ref());
        self.api = self.api.map(|sum| clean(&sum, 64));
        if let Some(custody) = &mut self.custody {
            custody.told = clean(&custody.told, LONGEST_LINE);
            for text in [&mut custody.offer, &mut custody.door].into_iter().flatten() {
                *text = clean(text, LONGEST_OFFER);
            }
        }
        self.disks = self.disks.map(|told| clean(&without_addresses(&told), LONGEST_LINE));
        self.links.truncate(MOST);
        for link in &mut self.links {
            link.name = clean(&link.name, 15);
            link.state = clean(&link.state, 20);
            for list in [&mut link.addresses, &mut link.own, &mut link.gateways] {
                clean_all(list);
            }
        }
        if let Some(failed) = &mut self.failed {
            clean_all(failed);
        }
        clean_all(&mut self.problems);
        self
    }
}

fn clean_all(texts: &mut Vec<String>) {
    texts.truncate(MOST);
    for text in texts {
        *text = clean(&without_addresses(text), LONGEST_LINE);
    }
}

/// What the state of the disks in `octets` is in a sentence, where there are two.
///
/// # Errors
/// It is none.
pub fn disks(octets: &[u8]) -> Result<Option<String>, String> {
    let status: postkeep_disks::status::Status =
        serde_json::from_slice(octets).map_err(|error| format!("the state of the disks cannot be read: {error}"))?;
    Ok(status.mirror.map(|_| status.to_string()))
}

/// The posture in `octets`.
///
/// # Errors
/// It is none.
pub fn posture(octets: &[u8]) -> Result<Posture, String> {
    serde_json::from_slice(octets).map_err(|error| format!("the posture of the machine cannot be read: {error}"))
}

/// The worst posture of all starts in `octets`.
///
/// # Errors
/// It is none.
pub fn worst(octets: &[u8]) -> Result<Option<Worst>, String> {
    #[derive(Deserialize)]
    struct History {
        worst: Option<Kept>,
    }
    #[derive(Deserialize)]
    struct Kept {
        grade: String,
        since: i64,
        sentences: Vec<Sentence>,
    }
    let history: History = serde_json::from_slice(octets)
        .map_err(|error| format!("the history of the machine cannot be read: {error}"))?;
    Ok(history.worst.map(|kept| Worst {
        grade: kept.grade,
        since: jiff::Timestamp::from_second(kept.since)
            .map_or_else(|_| "a day that cannot be".to_owned(), |since| since.strftime("%Y-%m-%d").to_string()),
        reason: kept.sentences.into_iter().next().map(|sentence| sentence.seen).unwrap_or_default(),
    }))
}

/// The cards in what systemd-networkd's `Describe` says.
///
/// # Errors
/// It is none.
pub fn links(described: &str) -> Result<Vec<Link>, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Described {
        #[serde(default)]
        interfaces: Vec<Interface>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Interface {
        name: String,
        #[serde(default, rename = "Type")]
        kind: String,
        #[serde(default)]
        operational_state: String,
        #[serde(default)]
        addresses: Vec<Address>,
        #[serde(default)]
        routes: Vec<Route>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Address {
        address: Vec<u8>,
        prefix_length: u8,
        #[serde(default)]
        config_source: String,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Route {
        #[serde(default = "no_default")]
        destination_prefix_length: u8,
        #[serde(default)]
        gateway: Vec<u8>,
        #[serde(default)]
        config_source: String,
    }
    fn no_default() -> u8 {
        u8::MAX
    }
    let described: Described = serde_json::from_str(described)
        .map_err(|error| format!("systemd-networkd says what this program does not understand: {error}"))?;
    let mut links = Vec::new();
    for interface in described.interfaces.into_iter().filter(|interface| interface.kind != "loopback") {
        let mut link = Link { name: interface.name, state: interface.operational_state, ..Link::default() };
        for address in interface.addresses {
            let Some(ip) = ip(&address.address) else { continue };
            let text = format!("{ip}/{}", address.prefix_length);
            match address.config_source.as_str() {
                "static" => link.own.push(text.clone()),
                "DHCPv4" | "DHCPv6" | "NDisc" => link.dhcp = true,
                _ => {}
            }
            link.addresses.push(text);
        }
        for route in interface.routes {
            if route.destination_prefix_length == 0
                && route.config_source == "static"
                && let Some(gateway) = ip(&route.gateway)
            {
                link.gateways.push(gateway.to_string());
            }
        }
        links.push(link);
    }
    Ok(links)
}

fn ip(octets: &[u8]) -> Option<std::net::IpAddr> {
    match octets.len() {
        4 => Some(<[u8; 4]>::try_from(octets).ok()?.into()),
        _ => Some(<[u8; 16]>::try_from(octets).ok()?.into()),
    }
}

/// The hardware address of the card called `name` in what systemd-networkd's `Describe` says.
#[must_use]
pub fn mac_of(described: &str, name: &str) -> Option<postkeep_seed::Mac> {
    let described: serde_json::Value = serde_json::from_str(described).ok()?;
    let interfaces = described.get("Interfaces")?.as_array()?;
    let found =
        interfaces.iter().find(|interface| interface.get("Name").and_then(|name| name.as_str()) == Some(name))?;
    let octets = found.get("HardwareAddress")?.as_array()?;
    let octets: Option<Vec<u8>> = octets.iter().map(|octet| u8::try_from(octet.as_u64()?).ok()).collect();
    Some(postkeep_seed::Mac(octets?.try_into().ok()?))
}

/// A line of the log from a line of `journalctl --output=json`: time, who, what, without addresses of people.
#[must_use]
pub fn log_line(json: &str) -> Option<String> {
    let entry: serde_json::Value = serde_json::from_str(json).ok()?;
    let text = |field: &str| entry.get(field).and_then(|value| value.as_str());
    let message = match entry.get("MESSAGE")? {
        serde_json::Value::String(message) => message.clone(),
        // What is no UTF-8 comes as numbers.
        serde_json::Value::Array(octets) => {
            let octets: Option<Vec<u8>> = octets.iter().map(|octet| u8::try_from(octet.as_u64()?).ok()).collect();
            String::from_utf8_lossy(&octets?).into_owned()
        }
        _ => return None,
    };
    let who = text("SYSLOG_IDENTIFIER").or_else(|| text("_COMM")).unwrap_or("?");
    // The kernel notes each start of each unit a second time, and nothing else would be seen.
    if who == "kernel" && message.starts_with("audit: ") {
        return None;
    }
    let time = text("__REALTIME_TIMESTAMP")
        .and_then(|micros| micros.parse::<i64>().ok())
        .and_then(|micros| jiff::Timestamp::from_microsecond(micros).ok())
        .map(|time| time.strftime("%H:%M:%S ").to_string())
        .unwrap_or_default();
    Some(clean(&without_addresses(&format!("{time}{who}: {message}")), LONGEST_LINE))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DESCRIBED: &str = r#"{"Interfaces":[
        {"Index":1,"Name":"lo","Type":"loopback","OperationalState":"carrier"},
        {"Index":2,"Name":"eno1","Type":"ether","OperationalState":"routable","HardwareAddress":[82,84,0,18,52,86],
         "Addresses":[{"Family":2,"Address":[203,0,113,5],"PrefixLength":32,"ConfigSource":"static"},
                      {"Family":10,"Address":[32,1,13,184,0,0,0,0,0,0,0,0,0,0,0,2],"PrefixLength":64,"ConfigSource":"NDisc"}],
         "Routes":[{"Family":2,"Destination":[0,0,0,0],"DestinationPrefixLength":0,"Gateway":[203,0,113,1],"ConfigSource":"static"},
                   {"Family":2,"Destination":[10,0,0,0],"DestinationPrefixLength":8,"Gateway":[10,0,0,1],"ConfigSource":"static"}]},
        {"Index":3,"Name":"eno2","Type":"ether","OperationalState":"no-carrier"}]}"#;

    #[test]
    fn cards_are_read_from_what_networkd_says() {
        let links = links(DESCRIBED).unwrap();
        assert_eq!(links.len(), 2);
        assert_eq!(links[0].addresses, ["203.0.113.5/32", "2001:db8::2/64"]);
        assert_eq!((links[0].own.as_slice(), links[0].dhcp), (&["203.0.113.5/32".to_owned()][..], true));
        assert_eq!(links[0].gateways, ["203.0.113.1"]);
        assert_eq!((links[1].name.as_str(), links[1].state.as_str()), ("eno2", "no-carrier"));
        assert_eq!(mac_of(DESCRIBED, "eno1").unwrap().to_string(), "52:54:00:12:34:56");
        assert_eq!(mac_of(DESCRIBED, "eno9"), None);
    }

    #[test]
    fn a_line_of_the_log_is_short_plain_and_names_no_recipient() {
        let json = r#"{"__REALTIME_TIMESTAMP":"1795755600000000","SYSLOG_IDENTIFIER":"postkeepd","MESSAGE":"bounced\u001b[31m <a@example.com>"}"#;
        assert_eq!(log_line(json).unwrap(), "05:00:00 postkeepd: bounced [31m <(address)>");
        assert_eq!(log_line(r#"{"_COMM":"x","MESSAGE":[104,105,255]}"#).unwrap(), "x: hi\u{fffd}");
        assert_eq!(log_line(r#"{"MESSAGE":null}"#), None);
        assert_eq!(log_line("no json"), None);
        let audit = r#"{"SYSLOG_IDENTIFIER":"kernel","MESSAGE":"audit: type=1130 audit(1795777535.858:195): pid=1"}"#;
        assert_eq!(log_line(audit), None);
    }

    #[test]
    fn two_disks_are_told_of_and_one_is_not() {
        let told = |mirror| {
            disks(
                format!(r#"{{"disks":[{{"name":"vda","serial":"S1","system":true,"data":true}}],"mirror":{mirror}}}"#)
                    .as_bytes(),
            )
        };
        assert_eq!(told("null"), Ok(None));
        let failed = "ONE OF TWO DISKS IS MISSING OR HAS FAILED; left: vda (serial number S1)";
        assert_eq!(told(r#"{"state":"degraded"}"#), Ok(Some(failed.to_owned())));
        assert!(disks(b"{}").unwrap_err().contains("disks"));
    }

    #[test]
    fn a_posture_is_told_by_its_grade_and_by_what_makes_it_no_better() {
        // As postkeep-firmware writes it.
        let read = posture(
            br#"{"grade":"C","sentences":[{"at_best":"C","seen":"There is no TPM 2.0.","means":"Nobody can check."},
                {"at_best":"A","seen":"Secure Boot is on.","means":"Good."}],"more":1}"#,
        )
        .unwrap();
        assert_eq!(read.told(), "C: nothing can be proved from afar. There is no TPM 2.0.");
        let best = posture(br#"{"grade":"A","sentences":[{"at_best":"A","seen":"Good.","means":""}]}"#).unwrap();
        assert_eq!(best.told(), "A: your keys only, and a TPM.");
        assert!(posture(b"{}").unwrap_err().contains("posture"));
    }

    #[test]
    fn a_machine_that_was_once_worse_says_so() {
        let written = br#"{"worst":{"grade":"D","since":1795755600,"sentences":[
            {"at_best":"D","means":"So.","seen":"Secure Boot is off."}]}}"#;
        let kept = worst(written).unwrap();
        let now = |grade: &str| {
            let posture = Some(Posture { grade: grade.to_owned(), sentences: Vec::new() });
            Facts { posture, worst: kept.clone(), ..Facts::default() }.cleaned().worst
        };
        let shown = now("B").unwrap();
        assert_eq!(
            (shown.grade.as_str(), shown.since.as_str(), shown.reason.as_str()),
            ("D", "2026-11-27", "Secure Boot is off.")
        );
        assert_eq!(now("D"), None);
        assert_eq!(worst(br#"{"worst":null}"#).unwrap(), None);
        assert!(worst(b"{}").is_ok() && worst(b"no").is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,100}", octets in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = (links(&text), log_line(&text), posture(&octets), mac_of(&text, "a"));
            let shown = Facts { hostname: text.clone(), failed: Some(vec![text; 40]), ..Facts::default() }.cleaned();
            prop_assert!(shown.failed.is_some_and(|failed| failed.len() <= MOST));
        }
    }
}
