//! A disk that takes the place of one that a mirrored box has lost.

use std::fs;

use crate::bench::{Bench, IMAGE, MIB, flasher, run};

/// Where the box's first boot begins the half of its mirror.
const HALF: usize = IMAGE;
const DISK: usize = 64 * MIB;

/// Adds the partition of the mirror to the table of a flashed disk, as systemd-repart does on the box.
fn add_mirror(disk: &mut [u8]) {
    let kind = [0x0f, 0x88, 0x9d, 0xa1, 0xfc, 0x05, 0x3b, 0x4d, 0xa0, 0x06, 0x74, 0x3f, 0x0f, 0x84, 0x91, 0x1e];
    let name: Vec<u8> = "postkeep-mirror".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let last = disk.len() - 512;
    for (table, header) in [(1024, 512), (last - 32 * 512, last)] {
        let entry = table + 256;
        disk[entry..entry + 16].copy_from_slice(&kind);
        disk[entry + 16..entry + 32].copy_from_slice(&[7; 16]);
        disk[entry + 32..entry + 40].copy_from_slice(&((HALF / 512) as u64).to_le_bytes());
        disk[entry + 40..entry + 48].copy_from_slice(&((DISK - 8 * MIB) as u64 / 512 - 1).to_le_bytes());
        disk[entry + 56..entry + 56 + name.len()].copy_from_slice(&name);
        let sum = crc32fast::hash(&disk[table..table + 32 * 512]);
        disk[header + 88..header + 92].copy_from_slice(&sum.to_le_bytes());
        disk[header + 16..header + 20].fill(0);
        let sum = crc32fast::hash(&disk[header..header + 92]);
        disk[header + 16..header + 20].copy_from_slice(&sum.to_le_bytes());
    }
    // What is on the half of the data.
    disk[HALF..HALF + 4 * MIB].fill(0xda);
}

/// A bench with a box of two disks, of which `left` is left.
fn bench() -> (Bench, Vec<u8>) {
    let bench = Bench::new();
    let (left, _) = (bench.disk("left", DISK), bench.disk("lost", DISK));
    let (code, said) = run(&mut bench.write("postkeep.raw.zst", &["left", "lost"], &[]));
    assert_eq!(code, 0, "{said}");
    let mut octets = fs::read(&left).unwrap();
    add_mirror(&mut octets);
    fs::write(left, &octets).unwrap();
    (bench, octets)
}

fn replace(bench: &Bench, left: &str, disk: &str) -> (i32, String) {
    let mut command = flasher(&bench.path("root"));
    command.args(["replace", "--left"]).arg(bench.path(left)).arg("--disk").arg(bench.path(disk));
    run(command.args(["--yes-erase", disk]))
}

#[test]
fn it_gets_all_but_the_data_and_names_of_its_own() {
    let (bench, left) = bench();
    // Of another maker: larger by little, or smaller.
    for size in [DISK + MIB, DISK - 4 * MIB] {
        let new = bench.disk("new", size);
        let (code, said) = replace(&bench, "left", "new");
        assert_eq!(code, 0, "{said}");
        assert_eq!(fs::read(bench.path("left")).unwrap(), left, "the disk that is left was written");
        let new = fs::read(new).unwrap();
        assert!(new[MIB..HALF] == left[MIB..HALF], "not the same system");
        assert!(new[HALF..HALF + MIB].iter().all(|octet| *octet == 0), "the box would take it for a filled half");
        assert_eq!(new[HALF + MIB], 0xa5, "the data is not copied: the box does that");
        // The table: the same partitions, but for the names of the disk and of its EFI partition.
        assert_eq!(new[1024 + 128..1024 + 384], left[1024 + 128..1024 + 384]);
        assert_ne!(new[1024 + 16..1024 + 32], left[1024 + 16..1024 + 32]);
        assert_ne!(new[512 + 56..512 + 72], left[512 + 56..512 + 72]);
        assert_eq!(&new[size - 512..size - 504], b"EFI PART");
        // Done again, it ends the same.
        assert_eq!(replace(&bench, "left", "new").0, 0);
        assert!(fs::read(bench.path("new")).unwrap() == new);
    }
}

#[test]
fn what_is_no_disk_of_a_mirrored_box_or_too_small_is_refused_and_nothing_is_written() {
    let (bench, _) = bench();
    for (left, disk, size, code, words) in [
        ("left", "new", DISK - 9 * MIB, 3, "are needed to take the place"),
        ("lost", "new", DISK, 3, "no partition postkeep-mirror"),
        ("empty", "new", DISK, 3, "no disk of a mirrored box"),
        ("left", "left", 0, 2, "named twice"),
        ("nowhere", "new", DISK, 3, "nowhere"),
    ] {
        bench.disk("empty", DISK);
        if size > 0 {
            bench.disk(disk, size);
        }
        let before = fs::read(bench.path(disk)).unwrap();
        let (found, said) = replace(&bench, left, disk);
        assert!(found == code && said.contains(words), "{found}: {said}");
        assert!(fs::read(bench.path(disk)).unwrap() == before, "{left}: {disk} was written");
    }
    let mut command = flasher(&bench.path("root"));
    command.args(["replace", "--left"]).arg(bench.path("left")).arg("--disk").arg(bench.path("new"));
    let (code, said) = run(&mut command);
    assert!(code == 3 && said.contains("serial number"), "{code}: {said}");
}
