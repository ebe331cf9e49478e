//! A machine with a TPM that nobody here wrote: swtpm, with what a start measures put into it by tpm2-tools. Its firmware measures that Secure Boot
//! is on, that it has nobody's keys, and nothing else.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::tools::{self, needs};

/// 8be4df61-93ca-11d2-aa0d-00e098032b8c
const EFI_GLOBAL_VARIABLE: [u8; 16] =
    [0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c];
/// d719b2cb-3d3a-4596-a3bc-dad00e67656f
const EFI_IMAGE_SECURITY_DATABASE: [u8; 16] =
    [0xcb, 0xb2, 0x19, 0xd7, 0x3a, 0x3d, 0x96, 0x45, 0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f];
/// A variable: whose, its name, its content, and the sum of that as firmware measures it (UEFI_VARIABLE_DATA), by Python's hashlib.
type Variable = ([u8; 16], &'static str, &'static [u8], &'static str);
const MEASURED: [Variable; 5] = [
    (EFI_GLOBAL_VARIABLE, "SecureBoot", &[1], "ccfc4bb32888a345bc8aeadaba552b627d99348c767681ab3141f5b01e40a40e"),
    (EFI_GLOBAL_VARIABLE, "PK", &[], "dea7b80ab53a3daaa24d5cc46c64e1fa9ffd03739f90aadbd8c0867c4a5b4890"),
    (EFI_GLOBAL_VARIABLE, "KEK", &[], "e670e121fcebd473b8bc41bb801301fc1d9afa33904f06f7149b74f12c47a68f"),
    (EFI_IMAGE_SECURITY_DATABASE, "db", &[], "baf89a3ccace52750c5f0128351e0422a41597a1adfd50822aa363b9d124ea7c"),
    (EFI_IMAGE_SECURITY_DATABASE, "dbx", &[], "9f75b6823bff6af1024a4e2036719cdd548d3cbc2bf1de8e7ef4d0ed01f94bf9"),
];
const STARTS: Duration = Duration::from_secs(10);

/// A machine whose power is on; it goes off when this is dropped.
#[derive(Debug)]
pub struct Machine {
    swtpm: PathBuf,
    running: Child,
    port: u16,
    extend: PathBuf,
    folder: tempfile::TempDir,
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.cut_power();
    }
}

impl Machine {
    /// A new one that has started; or nothing, where the programs are not here and that is allowed.
    pub fn new() -> Option<Self> {
        let (swtpm, extend) = (needs(tools::find("swtpm"))?, needs(tools::find("tpm2_pcrextend"))?);
        let folder = tempfile::tempdir().expect("a folder");
        let (running, port) = power_on(&swtpm, folder.path());
        let machine = Self { swtpm, running, port, extend, folder };
        machine.measure_secure_boot();
        let mut log = vec![0, 0, 0, 0, 3, 0, 0, 0];
        log.extend([0; 20]);
        log.extend([33, 0, 0, 0]);
        log.extend(b"Spec ID Event03\0");
        log.extend([0, 0, 0, 0, 0, 2, 0, 2, 1, 0, 0, 0, 11, 0, 32, 0, 0]);
        for (vendor, name, content, sum) in MEASURED {
            // PCR 7, EV_EFI_VARIABLE_DRIVER_CONFIG, one digest of SHA-256.
            log.extend([7, 0, 0, 0, 1, 0, 0, 0x80, 1, 0, 0, 0, 11, 0]);
            log.extend((0..32).map(|at| u8::from_str_radix(&sum[2 * at..2 * at + 2], 16).expect("digits")));
            let mut variable = vendor.to_vec();
            variable.extend((name.len() as u64).to_le_bytes());
            variable.extend((content.len() as u64).to_le_bytes());
            variable.extend(name.encode_utf16().flat_map(u16::to_le_bytes));
            variable.extend(content);
            log.extend(u32::try_from(variable.len()).expect("it is short").to_le_bytes());
            log.extend(variable);
        }
        fs::write(machine.file("log"), log).expect("write the log");
        Some(machine)
    }

    /// A file of it: `log` is there.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// How its TPM is reached, as tpm2-tss names it.
    pub fn tpm(&self) -> String {
        format!("swtpm:host=127.0.0.1,port={}", self.port)
    }

    /// A digest, in hexadecimal digits, is measured into a register.
    pub fn measure(&self, register: u32, digest: &str) {
        let done = Command::new(&self.extend)
            .arg(format!("{register}:sha256={digest}"))
            .env("TPM2TOOLS_TCTI", self.tpm())
            .output()
            .expect("run tpm2_pcrextend");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    /// Its power goes and comes back: the registers are empty, and what the TPM has in itself is there.
    pub fn start_again(&mut self) {
        self.cut_power();
        (self.running, self.port) = power_on(&self.swtpm, self.folder.path());
        self.measure_secure_boot();
    }

    fn measure_secure_boot(&self) {
        for (.., sum) in MEASURED {
            self.measure(7, sum);
        }
    }

    fn cut_power(&mut self) {
        let _ = self.running.kill();
        let _ = self.running.wait();
    }
}

fn power_on(program: &Path, folder: &Path) -> (Child, u16) {
    let state = folder.join("state");
    fs::create_dir_all(&state).expect("a folder for the TPM");
    // Another test may take the ports in between.
    (0..20).find_map(|_| try_power_on(program, &state)).expect("swtpm starts")
}

fn try_power_on(program: &Path, state: &Path) -> Option<(Child, u16)> {
    // Two ports beside each other, for what is asked and for its power.
    let first = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = first.local_addr().expect("its number").port();
    let power = port.checked_add(1)?;
    drop((first, TcpListener::bind(("127.0.0.1", power)).ok()?));
    let mut child = Command::new(program)
        .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear", "--tpmstate"])
        .arg(format!("dir={}", state.display()))
        .args(["--server", &format!("type=tcp,port={port},bindaddr=127.0.0.1")])
        .args(["--ctrl", &format!("type=tcp,port={power},bindaddr=127.0.0.1")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("start swtpm");
    let began = Instant::now();
    // The port for its power: whoever connects to the other one is its only guest.
    while TcpStream::connect(("127.0.0.1", power)).is_err() {
        if child.try_wait().expect("ask for swtpm").is_some() || began.elapsed() >= STARTS {
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Some((child, port))
}
