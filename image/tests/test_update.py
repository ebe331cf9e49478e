"""A new version: it comes in, proves itself, is gone back from; and one that does not get well goes by itself."""

import contextlib
import json
import pathlib
import shutil
import smtplib
import ssl
import time
import unittest

from custodians import UNATTESTED, Custodians, door
from machine import Machine
from mirror import NAME as HOST
from mirror import OTHER, mirror
from stage import BOX, TAP, Owner, network, write_seed

BUILD = pathlib.Path("/build")
KEYS = BUILD / "keys"
SCRATCH = BUILD / "scratch"
RELEASES = BUILD / "releases"
BOOT = 240


class Updates(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        network()

    @contextlib.contextmanager
    def box(self, name, custodians=None):
        """A box that takes mail: its folder, and the machine. With `custodians` it has no TPM, and is theirs."""
        folder = SCRATCH / name
        shutil.rmtree(folder, ignore_errors=True)
        self.number = 0
        self.owner = Owner(folder / "owner", BUILD / "bin", deadline=3600, configuration=BUILD / "image/postkeep.toml")
        with Machine(folder / "machine", KEYS, tpm=custodians is None, network=TAP) as machine:
            keys = custodians.of_seed() if custodians else ()
            write_seed(machine.insert(BUILD / "image.raw", size="12G"), self.owner.seed(keys=keys))
            machine.start()
            machine.console.expect("Reached target Postkeep takes mail", within=BOOT, refuse=["Access denied", "is corrupted"])
            self.owner.publish(machine.console.text)
            yield folder, machine

    def ask(self, *command, code=0):
        done = self.owner.manage(*command, check=False, within=900)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return done.stdout + done.stderr

    def status(self):
        return json.loads(self.ask("update", "status", "--json"))

    def in_flight(self):
        """Messages that were accepted and that nobody takes yet."""
        self.owner.close_internet()
        self.number += 5
        return [self.owner.submit(number) for number in range(self.number, self.number + 5)]

    def arrive(self, sent):
        self.owner.open_internet()
        arrived = self.owner.wait_for(sent, within=240)
        self.assertEqual({one["dkim"] for one in arrived}, {"verified"}, arrived)

    def test_a_new_version_comes_is_gone_back_from_and_a_sick_one_goes_by_itself(self):
        with self.box("update") as (folder, machine):
            first = self.status()["running"]
            machine.console.expect(f"this start of {first} is good", within=BOOT)
            self.refuses_what_it_should(folder)

            sent = self.in_flight()
            note = RELEASES / "next/release.note"
            # A message that comes in while the box is asked to change: half of it before, the rest afterwards.
            half, half_sent = self.begin_message()
            self.assertIn("may be installed", self.ask("update", "plan", note))
            self.ask("update", "apply", note)
            machine.console.expect("the machine starts again, to run", within=BOOT)
            sent += self.end_message(half, half_sent)
            second = (RELEASES / "next/version").read_text()
            machine.console.expect(f"this start of {second} is good", within=2 * BOOT, refuse=["is not well"])
            # The machine's watchdog runs: systemd hands it on when the machine starts again.
            self.assertIn("watchdog: watchdog0: watchdog did not stop!", machine.console.text)
            self.assertEqual(self.status()["running"], second)
            self.arrive(sent)
            self.ask("suppression", "add", "person-7@gmail.test", "--reason", "manual")
            standing = {one["version"]: one["standing"] for one in self.status()["versions"]}
            self.assertEqual(standing, {first: "good", second: "good"}, "blessed")
            self.assertEqual([one["event"] for one in self.status()["history"]], ["installed", "taken"])

            sent = self.in_flight()
            self.assertIn(f"the machine starts again, with {first}", self.ask("update", "rollback"))
            machine.console.expect(f"this start of {first} is good", within=2 * BOOT)
            self.arrive(sent)
            self.assertEqual(self.status()["running"], first)
            standing = {one["version"]: one["standing"] for one in self.status()["versions"]}
            self.assertEqual(standing, {first: "good", second: "bad"}, "what it went back to has proved itself too")
            self.assertEqual(self.status()["history"][-1]["event"], "rolled-back")
            self.assertIn("manual", self.ask("suppression", "show", "person-7@gmail.test"))
            with self.assertRaises(smtplib.SMTPRecipientsRefused) as refused:
                self.owner.submit(self.number + 50, recipient="person-7@gmail.test")
            [(code, _)] = refused.exception.recipients.values()
            self.assertEqual(code // 100, 5, "honoured under the version before")

            sent = self.in_flight()
            self.ask("update", "apply", RELEASES / "sick/release.note")
            machine.console.expect("is not well", within=2 * BOOT)
            machine.console.expect("did not prove itself", within=2 * BOOT)
            machine.console.expect(f"this start of {first} is good", within=BOOT)
            self.assertIn("mail core does not run", self.fell_back_to(first, sent))

    def test_a_version_that_ends_the_machine_goes_by_itself(self):
        """Before anything could judge it: three starts, then the one before. The box fetches it itself, and its power is cut before
        anybody has restarted it."""
        with self.box("update-crash") as (folder, machine):
            first = self.status()["running"]
            machine.console.expect(f"this start of {first} is good", within=BOOT)
            # It asks for the mirror's name.
            self.owner.open_internet()
            try:
                self.from_a_mirror(folder)
            finally:
                self.owner.close_internet()
            sent = self.in_flight()
            machine.cut_power()
            machine.start()
            for _ in range(3):
                machine.console.expect("UEFI Secure Boot is enabled", within=BOOT)
                machine.console.expect("Postkeep ends this machine", within=BOOT, refuse=["Postkeep takes mail"])
            machine.console.expect("UEFI Secure Boot is enabled", within=BOOT)
            machine.console.expect(f"this start of {first} is good", within=BOOT, refuse=["Postkeep ends this machine"])
            self.fell_back_to(first, sent)

    def test_a_version_that_does_not_open_the_data_volume_goes_by_itself(self):
        with self.box("update-shut") as (_, machine):
            first = self.status()["running"]
            sent = self.in_flight()
            self.ask("update", "apply", RELEASES / "shut/release.note")
            for _ in range(3):
                machine.console.expect("UEFI Secure Boot is enabled", within=BOOT)
                machine.console.expect("Dependency failed for Whether this start is a good one", within=BOOT, refuse=["Mounted Data volume"])
            machine.console.expect("UEFI Secure Boot is enabled", within=BOOT)
            machine.console.expect(f"this start of {first} is good", within=BOOT, refuse=["Dependency failed for Whether"])
            self.fell_back_to(first, sent)

    def test_a_version_on_which_something_hangs_is_started_again(self):
        """Also on a box without a TPM, whose custodians are given the time that they need."""
        custodians = Custodians(SCRATCH / "update-hang-custodians", BUILD / "bin")
        with self.box("update-hang", custodians) as (_, machine):
            custodians.token.unlink(missing_ok=True)
            custodians.reach("token", door(machine, " OPEN"), "--out", custodians.token)
            self.ask("update", "apply", RELEASES / "hang/release.note")
            machine.console.expect("UEFI Secure Boot is enabled", within=BOOT)
            starts_again = "has not proved itself; the machine starts again"
            machine.console.expect("this start goes on: it waits for its custodians, who can reach it", within=2 * BOOT, refuse=[starts_again])
            self.assertEqual(custodians.unseal(("anna", "ben"), door(machine, " SEALED"), "update", UNATTESTED), "A1")
            machine.console.expect(starts_again, within=2 * BOOT, refuse=["Postkeep takes mail", "Dependency failed"])
            # Where its tries lead is what the tests above are about.
            machine.console.expect("UEFI Secure Boot is enabled", within=BOOT)
            self.owner.close_internet()

    def fell_back_to(self, first, sent):
        """The version before runs, says so, and sends what was accepted meanwhile. Why it runs."""
        last = self.status()
        self.assertEqual((last["running"], last["history"][-1]["event"]), (first, "fell-back"))
        self.arrive(sent)
        self.owner.close_internet()
        return last["history"][-1]["reason"]

    def from_a_mirror(self, folder):
        """Over HTTPS, by name; not where the certificate is of another name."""
        with mirror(self.owner, folder, RELEASES / "crash") as (url, asked):
            stranger = url.replace(HOST, f"not-{HOST}")
            self.assertIn("the mirror has no release for this box", self.ask("update", "apply", stranger, "--no-restart", code=1))
            self.assertIn("certificate", self.ask("update", "plan", url.replace(HOST, OTHER), code=1).lower())
            self.assertEqual(asked, [], "nothing is asked of a host that has not proved its name")
            self.ask("update", "apply", url, "--no-restart")
            self.assertEqual(sorted({path.rsplit(".", 1)[-1] for path in asked}), ["efi", "note", "raw", "zst"], asked)
        crash = (RELEASES / "crash/version").read_text()
        self.assertIn({"version": crash, "running": False}, [{name: one[name] for name in ("version", "running")} for one in self.status()["versions"]])

    def begin_message(self):
        """A message of which the box has heard half."""
        facts = self.owner.facts()
        door = smtplib.SMTP(BOX, 587, timeout=120)
        door.starttls(context=ssl._create_unverified_context())
        door.login(facts["user"], facts["password"])
        identifier = f"<half.{time.time_ns()}@harbour-news.example>"
        for command in ("MAIL FROM:<news@harbour-news.example>", "RCPT TO:<person-1@gmail.test>", "DATA"):
            self.assertIn(door.docmd(command)[0], (250, 354))
        door.send(f"From: news@harbour-news.example\r\nMessage-ID: {identifier}\r\nSubject: half\r\n\r\nThe harbour ".encode())
        return door, identifier

    def end_message(self, door, identifier):
        """The other half, while the box goes down: taken, or refused for now; never torn off, and never taken and lost."""
        door.send(b"is open.\r\n.\r\n")
        code, _ = door.getreply()
        self.assertIn(code, (250, 421, 451))
        return [identifier] if code == 250 else []

    def refuses_what_it_should(self, folder):
        """Nothing of it reaches a slot."""
        note = (RELEASES / "next/release.note").read_bytes()
        bad = folder / "bad"
        shutil.copytree(RELEASES / "next", bad)
        for text, why in ((note.replace(b"x86-64", b"x86-65", 1), "signature"), (note[:200], "its end is missing")):
            (bad / "release.note").write_bytes(text)
            self.assertIn(why, self.ask("update", "apply", bad / "release.note", code=1))
        (bad / "release.note").write_bytes(note)
        root = next(bad.glob("*root-x86-64.raw.zst"))
        root.write_bytes(root.read_bytes()[:-1000])
        self.assertIn("cut off", self.ask("update", "apply", bad / "release.note", code=1))
        self.assertEqual(len(self.status()["versions"]), 1)


if __name__ == "__main__":
    unittest.main(verbosity=2)
