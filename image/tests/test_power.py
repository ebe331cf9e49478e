"""The plug is pulled at random moments: of the first boot, of mail, of an update. What was accepted is delivered, and the
box comes up. The number of cuts may be given (CUTS), and the seed of the moments (SEED), which is printed."""

import os
import pathlib
import random
import shutil
import smtplib
import threading
import time
import unittest

from machine import Machine
from stage import TAP, Owner, network, write_seed

BUILD = pathlib.Path("/build")
KEYS = BUILD / "keys"
SCRATCH = BUILD / "scratch"
RELEASES = BUILD / "releases"
CUTS = int(os.environ.get("CUTS", "20"))
SEED = int(os.environ.get("SEED", time.time()))
BOOT = 300
READY = "Reached target Postkeep takes mail"


class Power(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        network()

    def test_what_was_accepted_survives_every_cut_and_the_box_comes_up(self):
        print(f"CUTS={CUTS} SEED={SEED}")
        chance = random.Random(SEED)
        folder = SCRATCH / "power"
        shutil.rmtree(folder, ignore_errors=True)
        owner = Owner(folder / "owner", BUILD / "bin", deadline=7200, configuration=BUILD / "image/postkeep.toml")
        in_first_boot = max(1, CUTS // 4)
        in_update = max(1, CUTS // 4)
        in_mail = CUTS - in_first_boot - in_update
        accepted = []
        with Machine(folder / "machine", KEYS, network=TAP) as machine:
            write_seed(machine.insert(BUILD / "image.raw", size="12G"), owner.seed())
            said = ""
            for _ in range(in_first_boot):
                machine.start()
                time.sleep(chance.uniform(15, 100))
                said += machine.console.text
                machine.cut_power()
            machine.start()
            machine.console.expect(READY, within=BOOT)
            # Keys are said once, when they are made: in whichever boot that was.
            owner.publish(said + machine.console.text)

            for number in range(in_mail):
                self.feed(owner, machine, accepted, number, chance.uniform(1, 20))
                machine.start()
                machine.console.expect(READY, within=BOOT)

            for _ in range(in_update):
                applying = threading.Thread(
                    target=owner.manage, args=("update", "apply", RELEASES / "next/release.note"), kwargs={"check": False, "within": 900})
                applying.start()
                time.sleep(chance.uniform(5, 180))
                machine.cut_power()
                machine.start()
                machine.console.expect(READY, within=2 * BOOT)
                applying.join()
            owner.manage("update", "apply", RELEASES / "next/release.note", check=False, within=900)
            deadline = time.monotonic() + 2 * BOOT
            wanted = (RELEASES / "next/version").read_text()
            while (running := owner.running()) != wanted:
                self.assertLess(time.monotonic(), deadline, f"{running} runs, not {wanted}: {machine.console.text[-2000:]}")
                time.sleep(2)
            owner.open_internet()
            try:
                owner.wait_for(accepted, within=600)
            finally:
                owner.close_internet()
        print(f"{CUTS} cuts, {len(accepted)} messages accepted, none lost")

    def feed(self, owner, machine, accepted, number, seconds):
        """Submits until the plug is pulled; only what was answered 250 counts."""
        cut = threading.Timer(seconds, machine.cut_power)
        cut.start()
        count = 0
        while cut.is_alive():
            try:
                accepted.append(owner.submit(number * 1000 + count))
                count += 1
            except (OSError, smtplib.SMTPException):
                break
        cut.join()


if __name__ == "__main__":
    unittest.main(verbosity=2)
