"""A box with a TPM, whose custodians ask it before they give a share: it vouches for the release that runs, and not for what somebody has changed."""

import json
import shutil
import unittest

from custodians import GIVEN, NAMES, VOUCHED, Custodians, door
from machine import Machine
from stage import TAP, Owner, network, write_seed
from test_sabotage import Boot

BUILD = "/build"
SCRATCH = f"{BUILD}/scratch/attestation"
TAKES_MAIL = "Reached target Postkeep takes mail"
SEALED = "postkeep: sealed: postkeep-offer-1:unclean:"
MENU = "[f] fingerprint"


class Attestation(unittest.TestCase):
    def setUp(self):
        network()
        shutil.rmtree(SCRATCH, ignore_errors=True)
        self.owner = Owner(f"{SCRATCH}/owner", f"{BUILD}/bin", deadline=1800, configuration=f"{BUILD}/image/postkeep.toml")
        self.custodians = Custodians(f"{SCRATCH}/custodians", f"{BUILD}/bin")

    def sealed(self, machine):
        machine.start()
        machine.console.expect(SEALED, within=300, refuse=["[FAILED]", TAKES_MAIL])
        return door(machine, MENU, " SEALED")

    def changed(self, boot, section, before, after):
        """The boot file with other words in a section, of the same length."""
        begin, size = boot.section(section)
        with open(boot.file, "r+b") as file:
            file.seek(begin)
            text = file.read(size)
            self.assertIn(before, text)
            file.seek(begin)
            file.write(text.replace(before, after, 1))
        boot.put(boot.file)

    def refused(self, certificate, *reasons):
        done = self.custodians.act("unseal", "anna", certificate, "--reason", "?", *VOUCHED, check=False)
        self.assertEqual(done.returncode, 3, done.stdout + done.stderr)
        for reason in reasons:
            self.assertIn(reason, done.stderr)
        self.assertEqual(self.custodians.state(certificate)["progress"][0]["count"], 0, "nobody's share was given")
        return done.stderr

    def test_what_was_changed_gets_no_share(self):
        custodians = self.custodians
        with Machine(f"{SCRATCH}/machine", f"{BUILD}/keys", network=TAP) as machine:
            disk = machine.insert(f"{BUILD}/image.raw")
            write_seed(disk, self.owner.seed(keys=custodians.of_seed()))
            machine.start()
            machine.console.expect(GIVEN, within=300, refuse=["[FAILED]", "nothing will rest on it"])
            machine.console.expect(TAKES_MAIL, within=300, refuse=["[FAILED]"])
            certificate = door(machine, MENU, " OPEN")
            for name in NAMES:
                done = custodians.reach("enrol", certificate, "--identity", custodians.key(name), "--out", custodians.folder / f"{name}.token", *VOUCHED)
                told = json.loads(done.stdout)
                # Also to whoever sees neither its screen nor its management door.
                self.assertEqual((told["grade"], told["posture"]["grade"]), ("A2", "A"), told["posture"])
            shutil.copy(custodians.folder / "anna.token", custodians.token)
            machine.cut_power()

            # Somebody has switched Secure Boot off.
            variables, own = machine.state / "variables.fd", machine.state / "own.fd"
            variables.rename(own)
            machine.secure_boot = False
            certificate = self.sealed(machine)
            said = self.refused(certificate, "Secure Boot is off")
            self.assertNotIn("none of the releases", said)
            machine.cut_power()

            # And has it start something else: another command line, another description of the system.
            boot = Boot(disk, machine.state)
            whole = boot.file.read_bytes()
            for section, before, after in ((".cmdline", b"loglevel=4", b"loglevel=5"), (".osrel", b"www.debian.org", b"www.debian.arg")):
                self.changed(boot, section, before, after)
                certificate = self.sealed(machine)
                self.refused(certificate, "none of the releases that are known (Postkeep", "another boot file, or another command line in it", "Secure Boot is off")
                machine.cut_power()
                boot.file.write_bytes(whole)
                boot.put(boot.file)

            # All is as it was: the TPM vouches for it.
            own.rename(variables)
            machine.secure_boot = True
            certificate = self.sealed(machine)
            self.assertEqual(custodians.unseal(["ben", "cleo"], certificate, "mended"), "A2")
            machine.console.expect(TAKES_MAIL, within=300, refuse=["[FAILED]"])


if __name__ == "__main__":
    unittest.main(verbosity=2)
