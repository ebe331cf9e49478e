"""Machines whose firmware lets everything start: what the box says of itself there, and that what was sealed elsewhere stays shut."""

import json
import pathlib
import shutil
import time
import unittest

from heard import TimeUp
from machine import Machine
from stage import TAP, Owner, network, write_seed

BUILD = pathlib.Path("/build")
SCRATCH = BUILD / "scratch/posture"
TAKES_MAIL = "Reached target Postkeep takes mail"


class WithoutSecureBoot(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        network()

    def machine(self, name, **more):
        machine = Machine(SCRATCH / name, BUILD / "keys", network=TAP, **more)
        self.addCleanup(machine.off)
        return machine

    def setUp(self):
        shutil.rmtree(SCRATCH, ignore_errors=True)
        self.owner = Owner(SCRATCH / "owner", BUILD / "bin", deadline=1800, configuration=BUILD / "image/postkeep.toml")

    def posture(self):
        return json.loads(self.owner.manage("system", "show", "--json").stdout)["posture"]

    def test_a_machine_without_it_is_a_d_for_good_and_opens_nothing_that_was_sealed_with_it(self):
        machine = self.machine("box")
        write_seed(machine.insert(BUILD / "image.raw"), self.owner.seed())
        machine.start()
        machine.console.expect(TAKES_MAIL, within=240)
        self.owner.publish(machine.console.text)
        self.assertEqual(self.posture()["grade"], "A")
        machine.cut_power()

        # The same disk and the same TPM; somebody has switched Secure Boot off.
        (machine.state / "variables.fd").unlink()
        machine.secure_boot = False
        machine.start()
        machine.console.expect("Failed to unseal secret using TPM2", within=240, refuse=[TAKES_MAIL, "enter passphrase"])
        machine.console.expect("Dependency failed for Data volume", within=120, refuse=[TAKES_MAIL, "enter passphrase"])
        with self.assertRaises(TimeUp) as late:
            machine.console.expect(TAKES_MAIL, "Mounted Data volume", "enter passphrase", within=60)
        self.assertIn("within 60 s", str(late.exception))
        machine.off()

        # A machine that never had it: mail goes, and nobody is told that it is more than it is.
        other = self.machine("other", secure_boot=False, devices=["-device", "VGA"])
        write_seed(other.insert(BUILD / "image.raw"), self.owner.seed())
        other.start()
        other.console.expect(TAKES_MAIL, within=240, refuse=["UEFI Secure Boot is enabled"])
        self.owner.publish(other.console.text)
        posture = self.posture()
        self.assertEqual(posture["grade"], "D")
        self.assertIn("Secure Boot", posture["sentences"][0]["seen"])
        other.screen.see("Posture   D:", within=120)
        # The same on a screen, for who has no serial port.
        deadline = time.monotonic() + 120
        while not other.look().shows("Posture   D:", "Machine   ", "State     open", "Network   ", "Mail ", "Owner ", "Secure Boot"):
            self.assertLess(time.monotonic(), deadline, f"the picture is {other.state}/screen.ppm")
            time.sleep(5)


if __name__ == "__main__":
    unittest.main(verbosity=2)
