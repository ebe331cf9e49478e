//! What machine this is, as far as `/sys` and `/proc` say. Nothing is changed, and no other program is asked.

use std::fmt;
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;

use postkeep_seed::{MachineFacts, firmware_tells};
use serde::Serialize;

use crate::Disk;
use crate::disk::{names, text};

const EFI_GLOBAL: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";

/// What machine this is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Inventory {
    /// It was started by UEFI; otherwise by a legacy BIOS.
    pub uefi: bool,
    /// Whether Secure Boot is on; none: the firmware says nothing about it.
    pub secure_boot: Option<bool>,
    /// Whether the firmware waits for keys.
    pub setup_mode: Option<bool>,
    /// The version of its TPM: 2, 1, or none.
    pub tpm: Option<u32>,
    /// The architecture, as releases name it.
    pub architecture: String,
    /// Who made it, and what it is called.
    pub model: Option<String>,
    /// Its serial number.
    pub serial: Option<String>,
    /// Its UUID.
    pub uuid: Option<String>,
    /// Its memory, in octets.
    pub memory: u64,
    /// Its disks.
    pub disks: Vec<Disk>,
    /// Its network cards.
    pub cards: Vec<Card>,
    /// How it reaches everywhere at the moment.
    pub routes: Vec<Route>,
}

/// A network card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Card {
    /// What the rescue system calls it; Postkeep may call it something else.
    pub name: String,
    /// Its address.
    pub mac: String,
    /// Its driver.
    pub driver: Option<String>,
    /// Whether there is a cable with something at the other end.
    pub link: bool,
    /// The addresses that the rescue system has on it.
    pub addresses: Vec<String>,
}

/// A default route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Route {
    /// The router.
    pub gateway: String,
    /// The interface.
    pub interface: String,
}

impl Inventory {
    /// Reads what `/sys` and `/proc` below `root` say. `addresses` are pairs of an interface's name and an address.
    #[must_use]
    pub fn read(root: &Path, addresses: &[(String, String)]) -> Self {
        let told = |name: &str| firmware_tells(&root.join("sys"), name);
        let model: Vec<String> = [told("sys_vendor"), told("product_name")].into_iter().flatten().collect();
        Self {
            uefi: root.join("sys/firmware/efi").exists(),
            secure_boot: efi_flag(root, "SecureBoot"),
            setup_mode: efi_flag(root, "SetupMode"),
            tpm: tpm(root),
            architecture: std::env::consts::ARCH.replace('_', "-"),
            model: (!model.is_empty()).then(|| model.join(" ")),
            serial: told("product_serial"),
            uuid: told("product_uuid"),
            memory: memory(root),
            disks: Disk::all(root),
            cards: cards(root, addresses),
            routes: routes(root),
        }
    }

    /// What a seed is compared with.
    #[must_use]
    pub fn facts(&self) -> MachineFacts {
        let macs = self.cards.iter().filter_map(|card| card.mac.parse().ok()).collect();
        MachineFacts { serial: self.serial.clone(), uuid: self.uuid.clone(), macs }
    }
}

/// The addresses of this machine, for [`Inventory::read`].
#[must_use]
pub fn addresses() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in nix::ifaddrs::getifaddrs().into_iter().flatten() {
        let (Some(address), Some(mask)) = (entry.address, entry.netmask) else { continue };
        let written = if let (Some(own), Some(mask)) = (address.as_sockaddr_in(), mask.as_sockaddr_in()) {
            format!("{}/{}", own.ip(), u32::from(mask.ip()).count_ones())
        } else if let (Some(own), Some(mask)) = (address.as_sockaddr_in6(), mask.as_sockaddr_in6()) {
            format!("{}/{}", own.ip(), u128::from(mask.ip()).count_ones())
        } else {
            continue;
        };
        found.push((entry.interface_name, written));
    }
    found
}

fn efi_flag(root: &Path, name: &str) -> Option<bool> {
    let path = root.join("sys/firmware/efi/efivars").join(format!("{name}-{EFI_GLOBAL}"));
    // Four octets of attributes, then the value.
    fs::read(path).ok()?.get(4).map(|value| *value == 1)
}

fn tpm(root: &Path) -> Option<u32> {
    let chips = names(&root.join("sys/class/tpm"));
    let version = |chip: &String| text(&root.join("sys/class/tpm").join(chip).join("tpm_version_major"))?.parse().ok();
    chips.iter().filter_map(version).max()
}

fn memory(root: &Path) -> u64 {
    let told = fs::read_to_string(root.join("proc/meminfo")).unwrap_or_default();
    let line = told.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or_default().saturating_mul(1024)
}

fn cards(root: &Path, addresses: &[(String, String)]) -> Vec<Card> {
    let net = root.join("sys/class/net");
    let found = names(&net).into_iter().filter_map(|name| {
        let folder = net.join(&name);
        // What has no device is a bridge, a tunnel or the loopback.
        if !folder.join("device").exists() {
            return None;
        }
        let driver = fs::read_link(folder.join("device/driver")).ok();
        let driver = driver.and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
        let own = addresses.iter().filter(|(interface, _)| *interface == name);
        let addresses = own.map(|(_, address)| address.clone()).collect();
        let link = text(&folder.join("carrier")).as_deref() == Some("1");
        // A card that is in a bond shows the bond's address; the one of its own stands elsewhere.
        let mac = text(&folder.join("bonding_slave/perm_hwaddr")).or_else(|| text(&folder.join("address")))?;
        Some(Card { name, mac, driver, link, addresses })
    });
    found.collect()
}

fn routes(root: &Path) -> Vec<Route> {
    let mut routes = Vec::new();
    for line in fs::read_to_string(root.join("proc/net/route")).unwrap_or_default().lines().skip(1) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if let [interface, "00000000", gateway, _, _, _, _, "00000000", ..] = fields[..]
            && let Ok(number) = u32::from_str_radix(gateway, 16)
        {
            let gateway = Ipv4Addr::from(number.to_le_bytes()).to_string();
            routes.push(Route { gateway, interface: interface.to_owned() });
        }
    }
    for line in fs::read_to_string(root.join("proc/net/ipv6_route")).unwrap_or_default().lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if let [destination, "00", _, _, gateway, .., interface] = fields[..]
            && destination.bytes().all(|digit| digit == b'0')
            && let Ok(number) = u128::from_str_radix(gateway, 16)
            && number != 0
        {
            routes.push(Route { gateway: Ipv6Addr::from(number).to_string(), interface: interface.to_owned() });
        }
    }
    routes
}

impl fmt::Display for Inventory {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told = |value: &Option<String>| value.clone().unwrap_or_else(|| "not told".to_owned());
        let yes = |value: Option<bool>| match value {
            Some(true) => "yes",
            Some(false) => "no",
            None => "not told",
        };
        writeln!(out, "machine      {}, serial number {}", told(&self.model), told(&self.serial))?;
        writeln!(out, "UUID         {}", told(&self.uuid))?;
        writeln!(out, "firmware     {}", if self.uefi { "UEFI" } else { "legacy BIOS" })?;
        writeln!(out, "Secure Boot  {}; waits for keys: {}", yes(self.secure_boot), yes(self.setup_mode))?;
        let tpm = self.tpm.map_or("none".to_owned(), |version| format!("version {version}"));
        writeln!(out, "TPM          {tpm}")?;
        writeln!(out, "memory       {} MiB", self.memory >> 20)?;
        for disk in &self.disks {
            let used = if disk.used_by.is_empty() { "free".to_owned() } else { disk.used_by.join(", ") };
            let (gigabytes, path, sector) = (disk.size / 1_000_000_000, disk.path.display(), disk.logical_sector);
            let (model, serial) = (told(&disk.model), told(&disk.serial));
            writeln!(out, "disk         {path}  {gigabytes} GB  {model}  serial {serial}  sectors {sector}  {used}")?;
        }
        for card in &self.cards {
            let link = if card.link { "link" } else { "no link" };
            let addresses = card.addresses.join(" ");
            writeln!(out, "card         {}  {}  {}  {link}  {addresses}", card.mac, card.name, told(&card.driver))?;
        }
        for route in &self.routes {
            writeln!(out, "router       {} on {}", route.gateway, route.interface)?;
        }
        Ok(())
    }
}
