"""A box with two disks: flashed by the flasher as from a rescue system, it loses one while it runs, starts with either alone,
fills the one that comes back and a new one, and is updated. What was accepted meanwhile is delivered."""

import contextlib
import json
import pathlib
import shutil
import subprocess
import time
import unittest

from custodians import GIVEN, UNATTESTED, Custodians, door
from machine import LUKS, Machine, luks_json, partitions
from stage import TAP, Owner, network, run

BUILD = pathlib.Path("/build")
KEYS = BUILD / "keys"
SCRATCH = BUILD / "scratch"
RELEASE = BUILD / "releases/first"
NEXT = BUILD / "releases/next"
BOOT = 300
READY = "Reached target Postkeep takes mail"
# A machine as the flasher's inventory has to find it, since this one was not started by UEFI.
RESCUE = {"sys/firmware/efi/fw_platform_size": "64\n", "sys/class/dmi/id/product_serial": "RACK-1\n", "proc/meminfo": "MemTotal: 16384000 kB\n"}


def luks(disk):
    """The sums of the key of the volume in the LUKS2 header on the half of the mirror that a disk has (LUKS2 On-Disk Format Specification
    1.1.1, 3.5); nothing, where there is none yet."""
    half = next((one for one in partitions(disk) if one.get("name") == "postkeep-mirror"), None)
    if half is None:
        return None
    with open(disk, "rb") as file:
        file.seek(half["start"] * 512)
        octets = file.read(32 << 20)
    at = octets.find(LUKS)
    if at < 0:
        return None
    try:
        return luks_json(octets[at:])["digests"]
    except ValueError:
        # Half written.
        return None


class Mirror(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        network()

    def flash(self, machine, seed, folder):
        for path, text in RESCUE.items():
            file = folder / "rescue" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        for name in ("disk0.raw", "disk1.raw"):
            # Room for a release while it is unpacked.
            machine.blank(name, size="16G")
        [image] = (file for file in RELEASE.glob("*.raw.zst") if ".root" not in file.name)
        command = [BUILD / "bin/postkeep-flash", "--root", folder / "rescue", "--json", "write", "--image", image,
                   "--release", RELEASE / "release.note", "--release-key", KEYS / "release.pub", "--seed", seed,
                   # Beside the image, where it is by default, it is that of whoever else flashes this image.
                   "--state", folder / "flash-state"]
        for disk in machine.disks():
            command += ["--disk", disk, "--yes-erase", disk.name]
        run(*command)

    def disks(self, owner):
        return json.loads(owner.manage("system", "show", "--json").stdout)["disks"]

    def boot_files(self, disk):
        """As they are on the disk at the moment; the machine may be writing."""
        done = subprocess.run(["mdir", "-b", "-i", f"{disk}@@1M", "::/EFI/Linux"], capture_output=True, text=True)
        return [line.rsplit("/")[-1] for line in done.stdout.split()]

    def wait_until_whole(self, owner, within=900):
        deadline = time.monotonic() + within
        while (disks := self.disks(owner))["mirror"] != {"state": "whole"}:
            self.assertLess(time.monotonic(), deadline, disks)
            time.sleep(2)

    def start(self, machine, *without):
        """Power on, without the disks of these names."""
        for name in without:
            (machine.state / f"{name}.raw").rename(machine.state / f"{name}.out")
        machine.start()
        try:
            machine.console.expect(READY, within=BOOT)
        finally:
            for name in without:
                (machine.state / f"{name}.out").rename(machine.state / f"{name}.raw")

    @contextlib.contextmanager
    def box(self, name):
        """A box that was flashed onto two disks and has started: its folder, its owner, the machine."""
        folder = SCRATCH / name
        shutil.rmtree(folder, ignore_errors=True)
        owner = Owner(folder / "owner", BUILD / "bin", deadline=7200, configuration=BUILD / "image/postkeep.toml")
        with Machine(folder / "machine", KEYS, network=TAP) as machine:
            self.flash(machine, owner.seed(), folder)
            self.start(machine)
            owner.publish(machine.console.text)
            yield folder, owner, machine

    def arrive(self, owner, accepted):
        owner.open_internet()
        try:
            owner.wait_for(accepted, within=300)
        finally:
            owner.close_internet()

    def update(self, owner, machine):
        """Installs the next version, and waits until it runs."""
        owner.manage("update", "apply", NEXT / "release.note", within=900)
        wanted = (NEXT / "version").read_text()
        deadline = time.monotonic() + 2 * BOOT
        while owner.running() != wanted:
            self.assertLess(time.monotonic(), deadline, machine.console.text[-2000:])
            time.sleep(2)
        return wanted

    def proved_itself(self, machine, version):
        """Both boot partitions know."""
        deadline = time.monotonic() + BOOT
        for disk in machine.disks():
            while f"postkeep_{version}.efi" not in self.boot_files(disk):
                self.assertLess(time.monotonic(), deadline, self.boot_files(disk))
                time.sleep(2)

    def test_its_custodians_open_it_with_either_disk_after_a_first_boot_that_was_cut(self):
        """On a machine without a TPM: it has no say in what custodians open, and nobody is asked for a passphrase."""
        folder = SCRATCH / "mirror-custody"
        shutil.rmtree(folder, ignore_errors=True)
        owner = Owner(folder / "owner", BUILD / "bin", deadline=7200, configuration=BUILD / "image/postkeep.toml")
        custodians = Custodians(folder / "custodians", BUILD / "bin")
        asked = ["passphrase", "[FAILED]"]
        with Machine(folder / "machine", KEYS, tpm=False, network=TAP) as machine:
            self.flash(machine, owner.seed(keys=custodians.of_seed()), folder)
            # A volume is made, and before it is anybody's the power goes: nothing opens it.
            machine.start()
            deadline = time.monotonic() + BOOT
            while not (first := luks(machine.disks()[0])):
                self.assertLess(time.monotonic(), deadline, machine.console.text[-2000:])
                time.sleep(0.2)
            machine.cut_power()
            self.assertNotIn(GIVEN, machine.console.text)
            machine.start()
            machine.console.expect(GIVEN, within=BOOT, refuse=asked)
            machine.console.expect(READY, within=BOOT, refuse=asked)
            self.assertNotEqual(luks(machine.disks()[0]), first, "it was not made anew")
            owner.publish(machine.console.text)
            custodians.reach("token", door(machine, " OPEN"), "--out", custodians.token)
            accepted = [owner.submit(number) for number in range(3)]
            # The disk that it was started from is pulled out, and its boot partition with it: mail goes on.
            machine.pull_out(0)
            machine.screen.see("ONE OF TWO DISKS IS MISSING", " OPEN")
            accepted.append(owner.submit(3))
            machine.cut_power()
            # The other one has the token too.
            (machine.state / "disk0.raw").rename(machine.state / "disk0.out")
            machine.start()
            machine.console.expect("postkeep: sealed: postkeep-offer-1:", within=BOOT, refuse=asked)
            custodians.unseal(["anna", "cleo"], door(machine, " SEALED"), "a disk is missing", UNATTESTED)
            machine.console.expect(READY, within=BOOT, refuse=asked)
            self.arrive(owner, accepted)

    def test_either_disk_may_go_and_come_back(self):
        with self.box("mirror") as (folder, owner, machine):
            whole = self.disks(owner)
            self.assertEqual(whole["mirror"], {"state": "whole"})
            self.assertEqual([(disk["system"], disk["data"]) for disk in whole["disks"]], [(True, True)] * 2)

            # The disk that it was started from is pulled out while it runs.
            accepted = [owner.submit(1)]
            machine.pull_out(0)
            machine.console.expect("ONE OF TWO DISKS IS MISSING OR HAS FAILED", within=120)
            accepted += [owner.submit(number) for number in (2, 3)]
            self.assertEqual([disk["data"] for disk in self.disks(owner)["disks"] if disk["data"]], [True])
            self.assertIn('"queue"', owner.manage("health", "--json").stdout)
            machine.cut_power()

            # It starts with the other alone.
            self.start(machine, "disk0")
            self.assertEqual(self.disks(owner)["mirror"], {"state": "degraded"})
            accepted.append(owner.submit(4))
            machine.cut_power()

            # The first comes back, and is behind: it is filled, and not believed. Beside it a stick that wants to be: the public
            # image, which begins like a box that starts for the first time, with a count that no box reaches.
            stick = machine.insert(BUILD / "image.raw", name="disk9.raw")
            mark = folder / "mark"
            mark.write_text("18446744073709551615")
            run("mcopy", "-i", f"{stick}@@1M", mark, "::/postkeep/mirror")
            self.start(machine)
            self.assertIn("is behind and is filled again", machine.console.text)
            self.assertIn("vda had been away; its boot partition is taken from vdb", machine.console.text)
            self.wait_until_whole(owner)
            self.assertEqual([disk["serial"] for disk in self.disks(owner)["disks"]], ["disk0", "disk1"])
            accepted.append(owner.submit(5))
            machine.cut_power()
            kept = run("mdir", "-b", "-i", f"{stick}@@1M", "::/postkeep")
            self.assertEqual(sorted(line.rsplit("/")[-1] for line in kept.split()), ["first-boot", "mirror"], "the stick was written")
            stick.unlink()

            # It starts with the first alone, which has all that was accepted without it.
            self.start(machine, "disk1")
            self.assertEqual(self.disks(owner)["mirror"], {"state": "degraded"})
            accepted.append(owner.submit(6))
            machine.cut_power()

            # A new disk takes the place of the second; the box fills it, and starts with it alone.
            (machine.state / "disk1.raw").unlink()
            new = machine.blank("disk2.raw", size="16G")
            run(BUILD / "bin/postkeep-flash", "--root", folder / "rescue", "replace", "--left", machine.state / "disk0.raw", "--disk", new, "--yes-erase", new.name)
            self.start(machine)
            self.wait_until_whole(owner)
            accepted.append(owner.submit(7))
            machine.cut_power()
            self.start(machine, "disk0")
            self.assertEqual([disk["serial"] for disk in self.disks(owner)["disks"]], ["disk2"])
            self.arrive(owner, accepted)

    def test_an_update_goes_onto_both_and_either_starts_it(self):
        with self.box("mirror-update") as (_, owner, machine):
            accepted = [owner.submit(1)]
            wanted = self.update(owner, machine)
            self.proved_itself(machine, wanted)
            self.wait_until_whole(owner)
            machine.cut_power()
            self.start(machine, "disk0")
            self.assertEqual((owner.running(), self.disks(owner)["mirror"]), (wanted, {"state": "degraded"}))
            self.arrive(owner, accepted)

    def test_an_update_while_one_disk_is_away_is_told_when_it_comes_back_and_repeated_for_it(self):
        with self.box("mirror-away") as (_, owner, machine):
            before = owner.running()
            machine.cut_power()
            self.start(machine, "disk0")
            accepted = [owner.submit(1)]
            # The updater restarts the machine; the disk that is away stays away.
            wanted = self.update(owner, machine)
            accepted.append(owner.submit(2))
            machine.cut_power()

            # The firmware starts the disk that had been away. It has the version before, which reads what the newer one wrote, and
            # its half of the data is filled from the other.
            self.start(machine)
            machine.console.expect(f"this start of {before} is good", within=BOOT)
            self.assertIn(f"vda has no slot with postkeep_{wanted}; it starts an older version until a newer one is installed", machine.console.text)
            self.assertIn("vda8 is behind and is filled again", machine.console.text)
            self.wait_until_whole(owner)
            accepted.append(owner.submit(3))
            # The same release once more: now both have it.
            self.assertEqual(self.update(owner, machine), wanted)
            self.proved_itself(machine, wanted)
            self.wait_until_whole(owner)
            machine.cut_power()
            self.start(machine, "disk1")
            self.assertEqual((owner.running(), self.disks(owner)["mirror"]), (wanted, {"state": "degraded"}))
            self.arrive(owner, accepted)


if __name__ == "__main__":
    unittest.main(verbosity=2)
