//! The table. A line is added at the end of its group; an id is never changed and never used again.

use log::Level;

use crate::{Description, Event};

macro_rules! events {
    ($($constant:ident $id:literal $name:literal $level:ident [$($field:literal),*] $meaning:literal)*) => {
        $(#[doc = $meaning] pub const $constant: Event<{ [$($field),*].len() }> =
            Event { id: $id, name: $name, level: Level::$level, fields: [$($field),*] };)*

        /// All of them, in the order of the documentation.
        pub const EVENTS: &[Description] = &[$(Description {
            constant: stringify!($constant), id: $id, name: $name, level: Level::$level, fields: &[$($field),*],
            meaning: $meaning,
        }),*];
    };
}

events! {
    NETWORK_SET "f9f72dbe1f6348b7ba6ef353ded2fa6e" "network-set" Info ["OWNER", "ISSUED", "FILES"]
        "The network was set up from the seed on the boot partition."
    SEED_TAKEN "21996d37a97044cdac8dc3fe575b7f60" "seed-taken" Info ["OWNER", "ISSUED"]
        "A new seed was taken over onto the data volume."
    SEED_REFUSED "942c92100c5847b1a95ffe6214ffce75" "seed-refused" Warn ["REASON"]
        "The seed on the boot partition was not taken; what the owner said before holds."
    KEY_MADE "51f1cd60766f4dbaa2a14d0c13db5deb" "key-made" Info ["PURPOSE", "NAME", "FILE"]
        "A key that the configuration names was not there and was made on the box. PURPOSE is dkim, tls or api; NAME is the name under which its public half is found."
    POSTURE_MEASURED "d613745bfd60444bbbf2111a005902b1" "posture-measured" Info ["GRADE", "WORST_GRADE"]
        "This start was graded, and no start of this box was graded worse than the worst that was known."
    POSTURE_WORSE "80a82845175b4632a3a7866d75e6ec29" "posture-worse" Error ["GRADE", "GRADE_BEFORE", "REASON"]
        "This start was graded worse than every one before. The grade stays in the history for good."
    READY "ddd5a11a1b404d3b91ec586a83073d59" "ready" Info ["DOORS", "QUEUED"]
        "The mail core has opened all doors and takes mail."
    STOPPED "e2e784ee9fea4522bd27ea55852da925" "stopped" Info ["QUEUED"]
        "The mail core has closed its doors, and what was under way has ended."
    CONFIGURATION_TAKEN "8605cf7ddc35433b88b133d2c49d5efc" "configuration-taken" Info ["CHANGED", "NEED_RESTART"]
        "The configuration was read again and holds now, but for keys that need a restart."
    CONFIGURATION_REFUSED "65c0393c21b74505b8f7a5b836b73bd1" "configuration-refused" Error ["REASON"]
        "The configuration was read again and has errors; the running one stays in place."
    QUEUE_CHANGED "e651ff97afe74b9a816778911cefbb3b" "queue-changed" Info ["ACTION", "SELECTOR", "ACTOR", "AFFECTED"]
        "Somebody paused, resumed, retried, rerouted, deleted or expired a part of the queue."
    SOURCE_SUSPENDED "d8e900febbc2465ca9c4250ef120d458" "suspended" Warn ["SCOPE", "SOURCE", "SITE", "STREAM", "SENDER_DOMAIN", "SECONDS", "REASON"]
        "A receiver's reply put a source, or a stream or sender's domain at one site, out for a while. Mail waits."
    SOURCE_UNUSABLE "5c3ea10a35884388867af94d4a84c084" "source-unusable" Error ["SOURCE", "SECONDS", "REASON"]
        "The address of a source cannot be used on this machine."
    REPLY_ALARM "0951d9f965a2442fafb848f012204183" "reply-alarm" Error ["LANE", "SCOPE", "REASON", "ADVICE"]
        "A receiver said something that a person has to do something about."
    DISK_FULL "ebf356385a8f406fb77f0836348c0938" "disk-full" Error ["DIRECTORY", "REASON"]
        "Mail is refused with 452, since the spool has no room. Said once in ten minutes at most."
    RECORDS_UNWRITTEN "9eaeefb588d14891b59360db086735d0" "records-unwritten" Error ["FILE", "REASON"]
        "Records cannot be written and wait in memory; the disk may be full."
    EVENTS_DROPPED "1cba4202a27246bfb9ec697755f019ab" "events-dropped" Error ["RECEIVER", "FIRST", "LAST", "COUNT", "REASON"]
        "A receiver of events did not take some of them for so long that they were given up."
    API_REFUSED "5ea12f3aef464047b7e4299adf097f21" "api-refused" Warn ["ADDRESS", "FINGERPRINT", "COUNT"]
        "Somebody at the door for management showed a certificate that is not listed. Said once in ten seconds at most; COUNT is how many there were since it was said last."
    API_DENIED "ff8fb2f3a87c4d0a8e8379a2b4f774dd" "api-denied" Warn ["CLIENT", "METHOD", "PATH"]
        "A listed client asked for something that its role does not allow."
    CONSOLE_DONE "69c3784ae3ed4052972b99fcdd36af14" "console-done" Info ["OWNER", "DEED"]
        "The owner allowed something at the console, and it was done."
    CONSOLE_FAILED "8935287fd6094538b7f96fa577f0cbda" "console-failed" Error ["OWNER", "DEED", "REASON"]
        "The owner allowed something at the console, and it could not be done."
    CONSOLE_REFUSED "0ac63c05935e440fbcaf7e61deba8998" "console-refused" Warn ["REASON"]
        "An answer that was typed at the console was not the owner's, or not one to this challenge."
    VOLUME_GIVEN "fff33d6192c74ca18673ab8254d9c558" "volume-given" Info ["THRESHOLD", "CUSTODIANS", "BOX_KEY"]
        "First boot: the new data volume was given to its custodians. From now on THRESHOLD of CUSTODIANS open it; BOX_KEY is what they know the box by."
    VOLUME_OPENED "f2aeb4d7644142128dac9fc8740ef921" "volume-opened" Info ["PURPOSE", "CUSTODIANS"]
        "Enough custodians have answered, and the data volume is open. CUSTODIANS are those who have, each with the grade that they could make sure of and their reason."
    VOLUME_UNOPENED "880b6cb09dba4914a978bb6a2ec0392b" "volume-unopened" Error ["CUSTODIANS", "REASON"]
        "Enough custodians have answered, and the data volume did not open. They may answer again."
    SEAL_ASKED "4e289d68cc8a457db26464dca2880e14" "seal-asked" Warn ["CUSTODIAN"]
        "A custodian has the box sealed: mail stops, and the data volume is closed."
    RESTART_ASKED "58ecfc4e2daa6a54a4754a2ce8205e0a" "restart-asked" Warn ["CUSTODIAN"]
        "A custodian has the machine of a sealed box started anew."
    POSSESSION_DUE "57b5e85f00f84985b0d788294761aed8" "possession-due" Warn ["CUSTODIANS"]
        "These custodians have not proved for a quarter, or never, that they hold their key. Said once a day while the box is open."
    SEALED_AT_CONSOLE "7aa5b14bf57d45d0abfbc41c9de3b585" "sealed-at-console" Warn ["DEED"]
        "Somebody at the console has the box sealed. That needs nobody's leave where custodians open the box."
    POSSESSION_PROVEN "e899e556722c4954927e401aeab19759" "possession-proven" Info ["CUSTODIAN"]
        "A custodian has proved that they hold their key still."
    KEY_SET_CHANGED "38588127473842988a246648b96ed6bc" "key-set-changed" Warn ["EPOCH", "THRESHOLD", "CUSTODIANS", "WANTED_BY"]
        "Enough custodians wanted a new key set, and it holds: THRESHOLD of CUSTODIANS open the box from now on. Until as many of them have proved that they hold their keys, or have opened it, shares of the key set before do too."
    KEY_SET_RETIRED "0fe9ff7a99c14118b24f917bb4cca6e6" "key-set-retired" Info ["EPOCH"]
        "Nobody but those in the key set that holds opens the box any more: enough of them have proved that they can, or have opened it."
    KEY_SET_UNCHANGED "8dd0d3d311c2400e928637868e556156" "key-set-unchanged" Error ["WANTED_BY", "REASON"]
        "Enough custodians wanted a new key set, and it could not be made. The one before holds."
    MIRROR_DEGRADED "0f3100548c444ceeb8a5d48a43d9c965" "mirror-degraded" Error ["DISKS"]
        "Of two disks one is missing or has failed. The box runs on; DISKS are those that have all data."
    MIRROR_WHOLE "1de60da6b386498a8fe1494ffac6f3cf" "mirror-whole" Info ["DISKS"]
        "Both disks have all data."
    UPDATE_INSTALLED "a2c0e838410a445fa0d67eb8af38386a" "update-installed" Info ["FROM", "TO"]
        "A release lies whole in the other slot, and has still to prove itself. FROM is the version that runs."
    UPDATE_TAKEN "056d0858f5fc4293a1ca15d68f16eac7" "update-taken" Info ["FROM", "TO"]
        "A new version has proved itself and stays."
    UPDATE_FELL_BACK "f228edc387d145699ea364dd6fb8d01f" "update-fell-back" Error ["FROM", "TO", "REASON"]
        "A new version did not prove itself, and the one before runs again. FROM is the one that did not."
    UPDATE_ROLLED_BACK "024b49978b174789b1b01d871c3888e8" "update-rolled-back" Warn ["FROM", "TO"]
        "The owner went back to the version before."
    UPDATE_ABANDONED "97d208a618d7467e97edb4dcb08dd4ce" "update-abandoned" Error ["TO", "REASON"]
        "An update was begun and came to nothing; what ran still runs."
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};

    use super::*;

    /// A row of the documented table, as it has to be.
    fn row(event: &Description) -> String {
        let fields: Vec<String> = event.fields.iter().map(|field| format!("`{field}`")).collect();
        let priority = match event.level {
            Level::Error => 3,
            Level::Warn => 4,
            _ => 5,
        };
        let Description { name, id, meaning, .. } = event;
        format!("| `{name}` | `{id}` | {priority} | {} | {meaning} |", fields.join(", "))
    }

    #[test]
    fn the_page_has_exactly_these_events() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/operate/journal.md");
        let page = std::fs::read_to_string(page).unwrap();
        let written: Vec<&str> = page
            .lines()
            .filter(|line| line.split('|').nth(2).is_some_and(|cell| cell.trim().trim_matches('`').len() == 32))
            .collect();
        let wanted: Vec<String> = EVENTS.iter().map(row).collect();
        assert_eq!(written, wanted, "the table of docs/operate/journal.md has to read:\n{}\n", wanted.join("\n"));
    }

    #[test]
    fn ids_are_journald_s_and_nothing_is_there_twice() {
        let mut seen = BTreeSet::new();
        for event in EVENTS {
            let is_id = event.id.len() == 32 && event.id.bytes().all(|digit| b"0123456789abcdef".contains(&digit));
            assert!(is_id && seen.insert(event.id) && seen.insert(event.name), "{event:?}");
            for field in event.fields {
                let plain = field.bytes().all(|octet| octet.is_ascii_uppercase() || octet == b'_');
                assert!(plain && field.len() <= 64 && !field.starts_with('_'), "{field}");
                // journald's own, or the logger's.
                assert!(!["MESSAGE", "MESSAGE_ID", "PRIORITY", "TARGET"].contains(field), "{field}");
            }
        }
    }

    #[test]
    fn each_event_is_told_somewhere() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut files = Vec::new();
        for folder in ["appliance", "firmware"] {
            gather(&root.join(folder), &mut files);
        }
        // Lines are broken as they come.
        let plain = |file: &PathBuf| std::fs::read_to_string(file).unwrap().split_whitespace().collect::<String>();
        let texts: Vec<String> = files.iter().map(plain).collect();
        for event in EVENTS {
            let told = format!("{}.tell(", event.constant);
            assert!(texts.iter().any(|text| text.contains(&told)), "nobody says {told}…)");
        }
    }

    fn gather(folder: &Path, files: &mut Vec<PathBuf>) {
        for entry in folder.read_dir().unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                gather(&path, files);
            } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("events.rs") {
                files.push(path);
            }
        }
    }
}
