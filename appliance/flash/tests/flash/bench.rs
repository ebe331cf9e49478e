//! What the tests work on: an image like ours in small, a signed release of it, a signed seed, a made-up machine.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use jiff::Timestamp;
use postkeep_notes::SignerKey;
use postkeep_release::{DataFormat, File, Release, Role, Sha256, Version};
use postkeep_seed::Seed;

pub(crate) const MIB: usize = 1 << 20;
pub(crate) const IMAGE: usize = 48 * MIB;
/// Made by `mkfs.vfat`: large enough for FAT32 with clusters of one sector.
const ESP: usize = 36 * MIB;

/// A folder with all that a flash needs.
pub(crate) struct Bench {
    folder: tempfile::TempDir,
    pub(crate) image: Vec<u8>,
    pub(crate) release_key: SignerKey,
    pub(crate) owner: SignerKey,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let bench = Self {
            folder: tempfile::tempdir().unwrap(),
            image: image(),
            release_key: SignerKey::generate("release.example").unwrap(),
            owner: SignerKey::generate("example.com/owner").unwrap(),
        };
        let packed = zstd::encode_all(&bench.image[..], 1).unwrap();
        fs::write(bench.path("postkeep.raw"), &bench.image).unwrap();
        fs::write(bench.path("postkeep.raw.zst"), &packed).unwrap();
        bench.sign_release(&bench.release(&packed), &bench.release_key);
        let seed = Seed::draft("hostname = 'mail-1.example.com'", bench.owner.verifier(), Timestamp::now()).unwrap();
        fs::write(bench.path("box.seed"), seed.sign(&bench.owner).unwrap()).unwrap();
        bench.machine();
        bench
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn release(&self, packed: &[u8]) -> Release {
        let (sum, format) = (Sha256::of(b"root"), DataFormat { reads: [1].into(), writes: 1 });
        let mut release = Release::new(Version::new(0, 3, 0), Timestamp::now(), sum, sum, format);
        release.files.push(File {
            name: "postkeep.raw.zst".to_owned(),
            role: Role::DiskImage,
            size: packed.len() as u64,
            sha256: Sha256::of(packed),
            expanded_size: Some(IMAGE as u64),
            expanded_sha256: Some(Sha256::of(&self.image)),
            partition_uuid: None,
        });
        release
    }

    pub(crate) fn sign_release(&self, release: &Release, key: &SignerKey) {
        let note = postkeep_notes::sign(&release.to_toml().unwrap(), &[key]).unwrap();
        fs::write(self.path("release.note"), note).unwrap();
    }

    /// A machine that was started by UEFI, has a TPM, and this machine's block devices.
    fn machine(&self) {
        let put = |path: &str, octets: &[u8]| {
            let path = self.path("root").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, octets).unwrap();
        };
        for (flag, value) in [("SecureBoot", 0), ("SetupMode", 1)] {
            let name = format!("sys/firmware/efi/efivars/{flag}-8be4df61-93ca-11d2-aa0d-00e098032b8c");
            put(&name, &[6, 0, 0, 0, value]);
        }
        put("sys/class/tpm/tpm0/tpm_version_major", b"2\n");
        put("sys/class/dmi/id/product_serial", b"B5QM12\n");
        put("proc/meminfo", b"MemTotal:       65536000 kB\n");
        symlink("/sys/dev", self.path("root/sys/dev")).unwrap();
    }

    /// A disk that is a file, full of what somebody had on it before.
    pub(crate) fn disk(&self, name: &str, size: usize) -> PathBuf {
        fs::write(self.path(name), vec![0xa5; size]).unwrap();
        self.path(name)
    }

    /// `plan` or `write` with everything in its place, and `more`.
    pub(crate) fn command(&self, what: &str, image: &str, more: &[&str]) -> Command {
        let mut command = flasher(&self.path("root"));
        command.arg(what).args(["--image".as_ref(), self.path(image).as_os_str()]);
        command.args(["--release".as_ref(), self.path("release.note").as_os_str()]);
        command.args(["--release-key", &self.release_key.verifier().to_string()]);
        command.args(["--seed".as_ref(), self.path("box.seed").as_os_str()]);
        command.args(more);
        command
    }

    /// Writes onto disks that are files below the folder.
    pub(crate) fn write(&self, image: &str, disks: &[&str], more: &[&str]) -> Command {
        let mut command = self.command("write", image, more);
        for disk in disks {
            command.args(["--disk".as_ref(), self.path(disk).as_os_str()]).args(["--yes-erase", disk]);
        }
        command
    }

    /// Whether `disk` holds the image, fitted to it, and the seed.
    pub(crate) fn assert_flashed(&self, disk: &[u8]) {
        // The partition after the one that the seed is in, and all of the disk behind the image.
        let (root, end) = (MIB + ESP, IMAGE - 33 * 512);
        assert!(disk[root..end] == self.image[root..end], "the root partition is not the image's");
        if disk.len() > IMAGE {
            assert!(disk[end..IMAGE].iter().all(|octet| *octet == 0), "the inner copy of the table is still there");
            let last = disk.len() - 512;
            assert_eq!(&disk[last..last + 8], b"EFI PART");
            assert_eq!(disk[512 + 32..512 + 40], ((last / 512) as u64).to_le_bytes());
        }
        // In the EFI partition only what the seed needs has changed; the flasher's own tests know FAT.
        let sectors = |octets: &[u8]| octets.chunks(512).map(<[u8]>::to_vec).collect::<Vec<_>>();
        let (esp, before) = (sectors(&disk[MIB..root]), sectors(&self.image[MIB..root]));
        let changed: Vec<_> = esp.iter().zip(&before).filter(|(new, old)| new != old).map(|(new, _)| new).collect();
        assert!((4..20).contains(&changed.len()), "{} sectors changed", changed.len());
        let seed = fs::read(self.path("box.seed")).unwrap();
        assert!(changed.iter().any(|sector| sector.starts_with(&seed[..seed.len().min(512)])), "there is no seed");
    }
}

pub(crate) fn flasher(root: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_postkeep-flash"));
    command.arg("--root").arg(root);
    command
}

/// Runs `command`: its status, and what it said.
pub(crate) fn run(command: &mut Command) -> (i32, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let said = String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
    (status.code().unwrap_or(-1), said)
}

/// Octets that do not compress, the same each time.
fn noise(length: usize, from: u64) -> Vec<u8> {
    let mut state = from;
    let mut octets = Vec::with_capacity(length);
    while octets.len() < length {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        octets.extend_from_slice(&(state >> 16).to_le_bytes()[..4]);
    }
    octets.truncate(length);
    octets
}

/// An EFI partition with a kernel, a root partition with a hole in it, and the two copies of the table.
fn image() -> Vec<u8> {
    let mut image = vec![0; IMAGE];
    let esp = zstd::decode_all(&include_bytes!("../fat/esp.zst")[..]).unwrap();
    image[MIB..MIB + ESP].copy_from_slice(&esp);
    let root = MIB + ESP;
    image[root..root + 4 * MIB].copy_from_slice(&noise(4 * MIB, 8));
    image[root + 8 * MIB..root + 10 * MIB].copy_from_slice(&noise(2 * MIB, 9));

    let mut table = vec![0; 32 * 512];
    let efi = [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b];
    let sectors = |octets: usize| ((octets / 512) as u64).to_le_bytes();
    for (at, kind, first, last) in [(0, efi, MIB, root - 512), (128, [9; 16], root, root + 10 * MIB - 512)] {
        table[at..at + 16].copy_from_slice(&kind);
        table[at + 16..at + 32].copy_from_slice(&[at as u8 + 1; 16]);
        table[at + 32..at + 40].copy_from_slice(&sectors(first));
        table[at + 40..at + 48].copy_from_slice(&sectors(last));
    }
    let label: Vec<u8> = "postkeep_0.3.0".encode_utf16().flat_map(u16::to_le_bytes).collect();
    table[128 + 56..128 + 56 + label.len()].copy_from_slice(&label);
    let header = |own: usize, other: usize, entries: usize| {
        let mut header = vec![0; 512];
        header[..16].copy_from_slice(b"EFI PART\x00\x00\x01\x00\x5c\x00\x00\x00");
        header[24..32].copy_from_slice(&sectors(own));
        header[32..40].copy_from_slice(&sectors(other));
        header[40..48].copy_from_slice(&34_u64.to_le_bytes());
        header[48..56].copy_from_slice(&sectors(IMAGE - 34 * 512));
        header[56..72].copy_from_slice(&[5; 16]);
        header[72..80].copy_from_slice(&sectors(entries));
        header[80..84].copy_from_slice(&128_u32.to_le_bytes());
        header[84..88].copy_from_slice(&128_u32.to_le_bytes());
        header[88..92].copy_from_slice(&crc32fast::hash(&table).to_le_bytes());
        let sum = crc32fast::hash(&header[..92]);
        header[16..20].copy_from_slice(&sum.to_le_bytes());
        header
    };
    image[450] = 0xee;
    image[454] = 1;
    image[510..512].copy_from_slice(&[0x55, 0xaa]);
    image[512..1024].copy_from_slice(&header(512, IMAGE - 512, 1024));
    image[1024..1024 + table.len()].copy_from_slice(&table);
    image[IMAGE - 33 * 512..IMAGE - 512].copy_from_slice(&table);
    image[IMAGE - 512..].copy_from_slice(&header(IMAGE - 512, 512, IMAGE - 33 * 512));
    image
}
