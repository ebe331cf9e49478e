"""The whole way, as on a server: firmware with our keys, TPM, verified root, data volume, mail out of the machine."""

import pathlib
import shutil
import unittest

from machine import Machine
from stage import TAP, Owner, network, write_seed

BUILD = pathlib.Path("/build")
IMAGE = BUILD / "image.raw"
KEYS = BUILD / "keys"
SCRATCH = BUILD / "scratch"


class TrustedBoot(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        network()

    def test_mail_is_sent_and_the_second_boot_finds_the_spool(self):
        folder = SCRATCH / "trusted"
        shutil.rmtree(folder, ignore_errors=True)
        owner = Owner(folder / "owner", BUILD / "bin", deadline=1800, configuration=BUILD / "image/postkeep.toml")
        with Machine(folder / "machine", KEYS, network=TAP) as machine:
            write_seed(machine.insert(IMAGE), owner.seed())
            machine.start()
            machine.console.expect("UEFI Secure Boot is enabled", within=120)
            machine.console.expect("Reached target Postkeep takes mail", within=240, refuse=["Access denied", "is corrupted", "[FAILED]"])
            owner.publish(machine.console.text)
            owner.open_internet()
            try:
                sent = [owner.submit(number) for number in range(5)]
                arrived = owner.wait_for(sent)
                self.assertEqual({one["dkim"] for one in arrived}, {"verified"}, arrived)
                self.assertEqual({one["from"] for one in arrived} - {"10.1.0.1", "10.1.0.2"}, set())
            finally:
                owner.close_internet()
            # Nobody answers now: what is accepted stays in the spool.
            left = [owner.submit(number) for number in range(5, 10)]
            machine.cut_power()

            machine.start()
            machine.console.expect("Reached target Postkeep takes mail", within=240, refuse=["first boot, TPM", "publish ", "[FAILED]"])
            # The screen is there on a serial line with nobody at its other end to answer its questions.
            machine.console.expect("fingerprint", within=120)
            owner.open_internet()
            try:
                owner.wait_for(left, within=180)
            finally:
                owner.close_internet()


if __name__ == "__main__":
    unittest.main(verbosity=2)
