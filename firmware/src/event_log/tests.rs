//! Logs made by hand, after the specification.

use proptest::prelude::*;

use super::*;
use crate::device_path::tests::{from_disk, from_network};
use crate::pcr::{Variable, predict_4, predict_7};

/// Writes a log.
pub(crate) struct Writer(pub(crate) Vec<u8>);

impl Writer {
    pub(crate) fn new() -> Self {
        let mut spec = b"Spec ID Event03\0".to_vec();
        spec.extend([0, 0, 0, 0, 0, 2, 0, 2]);
        spec.extend(2_u32.to_le_bytes());
        spec.extend([4, 0, 20, 0, 11, 0, 32, 0, 0]);
        let mut octets = vec![0, 0, 0, 0, 3, 0, 0, 0];
        octets.extend([0; 20]);
        octets.extend(u32::try_from(spec.len()).unwrap().to_le_bytes());
        octets.extend(spec);
        Self(octets)
    }

    pub(crate) fn event(&mut self, pcr: u32, kind: u32, digest: Digest, data: &[u8]) -> &mut Self {
        for number in [pcr, kind, 2] {
            self.0.extend(number.to_le_bytes());
        }
        self.0.extend([4, 0]);
        self.0.extend([0x51; 20]);
        self.0.extend([11, 0]);
        self.0.extend(digest.0);
        self.0.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
        self.0.extend(data);
        self
    }

    pub(crate) fn measured(&mut self, pcr: u32, kind: u32, data: &[u8]) -> &mut Self {
        self.event(pcr, kind, Digest::of(data), data)
    }

    pub(crate) fn program(&mut self, digest: Digest, path: &[u8]) -> &mut Self {
        let mut data = vec![0; 24];
        data.extend(u64::try_from(path.len()).unwrap().to_le_bytes());
        data.extend(path);
        self.event(4, kind::BOOT_SERVICES_APPLICATION, digest, &data)
    }
}

/// A boot as it should be: our boot loader, from the disk.
pub(crate) fn good() -> Writer {
    let mut log = Writer::new();
    log.event(0, kind::NO_ACTION, Digest::ZERO, b"StartupLocality\0\x03");
    log.measured(0, 8, b"version");
    for (name, data) in [("SecureBoot", &[1][..]), ("PK", b"pk"), ("KEK", b"kek"), ("db", b"db"), ("dbx", b"")] {
        let vendor = if name.starts_with("db") { Guid::IMAGE_SECURITY } else { Guid::GLOBAL };
        log.measured(7, kind::VARIABLE_DRIVER_CONFIG, &Variable { vendor, name, data }.measured());
    }
    log.measured(7, kind::SEPARATOR, &[0; 4]);
    log.measured(4, kind::ACTION, b"Calling EFI Application from Boot Option");
    log.measured(4, kind::SEPARATOR, &[0; 4]);
    let authority = Variable { vendor: Guid::IMAGE_SECURITY, name: "db", data: b"owner and certificate" };
    log.measured(7, kind::VARIABLE_AUTHORITY, &authority.measured());
    log.program(Digest::of(b"loader"), &from_disk("\\EFI\\BOOT\\BOOTX64.EFI"));
    log
}

#[test]
fn a_log_is_replayed_to_what_is_predicted() {
    let log = EventLog::read(&good().0).unwrap();
    let values = log.replay();
    assert_eq!(values[&4], predict_4(&[Digest::of(b"loader")]));
    let variable = |vendor, name, data| Variable { vendor, name, data };
    let variables = [
        variable(Guid::GLOBAL, "SecureBoot", &[1][..]),
        variable(Guid::GLOBAL, "PK", b"pk"),
        variable(Guid::GLOBAL, "KEK", b"kek"),
        variable(Guid::IMAGE_SECURITY, "db", b"db"),
        variable(Guid::IMAGE_SECURITY, "dbx", b""),
    ];
    assert_eq!(values[&7], predict_7(&variables, &[b"owner and certificate"]));
    let mut start = Digest::ZERO;
    start.0[31] = 3;
    assert_eq!(values[&0], start.extended(Digest::of(b"version")));
    let names: Vec<String> = log.variables().map(|variable| variable.name).collect();
    assert_eq!(names, ["SecureBoot", "PK", "KEK", "db", "dbx"]);
    assert_eq!(log.authorities().count(), 1);
}

#[test]
fn a_register_that_is_not_what_the_log_says_is_named() {
    let log = EventLog::read(&good().0).unwrap();
    let mut tpm = log.replay();
    for pcr in FIRMWARE_PCRS {
        tpm.entry(pcr).or_insert(Digest::ZERO);
    }
    assert_eq!(log.compare(&tpm, &FIRMWARE_PCRS), []);
    tpm.insert(4, Digest::of(b"something else was started"));
    tpm.remove(&2);
    let wrong: Vec<(u32, bool)> =
        log.compare(&tpm, &FIRMWARE_PCRS).iter().map(|mismatch| (mismatch.pcr, mismatch.tpm.is_some())).collect();
    assert_eq!(wrong, [(2, false), (4, true)]);
}

#[test]
fn a_variable_whose_data_were_exchanged_is_not_believed() {
    let mut writer = Writer::new();
    let lie = Variable { vendor: Guid::GLOBAL, name: "SecureBoot", data: &[1] }.measured();
    writer.event(7, kind::VARIABLE_DRIVER_CONFIG, Digest::of(b"the truth"), &lie);
    assert_eq!(EventLog::read(&writer.0).unwrap().variables().count(), 0);
}

#[test]
fn where_a_program_came_from_is_told() {
    let mut writer = good();
    writer.program(Digest::of(b"ipxe"), &from_network());
    let log = EventLog::read(&writer.0).unwrap();
    let loaded: Vec<Loaded> = log.loaded(4).collect();
    assert_eq!(loaded.iter().map(|one| one.path.is_network).collect::<Vec<_>>(), [false, true]);
    assert_eq!(log.events.last().unwrap().describe(), "program: mac/ipv4");
}

#[test]
fn a_log_of_another_kind_is_refused_with_a_remedy() {
    for octets in [&b""[..], &[0; 64], &[0xff; 64]] {
        assert!(EventLog::read(octets).is_err());
    }
    let mut old = good().0;
    old[32..48].copy_from_slice(b"Spec ID Event00\0");
    let error = EventLog::read(&old).unwrap_err().to_string();
    assert!(error.contains("TPM to 2.0"), "{error}");
    let mut filled = good().0;
    let events = EventLog::read(&filled).unwrap().events.len();
    filled.extend([0; 100]);
    assert_eq!(EventLog::read(&filled).unwrap().events.len(), events);
}

proptest! {
    #[test]
    fn what_is_cut_off_or_changed_never_breaks_the_reader(at: usize, octet: u8, length: usize) {
        let mut octets = good().0;
        let place = at % octets.len();
        octets[place] = octet;
        octets.truncate(length % (octets.len() + 1));
        if let Ok(log) = EventLog::read(&octets) {
            let _ = log.replay();
            for event in &log.events {
                let _ = event.describe();
            }
        }
    }

    #[test]
    fn every_bit_of_a_digest_matters(which in 0_usize..9, bit in 0_usize..256) {
        let log = EventLog::read(&good().0).unwrap();
        let mut other = log.clone();
        other.events[which].digest.0[bit / 8] ^= 1 << (bit % 8);
        prop_assert_ne!(log.replay(), other.replay());
    }
}

/// A boot of a release in QEMU: OVMF with keys that [`crate::keys::make`] made and systemd-boot enrolled, systemd-boot,
/// a signed boot file. The registers are those that `tpm2_eventlog` 5.7 finds in the same log.
const REAL: &[u8] = include_bytes!("../../testdata/boot-with-own-keys.log");

#[test]
fn a_real_log_leads_to_what_other_tools_find_in_it() {
    let log = EventLog::read(REAL).unwrap();
    let values = log.replay();
    for (pcr, value) in [
        (0, "a2ae8347409a34455ae691b7f4f48233f3b51f3f36489bd4f19df99ee8e67f14"),
        (1, "fc75622c904ba9d2ed052cfbca651a404f572366e789021e4d3e404ac08cfecf"),
        (2, "3d458cfe55cc03ea1f443f1562beec8df51c75e14a9fcf9a7234a13f198e7969"),
        (5, "855f63db21a2fcd341031cbc35cab473a44023566a4c2466aa5a8805ff795778"),
        (9, "195345ab802ff80ef139f547bd09f487ce2cce6ed1395ea7f7b5ba938bb9357c"),
        // What is predicted of that boot file before the first phase.
        (11, "353f25066bbaff351ecfafa57abb941c557f7b8568e0a1e8374bb67c6d40f285"),
    ] {
        assert_eq!(values[&pcr].to_string(), value, "PCR {pcr}");
    }
}

#[test]
fn a_real_boot_ends_where_it_was_predicted_to() {
    let log = EventLog::read(REAL).unwrap();
    let values = log.replay();
    let loaded: Vec<Loaded> = log.loaded(4).collect();
    // The second is what pesign, osslsigncode and we find in the boot file.
    assert_eq!(loaded[1].digest.to_string(), "ca5649d8909a150ba1edd62700b4f8745d676b3b9cd9232d5481a7bee3c28f3e");
    assert_eq!(loaded[1].path.text, "\\EFI\\Linux\\postkeep.efi");
    assert_eq!(predict_4(&loaded.iter().map(|one| one.digest).collect::<Vec<_>>()), values[&4]);

    let variables: Vec<LoggedVariable> = log.variables().collect();
    let measured: Vec<Variable<'_>> =
        variables.iter().map(|one| Variable { vendor: one.vendor, name: &one.name, data: &one.data }).collect();
    let authorities: Vec<LoggedVariable> = log.authorities().collect();
    let authorities: Vec<&[u8]> = authorities.iter().map(|one| one.data.as_slice()).collect();
    assert_eq!(predict_7(&measured.try_into().unwrap(), &authorities), values[&7]);
}

#[test]
fn a_real_boot_with_own_keys_has_nobody_else_in_its_chain() {
    use crate::facts::{Ours, chain};
    use crate::secure_boot::{Owner, holders};

    let log = EventLog::read(REAL).unwrap();
    let db = log.variables().find(|variable| variable.name == "db").unwrap().data;
    let own = holders("db", &db, &[], &[]).unwrap()[0].fingerprint.unwrap();
    let ours = Ours { certificates: vec![own], files: Vec::new() };
    let chain = chain(&log, &log.replay(), &ours);
    assert_eq!(chain.secure_boot, Some(true));
    assert!(chain.authorities.iter().all(|authority| authority.owner == Owner::Own) && chain.authorities.len() == 1);
    assert_eq!((chain.programs.len(), chain.additions), (2, 0));
    assert!(chain.programs.iter().all(|program| !program.is_network));
}

/// Oracle: OVMF and systemd-boot under QEMU, with keys of a test's own.
#[test]
fn what_a_real_firmware_says_of_secure_boot_is_found_and_is_worth_an_a() {
    use crate::facts::{Ours, attested};
    use crate::posture::{Grade, judge};
    use crate::signature_list::{self, Entry};

    let log = EventLog::read(include_bytes!("../../../fuzz/corpus/event_log/boot-with-own-keys")).unwrap();
    let secure_boot = log.secure_boot().unwrap();
    assert!(secure_boot.is_on() && secure_boot.variable("dbx").is_empty());
    let names: Vec<&str> = secure_boot.authorities.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["db"]);
    let mut ours = Ours::default();
    for name in ["PK", "KEK", "db"] {
        let entries = signature_list::read(secure_boot.variable(name)).unwrap();
        ours.certificates.extend(entries.into_iter().map(|owned| match owned.entry {
            Entry::Certificate(certificate) => certificate.fingerprint,
            other => panic!("{other:?}"),
        }));
    }
    assert_eq!(ours.certificates.len(), 3);
    let values = log.replay();
    let graded = |ours: &Ours| judge(&attested(&log, &secure_boot, &values, "0.1.0", ours));
    let posture = graded(&ours);
    assert_eq!(posture.grade, Grade::A, "{posture:#?}");
    assert_eq!(graded(&Ours::default()).grade, Grade::D);
}
