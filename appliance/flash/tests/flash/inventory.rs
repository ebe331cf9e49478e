//! Made-up machines, and what is said of them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use postkeep_flash::inventory::Inventory;

use crate::bench::{flasher, run};

fn put(root: &Path, files: &[(&str, &[u8])]) {
    for (path, octets) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, octets).unwrap();
    }
}

#[test]
fn disks_that_tell_the_same_serial_number_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    for (name, serial) in [("nvme0n1", "S1"), ("nvme0n2", "S1"), ("nvme1n1", "S2")] {
        put(
            root,
            &[
                (&format!("sys/block/{name}/size"), b"1000215216\n"),
                (&format!("sys/block/{name}/device/serial"), serial.as_bytes()),
            ],
        );
    }
    let disks = Inventory::read(root, &[]).disks;
    let told: Vec<&str> = disks.iter().map(|disk| &*disk.identity).collect();
    assert_eq!(told, ["S1/nvme0n1", "S1/nvme0n2", "S2"]);
}

#[test]
fn a_server_with_two_disks_is_described() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    put(
        root,
        &[
            ("sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c", &[6, 0, 0, 0, 1]),
            ("sys/firmware/efi/efivars/SetupMode-8be4df61-93ca-11d2-aa0d-00e098032b8c", &[6, 0, 0, 0, 0]),
            ("sys/class/tpm/tpm0/tpm_version_major", b"2\n"),
            ("sys/class/dmi/id/sys_vendor", b"Gigabyte\n"),
            ("sys/class/dmi/id/product_serial", b"To be filled by O.E.M.\n"),
            ("sys/class/dmi/id/product_uuid", b"4c4c4544-0042-3510-8051-b4c04f4d3132\n"),
            ("sys/block/nvme0n1/size", b"1000215216\n"),
            ("sys/block/nvme0n1/dev", b"259:0\n"),
            ("sys/block/nvme0n1/device/serial", b"S64GNX0T123456  \n"),
            ("sys/block/nvme0n1/device/model", b"SAMSUNG MZVL2512HCJQ-00B00   \n"),
            ("sys/block/nvme0n1/queue/logical_block_size", b"512\n"),
            ("sys/block/nvme0n1/nvme0n1p1/partition", b"1\n"),
            ("sys/block/nvme0n1/nvme0n1p1/dev", b"259:1\n"),
            ("sys/block/nvme0n1/nvme0n1p1/holders/md0/x", b""),
            ("sys/block/sda/size", b"3907029168\n"),
            ("sys/block/sda/dev", b"8:0\n"),
            ("sys/block/sda/device/vpd_pg80", b"\x00\x80\x00\x08WD-WX123"),
            ("sys/block/sda/queue/rotational", b"1\n"),
            ("sys/block/sda/queue/logical_block_size", b"4096\n"),
            ("sys/block/sda/sda2/partition", b"2\n"),
            ("sys/block/sda/sda2/dev", b"8:2\n"),
            ("sys/block/sda/sda3/partition", b"3\n"),
            ("sys/block/loop0/size", b"8\n"),
            ("sys/block/nvme0c0n1/size", b"1000215216\n"),
            ("sys/block/nvme0c0n1/hidden", b"1\n"),
            ("sys/class/net/eth0/address", b"52:54:00:12:34:56\n"),
            ("sys/class/net/eth0/carrier", b"1\n"),
            ("sys/class/net/eth0/device/vendor", b"0x8086\n"),
            ("sys/class/net/lo/address", b"00:00:00:00:00:00\n"),
            ("proc/meminfo", b"MemTotal:       65740088 kB\nMemFree: 1 kB\n"),
            ("proc/self/mountinfo", b"30 1 8:2 / /mnt rw,relatime shared:1 - ext4 /dev/sda2 rw\n"),
            ("proc/swaps", b"Filename Type Size Used Priority\n/dev/sda3 partition 8 0 -2\n"),
            (
                "proc/net/route",
                b"Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
                  eth0\t00000000\t017100CB\t0003\t0\t0\t0\t00000000\t0\t0\t0\n",
            ),
            (
                "proc/net/ipv6_route",
                b"00000000000000000000000000000000 00 00000000000000000000000000000000 00 \
                  fe800000000000000000000000000001 00000400 00000001 00000000 00000003     eth0\n",
            ),
        ],
    );
    symlink("../../../../bus/pci/drivers/e1000e", root.join("sys/class/net/eth0/device/driver")).unwrap();
    let addresses = [("eth0".to_owned(), "203.0.113.5/32".to_owned()), ("lo".to_owned(), "127.0.0.1/8".to_owned())];
    let machine = Inventory::read(root, &addresses);
    assert!(machine.uefi);
    assert_eq!((machine.secure_boot, machine.setup_mode, machine.tpm), (Some(true), Some(false), Some(2)));
    assert_eq!((machine.model.as_deref(), machine.serial.as_deref()), (Some("Gigabyte"), None));
    assert_eq!(machine.memory, 65_740_088 * 1024);
    let [nvme, sda] = &machine.disks[..] else { panic!("{:?}", machine.disks) };
    assert_eq!((nvme.size, &*nvme.identity), (512_110_190_592, "S64GNX0T123456"));
    assert_eq!(nvme.used_by, ["nvme0n1p1 is part of md0"]);
    assert_eq!((&*sda.identity, sda.rotational, sda.logical_sector), ("WD-WX123", true, 4096));
    assert_eq!(sda.used_by, ["sda2 is mounted at /mnt", "sda3 is swap"]);
    let [card] = &machine.cards[..] else { panic!("{:?}", machine.cards) };
    assert_eq!((card.driver.as_deref(), card.link), (Some("e1000e"), true));
    assert_eq!(card.addresses, ["203.0.113.5/32"]);
    let gateways: Vec<&str> = machine.routes.iter().map(|route| route.gateway.as_str()).collect();
    assert_eq!(gateways, ["203.0.113.1", "fe80::1"]);

    let (code, said) = run(flasher(root).arg("inventory"));
    assert_eq!(code, 0);
    assert!(said.contains("S64GNX0T123456") && said.contains("may not be yours"), "{said}");
}

#[test]
fn a_machine_that_says_nothing_is_described_too_with_the_sentence_for_support() {
    let folder = tempfile::tempdir().unwrap();
    let (code, said) = run(flasher(folder.path()).args(["inventory", "--json"]));
    assert_eq!(code, 0);
    assert!(said.contains("\"uefi\":false") && said.contains("Please switch this server to UEFI"), "{said}");
}
