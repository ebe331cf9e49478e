"""The installer's medium: started from a stick and from a CD, by firmware that asks for our signature; somebody answers its questions at
the serial port, and the box starts from the disk that was named, and from no other."""

import pathlib
import shutil
import unittest

from machine import Machine
from stage import TAP, Owner, network

BUILD = pathlib.Path("/build")
KEYS = BUILD / "keys"
SCRATCH = BUILD / "scratch"
MEDIUM = BUILD / "installer/installer.iso"
ENTER = "\r"
READY = "Reached target Postkeep takes mail"
STICK = ("-drive", f"if=none,id=medium,format=raw,readonly=on,file={MEDIUM}", "-device", "qemu-xhci",
         "-device", "usb-storage,drive=medium,bootindex=0")
DISC = ("-drive", f"if=none,id=medium,media=cdrom,format=raw,readonly=on,file={MEDIUM}", "-device", "ide-cd,drive=medium,bootindex=0")


class Installer(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        network()

    def machine(self, name, medium, disks):
        folder = SCRATCH / "installer" / name
        shutil.rmtree(folder, ignore_errors=True)
        machine = Machine(folder / "machine", KEYS, network=TAP, devices=medium)
        self.addCleanup(machine.off)
        for disk in disks:
            machine.blank(disk)
        return machine, folder

    def test_a_stick_installs_to_the_disk_that_was_named_and_the_box_takes_mail(self):
        machine, folder = self.machine("stick", STICK, ("disk0.raw", "disk1.raw"))
        owner = Owner(folder / "owner", BUILD / "bin", configuration=BUILD / "image/postkeep.toml")
        # The seed is on another stick, so that one medium serves for many boxes.
        stick = machine.stick("BOX_SEED", {"box.seed": owner.seed()})
        machine.devices = (*STICK, "-drive", f"if=none,id=seed,format=raw,file={stick}", "-device", "usb-storage,drive=seed")
        machine.start()
        # The installer waits for a second stick for a while, since most have none; a slow machine finds it only when it is asked again.
        if machine.console.expect("Type the serial number", "there is no seed: put box.seed on a stick", within=300).startswith("there"):
            machine.type(ENTER)
            machine.console.expect("Type the serial number", within=300)
        machine.type("disk7" + ENTER)
        machine.console.expect("These are not the serial numbers", within=30)
        machine.type("disk1" + ENTER)
        machine.console.expect("Does this machine ask its provider's network boot first", within=30)
        machine.type("no" + ENTER)
        machine.console.expect("Type yes to go on", within=300)
        self.assertIn("owner.example/box", machine.console.text)
        machine.type("yes" + ENTER)
        machine.console.expect("Flashed; keep this record", within=600)
        machine.type(ENTER)
        machine.console.expect("reboot: Restarting system", within=120)
        machine.cut_power()
        self.assertEqual(machine.first_octets("disk0.raw", 1 << 20), bytes(1 << 20), "the other disk was written")

        (machine.state / "disk0.raw").unlink()
        machine.devices = ()
        machine.start()
        machine.console.expect(READY, within=300)
        owner.publish(machine.console.text)
        machine.off()

    def test_a_disc_without_a_seed_says_what_is_missing_and_writes_nothing(self):
        machine, _ = self.machine("disc", DISC, ("disk0.raw",))
        machine.start()
        machine.console.expect("there is no seed: put box.seed on a stick", within=300)
        machine.type(ENTER)
        machine.console.expect("Postkeep installer", within=60)
        machine.off()
        self.assertEqual(machine.first_octets("disk0.raw", 1 << 20), bytes(1 << 20))


if __name__ == "__main__":
    unittest.main(verbosity=2)
