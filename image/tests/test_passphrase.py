"""A machine without a TPM: who is asked for the passphrase of the data volume, when, and what a slip does. Firmware, disk
and serial line as on a server; the keys are typed by the test, and the owner answers outside.
"""

import shutil
import time
import unittest

from machine import Machine, volume_header
from stage import TAP, Owner, network, run, write_seed

BUILD = "/build"
SCRATCH = f"{BUILD}/scratch/passphrase"
PASSPHRASE = "correct horse battery staple"
CHOOSE = "Choose a passphrase for the data volume (12 characters at least):"
AGAIN = "The same passphrase again"
# systemd's words, at each start.
ASKED = "Please enter passphrase for disk"
REFUSED = "Passphrase incorrect"
TAKES_MAIL = "Reached target Postkeep takes mail"
# The end of each question: what is typed earlier would be seen on the screen.
READY = "(press TAB for no echo)"
# systemd puts the question, then sees to it that what is typed is not shown. A person needs longer to begin.
BEGINS = 2
MENU = "[f] fingerprint"


class WithoutTpm(unittest.TestCase):
    def setUp(self):
        network()
        shutil.rmtree(SCRATCH, ignore_errors=True)
        self.owner = Owner(f"{SCRATCH}/owner", f"{BUILD}/bin", deadline=1800, configuration=f"{BUILD}/image/postkeep.toml")

    def allow(self, machine, key, deed):
        """Chooses from the menu of the screen, and types what the owner answers."""
        machine.screen.press(key)
        machine.screen.see("Challenge:", deed, "s left")
        answer = run(f"{BUILD}/bin/postkeep", "console", "answer", "--key", self.owner.key, "--yes", machine.screen.challenge())
        machine.screen.press(answer.strip() + "\r")

    def answer(self, machine, text):
        machine.console.expect(READY, within=60)
        time.sleep(BEGINS)
        machine.type(text + "\r")

    def test_it_is_chosen_at_the_first_start_and_asked_for_at_the_others(self):
        with Machine(f"{SCRATCH}/machine", f"{BUILD}/keys", tpm=False, network=TAP) as machine:
            disk = machine.insert(f"{BUILD}/image.raw")
            write_seed(disk, self.owner.seed())
            machine.start()
            machine.console.expect("UEFI Secure Boot is enabled", within=120)
            # Chosen, with slips; each is told.
            machine.console.expect(CHOOSE, within=240, refuse=[ASKED])
            self.answer(machine, "too short")
            machine.console.expect("That was too short (9 characters).", CHOOSE, within=60)
            self.answer(machine, PASSPHRASE)
            machine.console.expect(AGAIN, within=60)
            self.answer(machine, PASSPHRASE + "!")
            machine.console.expect("The two were not the same.", within=60)
            # systemd waits 90 seconds for a disk; a person who thinks for longer must not end up with a box without one.
            # Nothing is said meanwhile: systemd is silent as long as somebody is asked.
            time.sleep(100)
            self.answer(machine, PASSPHRASE)
            machine.console.expect(AGAIN, within=60)
            self.answer(machine, PASSPHRASE)
            machine.console.expect(TAKES_MAIL, within=300)
            self.assertNotIn(PASSPHRASE, machine.console.text)
            machine.screen.see(MENU, "box.owner.example", "OPEN", "Posture   C: nothing can be proved from afar. There is no TPM 2.0.", "Failed    nothing", without=["Not read"])
            self.owner.publish(machine.console.text)
            left = [self.owner.submit(number) for number in range(3)]
            self.allow(machine, "o", "do: stop mail and switch this machine off")
            machine.wait_off(within=180)

            # Only what was typed opens it, and as slowly as LUKS2 can make it.
            slots = volume_header(disk)["keyslots"].values()
            self.assertEqual([slot["kdf"]["type"] for slot in slots], ["argon2id"])

            machine.start()
            machine.console.expect(ASKED, within=240, refuse=[CHOOSE])
            self.answer(machine, "a wrong one, well typed")
            machine.console.expect(REFUSED, within=120)
            machine.console.expect(ASKED, within=60)
            self.answer(machine, PASSPHRASE)
            machine.console.expect(TAKES_MAIL, within=300, refuse=[REFUSED, CHOOSE, "publish "])
            self.assertNotIn("well typed", machine.console.text)
            self.owner.open_internet()
            try:
                self.owner.wait_for(left, within=180)
            finally:
                self.owner.close_internet()

            # Sealed: the kernel has given the device back, and its key with it.
            machine.screen.see(MENU, "OPEN", "[s] seal")
            self.allow(machine, "s", "do: stop mail and seal this machine")
            machine.screen.see(MENU, " SEALED", "State     sealed: the data volume is closed", "Failed    nothing", without=["NOT SEALED"])


if __name__ == "__main__":
    unittest.main(verbosity=2)
