"""A box that its custodians open, as on a server: firmware, disk, serial line, and three people elsewhere with a key each. The disk is
searched for what must not be on it, as somebody would who has taken it away.
"""

import json
import mmap
import re
import shutil
import socket
import subprocess
import unittest

from machine import Machine, volume_header
from stage import BOX, TAP, Owner, network, toml, write_seed

BUILD = "/build"
SCRATCH = f"{BUILD}/scratch/custody"
KEYS = f"{BUILD}/bin/postkeep-keys"
DOOR = f"{BOX}:8444"
TAKES_MAIL = "Reached target Postkeep takes mail"
GIVEN = "from now on 2 of 3 custodians open this box"
NAMES = ("anna", "ben", "cleo")
MENU = "[f] fingerprint"
# What of the box is worth something: whom it writes to, what, and with which key it signs.
RECIPIENT = "canary-7f3e@gmail.test"
SECRETS = (RECIPIENT.encode(), b"canary-7f3e", b"PRIVATE KEY-----")


def found(file, *texts):
    """Which of the texts stand in a file, anywhere."""
    with open(file, "rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as octets:
        return [text for text in texts if octets.find(text) >= 0]


class Custody(unittest.TestCase):
    def setUp(self):
        network()
        shutil.rmtree(SCRATCH, ignore_errors=True)
        self.owner = Owner(f"{SCRATCH}/owner", f"{BUILD}/bin", deadline=1800, configuration=f"{BUILD}/image/postkeep.toml")
        self.token = f"{SCRATCH}/box.token"

    def key(self, name):
        return f"{SCRATCH}/{name}.key"

    def keys(self, *command, check=True, typed=None):
        """The custodians' program, on their own machine."""
        return subprocess.run([KEYS, *command], check=check, capture_output=True, text=True, timeout=120, input=typed)

    def set_of_keys(self):
        """As the owner writes it into the seed, from the public halves that the custodians have sent."""
        lines = ["[keys]", "threshold = 2"]
        for name in NAMES:
            recipient = self.keys("generate", "--out", self.key(name)).stdout.strip()
            lines += ["[[keys.custodian]]", f"name = {toml(name)}", f"recipients = [{toml(recipient)}]"]
        return lines

    def door(self, machine, *texts):
        """The sum of the door's certificate, read off the screen."""
        shown = machine.screen.see(MENU, "Seal", "Door", *texts)
        return re.search(r"^Door +([0-9a-f]{64})$", shown, re.M).group(1)

    def reach(self, verb, certificate, *more, check=True):
        return self.keys(verb, "--box", DOOR, "--certificate", certificate, "--json", *more, check=check)

    def as_custodian(self, verb, name, certificate, *more, check=True):
        return self.reach(verb, certificate, "--token", self.token, "--identity", self.key(name), *more, check=check)

    def state(self, certificate):
        return json.loads(self.reach("state", certificate).stdout)["state"]

    def test_two_of_three_open_it_and_one_seals_it(self):
        with Machine(f"{SCRATCH}/machine", f"{BUILD}/keys", network=TAP) as machine:
            disk = machine.insert(f"{BUILD}/image.raw")
            write_seed(disk, self.owner.seed(keys=self.set_of_keys()))
            machine.start()
            machine.console.expect(GIVEN, within=300, refuse=["[FAILED]"])
            machine.console.expect(TAKES_MAIL, within=300, refuse=["[FAILED]"])
            certificate = self.door(machine, " OPEN", "3 of 3 have not proved lately")
            # Enrolment: each has the token, and shows that they can read their share of it.
            self.reach("token", certificate, "--out", self.token)
            for name in NAMES:
                self.as_custodian("prove", name, certificate, "--name", name)
            machine.screen.see(MENU, "opened by its custodians", without=["have not proved"])
            self.owner.publish(machine.console.text)
            left = [self.owner.submit(number, recipient=RECIPIENT) for number in range(3)]
            machine.cut_power()

            # Nobody else has a slot: not the key that it was made with, not a passphrase, not the TPM.
            header = volume_header(disk)
            self.assertEqual((sorted(header["keyslots"]), header["tokens"]), (["1"], {}))
            # Whoever takes the disk finds nothing of it; and whoever searches finds what is not secret.
            self.assertEqual(found(disk, *SECRETS, b"box.owner.example"), [b"box.owner.example"])

            machine.start()
            machine.console.expect("postkeep: sealed: postkeep-offer-1:unclean:", within=300, refuse=["[FAILED]", TAKES_MAIL])
            certificate = self.door(machine, " SEALED", "waits for its custodians (unclean): for opening 0 of 2 have answered", "Failed    nothing")
            self.assertEqual(self.state(certificate)["seal"], "sealed")
            for port in (25, 587, 8443):
                with self.assertRaises(OSError):
                    socket.create_connection((BOX, port), 5).close()
            # One by the network, who asks twice; that is not two.
            for _ in range(2):
                self.as_custodian("unseal", "anna", certificate, "--reason", "the power was cut")
            machine.screen.see("for opening 1 of 2 have answered")
            self.assertEqual(self.state(certificate)["seal"], "sealed")
            # A stranger's key has no share.
            self.keys("generate", "--out", self.key("mallory"))
            refused = self.as_custodian("unseal", "mallory", certificate, "--reason", "me too", check=False)
            self.assertEqual(refused.returncode, 2, refused.stdout + refused.stderr)
            # The other one by a text that somebody carries to the console.
            offer = re.search(r"postkeep: sealed: (postkeep-offer-1:\S+)", machine.console.text[machine.console.text.rindex("postkeep: sealed: "):]).group(1)
            answer = self.keys("unseal", "--offer", offer, "--token", self.token, "--identity", self.key("cleo"), "--reason", "no network here").stdout
            machine.screen.press("u")
            machine.screen.see("Nothing has come yet.", offer[-40:])
            machine.screen.press(answer.replace("\n", "\r"))
            machine.screen.see("enough have answered: the data volume is being opened")
            machine.console.expect(TAKES_MAIL, within=300, refuse=["[FAILED]", "publish "])
            self.owner.open_internet()
            try:
                self.owner.wait_for(left, within=180)
            finally:
                self.owner.close_internet()

            # One custodian seals it from outside. It goes on without what was in it, and can be opened again.
            certificate = self.door(machine, " OPEN")
            self.as_custodian("seal", "ben", certificate, "--name", "ben")
            machine.screen.see(MENU, " SEALED", "waits for its custodians (planned): for opening 0 of 2", "Failed    nothing", without=["NOT SEALED"])
            with self.assertRaises(OSError):
                socket.create_connection((BOX, 587), 5).close()
            for name in ("ben", "cleo"):
                self.as_custodian("unseal", name, certificate, "--reason", "it was a drill")
            machine.console.expect(TAKES_MAIL, within=300, refuse=["[FAILED]"])
            left = [self.owner.submit(9, recipient="person-9@gmail.test")]
            self.owner.open_internet()
            try:
                self.owner.wait_for(left, within=180)
            finally:
                self.owner.close_internet()


if __name__ == "__main__":
    unittest.main(verbosity=2)
