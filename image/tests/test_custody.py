"""A box that its custodians open, as on a server: firmware, disk, serial line, and three people elsewhere with a key each. Its disk is
searched for what must not be on it, as somebody would who has taken it away; and its memory, once it is sealed.
"""

import mmap
import os
import pathlib
import shutil
import socket
import unittest

from custodians import GIVEN, NAMES, UNATTESTED, VOUCHED, Custodians, door, offer
from machine import Machine, partitions, volume_header
from stage import BOX, TAP, Owner, network, run, write_seed

BUILD = "/build"
SCRATCH = f"{BUILD}/scratch/custody"
TAKES_MAIL = "Reached target Postkeep takes mail"
MENU = "[f] fingerprint"
# What of the box is worth something: whom it writes to, and with which key it signs: how the file of each RSA key goes on (PKCS#8 in PEM),
# which no program has in itself.
RECIPIENT = "canary-7f3e@gmail.test"
PRIVATE_KEY = "IBADANBgkqhkiG9w0BAQEFAASC"


def found(file, **texts):
    """Which of the texts stand in a file, anywhere: their names."""
    with open(file, "rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as octets:
        return {name for name, text in texts.items() if octets.find(text) >= 0}


class Custody(unittest.TestCase):
    def setUp(self):
        network()
        shutil.rmtree(SCRATCH, ignore_errors=True)
        self.owner = Owner(f"{SCRATCH}/owner", f"{BUILD}/bin", deadline=1800, configuration=f"{BUILD}/image/postkeep.toml")
        self.custodians = Custodians(f"{SCRATCH}/custodians", f"{BUILD}/bin")

    def deliver(self, identifiers):
        self.owner.open_internet()
        try:
            self.owner.wait_for(identifiers, within=180)
        finally:
            self.owner.close_internet()

    def refuses(self, *ports):
        for port in ports:
            with self.assertRaises(OSError):
                socket.create_connection((BOX, port), 5).close()

    def what_opens(self, disk):
        """What opens the volume, and what is in it: the custodians' passphrase, and the key of the volume in its two halves, with which the
        kernel's tables for AES begin."""
        passphrase, header, key = (f"{SCRATCH}/{name}" for name in ("volume.passphrase", "volume.header", "volume.key"))
        identities = [word for name in NAMES[:2] for word in ("--identity", self.custodians.key(name))]
        self.custodians.run("recover", "--token", self.custodians.token, *identities, "--out", passphrase)
        part = next(one for one in partitions(disk) if one.get("name") == "postkeep-data")
        with open(disk, "rb") as file:
            file.seek(part["start"] * 512)
            pathlib.Path(header).write_bytes(file.read(32 << 20))
        run("cryptsetup", "luksDump", "--batch-mode", "--dump-volume-key", "--volume-key-file", key, "--key-file", passphrase, "--keyfile-size", "32", header)
        octets = pathlib.Path(key).read_bytes()
        self.assertEqual(len(octets), 64)
        return {"passphrase": pathlib.Path(passphrase).read_bytes(), "first half": octets[:32], "second half": octets[32:],
                "recipient": RECIPIENT.encode(), "private key": PRIVATE_KEY.encode()}

    def in_memory(self, machine, secrets):
        """Which of them stand in the memory of the machine."""
        dump = f"{SCRATCH}/memory"
        machine.dump_memory(dump)
        names = found(dump, **secrets)
        os.unlink(dump)
        return names

    def test_two_of_three_open_it_and_one_seals_it(self):
        custodians = self.custodians
        with Machine(f"{SCRATCH}/machine", f"{BUILD}/keys", network=TAP) as machine:
            disk = machine.insert(f"{BUILD}/image.raw")
            write_seed(disk, self.owner.seed(keys=custodians.of_seed()))
            machine.start()
            machine.console.expect(GIVEN, within=300, refuse=["[FAILED]"])
            machine.console.expect(TAKES_MAIL, within=300, refuse=["[FAILED]"])
            certificate = door(machine, MENU, " OPEN", "3 of 3 have not proved lately")
            # Their first day: the token, a share in it that their key opens, and the box knows so.
            for name in NAMES:
                custodians.reach("enrol", certificate, "--identity", custodians.key(name), "--out", custodians.folder / f"{name}.token", *VOUCHED)
            shutil.copy(custodians.folder / "anna.token", custodians.token)
            machine.screen.see(MENU, "opened by its custodians", without=["have not proved"])
            self.owner.publish(machine.console.text)
            left = [self.owner.submit(number, recipient=RECIPIENT) for number in range(3)]
            machine.cut_power()

            # Nobody else has a slot: not the key that it was made with, not a passphrase, not the TPM.
            header = volume_header(disk)
            self.assertEqual((sorted(header["keyslots"]), header["tokens"]), (["1"], {}))
            # Whoever takes the disk finds nothing of it; and whoever searches so finds what is not secret.
            seen = found(disk, recipient=RECIPIENT.encode(), name=RECIPIENT.split("@")[0].encode(), key=PRIVATE_KEY.encode(), public=b"box.owner.example")
            self.assertEqual(seen, {"public"})

            machine.start()
            machine.console.expect("postkeep: sealed: postkeep-offer-1:unclean:", within=300, refuse=["[FAILED]", TAKES_MAIL])
            certificate = door(machine, MENU, " SEALED", "waits for its custodians (unclean): for opening 0 of 2 have answered", "Failed    nothing")
            self.assertEqual(custodians.state(certificate)["seal"], "sealed")
            self.refuses(25, 587, 8443)
            # Nobody gives a share by accident to what no TPM vouches for.
            unasked = custodians.act("unseal", "anna", certificate, "--reason", "in a hurry", check=False)
            self.assertEqual(unasked.returncode, 3, unasked.stdout + unasked.stderr)
            self.assertIn("has a TPM that can vouch for what runs there", unasked.stderr)
            # One by the network, who answers twice; that is not two.
            self.assertEqual(custodians.unseal(["anna", "anna"], certificate, "the power was cut"), "A2")
            machine.screen.see("for opening 1 of 2 have answered")
            self.assertEqual(custodians.state(certificate)["seal"], "sealed")
            # A stranger's key has no share.
            custodians.new_key("mallory")
            refused = custodians.act("unseal", "mallory", certificate, "--reason", "me too", *VOUCHED, check=False)
            self.assertEqual(refused.returncode, 2, refused.stdout + refused.stderr)
            # The other one by a text that somebody carries to the console.
            machine.screen.press("u")
            line = offer(machine)
            answer = custodians.run("unseal", "--offer", line, "--token", custodians.token, "--identity", custodians.key("cleo"), "--reason", "no network here", *UNATTESTED).stdout
            machine.screen.see("Nothing has come yet.")
            machine.screen.press(answer.replace("\n", "\r"))
            machine.screen.see("enough have answered: the data volume is being opened")
            machine.console.expect(TAKES_MAIL, within=300, refuse=["[FAILED]", "publish ", "the next start will not know"])
            self.deliver(left)

            # One custodian seals it from outside. It goes on without what was in it, and can be opened again.
            certificate = door(machine, MENU, " OPEN")
            secrets = self.what_opens(disk)
            # What is searched for is there to be found: but for the passphrase, which nobody needs any more.
            self.assertEqual(self.in_memory(machine, secrets), secrets.keys() - {"passphrase"})
            custodians.act("seal", "ben", certificate, "--name", "ben")
            machine.screen.see(MENU, " SEALED", "waits for its custodians (planned): for opening 0 of 2", "Failed    nothing", without=["NOT SEALED"])
            self.assertEqual(self.in_memory(machine, secrets), set())
            self.refuses(587)
            # Its TPM knows that it was open since it was started, and that nobody can tell what runs there by now.
            doubted = custodians.act("unseal", "ben", certificate, "--reason", "it was a drill", *VOUCHED, check=False)
            self.assertEqual(doubted.returncode, 3, doubted.stdout + doubted.stderr)
            self.assertIn("its volume has been open since the machine was started", doubted.stderr)
            self.assertEqual(custodians.unseal(["ben", "cleo"], certificate, "it was a drill", UNATTESTED), "A1")
            # On the console the last start's lines stand in the log of the screen.
            machine.screen.see(MENU, " OPEN", "Mail      running", "Failed    nothing")
            self.assertNotIn("the next start will not know", machine.console.text)
            self.deliver([self.owner.submit(9, recipient="person-9@gmail.test")])

            # One goes, one comes, while mail flows: two of the three want it, and whoever has gone seals nothing any more.
            certificate = door(machine, MENU, " OPEN")
            who, old, new = custodians.key_set("anna", "cleo", "dora"), custodians.token, custodians.folder / "new.token"
            rotate = ("--to", who, "--reason", "ben leaves", "--yes", "--out", new, *VOUCHED)
            custodians.act("rotate", "anna", certificate, *rotate)
            self.assertFalse(new.exists())
            machine.screen.see("some of them want a new key set: for opening 1 of 2 have answered")
            custodians.act("rotate", "cleo", certificate, *rotate)
            machine.screen.see("Failed    nothing", "3 of 3 have not proved lately", without=["want a new key set"])
            gone = custodians.act("seal", "ben", certificate, "--name", "ben", check=False)
            self.assertEqual(gone.returncode, 3, gone.stdout + gone.stderr)
            custodians.token = new
            for name in ("anna", "cleo", "dora"):
                custodians.reach("enrol", certificate, "--identity", custodians.key(name), "--out", custodians.folder / f"{name}-2.token")
            self.deliver([self.owner.submit(10, recipient="person-10@gmail.test")])

            # And somebody at the rack, by a chord; a box with custodians needs nobody's leave for that.
            door(machine, MENU, " OPEN")
            machine.screen.press("\x18")
            machine.screen.see("Seal this box now?")
            machine.screen.press("\x18")
            machine.screen.see(MENU, " SEALED", "waits for its custodians (planned)", "Failed    nothing", without=["NOT SEALED"])
            self.refuses(587)
            # One of them has it started anew from elsewhere, since its TPM vouches for a box that was open only after that.
            custodians.act("restart", "cleo", certificate, "--name", "cleo")
            machine.console.expect("UEFI Secure Boot is enabled", within=300)
            machine.console.expect("postkeep: sealed: postkeep-offer-1:planned:", within=300, refuse=["[FAILED]", TAKES_MAIL])
            machine.cut_power()
            header = volume_header(disk)
            self.assertEqual((sorted(header["keyslots"]), header["tokens"]), (["3"], {}))

            # Somebody takes the token away: nobody is asked for a passphrase that nobody has, and a copy is all that it takes.
            run("mdel", "-i", f"{disk}@@1M", "::/postkeep/token")
            machine.start()
            machine.console.expect("their token is gone from the boot partition", within=300, refuse=["passphrase for", GIVEN, TAKES_MAIL])
            machine.cut_power()
            run("mcopy", "-i", f"{disk}@@1M", custodians.token, "::/postkeep/token")
            machine.start()
            machine.console.expect("postkeep: sealed: postkeep-offer-1:planned:", within=300, refuse=["passphrase for", GIVEN, TAKES_MAIL])
            # Those who open it now, and not whoever has gone: his share is of the token before.
            certificate = door(machine, MENU, " SEALED")
            custodians.token = old
            gone = custodians.act("unseal", "ben", certificate, "--reason", "me again", *VOUCHED, check=False)
            self.assertEqual(gone.returncode, 3, gone.stdout + gone.stderr)
            custodians.token = new
            custodians.unseal(["anna", "dora"], certificate, "its token was taken away")
            machine.console.expect(TAKES_MAIL, within=300, refuse=["[FAILED]"])


if __name__ == "__main__":
    unittest.main(verbosity=2)
