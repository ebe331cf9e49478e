"""Sabotage: each test is one machine, one act on its disk, and one line that its console must say; mail must not flow."""

import json
import pathlib
import shutil
import subprocess
import unittest

from heard import TimeUp
from machine import Machine, partitions
from stage import TAP, Owner, network, write_seed

BUILD = pathlib.Path("/build")
KEYS = BUILD / "keys"
SCRATCH = BUILD / "scratch"
MIB = 1 << 20
SECTOR = 512
# A token that systemd-cryptenroll has written for the TPM of a machine that is gone.
FOREIGN = BUILD / "image/tests/foreign-token.json"
READY = "Reached target Postkeep takes mail"
# What a kernel and a system say that were started; these machines have no seed, and would not come to mail in any case.
STARTED = ("UEFI Secure Boot is enabled", "Welcome to", "Mounted Data volume")


def run(*command, **more):
    return subprocess.run(command, check=True, capture_output=True, **more)


def flip(disk, at):
    """One bit of one octet."""
    with open(disk, "r+b") as file:
        file.seek(at)
        octet = file.read(1)[0]
        file.seek(at)
        file.write(bytes([octet ^ 1]))


class Boot:
    """The boot file in a disk's boot partition, taken out and put back."""

    def __init__(self, disk, folder):
        self.place, self.file = f"{disk}@@1M", folder / "boot-file.efi"
        names = run("mdir", "-b", "-i", self.place, "::/EFI/Linux").stdout.decode().split()
        [self.name] = [name for name in names if name.endswith(".efi")]
        run("mcopy", "-n", "-i", self.place, self.name, self.file)

    def put(self, file):
        run("mcopy", "-o", "-i", self.place, file, self.name)

    def section(self, name):
        """Where a section of the file begins, and how long it is."""
        told = json.loads(subprocess.run([BUILD / "bin/postkeep-firmware", "measure", self.file, "--json"], capture_output=True).stdout)
        return next((one["offset"], one["size"]) for one in told["sections"] if one["name"] == name)


class Sabotage(unittest.TestCase):
    def machine(self, name):
        folder = SCRATCH / "sabotage" / name
        shutil.rmtree(folder, ignore_errors=True)
        machine = Machine(folder, KEYS)
        self.addCleanup(machine.off)
        return machine, machine.insert(BUILD / "image.raw"), folder

    def refused_by_firmware(self, machine):
        machine.start()
        machine.console.expect("Access denied", "Access Denied", "Security Violation", within=120, refuse=STARTED)
        self.stays_away(machine, *STARTED)

    def stays_away(self, machine, *texts):
        with self.assertRaises(TimeUp) as late:
            machine.console.expect(*texts, within=60)
        self.assertIn("within 60 s", str(late.exception))

    def test_a_flipped_bit_in_the_boot_file_is_refused_by_the_firmware(self):
        machine, disk, folder = self.machine("boot-file")
        boot = Boot(disk, folder)
        begin, size = boot.section(".linux")
        flip(boot.file, begin + size // 2)
        boot.put(boot.file)
        self.refused_by_firmware(machine)

    def test_another_command_line_in_the_boot_file_is_refused_by_the_firmware(self):
        machine, disk, folder = self.machine("command-line")
        boot = Boot(disk, folder)
        begin, size = boot.section(".cmdline")
        with open(boot.file, "r+b") as file:
            file.seek(begin)
            line = file.read(size)
            self.assertIn(b"lockdown=integrity", line)
            file.seek(begin)
            file.write(line.replace(b"lockdown=integrity", b"init=/usr/bin/init2", 1)[:size])
        boot.put(boot.file)
        self.refused_by_firmware(machine)

    def test_a_command_line_that_lies_beside_the_boot_file_is_not_taken(self):
        machine, disk, folder = self.machine("beside")
        boot = Boot(disk, folder)
        entry, loader = folder / "beside.conf", folder / "loader.conf"
        entry.write_text(f"title What lies beside\nefi {boot.name.removeprefix('::')}\noptions systemd.unit=emergency.target\n")
        loader.write_text("default beside.conf\ntimeout 3\n")
        subprocess.run(["mmd", "-D", "s", "-i", boot.place, "::/loader/entries"], capture_output=True)
        run("mcopy", "-o", "-i", boot.place, entry, "::/loader/entries/beside.conf")
        run("mcopy", "-o", "-i", boot.place, loader, "::/loader/loader.conf")
        machine.start()
        # The boot loader would; the boot file takes its own only.
        machine.console.expect("What lies beside", within=120)
        machine.console.expect("Mounted Data volume", within=240, refuse=["mergency"])

    def test_no_key_chooses_what_starts_once_the_first_boot_is_over(self):
        machine, _, _ = self.machine("menu")
        menu = "Reboot Into Firmware"
        machine.start()
        with machine.held(" "):
            machine.console.expect(menu, within=120)
        machine.type("\r")
        machine.console.expect("Finished What this start has changed in its boot partition", within=300)
        machine.off()
        machine.start()
        with machine.held(" "):
            machine.console.expect("Mounted Data volume", within=240, refuse=[menu])

    def test_a_boot_file_that_somebody_else_has_signed_is_refused_by_the_firmware(self):
        machine, disk, folder = self.machine("foreign")
        boot = Boot(disk, folder)
        run("openssl", "req", "-new", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "10", "-subj", "/CN=somebody else/",
            "-keyout", folder / "foreign.key", "-out", folder / "foreign.crt")
        bare, foreign = folder / "bare.efi", folder / "foreign.efi"
        shutil.copy(boot.file, bare)
        run("sbattach", "--remove", bare)
        run("sbsign", "--key", folder / "foreign.key", "--cert", folder / "foreign.crt", "--output", foreign, bare)
        boot.put(foreign)
        self.refused_by_firmware(machine)

    def test_a_flipped_bit_in_the_root_is_found_when_it_is_read(self):
        machine, disk, _ = self.machine("root")
        root = partitions(disk)[1]
        used = int(run("du", "--block-size=1M", BUILD / "root.raw").stdout.split()[0])
        # One in each MiB: which of them is read first is no business of a test.
        for place in range(4, used - 1):
            flip(disk, root["start"] * SECTOR + place * MIB + 4096)
        machine.start()
        machine.console.expect("is corrupted", within=240, refuse=["Mounted Data volume"])
        # The kernel starts the machine again; nothing runs on from what is not as it was signed.
        machine.console.expect("BdsDxe: starting", "Restarting system", "reboot: Restarting", within=240, refuse=["Mounted Data volume"])

    def test_an_older_copy_of_the_disk_beside_it_is_neither_written_nor_believed(self):
        network()
        folder = SCRATCH / "sabotage/copy"
        shutil.rmtree(folder, ignore_errors=True)
        owner = Owner(folder / "owner", BUILD / "bin", deadline=1800, configuration=BUILD / "image/postkeep.toml")
        machine = Machine(folder / "machine", KEYS, network=TAP)
        self.addCleanup(machine.off)
        write_seed(machine.insert(BUILD / "image.raw"), owner.seed())
        machine.start()
        machine.console.expect(READY, within=240)
        owner.publish(machine.console.text)
        machine.cut_power()
        # The kernel finds it first, and the TPM would open its volume.
        aside, copy = folder / "aside.raw", machine.state / "disk-old.raw"
        run("cp", "--sparse=always", "--reflink=auto", machine.state / "disk.raw", aside)
        machine.start()
        machine.console.expect(READY, within=240)
        owner.manage("suppression", "add", "gone@example.org", "--reason", "manual")
        machine.off()
        aside.rename(copy)
        written = copy.stat().st_mtime_ns
        machine.start()
        machine.console.expect("are copies of one disk", within=240, refuse=["Mounted Data volume"])
        machine.off()
        self.assertEqual(copy.stat().st_mtime_ns, written)
        copy.unlink()
        machine.start()
        machine.console.expect(READY, within=240)
        self.assertIn("manual", owner.manage("suppression", "show", "gone@example.org").stdout)

    def with_a_volume_of_somebody_else(self, name, token=None):
        """A machine whose disk has what its first boot would have made, with a data volume that somebody knows a passphrase of."""
        machine, disk, folder = self.machine(name)
        # The slots and the volume that the first boot would make, with the names that it would give them.
        b = [f"size={one['size']}, type={one['type']}, name=_empty" for one in partitions(disk)[1:4]]
        run("sfdisk", "--quiet", "--relocate", "gpt-bak-std", disk)
        table = "\n".join([*b, "type=linux, name=postkeep-data"]) + "\n"
        run("sfdisk", "--quiet", "--append", disk, input=table.encode())
        volume = folder / "volume"
        run("truncate", "--size", "64M", volume)
        run("cryptsetup", "luksFormat", "--batch-mode", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file", "-", volume, input=b"known to somebody")
        if token:
            run("cryptsetup", "token", "import", "--json-file", token, volume)
        run("dd", f"if={volume}", f"of={disk}", "bs=1M", "conv=notrunc", "oflag=seek_bytes", f"seek={partitions(disk)[-1]['start'] * SECTOR}", "count=17")
        run("mdel", "-i", f"{disk}@@1M", "::/postkeep/first-boot")
        machine.start()
        return machine

    def does_not_open(self, machine):
        """Whoever has brought it along knows its passphrase, and is not asked."""
        machine.type("known to somebody\r")
        self.stays_away(machine, READY, "Mounted Data volume", "enter passphrase")

    def test_a_data_volume_of_somebody_else_is_not_opened(self):
        machine = self.with_a_volume_of_somebody_else("data")
        machine.console.expect("the data volume is not sealed to a TPM", within=240, refuse=[READY, "enter passphrase"])
        self.does_not_open(machine)

    def test_a_data_volume_that_another_machine_s_tpm_opens_is_not_opened(self):
        machine = self.with_a_volume_of_somebody_else("data-foreign", token=FOREIGN)
        machine.console.expect("Dependency failed for Data volume", within=240, refuse=[READY, "enter passphrase"])
        self.does_not_open(machine)


if __name__ == "__main__":
    unittest.main(verbosity=2)
